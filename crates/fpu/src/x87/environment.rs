//! The memory images of the unit: environments (`FSTENV`), full states (`FSAVE`), each in a
//! 16-bit and a 32-bit layout for real and for protected mode (SDM volume 1, figures 8-9 to 8-12),
//! and the legacy area of `FXSAVE` (table 10-2).

use super::{Pointers, X87};
use crate::f80::F80;

/// How addresses are written in an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressMode {
    /// Real-address and virtual-8086 mode: linear addresses.
    Real,
    /// Protected and 64-bit mode: selectors and offsets.
    #[default]
    Protected,
}

/// The operand size of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvironmentSize {
    /// 14 bytes (94 with the registers).
    Bits16,
    /// 28 bytes (108 with the registers).
    Bits32,
}

/// The layout of the pointers in an `FXSAVE` image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FxsaveFormat {
    /// 32-bit offsets with selectors.
    Legacy,
    /// 64-bit offsets (REX.W).
    Long,
}

/// An image with its length.
pub(super) struct Image {
    data: [u8; 108],
    len: usize,
}

impl Image {
    const fn new() -> Self {
        Self { data: [0; 108], len: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.data[..self.len]
    }

    fn put(&mut self, bytes: &[u8]) {
        self.data[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn put16(&mut self, word: u16) {
        self.put(&word.to_le_bytes());
    }

    fn put32(&mut self, word: u32) {
        self.put(&word.to_le_bytes());
    }

    /// A 16-bit field in a 32-bit slot: the reserved upper half reads as ones.
    fn put_word(&mut self, word: u16) {
        self.put32(u32::from(word) | 0xffff_0000);
    }
}

/// A little-endian field of at most eight bytes; bytes beyond the end are zero.
fn field(bytes: &[u8], offset: usize, len: usize) -> u64 {
    let mut value = 0;
    for (index, byte) in bytes.iter().skip(offset).take(len).enumerate() {
        value |= u64::from(*byte) << (8 * index);
    }
    value
}

fn linear(selector: u16, offset: u64) -> u32 {
    (u32::from(selector) << 4).wrapping_add(offset as u32)
}

impl X87 {
    /// The environment that `FNSTENV` stores.
    pub(super) fn environment(&self, size: EnvironmentSize, mode: AddressMode) -> Image {
        let mut image = Image::new();
        let words = [self.control, self.status, self.tag_word()];
        let Pointers { instruction, data, instruction_selector, data_selector, opcode } = self.pointers;
        let fip = linear(instruction_selector, instruction);
        let fdp = linear(data_selector, data);
        match (size, mode) {
            (EnvironmentSize::Bits16, AddressMode::Protected) => {
                for word in words {
                    image.put16(word);
                }
                image.put16(instruction as u16);
                image.put16(instruction_selector);
                image.put16(data as u16);
                image.put16(data_selector);
            }
            (EnvironmentSize::Bits16, AddressMode::Real) => {
                for word in words {
                    image.put16(word);
                }
                image.put16(fip as u16);
                image.put16(((fip >> 4) as u16 & 0xf000) | opcode);
                image.put16(fdp as u16);
                image.put16((fdp >> 4) as u16 & 0xf000);
            }
            (EnvironmentSize::Bits32, AddressMode::Protected) => {
                for word in words {
                    image.put_word(word);
                }
                image.put32(instruction as u32);
                image.put32(u32::from(opcode) << 16 | u32::from(instruction_selector));
                image.put32(data as u32);
                image.put_word(data_selector);
            }
            (EnvironmentSize::Bits32, AddressMode::Real) => {
                for word in words {
                    image.put_word(word);
                }
                image.put_word(fip as u16);
                image.put32((fip >> 4 & 0x0fff_f000) | u32::from(opcode));
                image.put_word(fdp as u16);
                image.put32(fdp >> 4 & 0x0fff_f000);
            }
        }
        image
    }

    /// The state that `FNSAVE` stores: the environment and the registers from ST(0) on.
    pub(super) fn image(&self, size: EnvironmentSize, mode: AddressMode) -> Image {
        let mut image = self.environment(size, mode);
        for i in 0..8 {
            image.put(&self.st(i).to_bytes());
        }
        image
    }

    /// `FLDENV`.
    pub(super) fn load_environment(&mut self, bytes: &[u8], size: EnvironmentSize, mode: AddressMode) {
        let slot = match size {
            EnvironmentSize::Bits16 => 2,
            EnvironmentSize::Bits32 => 4,
        };
        let word = |index: usize| field(bytes, index * slot, 2) as u16;
        let double = |index: usize| field(bytes, index * slot, 4);
        self.set_tag_word(word(2));
        self.pointers = match (size, mode) {
            (EnvironmentSize::Bits16, AddressMode::Protected) => Pointers {
                instruction: u64::from(word(3)),
                instruction_selector: word(4),
                data: u64::from(word(5)),
                data_selector: word(6),
                opcode: self.pointers.opcode,
            },
            (EnvironmentSize::Bits16, AddressMode::Real) => Pointers {
                instruction: u64::from(word(3)) | u64::from(word(4) & 0xf000) << 4,
                instruction_selector: 0,
                data: u64::from(word(5)) | u64::from(word(6) & 0xf000) << 4,
                data_selector: 0,
                opcode: word(4) & 0x7ff,
            },
            (EnvironmentSize::Bits32, AddressMode::Protected) => Pointers {
                instruction: double(3),
                instruction_selector: word(4),
                data: double(5),
                data_selector: word(6),
                opcode: (double(4) >> 16) as u16 & 0x7ff,
            },
            (EnvironmentSize::Bits32, AddressMode::Real) => Pointers {
                instruction: u64::from(word(3)) | (double(4) & 0x0fff_f000) << 4,
                instruction_selector: 0,
                data: u64::from(word(5)) | (double(6) & 0x0fff_f000) << 4,
                data_selector: 0,
                opcode: word(4) & 0x7ff,
            },
        };
        self.status = word(1);
        self.set_control(word(0));
    }

    /// `FRSTOR`.
    pub(super) fn restore(&mut self, bytes: &[u8], size: EnvironmentSize, mode: AddressMode) {
        self.load_environment(bytes, size, mode);
        let start = match size {
            EnvironmentSize::Bits16 => 14,
            EnvironmentSize::Bits32 => 28,
        };
        for i in 0..8 {
            let offset = start + 10 * usize::from(i);
            let value = F80::new(field(bytes, offset + 8, 2) as u16, field(bytes, offset, 8));
            self.set_st(i, value);
        }
    }

    /// Writes the x87 part of an `FXSAVE` image: bytes 0–23 and 32–159. MXCSR and its mask
    /// (bytes 24–31) belong to the caller. Nothing in the unit changes.
    pub fn fxsave(&self, format: FxsaveFormat, image: &mut [u8; 160]) {
        let pointers = &self.pointers;
        image[0..2].copy_from_slice(&self.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.status.to_le_bytes());
        image[4] = self.valid;
        image[5] = 0;
        image[6..8].copy_from_slice(&pointers.opcode.to_le_bytes());
        image[8..16].copy_from_slice(&pointers.instruction.to_le_bytes());
        image[16..24].copy_from_slice(&pointers.data.to_le_bytes());
        if format == FxsaveFormat::Legacy {
            let selector = u32::from(pointers.instruction_selector);
            image[12..16].copy_from_slice(&selector.to_le_bytes());
            let selector = u32::from(pointers.data_selector);
            image[20..24].copy_from_slice(&selector.to_le_bytes());
        }
        for (i, slot) in (0..8).zip(image[32..].chunks_exact_mut(16)) {
            slot[..10].copy_from_slice(&self.st(i).to_bytes());
            slot[10..].fill(0);
        }
    }

    /// Loads the x87 part of an `FXRSTOR` image. ES and B follow from the flags and the masks.
    pub fn fxrstor(&mut self, format: FxsaveFormat, image: &[u8; 160]) {
        self.valid = image[4];
        let len = match format {
            FxsaveFormat::Legacy => 4,
            FxsaveFormat::Long => 8,
        };
        self.pointers = Pointers {
            instruction: field(image, 8, len),
            data: field(image, 16, len),
            instruction_selector: 0,
            data_selector: 0,
            opcode: field(image, 6, 2) as u16 & 0x7ff,
        };
        if format == FxsaveFormat::Legacy {
            self.pointers.instruction_selector = field(image, 12, 2) as u16;
            self.pointers.data_selector = field(image, 20, 2) as u16;
        }
        self.status = field(image, 2, 2) as u16;
        self.set_control(field(image, 0, 2) as u16);
        for i in 0..8 {
            let offset = 32 + 16 * usize::from(i);
            let value = F80::new(field(image, offset + 8, 2) as u16, field(image, offset, 8));
            self.set_st(i, value);
        }
    }
}
