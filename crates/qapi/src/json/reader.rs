//! The incremental reader: a byte-driven lexer, and the rules that say when a message is complete
//! and where reading goes on after an error (`qmp.md` sections 7 and 8).

use super::parser::{self, Kind, Token};
use super::{JsonError, Value, utf8};

/// How many bytes of tokens one message may have.
pub const MAX_TOKEN_BYTES: usize = 64 << 20;
/// How many tokens one message may have.
pub const MAX_TOKENS: usize = 2 << 20;
/// How many brackets may be open at once.
pub const MAX_NESTING: usize = 1 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// After a lexical error: skipping to where a message may begin.
    Recovery,
    /// Inside a string that the quote byte began.
    Text(u8),
    Escape(u8),
    Sign,
    Zero,
    Digits,
    Point,
    Fraction,
    ExponentMark,
    ExponentSign,
    Exponent,
    Keyword,
}

/// What a byte does in a state.
enum Step {
    /// The byte belongs to the token; go on.
    Take(State),
    /// White space or skipped input.
    Skip(State),
    /// The byte ends a token that it belongs to.
    Last(Kind),
    /// The byte ends the token and belongs to what follows.
    Before(Kind),
    /// Recovery is over; look at the byte again.
    Resume,
    /// No token goes on with this byte.
    Error,
}

fn step(state: State, byte: u8) -> Step {
    match state {
        State::Start => start(byte),
        State::Recovery => match byte {
            b'\t' => Step::Skip(State::Recovery),
            0..=0x1F | 0xFE..=0xFF | b'[' | b']' | b'{' | b'}' | b':' | b',' => Step::Resume,
            _ => Step::Skip(State::Recovery),
        },
        State::Text(quote) => match byte {
            b'\\' => Step::Take(State::Escape(quote)),
            _ if byte == quote => Step::Last(Kind::Text),
            0x20..=0xFD => Step::Take(State::Text(quote)),
            _ => Step::Error,
        },
        State::Escape(quote) => match byte {
            0x20..=0xFD => Step::Take(State::Text(quote)),
            _ => Step::Error,
        },
        State::Keyword => match byte {
            b'a'..=b'z' => Step::Take(State::Keyword),
            _ => Step::Before(Kind::Keyword),
        },
        _ => number(state, byte),
    }
}

fn start(byte: u8) -> Step {
    match byte {
        b'"' | b'\'' => Step::Take(State::Text(byte)),
        b'0' => Step::Take(State::Zero),
        b'1'..=b'9' => Step::Take(State::Digits),
        b'-' => Step::Take(State::Sign),
        b'a'..=b'z' => Step::Take(State::Keyword),
        b'{' => Step::Last(Kind::BraceOpen),
        b'}' => Step::Last(Kind::BraceClose),
        b'[' => Step::Last(Kind::SquareOpen),
        b']' => Step::Last(Kind::SquareClose),
        b',' => Step::Last(Kind::Comma),
        b':' => Step::Last(Kind::Colon),
        b' ' | b'\t' | b'\r' | b'\n' => Step::Skip(State::Start),
        _ => Step::Error,
    }
}

fn number(state: State, byte: u8) -> Step {
    match (state, byte) {
        (State::Sign, b'0') => Step::Take(State::Zero),
        (State::Sign, b'1'..=b'9') | (State::Digits, b'0'..=b'9') => Step::Take(State::Digits),
        (State::Zero, b'0'..=b'9') => Step::Error,
        (State::Zero | State::Digits, b'.') => Step::Take(State::Point),
        (State::Digits | State::Fraction, b'e' | b'E') => Step::Take(State::ExponentMark),
        (State::Point | State::Fraction, b'0'..=b'9') => Step::Take(State::Fraction),
        (State::ExponentMark, b'+' | b'-') => Step::Take(State::ExponentSign),
        (State::ExponentMark | State::ExponentSign | State::Exponent, b'0'..=b'9') => Step::Take(State::Exponent),
        (State::Zero | State::Digits, _) => Step::Before(Kind::Integer),
        (State::Fraction | State::Exponent, _) => Step::Before(Kind::Float),
        _ => Step::Error,
    }
}

/// Reads JSON values from a stream of bytes that arrives in pieces.
///
/// `push` adds bytes, `next` gives what they complete: values, and errors after which reading goes
/// on. Work is done in `next`, so that a caller that stops asking stops the parsing too.
#[derive(Debug)]
pub struct Reader {
    input: Vec<u8>,
    at: usize,
    ended: bool,
    state: State,
    /// The bytes of the tokens of the current message, then those of the unfinished token.
    bytes: Vec<u8>,
    token_start: usize,
    tokens: Vec<Token>,
    braces: isize,
    squares: isize,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            input: Vec::new(),
            at: 0,
            ended: false,
            state: State::Start,
            bytes: Vec::new(),
            token_start: 0,
            tokens: Vec::new(),
            braces: 0,
            squares: 0,
        }
    }

    /// Adds bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Says that the stream is at its end: unfinished tokens and messages are then reported.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Whether nothing of an unfinished message or token has been read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.at == self.input.len() && self.bytes.is_empty() && self.tokens.is_empty()
    }

    /// The next value or error, if the bytes so far complete one.
    #[expect(clippy::should_implement_trait, reason = "it may give more after None")]
    pub fn next(&mut self) -> Option<Result<Value, JsonError>> {
        while let Some(&byte) = self.input.get(self.at) {
            let (consumed, result) = self.feed(byte);
            self.at += usize::from(consumed);
            if result.is_some() {
                return result;
            }
        }
        if self.ended { self.end() } else { None }
    }

    /// Runs the unfinished token, then the unfinished message, into the end of the stream.
    fn end(&mut self) -> Option<Result<Value, JsonError>> {
        while self.state != State::Start {
            // A NUL ends every token, as QEMU's flush does.
            if let (_, Some(result)) = self.feed_end() {
                return Some(result);
            }
        }
        if self.tokens.is_empty() { None } else { Some(self.emit()) }
    }

    fn feed_end(&mut self) -> (bool, Option<Result<Value, JsonError>>) {
        match step(self.state, 0) {
            Step::Error => (false, Some(self.stray())),
            Step::Last(kind) | Step::Before(kind) => {
                self.state = State::Start;
                (false, self.token(kind))
            }
            Step::Take(_) | Step::Skip(_) | Step::Resume => {
                self.state = State::Start;
                (false, None)
            }
        }
    }

    fn feed(&mut self, byte: u8) -> (bool, Option<Result<Value, JsonError>>) {
        match step(self.state, byte) {
            Step::Take(state) => {
                self.bytes.push(byte);
                self.state = state;
                if self.bytes.len() - self.token_start > MAX_TOKEN_BYTES {
                    self.state = State::Start;
                    return (true, Some(self.fail("JSON token size limit exceeded".into())));
                }
                (true, None)
            }
            Step::Skip(state) => {
                self.state = state;
                (true, None)
            }
            Step::Last(kind) => {
                self.bytes.push(byte);
                self.state = State::Start;
                (true, self.token(kind))
            }
            Step::Before(kind) => {
                self.state = State::Start;
                (false, self.token(kind))
            }
            Step::Resume => {
                self.state = State::Start;
                (false, None)
            }
            Step::Error => {
                self.bytes.push(byte);
                (true, Some(self.stray()))
            }
        }
    }

    fn stray(&mut self) -> Result<Value, JsonError> {
        self.state = State::Recovery;
        let token = self.bytes.get(self.token_start..).unwrap_or_default();
        let text = utf8::lossy_c_string(token);
        self.fail(format!("JSON parse error, stray '{text}'"))
    }

    /// A token is complete: is the message, too?
    fn token(&mut self, kind: Kind) -> Option<Result<Value, JsonError>> {
        match kind {
            Kind::BraceOpen => self.braces += 1,
            Kind::BraceClose => self.braces -= 1,
            Kind::SquareOpen => self.squares += 1,
            Kind::SquareClose => self.squares -= 1,
            _ => {}
        }
        if self.bytes.len() + 1 > MAX_TOKEN_BYTES {
            return Some(self.fail("JSON token size limit exceeded".into()));
        }
        if self.tokens.len() + 1 > MAX_TOKENS {
            return Some(self.fail("JSON token count limit exceeded".into()));
        }
        if self.braces + self.squares > MAX_NESTING.cast_signed() {
            return Some(self.fail("JSON nesting depth limit exceeded".into()));
        }
        self.tokens.push(Token { kind, start: self.token_start, end: self.bytes.len() });
        self.token_start = self.bytes.len();
        let open = (self.braces > 0 || self.squares > 0) && self.braces >= 0 && self.squares >= 0;
        if open { None } else { Some(self.emit()) }
    }

    fn emit(&mut self) -> Result<Value, JsonError> {
        let result = parser::parse(&self.bytes, &self.tokens);
        self.reset();
        result
    }

    fn fail(&mut self, message: String) -> Result<Value, JsonError> {
        self.reset();
        Err(JsonError(message))
    }

    fn reset(&mut self) {
        // A huge message must not keep its memory for ever.
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = Vec::new();
            self.tokens = Vec::new();
        }
        self.bytes.clear();
        self.tokens.clear();
        self.token_start = 0;
        self.braces = 0;
        self.squares = 0;
    }
}
