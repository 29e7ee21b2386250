//! virtio entropy devices (virtio 1.2, 5.4): the driver offers memory, the device fills it with random bytes.
//!
//! The user may limit the bytes of a period (`max-bytes`, `period`). Chains beyond the limit stay in the queue until
//! the period is over.

use std::sync::Arc;

use clock::{Clock, Timer};
use device::entropy::Entropy;
use state::State;

use crate::device::{Access, Common, DeviceType, Model, RequestToken};
use crate::queue::Request;

/// Entries of the queue.
const QUEUE_SIZE: u16 = 8;
/// The most bytes that the source is asked for at once; a longer chain gets fewer bytes than it has room for.
const MAX_REQUEST: usize = 64 << 10;

/// The user's choices, named as QEMU's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngOptions {
    /// `max-bytes` of a period.
    pub max_bytes: u64,
    /// `period`, milliseconds.
    pub period: u32,
}

impl Default for RngOptions {
    fn default() -> Self {
        Self { max_bytes: i64::MAX as u64, period: 1 << 16 }
    }
}

/// Choices that do not fit. The texts are QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RngOptionError {
    /// No period.
    #[error("'period' parameter expects a positive integer")]
    Period,
    /// Too many bytes.
    #[error("'max-bytes' parameter must be non-negative, and less than 2^63")]
    MaxBytes,
}

impl RngOptions {
    /// Checks the choices.
    ///
    /// # Errors
    /// [`RngOptionError`].
    pub fn check(&self) -> Result<(), RngOptionError> {
        match self {
            Self { period: 0, .. } => Err(RngOptionError::Period),
            Self { max_bytes, .. } if *max_bytes > i64::MAX as u64 => Err(RngOptionError::MaxBytes),
            _ => Ok(()),
        }
    }
}

/// The state beside queues and features.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "virtio-rng", version = 1)]
pub struct RngState {
    /// Bytes that are left in this period.
    quota: u64,
    /// When the period ends, nanoseconds of guest time; 0 before the first request of a period.
    period_end: u64,
}

/// An entropy device.
pub struct Rng {
    // Fixed configuration.
    options: RngOptions,
    // Host resources.
    source: Arc<dyn Entropy>,
    access: Arc<dyn Access<Self>>,
    clock: Clock,
    timer: Timer,
    // Guest-visible state.
    state: RngState,
}

impl Rng {
    /// A device in front of `source`. The options were checked.
    pub fn new(options: RngOptions, source: Arc<dyn Entropy>, clock: &Clock, access: Arc<dyn Access<Self>>) -> Self {
        let way = Arc::clone(&access);
        let timer = clock.timer(move || way.access(&mut |rng, common| rng.period_over(common)));
        let state = RngState { quota: options.max_bytes, period_end: 0 };
        Self { options, source, access, clock: clock.clone(), timer, state }
    }

    fn period_over(&mut self, common: &mut Common) {
        self.state = RngState { quota: self.options.max_bytes, period_end: 0 };
        self.work(common);
    }

    fn work(&mut self, common: &mut Common) {
        let mut left = 8 * usize::from(QUEUE_SIZE);
        loop {
            while self.state.quota > 0 && left > 0 {
                let Some((token, request)) = common.pop(0) else { break };
                left -= 1;
                self.start(common, token, request);
            }
            if self.state.quota == 0 || left == 0 || !common.enable_notifications(0) {
                return;
            }
        }
    }

    fn start(&mut self, common: &mut Common, token: RequestToken, request: Request) {
        if self.state.period_end == 0 {
            let period = u64::from(self.options.period).saturating_mul(1_000_000);
            self.state.period_end = self.clock.now().saturating_add(period);
            self.timer.arm(self.state.period_end);
        }
        let quota = usize::try_from(self.state.quota).unwrap_or(usize::MAX);
        let len = request.writable.len().min(MAX_REQUEST).min(quota);
        if len == 0 {
            // Nothing to write to.
            return common.complete(token, 0);
        }
        self.state.quota = self.state.quota.saturating_sub(len as u64);
        let access = Arc::clone(&self.access);
        let mut request = Some(request);
        let done = Box::new(move |bytes: Vec<u8>| {
            access.access(&mut |_, common| {
                let Some(request) = request.take() else { return };
                let bytes = bytes.get(..bytes.len().min(len)).unwrap_or_default();
                if common.is_current(token) {
                    request.writable.write_at(0, bytes);
                }
                common.complete(token, bytes.len() as u32);
            });
        });
        self.source.request(len, done);
    }
}

impl Model for Rng {
    type State = RngState;

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 4, transitional_pci_id: 0x1005, pci_class: 0x00ff }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn write_config(&mut self, _common: &mut Common, _offset: usize, _bytes: &[u8]) {}

    fn started(&mut self, _common: &mut Common) {}

    fn notified(&mut self, common: &mut Common, _queue: usize) {
        self.work(common);
    }

    /// The limit is the host's: it outlives the driver.
    fn reset(&mut self, _common: &mut Common) {}

    fn restored(&mut self, common: &mut Common) {
        match self.state.period_end {
            0 => self.timer.cancel(),
            end => self.timer.arm(end),
        }
        for (token, request) in common.take_again() {
            self.start(common, token, request);
        }
    }

    fn state(&self) -> &RngState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut RngState {
        &mut self.state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use device::entropy::EntropyDone;
    use device::testing::{reset_twice_is_once, save_and_restore_agree};

    use super::*;
    use crate::pci::PciOptions;
    use crate::testing::function::{DATA, Function};

    /// Answers when it is told to, with as many bytes as it was asked for.
    #[derive(Default)]
    struct Source(Mutex<Vec<(usize, EntropyDone)>>);

    impl Entropy for Source {
        fn request(&self, len: usize, done: EntropyDone) {
            self.0.lock().expect("source").push((len, done));
        }
    }

    impl Source {
        fn answer(&self) -> Vec<usize> {
            let requests = std::mem::take(&mut *self.0.lock().expect("source"));
            let lens = requests.iter().map(|(len, _)| *len).collect();
            requests.into_iter().for_each(|(len, done)| done(vec![7; len]));
            lens
        }
    }

    fn bench(options: RngOptions) -> (Function<Rng>, Arc<Source>, Clock) {
        let clock = Clock::manual();
        let manual = clock.clone();
        let source = Arc::new(Source::default());
        let shared = Arc::clone(&source) as Arc<dyn Entropy>;
        let function =
            Function::of(&PciOptions::default(), Arc::default(), |access| Rng::new(options, shared, &clock, access));
        (function, source, manual)
    }

    #[test]
    fn memory_is_filled_and_the_length_told() {
        let (function, source, _clock) = bench(RngOptions::default());
        let mut queue = function.begin(0, 8);
        queue.offer(&function.guest, &[(DATA, 10, true), (DATA + 0x100, 6, true)], false).expect("room");
        queue.offer(&function.guest, &[(DATA + 0x1000, 0x2_0000, true)], false).expect("room");
        queue.offer(&function.guest, &[(DATA, 4, false)], false).expect("room");
        function.kick(0);
        assert_eq!(queue.collect(&function.guest).len(), 1, "the one without room");
        assert_eq!(source.answer(), [16, MAX_REQUEST]);
        let written: Vec<u32> = queue.collect(&function.guest).into_iter().map(|(_, len)| len).collect();
        assert_eq!(written, [16, MAX_REQUEST as u32]);
        assert_eq!(function.guest.read(DATA + 0x100, 7), [7, 7, 7, 7, 7, 7, 0]);
    }

    #[test]
    fn limit_holds_until_the_period_is_over() {
        let (function, source, clock) = bench(RngOptions { max_bytes: 20, period: 1000 });
        let mut queue = function.begin(0, 8);
        for _ in 0..3 {
            queue.offer(&function.guest, &[(DATA, 16, true)], false).expect("room");
        }
        function.kick(0);
        assert_eq!(source.answer(), [16, 4]);
        clock.step(999_999_999);
        assert_eq!(source.answer(), [0usize; 0]);
        clock.step(1);
        assert_eq!(source.answer(), [16]);
        save_and_restore_agree("virtio-rng", &function.cell).expect("saved");
        reset_twice_is_once("virtio-rng", &function.cell, device::ResetKind::Warm).expect("reset");
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        let check = |max_bytes, period| RngOptions { max_bytes, period }.check().err();
        assert_eq!(check(1 << 63, 1), Some(RngOptionError::MaxBytes));
        assert_eq!((check(1, 0), check(0, 1)), (Some(RngOptionError::Period), None));
    }
}
