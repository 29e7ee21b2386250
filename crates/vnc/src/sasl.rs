//! SASL in the handshake (security type 20, and 263 inside of VeNCrypt): the list of mechanisms, the client's choice, and
//! messages with their lengths. A message that is there is one byte longer than it is, by a zero; one of length 0 is not
//! there at all.

use std::io;
use std::sync::Arc;

use ::sasl::{Exchange, Mechanism, Step, Users};

use crate::channel::Channel;
use crate::client::Client;
use crate::display::Display;
use crate::handshake::{randomize, refused};

/// The longest name of a mechanism.
const NAME_MOST: usize = 100;
/// The longest message of a client.
const MESSAGE_MOST: usize = 64 << 10;
/// The longest file of users.
const FILE_MOST: u64 = 16 << 20;

/// Lets a client in that proves who it is. `is_private`: nobody else hears what it says.
///
/// # Errors
/// It does not, or goes away.
pub async fn run(channel: &mut Channel, display: &Arc<Display>, client: &Client, is_private: bool) -> io::Result<()> {
    let offered = Mechanism::offered(is_private);
    let names = offered.iter().map(|mechanism| mechanism.name()).collect::<Vec<_>>().join(",");
    let mut list = (names.len() as u32).to_be_bytes().to_vec();
    list.extend_from_slice(names.as_bytes());
    channel.write(&list).await?;
    let length = u32::from_be_bytes(channel.read::<4>().await?) as usize;
    if !(1..=NAME_MOST).contains(&length) {
        return Err(refused("no name of a mechanism"));
    }
    let name = channel.read_some(length).await?;
    let chosen = offered.iter().find(|mechanism| mechanism.name().as_bytes() == name);
    let chosen = *chosen.ok_or_else(|| refused("a mechanism that was not offered"))?;
    let mut random = [0; 18];
    randomize(&mut random)?;
    let (path, secret) = display.sasl().ok_or_else(|| refused("there are no users"))?;
    let users = tokio::task::spawn_blocking(move || read_users(&path)).await?.map_err(|error| {
        tracing::warn!("VNC lets nobody in: {error}");
        error
    })?;
    let mut exchange = Exchange::new(chosen, Arc::new(users), random, secret);
    loop {
        let message = receive(channel).await?;
        // Keys are derived in many rounds.
        let work = move || {
            let step = exchange.step(message.as_deref());
            (exchange, step)
        };
        let step;
        (exchange, step) = tokio::task::spawn_blocking(work).await?;
        match step.map_err(|error| refused(&error.to_string()))? {
            Step::Continue(answer) => send(channel, Some(&answer), false).await?,
            Step::Done { user, last } => {
                send(channel, last.as_deref(), true).await?;
                client.set_username(user);
                return channel.write(&0_u32.to_be_bytes()).await;
            }
        }
    }
}

/// Reads a file of users.
///
/// # Errors
/// It can't be read, or is none; the text has its path.
pub fn read_users(path: &std::path::Path) -> io::Result<Users> {
    let wrong = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| wrong(listen::reason(&error)))?.len();
    if length > FILE_MOST {
        return Err(wrong("it is too long for a file of users".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(listen::reason(&error)))?;
    Users::parse(&text).map_err(|error| wrong(error.to_string()))
}

async fn receive(channel: &mut Channel) -> io::Result<Option<Vec<u8>>> {
    let length = u32::from_be_bytes(channel.read::<4>().await?) as usize;
    if length > MESSAGE_MOST {
        return Err(refused("a message of SASL is too long"));
    }
    let mut message = channel.read_some(length).await?;
    Ok(message.pop().map(|_zero| message))
}

async fn send(channel: &mut Channel, message: Option<&[u8]>, is_complete: bool) -> io::Result<()> {
    let mut bytes = Vec::new();
    match message {
        Some(message) => {
            bytes.extend_from_slice(&(message.len() as u32 + 1).to_be_bytes());
            bytes.extend_from_slice(message);
            bytes.push(0);
        }
        None => bytes.extend_from_slice(&[0; 4]),
    }
    bytes.push(is_complete.into());
    channel.write(&bytes).await
}
