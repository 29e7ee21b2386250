//! SMART (ATA8-ACS, 7.53): attributes of a disk that never ages, and the log of its self-tests, which it always passes.

use state::State;

use super::{Drive, SECTOR, Step};

/// Attributes with QEMU's values: number, flags (two bytes), value, worst, raw (six bytes), threshold.
const ATTRIBUTES: [[u8; 12]; 7] = [
    // Raw read error rate, spin-up time, start/stop count, reallocated sectors, power-on hours, power cycles, airflow
    // temperature.
    [0x01, 0x03, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0x06],
    [0x03, 0x03, 0, 0x64, 0x64, 0x10, 0, 0, 0, 0, 0, 0],
    [0x04, 0x02, 0, 0x64, 0x64, 0x64, 0, 0, 0, 0, 0, 0x14],
    [0x05, 0x03, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0x24],
    [0x09, 0x03, 0, 0x64, 0x64, 0x01, 0, 0, 0, 0, 0, 0],
    [0x0c, 0x03, 0, 0x64, 0x64, 0, 0, 0, 0, 0, 0, 0],
    [0xbe, 0x03, 0, 0x45, 0x45, 0x1f, 0, 0x1f, 0x1f, 0, 0, 0x32],
];

/// Descriptors that the log of self-tests has.
const TESTS: u8 = 21;
const TEST_LEN: usize = 24;

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "ide_drive/smart", version = 1)]
pub struct SmartState {
    enabled: bool,
    autosave: bool,
    /// Self-tests since power-on; the log keeps the last.
    #[state(max = 21)]
    tests: u8,
    /// Subcommands of the self-tests, the oldest first.
    kinds: [u8; TESTS as usize],
}

impl Default for SmartState {
    fn default() -> Self {
        Self { enabled: true, autosave: true, tests: 0, kinds: [0; TESTS as usize] }
    }
}

/// The last byte makes the sum of all zero.
fn with_checksum(mut page: Vec<u8>) -> Vec<u8> {
    if let Some((last, rest)) = page.split_last_mut() {
        *last = rest.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    }
    page
}

impl Drive<'_> {
    pub(super) fn smart(&mut self) -> Step {
        let [low, mid, high] = self.state.lba.map(|register| register.now);
        let function = self.state.feature.now;
        if (mid, high) != (0x4f, 0xc2) || (!self.state.smart.enabled && function != 0xd8) {
            return self.abort();
        }
        let smart = &mut self.state.smart;
        match function {
            0xd0 => {
                let page = self.smart_data();
                return self.reply(page);
            }
            0xd1 => return self.reply(thresholds()),
            0xd2 => match low {
                0x00 => smart.autosave = false,
                0xf1 => smart.autosave = true,
                _ => return self.abort(),
            },
            // Attributes have no other place than this.
            0xd3 => {}
            0xd4 => match low {
                0..=2 => self.self_test(low),
                _ => return self.abort(),
            },
            0xd5 => {
                let Some(page) = self.smart_log(low) else { return self.abort() };
                return self.reply(page);
            }
            0xd8 => smart.enabled = true,
            0xd9 => smart.enabled = false,
            // The registers keep the signature: no threshold was exceeded.
            0xda => {}
            _ => return self.abort(),
        }
        self.finish()
    }

    fn self_test(&mut self, kind: u8) {
        let smart = &mut self.state.smart;
        if smart.tests == TESTS {
            smart.kinds.rotate_left(1);
        } else {
            smart.tests += 1;
        }
        if let Some(last) = smart.kinds.get_mut(usize::from(smart.tests) - 1) {
            *last = kind;
        }
    }

    fn smart_data(&self) -> Vec<u8> {
        let mut page = vec![0; SECTOR];
        page[0] = 1;
        for (entry, attribute) in page[2..].chunks_mut(12).zip(&ATTRIBUTES) {
            entry[..11].copy_from_slice(&attribute[..11]);
        }
        page[362] = 0x02 | if self.state.smart.autosave { 0x80 } else { 0 };
        // Offline collection takes five minutes; it and self-tests can be asked for; logs are kept.
        page[364..366].copy_from_slice(&[0x20, 0x01]);
        page[367..371].copy_from_slice(&[0x19, 0x03, 0x00, 0x01]);
        page[372..375].copy_from_slice(&[0x02, 0x36, 0x01]);
        with_checksum(page)
    }

    /// The summary error log, or the self-test log.
    fn smart_log(&self, log: u8) -> Option<Vec<u8>> {
        let mut page = vec![0; SECTOR];
        page[0] = 1;
        let smart = &self.state.smart;
        match log {
            0x01 => {}
            0x06 => {
                for (entry, kind) in page[2..].chunks_mut(TEST_LEN).zip(&smart.kinds[..usize::from(smart.tests)]) {
                    // The test, passed, and the hour.
                    entry[..4].copy_from_slice(&[*kind, 0, 1, 0]);
                }
                page[508] = smart.tests;
            }
            _ => return None,
        }
        Some(with_checksum(page))
    }
}

fn thresholds() -> Vec<u8> {
    let mut page = vec![0; SECTOR];
    page[0] = 1;
    for (entry, attribute) in page[2..].chunks_mut(12).zip(&ATTRIBUTES) {
        (entry[0], entry[1]) = (attribute[0], attribute[11]);
    }
    with_checksum(page)
}
