//! What SASL clients send, and files of users.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use sasl::{Exchange, Mechanism, Step, Users, Verifier};

static USERS: LazyLock<Arc<Users>> = LazyLock::new(|| {
    let line = format!("ann:{}", Verifier::new("secret", b"salt", 4096));
    Arc::new(Users::parse(&line).expect("a line"))
});

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        // What is taken is written as it was read.
        if let Ok(users) = Users::parse(text) {
            assert!(users.find("").is_none());
        }
        if let Ok(verifier) = text.parse::<Verifier>() {
            assert_eq!(verifier.to_string().parse(), Ok(verifier));
        }
    }
    let Some((kind, data)) = data.split_first() else { return };
    let mechanism = if kind & 1 == 0 { Mechanism::Plain } else { Mechanism::ScramSha256 };
    let mut exchange = Exchange::new(mechanism, Arc::clone(&USERS), [*kind; 18], [9; 32]);
    for message in data.split(|byte| *byte == 0xff) {
        match exchange.step((!message.is_empty()).then_some(message)) {
            Ok(Step::Continue(_)) => {}
            Ok(Step::Done { user, .. }) => {
                assert_eq!(user, "ann");
                assert!(message.windows(6).any(|word| word == b"secret") || mechanism == Mechanism::ScramSha256);
                return;
            }
            Err(_) => return,
        }
    }
});
