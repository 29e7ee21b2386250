//! The host's random numbers: its own generator, or a file. A thread reads, so that nobody waits.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use device::entropy::{Entropy, EntropyDone};

/// Finds a source by its id, or says why not. The text is a whole message.
pub type Sources<'a> = dyn Fn(&str) -> Result<Arc<dyn Entropy>, String> + 'a;

/// A source with its thread, which ends with it.
pub struct HostEntropy {
    requests: Mutex<Sender<(usize, EntropyDone)>>,
}

impl HostEntropy {
    /// The host's own generator.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn builtin() -> io::Result<Self> {
        Self::start(|bytes| match rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()) {
            Ok(len) => Ok(len),
            Err(error) => Err(error.into()),
        })
    }

    /// The bytes of a file, such as `/dev/hwrng`.
    ///
    /// # Errors
    /// It can't be opened, or the host refuses a thread.
    pub fn file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        Self::start(move |bytes| file.read(bytes))
    }

    fn start(mut read: impl FnMut(&mut [u8]) -> io::Result<usize> + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = channel::<(usize, EntropyDone)>();
        std::thread::Builder::new().name("entropy".to_owned()).spawn(move || {
            while let Ok((len, done)) = receiver.recv() {
                let mut bytes = vec![0; len];
                let taken = loop {
                    match read(&mut bytes) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        taken => break taken,
                    }
                };
                match taken {
                    // The end of the file: whoever asked waits for ever, as with a generator that has failed.
                    Ok(0) => tracing::warn!("the source of random numbers is empty"),
                    Ok(taken) => {
                        bytes.truncate(taken);
                        done(bytes);
                    }
                    Err(error) => tracing::warn!("random numbers: {error}"),
                }
            }
        })?;
        Ok(Self { requests: Mutex::new(sender) })
    }
}

impl Entropy for HostEntropy {
    fn request(&self, len: usize, done: EntropyDone) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread lives as long as this.
        let _sent = requests.send((len, done));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn take(source: &HostEntropy, len: usize) -> Option<Vec<u8>> {
        let (sender, receiver) = channel();
        source.request(len, Box::new(move |bytes| sender.send(bytes).expect("the test")));
        receiver.recv_timeout(Duration::from_secs(10)).ok()
    }

    #[test]
    fn both_sources_give_bytes() {
        let first = take(&HostEntropy::builtin().expect("a source"), 64).expect("bytes");
        let second = take(&HostEntropy::builtin().expect("a source"), 64).expect("bytes");
        assert!(first.len() == 64 && first != second);
        let file = HostEntropy::file(Path::new("/dev/zero")).expect("a source");
        assert_eq!(take(&file, 5).expect("bytes"), [0; 5]);
        assert!(HostEntropy::file(Path::new("/nonexistent")).is_err());
    }
}
