//! A memory barrier on all threads of the process (membarrier(2)), for marks that other threads read without a fence.

use std::sync::Once;
use std::sync::atomic::{Ordering, fence};

use rustix::thread::{MembarrierCommand, membarrier};

static REGISTER: Once = Once::new();

/// Orders everything before against everything after, as every other running thread sees it.
pub(crate) fn all_threads() {
    REGISTER.call_once(|| {
        // Where the kernel lacks it, the fence below is what remains: marks are then seen a little later.
        let _ = membarrier(MembarrierCommand::RegisterPrivateExpedited);
    });
    fence(Ordering::SeqCst);
    // Only vCPUs look at marks without a fence.
    if memory::listeners() < 2 {
        return;
    }
    let _ = membarrier(MembarrierCommand::PrivateExpedited);
}
