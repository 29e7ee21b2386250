//! TLS over a character device's socket, by rustls. Credentials are made by whoever knows objects.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

/// Credentials of one side.
#[derive(Debug, Clone)]
pub enum TlsConfig {
    /// We are the server.
    Server(Arc<ServerConfig>),
    /// We are the client.
    Client(Arc<ClientConfig>),
}

/// One connection.
pub(crate) struct Tls {
    connection: Connection,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    pub(crate) fn new(config: &TlsConfig, host: &str) -> io::Result<Self> {
        let connection = match config {
            TlsConfig::Server(config) => ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?.into(),
            TlsConfig::Client(config) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?.into()
            }
        };
        Ok(Self { connection })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Deciphers some of `raw`. False when the other side has ended.
    pub(crate) fn receive(&mut self, raw: &mut &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
        self.connection.read_tls(raw)?;
        let state = self.connection.process_new_packets().map_err(io::Error::other)?;
        let mut left = state.plaintext_bytes_to_read();
        let mut piece = [0; 4096];
        while left > 0 {
            let count = self.connection.reader().read(&mut piece)?;
            if count == 0 {
                break;
            }
            plain.extend(piece.get(..count).unwrap_or_default());
            left = left.saturating_sub(count);
        }
        Ok(!state.peer_has_closed())
    }

    /// Enciphers `bytes` into `out`.
    pub(crate) fn send(&mut self, bytes: &[u8], out: &mut VecDeque<u8>) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.connection.writer().write(rest)?;
            rest = rest.get(count..).unwrap_or_default();
            self.pump(out);
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Collects what is to be sent.
    pub(crate) fn pump(&mut self, out: &mut VecDeque<u8>) {
        while self.connection.wants_write() {
            // Writing into memory does not fail.
            if self.connection.write_tls(out).is_err() {
                break;
            }
        }
    }

    pub(crate) fn close(&mut self) {
        self.connection.send_close_notify();
    }
}
