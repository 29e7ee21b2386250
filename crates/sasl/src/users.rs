//! Who may come in, and what is known of their passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::{Digest, hmac, is_equal};

/// The scheme's name in a verifier's text.
const SCHEME: &str = "SCRAM-SHA-256";
/// RFC 7677 wants at least so many.
const ITERATIONS_LEAST: u32 = 4096;
/// More would be a way to keep the server busy.
const ITERATIONS_MOST: u32 = 10_000_000;
/// The longest salt.
const SALT_MOST: usize = 1024;

/// What has to be known of a password to check one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Digest,
    pub(crate) server_key: Digest,
}

impl Verifier {
    /// Of a password, with a salt that should be random and a number of rounds, at least 4096.
    #[must_use]
    pub fn new(password: &str, salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.clamp(ITERATIONS_LEAST, ITERATIONS_MOST);
        let salted = salted(password.as_bytes(), salt, iterations);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let server_key = hmac(&salted, &[b"Server Key"]);
        Self { iterations, salt: salt.to_vec(), stored_key: Sha256::digest(client_key).into(), server_key }
    }

    /// Whether this is the password. Takes as long as there are rounds.
    #[must_use]
    pub fn is_password(&self, password: &[u8]) -> bool {
        let client_key = hmac(&salted(password, &self.salt, self.iterations), &[b"Client Key"]);
        is_equal(&Sha256::digest(client_key), &self.stored_key)
    }
}

fn salted(password: &[u8], salt: &[u8], iterations: u32) -> Digest {
    let mut key = Digest::default();
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut key);
    key
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| STANDARD.encode(bytes));
        write!(f, "{SCHEME}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl FromStr for Verifier {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('$');
        let (Some(SCHEME), Some(how), Some(keys), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey");
        };
        let (iterations, salt) = how.split_once(':').ok_or("there is no salt")?;
        let (stored, server) = keys.split_once(':').ok_or("there is no ServerKey")?;
        let iterations = iterations.parse().ok().filter(|count| (ITERATIONS_LEAST..=ITERATIONS_MOST).contains(count));
        let iterations = iterations.ok_or("the number of iterations is not between 4096 and 10000000")?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| "what should be base64 is not");
        let salt = bytes(salt)?;
        if salt.is_empty() || salt.len() > SALT_MOST {
            return Err("the salt is empty or too long");
        }
        let key = |text: &str| Digest::try_from(bytes(text)?).map_err(|_| "a key does not have 32 bytes");
        Ok(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }
}

/// What is wrong with a file of users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct UsersError {
    /// The line, from 1.
    pub line: usize,
    /// What it is.
    pub why: &'static str,
}

/// The users, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(BTreeMap<String, Verifier>);

impl Users {
    /// Reads a file's text. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// A line is wrong, or a name is there twice.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let mut users = BTreeMap::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong = |why| UsersError { line, why };
            let (name, verifier) = content.split_once(':').ok_or(wrong("expected name:verifier"))?;
            if name.is_empty() || name.contains(|character: char| character.is_control()) {
                return Err(wrong("there is no name"));
            }
            if users.insert(name.to_owned(), verifier.parse().map_err(wrong)?).is_some() {
                return Err(wrong("the name is there twice"));
            }
        }
        Ok(Self(users))
    }

    /// The one of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Verifier> {
        self.0.get(name)
    }

    /// What a client is shown of a user that does not exist, so that it can't tell: always the same salt for a name.
    pub(crate) fn nobody(&self, name: &str, secret: &[u8]) -> Verifier {
        let salt = hmac(secret, &[name.as_bytes()]);
        let iterations = self.0.values().next().map_or(ITERATIONS_LEAST, |verifier| verifier.iterations);
        Verifier {
            iterations,
            salt: salt.get(..16).unwrap_or_default().to_vec(),
            stored_key: Digest::default(),
            server_key: Digest::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_is_written_as_it_is_read_and_knows_its_password() {
        let verifier = Verifier::new("pencil", b"0123456789abcdef", 4096);
        let text = verifier.to_string();
        assert!(text.starts_with("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$"), "{text}");
        assert_eq!(text.parse(), Ok(verifier.clone()));
        assert!(verifier.is_password(b"pencil") && !verifier.is_password(b"Pencil"));
    }

    #[test]
    fn lines_that_are_wrong_are_told_by_their_number() {
        let good = Verifier::new("x", b"salt", 4096).to_string();
        let users = Users::parse(&format!("# users\n\nann:{good}\nbob@example.org:{good}\n")).expect("fine");
        assert!(users.find("ann").is_some() && users.find("bob@example.org").is_some() && users.find("x").is_none());
        for (text, line, why) in [
            ("ann".to_owned(), 1, "expected name:verifier"),
            (format!("\n:{good}"), 2, "there is no name"),
            (format!("ann:{good}\nann:{good}"), 2, "the name is there twice"),
            ("ann:secret".to_owned(), 1, "expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"),
            (
                "ann:SCRAM-SHA-256$1:AA==$AA==:AA==".to_owned(),
                1,
                "the number of iterations is not between 4096 and 10000000",
            ),
            ("ann:SCRAM-SHA-256$4096:AA==$AA==:AA==".to_owned(), 1, "a key does not have 32 bytes"),
            ("ann:SCRAM-SHA-256$4096:?$AA==:AA==".to_owned(), 1, "what should be base64 is not"),
        ] {
            assert_eq!(Users::parse(&text), Err(UsersError { line, why }), "{text}");
        }
    }
}
