//! The thread of all servers of a kind.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Pictures that are encoded at the same time.
const ENCODERS_MAX: usize = 4;

/// A thread that runs tasks, and a few more for what takes longer. With its end they end, wherever they are.
pub struct Worker {
    runtime: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it; `name` is the thread's.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let encoders = std::thread::available_parallelism().map_or(1, usize::from).min(ENCODERS_MAX);
        let mut builder = Builder::new_current_thread();
        builder.enable_all().thread_name(format!("{name} encoder")).max_blocking_threads(encoders);
        let runtime = builder.build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The sender may be dropped or used: both are the end.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, end: Some(end), thread: Some(thread) })
    }

    /// Where its tasks are spawned.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
