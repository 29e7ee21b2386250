//! Secrets: passwords and keys, as they are, in base64, or encrypted with another secret (AES-256 in CBC mode, padded by
//! PKCS #7). And the objects that tools take with `--object`: these, and certificates.

use std::sync::Arc;

use aes::Aes256;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use block::{Error, Graph, Options, Result};
use block_net::{TlsCredentials, TlsServerCredentials, X509};
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};

/// Bytes of an AES block, and of an initialisation vector.
const BLOCK: usize = 16;
/// Bytes of an AES-256 key.
const KEY: usize = 32;

/// How a secret is described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The secret.
    pub data: Option<String>,
    /// The file with the secret.
    pub file: Option<String>,
    /// It is in base64.
    pub base64: bool,
    /// The secret with the key that it is encrypted with.
    pub key_id: Option<String>,
    /// The initialisation vector in base64, if it is encrypted.
    pub iv: Option<String>,
}

impl Description {
    /// The bytes of the secret. Other secrets are those of `graph`.
    ///
    /// # Errors
    /// The description contradicts itself, the file can't be read, or the data can't be decoded.
    pub fn load(&self, graph: &Graph) -> Result<Vec<u8>> {
        let data = match (&self.data, &self.file) {
            (Some(_), Some(_)) => return Err(Error::invalid("'file' and 'data' are mutually exclusive")),
            (None, None) => return Err(Error::invalid("Either 'file' or 'data' must be provided")),
            (Some(data), None) => data.clone().into_bytes(),
            (None, Some(file)) => std::fs::read(file).map_err(|error| {
                Error::host(&error)
                    .context(format!("Failed to open file “{file}”"))
                    .context(format!("Unable to read {file}"))
            })?,
        };
        let Some(key_id) = &self.key_id else {
            return if self.base64 { decode(&data) } else { Ok(data) };
        };
        let key = graph.secret(key_id)?;
        if key.len() != KEY {
            return Err(Error::invalid(format!("Key should be {KEY} bytes in length")));
        }
        let iv = self.iv.as_ref().ok_or_else(|| Error::invalid("IV is required to decrypt secret"))?;
        let iv = decode(iv.as_bytes())?;
        if iv.len() != BLOCK {
            return Err(Error::invalid(format!("IV should be {BLOCK} bytes in length instead of {}", iv.len())));
        }
        let data = if self.base64 { decode(&data)? } else { data };
        decrypt(&key, &iv, data)
    }
}

fn decrypt(key: &[u8], iv: &[u8], mut data: Vec<u8>) -> Result<Vec<u8>> {
    let bad_length = || Error::invalid(format!("Length {} must be a multiple of block size {BLOCK}", data.len()));
    let cipher = cbc::Decryptor::<Aes256>::new_from_slices(key, iv).map_err(|_| bad_length())?;
    if data.is_empty() || !data.len().is_multiple_of(BLOCK) {
        return Err(bad_length());
    }
    cipher.decrypt_padded::<NoPadding>(&mut data).map_err(|_| Error::invalid("The data can't be decrypted"))?;
    let padding = usize::from(data.last().copied().unwrap_or(0));
    if padding > BLOCK || padding > data.len() {
        let text = format!("Incorrect number of padding bytes ({padding}) found on decrypted data");
        return Err(Error::invalid(text));
    }
    data.truncate(data.len() - padding);
    Ok(data)
}

/// The bytes of base64 text. Line feeds are skipped, and digits at the end that make no group of four.
fn decode(text: &[u8]) -> Result<Vec<u8>> {
    const DECODER: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    let invalid = || Error::invalid("Base64 data contains invalid characters");
    let mut digits: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\n').collect();
    if digits.iter().any(|byte| !(byte.is_ascii_alphanumeric() || b"+/=".contains(byte))) {
        return Err(invalid());
    }
    digits.truncate(digits.len() / 4 * 4);
    DECODER.decode(&digits).map_err(|_| invalid())
}

/// Makes the object that `text` describes known to the graph: a `secret`, or `tls-creds-x509`.
///
/// # Errors
/// If the description is wrong, there is such an object already, or the file can't be read.
pub fn add_object(graph: &Arc<Graph>, text: &str) -> Result<()> {
    let mut options = if text.trim_start().starts_with('{') {
        Options::from_value(&block::filename::parse_json(text)?)
    } else {
        crate::keyval::to_options(text, Some("qom-type"))
    };
    let kind = options.take_str("qom-type")?.ok_or_else(|| Error::invalid("Parameter 'qom-type' is missing"))?;
    if kind == "tls-creds-psk" || kind == "tls-creds-anon" {
        let text = format!("'{kind}' is not available: the TLS library has neither shared keys nor anonymous sessions");
        return Err(Error::unsupported(text));
    }
    if kind != "secret" && kind != "tls-creds-x509" {
        return Err(Error::invalid(format!("Parameter 'qom-type' does not accept value '{kind}'")));
    }
    let id = options.take_str("id")?.ok_or_else(|| Error::invalid("Parameter 'id' is missing"))?;
    let has_credentials =
        graph.object::<TlsCredentials>(&id).is_some() || graph.object::<TlsServerCredentials>(&id).is_some();
    if graph.secret(&id).is_ok() || has_credentials {
        let text = format!("attempt to add duplicate property '{id}' to object (type 'container')");
        return Err(Error::invalid(text));
    }
    // Without effect: an object is loaded when it is made.
    options.take_bool("loaded")?;
    if kind == "tls-creds-x509" {
        return add_credentials(graph, &id, options);
    }
    let description = Description {
        base64: options.take_choice("format", &["raw", "base64"])? == Some(1),
        data: options.take_str("data")?,
        file: options.take_str("file")?,
        key_id: options.take_str("keyid")?,
        iv: options.take_str("iv")?,
    };
    all_taken(&options)?;
    let bytes = description.load(graph)?;
    graph.set_secret(&id, bytes);
    Ok(())
}

fn all_taken(options: &Options) -> Result<()> {
    match options.iter().next() {
        Some((name, _)) => Err(Error::invalid(format!("Parameter '{name}' is unexpected"))),
        None => Ok(()),
    }
}

fn add_credentials(graph: &Arc<Graph>, id: &str, mut options: Options) -> Result<()> {
    let files = X509 {
        dir: options.take_str("dir")?,
        server: options.take_choice("endpoint", &["client", "server"])? == Some(1),
        verify_peer: options.take_bool("verify-peer")?,
        sanity_check: options.take_bool("sanity-check")?,
        priority: options.take_str("priority")?,
        password_id: options.take_str("passwordid")?,
    };
    all_taken(&options)?;
    graph.set_object(id, files.load()?.into_object());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Arc<Graph> {
        Graph::new(block::Registry::default())
    }

    #[test]
    fn secrets_are_inline_or_base64() {
        let graph = graph();
        add_object(&graph, "secret,id=a,data=hello").expect("inline");
        add_object(&graph, "secret,id=b,data=aGVsbG8=,format=base64").expect("base64");
        assert_eq!(*graph.secret("a").expect("known"), b"hello");
        assert_eq!(*graph.secret("b").expect("known"), b"hello");
        for (object, text) in [
            ("secret,id=c,data=a$b=,format=base64", "Base64 data contains invalid characters"),
            ("secret,id=c,data=aGVs bG8=,format=base64", "Base64 data contains invalid characters"),
            ("secret,id=c", "Either 'file' or 'data' must be provided"),
            ("secret,id=a,data=x", "attempt to add duplicate property 'a' to object (type 'container')"),
            ("secret,id=c,data=AAAA,keyid=x", "No secret with id 'x'"),
        ] {
            assert_eq!(add_object(&graph, object).expect_err(object).to_string(), text);
        }
    }

    #[test]
    fn base64_is_read_in_lines_and_in_groups_of_four() {
        for (text, bytes) in [("bGV0\nbWVpbg==\n", "letmein"), ("bGV0bWVpbg", "letmei"), ("", ""), ("YR==", "a")] {
            assert_eq!(decode(text.as_bytes()).expect(text), bytes.as_bytes(), "{text}");
        }
        for text in ["!!", "YQ==YQ==", "a\r\n"] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    /// Made with `openssl enc -aes-256-cbc` of the text `letmein`.
    #[test]
    fn a_secret_is_decrypted_with_its_key() {
        let graph = graph();
        graph.set_secret("master", (0..32).collect());
        let secret = Description {
            base64: true,
            key_id: Some("master".into()),
            iv: Some("AAECAwQFBgcICQoLDA0ODw==".into()),
            data: Some("SI4JuWqmJF8bjD9IJ662eg==".into()),
            file: None,
        };
        assert_eq!(secret.load(&graph).expect("decrypted"), b"letmein");
        let cut = Description { data: Some("AAAA".into()), ..secret.clone() };
        assert_eq!(cut.load(&graph).expect_err("cut").to_string(), "Length 3 must be a multiple of block size 16");
        graph.set_secret("master", vec![0; 31]);
        assert_eq!(secret.load(&graph).expect_err("short").to_string(), "Key should be 32 bytes in length");
    }
}
