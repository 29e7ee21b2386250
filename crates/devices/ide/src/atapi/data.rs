//! What a packet drive tells of itself and of its medium: the layouts of MMC-5 and SPC-3, with QEMU's contents.

pub use devices_scsi::mmc::{
    CD_ROM, disc_information, event_status, mechanism_status, profile, raw_toc, sessions, toc,
};
use devices_scsi::mmc::{msf, profile_list};

use super::{BLOCK, RAW_BLOCK};

/// Formats of READ DVD STRUCTURE, with their lengths: the list itself is one of them.
pub const DVD_FORMATS: [(u8, u16); 4] = [(0x00, 2048 + 4), (0x01, 4 + 4), (0x04, 2048 + 4), (0xff, 4 * 4 + 4)];

fn text(page: &mut Vec<u8>, text: &str, len: usize) {
    page.extend(text.bytes().chain(std::iter::repeat(b' ')).take(len));
}

/// The standard inquiry data.
pub fn inquiry(version: &str) -> Vec<u8> {
    let mut page = vec![0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0];
    text(&mut page, "QEMU", 8);
    text(&mut page, "QEMU DVD-ROM", 16);
    text(&mut page, version, 4);
    page
}

/// The device identification page; `None` when not even its first descriptor fits.
pub fn identification(serial: &str, model: &str, wwn: u64, allocated: usize) -> Option<Vec<u8>> {
    const FIRST: usize = 24;
    const SECOND: usize = 72;
    let mut page = vec![0x05, 0x83, 0, 0];
    if page.len() + FIRST > allocated {
        return None;
    }
    page.extend([0x02, 0x00, 0, 20]);
    text(&mut page, serial, 20);
    if page.len() + SECOND <= allocated {
        page.extend([0x02, 0x01, 0, 68]);
        text(&mut page, "ATA", 8);
        text(&mut page, model, 40);
        text(&mut page, serial, 20);
        if wwn != 0 && page.len() + 12 <= allocated {
            page.extend([0x01, 0x03, 0, 8]);
            page.extend(wwn.to_be_bytes());
        }
    }
    page[3] = (page.len() - 4) as u8;
    Some(page)
}

/// The profile list, and which profile the medium has.
pub fn configuration(profile: Option<u16>) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 16, 0, 0];
    data.extend(profile.unwrap_or(0).to_be_bytes());
    data.extend(profile_list(profile));
    data
}

/// A mode page: error recovery, audio control, capabilities.
pub fn mode_page(code: u8, is_locked: bool) -> Option<Vec<u8>> {
    Some(match code {
        0x01 => vec![0x01, 6, 0x00, 0x05, 0, 0, 0, 0],
        0x0e => [&[0x0e, 14][..], &[0; 14]].concat(),
        0x2a => {
            // Reads all media; multi-session, mode 2, audio play; C2 pointers and subchannels of audio; a tray that is
            // locked and ejected by command; four-fold speed, 512 KiB of buffer.
            let lock = 0x29 | if is_locked { 0x02 } else { 0 };
            let mut page = vec![0x2a, 20, 0x3b, 0x00, 0x71, 0x60, lock, 0x00];
            for word in [704u16, 2, 512, 704] {
                page.extend(word.to_be_bytes());
            }
            page.extend([0; 6]);
            page
        }
        _ => return None,
    })
}

/// Blocks with what is around their data: synchronisation, address, mode. The error correction is not computed.
pub fn raw(first: u64, blocks: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(blocks.len() / BLOCK * RAW_BLOCK);
    for (block, number) in blocks.chunks(BLOCK).zip(first..) {
        let end = data.len() + RAW_BLOCK;
        data.push(0);
        data.extend([0xff; 10]);
        data.push(0);
        data.extend(msf(number));
        data.push(1);
        data.extend(block);
        data.resize(end, 0);
    }
    data
}
