//! What the VNC and SPICE servers of a program have in common.

use std::time::SystemTime;

use ::vnc::Address;
use qapi::sockets::NetworkAddressFamily;

use crate::storage::Storage;

/// What an option for a server on the command line asks for can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{option}: {message}")]
pub struct ViewerError {
    /// The option and its value.
    pub option: String,
    /// Why not.
    pub message: String,
}

/// An address as monitors show it: the host, the port or path, and the family.
pub fn parts(address: &Address) -> (String, String, NetworkAddressFamily) {
    match address {
        Address::Inet(address) => {
            let family = if address.is_ipv6() { NetworkAddressFamily::Ipv6 } else { NetworkAddressFamily::Ipv4 };
            (address.ip().to_string(), address.port().to_string(), family)
        }
        Address::Unix(path) => (String::new(), path.clone(), NetworkAddressFamily::Unix),
        Address::Unknown => (String::new(), String::new(), NetworkAddressFamily::Unknown),
    }
}

/// The password in a secret.
///
/// # Errors
/// There is no such secret, or it is no text.
pub fn secret_text(storage: &Storage, id: &str) -> Result<String, String> {
    let bytes = storage.graph().secret(id).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("Data from secret {id} is not valid UTF-8"))?;
    Ok(text.to_owned())
}

/// When a password ends, in seconds since 1970. What is no number is 0, as C reads it.
pub fn expiry(time: &str) -> Option<u64> {
    let number = |text: &str| {
        let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end).and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0)
    };
    match time {
        "now" => Some(0),
        "never" => None,
        _ => Some(match time.strip_prefix('+') {
            Some(seconds) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
                now.saturating_add(number(seconds))
            }
            None => number(time),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_expiry_are_read_as_c_reads_them() {
        assert_eq!(expiry("never"), None);
        assert_eq!(expiry("now"), Some(0));
        assert_eq!(expiry("1700000000 or so"), Some(1_700_000_000));
        assert_eq!(expiry("soon"), Some(0));
        assert!(expiry("+60") > expiry("+1"));
    }
}
