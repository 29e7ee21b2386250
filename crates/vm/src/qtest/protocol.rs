//! The commands of the qtest protocol (QEMU 7.2: docs/devel/qtest.rst).
//!
//! A line is split at each space. Numbers are C's: 0x…, 0… octal, decimal. Addresses are guest-physical.

use std::fmt::Write;
use std::sync::Arc;

use machine::qtest::QtestAccess;
use memory::{AccessSize, GuestAddress};

use super::payload;

/// Tells a change of an intercepted line: its number and its level.
pub type Reporter = Arc<dyn Fn(u32, bool) + Send + Sync>;

/// The most bytes that one request moves.
const BULK_MAX: u64 = 16 << 20;

/// One client's session.
pub struct Session {
    machine: QtestAccess,
    /// Guest time is the client's.
    has_clock: bool,
    report: Reporter,
    /// The path that is intercepted: one a session.
    intercepted: Option<String>,
}

/// What a request answers; the error is a whole line, too.
type Answer = Result<String, String>;

fn ok() -> Answer {
    Ok("OK".to_owned())
}

fn number(word: &str) -> Result<u64, String> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |rest| (true, rest));
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    let value = value.map_err(|_| format!("ERR invalid number '{word}'"))?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

fn length(word: &str) -> Result<usize, String> {
    number(word)?
        .try_into()
        .ok()
        .filter(|len| (1..=BULK_MAX as usize).contains(len))
        .ok_or_else(|| format!("ERR invalid length '{word}'"))
}

fn size_of(letter: u8) -> Option<AccessSize> {
    match letter {
        b'b' => Some(AccessSize::Byte),
        b'w' => Some(AccessSize::Word),
        b'l' => Some(AccessSize::Dword),
        b'q' => Some(AccessSize::Qword),
        _ => None,
    }
}

/// `0x` and hexadecimal digits into `len` bytes; what is missing is zero.
fn hex_bytes(text: &str, len: usize) -> Result<Vec<u8>, String> {
    let digits = text.get(2..).unwrap_or_default().as_bytes();
    if digits.is_empty() {
        return Err("ERR invalid argument size".to_owned());
    }
    let nibble = |index: usize| {
        let digit = digits.get(index).copied().unwrap_or(b'0');
        char::from(digit).to_digit(16).map(|digit| digit as u8).ok_or_else(|| "ERR invalid digit".to_owned())
    };
    (0..len).map(|index| Ok(nibble(2 * index)? << 4 | nibble(2 * index + 1)?)).collect()
}

impl Session {
    /// A session with `machine`; clock commands exist if the clock is the client's.
    pub fn new(machine: QtestAccess, has_clock: bool, report: Reporter) -> Self {
        Self { machine, has_clock, report, intercepted: None }
    }

    /// Lets the session drive another machine.
    pub fn attach(&mut self, machine: QtestAccess, has_clock: bool) {
        (self.machine, self.has_clock, self.intercepted) = (machine, has_clock, None);
    }

    /// Executes a request and returns the line to answer.
    pub fn execute(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let command = words.first().copied().unwrap_or_default();
        let arguments = words.get(1..).unwrap_or_default();
        self.dispatch(command, arguments).unwrap_or_else(|error| error)
    }

    fn dispatch(&mut self, command: &str, arguments: &[&str]) -> Answer {
        match (command, arguments) {
            ("endianness", []) => Ok("OK little".to_owned()),
            ("irq_intercept_in", [path]) => self.intercept(path),
            ("irq_intercept_out", [path]) => match self.machine.tap(path) {
                // The controllers' outputs are processors' inputs, which are no lines here.
                Some(_) => Err(format!("FAIL Outputs of '{path}' can't be intercepted")),
                None => Err("FAIL Unknown device".to_owned()),
            },
            ("set_irq_in", [path, name, pin, level]) => self.set_irq_in(path, name, pin, level),
            ("read", [address, len]) => {
                let bytes = self.read(address, len)?;
                let mut text = String::with_capacity(5 + 2 * bytes.len());
                text.push_str("OK 0x");
                for byte in bytes {
                    // Writing to a string can't fail.
                    let _infallible = write!(text, "{byte:02x}");
                }
                Ok(text)
            }
            ("b64read", [address, len]) => Ok(format!("OK {}", payload::encode(&self.read(address, len)?))),
            ("write", [address, len, data]) => self.write(address, &hex_bytes(data, length(len)?)?),
            ("b64write", [address, len, data]) => {
                let mut bytes = payload::decode(data);
                bytes.truncate(length(len)?);
                self.write(address, &bytes)
            }
            // An empty range is allowed here.
            ("memset", [address, "0" | "0x0", byte]) => number(address).and(number(byte)).and_then(|_| ok()),
            ("memset", [address, len, byte]) => {
                let byte = number(byte)? as u8;
                self.write(address, &vec![byte; length(len)?])
            }
            ("clock_step", []) if self.has_clock => {
                let now = self.machine.clock.now();
                let by = self.machine.clock.next_deadline().map_or(0, |deadline| deadline.saturating_sub(now));
                self.step(by)
            }
            ("clock_step", [by]) if self.has_clock => self.step(number(by)?),
            ("clock_set", [to]) if self.has_clock => {
                let by = number(to)?.saturating_sub(self.machine.clock.now());
                self.step(by)
            }
            ("module_load", [_, _]) => Err("FAIL".to_owned()),
            _ => self.access(command, arguments).unwrap_or_else(|| Err(format!("FAIL Unknown command '{command}'"))),
        }
    }

    /// `inb` … `outl`, `readb` … `writeq`.
    fn access(&mut self, command: &str, arguments: &[&str]) -> Option<Answer> {
        let (letter, verb) = command.as_bytes().split_last()?;
        let size = size_of(*letter)?;
        let is_port_size = size != AccessSize::Qword;
        match (verb, arguments) {
            (b"in", [port]) if is_port_size => Some(number(port).map(|port| {
                let value = self.machine.ports.load(GuestAddress(port & 0xffff), size);
                format!("OK 0x{:04x}", value & size.mask())
            })),
            (b"out", [port, value]) if is_port_size => Some(number(port).and_then(|port| {
                self.machine.ports.store(GuestAddress(port & 0xffff), size, number(value)?);
                ok()
            })),
            (b"read", [address]) => Some(number(address).map(|address| {
                let value = self.machine.memory.load(GuestAddress(address), size);
                format!("OK 0x{:016x}", value & size.mask())
            })),
            (b"write", [address, value]) => Some(number(address).and_then(|address| {
                self.machine.memory.store(GuestAddress(address), size, number(value)?);
                ok()
            })),
            _ => None,
        }
    }

    fn read(&self, address: &str, len: &str) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; length(len)?];
        self.machine.memory.read(GuestAddress(number(address)?), &mut bytes);
        Ok(bytes)
    }

    fn write(&self, address: &str, bytes: &[u8]) -> Answer {
        self.machine.memory.write(GuestAddress(number(address)?), bytes);
        ok()
    }

    fn step(&self, by: u64) -> Answer {
        self.machine.clock.step(by);
        Ok(format!("OK {}", self.machine.clock.now()))
    }

    fn intercept(&mut self, path: &str) -> Answer {
        let tap = self.machine.tap(path).ok_or("FAIL Unknown device")?;
        match &self.intercepted {
            Some(known) if known == path => return ok(),
            Some(_) => return Err("FAIL IRQ intercept already enabled".to_owned()),
            None => {}
        }
        let report = Arc::clone(&self.report);
        if !tap.listen(Box::new(move |pin, level| report(pin, level))) {
            return Err("FAIL IRQ intercept already enabled".to_owned());
        }
        self.intercepted = Some((*path).to_owned());
        ok()
    }

    fn set_irq_in(&mut self, path: &str, name: &str, pin: &str, level: &str) -> Answer {
        let pin = u32::try_from(number(pin)?).map_err(|_| "FAIL Unknown input")?;
        let level = number(level)? != 0;
        if self.machine.tap(path).is_none() {
            return Err("FAIL Unknown device".to_owned());
        }
        if name != "unnamed-gpio-in" || !self.machine.drive(path, pin, level) {
            return Err("FAIL Unknown input".to_owned());
        }
        ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_c() {
        for (word, value) in [("0x1F", 31), ("017", 15), ("42", 42), ("0", 0), ("-1", u64::MAX)] {
            assert_eq!(number(word), Ok(value), "{word}");
        }
        assert!(number("x").is_err() && number("").is_err() && number("08").is_err());
        assert!(length("0").is_err() && length("0x10000000").is_err());
    }

    #[test]
    fn short_data_is_filled_with_zeroes() {
        assert_eq!(hex_bytes("0x12ab", 4), Ok(vec![0x12, 0xab, 0, 0]));
        assert_eq!(hex_bytes("0x123", 2), Ok(vec![0x12, 0x30]));
        assert_eq!(hex_bytes("0x", 2), Err("ERR invalid argument size".to_owned()));
        assert!(hex_bytes("0xzz", 1).is_err());
    }
}
