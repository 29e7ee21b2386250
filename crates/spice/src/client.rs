//! A connection as the server knows it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use listen::Ends;
use tokio::sync::Notify;

use crate::link::ChannelKind;
use crate::lock;

/// Which channel a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    /// The session.
    pub session: u32,
    /// The kind of channel.
    pub kind: ChannelKind,
    /// Which one of its kind.
    pub id: u8,
}

/// What monitors are told of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Its ends.
    pub ends: Ends,
    /// Whether it is inside of TLS.
    pub is_tls: bool,
    /// What it is, once the client may look.
    pub channel: Option<ChannelInfo>,
}

/// A connection.
pub struct Client {
    pub id: u64,
    ends: Ends,
    is_tls: bool,
    channel: Mutex<Option<ChannelInfo>>,
    is_waiting: AtomicBool,
    /// There may be something to write.
    pub wake: Notify,
    /// The client has to go.
    pub kick: Notify,
}

impl Client {
    pub fn new(id: u64, ends: Ends, is_tls: bool) -> Self {
        Self {
            id,
            ends,
            is_tls,
            channel: Mutex::default(),
            is_waiting: AtomicBool::new(false),
            wake: Notify::new(),
            kick: Notify::new(),
        }
    }

    pub fn info(&self) -> ClientInfo {
        ClientInfo { ends: self.ends.clone(), is_tls: self.is_tls, channel: self.channel() }
    }

    pub fn channel(&self) -> Option<ChannelInfo> {
        *lock(&self.channel)
    }

    pub fn set_channel(&self, channel: ChannelInfo) {
        *lock(&self.channel) = Some(channel);
    }

    /// Waits for news of a screen, or until something else wakes it.
    pub async fn wait_for_news(&self) {
        self.is_waiting.store(true, Ordering::Release);
        self.wake.notified().await;
        self.is_waiting.store(false, Ordering::Release);
    }

    /// Whether it has taken what it got, and looks for news.
    pub fn waits_for_news(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }
}
