//! The parts of a URI (RFC 3986), as far as block devices are named by them.

/// A parsed URI. Escapes are resolved, except in `raw_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uri {
    pub scheme: String,
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
    /// Path and query as they were written.
    pub raw_path: String,
    pub query: Vec<(String, String)>,
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        rest = tail;
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

impl Uri {
    pub fn parse(text: &str) -> Option<Self> {
        // A line break would end the line of a request that carries it.
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, raw_path) = rest.split_at(at);
        let (path, query) = raw_path.split_once('?').unwrap_or((raw_path, ""));
        let (user, server) = match authority.rsplit_once('@') {
            Some((user, server)) => (Some(unescape(user)?), server),
            None => (None, authority),
        };
        let (host, port) = match server.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']')?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name)?, unescape(value)?))
        });
        Some(Self {
            scheme: scheme.to_ascii_lowercase(),
            user,
            host: unescape(host)?,
            port: port.map(str::parse).transpose().ok()?,
            path: unescape(path)?,
            raw_path: if path.is_empty() { format!("/{raw_path}") } else { raw_path.to_owned() },
            query: query.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_falls_into_its_parts() {
        let uri = Uri::parse("HTTP://me:pw@[::1]:80/a%20b?x=1&y#z").expect("valid");
        assert_eq!((uri.scheme.as_str(), uri.host.as_str(), uri.port), ("http", "::1", Some(80)));
        assert_eq!((uri.user.as_deref(), uri.path.as_str()), (Some("me:pw"), "/a b"));
        assert_eq!(uri.raw_path, "/a%20b?x=1&y");
        assert_eq!(uri.query, [("x".to_owned(), "1".to_owned()), ("y".to_owned(), String::new())]);
        for wrong in ["x", "a://h:70000", "a://h/%", "a://h/%zz", "a://[h", "a://h/x\r\ny", "a://h/x y"] {
            assert_eq!(Uri::parse(wrong), None, "{wrong}");
        }
    }
}
