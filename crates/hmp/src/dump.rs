//! How memory and code are shown by `x`, `xp` and `print`.

use crate::Format;
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
use std::fmt::Write as _;

/// The longest instruction.
const MAX_INSTRUCTION: usize = 15;

/// Bytes and words from `address` on, a line for each 8 or 16 bytes. `read` says whether there is memory.
pub fn words(address: u64, format: Format, read: &mut dyn FnMut(u64, &mut [u8]) -> bool) -> String {
    let size = if format.kind == 'c' { 1 } else { format.size.clamp(1, 8) };
    let line = if format.size == 1 { 8 } else { 16 };
    let mut left = format.size.max(1).saturating_mul(format.count);
    let (mut at, mut text) = (address, String::new());
    while left > 0 {
        // Writing to a String can't fail.
        let _ = write!(text, "{at:016x}:");
        let mut buffer = [0; 16];
        let piece = &mut buffer[..left.min(line)];
        if !read(at, piece) {
            text.push_str(" Cannot access memory\n");
            break;
        }
        for item in piece.chunks(size) {
            let mut bytes = [0; 8];
            bytes[..item.len()].copy_from_slice(item);
            text.push(' ');
            text.push_str(&word(u64::from_le_bytes(bytes), format.kind, size));
        }
        text.push('\n');
        at = at.wrapping_add(piece.len() as u64);
        left -= piece.len();
        if text.len() > 16 << 20 {
            break;
        }
    }
    text
}

fn word(value: u64, kind: char, size: usize) -> String {
    let decimal = (size * 80).div_ceil(33);
    match kind {
        'o' => format!(
            "{:>width$}",
            if value == 0 { "0".to_owned() } else { format!("0{value:o}") },
            width = (size * 8).div_ceil(3)
        ),
        'u' => format!("{value:decimal$}"),
        'd' => {
            // Only 64-bit numbers show their sign, as in QEMU.
            format!("{:decimal$}", value.cast_signed())
        }
        'c' => character(value as u8),
        _ => format!("0x{value:0width$x}", width = size * 2),
    }
}

/// A byte as a character constant.
fn character(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".into(),
        b'\\' => "'\\\\'".into(),
        b'\n' => "'\\n'".into(),
        b'\r' => "'\\r'".into(),
        32..=126 => format!("'{}'", char::from(byte)),
        other => format!("'\\x{other:02x}'"),
    }
}

/// A value as `print` shows it.
#[must_use]
pub fn number(value: i64, kind: char) -> String {
    match kind {
        'o' if value == 0 => "0".into(),
        'o' => format!("0{value:o}"),
        'u' => format!("{}", value.cast_unsigned()),
        'x' => format!("{value:#x}"),
        'c' => character(value as u8),
        _ => value.to_string(),
    }
}

/// Instructions from `address` on, in AT&T's syntax.
pub fn code(address: u64, count: usize, bits: u32, read: &mut dyn FnMut(u64, &mut [u8]) -> bool) -> String {
    let mut text = String::new();
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_gas_show_mnemonic_size_suffix(true);
    options.set_uppercase_hex(false);
    options.set_gas_space_after_memory_operand_comma(true);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_small_hex_numbers_in_decimal(false);
    let mut at = address;
    for _ in 0..count.min(1 << 16) {
        let mut bytes = [0; MAX_INSTRUCTION];
        // Code may end where memory does.
        let length = (1..=MAX_INSTRUCTION).rev().find(|length| read(at, &mut bytes[..*length]));
        let Some(length) = length else {
            let _ = writeln!(text, "{at:#010x}: unable to read memory");
            break;
        };
        let mut decoder = Decoder::with_ip(bits, &bytes[..length], at, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        decoder.decode_out(&mut instruction);
        let length = if instruction.is_invalid() { 1 } else { instruction.len() };
        let mut shown = String::new();
        if instruction.is_invalid() {
            let _ = write!(shown, ".byte    {:#04x}", bytes[0]);
        } else {
            let mut whole = String::new();
            formatter.format(&instruction, &mut whole);
            shown = match whole.split_once(' ') {
                Some((mnemonic, operands)) => format!("{mnemonic:<8} {}", operands.trim_start()),
                None => whole,
            };
        }
        let hex: Vec<String> = bytes[..length].iter().map(|byte| format!("{byte:02x}")).collect();
        for (index, group) in hex.chunks(8).enumerate() {
            let rest = if index == 0 { shown.as_str() } else { "" };
            let shown_at = at.wrapping_add(index as u64 * 8);
            let line = format!("{shown_at:#010x}:  {:<24} {rest}", group.join(" "));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        at = at.wrapping_add(length as u64);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: Format) -> String {
        words(0x10, format, &mut |at, into| {
            for (index, byte) in into.iter_mut().enumerate() {
                *byte = at as u8 + index as u8 + 0x40;
            }
            at < 0x30
        })
    }

    #[test]
    fn memory_is_shown_as_qemu_does() {
        let two = shown(Format { count: 2, kind: 'x', size: 1 });
        assert_eq!(two, "0000000000000010: 0x50 0x51\n");
        let words = shown(Format { count: 5, kind: 'x', size: 4 });
        assert_eq!(
            words,
            "0000000000000010: 0x53525150 0x57565554 0x5b5a5958 0x5f5e5d5c\n0000000000000020: 0x63626160\n"
        );
        assert!(shown(Format { count: 9, kind: 'x', size: 8 }).ends_with("0000000000000030: Cannot access memory\n"));
        assert_eq!(shown(Format { count: 1, kind: 'u', size: 2 }), "0000000000000010: 20816\n");
    }

    #[test]
    fn code_is_shown_in_att_syntax() {
        let bytes = [0x48, 0x89, 0xe5, 0xf4];
        let text = code(0, 2, 64, &mut |at, into| {
            let from = bytes.get(at as usize..at as usize + into.len());
            from.is_some_and(|from| {
                into.copy_from_slice(from);
                true
            })
        });
        assert_eq!(
            text,
            "0x00000000:  48 89 e5                 movq     %rsp, %rbp\n0x00000003:  f4                       hlt\n"
        );
    }
}
