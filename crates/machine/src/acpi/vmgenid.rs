//! The device `vmgenid`: a number that changes when a machine goes on from a copy of its state (Microsoft, "Virtual Machine
//! Generation ID"; QEMU, `docs/specs/vmgenid.txt`). An SSDT tells the guest where in its memory firmware has put the number.

use acpi_tables::aml::{
    Add, Device, Equal, If, Index, Local, Method, Name, Notify, Package, Path, Return, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{OEM_ID, checksum};

/// The file with the number, in a page of its own.
pub const GUID_FILE: &str = "etc/vmgenid_guid";
/// The file into which firmware writes where the number is.
pub const ADDRESS_FILE: &str = "etc/vmgenid_addr";
/// Bytes of the first file.
pub const GUID_LEN: usize = 4096;
/// Where the number is in it: behind what firmware could take for the header of a table.
pub const GUID_AT: u32 = 40;
/// Where the SSDT has the address of the file: behind the header, the name and the prefix of a double word.
pub const POINTER_AT: u32 = 36 + 6;

/// A double word in its long form, whatever its value.
struct Dword(u32);

impl Aml for Dword {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x0c);
        sink.dword(self.0);
    }
}

/// The contents of the file with the number. Guests have the first three fields of a GUID in little-endian order.
pub fn guid_file(guid: [u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; GUID_LEN];
    let mut swapped = guid;
    swapped[..4].reverse();
    swapped[4..6].reverse();
    swapped[6..8].reverse();
    let at = GUID_AT as usize;
    bytes[at..at + 16].copy_from_slice(&swapped);
    bytes
}

/// The table.
pub fn ssdt() -> Sdt {
    let mut ssdt = Sdt::new(*b"SSDT", 36, 1, OEM_ID, *b"VMGENID\0", 1);
    ssdt.write_bytes(28, b"BXPC");
    ssdt.write_u32(32, 1);
    let vgia = Path::new("VGIA");
    let mut body = Vec::new();
    Name::new(Path::new("VGIA"), &Dword(0)).to_aml_bytes(&mut body);
    // _STA: there once firmware has placed the number.
    let is_missing = Equal::new(&vgia, &ZERO);
    let clear = Store::new(&Local(0), &ZERO);
    let store = Store::new(&Local(0), &0xf_u8);
    let check = If::new(&is_missing, vec![&clear]);
    let answer = Return::new(&Local(0));
    let status = Method::new(Path::new("_STA"), 0, false, vec![&store, &check, &answer]);
    // ADDR: the address, as two double words.
    let pair = Package::new(vec![&ZERO, &ZERO]);
    let take = Store::new(&Local(0), &pair);
    let low = Add::new(&ZERO, &vgia, &(GUID_AT as u8));
    let (first, second) = (Index::new(&ZERO, &Local(0), &0_u8), Index::new(&ZERO, &Local(0), &1_u8));
    let store_low = Store::new(&first, &low);
    let store_high = Store::new(&second, &ZERO);
    let address = Method::new(Path::new("ADDR"), 0, false, vec![&take, &store_low, &store_high, &answer]);
    let hid = Name::new(Path::new("_HID"), &"QEMUVGID");
    let cid = Name::new(Path::new("_CID"), &"VM_Gen_Counter");
    let ddn = Name::new(Path::new("_DDN"), &"VM_Gen_Counter");
    let device = Device::new(Path::new("VGEN"), vec![&hid, &cid, &ddn, &status, &address]);
    Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(&mut body);
    let generation = Path::new("\\_SB_.VGEN");
    let notify = Notify::new(&generation, &0x80_u8);
    Method::new(Path::new("\\_GPE._E05"), 0, false, vec![&notify]).to_aml_bytes(&mut body);
    ssdt.append_slice(&body);
    debug_assert_eq!(checksum(ssdt.as_slice()), 0);
    ssdt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_the_first_value_of_the_table() {
        let ssdt = ssdt();
        let bytes = ssdt.as_slice();
        assert_eq!(&bytes[36..42], b"\x08VGIA\x0c");
        assert_eq!(bytes[POINTER_AT as usize..][..4], [0; 4]);
        let guid = [0x32, 0x4e, 0x6e, 0xaf, 0xd1, 0xd2, 0x4b, 0xf6, 1, 2, 3, 4, 5, 6, 7, 8];
        let expected = [0xaf, 0x6e, 0x4e, 0x32, 0xd2, 0xd1, 0xf6, 0x4b, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(guid_file(guid)[GUID_AT as usize..][..16], expected);
    }
}
