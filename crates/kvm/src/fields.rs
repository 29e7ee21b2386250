//! Segments, table registers and activity in the kernel's form and in ours.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_dtable, kvm_mp_state, kvm_segment,
};
use x86::regs::{Activity, Segment, TableRegister};

/// The kernel's form of a segment register.
pub(crate) fn to_segment(segment: &Segment) -> kvm_segment {
    let bit = |index: u32| (segment.attributes >> index & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.attributes & 0xf) as u8,
        s: bit(4),
        dpl: (segment.attributes >> 5 & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: u8::from(bit(7) == 0),
        padding: 0,
    }
}

/// A segment in virtual-8086 mode: its attributes are fixed (SDM vol. 3, 26.3.1.2).
pub(crate) fn to_virtual_8086(segment: &Segment) -> kvm_segment {
    to_segment(&Segment { attributes: 0xf3, ..*segment })
}

/// Our form of a segment register.
pub(crate) fn from_segment(segment: &kvm_segment) -> Segment {
    let present = segment.present != 0 && segment.unusable == 0;
    let flags =
        [(segment.s, 4), (present.into(), 7), (segment.avl, 12), (segment.l, 13), (segment.db, 14), (segment.g, 15)];
    let flags = flags.iter().fold(0, |all, &(bit, index)| all | u16::from(bit & 1) << index);
    let attributes = u16::from(segment.type_ & 0xf) | u16::from(segment.dpl & 3) << 5 | flags;
    Segment { selector: segment.selector, base: segment.base, limit: segment.limit, attributes }
}

/// The kernel's form of GDTR or IDTR.
pub(crate) fn to_table(table: &TableRegister) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

/// Our form of GDTR or IDTR.
pub(crate) fn from_table(table: &kvm_dtable) -> TableRegister {
    TableRegister { base: table.base, limit: table.limit }
}

/// The kernel's form of what a vCPU does.
pub(crate) fn to_mp_state(activity: Activity) -> kvm_mp_state {
    let mp_state = match activity {
        Activity::Running => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_UNINITIALIZED,
    };
    kvm_mp_state { mp_state }
}

/// What a vCPU does.
pub(crate) fn from_mp_state(state: kvm_mp_state) -> Activity {
    match state.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_RUNNABLE => Activity::Running,
        // INIT was received, or a start-up IPI that was not acted on yet.
        _ => Activity::WaitForSipi,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_survives_the_round_trip() {
        for attributes in [0x93, 0x9b, 0xf3, 0xa09b, 0xc093, 0xd0fb, 0x8b, 0x82] {
            let segment = Segment { selector: 0x1234, base: 0xffff_0000, limit: 0xf_ffff, attributes };
            assert_eq!(from_segment(&to_segment(&segment)), segment, "{attributes:#x}");
        }
        let none = Segment { attributes: 0, ..Segment::default() };
        assert_eq!(to_segment(&none).unusable, 1);
        assert_eq!(from_segment(&to_segment(&none)), none);
    }
}
