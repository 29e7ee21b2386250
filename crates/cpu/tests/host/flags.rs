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
        _ => 0,
    }
}
