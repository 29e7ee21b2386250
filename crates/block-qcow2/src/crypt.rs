//! The seam for encryption: who encrypts sectors implements [`SectorCipher`].

use block::Result;
use iobuf::IoBuf;

use crate::image::Image;

/// Bytes of a sector of encryption.
pub const SECTOR: u64 = 512;

/// Encrypts and decrypts sectors in place.
///
/// For LUKS the sector number is that of the host offset in the data file, for the old AES method that of the guest
/// offset.
pub trait SectorCipher: Send + Sync {
    /// Whether sector numbers count host offsets (LUKS) rather than guest offsets (AES).
    fn counts_host_sectors(&self) -> bool;

    /// Encrypts whole sectors, the first of which is number `sector`.
    ///
    /// # Errors
    /// If the cipher fails.
    fn encrypt(&self, sector: u64, data: &mut [u8]) -> Result<()>;

    /// Decrypts whole sectors.
    ///
    /// # Errors
    /// If the cipher fails.
    fn decrypt(&self, sector: u64, data: &mut [u8]) -> Result<()>;
}

impl Image {
    /// What is to be written of `buf`: itself, or an encrypted copy.
    pub(crate) fn encrypted(&self, guest: u64, host: u64, buf: IoBuf) -> Result<IoBuf> {
        let Some(cipher) = &self.cipher else { return Ok(buf) };
        let mut bytes = buf.to_vec();
        let at = if cipher.counts_host_sectors() { host } else { guest };
        cipher.encrypt(at / SECTOR, &mut bytes)?;
        Ok(IoBuf::copy_of(&bytes))
    }

    /// Decrypts what was read into `buf`.
    pub(crate) fn decrypt(&self, guest: u64, host: u64, buf: &IoBuf) -> Result<()> {
        let Some(cipher) = &self.cipher else { return Ok(()) };
        let mut bytes = buf.to_vec();
        let at = if cipher.counts_host_sectors() { host } else { guest };
        cipher.decrypt(at / SECTOR, &mut bytes)?;
        buf.write_at(0, &bytes);
        Ok(())
    }
}
