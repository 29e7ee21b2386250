//! The argument of `-web`: `[addr:]port[,token=…|auth=off][,host=…]`.

use crate::Error;

/// The shortest token that a person may choose.
const TOKEN_MIN: usize = 8;
const TOKEN_MAX: usize = 256;

/// How a browser proves that it may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// By a token that is made up at the start, told on standard error, and good for one browser.
    #[default]
    OneTime,
    /// By this token, as often as it is shown.
    Token(String),
    /// Not at all.
    Off,
}

/// What the option says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to listen: a name or an address.
    pub address: String,
    /// The port; 0 for any.
    pub port: u16,
    /// How a browser proves that it may come in.
    pub auth: Auth,
    /// Names beside addresses and `localhost` by which browsers may call the server.
    pub hosts: Vec<String>,
}

impl Options {
    /// Reads the argument.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let (address, port) = place.rsplit_once(':').unwrap_or(("127.0.0.1", place));
        let port = port.parse().map_err(|_| Error(format!("'{port}' is no port")))?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if bare.is_none() && address.contains(':') {
            return Err(Error(format!("an IPv6 address stands in brackets: [{address}]")));
        }
        let address = match bare.unwrap_or(address) {
            "" => return Err(Error("the address is empty; 0.0.0.0 is all of this host's".to_owned())),
            address => address.to_owned(),
        };
        let mut options = Self { address, port, auth: Auth::OneTime, hosts: Vec::new() };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match (name, value) {
                ("token" | "auth", _) if options.auth != Auth::OneTime => {
                    return Err(Error("one of 'token' and 'auth' can be given, once".to_owned()));
                }
                ("auth", "off") => options.auth = Auth::Off,
                ("auth", "token") => {}
                ("auth", _) => return Err(Error("Parameter 'auth' expects 'off' or 'token'".to_owned())),
                ("token", token) => {
                    let is_plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
                    if !is_plain || !(TOKEN_MIN..=TOKEN_MAX).contains(&token.len()) {
                        return Err(Error(format!(
                            "Parameter 'token' expects {TOKEN_MIN} to {TOKEN_MAX} letters, digits and -._~"
                        )));
                    }
                    options.auth = Auth::Token(token.to_owned());
                }
                ("host", "") => return Err(Error("Parameter 'host' expects a name".to_owned())),
                ("host", host) => options.hosts.push(host.to_ascii_lowercase()),
                _ => return Err(Error(format!("Invalid parameter '{name}'"))),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_is_read_with_loopback_and_a_token_by_default() {
        let plain = Options::parse("8080").expect("an option");
        assert_eq!((plain.address.as_str(), plain.port, &plain.auth), ("127.0.0.1", 8080, &Auth::OneTime));
        let full = Options::parse("[::1]:0,token=abcdefgh,host=Box.Lan").expect("an option");
        assert_eq!((full.address.as_str(), full.port), ("::1", 0));
        assert_eq!((full.auth, full.hosts), (Auth::Token("abcdefgh".into()), vec!["box.lan".to_owned()]));
        assert_eq!(Options::parse("0.0.0.0:1,auth=off").expect("an option").auth, Auth::Off);
    }

    #[test]
    fn option_that_is_wrong_is_refused_with_the_reason() {
        for (text, message) in [
            ("", "'' is no port"),
            ("here:99999", "'99999' is no port"),
            (":80", "the address is empty"),
            ("::1:80", "in brackets"),
            ("80,token=short", "'token' expects"),
            ("80,token=with spaces in it", "'token' expects"),
            ("80,auth=maybe", "'auth' expects"),
            ("80,auth=off,token=abcdefgh", "one of"),
            ("80,tls=on", "Invalid parameter 'tls'"),
        ] {
            let error = Options::parse(text).expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
