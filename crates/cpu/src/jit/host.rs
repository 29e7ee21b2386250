//! What this host's processor does where the manuals leave it open: whether an instruction that leaves flags undefined
//! makes them anew or keeps old ones. Those that keep old ones need the guest's flags in the host's before.

use std::arch::{asm, is_x86_feature_detected};
use std::sync::LazyLock;

/// A group of instructions that leave some flags undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// SHL, SHR and SAR by a count that is not zero.
    Shift,
    /// BSF and BSR.
    Scan,
    /// ANDN, BEXTR, BLSI, BLSMSK, BLSR and BZHI.
    Bmi,
}

/// The flags after instructions that began with `$flags` (as LAHF and SETO AL leave them).
macro_rules! after {
    ($flags:expr, $value:expr, $($text:literal),*) => {{
        let mut ax: u64 = $flags;
        // SAFETY: the instructions change only the registers named here and the flags.
        unsafe {
            asm!(
                "add al, 127", "sahf", $($text,)* "lahf", "seto al",
                value = inout(reg) $value => _, in("rcx") 7u64, inout("rax") ax, options(pure, nomem, nostack)
            );
        }
        ax & 0xd501
    }};
}

/// Whether the flags after the instruction are the same whatever they were before, for values of many shapes.
macro_rules! same {
    ($($text:literal),*) => {
        [0u64, 1, 0x80, 0xff, 0x8000_0000, 0x1234_5678_9abc_def0, u64::MAX, 1 << 63].iter().all(|value| {
            after!(0xd501, *value, $($text),*) == after!(0, *value, $($text),*)
        })
    };
}

static SHIFT: LazyLock<bool> = LazyLock::new(|| {
    same!("shl {value}, 3")
        && same!("shr {value}, 3")
        && same!("sar {value}, 3")
        && same!("shl {value}, 1")
        && same!("shr {value}, 1")
        && same!("sar {value}, 1")
        && same!("shl {value:e}, 31")
        && same!("shr {value:x}, 9")
        && same!("sar {value:x}, 20")
});

static SCAN: LazyLock<bool> = LazyLock::new(|| same!("bsf {value}, {value}") && same!("bsr {value}, {value}"));

static BMI: LazyLock<bool> = LazyLock::new(|| {
    is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && same!("andn {value}, {value}, rcx")
        && same!("bextr {value}, {value}, rcx")
        && same!("blsi {value}, {value}")
        && same!("blsmsk {value}, {value}")
        && same!("blsr {value}, {value}")
        && same!("bzhi {value}, {value}, rcx")
});

/// Whether the flags that instructions of the group leave do not depend on the flags before.
pub(super) fn independent(kind: Kind) -> bool {
    match kind {
        Kind::Shift => *SHIFT,
        Kind::Scan => *SCAN,
        Kind::Bmi => *BMI,
    }
}
