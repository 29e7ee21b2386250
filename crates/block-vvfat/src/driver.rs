//! The driver: requests run on a thread of the pool, one at a time.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::{Child, Error, Limits, OpenRequest, Options, Preallocation, Result, WriteFlags};
use iobuf::IoBuf;

use crate::commit;
use crate::layout::{FatType, Layout, SECTOR};
use crate::volume::Volume;

/// The driver `vvfat`.
pub struct VvfatType;

struct Vvfat {
    volume: Arc<Mutex<Volume>>,
    len: u64,
    is_writable: bool,
    strong: Options,
}

impl DriverType for VvfatType {
    fn name(&self) -> &'static str {
        "vvfat"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["fat:"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let mut options = Options::new();
        let mut rest = filename.strip_prefix("fat:").unwrap_or(filename);
        while let Some((word, more)) = rest.split_once(':') {
            match word {
                "12" | "16" | "32" => options.set("fat-type", word),
                "floppy" => options.set("floppy", true),
                "rw" => options.set("rw", true),
                // What it is anyway.
                "ro" => {}
                _ => break,
            }
            rest = more;
        }
        options.set("dir", rest);
        Ok(options)
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let strong = request.options.clone();
            let options = &mut request.options;
            let directory =
                options.take_str("dir")?.ok_or_else(|| Error::invalid("vvfat block driver requires a 'dir' option"))?;
            let floppy = options.take_bool("floppy")?.unwrap_or(false);
            let fat_type = match options.take_u64("fat-type")? {
                Some(number) if number != 0 => FatType::from_number(number)?,
                _ if floppy => FatType::Fat12,
                _ => FatType::Fat16,
            };
            let label = options.take_str("label")?.unwrap_or_else(|| "QEMU VVFAT".to_owned());
            if label.len() > 11 || !label.is_ascii() {
                return Err(Error::invalid("vvfat label cannot be longer than 11 bytes"));
            }
            let is_writable = options.take_bool("rw")?.unwrap_or(false);
            request.finish()?;
            if !is_writable && !request.config.read_only && !request.config.auto_read_only {
                return Err(Error::read_only("The directory can be written to only with the option 'rw'"));
            }
            if is_writable && request.config.read_only {
                return Err(Error::invalid("Unable to set VVFAT to 'rw' when drive is read-only"));
            }
            let layout = if floppy { Layout::floppy(fat_type)? } else { Layout::hard_disk(fat_type)? };
            let volume =
                aio::spawn_blocking(move || Volume::new(&PathBuf::from(directory), layout, &label, is_writable))
                    .await?;
            let len = volume.len();
            Ok(Arc::new(Vvfat { volume: Arc::new(Mutex::new(volume)), len, is_writable, strong }) as Arc<dyn Driver>)
        })
    }
}

impl Vvfat {
    async fn on_volume<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Volume) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let volume = Arc::clone(&self.volume);
        aio::spawn_blocking(move || work(&mut volume.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl Driver for Vvfat {
    fn len(&self) -> u64 {
        self.len
    }

    fn limits(&self) -> Limits {
        Limits { request_alignment: SECTOR as u32, max_transfer: 1 << 20, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.on_volume(move |volume| {
            let mut bytes = vec![0; buf.len()];
            volume.read(offset, &mut bytes)?;
            buf.write_at(0, &bytes);
            Ok(())
        }))
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        let len = self.len;
        Box::pin(self.on_volume(move |volume| {
            if offset.saturating_add(buf.len() as u64) > len {
                return Err(Error::no_space("The write lies behind the end of the disk"));
            }
            volume.write(offset, &buf)
        }))
    }

    fn flush(&self) -> IoFuture<'_> {
        if !self.is_writable {
            return block::done(());
        }
        Box::pin(async move {
            // Not consistent now: the guest is in the middle of a change, and the next flush tries again.
            let is_done = self.on_volume(commit::commit).await?;
            if !is_done {
                tracing::debug!("the FAT file system is not consistent yet");
            }
            Ok(())
        })
    }

    fn close(&self) -> IoFuture<'_> {
        if !self.is_writable {
            return block::done(());
        }
        Box::pin(async move {
            if !self.on_volume(commit::commit).await? {
                tracing::warn!("the guest left its FAT file system inconsistent: the last changes are lost");
            }
            Ok(())
        })
    }

    fn truncate(&self, _len: u64, _exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        block::fail(Error::unsupported("A directory as a disk can't be resized"))
    }

    fn strong_options(&self) -> Options {
        self.strong.clone()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
