//! Sizes as people read and write them.

/// A size as tools print it: three significant digits and a binary unit, as `1.5 GiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    // A unit is used from 1000 of the one below on.
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    let mut value = bytes as f64;
    while unit < 6 && value >= 1000.0 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", significant(value, 3), UNITS[unit])
}

/// `value` with at most `digits` significant digits and without trailing zeroes, as C's `%.3g` prints it.
pub fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.*e}", usize::try_from(digits - 1).unwrap_or(0));
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    if exponent < -4 || exponent >= digits {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(digits - 1 - exponent).unwrap_or(0);
    trim(&format!("{value:.decimals$}"))
}

/// Why a number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// It is too large.
    Range,
    /// It is no number.
    Invalid,
}

/// A size with an optional suffix `b`, `k`, `M`, `G`, `T`, `P` or `E`, perhaps with a fraction.
///
/// # Errors
/// See [`NumberError`].
pub fn parse(text: &str) -> Result<u64, NumberError> {
    if let Some(size) = block::options::parse_size(text) {
        return Ok(size);
    }
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let well_formed = digits.len() < text.len()
        && (digits.is_empty() || (digits.len() == 1 && "bBkKmMgGtTpPeE".contains(digits)))
        && !text.contains('.');
    if well_formed { Err(NumberError::Range) } else { Err(NumberError::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (65536, "64 KiB"),
            (1_048_576, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            (1023 << 20, "0.999 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_told_from_no_numbers() {
        assert_eq!(parse("1k"), Ok(1024));
        assert_eq!(parse("16E"), Err(NumberError::Range));
        assert_eq!(parse("1kilobyte"), Err(NumberError::Invalid));
        assert_eq!(parse("-1"), Err(NumberError::Invalid));
    }
}
