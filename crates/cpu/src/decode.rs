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

/// A decoder over instructions that were decoded before.
pub(crate) fn decoder<'a>(context: &Context<'_>, bytes: &'a [u8]) -> Option<Decoder<'a>> {
    Decoder::try_with_ip(context.bits, bytes, 0, options(context)).ok()
}

fn options(context: &Context<'_>) -> u32 {
    if context.features.vendor == Vendor::Amd { DecoderOptions::AMD } else { DecoderOptions::NONE }
}

/// Decodes one instruction after the other.
pub(crate) struct Stream<'a> {
    context: &'a Context<'a>,
    decoder: Decoder<'a>,
    bytes: &'a [u8],
    at: usize,
    /// The last instruction, as decoded at address 0.
    pub instruction: Instruction,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(context: &'a Context<'a>, bytes: &'a [u8]) -> Option<Self> {
        Some(Self { context, decoder: decoder(context, bytes)?, bytes, at: 0, instruction: Instruction::default() })
    }

    /// The next instruction. Nothing is to be asked for after [`Decoded::Incomplete`].
    pub(crate) fn next(&mut self) -> Decoded {
        let Some(rest) = self.bytes.get(self.at..).filter(|rest| !rest.is_empty()) else { return Decoded::Incomplete };
        self.decoder.set_ip(0);
        self.decoder.decode_out(&mut self.instruction);
        let decoded = lowered(self.context, &self.instruction, self.decoder.last_error(), rest);
        self.at += self.instruction.len();
        decoded
    }
}

fn lowered(context: &Context<'_>, instruction: &Instruction, error: DecoderError, bytes: &[u8]) -> Decoded {
    if error == DecoderError::NoMoreBytes {
        return Decoded::Incomplete;
    }
    if error == DecoderError::InvalidInstruction && instruction.len() == LONGEST {
        // The decoder wanted a sixteenth byte.
        let (op, flow) = lower::too_long();
        return Decoded::Op(op, flow);
    }
    let own = bytes.get(..instruction.len()).unwrap_or(bytes);
    let (op, flow) = lower::lower(context, instruction, own);
    Decoded::Op(op, flow)
}

/// Decodes the instruction at the start of `bytes`.
pub(crate) fn decode(context: &Context<'_>, bytes: &[u8]) -> Decoded {
    let mut instruction = Instruction::default();
    let window = bytes.get(..LONGEST).unwrap_or(bytes);
    let error = match Decoder::try_with_ip(context.bits, window, 0, options(context)) {
        Ok(mut decoder) => {
            decoder.decode_out(&mut instruction);
            decoder.last_error()
        }
        Err(_) => DecoderError::InvalidInstruction,
    };
    lowered(context, &instruction, error, window)
}
