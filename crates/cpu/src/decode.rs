//! From bytes to [`Op`]s: the decoder is `iced-x86`, what it finds is lowered by `ops::lower`.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

use crate::cpuid::Vendor;
use crate::ops::Op;
use crate::ops::lower::{self, Context, Flow};

/// The longest instruction, in bytes.
pub(crate) const LONGEST: usize = 15;

/// What decoding found.
pub(crate) enum Decoded {
    /// An instruction (also one that raises #UD or, being too long, #GP).
    Op(Op, Flow),
    /// The bytes end in the middle of the instruction.
    Incomplete,
}

/// Decodes the instruction at the start of `bytes`.
pub(crate) fn decode(context: &Context<'_>, bytes: &[u8]) -> Decoded {
    decode_to(context, bytes, &mut Instruction::default())
}

/// As [`decode`]; `instruction` is what the decoder saw, at address 0.
pub(crate) fn decode_to(context: &Context<'_>, bytes: &[u8], instruction: &mut Instruction) -> Decoded {
    let (features, bits) = (context.features, context.bits);
    let window = bytes.get(..LONGEST).unwrap_or(bytes);
    let options = if features.vendor == Vendor::Amd { DecoderOptions::AMD } else { DecoderOptions::NONE };
    let error = match Decoder::try_with_ip(bits, window, 0, options) {
        Ok(mut decoder) => {
            decoder.decode_out(instruction);
            decoder.last_error()
        }
        Err(_) => DecoderError::InvalidInstruction,
    };
    if error == DecoderError::NoMoreBytes {
        return Decoded::Incomplete;
    }
    if error == DecoderError::InvalidInstruction && instruction.len() == LONGEST {
        // The decoder wanted a sixteenth byte.
        let (op, flow) = lower::too_long();
        return Decoded::Op(op, flow);
    }
    let own = window.get(..instruction.len()).unwrap_or(window);
    let (op, flow) = lower::lower(context, instruction, own);
    Decoded::Op(op, flow)
}
