//! One client's way in.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::users::{Users, Verifier};
use crate::{Digest, hmac, is_equal};

/// The longest message of a client.
const MESSAGE_MOST: usize = 4096;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// It says its password: only where nobody else can hear.
    Plain,
    /// It proves that it knows its password.
    ScramSha256,
}

impl Mechanism {
    /// The registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
        }
    }

    /// Those that may be used on a connection, the best first.
    #[must_use]
    pub const fn offered(is_private: bool) -> &'static [Self] {
        if is_private { &[Self::ScramSha256, Self::Plain] } else { &[Self::ScramSha256] }
    }
}

/// The client is not let in; the text is for logs, not for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(&'static str);

/// What follows a message of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This is to be answered; then comes another message.
    Continue(Vec<u8>),
    /// The client has proved who it is; there may be something to tell it yet.
    Done {
        /// Who it is.
        user: String,
        /// The server's own proof.
        last: Option<Vec<u8>>,
    },
}

/// The state between the two messages of SCRAM.
struct Scram {
    user: String,
    verifier: Verifier,
    is_known: bool,
    /// `n,,` or `y,,`.
    header: String,
    /// Both messages so far, as the proof covers them.
    said: String,
    nonce: String,
}

enum State {
    First,
    Proof(Scram),
    Over,
}

/// One client's exchange of messages.
pub struct Exchange {
    mechanism: Mechanism,
    users: Arc<Users>,
    random: [u8; 18],
    secret: Digest,
    state: State,
}

fn text(bytes: &[u8]) -> Result<&str, Refused> {
    if bytes.len() > MESSAGE_MOST {
        return Err(Refused("a message is too long"));
    }
    std::str::from_utf8(bytes).map_err(|_| Refused("a message is not UTF-8"))
}

/// A name in SCRAM: `=2C` is a comma and `=3D` an equals sign.
fn name(text: &str) -> Result<String, Refused> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(Refused("a name is not encoded as SCRAM wants it")),
        };
        name.push(character);
        name.push_str(rest);
    }
    Ok(name)
}

impl Exchange {
    /// A client that has chosen a mechanism. `random` is new for each exchange, `secret` is the program's own.
    #[must_use]
    pub fn new(mechanism: Mechanism, users: Arc<Users>, random: [u8; 18], secret: [u8; 32]) -> Self {
        Self { mechanism, users, random, secret, state: State::First }
    }

    /// The next message of the client; nothing if it had nothing to say when it began. May take a while: rounds of a
    /// key derivation.
    ///
    /// # Errors
    /// It is not let in.
    pub fn step(&mut self, message: Option<&[u8]>) -> Result<Step, Refused> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Over => Err(Refused("the exchange is over")),
            State::First => match (self.mechanism, message) {
                // Both mechanisms begin with the client's word.
                (_, None) => {
                    self.state = State::First;
                    Ok(Step::Continue(Vec::new()))
                }
                (Mechanism::Plain, Some(message)) => self.plain(message),
                (Mechanism::ScramSha256, Some(message)) => self.scram_first(text(message)?),
            },
            State::Proof(scram) => scram.proof(text(message.ok_or(Refused("there is no proof"))?)?),
        }
    }

    fn plain(&self, message: &[u8]) -> Result<Step, Refused> {
        let mut parts = text(message)?.split('\0');
        let (Some(other), Some(user), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused("that is not PLAIN"));
        };
        if !other.is_empty() && other != user {
            return Err(Refused("nobody may come in as somebody else"));
        }
        let known = self.users.find(user);
        // Who does not exist takes as long.
        let nobody = self.users.nobody(user, &self.secret);
        if known.unwrap_or(&nobody).is_password(password.as_bytes()) && known.is_some() {
            return Ok(Step::Done { user: user.to_owned(), last: None });
        }
        Err(Refused("a wrong name or password"))
    }

    fn scram_first(&mut self, message: &str) -> Result<Step, Refused> {
        let wrong = Refused("that is not SCRAM");
        let mut fields = message.splitn(3, ',');
        let (Some(binding), Some(other), Some(bare)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(wrong);
        };
        if !matches!(binding, "n" | "y") {
            return Err(Refused("there is no channel binding here"));
        }
        let mut attributes = bare.split(',');
        let user = attributes.next().and_then(|field| field.strip_prefix("n=")).ok_or(wrong)?;
        let theirs = attributes.next().and_then(|field| field.strip_prefix("r=")).ok_or(wrong)?;
        let user = name(user)?;
        if theirs.is_empty() {
            return Err(wrong);
        }
        if !other.is_empty() && name(other.strip_prefix("a=").ok_or(wrong)?)? != user {
            return Err(Refused("nobody may come in as somebody else"));
        }
        let known = self.users.find(&user).cloned();
        let is_known = known.is_some();
        let verifier = known.unwrap_or_else(|| self.users.nobody(&user, &self.secret));
        let nonce = format!("{theirs}{}", STANDARD.encode(self.random));
        let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let (header, said) = (format!("{binding},{other},"), format!("{bare},{answer}"));
        self.state = State::Proof(Scram { user, verifier, is_known, header, said, nonce });
        Ok(Step::Continue(answer.into_bytes()))
    }
}

impl Scram {
    fn proof(self, message: &str) -> Result<Step, Refused> {
        let wrong = Refused("that is no proof of SCRAM");
        let (without, proof) = message.rsplit_once(",p=").ok_or(wrong)?;
        let mut attributes = without.split(',');
        let header = attributes.next().and_then(|field| field.strip_prefix("c=")).ok_or(wrong)?;
        let nonce = attributes.next().and_then(|field| field.strip_prefix("r=")).ok_or(wrong)?;
        if header != STANDARD.encode(&self.header) || nonce != self.nonce {
            return Err(Refused("the proof is for another exchange"));
        }
        let proof = STANDARD.decode(proof).ok().and_then(|proof| Digest::try_from(proof).ok()).ok_or(wrong)?;
        let said: [&[u8]; 3] = [self.said.as_bytes(), b",", without.as_bytes()];
        let signature = hmac(&self.verifier.stored_key, &said);
        let mut client_key = proof;
        for (byte, by) in client_key.iter_mut().zip(signature) {
            *byte ^= by;
        }
        if !is_equal(&Sha256::digest(client_key), &self.verifier.stored_key) || !self.is_known {
            return Err(Refused("a wrong name or password"));
        }
        let last = format!("v={}", STANDARD.encode(hmac(&self.verifier.server_key, &said)));
        Ok(Step::Done { user: self.user, last: Some(last.into_bytes()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Arc<Users> {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let text = format!("user:{}\na=,b:{}\n", Verifier::new("pencil", &salt, 4096), Verifier::new("x", &salt, 4096));
        Arc::new(Users::parse(&text).expect("users"))
    }

    fn begin(mechanism: Mechanism, random: [u8; 18]) -> Exchange {
        Exchange::new(mechanism, users(), random, [7; 32])
    }

    #[test]
    fn scram_goes_as_in_the_example_of_rfc_7677() {
        let nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let mut exchange = begin(Mechanism::ScramSha256, [0; 18]);
        // The example's nonce is not base64: it is put in by hand.
        let first = exchange.step(Some(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")).expect("a challenge");
        assert!(matches!(first, Step::Continue(_)));
        let State::Proof(scram) = &mut exchange.state else { panic!("no proof is wanted") };
        scram.nonce = format!("rOprNGfwEbeRWgbNEkqO{nonce}");
        let challenge = format!("r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", scram.nonce);
        scram.said = format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{challenge}");
        let proof = format!("c=biws,r={},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", scram.nonce);
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec();
        assert_eq!(exchange.step(Some(proof.as_bytes())), Ok(Step::Done { user: "user".into(), last: Some(last) }));
        assert!(exchange.step(Some(proof.as_bytes())).is_err(), "a proof is good once");
    }

    #[test]
    fn plain_takes_the_right_password_and_nothing_else() {
        let ask = |message: &[u8]| begin(Mechanism::Plain, [0; 18]).step(Some(message));
        assert_eq!(ask(b"\0user\0pencil"), Ok(Step::Done { user: "user".into(), last: None }));
        assert_eq!(ask(b"user\0user\0pencil"), Ok(Step::Done { user: "user".into(), last: None }));
        for wrong in
            [&b"\0user\0pen"[..], b"\0nobody\0pencil", b"root\0user\0pencil", b"user\0pencil", b"", b"\xff\0\0"]
        {
            assert!(ask(wrong).is_err(), "{wrong:?}");
        }
        let mut exchange = begin(Mechanism::Plain, [0; 18]);
        assert_eq!(exchange.step(None), Ok(Step::Continue(Vec::new())));
        assert!(exchange.step(Some(b"\0user\0pencil")).is_ok());
    }

    #[test]
    fn scram_refuses_what_is_not_scram_and_does_not_tell_who_exists() {
        for wrong in [
            "",
            "n",
            "n,,",
            "p=tls-unique,,n=user,r=x",
            "n,,r=x,n=user",
            "n,,n=user,r=",
            "n,a=root,n=user,r=x",
            "n,,n==,r=x",
        ] {
            assert!(begin(Mechanism::ScramSha256, [1; 18]).step(Some(wrong.as_bytes())).is_err(), "{wrong}");
        }
        let challenge = |user: &str| {
            let first = format!("n,,n={user},r=x");
            match begin(Mechanism::ScramSha256, [1; 18]).step(Some(first.as_bytes())) {
                Ok(Step::Continue(challenge)) => String::from_utf8(challenge).expect("text"),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(challenge("nobody"), challenge("nobody"));
        assert_ne!(challenge("nobody"), challenge("noone"));
        assert!(challenge("a=3D=2Cb").ends_with(",i=4096"));
        let mut exchange = begin(Mechanism::ScramSha256, [1; 18]);
        let first = exchange.step(Some(b"n,,n=nobody,r=x")).expect("a challenge");
        let Step::Continue(challenge) = first else { panic!("no challenge") };
        let challenge = String::from_utf8(challenge).expect("text");
        let nonce = challenge.split(',').next().expect("a nonce");
        let proof = format!("c=biws,{nonce},p={}", STANDARD.encode([0; 32]));
        assert!(exchange.step(Some(proof.as_bytes())).is_err());
    }
}
