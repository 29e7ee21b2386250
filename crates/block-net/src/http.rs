//! The drivers `http` and `https`: images on a web server, read by range requests (RFC 9110, RFC 9112).
//!
//! The client is our own: a request is a dozen lines over the connections that `nbd` needs anyway, runs on the reactor
//! without a thread, and reads straight into the cache. Each read fetches `readahead` bytes more than asked for, and the
//! last fetches are kept. Left out: proxies, `ftp`, compressed transfers (meaningless for ranges).

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use block::{
    BlockStatus, Child, Driver, DriverKind, DriverType, Error, Graph, IoFuture, Limits, OpenRequest, Options,
    Permissions, Result, done,
};
use iobuf::IoBuf;
use tokio::sync::Semaphore;

use crate::tls::{Tls, TlsCredentials};
use crate::transport::{Address, Reader, Transport};
use crate::uri::Uri;

/// Fetches that are kept, and connections that are used at once.
const KEPT: usize = 8;
const DEFAULT_READAHEAD: u64 = 256 << 10;
const MAX_TRANSFER: u64 = 8 << 20;
const DEFAULT_TIMEOUT: u64 = 5;
const MAX_TIMEOUT: u64 = 10_000;
const MAX_REDIRECTS: u32 = 10;
const MAX_LINE: usize = 16 << 10;
const MAX_HEADERS: usize = 200;

/// The drivers `http` and `https`.
pub struct HttpType {
    name: &'static str,
    prefixes: &'static [&'static str],
}

/// The driver `http`.
pub static HTTP: HttpType = HttpType { name: "http", prefixes: &["http:"] };
/// The driver `https`.
pub static HTTPS: HttpType = HttpType { name: "https", prefixes: &["https:"] };

impl DriverType for HttpType {
    fn name(&self) -> &'static str {
        self.name
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn prefixes(&self) -> &'static [&'static str] {
        self.prefixes
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        Ok(Options::new().with("url", filename))
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        let scheme = self.name;
        Box::pin(async move {
            let settings = Settings::take(scheme, &mut request.options, &request.graph)?;
            request.finish()?;
            if !request.config.read_only && !request.config.auto_read_only {
                return Err(no_writes());
            }
            let mut client = Client { settings, idle: Mutex::default(), slots: Semaphore::new(KEPT) };
            let len = client.probe().await?;
            Ok(Arc::new(Http { client, len, kept: Mutex::default() }) as Arc<dyn Driver>)
        })
    }
}

fn no_writes() -> Error {
    Error::read_only("curl block device does not support writes")
}

struct Settings {
    url: String,
    uri: Uri,
    readahead: u64,
    timeout: Duration,
    tls: Option<TlsCredentials>,
    /// Lines that go with every request.
    headers: String,
    /// The name alone does not open the same.
    has_secrets: bool,
    verify: bool,
}

fn secret(graph: &Graph, id: &str) -> Result<String> {
    String::from_utf8(graph.secret(id)?.to_vec())
        .map_err(|_| Error::invalid(format!("The data of secret '{id}' is no text")))
}

impl Settings {
    fn take(scheme: &str, options: &mut Options, graph: &Graph) -> Result<Self> {
        let missing = || Error::invalid(format!("{scheme} block driver requires an 'url' option"));
        let url = match options.take_str("url")? {
            Some(url) => url,
            None => options.take_str("filename")?.ok_or_else(missing)?,
        };
        let uri = Uri::parse(&url).filter(|uri| !uri.host.is_empty());
        let uri = uri.ok_or_else(|| Error::invalid(format!("'{url}' is no valid URL")))?;
        if uri.scheme != scheme {
            return Err(Error::invalid(format!(
                "{scheme} curl driver cannot handle the URL '{url}' (does not start with '{scheme}://')"
            )));
        }
        let readahead = options.take_size("readahead")?.unwrap_or(DEFAULT_READAHEAD);
        if !readahead.is_multiple_of(512) {
            return Err(Error::invalid(format!("HTTP_READAHEAD_SIZE {readahead} is not a multiple of 512")));
        }
        let timeout = options.take_u64("timeout")?.unwrap_or(DEFAULT_TIMEOUT);
        if timeout > MAX_TIMEOUT {
            return Err(Error::invalid("timeout parameter is too large or negative"));
        }
        let verify = options.take_bool("sslverify")?.unwrap_or(true);
        let tls = if scheme == "https" { Some(TlsCredentials::from_host(verify)?) } else { None };
        let cookie = match (options.take_str("cookie")?, options.take_str("cookie-secret")?) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("curl driver cannot handle both cookie and cookie secret"));
            }
            (None, Some(id)) => Some(secret(graph, &id)?),
            (cookie, None) => cookie,
        };
        if cookie.as_ref().is_some_and(|cookie| cookie.chars().any(char::is_control)) {
            return Err(Error::invalid("A cookie must not contain control characters"));
        }
        let user = options.take_str("username")?;
        let password = options.take_str("password-secret")?.map(|id| secret(graph, &id)).transpose()?;
        let has_secrets = cookie.is_some() || user.is_some() || password.is_some() || !verify;
        let login = match (user, password) {
            (None, None) => uri.user.clone(),
            (user, password) => Some(format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default())),
        };
        let mut headers = String::new();
        if let Some(cookie) = cookie {
            headers += &format!("Cookie: {cookie}\r\n");
        }
        if let Some(login) = login {
            headers += &format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(login));
        }
        let timeout = Duration::from_secs(timeout);
        Ok(Self { url, uri, readahead, timeout, tls, headers, has_secrets, verify })
    }
}

struct Connection {
    transport: Transport,
    reader: Reader,
}

/// A response without its body.
#[derive(Debug)]
struct Response {
    status: u16,
    reason: String,
    headers: Vec<(String, String)>,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str, token: &str) -> bool {
        let fields = self.headers.iter().filter(|(known, _)| known == name);
        fields.flat_map(|(_, value)| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    }

    fn error(&self) -> io::Error {
        io::Error::other(
            format!("The requested URL returned error: {} {}", self.status, self.reason).trim_end().to_owned(),
        )
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::other(format!("Invalid HTTP response: {what}"))
}

impl Connection {
    async fn head(&mut self) -> io::Result<Response> {
        loop {
            let line = self.reader.line(&self.transport, MAX_LINE).await?;
            let mut parts = line.splitn(3, ' ');
            let version = parts.next().unwrap_or("");
            let status = parts.next().and_then(|status| status.parse().ok());
            let (true, Some(status)) = (version.starts_with("HTTP/1."), status) else {
                return Err(invalid("no status line"));
            };
            let reason = parts.next().unwrap_or("").to_owned();
            let mut headers = Vec::new();
            loop {
                let line = self.reader.line(&self.transport, MAX_LINE).await?;
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
                if headers.len() == MAX_HEADERS {
                    return Err(invalid("too many headers"));
                }
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            // 1xx announce the real response.
            if status >= 200 {
                let mut response = Response { status, reason, headers };
                if version == "HTTP/1.0" && !response.has("connection", "keep-alive") {
                    response.headers.push(("connection".to_owned(), "close".to_owned()));
                }
                return Ok(response);
            }
        }
    }

    /// Reads a body of exactly `buf.len()` bytes.
    async fn body(&mut self, response: &Response, buf: &IoBuf) -> io::Result<()> {
        if !response.has("transfer-encoding", "chunked") {
            let len = response.header("content-length").and_then(|len| len.parse().ok());
            if len.is_some_and(|len: usize| len != buf.len()) {
                return Err(invalid("the body has not the length asked for"));
            }
            return self.reader.read(&self.transport, buf).await;
        }
        let mut done = 0;
        loop {
            let line = self.reader.line(&self.transport, MAX_LINE).await?;
            let len = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
            let len = len.ok().filter(|len| *len <= buf.len() - done).ok_or_else(|| invalid("a wrong chunk"))?;
            self.reader.read(&self.transport, &buf.slice(done, len)).await?;
            done += len;
            // The line break after a chunk, or the end of the trailers.
            while !self.reader.line(&self.transport, MAX_LINE).await?.is_empty() {
                if len != 0 {
                    return Err(invalid("a chunk is too long"));
                }
            }
            if len == 0 {
                return if done == buf.len() { Ok(()) } else { Err(invalid("the body is too short")) };
            }
        }
    }
}

struct Client {
    settings: Settings,
    idle: Mutex<Vec<Connection>>,
    slots: Semaphore,
}

impl Client {
    async fn connect(&self, uri: &Uri) -> Result<Connection> {
        let tls = uri.scheme == "https";
        let port = uri.port.unwrap_or(if tls { 443 } else { 80 });
        let stream = Address::Tcp { host: uri.host.clone(), port }.connect().await?;
        let transport = match (&self.settings.tls, tls) {
            (_, false) => Transport::Plain(stream),
            (Some(credentials), true) => {
                let session = Tls::connect(stream, credentials, &uri.host).await;
                Transport::Tls(Box::new(session.map_err(|e| Error::io(format!("TLS handshake failed: {e}")))?))
            }
            (None, true) => return Err(Error::invalid("The server redirects from http to https")),
        };
        Ok(Connection { transport, reader: Reader::new() })
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    async fn ask(&self, connection: &mut Connection, method: &str, uri: &Uri, range: &str) -> io::Result<Response> {
        let host = if uri.host.contains(':') { format!("[{}]", uri.host) } else { uri.host.clone() };
        let port = uri.port.map(|port| format!(":{port}")).unwrap_or_default();
        // Credentials are for the server that the user named.
        let own = uri.host == self.settings.uri.host && uri.scheme == self.settings.uri.scheme;
        let headers = if own { self.settings.headers.as_str() } else { "" };
        let request = format!(
            "{method} {} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: ouzel\r\nAccept: */*\r\n{range}{headers}\r\n",
            uri.raw_path
        );
        connection.transport.write_all(IoBuf::copy_of(request.as_bytes())).await?;
        connection.head().await
    }

    /// Sends a request over a kept connection or a new one, and follows redirections. The body is still to be read.
    async fn exchange(&self, method: &str, range: &str, uri: &mut Uri) -> Result<(Connection, Response)> {
        for _ in 0..=MAX_REDIRECTS {
            let kept = if *uri == self.settings.uri { self.take_idle() } else { None };
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect(uri).await?,
            };
            let response = match self.ask(&mut connection, method, uri, range).await {
                // A server may close an idle connection at any time.
                Err(_) if reused => {
                    connection = self.connect(uri).await?;
                    self.ask(&mut connection, method, uri, range).await?
                }
                result => result?,
            };
            if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
                return Ok((connection, response));
            }
            let target = response.header("location").ok_or_else(|| invalid("a redirection to nowhere"))?;
            *uri = redirect(uri, target).ok_or_else(|| invalid("a redirection to no URL"))?;
        }
        Err(Error::io(format!("Maximum ({MAX_REDIRECTS}) redirects followed")))
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let timeout = self.settings.timeout;
        if timeout.is_zero() {
            return work.await;
        }
        tokio::select! {
            biased;
            result = work => result,
            () = aio::sleep(timeout) => {
                Err(Error::new(rustix::io::Errno::TIMEDOUT.raw_os_error(), "Connection timed out"))
            }
        }
    }

    /// Asks for the size, and remembers where the file has moved.
    async fn probe(&mut self) -> Result<u64> {
        let wrong = |text: &str| Error::io(format!("CURL: Error opening file: {text}"));
        let mut uri = self.settings.uri.clone();
        let (_connection, response) =
            self.within(self.exchange("HEAD", "", &mut uri)).await.map_err(|error| wrong(&error.to_string()))?;
        if response.status != 200 {
            return Err(wrong(&response.error().to_string()));
        }
        let len = response.header("content-length").and_then(|len| len.parse::<u64>().ok());
        let len = len.ok_or_else(|| wrong("Server didn't report file size."))?;
        if len > i64::MAX as u64 {
            return Err(wrong("the file is too large"));
        }
        if !response.has("accept-ranges", "bytes") {
            return Err(wrong("Server does not support 'range' (byte ranges)."));
        }
        Ok(len)
    }

    async fn fetch(&self, offset: u64, len: u64) -> Result<IoBuf> {
        let _slot = self.slots.acquire().await.map_err(|_| Error::io("The client is closed"))?;
        let last = offset + len - 1;
        let range = format!("Range: bytes={offset}-{last}\r\n");
        self.within(async {
            let mut uri = self.settings.uri.clone();
            let (mut connection, response) = self.exchange("GET", &range, &mut uri).await?;
            if response.status != 206 {
                return Err(response.error().into());
            }
            let expected = format!("bytes {offset}-{last}/");
            if !response.header("content-range").is_some_and(|range| range.starts_with(&expected)) {
                return Err(invalid("another range than asked for").into());
            }
            let buf = IoBuf::zeroed(usize::try_from(len).map_err(|_| Error::invalid("The request is too long"))?);
            connection.body(&response, &buf).await?;
            if uri == self.settings.uri && !response.has("connection", "close") {
                self.keep(connection);
            }
            Ok(buf)
        })
        .await
        .map_err(|error| Error::io(error.to_string()))
    }
}

fn redirect(from: &Uri, target: &str) -> Option<Uri> {
    if target.contains("://") {
        return Uri::parse(target).filter(|uri| matches!(uri.scheme.as_str(), "http" | "https"));
    }
    let host = if from.host.contains(':') { format!("[{}]", from.host) } else { from.host.clone() };
    let port = from.port.map(|port| format!(":{port}")).unwrap_or_default();
    let directory = &from.raw_path[..from.raw_path.rfind('/').unwrap_or(0)];
    let path = if target.starts_with('/') { target.to_owned() } else { format!("{directory}/{target}") };
    Uri::parse(&format!("{}://{host}{port}{path}", from.scheme))
}

struct Http {
    client: Client,
    len: u64,
    /// The last fetches: offset and bytes.
    kept: Mutex<VecDeque<(u64, IoBuf)>>,
}

impl Http {
    fn copy_kept(&self, offset: u64, buf: &IoBuf) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
            (at <= bytes.len() && buf.len() <= bytes.len() - at).then_some((at, bytes))
        });
        if let Some((at, bytes)) = found {
            buf.copy_from(0, bytes, at, buf.len());
        }
        found.is_some()
    }
}

impl Driver for Http {
    fn len(&self) -> u64 {
        self.len
    }

    fn limits(&self) -> Limits {
        Limits { max_transfer: MAX_TRANSFER, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let inside = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
            buf.fill(inside, buf.len() - inside, 0);
            let buf = buf.slice(0, inside);
            if buf.is_empty() || self.copy_kept(offset, &buf) {
                return Ok(());
            }
            let ahead = self.client.settings.readahead.min(MAX_TRANSFER);
            let len = (inside as u64 + ahead).min(self.len - offset);
            let bytes = self.client.fetch(offset, len).await?;
            buf.copy_from(0, &bytes, 0, inside);
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back((offset, bytes));
            Ok(())
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        done(BlockStatus::data(len, Some(offset)))
    }

    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        done(None)
    }

    fn exact_filename(&self) -> Option<String> {
        (!self.client.settings.has_secrets).then(|| self.client.settings.url.clone())
    }

    fn strong_options(&self) -> Options {
        let mut options = Options::new();
        if self.client.settings.has_secrets {
            options.set("url", self.client.settings.url.as_str());
            if !self.client.settings.verify {
                options.set("sslverify", false);
            }
        }
        options
    }

    fn set_permissions(&self, used: Permissions, _shared: Permissions) -> Result<()> {
        if used.contains(Permissions::WRITE) { Err(no_writes()) } else { Ok(()) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_absolute_or_relative() {
        let from = Uri::parse("http://h:8080/a/b?x").expect("valid");
        for (target, url) in
            [("https://other/c", "https://other/c"), ("/c", "http://h:8080/c"), ("c?y", "http://h:8080/a/c?y")]
        {
            assert_eq!(redirect(&from, target), Uri::parse(url));
        }
        assert_eq!(redirect(&from, "file:///etc/passwd"), None);
    }
}
