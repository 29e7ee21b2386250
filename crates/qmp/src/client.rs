//! A typed client that blocks, for tools and tests.
//!
//! A [`Client`] sends one command at a time and keeps the events that come in between. For a program
//! that waits for people and for events at once, [`Client::split`] gives both directions apart.
//!
//! Every request gets an id, and a reply must have it. A command whose reply does not come in time
//! is given up: its reply is dropped when it comes after all. Members that a newer server has added
//! to replies are passed over. What a server sends is bounded by the limits of
//! [`qapi::json::Reader`].

mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Address, Stream};

use qapi::control::VersionInfo;
use qapi::json::{self, Map, Reader, Value};
use qapi::{Command, Error, Event, QapiType};
use std::collections::VecDeque;
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// What can go wrong for a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection to the server.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where the server should be.
        address: String,
        /// The last try's error.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The server has closed the connection.
    #[error("the server has closed the connection")]
    Closed,
    /// The server did not take the request or did not answer in time.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server said something that makes no sense.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// This connection cannot carry so many file descriptors, or none at all.
    #[error("{0}")]
    Descriptors(&'static str),
    /// The server refused the command.
    #[error("{}", .0.desc)]
    Command(Error),
}

impl ClientError {
    /// The server's error, if it refused the command.
    #[must_use]
    pub fn refusal(&self) -> Option<&Error> {
        match self {
            Self::Command(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// What to agree on with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Negotiation {
    /// Nothing is sent: the server is left in negotiation mode.
    Skip,
    /// No capabilities.
    #[default]
    Plain,
    /// Commands out of band, if the server offers them.
    Oob,
}

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientOptions {
    /// For how long to try again while there is no server at the address; zero is one try.
    pub retry_for: Duration,
    /// How long to wait for the greeting and for each reply; `None` is without end.
    pub timeout: Option<Duration>,
    /// What to agree on.
    pub negotiation: Negotiation,
}

/// An event that a server has sent.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerEvent {
    /// Its name.
    pub name: String,
    /// Its data; `None` if it has none.
    pub data: Option<Value>,
    /// When it happened: seconds since 1970, -1 if the server does not know.
    pub seconds: i64,
    /// The microseconds of that time.
    pub microseconds: i64,
}

impl ServerEvent {
    /// The data as the event `E`; `None` if it is another event.
    ///
    /// # Errors
    /// That the data does not fit.
    pub fn read<E: Event>(&self) -> Result<Option<E>, Error> {
        if self.name != E::NAME {
            return Ok(None);
        }
        let data = self.data.clone().unwrap_or_else(Value::empty_object);
        E::from_object(data, &qapi::Path::reply()).map(Some)
    }

    /// The message as the server sent it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let time = [("seconds", self.seconds), ("microseconds", self.microseconds)];
        let mut map = Map::new();
        map.insert("timestamp", Map::from_iter(time));
        map.insert("event", self.name.as_str());
        if let Some(data) = &self.data {
            map.insert("data", data.clone());
        }
        Value::Object(map)
    }
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The greeting: its member `QMP`.
    Greeting(Value),
    /// The result of a command.
    Return {
        /// The request's id.
        id: Option<Value>,
        /// The result.
        value: Value,
    },
    /// The failure of a command.
    Failure {
        /// The request's id; absent if the request could not be read.
        id: Option<Value>,
        /// The error.
        error: Error,
    },
    /// An event.
    Event(ServerEvent),
}

impl Message {
    fn from_value(value: Value) -> Result<Self, ClientError> {
        let Value::Object(mut map) = value else {
            return Err(unexpected(&value));
        };
        let id = map.remove("id");
        if let Some(value) = map.remove("return") {
            return Ok(Self::Return { id, value });
        }
        if let Some(error) = map.get("error") {
            return Ok(Self::Failure { id, error: Error::from_reply(error) });
        }
        if let Some(greeting) = map.remove("QMP") {
            return Ok(Self::Greeting(greeting));
        }
        if let Some(Value::String(name)) = map.remove("event") {
            let number = |name| map.get("timestamp").and_then(|time| time.get(name)).and_then(Value::as_i64);
            let (seconds, microseconds) = (number("seconds").unwrap_or(-1), number("microseconds").unwrap_or(-1));
            return Ok(Self::Event(ServerEvent { name, data: map.remove("data"), seconds, microseconds }));
        }
        Err(unexpected(&Value::Object(map)))
    }
}

/// Says which message makes no sense, or how it begins.
fn unexpected(value: &Value) -> ClientError {
    let text: String = value.to_string().chars().take(200).collect();
    ClientError::Protocol(format!("unexpected message {text}"))
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct Sender {
    stream: Stream,
    next_id: i64,
}

impl Sender {
    /// Sends a request and returns the id that its reply will have: the request's own, or a new one
    /// that is added to it. File descriptors go only through unix sockets, at most 16 at once.
    ///
    /// # Errors
    /// That the connection failed or cannot carry the file descriptors.
    pub fn send(&mut self, mut request: Map, fds: &[BorrowedFd<'_>]) -> Result<Value, ClientError> {
        let id = match request.get("id") {
            Some(id) => id.clone(),
            None => {
                let id = Value::Int(self.next_id);
                self.next_id = self.next_id.wrapping_add(1);
                request.insert("id", id.clone());
                id
            }
        };
        let text = json::to_string(&Value::Object(request)) + "\r\n";
        self.send_raw(text.as_bytes(), fds)?;
        Ok(id)
    }

    /// Sends bytes as they are, with file descriptors.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.stream.send(bytes, fds)
    }

    /// Ends the connection in both directions, so that a thread that receives ends, too.
    pub fn shut_down(&self) {
        self.stream.shut_down();
    }
}

/// The request that runs a command.
#[must_use]
pub fn request(name: &str, arguments: Option<Map>) -> Map {
    let mut request = Map::from_iter([("execute", name)]);
    if let Some(arguments) = arguments {
        request.insert("arguments", arguments);
    }
    request
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Receiver {
    stream: Stream,
    reader: Reader,
}

impl Receiver {
    /// The next message; waits no longer than `timeout`, if there is one.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], [`ClientError::Closed`], or what is wrong with the message or the
    /// connection.
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Message, ClientError> {
        self.receive_until(deadline(timeout))
    }

    fn receive_until(&mut self, deadline: Option<Instant>) -> Result<Message, ClientError> {
        let mut buffer = [0; 16384];
        loop {
            if let Some(result) = self.reader.next() {
                let value = result.map_err(|error| ClientError::Protocol(error.to_string()))?;
                return Message::from_value(value);
            }
            match self.stream.receive(&mut buffer, deadline)? {
                0 if self.reader.is_idle() => return Err(ClientError::Closed),
                0 => {
                    return Err(ClientError::Protocol("the server has closed the connection inside a message".into()));
                }
                count => self.reader.push(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// A time too far off is no deadline.
fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// A connection to a server that has sent its greeting.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
    receiver: Receiver,
    greeting: Value,
    timeout: Option<Duration>,
    /// Events that came while something else was awaited.
    events: VecDeque<ServerEvent>,
    /// The ids of commands whose replies did not come in time.
    given_up: Vec<Value>,
}

impl Client {
    /// Connects to a unix socket and negotiates, without any timeout.
    ///
    /// # Errors
    /// That there is no connection, or no QMP server.
    pub fn connect_unix(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        Self::connect(&Address::Unix(path.as_ref().to_owned()), &ClientOptions::default())
    }

    /// Connects over TCP and negotiates, without any timeout.
    ///
    /// # Errors
    /// As [`Client::connect_unix`].
    pub fn connect_tcp(address: impl ToSocketAddrs) -> Result<Self, ClientError> {
        let stream = Stream::connect_tcp(address, None);
        let stream = stream.map_err(|source| ClientError::Connect { address: "the TCP address".to_owned(), source })?;
        Self::from_stream(stream, &ClientOptions::default())
    }

    /// Connects and negotiates.
    ///
    /// # Errors
    /// As [`Client::connect_unix`], and [`ClientError::Timeout`] if the greeting does not come in time,
    /// as when another client is connected.
    pub fn connect(address: &Address, options: &ClientOptions) -> Result<Self, ClientError> {
        let stream = stream::connect(address, options);
        let stream = stream.map_err(|source| ClientError::Connect { address: address.to_string(), source })?;
        Self::from_stream(stream, options)
    }

    /// Reads the greeting from an open connection, and negotiates.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn from_stream(stream: impl Into<Stream>, options: &ClientOptions) -> Result<Self, ClientError> {
        let stream = stream.into();
        let sender = Sender { stream: stream.try_clone().map_err(ClientError::Io)?, next_id: 1 };
        let mut receiver = Receiver { stream, reader: Reader::new() };
        let Message::Greeting(greeting) = receiver.receive(options.timeout)? else {
            return Err(ClientError::Protocol("the server sent no greeting".into()));
        };
        let (events, given_up) = (VecDeque::new(), Vec::new());
        let mut client = Self { sender, receiver, greeting, timeout: None, events, given_up };
        client.set_timeout(options.timeout)?;
        client.negotiate(options.negotiation)?;
        Ok(client)
    }

    fn negotiate(&mut self, negotiation: Negotiation) -> Result<(), ClientError> {
        let capabilities = self.greeting.get("capabilities").and_then(Value::as_array);
        let offered = capabilities.unwrap_or_default().contains(&Value::from("oob"));
        let arguments = match negotiation {
            Negotiation::Skip => return Ok(()),
            Negotiation::Oob if offered => Some(Map::from_iter([("enable", vec![Value::from("oob")])])),
            Negotiation::Oob | Negotiation::Plain => None,
        };
        self.execute_value("qmp_capabilities", arguments).map(drop)
    }

    /// The server's greeting: its version and capabilities.
    #[must_use]
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// The version that the server claims to be compatible with, if it says.
    #[must_use]
    pub fn version(&self) -> Option<VersionInfo> {
        let version = self.greeting.get("version")?.clone();
        VersionInfo::from_value(version, &qapi::Path::reply()).ok()
    }

    /// How long to wait for each reply from now on; `None` is without end.
    ///
    /// # Errors
    /// That the connection does not take it.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.timeout = timeout;
        self.sender.stream.set_send_timeout(timeout).map_err(ClientError::Io)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`ClientError::Command`] if the server refuses it, else what is wrong with the connection.
    pub fn execute<C: Command>(&mut self, command: &C) -> Result<C::Return, ClientError> {
        self.execute_with_fds(command, &[])
    }

    /// Runs a command that takes file descriptors along.
    ///
    /// # Errors
    /// As [`Client::execute`], and [`ClientError::Descriptors`].
    pub fn execute_with_fds<C: Command>(
        &mut self,
        command: &C,
        fds: &[BorrowedFd<'_>],
    ) -> Result<C::Return, ClientError> {
        let arguments = Some(command.to_map()).filter(|map| !map.is_empty());
        let value = self.run(request(C::NAME, arguments), fds)?;
        C::Return::from_value(value, &qapi::Path::reply())
            .map_err(|error| ClientError::Protocol(format!("the result of {} does not fit its type: {error}", C::NAME)))
    }

    /// Runs a command by name.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_value(&mut self, name: &str, arguments: Option<Map>) -> Result<Value, ClientError> {
        self.run(request(name, arguments), &[])
    }

    /// Runs a command by name, out of band; see [`Negotiation::Oob`].
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_oob(&mut self, name: &str, arguments: Option<Map>) -> Result<Value, ClientError> {
        let mut request = Map::from_iter([("exec-oob", name)]);
        if let Some(arguments) = arguments {
            request.insert("arguments", arguments);
        }
        self.run(request, &[])
    }

    /// Sends a whole request, `{"execute": …}` or `{"exec-oob": …}`, and waits for its reply. An id
    /// is added if it has none.
    ///
    /// # Errors
    /// As [`Client::execute_with_fds`].
    pub fn run(&mut self, request: Map, fds: &[BorrowedFd<'_>]) -> Result<Value, ClientError> {
        let deadline = deadline(self.timeout);
        let id = self.sender.send(request, fds)?;
        let result = self.wait_for(&id, deadline);
        if matches!(result, Err(ClientError::Timeout)) {
            self.given_up.push(id);
        }
        result
    }

    fn wait_for(&mut self, wanted: &Value, deadline: Option<Instant>) -> Result<Value, ClientError> {
        loop {
            let (id, result) = match self.receiver.receive_until(deadline)? {
                Message::Event(event) => {
                    self.events.push_back(event);
                    continue;
                }
                Message::Return { id, value } => (id, Ok(value)),
                Message::Failure { id, error } => (id, Err(ClientError::Command(error))),
                Message::Greeting(_) => return Err(ClientError::Protocol("a second greeting".into())),
            };
            match id {
                Some(id) if id == *wanted => return result,
                Some(id) => self.forget(&id)?,
                // A request that the server could not read has no id for it.
                None if result.is_err() => return result,
                None => return Err(ClientError::Protocol("a reply without an id".into())),
            }
        }
    }

    /// Passes over the reply to a command that was given up.
    fn forget(&mut self, id: &Value) -> Result<(), ClientError> {
        let at = self.given_up.iter().position(|given_up| given_up == id);
        let at = at.ok_or_else(|| ClientError::Protocol(format!("a reply to no request, id {id}")))?;
        self.given_up.swap_remove(at);
        Ok(())
    }

    /// Sends bytes as they are, well formed or not. [`Client::next_message`] gets what comes back.
    ///
    /// # Errors
    /// That the connection failed.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.sender.send_raw(bytes, &[])
    }

    /// As [`Client::send_raw`], with file descriptors.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send_raw_with_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.sender.send_raw(bytes, fds)
    }

    /// The next message of whatever kind: an event that was kept, or what comes within `timeout`.
    ///
    /// # Errors
    /// As [`Receiver::receive`].
    pub fn next_message(&mut self, timeout: Option<Duration>) -> Result<Message, ClientError> {
        match self.events.pop_front() {
            Some(event) => Ok(Message::Event(event)),
            None => self.receiver.receive(timeout),
        }
    }

    /// The next event: one that was kept, or one that comes within `timeout`; `None` if none does.
    ///
    /// # Errors
    /// What is wrong with the connection, or that a reply came although nothing was asked.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Option<ServerEvent>, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        match self.receive_event(deadline(timeout)) {
            Ok(event) => Ok(Some(event)),
            Err(ClientError::Timeout) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next event `name`: one that was kept, or one that comes within `timeout`. Other events
    /// are kept.
    ///
    /// # Errors
    /// As [`Client::next_event`], and [`ClientError::Timeout`].
    pub fn wait_event(&mut self, name: &str, timeout: Option<Duration>) -> Result<ServerEvent, ClientError> {
        let kept = self.events.iter().position(|event| event.name == name);
        if let Some(event) = kept.and_then(|at| self.events.remove(at)) {
            return Ok(event);
        }
        let deadline = deadline(timeout);
        loop {
            let event = self.receive_event(deadline)?;
            if event.name == name {
                return Ok(event);
            }
            self.events.push_back(event);
        }
    }

    fn receive_event(&mut self, deadline: Option<Instant>) -> Result<ServerEvent, ClientError> {
        loop {
            match self.receiver.receive_until(deadline)? {
                Message::Event(event) => return Ok(event),
                Message::Return { id: Some(id), .. } | Message::Failure { id: Some(id), .. } => self.forget(&id)?,
                Message::Failure { id: None, error } => return Err(ClientError::Command(error)),
                Message::Return { id: None, .. } | Message::Greeting(_) => {
                    return Err(ClientError::Protocol("a message that nothing asked for".into()));
                }
            }
        }
    }

    /// Takes the events that have been kept.
    pub fn take_events(&mut self) -> Vec<ServerEvent> {
        std::mem::take(&mut self.events).into()
    }

    /// Takes the connection apart: the sending half, the receiving half, and events that were kept.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver, Vec<ServerEvent>) {
        (self.sender, self.receiver, self.events.into())
    }
}
