//! Who may come in: tokens, sessions, and the rules of `Host` and `Origin`.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use crate::http::Request;
use crate::lock;
use crate::options::{Auth, Options};

/// How many browsers may be logged in; the oldest goes first.
const SESSIONS_MAX: usize = 32;
/// How many tokens may wait for a browser.
const TOKENS_MAX: usize = 8;

/// 128 bits that nobody can guess, in hexadecimal digits.
fn secret() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Compares without telling by the time how much is right.
fn is_same(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().zip(right.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// The state of the door.
pub struct Access {
    is_open: bool,
    token: Option<String>,
    cookie: String,
    hosts: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    one_time: Vec<String>,
    sessions: Vec<String>,
}

impl Access {
    /// The rules of a server that listens there; with a token for the first browser.
    pub fn new(options: &Options, local: SocketAddr) -> io::Result<(Self, Option<String>)> {
        let mut hosts = options.hosts.clone();
        hosts.push(options.address.to_ascii_lowercase());
        let access = Self {
            is_open: options.auth == Auth::Off,
            token: if let Auth::Token(token) = &options.auth { Some(token.clone()) } else { None },
            // Cookies don't know ports.
            cookie: format!("ouzel-{}", local.port()),
            hosts,
            state: Mutex::default(),
        };
        let first = match &options.auth {
            Auth::OneTime => Some(access.new_token()?),
            Auth::Token(token) => Some(token.clone()),
            Auth::Off => None,
        };
        Ok((access, first))
    }

    /// A token for one more browser.
    pub fn new_token(&self) -> io::Result<String> {
        let token = secret()?;
        let mut state = lock(&self.state);
        if state.one_time.len() >= TOKENS_MAX {
            state.one_time.remove(0);
        }
        state.one_time.push(token.clone());
        Ok(token)
    }

    /// Exchanges a token for a session; the field of the answer that sets its cookie. Nothing if it is not good.
    pub fn log_in(&self, token: &str) -> io::Result<Option<String>> {
        let mut state = lock(&self.state);
        let before = state.one_time.len();
        state.one_time.retain(|known| !is_same(known, token));
        let is_good = state.one_time.len() < before || self.token.as_ref().is_some_and(|known| is_same(known, token));
        if !is_good {
            return Ok(None);
        }
        let session = secret()?;
        if state.sessions.len() >= SESSIONS_MAX {
            state.sessions.remove(0);
        }
        state.sessions.push(session.clone());
        Ok(Some(format!("{}={session}; Path=/; HttpOnly; SameSite=Strict", self.cookie)))
    }

    /// Ends the session of a request.
    pub fn log_out(&self, request: &Request) {
        if let Some(session) = request.cookie(&self.cookie) {
            lock(&self.state).sessions.retain(|known| !is_same(known, session));
        }
    }

    /// Whether the request comes from a browser that is logged in.
    pub fn knows(&self, request: &Request) -> bool {
        let shown = request.cookie(&self.cookie);
        self.is_open || shown.is_some_and(|shown| lock(&self.state).sessions.iter().any(|known| is_same(known, shown)))
    }

    /// Whether the name by which the server is called is one of its own. Addresses are fine: a page of somebody else
    /// can make a browser believe that its name means this host, but not that it is an address.
    pub fn is_own_host(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
                _ => return false,
            },
            None => host.split_once(':').map_or(host, |(name, _)| name),
        };
        let name = name.to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.hosts.contains(&name)
    }

    /// Whether the request comes from a page of this very server.
    pub fn is_own_origin(&self, request: &Request) -> bool {
        let origin = request.origin.as_deref().unwrap_or_default();
        let place = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        place.is_some_and(|place| place.eq_ignore_ascii_case(&request.host)) && self.is_own_host(&request.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    fn door(option: &str) -> (Access, Option<String>) {
        let options = Options::parse(option).expect("an option");
        Access::new(&options, SocketAddr::from(([127, 0, 0, 1], 8080))).expect("random numbers")
    }

    fn request(fields: &str) -> Request {
        let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        http::read(text.as_bytes()).expect("fine").expect("complete").0
    }

    fn with_cookie(set: &str) -> Request {
        request(&format!("Host: h\r\nCookie: a=b; {}\r\n", set.split(';').next().expect("a pair")))
    }

    #[test]
    fn token_is_good_once_and_the_session_until_it_ends() {
        let (door, token) = door("8080");
        let token = token.expect("a token");
        assert_eq!(token.len(), 32);
        assert_eq!(door.log_in("").expect("random"), None);
        assert_eq!(door.log_in(&"0".repeat(32)).expect("random"), None);
        let cookie = door.log_in(&token).expect("random").expect("good");
        assert!(cookie.starts_with("ouzel-8080=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"));
        assert_eq!(door.log_in(&token).expect("random"), None, "it was used");
        let request = with_cookie(&cookie);
        assert!(door.knows(&request));
        assert!(!door.knows(&with_cookie("ouzel-8080=")));
        assert!(!door.knows(&with_cookie("ouzel-8081=x")));
        door.log_out(&request);
        assert!(!door.knows(&request));
        let second = door.new_token().expect("random");
        assert!(door.log_in(&second).expect("random").is_some());
    }

    #[test]
    fn chosen_token_is_good_for_all_and_sessions_are_bounded() {
        let (door, token) = door("8080,token=abcdefgh");
        assert_eq!(token.as_deref(), Some("abcdefgh"));
        let first = door.log_in("abcdefgh").expect("random").expect("good");
        for _ in 0..SESSIONS_MAX - 1 {
            door.log_in("abcdefgh").expect("random").expect("good");
        }
        assert!(door.knows(&with_cookie(&first)));
        let last = door.log_in("abcdefgh").expect("random").expect("good");
        assert!(!door.knows(&with_cookie(&first)) && door.knows(&with_cookie(&last)));
    }

    #[test]
    fn host_is_an_address_or_a_name_that_was_allowed() {
        let (door, _) = door("localhost:8080,host=box.lan");
        for host in [
            "127.0.0.1:8080",
            "[::1]:9",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "box.lan:8080",
            "10.0.0.1",
            "a.localhost",
        ] {
            assert!(door.is_own_host(host), "{host}");
        }
        for host in ["", "evil.example", "127.0.0.1.evil.example:8080", "[::1]evil", "localhost.evil.example", "[::1"] {
            assert!(!door.is_own_host(host), "{host}");
        }
    }

    #[test]
    fn origin_is_the_host_itself() {
        let (door, _) = door("8080");
        let from =
            |origin: &str| door.is_own_origin(&request(&format!("Host: 127.0.0.1:8080\r\nOrigin: {origin}\r\n")));
        assert!(from("http://127.0.0.1:8080") && from("https://127.0.0.1:8080"));
        for origin in ["http://127.0.0.1:8081", "http://evil.example", "null", "file://", "http://127.0.0.1:8080.evil"]
        {
            assert!(!from(origin), "{origin}");
        }
        assert!(!door.is_own_origin(&request("Host: 127.0.0.1:8080\r\n")), "no origin at all");
        assert!(!door.is_own_origin(&request("Host: evil.example\r\nOrigin: http://evil.example\r\n")));
    }
}
