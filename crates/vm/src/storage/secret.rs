//! Secrets: passwords and keys, as they are or encrypted with another secret (AES-256 in CBC mode, padded by PKCS #7).

use aes::Aes256;
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use qapi::Error;
use qapi::objects::{QCryptoSecretFormat, SecretProperties};

/// Bytes of an AES block, and of an initialisation vector.
const BLOCK: usize = 16;
/// Bytes of an AES-256 key.
const KEY: usize = 32;

/// The bytes of a secret. `find` gives other secrets.
///
/// # Errors
/// Properties contradict each other, the file can't be read, or the data can't be decoded.
pub fn load(
    properties: &SecretProperties,
    find: impl FnOnce(&str) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let data = match (&properties.data, &properties.file) {
        (Some(_), Some(_)) => return Err(Error::generic("'file' and 'data' are mutually exclusive")),
        (None, None) => return Err(Error::generic("Either 'file' or 'data' must be provided")),
        (Some(data), None) => data.clone().into_bytes(),
        (None, Some(file)) => std::fs::read(file).map_err(|error| {
            let reason = crate::host_error(&error);
            Error::generic(format!("Unable to read {file}: Failed to open file \u{201c}{file}\u{201d}: {reason}"))
        })?,
    };
    let is_base64 = properties.format == Some(QCryptoSecretFormat::Base64);
    let Some(key_id) = &properties.keyid else {
        return if is_base64 { decode_base64(&data) } else { Ok(data) };
    };
    let key = find(key_id)?;
    if key.len() != KEY {
        return Err(Error::generic(format!("Key should be {KEY} bytes in length")));
    }
    let iv = properties.iv.as_ref().ok_or_else(|| Error::generic("IV is required to decrypt secret"))?;
    let iv = decode_base64(iv.as_bytes())?;
    if iv.len() != BLOCK {
        let text = format!("IV should be {BLOCK} bytes in length instead of {}", iv.len());
        return Err(Error::generic(text));
    }
    let data = if is_base64 { decode_base64(&data)? } else { data };
    decrypt(&key, &iv, data)
}

fn decrypt(key: &[u8], iv: &[u8], mut data: Vec<u8>) -> Result<Vec<u8>, Error> {
    let bad_length = || Error::generic(format!("Length {} must be a multiple of block size {BLOCK}", data.len()));
    let cipher = cbc::Decryptor::<Aes256>::new_from_slices(key, iv).map_err(|_| bad_length())?;
    if data.is_empty() || !data.len().is_multiple_of(BLOCK) {
        return Err(bad_length());
    }
    cipher.decrypt_padded::<NoPadding>(&mut data).map_err(|_| Error::generic("The data can't be decrypted"))?;
    let padding = usize::from(data.last().copied().unwrap_or(0));
    if padding > BLOCK || padding > data.len() {
        let text = format!("Incorrect number of padding bytes ({padding}) found on decrypted data");
        return Err(Error::generic(text));
    }
    data.truncate(data.len() - padding);
    Ok(data)
}

/// Decodes base64; line ends are skipped.
pub fn decode_base64(text: &[u8]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut buffer, mut bits) = (0u32, 0);
    for symbol in text.iter().filter(|symbol| !matches!(symbol, b'\r' | b'\n')) {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return Err(Error::generic("Base64 data contains invalid characters")),
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(id: &str) -> Result<Vec<u8>, Error> {
        Err(Error::generic(format!("No secret with id '{id}'")))
    }

    #[test]
    fn secret_is_plain_or_in_base64() {
        let plain = SecretProperties { data: Some("letmein".into()), ..SecretProperties::default() };
        assert_eq!(load(&plain, none), Ok(b"letmein".to_vec()));
        let format = Some(QCryptoSecretFormat::Base64);
        let coded = SecretProperties { data: Some("bGV0\nbWVpbg==".into()), format, ..SecretProperties::default() };
        assert_eq!(load(&coded, none), Ok(b"letmein".to_vec()));
        let bad = SecretProperties { data: Some("!!".into()), format, ..SecretProperties::default() };
        let error = load(&bad, none).map_err(|error| error.desc);
        assert_eq!(error, Err("Base64 data contains invalid characters".to_owned()));
    }

    /// Made with `openssl enc -aes-256-cbc` of the text `letmein`.
    #[test]
    fn secret_is_decrypted_with_its_key() {
        let secret = SecretProperties {
            format: Some(QCryptoSecretFormat::Base64),
            keyid: Some("master".into()),
            iv: Some("AAECAwQFBgcICQoLDA0ODw==".into()),
            data: Some(CIPHERTEXT.into()),
            ..SecretProperties::default()
        };
        let key = |id: &str| {
            assert_eq!(id, "master");
            Ok((0..32).collect())
        };
        assert_eq!(load(&secret, key), Ok(b"letmein".to_vec()));
        let short = load(&secret, |_| Ok(vec![0; 31])).map_err(|error| error.desc);
        assert_eq!(short, Err("Key should be 32 bytes in length".to_owned()));
        let cut = SecretProperties { data: Some("AAAA".into()), ..secret };
        assert!(load(&cut, |_| Ok(vec![0; 32])).is_err());
    }

    const CIPHERTEXT: &str = "SI4JuWqmJF8bjD9IJ662eg==";
}
