//! QEMU's option grammar for command lines (`-opt key=value,…`) and the scalars in it.

/// Why a size is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is not a number with an optional suffix.
    #[error("not a size")]
    Invalid,
    /// It needs more than 64 bits.
    #[error("the size does not fit 64 bits")]
    Range,
}

/// Splits a C number into sign, radix and digits.
fn radix(text: &str) -> (bool, u32, &str) {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return (negative, 16, digits);
    }
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => (negative, 8, digits),
        _ => (negative, 10, text),
    }
}

fn magnitude(radix: u32, digits: &str) -> Option<u64> {
    // from_str_radix would take a second sign.
    digits.starts_with(|first: char| first.is_ascii_alphanumeric()).then_some(())?;
    u64::from_str_radix(digits, radix).ok()
}

/// A signed integer as C writes it: decimal, `0x…` or `0…`.
#[must_use]
pub fn parse_i64(text: &str) -> Option<i64> {
    let (negative, radix, digits) = radix(text);
    let value = magnitude(radix, digits)?;
    if negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// An unsigned integer as C writes it; a negative one is taken as its two's complement.
#[must_use]
pub fn parse_u64(text: &str) -> Option<u64> {
    let (negative, radix, digits) = radix(text);
    let value = magnitude(radix, digits)?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// `on`, `yes`, `true`, `y` or `off`, `no`, `false`, `n`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// A number of bytes with an optional suffix (B K M G T P E, of either case) and, with a suffix,
/// an optional fraction. A number without a suffix counts in units of `default_unit` bytes.
///
/// # Errors
/// That it is no such number, or that it is too large.
pub fn parse_size(text: &str, default_unit: u64) -> Result<u64, SizeError> {
    let text = text.trim_start_matches([' ', '\t']);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = hex.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(hex.len());
        let (digits, suffix) = hex.split_at(end);
        if digits.is_empty() {
            return Err(SizeError::Invalid);
        }
        let value = u64::from_str_radix(digits, 16).map_err(|_| SizeError::Range)?;
        let unit = unit(suffix, default_unit)?;
        return value.checked_mul(unit).ok_or(SizeError::Range);
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(end);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
            rest.split_at(end)
        }
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(SizeError::Invalid);
    }
    let unit = unit(suffix, default_unit)?;
    let has_fraction = fraction.bytes().any(|digit| digit != b'0');
    if has_fraction && unit == 1 {
        return Err(SizeError::Invalid);
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| SizeError::Range)? };
    let part = if has_fraction { fraction_of(fraction, unit) } else { 0 };
    whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part)).ok_or(SizeError::Range)
}

/// `0.fraction * unit`, rounded to the nearest byte.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "QEMU computes the fraction in double precision; it is in 0..unit"
)]
fn fraction_of(fraction: &str, unit: u64) -> u64 {
    let fraction: f64 = format!("0.{fraction}").parse().unwrap_or(0.0);
    (fraction * unit as f64 + 0.5) as u64
}

fn unit(suffix: &str, default_unit: u64) -> Result<u64, SizeError> {
    Ok(match suffix {
        "" => default_unit,
        "b" | "B" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "p" | "P" => 1 << 50,
        "e" | "E" => 1 << 60,
        _ => return Err(SizeError::Invalid),
    })
}
