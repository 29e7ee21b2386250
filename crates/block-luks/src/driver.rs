//! The driver `luks`: a volume header, then the data, encrypted by sectors.
//!
//! Options: `key-secret`, the id of a secret with the passphrase. Sectors are numbered from the start of the data.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use block::create::{CreateOption, CreateOptionKind, CreateRequest, Measure, MeasureRequest};
use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::image::{AmendRequest, ImageDetails};
use block::{
    BlockStatus, Child, Error, Graph, Limits, OpenRequest, Options, Preallocation, Result, Role, Value, WriteFlags,
};
use iobuf::IoBuf;

use crate::cipher::{Algorithm, IvGenerator, Mode, SECTOR, Scheme, SectorCipher};
use crate::hash::Hash;
use crate::header::{HEADER_LEN, Header, Piece, SLOTS};

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
    option("new-secret", CreateOptionKind::Text, "New secret to set in the matching keyslots"),
    option("old-secret", CreateOptionKind::Text, "Select all keyslots that match this password"),
    option("state", CreateOptionKind::Text, "Select new state of affected keyslots (active/inactive)"),
];

struct Luks {
    file: Arc<Child>,
    graph: Arc<Graph>,
    header: Mutex<Header>,
    /// One change of the header at a time.
    amending: tokio::sync::Mutex<()>,
    /// `None` when only metadata is wanted.
    cipher: Option<Arc<SectorCipher>>,
    payload: u64,
    key_secret: Option<String>,
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
            let file = request.child("file", Role::Storage).await?;
            request.finish()?;
            let header = Header::parse(&file.read_vec(0, HEADER_LEN).await?)?;
            let cipher = if request.flags.no_io {
                None
            } else {
                let secret = key_secret
                    .as_deref()
                    .ok_or_else(|| Error::invalid("Parameter 'key-secret' is required for cipher"))?;
                let passphrase = request.graph.secret(secret)?;
                let key = unlock(&file, &header, &passphrase)
                    .await?
                    .ok_or_else(|| Error::permission("Invalid password, cannot unlock any keyslot"))?;
                Some(Arc::new(SectorCipher::new(&header.scheme, &key)?))
            };
            let payload = header.payload_offset_bytes();
            let driver = Luks {
                file,
                graph: Arc::clone(&request.graph),
                header: Mutex::new(header),
                amending: tokio::sync::Mutex::new(()),
                cipher,
                payload,
                key_secret,
            };
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
            let secret = request
                .options
                .take_str("key-secret")?
                .ok_or_else(|| Error::invalid("Parameter 'key-secret' is required for cipher"))?;
            let passphrase = request.graph.secret(&secret)?;
            let (scheme, hash) = take_scheme(&mut request.options)?;
            let time = take_time(&mut request.options)?;
            let size = request.size;
            request.finish()?;
            let (header, _, pieces) =
                aio::spawn_blocking(move || Header::create(scheme, hash, &passphrase, time)).await?;
            let total = size
                .checked_add(header.payload_offset_bytes())
                .ok_or_else(|| Error::too_big("The requested file size is too large"))?;
            file.truncate(total, false, preallocation).await?;
            write_pieces(&file, &pieces).await
        })
    }

    fn measure(&self, request: MeasureRequest) -> IoFuture<'static, Measure> {
        Box::pin(async move {
            let mut options = request.options.clone();
            for name in ["key-secret", "hash-alg", "iter-time", "preallocation"] {
                options.take(name);
            }
            let (scheme, _) = take_scheme(&mut options)?;
            let material = (scheme.volume_key_len() as u64 * 4000).next_multiple_of(4096);
            let total = request
                .size
                .checked_add(4096 + material * SLOTS as u64)
                .ok_or_else(|| Error::too_big("The requested file size is too large"))?;
            Ok(Measure { required: total, fully_allocated: total, bitmaps: None })
        })
    }
}

fn take_scheme(options: &mut Options) -> Result<(Scheme, Hash)> {
    let mut text = |name: &str, default: &str| options.take_str(name).map(|v| v.unwrap_or_else(|| default.to_owned()));
    let algorithm = Algorithm::by_name(&text("cipher-alg", "aes-256")?)?;
    let mode = Mode::by_name(&text("cipher-mode", "xts")?)?;
    let hash = Hash::by_name(&text("hash-alg", "sha256")?)?;
    let generator = text("ivgen-alg", "plain64")?;
    let iv_hash = text("ivgen-hash-alg", hash.name())?;
    let iv = match generator.as_str() {
        "essiv" => IvGenerator::Essiv(Hash::by_name(&iv_hash)?),
        name => IvGenerator::by_name(name)?,
    };
    Ok((Scheme { algorithm, mode, iv }, hash))
}

fn take_time(options: &mut Options) -> Result<Duration> {
    match options.take_u64("iter-time")? {
        Some(0) => Err(Error::invalid("iter-time must be at least 1 millisecond")),
        ms => Ok(Duration::from_millis(ms.unwrap_or(2000).min(3_600_000))),
    }
}

async fn write_pieces(file: &Child, pieces: &[Piece]) -> Result<()> {
    // Key material first: a header never names a slot that is not there.
    for (offset, bytes) in pieces.iter().rev() {
        file.write_bytes(*offset, bytes).await?;
        file.flush().await?;
    }
    Ok(())
}

/// The volume key, if `passphrase` opens a slot.
async fn unlock(file: &Child, header: &Header, passphrase: &Arc<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    for slot in 0..SLOTS {
        if header.slots[slot].active
            && let Some(key) = try_slot(file, header, slot, passphrase).await?
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

async fn try_slot(file: &Child, header: &Header, slot: usize, passphrase: &Arc<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    let material = file.read_vec(header.material_offset(slot), header.material_len()).await?;
    let (header, passphrase) = (header.clone(), Arc::clone(passphrase));
    aio::spawn_blocking(move || header.open_slot(slot, &passphrase, material)).await
}

impl Luks {
    fn cipher(&self) -> Result<Arc<SectorCipher>> {
        self.cipher.clone().ok_or_else(|| Error::invalid("The image was opened without its key"))
    }

    fn header(&self) -> Header {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The slots that an amendment means, and the volume key if it had to be found.
    async fn affected(&self, header: &Header, keyslot: Option<u64>, old: Option<&Arc<Vec<u8>>>) -> Result<Vec<usize>> {
        let chosen = match keyslot {
            Some(slot) if slot >= SLOTS as u64 => {
                return Err(Error::invalid(format!("Invalid keyslot {slot}. Keyslots 0..{} are supported", SLOTS - 1)));
            }
            Some(slot) => vec![usize::try_from(slot).unwrap_or(0)],
            None => (0..SLOTS).collect(),
        };
        let Some(old) = old else { return Ok(chosen) };
        let mut matching = Vec::new();
        for slot in chosen {
            if header.slots[slot].active && try_slot(&self.file, header, slot, old).await?.is_some() {
                matching.push(slot);
            }
        }
        if matching.is_empty() {
            return Err(Error::invalid("No keyslots match given (old) password for erase operation"));
        }
        Ok(matching)
    }

    async fn amend(&self, mut request: AmendRequest) -> Result<()> {
        let _one = self.amending.lock().await;
        let options = &mut request.options;
        let active = options
            .take_choice("state", &["inactive", "active"])?
            .ok_or_else(|| Error::invalid("Parameter 'state' is missing"))?
            == 1;
        let secret = |id: Option<String>| id.map(|id| self.graph.secret(&id)).transpose();
        let new = secret(options.take_str("new-secret")?)?;
        let old = secret(options.take_str("old-secret")?)?;
        let keyslot = options.take_u64("keyslot")?;
        let time = take_time(options)?;
        if let Some((name, _)) = options.iter().next() {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        }
        let mut header = self.header();
        let pieces = if active {
            self.add_key(&mut header, new, old, keyslot, time, request.force).await?
        } else {
            self.erase_keys(&mut header, new.is_some(), old, keyslot, request.force).await?
        };
        write_pieces(&self.file, &pieces).await?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
        Ok(())
    }

    async fn add_key(
        &self,
        header: &mut Header,
        new: Option<Arc<Vec<u8>>>,
        old: Option<Arc<Vec<u8>>>,
        keyslot: Option<u64>,
        time: Duration,
        force: bool,
    ) -> Result<Vec<Piece>> {
        let new = new.ok_or_else(|| Error::invalid("'new-secret' is required to activate a keyslot"))?;
        if old.is_some() {
            return Err(Error::invalid("'old-secret' must not be given when activating keyslots"));
        }
        let slot = match keyslot {
            Some(_) => self.affected(header, keyslot, None).await?[0],
            None => (0..SLOTS)
                .find(|slot| !header.slots[*slot].active)
                .ok_or_else(|| Error::invalid("Can't add a keyslot - all keyslots are in use"))?,
        };
        if header.slots[slot].active && !force {
            return Err(Error::invalid(format!("Refusing to overwrite active keyslot {slot} - please erase it first")));
        }
        let own = self.key_secret.as_deref().ok_or_else(|| Error::invalid("The image was opened without its key"))?;
        let passphrase = self.graph.secret(own)?;
        let key = unlock(&self.file, header, &passphrase)
            .await?
            .ok_or_else(|| Error::permission("Failed to retrieve the master key"))?;
        let mut changed = header.clone();
        let (changed, piece) = aio::spawn_blocking(move || {
            let piece = changed.close_slot(slot, &new, &key, time);
            (changed, piece)
        })
        .await;
        *header = changed;
        Ok(vec![(0, header.to_bytes()), piece?])
    }

    async fn erase_keys(
        &self,
        header: &mut Header,
        has_new: bool,
        old: Option<Arc<Vec<u8>>>,
        keyslot: Option<u64>,
        force: bool,
    ) -> Result<Vec<Piece>> {
        if has_new {
            return Err(Error::invalid("'new-secret' must not be given when erasing keyslots"));
        }
        if old.is_none() && keyslot.is_none() {
            return Err(Error::invalid(
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given",
            ));
        }
        let slots = self.affected(header, keyslot, old.as_ref()).await?;
        let remaining = (0..SLOTS).filter(|slot| header.slots[*slot].active && !slots.contains(slot)).count();
        if remaining == 0 && !force {
            return Err(Error::invalid(
                "Attempt to erase the only active keyslot which will erase all the data in the image irreversibly - refusing operation",
            ));
        }
        // The header goes first here, so that a crash leaves no slot that looks usable.
        let erased: Vec<Piece> = slots.iter().map(|slot| header.erase_slot(*slot)).collect::<Result<_>>()?;
        let mut pieces = erased;
        pieces.push((0, header.to_bytes()));
        Ok(pieces)
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
            let cipher = self.cipher()?;
            let mut data = self.file.read_vec(self.payload + offset, buf.len()).await?;
            cipher.decrypt(offset / SECTOR as u64, &mut data);
            buf.write_at(0, &data);
            Ok(())
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let cipher = self.cipher()?;
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
        let header = self.header();
        let slots = header.slots.iter().enumerate().map(|(index, slot)| {
            let mut entry = vec![("active".to_owned(), Value::from(slot.active))];
            if slot.active {
                entry.push(("iters".to_owned(), u64::from(slot.iterations).into()));
                entry.push(("stripes".to_owned(), u64::from(slot.stripes).into()));
            }
            entry.push(("key-offset".to_owned(), header.material_offset(index).into()));
            Value::Dict(entry)
        });
        let mut data = vec![
            ("cipher-alg".to_owned(), Value::from(header.scheme.algorithm.name())),
            ("cipher-mode".to_owned(), header.scheme.mode.name().into()),
            ("ivgen-alg".to_owned(), header.scheme.iv.name().into()),
        ];
        if let IvGenerator::Essiv(hash) = header.scheme.iv {
            data.push(("ivgen-hash-alg".to_owned(), hash.name().into()));
        }
        data.push(("hash-alg".to_owned(), header.hash.name().into()));
        data.push(("payload-offset".to_owned(), self.payload.into()));
        data.push(("master-key-iters".to_owned(), u64::from(header.digest_iterations).into()));
        data.push(("uuid".to_owned(), header.uuid.as_str().into()));
        data.push(("slots".to_owned(), Value::List(slots.collect())));
        ImageDetails {
            encrypted: true,
            specific: Some(("luks".to_owned(), Value::Dict(data))),
            ..ImageDetails::default()
        }
    }

    fn strong_options(&self) -> Options {
        match &self.key_secret {
            Some(secret) => Options::new().with("key-secret", secret.as_str()),
            None => Options::new(),
        }
    }

    fn exact_filename(&self) -> Option<String> {
        // The key does not change which bytes the name means.
        block::filename::exact(&self.file.node())
    }

    fn reopen(&self, mut options: Options, _read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            if options.take_str("key-secret")? != self.key_secret {
                return Err(Error::invalid("Cannot change the option 'key-secret'"));
            }
            Ok(())
        })
    }

    fn amend(&self, request: AmendRequest) -> IoFuture<'_> {
        Box::pin(Luks::amend(self, request))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
