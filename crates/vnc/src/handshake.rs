//! From a connection to a client that may look: version, security, password (RFC 6143, sections 7.1 and 7.2; VeNCrypt 0.2
//! of `rfbproto`).

use std::io;
use std::sync::Arc;

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use listen::Address;

use crate::channel::Channel;
use crate::client::Client;
use crate::display::{Auth, Display, SecuritySub};
use crate::sasl;

const VERSION: &[u8; 12] = b"RFB 003.008\n";
const SECURITY_NONE: u8 = 1;
const SECURITY_VNC: u8 = 2;
const SECURITY_VENCRYPT: u8 = 19;
const SECURITY_SASL: u8 = 20;
const VENCRYPT_X509_NONE: u32 = 260;
const VENCRYPT_X509_VNC: u32 = 261;
const VENCRYPT_X509_SASL: u32 = 263;

/// The versions that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3,
    V7,
    V8,
}

pub fn refused(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

/// The version that a client asks for; nothing for text that is none, or an unknown one.
fn version(text: [u8; 12]) -> Option<Version> {
    let [b'R', b'F', b'B', b' ', major @ .., b'\n'] = text else { return None };
    match &major {
        // Some clients that mean 3.3 say 3.4 or 3.5.
        b"003.003" | b"003.004" | b"003.005" => Some(Version::V3),
        b"003.007" => Some(Version::V7),
        b"003.008" => Some(Version::V8),
        _ => None,
    }
}

async fn say_why_not(channel: &mut Channel, text: &str) -> io::Result<()> {
    let mut message = (text.len() as u32).to_be_bytes().to_vec();
    message.extend_from_slice(text.as_bytes());
    channel.write(&message).await
}

/// Ends the handshake without success.
async fn fail(channel: &mut Channel, version: Version, text: &str) -> io::Error {
    let mut result = channel.write(&1_u32.to_be_bytes()).await;
    if version == Version::V8 && result.is_ok() {
        result = say_why_not(channel, text).await;
    }
    result.err().unwrap_or_else(|| refused(text))
}

/// Lets a client in, or not.
///
/// # Errors
/// It breaks the protocol, has no right to look, or goes away.
pub async fn run(mut channel: Channel, display: &Arc<Display>, client: &Client, auth: Auth) -> io::Result<Channel> {
    channel.write(VERSION).await?;
    let asked = channel.read::<12>().await?;
    let Some(version) = version(asked) else {
        channel.write(&0_u32.to_be_bytes()).await?;
        say_why_not(&mut channel, "Unsupported protocol version").await?;
        return Err(refused("unsupported version"));
    };
    let kind = match auth {
        Auth::None => SECURITY_NONE,
        Auth::Vnc => SECURITY_VNC,
        Auth::Sasl => SECURITY_SASL,
        Auth::VeNCrypt(_) => SECURITY_VENCRYPT,
    };
    if version == Version::V3 {
        if matches!(kind, SECURITY_VENCRYPT | SECURITY_SASL) {
            channel.write(&0_u32.to_be_bytes()).await?;
            say_why_not(&mut channel, "Unsupported auth method for v3.3").await?;
            return Err(refused("TLS or SASL with version 3.3"));
        }
        channel.write(&u32::from(kind).to_be_bytes()).await?;
    } else {
        channel.write(&[1, kind]).await?;
        let [wanted] = channel.read::<1>().await?;
        if wanted != kind {
            return Err(fail(&mut channel, version, "Authentication failed").await);
        }
    }
    match auth {
        Auth::None if version == Version::V8 => channel.write(&0_u32.to_be_bytes()).await?,
        Auth::None => {}
        Auth::Vnc => password(&mut channel, display, version).await?,
        Auth::Sasl => {
            // What nobody between the client and us can hear: one host's own socket, or TLS around a WebSocket.
            let info = client.info();
            let is_private = matches!(info.address, Address::Unix(_)) || info.is_websocket && display.has_tls();
            sasl::run(&mut channel, display, client, is_private).await?;
        }
        Auth::VeNCrypt(sub) => channel = vencrypt(channel, display, client, (version, sub)).await?,
    }
    Ok(channel)
}

async fn vencrypt(
    mut channel: Channel,
    display: &Arc<Display>,
    client: &Client,
    (version, sub): (Version, SecuritySub),
) -> io::Result<Channel> {
    channel.write(&[0, 2]).await?;
    if channel.read::<2>().await? != [0, 2] {
        channel.write(&[1]).await?;
        return Err(refused("unsupported version of VeNCrypt"));
    }
    let number = match sub {
        SecuritySub::X509None => VENCRYPT_X509_NONE,
        SecuritySub::X509Vnc => VENCRYPT_X509_VNC,
        SecuritySub::X509Sasl => VENCRYPT_X509_SASL,
    };
    let mut offer = vec![0, 1];
    offer.extend_from_slice(&number.to_be_bytes());
    channel.write(&offer).await?;
    if u32::from_be_bytes(channel.read::<4>().await?) != number {
        channel.write(&[0]).await?;
        return Err(refused("unsupported security of VeNCrypt"));
    }
    let Some(config) = display.tls() else {
        channel.write(&[0]).await?;
        return Err(refused("there are no credentials"));
    };
    channel.write(&[1]).await?;
    let (mut channel, certificate) = channel.start_tls(&config).await?;
    client.set_certificate(certificate.as_deref());
    match sub {
        SecuritySub::X509None => channel.write(&0_u32.to_be_bytes()).await?,
        SecuritySub::X509Vnc => password(&mut channel, display, version).await?,
        SecuritySub::X509Sasl => sasl::run(&mut channel, display, client, true).await?,
    }
    Ok(channel)
}

/// Fills bytes with random numbers.
pub fn randomize(bytes: &mut [u8]) -> io::Result<()> {
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(bytes).map_err(|_| io::Error::other("no random numbers"))
}

/// What a client that knows the password answers to a challenge.
fn response(password: &[u8], challenge: [u8; 16]) -> [u8; 16] {
    let mut key = [0; 8];
    for (to, from) in key.iter_mut().zip(password) {
        // The protocol counts bits the other way round.
        *to = from.reverse_bits();
    }
    let cipher = Des::new(&key.into());
    let mut response = challenge;
    for half in response.as_chunks_mut::<8>().0 {
        let mut block = (*half).into();
        cipher.encrypt_block(&mut block);
        *half = block.into();
    }
    response
}

async fn password(channel: &mut Channel, display: &Arc<Display>, version: Version) -> io::Result<()> {
    let mut challenge = [0; 16];
    randomize(&mut challenge)?;
    channel.write(&challenge).await?;
    let answer = channel.read::<16>().await?;
    let wanted = display.password().map(|password| response(password.as_bytes(), challenge));
    let is_right = wanted.is_some_and(|wanted| listen::is_same(&answer, &wanted));
    if !is_right {
        return Err(fail(channel, version, "Authentication failed").await);
    }
    channel.write(&0_u32.to_be_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_des_with_the_passwords_bits_reversed() {
        // DES of zeros under a zero key is 8ca64de9c1b123a7.
        let zeros = [0x8c, 0xa6, 0x4d, 0xe9, 0xc1, 0xb1, 0x23, 0xa7];
        assert_eq!(response(b"", [0; 16])[..8], zeros);
        assert_eq!(response(b"", [0; 16])[8..], zeros);
        assert_eq!(response(b"12345678ignored", [7; 16]), response(b"12345678", [7; 16]));
        assert_ne!(response(b"1234567", [7; 16]), response(b"12345678", [7; 16]));
    }

    #[test]
    fn versions_are_those_of_qemu() {
        assert_eq!(version(*b"RFB 003.003\n"), Some(Version::V3));
        assert_eq!(version(*b"RFB 003.005\n"), Some(Version::V3));
        assert_eq!(version(*b"RFB 003.007\n"), Some(Version::V7));
        assert_eq!(version(*b"RFB 003.008\n"), Some(Version::V8));
        assert_eq!(version(*b"RFB 004.000\n"), None);
        assert_eq!(version(*b"GET / HTTP/1"), None);
    }
}
