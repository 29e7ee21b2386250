//! System-management RAM: memory that only system-management mode sees, until firmware opens or locks it.
//!
//! The RAM from 0xa0000 lies under video memory. The chipset decides with its SMRAM register (Intel 290549, 3.2.21; for
//! Q35 Intel 316966, 5.1.30) who sees it: nobody, system-management mode, or everybody. Q35 can also hide the end of low
//! RAM (TSEG).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices_pci::q35::Smram;
use memory::{AddressSpace, Backing, GuestAddress, Io, MapError, RamBlock, RegionHandle};

const LOW: u64 = 0xa_0000;
const LOW_LEN: u64 = 0x2_0000;
/// Where Q35 shows the same RAM with H_SMRAME.
const HIGH: u64 = 0xfeda_0000;
/// Where processors begin in system-management mode after a reset, and how much of it can be locked.
const SMBASE: u64 = 0x3_0000;
const SMBASE_LEN: u64 = 0x2_0000;
/// Above everything else there.
const PRIORITY: i32 = 10;

/// What nobody answers: reads as all ones.
struct Nothing;

impl Io for Nothing {
    fn read(&self, _: u64, size: memory::AccessSize) -> u64 {
        size.mask()
    }

    fn write(&self, _: u64, _: memory::AccessSize, _: u64) {}
}

struct Window {
    space: Arc<AddressSpace>,
    handle: RegionHandle,
    start: u64,
}

impl Window {
    fn new(space: &Arc<AddressSpace>, start: u64, len: u64, backing: Backing) -> Result<Self, MapError> {
        let handle = space.map(GuestAddress(start), len, PRIORITY, backing)?;
        space.update(handle, GuestAddress(start), false)?;
        Ok(Self { space: Arc::clone(space), handle, start })
    }

    fn show(&self, is_shown: bool) {
        // The region is there as long as this is.
        let _mapped = self.space.update(self.handle, GuestAddress(self.start), is_shown);
    }
}

struct Tseg {
    len: u64,
    /// Hides it from everybody but system-management mode.
    hidden: Window,
    shown: Option<Window>,
}

struct Inner {
    open_low: Window,
    open_high: Window,
    smm_low: Option<Window>,
    smm_high: Option<Window>,
    /// Hides the RAM at the default SMBASE, and shows it to system-management mode.
    smbase_hidden: Window,
    smbase_shown: Option<Window>,
    tseg: Option<Tseg>,
    state: Smram,
}

/// The windows.
pub struct SmramWindows {
    memory: Arc<AddressSpace>,
    smm: Option<Arc<AddressSpace>>,
    ram: Arc<RamBlock>,
    low_end: u64,
    inner: Mutex<Inner>,
}

impl SmramWindows {
    /// Windows into `ram`, whose offsets below `low_end` are guest addresses. `smm` is what system-management mode sees,
    /// if there is one.
    pub fn new(
        memory: &Arc<AddressSpace>,
        smm: Option<&Arc<AddressSpace>>,
        ram: &Arc<RamBlock>,
        low_end: u64,
    ) -> Result<Arc<Self>, MapError> {
        let part = || Backing::Ram { block: Arc::clone(ram), offset: LOW, read_only: false };
        let smbase = Backing::Ram { block: Arc::clone(ram), offset: SMBASE, read_only: false };
        let of_smm = |start| smm.map(|space| Window::new(space, start, LOW_LEN, part())).transpose();
        let inner = Inner {
            open_low: Window::new(memory, LOW, LOW_LEN, part())?,
            open_high: Window::new(memory, HIGH, LOW_LEN, part())?,
            smm_low: of_smm(LOW)?,
            smm_high: of_smm(HIGH)?,
            smbase_hidden: Window::new(memory, SMBASE, SMBASE_LEN, Backing::Io(Arc::new(Nothing)))?,
            smbase_shown: smm.map(|space| Window::new(space, SMBASE, SMBASE_LEN, smbase)).transpose()?,
            tseg: None,
            state: Smram::default(),
        };
        Ok(Arc::new(Self {
            memory: Arc::clone(memory),
            smm: smm.cloned(),
            ram: Arc::clone(ram),
            low_end,
            inner: Mutex::new(inner),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what the registers say.
    pub fn set(&self, state: Smram) {
        let mut inner = self.inner();
        if inner.state == state {
            return;
        }
        inner.open_low.show(state.is_open && !state.is_high);
        inner.open_high.show(state.is_open && state.is_high);
        let enabled = state.is_enabled;
        inner.smm_low.iter().for_each(|window| window.show(enabled && !state.is_high));
        inner.smm_high.iter().for_each(|window| window.show(enabled && state.is_high));
        inner.smbase_hidden.show(state.has_smbase);
        inner.smbase_shown.iter().for_each(|window| window.show(state.has_smbase));
        if inner.state.tseg != state.tseg {
            self.set_tseg(&mut inner, state.tseg);
        }
        inner.state = state;
    }

    fn set_tseg(&self, inner: &mut Inner, len: u64) {
        if let Some(tseg) = inner.tseg.take() {
            for window in [Some(tseg.hidden), tseg.shown].into_iter().flatten() {
                let _was_mapped = window.space.unmap(window.handle);
            }
            tracing::debug!(len = tseg.len, "TSEG is gone");
        }
        let Some(start) = self.low_end.checked_sub(len).filter(|_| len > 0) else { return };
        let ram = Backing::Ram { block: Arc::clone(&self.ram), offset: start, read_only: false };
        let built = Window::new(&self.memory, start, len, Backing::Io(Arc::new(Nothing))).and_then(|hidden| {
            let shown = self.smm.as_ref().map(|space| Window::new(space, start, len, ram)).transpose()?;
            Ok(Tseg { len, hidden, shown })
        });
        // The range is inside of RAM, so that it can be mapped.
        inner.tseg = built.ok();
        if let Some(tseg) = &inner.tseg {
            tseg.hidden.show(true);
            tseg.shown.iter().for_each(|window| window.show(true));
        }
    }
}
