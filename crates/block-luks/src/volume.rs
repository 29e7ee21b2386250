//! A volume header in a file: opening it with a passphrase, changing its key slots, and what tools print of it.
//!
//! The driver `luks` has it at the start of its file, other formats (qcow2) somewhere inside.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use block::{Child, Error, Graph, Options, Result, Value};

use crate::cipher::{Algorithm, IvGenerator, Mode, Scheme, SectorCipher};
use crate::hash::Hash;
use crate::header::{HEADER_LEN, Header, Piece, SLOTS};

/// Where a volume is, and who knows its passphrase.
pub struct Place {
    /// The file.
    pub file: Arc<Child>,
    /// Where in the file the header starts, bytes.
    pub start: u64,
    /// The graph that knows the secrets.
    pub graph: Arc<Graph>,
    /// The id of the secret with the passphrase.
    pub key_secret: Option<String>,
    /// What the names of options start with in messages, as `encrypt.`.
    pub prefix: &'static str,
}

/// Whether the data will be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlock {
    /// The passphrase is needed.
    Yes,
    /// Only metadata is wanted.
    No,
}

/// An open volume header.
pub struct Volume {
    file: Arc<Child>,
    start: u64,
    graph: Arc<Graph>,
    header: Mutex<Header>,
    /// One change of the header at a time.
    amending: tokio::sync::Mutex<()>,
    cipher: Option<Arc<SectorCipher>>,
    key_secret: Option<String>,
}

/// A new volume's header: what is to be written, relative to its start.
pub struct NewVolume {
    /// The header.
    pub header: Header,
    /// The header's and the key material's bytes.
    pub pieces: Vec<Piece>,
}

/// Makes a header by the options of creation: `key-secret`, `cipher-alg`, `cipher-mode`, `hash-alg`, `ivgen-alg`,
/// `ivgen-hash-alg`, `iter-time`. `prefix` is as in [`Place`].
///
/// # Errors
/// Wrong options, an unknown secret.
pub async fn create(graph: &Graph, options: &mut Options, prefix: &str) -> Result<NewVolume> {
    let secret = options
        .take_str("key-secret")?
        .ok_or_else(|| Error::invalid(format!("Parameter '{prefix}key-secret' is required for cipher")))?;
    let passphrase = graph.secret(&secret)?;
    let (scheme, hash) = take_scheme(options)?;
    let time = take_time(options)?;
    let (header, _, pieces) = aio::spawn_blocking(move || Header::create(scheme, hash, &passphrase, time)).await?;
    Ok(NewVolume { header, pieces })
}

/// Bytes of a header with its key material for these options of creation. The options are taken.
///
/// # Errors
/// An unknown name.
pub fn header_bytes(options: &mut Options) -> Result<u64> {
    options.take("key-secret");
    options.take("iter-time");
    let (scheme, _) = take_scheme(options)?;
    let material = (scheme.volume_key_len() as u64 * 4000).next_multiple_of(4096);
    Ok(4096 + material * SLOTS as u64)
}

/// Takes the options that choose ciphers and hashes.
///
/// # Errors
/// An unknown name.
pub fn take_scheme(options: &mut Options) -> Result<(Scheme, Hash)> {
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

/// Writes the pieces of a header that starts at `start`.
///
/// # Errors
/// The file's.
pub async fn write_pieces(file: &Child, start: u64, pieces: &[Piece]) -> Result<()> {
    // Key material first: a header never names a slot that is not there.
    for (offset, bytes) in pieces.iter().rev() {
        file.write_bytes(start + *offset, bytes).await?;
        file.flush().await?;
    }
    Ok(())
}

/// The volume key, if `passphrase` opens a slot.
async fn unlock(file: &Child, start: u64, header: &Header, passphrase: &Arc<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    for slot in 0..SLOTS {
        if header.slots[slot].active
            && let Some(key) = try_slot(file, start, header, slot, passphrase).await?
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

async fn try_slot(
    file: &Child,
    start: u64,
    header: &Header,
    slot: usize,
    passphrase: &Arc<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    let material = file.read_vec(start + header.material_offset(slot), header.material_len()).await?;
    let (header, passphrase) = (header.clone(), Arc::clone(passphrase));
    aio::spawn_blocking(move || header.open_slot(slot, &passphrase, material)).await
}

impl Volume {
    /// Opens the volume at `place`.
    ///
    /// # Errors
    /// There is no header, or the passphrase does not fit.
    pub async fn open(place: Place, unlock_it: Unlock) -> Result<Self> {
        let Place { file, start, graph, key_secret, prefix } = place;
        let header = Header::parse(&file.read_vec(start, HEADER_LEN).await?)?;
        let cipher = if unlock_it == Unlock::No {
            None
        } else {
            let secret = key_secret
                .as_deref()
                .ok_or_else(|| Error::invalid(format!("Parameter '{prefix}key-secret' is required for cipher")))?;
            let passphrase = graph.secret(secret)?;
            let key = unlock(&file, start, &header, &passphrase)
                .await?
                .ok_or_else(|| Error::permission("Invalid password, cannot unlock any keyslot"))?;
            Some(Arc::new(SectorCipher::new(&header.scheme, &key)?))
        };
        Ok(Self {
            file,
            start,
            graph,
            header: Mutex::new(header),
            amending: tokio::sync::Mutex::new(()),
            cipher,
            key_secret,
        })
    }

    /// The cipher of the data.
    ///
    /// # Errors
    /// The volume was not unlocked.
    pub fn cipher(&self) -> Result<Arc<SectorCipher>> {
        self.cipher.clone().ok_or_else(|| Error::invalid("The image was opened without its key"))
    }

    /// The id of the secret with the passphrase.
    pub fn key_secret(&self) -> Option<&str> {
        self.key_secret.as_deref()
    }

    /// The header.
    pub fn header(&self) -> Header {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What tools print, as `QCryptoBlockInfoLUKS`.
    pub fn to_entries(&self) -> Vec<(String, Value)> {
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
        data.push(("payload-offset".to_owned(), header.payload_offset_bytes().into()));
        data.push(("master-key-iters".to_owned(), u64::from(header.digest_iterations).into()));
        data.push(("uuid".to_owned(), header.uuid.as_str().into()));
        data.push(("slots".to_owned(), Value::List(slots.collect())));
        data
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
            if header.slots[slot].active && try_slot(&self.file, self.start, header, slot, old).await?.is_some() {
                matching.push(slot);
            }
        }
        if matching.is_empty() {
            return Err(Error::invalid("No keyslots match given (old) password for erase operation"));
        }
        Ok(matching)
    }

    /// Changes key slots: options `state`, `new-secret`, `old-secret`, `keyslot`, `iter-time`, and `secret`, which opens a
    /// slot if the one that the image was opened with does not any more; with `force`, even if that makes the data
    /// unreadable.
    ///
    /// # Errors
    /// Wrong options, unknown secrets, and what the file gives.
    pub async fn amend(&self, options: &mut Options, force: bool) -> Result<()> {
        let _one = self.amending.lock().await;
        let active = options
            .take_choice("state", &["inactive", "active"])?
            .ok_or_else(|| Error::invalid("Parameter 'state' is missing"))?
            == 1;
        let secret = |id: Option<String>| id.map(|id| self.graph.secret(&id)).transpose();
        let new = secret(options.take_str("new-secret")?)?;
        let old = secret(options.take_str("old-secret")?)?;
        let own = options.take_str("secret")?.or_else(|| self.key_secret.clone());
        let keyslot = options.take_u64("keyslot")?;
        let time = take_time(options)?;
        if let Some((name, _)) = options.iter().next() {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        }
        let mut header = self.header();
        let pieces = if active {
            if old.is_some() {
                return Err(Error::invalid("'old-secret' must not be given when activating keyslots"));
            }
            let own = own.ok_or_else(|| Error::invalid("The image was opened without its key"))?;
            let own = self.graph.secret(&own)?;
            self.add_key(&mut header, new, &own, keyslot, time, force).await?
        } else {
            self.erase_keys(&mut header, new.is_some(), old, keyslot, force).await?
        };
        write_pieces(&self.file, self.start, &pieces).await?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
        Ok(())
    }

    async fn add_key(
        &self,
        header: &mut Header,
        new: Option<Arc<Vec<u8>>>,
        own: &Arc<Vec<u8>>,
        keyslot: Option<u64>,
        time: Duration,
        force: bool,
    ) -> Result<Vec<Piece>> {
        let new = new.ok_or_else(|| Error::invalid("'new-secret' is required to activate a keyslot"))?;
        let slot = match keyslot {
            Some(_) => self.affected(header, keyslot, None).await?[0],
            None => (0..SLOTS)
                .find(|slot| !header.slots[*slot].active)
                .ok_or_else(|| Error::invalid("Can't add a keyslot - all keyslots are in use"))?,
        };
        if header.slots[slot].active && !force {
            return Err(Error::invalid(format!("Refusing to overwrite active keyslot {slot} - please erase it first")));
        }
        let key = unlock(&self.file, self.start, header, own)
            .await?
            .ok_or_else(|| Error::permission("Invalid password, cannot unlock any keyslot"))?;
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
            let all = "will erase all the data in the image irreversibly - refusing operation";
            return Err(Error::invalid(match keyslot {
                Some(slot) => format!("Attempt to erase the only active keyslot {slot} which {all}"),
                None => {
                    format!("All the active keyslots match the (old) password that was given and erasing them {all}")
                }
            }));
        }
        // The header goes first here, so that a crash leaves no slot that looks usable.
        let erased: Vec<Piece> = slots.iter().map(|slot| header.erase_slot(*slot)).collect::<Result<_>>()?;
        let mut pieces = erased;
        pieces.push((0, header.to_bytes()));
        Ok(pieces)
    }
}
