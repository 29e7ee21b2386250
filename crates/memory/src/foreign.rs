//! Memory that another program can take away: a file that shrinks under its mapping.
//!
//! An access behind the end of a mapped file is the signal SIGBUS, which would end this program. While a [`Guard`] lives,
//! such an access in its range puts fresh memory of zeroes in the place of what is lost, from the page of the access to
//! the range's end, and is done again. For all other memory the signal does what it did before.

use std::io;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use rustix::io::Errno;

/// How many ranges there may be at the same time.
const RANGES: usize = 1024;

/// A range of addresses; `end` is 0 where there is none.
struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
}

/// `start` of an entry that somebody fills in.
const TAKEN: usize = usize::MAX;

static TABLE: [Range; RANGES] =
    [const { Range { start: AtomicUsize::new(0), end: AtomicUsize::new(0), page: AtomicUsize::new(0) } }; RANGES];
/// What the signal did before.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// A range that is guarded until this is dropped.
#[derive(Debug)]
pub(crate) struct Guard(usize);

impl Guard {
    /// Guards a mapping of the caller's, `len` bytes from `start` on, of pages of `page` bytes. It is dropped before the
    /// mapping is.
    pub(crate) fn new(start: NonNull<u8>, len: usize, page: usize) -> Result<Self, Errno> {
        static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
        (*INSTALLED.get_or_init(install))?;
        let free = |entry: &Range| entry.start.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let index = TABLE.iter().position(free).ok_or(Errno::NOMEM)?;
        let entry = &TABLE[index];
        let start = start.as_ptr() as usize;
        entry.page.store(page, Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
        entry.end.store(start + len, Ordering::Release);
        Ok(Self(index))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let entry = &TABLE[self.0];
        entry.end.store(0, Ordering::Release);
        entry.start.store(0, Ordering::Release);
    }
}

fn install() -> Result<(), Errno> {
    // SAFETY: `sigaction` is plain data for which zeroes are valid; both are valid for the call, and the handler has the
    // type that `SA_SIGINFO` asks for. The record of what was there before is never freed.
    let result = unsafe {
        let before: *mut libc::sigaction = Box::into_raw(Box::new(std::mem::zeroed()));
        libc::sigaction(libc::SIGBUS, std::ptr::null(), before);
        BEFORE.store(before, Ordering::Release);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)) }
}

/// The range that holds `address`: the page of the address, and the range's end.
fn find(table: &[Range], address: usize) -> Option<(usize, usize)> {
    table.iter().find_map(|entry| {
        let end = entry.end.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Acquire);
        let page = entry.page.load(Ordering::Acquire);
        // A range that goes meanwhile is not that of the address, and its parts don't fit together.
        let is_whole = start != 0 && entry.end.load(Ordering::Relaxed) == end;
        (is_whole && start <= address && address < end).then(|| (address / page.max(1) * page, end))
    })
}

/// Does only what a signal handler may do: looks at atomics, and calls the kernel.
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid record to a handler of this kind.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some((page, end)) = find(&TABLE, address) {
        let (protection, flags) = (
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::FIXED | rustix::mm::MapFlags::NORESERVE,
        );
        // SAFETY: replaces a part of a mapping that its owner has put under guard, and that is accessed by atomics only.
        let replaced = unsafe { rustix::mm::mmap_anonymous(page as *mut _, end - page, protection, flags) };
        if replaced.is_ok() {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Not ours: what was there before has its turn. The access is done again when this returns.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `BEFORE` was set before this handler was installed, and is never freed. What it holds is a handler of the
    // type that its flags say, or one of the two constants.
    unsafe {
        let before = BEFORE.load(Ordering::Acquire);
        match (*before).sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
            handler if (*before).sa_flags & libc::SA_SIGINFO != 0 => {
                type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                let handler = std::mem::transmute::<usize, Handler>(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler = std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler);
                handler(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, end: usize) -> Range {
        Range { start: AtomicUsize::new(start), end: AtomicUsize::new(end), page: AtomicUsize::new(0x1000) }
    }

    #[test]
    fn address_is_found_in_its_range_but_not_in_one_that_comes_or_goes() {
        let table = [range(0, 0x9000), range(TAKEN, 0), range(0x4000, 0x6000)];
        assert_eq!(find(&table, 0x5432), Some((0x5000, 0x6000)));
        assert_eq!(find(&table, 0x3fff), None);
        assert_eq!(find(&table, 0x6000), None);
    }
}
