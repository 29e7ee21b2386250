//! Requests: a pure function of bytes, that takes the part of HTTP/1.1 (RFC 9112) which a browser needs here.

/// The longest head of a request.
pub const HEAD_MAX: usize = 16 << 10;
/// The most fields in it.
const FIELDS_MAX: usize = 64;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Looked at.
    Get,
    /// Looked at from outside.
    Head,
    /// Changed.
    Post,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no HTTP.
    Malformed,
    /// Its head is too long.
    TooLarge,
    /// It has a body.
    Body,
    /// The method is none of those above.
    Method,
    /// It is another version.
    Version,
}

impl Refusal {
    /// Code and words.
    pub fn status(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Body => "413 Content Too Large",
            Self::Method => "501 Not Implemented",
            Self::Version => "505 HTTP Version Not Supported",
        }
    }
}

/// A request without a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is done.
    pub method: Method,
    /// The path, decoded.
    pub path: String,
    /// What comes behind the question mark, as it is.
    pub query: String,
    /// `Host`
    pub host: String,
    /// `Origin`
    pub origin: Option<String>,
    /// `Cookie`
    pub cookies: String,
    /// `If-None-Match`
    pub known_tags: String,
    /// `Accept-Encoding`
    pub encodings: String,
    /// The connection wants to become a WebSocket.
    pub is_websocket: bool,
    /// The connection ends behind the answer.
    pub is_last: bool,
}

/// Reads the head of a request; with it its length. Nothing while it is incomplete.
///
/// # Errors
/// Why it is refused; the connection has no future then.
pub fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(bytes.get(..HEAD_MAX.min(bytes.len())).unwrap_or_default()) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Malformed),
    };
    if parsed.version != Some(1) {
        return Err(Refusal::Version);
    }
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        _ => return Err(Refusal::Method),
    };
    let (path, query) = target(parsed.path.unwrap_or_default()).ok_or(Refusal::Malformed)?;
    let field = |wanted: &str| only(parsed.headers, wanted);
    if field("transfer-encoding")?.is_some() || field("content-length")?.is_some_and(|length| length != "0") {
        return Err(Refusal::Body);
    }
    let connection = field("connection")?.unwrap_or_default();
    let has = |list: &str, wanted: &str| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(wanted));
    let text = |wanted: &str| field(wanted).map(|value| value.unwrap_or_default().to_owned());
    let request = Request {
        method,
        path,
        query,
        host: field("host")?.ok_or(Refusal::Malformed)?.to_owned(),
        origin: field("origin")?.map(str::to_owned),
        cookies: text("cookie")?,
        known_tags: text("if-none-match")?,
        encodings: text("accept-encoding")?,
        is_websocket: has(connection, "upgrade") && has(field("upgrade")?.unwrap_or_default(), "websocket"),
        is_last: has(connection, "close"),
    };
    Ok(Some((request, length)))
}

/// The one field of that name; one that comes twice means different things to different readers.
fn only<'a>(fields: &[httparse::Header<'a>], wanted: &str) -> Result<Option<&'a str>, Refusal> {
    let mut found = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(wanted));
    let Some(first) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(Refusal::Malformed);
    }
    std::str::from_utf8(first.value).map(Some).map_err(|_| Refusal::Malformed)
}

/// The path, decoded, and the query of a target in origin form.
fn target(text: &str) -> Option<(String, String)> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if !path.starts_with('/') {
        return None;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        decoded.push((digit()? << 4 | digit()?) as u8);
    }
    let path = String::from_utf8(decoded).ok()?;
    (!path.contains('\0')).then(|| (path, query.to_owned()))
}

impl Request {
    /// A value of the query, which has no need to be encoded.
    pub fn parameter(&self, wanted: &str) -> Option<&str> {
        self.query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted).map(|(_, v)| v)
    }

    /// A cookie.
    pub fn cookie(&self, wanted: &str) -> Option<&str> {
        let pairs = self.cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }

    /// Whether an answer may be packed so.
    pub fn accepts(&self, encoding: &str) -> bool {
        self.encodings.split(',').any(|item| {
            let (name, quality) = item.split_once(';').unwrap_or((item, ""));
            let is_refused = matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            name.trim().eq_ignore_ascii_case(encoding) && !is_refused
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(Request, usize)>, Refusal> {
        read(text.as_bytes())
    }

    #[test]
    fn request_of_a_browser_is_read_at_its_last_byte() {
        let text = "GET /ws/serial/a%20b?x=1&token=abc HTTP/1.1\r\nHost: h:1\r\nCookie: a=b; c=d=e\r\n\
                    Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nAccept-Encoding: gzip, br;q=0\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length]), Ok(None), "{length}");
        }
        let (request, length) = parse(&format!("{text}more")).expect("fine").expect("complete");
        assert_eq!(length, text.len());
        assert_eq!((request.path.as_str(), request.parameter("token")), ("/ws/serial/a b", Some("abc")));
        assert_eq!((request.cookie("c"), request.cookie("d")), (Some("d=e"), None));
        assert!(request.is_websocket && request.accepts("gzip") && !request.accepts("br"));
    }

    #[test]
    fn what_is_ambiguous_or_no_http_is_refused() {
        for (text, refusal) in [
            ("\u{1}\u{2}\u{3}garbage\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refusal::Malformed),
            ("GET http://h/ HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Refusal::Version),
            ("PRI * HTTP/2.0\r\n\r\n", Refusal::Version),
            ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Method),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Refusal::Body),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::Body),
        ] {
            assert_eq!(parse(text), Err(refusal), "{text:?}");
        }
    }

    #[test]
    fn huge_heads_are_refused_before_they_end() {
        let mut text = "GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned();
        text.push_str(&"x".repeat(HEAD_MAX - text.len() - 1));
        assert_eq!(parse(&text), Ok(None));
        text.push('x');
        assert_eq!(parse(&text), Err(Refusal::TooLarge));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(parse(&many), Err(Refusal::TooLarge));
    }
}
