//! Flags that an instruction leaves undefined (SDM vol. 2, "Flags Affected" of each instruction).

use iced_x86::{Instruction, Mnemonic as M};

const CF: u64 = 1;
const PF: u64 = 4;
const AF: u64 = 0x10;
const ZF: u64 = 0x40;
const SF: u64 = 0x80;
const OF: u64 = 0x800;

/// The mask of undefined flags.
pub fn undefined(instruction: &Instruction) -> u64 {
    match instruction.mnemonic() {
        // AF is undefined after logical operations.
        M::And | M::Or | M::Xor | M::Test => AF,
        // SF, ZF, AF and PF are undefined.
        M::Mul | M::Imul => SF | ZF | AF | PF,
        // All are undefined.
        M::Div | M::Idiv => CF | OF | SF | ZF | AF | PF,
        // AF is undefined; OF for counts other than 1; CF for counts beyond the operand (SHL, SHR; 8 and 16 bits).
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd => AF | OF | CF,
        // OF is undefined for counts other than 1.
        M::Rol | M::Ror | M::Rcl | M::Rcr => OF,
        // OF, SF, AF and PF are undefined; ZF is unaffected.
        M::Bt | M::Bts | M::Btr | M::Btc => OF | SF | AF | PF,
        // All but ZF are undefined.
        M::Bsf | M::Bsr => CF | OF | SF | AF | PF,
        // OF, SF, PF and AF are undefined.
        M::Tzcnt | M::Lzcnt => OF | SF | PF | AF,
        // AF and PF are undefined.
        M::Andn | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi => AF | PF,
        // AF, SF and PF are undefined.
        M::Bextr => AF | SF | PF,
        // OF, SF, ZF and PF are undefined.
        M::Aaa | M::Aas => OF | SF | ZF | PF,
        // OF, AF and CF are undefined.
        M::Aam | M::Aad => OF | AF | CF,
        // OF is undefined.
        M::Daa | M::Das => OF,
        _ => 0,
    }
}

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
