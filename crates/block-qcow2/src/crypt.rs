//! Encryption of data clusters: LUKS with a header inside of the image ("Data Encryption"), and the old AES method.
//!
//! LUKS numbers sectors by their host offset in the file of the data, AES by the guest offset. Compressed clusters are
//! never encrypted, so that compressed writes are refused.

use std::sync::Arc;

use block::{Child, Error, Graph, OpenFlags, Options, Result, Value};
use block_luks::cipher::{Scheme, SectorCipher};
use block_luks::volume::{Place, Unlock, Volume};
use iobuf::IoBuf;

use crate::header::Header;
use crate::image::Image;

/// Bytes of a sector of encryption.
const SECTOR: u64 = 512;
/// The method AES: 128 bits in CBC mode, the key is the passphrase itself.
pub const AES: u32 = 1;
/// The method LUKS.
pub const LUKS: u32 = 2;
/// Bytes of a key of the method AES.
const AES_KEY: usize = 16;

/// How an image is encrypted.
#[derive(Default)]
pub struct Encryption {
    /// The LUKS header, if there is one.
    pub luks: Option<Volume>,
    /// The cipher; `None` if there is none, or only metadata is wanted.
    cipher: Option<Arc<SectorCipher>>,
    /// The id of the secret.
    pub key_secret: Option<String>,
}

impl Encryption {
    /// Finds out with the options below `encrypt` how the image is to be decrypted.
    ///
    /// # Errors
    /// The options do not fit the image, there is no such secret, or it is the wrong one.
    pub async fn open(
        graph: &Arc<Graph>,
        file: &Arc<Child>,
        header: &Header,
        mut options: Options,
        flags: OpenFlags,
    ) -> Result<Self> {
        let format = options.take_str("format")?;
        let known = match header.crypt_method {
            AES => "aes",
            LUKS => "luks",
            _ => {
                if let Some(format) = format {
                    let text = format!("No encryption in image header, but options specified format '{format}'");
                    return Err(Error::invalid(text));
                }
                return Ok(Self::default());
            }
        };
        if let Some(format) = format.filter(|format| format != known) {
            let text = format!("Header reported '{known}' encryption format but options specify '{format}'");
            return Err(Error::invalid(text));
        }
        let key_secret = options.take_str("key-secret")?;
        if let Some((name, _)) = options.iter().next() {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        }
        if known == "luks" {
            return Self::open_luks(graph, file, header, key_secret, flags).await;
        }
        if flags.no_io {
            return Ok(Self { key_secret, ..Self::default() });
        }
        let id = key_secret
            .as_deref()
            .ok_or_else(|| Error::invalid("Parameter 'encrypt.key-secret' is required for cipher"))?;
        let mut key = graph.secret(id)?.to_vec();
        key.resize(AES_KEY, 0);
        let scheme = Scheme::from_header("aes", "cbc-plain64", AES_KEY)?;
        Ok(Self { luks: None, cipher: Some(Arc::new(SectorCipher::new(&scheme, &key)?)), key_secret })
    }

    async fn open_luks(
        graph: &Arc<Graph>,
        file: &Arc<Child>,
        header: &Header,
        key_secret: Option<String>,
        flags: OpenFlags,
    ) -> Result<Self> {
        let Some((start, len)) = header.crypto else {
            return Err(Error::invalid("The image says that it is encrypted with LUKS, but has no encryption header"));
        };
        let cluster = 1u64 << header.cluster_bits;
        if start & (cluster - 1) != 0 {
            let text = format!("Encryption header offset '{start}' is not a multiple of cluster size '{cluster}'");
            return Err(Error::invalid(text));
        }
        let (file, graph) = (Arc::clone(file), Arc::clone(graph));
        let place = Place { file, start, graph, key_secret: key_secret.clone(), prefix: "encrypt." };
        let volume = Volume::open(place, if flags.no_io { Unlock::No } else { Unlock::Yes }).await?;
        if volume.header().payload_offset_bytes() > len {
            return Err(Error::invalid("Request for data outside of extension header"));
        }
        let cipher = if flags.no_io { None } else { Some(volume.cipher()?) };
        Ok(Self { luks: Some(volume), cipher, key_secret })
    }

    /// Whether data is encrypted.
    pub fn is_on(&self) -> bool {
        self.cipher.is_some()
    }
}

impl Image {
    /// The number of the first sector of data.
    fn first_sector(&self, guest: u64, host: u64) -> u64 {
        (if self.encryption.luks.is_some() { host } else { guest }) / SECTOR
    }

    /// What is to be written of `buf`: itself, or an encrypted copy.
    pub(crate) fn encrypted(&self, guest: u64, host: u64, buf: IoBuf) -> IoBuf {
        let Some(cipher) = &self.encryption.cipher else { return buf };
        let mut bytes = buf.to_vec();
        cipher.encrypt(self.first_sector(guest, host), &mut bytes);
        IoBuf::copy_of(&bytes)
    }

    /// Reads data at `host` and decrypts it.
    pub(crate) async fn read_data(&self, guest: u64, host: u64, buf: IoBuf) -> Result<()> {
        let Some(cipher) = &self.encryption.cipher else { return self.data().read(host, buf).await };
        // Guests may see the buffer: what is encrypted does not go there.
        let mut bytes = self.data().read_vec(host, buf.len()).await?;
        cipher.decrypt(self.first_sector(guest, host), &mut bytes);
        buf.write_at(0, &bytes);
        Ok(())
    }

    /// As `ImageInfoSpecificQCow2Encryption`.
    pub(crate) fn encryption_value(&self, method: u32) -> Option<Value> {
        let mut entries = vec![("format".to_owned(), Value::from(if method == AES { "aes" } else { "luks" }))];
        if let Some(volume) = &self.encryption.luks {
            entries.extend(volume.to_entries());
        }
        (method != 0).then_some(Value::Dict(entries))
    }

    /// Changes key slots.
    pub(crate) async fn amend_encryption(&self, mut options: Options, force: bool) -> Result<()> {
        if options.is_empty() {
            return Ok(());
        }
        if self.header().crypt_method == 0 {
            return Err(Error::unsupported("Can't amend encryption options - encryption not present"));
        }
        let Some(volume) = &self.encryption.luks else {
            return Err(Error::unsupported("Only LUKS encryption options can be amended"));
        };
        if options.take_str("format")?.is_some_and(|format| format != "luks") {
            return Err(Error::unsupported("Changing the encryption format is not supported"));
        }
        volume.amend(&mut options, force).await
    }
}
