//! What of the state after a snippet is not compared.
//!
//! Flags that an instruction leaves undefined are compared too: the interpreter takes them from the host's instruction.

use iced_x86::Mnemonic as M;

/// Condition codes of the x87 status word that may be compared after a comparison: `summary` is whether an unmasked
/// exception is pending.
///
/// C1: the SDM has it cleared by FCOMI and its relatives, AMD's processors leave it. C0, C2 and C3: makers differ about
/// whether an unmasked exception keeps a comparison from writing them.
pub fn status_mask(mnemonics: &[M], summary: bool) -> u16 {
    let mut mask = 0xffff;
    for mnemonic in mnemonics {
        if matches!(mnemonic, M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip) {
            mask &= !0x200;
        }
        let compares = matches!(
            mnemonic,
            M::Fcom | M::Fcomp | M::Fcompp | M::Fucom | M::Fucomp | M::Fucompp | M::Ficom | M::Ficomp | M::Ftst
        );
        if compares && summary {
            mask &= !0x4700;
        }
    }
    mask
}

/// Comparisons of the x87 unit, which end a snippet since not all that they leave is compared.
pub fn compares(mnemonic: M) -> bool {
    status_mask(&[mnemonic], true) != 0xffff
}
