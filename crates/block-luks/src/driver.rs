//! The driver `luks`: a volume header, then the data, encrypted by sectors.
//!
//! Options: `key-secret`, the id of a secret with the passphrase. Sectors are numbered from the start of the data.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::create::{CreateOption, CreateOptionKind, CreateRequest, Measure, MeasureRequest};
use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::image::{AmendRequest, ImageDetails};
use block::{
    BlockStatus, Child, Error, Limits, OpenRequest, Options, Permissions, Preallocation, Role, Value, WriteFlags,
    permissions,
};
use iobuf::IoBuf;

use crate::cipher::SECTOR;
use crate::header::Header;
use crate::volume::{self, Place, Unlock, Volume};

/// The driver `luks`.
pub struct LuksType;

/// The longest piece that is encrypted at once, bytes.
const MAX_TRANSFER: u64 = 1 << 20;

const fn option(name: &'static str, kind: CreateOptionKind, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help, default: None }
}

const CREATE_OPTIONS: &[CreateOption] = &[
    option("cipher-alg", CreateOptionKind::Text, "Name of encryption cipher algorithm"),
    option("cipher-mode", CreateOptionKind::Text, "Name of encryption cipher mode"),
    option("hash-alg", CreateOptionKind::Text, "Name of encryption hash algorithm"),
    option("iter-time", CreateOptionKind::Number, "Time to spend in PBKDF in milliseconds"),
    option("ivgen-alg", CreateOptionKind::Text, "Name of IV generator algorithm"),
    option("ivgen-hash-alg", CreateOptionKind::Text, "Name of IV generator hash algorithm"),
    option("key-secret", CreateOptionKind::Text, "ID of the secret that provides the keyslot passphrase"),
    option("preallocation", CreateOptionKind::Text, "Preallocation mode (allowed values: off, falloc, full)"),
    option("size", CreateOptionKind::Size, "Virtual disk size"),
];

const AMEND_OPTIONS: &[CreateOption] = &[
    option("iter-time", CreateOptionKind::Number, "Time to spend in PBKDF in milliseconds"),
    option("keyslot", CreateOptionKind::Number, "Select a single keyslot to modify explicitly"),
    option("new-secret", CreateOptionKind::Text, "New secret to set in the matching keyslots. Empty string to erase"),
    option("old-secret", CreateOptionKind::Text, "Select all keyslots that match this password"),
    option("state", CreateOptionKind::Text, "Select new state of affected keyslots (active/inactive)"),
];

struct Luks {
    file: Arc<Child>,
    volume: Volume,
    payload: u64,
    /// The key slots may be read.
    reads_keys: bool,
    /// How many changes of key slots are under way.
    amending: AtomicUsize,
}

impl DriverType for LuksType {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if Header::recognise(head) { 100 } else { 0 }
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let key_secret = request.options.take_str("key-secret")?;
            // The header is not written while the volume is used: what others may do is up to the users.
            let file = request.child("file", Role::PlainStorage).await?;
            request.finish()?;
            let reads_keys = !request.flags.no_io;
            let unlock = if reads_keys { Unlock::Yes } else { Unlock::No };
            let graph = Arc::clone(&request.graph);
            if reads_keys {
                // Nobody uses the node yet, but its key is in use from now on.
                graph.set_permissions(&file, Permissions::CONSISTENT_READ, Permissions::ALL)?;
            }
            let place = Place { file: Arc::clone(&file), start: 0, graph, key_secret, prefix: "" };
            let volume = Volume::open(place, unlock).await?;
            let payload = volume.header().payload_offset_bytes();
            let driver = Luks { file, volume, payload, reads_keys, amending: AtomicUsize::new(0) };
            Ok(Arc::new(driver) as Arc<dyn Driver>)
        })
    }

    fn create_options(&self) -> &'static [CreateOption] {
        CREATE_OPTIONS
    }

    fn amend_options(&self) -> &'static [CreateOption] {
        AMEND_OPTIONS
    }

    fn create(&self, mut request: CreateRequest) -> IoFuture<'static> {
        Box::pin(async move {
            let file = request.target()?;
            let preallocation = request.options.take_choice("preallocation", &Preallocation::NAMES)?;
            let preallocation = Preallocation::from_index(preallocation.unwrap_or(0));
            let graph = Arc::clone(&request.graph);
            let volume = volume::create(&graph, &mut request.options, "").await?;
            let size = request.size;
            request.finish()?;
            let total = size
                .checked_add(volume.header.payload_offset_bytes())
                .filter(|total| i64::try_from(*total).is_ok())
                .ok_or_else(|| Error::too_big("The requested file size is too large"))?;
            file.truncate(total, false, preallocation).await?;
            volume::write_pieces(&file, 0, &volume.pieces).await
        })
    }

    fn measure(&self, request: MeasureRequest) -> IoFuture<'static, Measure> {
        Box::pin(async move {
            let mut options = request.options.clone();
            options.take("preallocation");
            let total = request
                .size
                .checked_add(volume::header_bytes(&mut options)?)
                .ok_or_else(|| Error::too_big("The requested file size is too large"))?;
            Ok(Measure { required: total, fully_allocated: total, bitmaps: None })
        })
    }
}

impl Driver for Luks {
    fn len(&self) -> u64 {
        self.file.len().saturating_sub(self.payload)
    }

    fn limits(&self) -> Limits {
        Limits { request_alignment: SECTOR as u32, max_transfer: MAX_TRANSFER, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let cipher = self.volume.cipher()?;
            let mut data = self.file.read_vec(self.payload + offset, buf.len()).await?;
            cipher.decrypt(offset / SECTOR as u64, &mut data);
            buf.write_at(0, &data);
            Ok(())
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let cipher = self.volume.cipher()?;
            let mut data = buf.to_vec();
            cipher.encrypt(offset / SECTOR as u64, &mut data);
            self.file.write(self.payload + offset, IoBuf::copy_of(&data), flags).await
        })
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move {
            let total =
                len.checked_add(self.payload).ok_or_else(|| Error::too_big("The requested file size is too large"))?;
            self.file.truncate(total, exact, preallocation).await
        })
    }

    fn block_status(&self, _offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        block::done(BlockStatus::data(len, None))
    }

    fn details(&self) -> ImageDetails {
        let data = self.volume.to_entries();
        ImageDetails {
            encrypted: true,
            specific: Some(("luks".to_owned(), Value::Dict(data))),
            ..ImageDetails::default()
        }
    }

    fn strong_options(&self) -> Options {
        match self.volume.key_secret() {
            Some(secret) => Options::new().with("key-secret", secret),
            None => Options::new(),
        }
    }

    fn reopen(&self, mut options: Options, _read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            if options.take_str("key-secret")?.as_deref() != self.volume.key_secret() {
                return Err(Error::invalid("Cannot change the option 'key-secret'"));
            }
            Ok(())
        })
    }

    fn child_permissions(
        &self,
        child: &Child,
        used: Permissions,
        shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        use Permissions as P;
        let (mut used, mut shared) = permissions::of_child(child.role(), false, used, shared);
        if self.reads_keys {
            // Who changes key slots does not share this: keys don't change under those who use them.
            used = used | P::CONSISTENT_READ;
        }
        if self.amending.load(Ordering::Acquire) > 0 {
            used = used | P::WRITE;
            shared = shared & (P::CONSISTENT_READ | P::WRITE).complement();
        }
        Some((used, shared))
    }

    fn set_amending(&self, amending: bool) {
        if amending {
            self.amending.fetch_add(1, Ordering::AcqRel);
        } else {
            self.amending.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn amend(&self, request: AmendRequest) -> IoFuture<'_> {
        Box::pin(async move {
            let AmendRequest { mut options, force, .. } = request;
            self.volume.amend(&mut options, force).await
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
