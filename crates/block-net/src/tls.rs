//! TLS credentials of clients and servers, and a TLS session over a non-blocking socket.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aio::Stream;
use iobuf::IoBuf;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme,
};

use block::{Error, Graph, Result};

/// Bytes of ciphertext or plain text that are moved at once.
const CHUNK: usize = 32 << 10;

/// The credentials of a TLS client, as an object `tls-creds-x509` with `endpoint=client` has them. A program puts them
/// into its graph under the object's id.
#[derive(Clone)]
pub struct TlsCredentials {
    config: Arc<ClientConfig>,
}

impl TlsCredentials {
    /// What rustls wants, for sessions that are not of the block layer.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

impl fmt::Debug for TlsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsCredentials")
    }
}

/// The credentials of a TLS server, as an object `tls-creds-x509` with `endpoint=server` has them.
#[derive(Clone)]
pub struct TlsServerCredentials {
    config: Arc<ServerConfig>,
    /// Where they come from, and whether clients are verified.
    source: (PathBuf, bool),
}

impl TlsServerCredentials {
    /// What rustls wants, for sessions that are not of the block layer.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The same with what the files say now.
    ///
    /// # Errors
    /// If a file is missing or wrong.
    pub fn reload(&self) -> Result<Self> {
        Self::from_directory(&self.source.0, self.source.1)
    }
}

impl fmt::Debug for TlsServerCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServerCredentials")
    }
}

/// The credentials of one end of a connection.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// For who connects.
    Client(TlsCredentials),
    /// For who listens.
    Server(TlsServerCredentials),
}

impl Credentials {
    /// The credentials as what a graph keeps under their id.
    pub fn into_object(self) -> Arc<dyn std::any::Any + Send + Sync> {
        match self {
            Self::Client(credentials) => Arc::new(credentials),
            Self::Server(credentials) => Arc::new(credentials),
        }
    }
}

/// The server's credentials of that id.
///
/// # Errors
/// There are none, or they are a client's.
pub fn server_credentials(graph: &Graph, id: &str) -> Result<TlsServerCredentials> {
    if let Some(credentials) = graph.object::<TlsServerCredentials>(id) {
        return Ok((*credentials).clone());
    }
    Err(match graph.object::<TlsCredentials>(id) {
        Some(_) => Error::invalid("Expected TLS credentials for a server endpoint"),
        None => Error::invalid(format!("No TLS credentials with id '{id}'")),
    })
}

/// The client's credentials of that id.
///
/// # Errors
/// There are none, or they are a server's.
pub fn client_credentials(graph: &Graph, id: &str) -> Result<TlsCredentials> {
    if let Some(credentials) = graph.object::<TlsCredentials>(id) {
        return Ok((*credentials).clone());
    }
    Err(match graph.object::<TlsServerCredentials>(id) {
        Some(_) => Error::invalid("Expected TLS credentials for a client endpoint"),
        None => Error::invalid(format!("No TLS credentials with id '{id}'")),
    })
}

fn wrong(what: &str, path: &Path, error: impl fmt::Display) -> Error {
    Error::invalid(format!("Unable to {what} {}: {error}", path.display()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of authorities in a file.
fn roots(ca: &Path) -> Result<RootCertStore> {
    let what = "import CA certificate";
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| wrong(what, ca, e))? {
        // A bundle may hold certificates that nobody can use; some must be left.
        let _ = roots.add(certificate.map_err(|e| wrong(what, ca, e))?);
    }
    if roots.is_empty() {
        return Err(wrong(what, ca, "it holds none"));
    }
    Ok(roots)
}

/// The properties of an object `tls-creds-x509`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct X509 {
    /// The directory with the files.
    pub dir: Option<String>,
    /// It is for a server.
    pub server: bool,
    /// The peer's certificate has to be valid; on if absent.
    pub verify_peer: Option<bool>,
    /// The own certificate is checked now; on if absent.
    pub sanity_check: Option<bool>,
    /// GnuTLS's list of algorithms.
    pub priority: Option<String>,
    /// The secret with the password of the key.
    pub password_id: Option<String>,
}

impl X509 {
    /// The credentials. They are read now; their later users keep what was read.
    ///
    /// # Errors
    /// If a file is missing or wrong, or something is asked for that does not exist here.
    pub fn load(&self) -> Result<Credentials> {
        if self.priority.is_some() {
            let text = "'priority' is not available: it is for GnuTLS, which this version does not use";
            return Err(Error::invalid(text));
        }
        if self.password_id.is_some() {
            return Err(Error::invalid("'passwordid' is not available in this version: decrypt the key's file"));
        }
        let directory = self.dir.as_deref().ok_or_else(|| Error::invalid("Missing 'dir' property value"))?;
        let directory = Path::new(directory);
        let verify_peer = self.verify_peer.unwrap_or(true);
        if self.server {
            return TlsServerCredentials::from_directory(directory, verify_peer).map(Credentials::Server);
        }
        let credentials = TlsCredentials::from_directory(directory, verify_peer)?;
        if self.sanity_check.unwrap_or(true) {
            TlsCredentials::check_directory(directory)?;
        }
        Ok(Credentials::Client(credentials))
    }
}

/// Says why a file of credentials is not there.
fn check_access(file: &Path) -> Result<()> {
    std::fs::metadata(file).map(drop).map_err(|error| {
        let error = Error::from(error);
        let reason = block::error::strerror(error.errno());
        Error::invalid(format!("Unable to access credentials {}: {reason}", file.display()))
    })
}

impl TlsServerCredentials {
    /// The credentials in a directory: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`. With `verify_peer` clients
    /// have to show a certificate of that authority.
    ///
    /// # Errors
    /// If a file is missing or wrong.
    pub fn from_directory(directory: &Path, verify_peer: bool) -> Result<Self> {
        let [ca, certificate, key] =
            ["ca-cert.pem", "server-cert.pem", "server-key.pem"].map(|name| directory.join(name));
        let config = Self::config_of(&ca, (&certificate, &key), verify_peer)?;
        Ok(Self { config, source: (directory.to_owned(), verify_peer) })
    }

    /// What rustls wants to know of a server whose certificate and key are in these files. With `verify_peer` clients have
    /// to show a certificate of the authority `ca`; without, its file has to be there all the same.
    ///
    /// # Errors
    /// If a file is missing or wrong.
    pub fn config_of(ca: &Path, (certificate, key): (&Path, &Path), verify_peer: bool) -> Result<Arc<ServerConfig>> {
        for file in [ca, certificate, key] {
            check_access(file)?;
        }
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::invalid(format!("Unable to set up TLS: {e}")))?;
        let builder = if verify_peer {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| wrong("import CA certificate", ca, e))?)
        } else {
            builder.with_no_client_auth()
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(|e| wrong("import server certificate", certificate, e))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("import server key", key, e))?;
        let config =
            builder.with_single_cert(chain, secret).map_err(|e| wrong("use server certificate", certificate, e))?;
        Ok(Arc::new(config))
    }
}

impl TlsCredentials {
    /// The credentials in a directory: `ca-cert.pem`, and `client-cert.pem` with `client-key.pem` if they are there.
    /// Without `verify_peer`, whatever certificate the server shows is taken.
    ///
    /// # Errors
    /// If a file is missing or wrong.
    pub fn from_directory(directory: &Path, verify_peer: bool) -> Result<Self> {
        let ca = directory.join("ca-cert.pem");
        check_access(&ca)?;
        let (certificate, key) = (directory.join("client-cert.pem"), directory.join("client-key.pem"));
        let own = if certificate.exists() { Some((certificate, key)) } else { None };
        Self::from_files(&ca, own.as_ref().map(|(c, k)| (c.as_path(), k.as_path())), verify_peer)
    }

    /// Whether the certificate of a client in a directory, if there is one, is one that a server with the same
    /// `ca-cert.pem` accepts now.
    ///
    /// # Errors
    /// If it is not, or a file is missing or wrong.
    pub fn check_directory(directory: &Path) -> Result<()> {
        let (ca, own) = (directory.join("ca-cert.pem"), directory.join("client-cert.pem"));
        if !own.exists() {
            return Ok(());
        }
        let failed = |error: &dyn fmt::Display| {
            let (own, ca) = (own.display(), ca.display());
            Error::invalid(format!("Our own certificate {own} failed validation against {ca}: {error}"))
        };
        let roots = roots(&ca)?;
        let chain: Vec<_> = CertificateDer::pem_file_iter(&own)
            .and_then(Iterator::collect)
            .map_err(|e| wrong("import client certificate", &own, e))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = verifier.map_err(|error| failed(&error))?;
        let (first, others) = chain.split_first().ok_or_else(|| failed(&"there is none"))?;
        verifier.verify_client_cert(first, others, UnixTime::now()).map(|_| ()).map_err(|error| failed(&error))
    }

    /// The credentials that trust the certificates of the host's usual bundle.
    ///
    /// # Errors
    /// If there is no bundle and `verify_peer` is on.
    pub fn from_host(verify_peer: bool) -> Result<Self> {
        const BUNDLES: [&str; 3] =
            ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
        let bundle = BUNDLES.into_iter().map(Path::new).find(|path| path.exists());
        match bundle {
            Some(bundle) => Self::from_files(bundle, None, verify_peer),
            None if verify_peer => Err(Error::invalid("The host has no bundle of certificates to trust")),
            None => Self::from_files(Path::new(""), None, false),
        }
    }

    fn from_files(ca: &Path, own: Option<(&Path, &Path)>, verify_peer: bool) -> Result<Self> {
        let roots = if verify_peer { roots(ca)? } else { RootCertStore::empty() };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::invalid(format!("Unable to set up TLS: {e}")))?;
        let builder = if verify_peer {
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAll(provider())))
        };
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
                    .and_then(Iterator::collect)
                    .map_err(|e| wrong("import client certificate", certificate, e))?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("import client key", key, e))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|e| wrong("use client certificate", certificate, e))?
            }
        };
        Ok(Self { config: Arc::new(config) })
    }
}

/// Takes any certificate: for `verify-peer=off` and `sslverify=off`.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS session. One task may read while another writes.
pub struct Tls {
    stream: Stream,
    session: Mutex<Connection>,
    /// Bytes from the socket that the session has not taken yet. Only the reading task uses it.
    backlog: Mutex<Vec<u8>>,
    /// Keeps records in the order in which the session made them.
    sending: tokio::sync::Mutex<()>,
}

impl Tls {
    /// Starts a session as the client; the server's certificate must be for `host`.
    ///
    /// # Errors
    /// What the handshake or the host gives.
    pub async fn connect(stream: Stream, credentials: &TlsCredentials, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(&credentials.config), name).map_err(io::Error::other)?;
        Self::shake_hands(stream, session.into()).await
    }

    /// Starts a session as the server.
    ///
    /// # Errors
    /// What the handshake or the host gives.
    pub async fn accept(stream: Stream, credentials: &TlsServerCredentials) -> io::Result<Self> {
        let session = ServerConnection::new(Arc::clone(&credentials.config)).map_err(io::Error::other)?;
        Self::shake_hands(stream, session.into()).await
    }

    async fn shake_hands(stream: Stream, session: Connection) -> io::Result<Self> {
        let tls = Self {
            stream,
            session: Mutex::new(session),
            backlog: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
        };
        while tls.session().is_handshaking() {
            tls.send_records().await?;
            if !tls.session().is_handshaking() {
                break;
            }
            match tls.receive_records().await {
                Ok(true) => {}
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => {
                    // The peer is told why.
                    let _ = tls.send_records().await;
                    return Err(error);
                }
            }
        }
        tls.send_records().await?;
        Ok(tls)
    }

    /// The socket.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    fn session(&self) -> MutexGuard<'_, Connection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what the session has made.
    async fn send_records(&self) -> io::Result<()> {
        let _order = self.sending.lock().await;
        loop {
            let mut records = Vec::new();
            {
                let mut session = self.session();
                while session.wants_write() {
                    session.write_tls(&mut records)?;
                }
            }
            if records.is_empty() {
                return Ok(());
            }
            self.stream.write_all(IoBuf::copy_of(&records)).await?;
        }
    }

    /// Feeds the session until it has plain text, or with all that the socket gives now: false at the socket's end.
    async fn receive_records(&self) -> io::Result<bool> {
        if !self.feed()? {
            return Ok(true);
        }
        let buf = IoBuf::zeroed(CHUNK);
        let n = loop {
            match self.stream.try_read(&buf) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(error) => return Err(error),
            }
        };
        *self.backlog() = buf.slice(0, n).to_vec();
        self.feed()?;
        Ok(n != 0)
    }

    /// Hands records from the backlog to the session until there is plain text, which it holds little of: whether the
    /// backlog is empty.
    fn feed(&self) -> io::Result<bool> {
        let mut backlog = self.backlog();
        let mut left = &backlog[..];
        let mut session = self.session();
        while !left.is_empty() {
            session.read_tls(&mut left)?;
            let state = session.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() != 0 {
                break;
            }
        }
        let done = backlog.len() - left.len();
        backlog.drain(..done);
        // Plain text that is there already comes first.
        Ok(done == 0 && backlog.is_empty())
    }

    fn backlog(&self) -> MutexGuard<'_, Vec<u8>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there, at least one byte; 0 at the end.
    ///
    /// # Errors
    /// The session's or the host's.
    pub async fn read_some(&self, buf: &IoBuf) -> io::Result<usize> {
        let mut bytes = vec![0; buf.len().min(CHUNK)];
        loop {
            let read = self.session().reader().read(&mut bytes);
            match read {
                Ok(n) => {
                    buf.write_at(0, &bytes[..n]);
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if !self.receive_records().await? {
                return Ok(0);
            }
        }
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    /// The session's or the host's.
    pub async fn write_all(&self, buf: IoBuf) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let part = buf.slice(done, (buf.len() - done).min(CHUNK)).to_vec();
            done += self.session().writer().write(&part)?;
            self.send_records().await?;
        }
        Ok(())
    }
}
