//! What clients have to know.

use std::time::SystemTime;

/// A password, which may end.
#[derive(Default)]
pub struct Password {
    text: Option<String>,
    /// Seconds since 1970; nothing is for ever.
    expires: Option<u64>,
}

impl Password {
    /// Sets it; when it ends stays.
    pub fn set(&mut self, text: &str) {
        self.text = Some(text.to_owned());
    }

    /// When it ends, in seconds since 1970; nothing for never.
    pub fn expire(&mut self, at: Option<u64>) {
        self.expires = at;
    }

    /// The password, if there is one now.
    pub fn valid(&self) -> Option<&str> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.text.as_deref().filter(|_| self.expires.is_none_or(|at| at >= now))
    }
}

/// Whether bytes are equal; how much of them is right does not show in the time.
pub fn is_same(given: &[u8], wanted: &[u8]) -> bool {
    let differs = given.iter().zip(wanted).fold(0, |differs, (left, right)| differs | (left ^ right));
    given.len() == wanted.len() && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_valid_until_it_ends() {
        let mut password = Password::default();
        assert_eq!(password.valid(), None);
        password.set("secret");
        assert_eq!(password.valid(), Some("secret"));
        password.expire(Some(0));
        assert_eq!(password.valid(), None);
        password.set("another");
        assert_eq!(password.valid(), None);
        password.expire(Some(u64::MAX));
        assert_eq!(password.valid(), Some("another"));
    }

    #[test]
    fn bytes_are_the_same_if_all_are() {
        assert!(is_same(b"a", b"a") && !is_same(b"a", b"ab") && !is_same(b"a", b"b") && is_same(b"", b""));
    }
}
