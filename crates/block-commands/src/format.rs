//! Numbers, times and bytes as the commands print them.

use std::fmt::Write as _;
use std::time::Duration;

/// Bytes with a binary unit and three decimals, as `1.500 KiB`; without decimals if they are zero.
pub fn bytes(value: f64) -> String {
    const UNITS: [(&str, i32); 6] =
        [(" EiB", 60), (" PiB", 50), (" TiB", 40), (" GiB", 30), (" MiB", 20), (" KiB", 10)];
    let unit = UNITS.iter().find(|(_, shift)| value >= 2f64.powi(*shift));
    let (mut text, suffix) = match unit {
        Some((suffix, shift)) => (format!("{:.3}", value / 2f64.powi(*shift)), *suffix),
        None => (format!("{value:.6}"), " bytes"),
    };
    if let Some(at) = text.find(".000") {
        text.truncate(at);
    }
    text + suffix
}

/// As [`bytes`], of a whole number.
#[expect(clippy::cast_precision_loss, reason = "three decimals are shown")]
pub fn size(value: u64) -> String {
    bytes(value as f64)
}

/// How a finished request is reported.
pub struct Report {
    /// `read`, `wrote` or `discard`.
    pub what: &'static str,
    /// Where.
    pub offset: u64,
    /// How many bytes were wanted.
    pub count: u64,
    /// How many were done.
    pub total: u64,
    /// How long it took.
    pub time: Duration,
    /// For programs.
    pub machine: bool,
}

impl Report {
    /// The lines.
    pub fn text(&self) -> String {
        let seconds = self.time.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "three decimals are shown")]
        let speed = self.total as f64 / seconds;
        let rate = 1.0 / seconds;
        if self.machine {
            return format!("{},1,{},{speed:.3},{rate:.3}\n", self.total, clock(self.time));
        }
        let time = if self.time.as_secs() == 0 { format!("{seconds:05.2} sec") } else { clock(self.time) };
        format!(
            "{} {}/{} bytes at offset {}\n{}, 1 ops; {time} ({}/sec and {rate:.4} ops/sec)\n",
            self.what,
            self.total,
            self.count,
            self.offset,
            size(self.total),
            bytes(speed)
        )
    }
}

fn clock(time: Duration) -> String {
    let whole = time.as_secs();
    #[expect(clippy::cast_precision_loss, reason = "less than a minute")]
    let seconds = (whole % 60) as f64 + f64::from(time.subsec_nanos()) / 1e9;
    format!("{}:{:02}:{seconds:05.2}", whole / 3600, whole / 60 % 60)
}

/// Bytes in hexadecimal and as text, 16 a line.
pub fn dump(bytes: &[u8], offset: u64) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(16).enumerate() {
        let _ = write!(text, "{:08x}:  ", offset.wrapping_add(index as u64 * 16));
        for byte in line {
            let _ = write!(text, "{byte:02x} ");
        }
        text.push(' ');
        text.extend(line.iter().map(|byte| if byte.is_ascii_alphanumeric() { char::from(*byte) } else { '.' }));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_decimals_unless_they_are_zero() {
        for (value, text) in
            [(0, "0 bytes"), (512, "512 bytes"), (65536, "64 KiB"), (1536, "1.500 KiB"), (1 << 40, "1 TiB")]
        {
            assert_eq!(size(value), text);
        }
        assert_eq!(bytes(0.5), "0.500000 bytes");
    }

    #[test]
    fn reports_have_the_known_form() {
        let report = Report {
            what: "read",
            offset: 0,
            count: 65536,
            total: 65536,
            time: Duration::from_millis(500),
            machine: false,
        };
        assert_eq!(
            report.text(),
            "read 65536/65536 bytes at offset 0\n64 KiB, 1 ops; 00.50 sec (128 KiB/sec and 2.0000 ops/sec)\n"
        );
        assert_eq!(Report { machine: true, ..report }.text(), "65536,1,0:00:00.50,131072.000,2.000\n");
    }

    #[test]
    fn dumps_show_bytes_and_text() {
        assert_eq!(dump(b"Hi\x00", 512), "00000200:  48 69 00  Hi.\n");
    }
}
