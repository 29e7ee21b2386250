//! A typed client that blocks, for tools and tests.
//!
//! A [`Client`] sends one command at a time and keeps the events that come in between. For a program
//! that waits for people and for events at once, [`Client::split`] gives both directions apart.

use qapi::json::{self, Map, Reader, Value};
use qapi::{Command, Error, QapiType};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How many file descriptors one command may carry.
const MAX_FDS: usize = 16;

/// What can go wrong for a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server has closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The server did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The server said something that makes no sense.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The command failed.
    #[error("{0}")]
    Command(Error),
}

/// An event that a server has sent.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerEvent {
    /// Its name.
    pub name: String,
    /// Its data; `None` if it has none.
    pub data: Option<Value>,
    /// When it happened: seconds since 1970, and microseconds.
    pub time: (i64, i64),
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
        /// The request's id.
        id: Option<Value>,
        /// The error.
        error: Error,
    },
    /// An event.
    Event(ServerEvent),
}

impl Message {
    fn from_value(value: Value) -> Result<Self, ClientError> {
        let wrong = |value: &Value| ClientError::Protocol(format!("unexpected message {value}"));
        let Value::Object(mut map) = value else {
            return Err(wrong(&value));
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
            let time = (number("seconds").unwrap_or(-1), number("microseconds").unwrap_or(-1));
            return Ok(Self::Event(ServerEvent { name, data: map.remove("data"), time }));
        }
        Err(wrong(&Value::Object(map)))
    }
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The path of a unix socket.
    Unix(String),
    /// `HOST:PORT`.
    Tcp(String),
}

impl Address {
    /// Reads `unix:PATH`, `tcp:HOST:PORT`, a path, or `HOST:PORT`. What has a slash, or no port, is a
    /// path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::Unix(path.to_owned());
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            return Self::Tcp(address.to_owned());
        }
        let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if text.contains('/') || !matches!(port, Some(Ok(_))) {
            return Self::Unix(text.to_owned());
        }
        Self::Tcp(text.to_owned())
    }
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
        }
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout),
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct Sender {
    stream: Stream,
    next_id: i64,
}

impl Sender {
    /// Sends a command and returns the id that its reply will have.
    ///
    /// # Errors
    /// That the connection failed.
    pub fn send(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, ClientError> {
        self.send_request("execute", name, arguments, &[])
    }

    /// As [`Sender::send`], with file descriptors, which only a unix socket can carry.
    ///
    /// # Errors
    /// That the connection failed or is of another kind.
    pub fn send_with_fds(
        &mut self,
        name: &str,
        arguments: Option<Value>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, ClientError> {
        self.send_request("execute", name, arguments, fds)
    }

    /// As [`Sender::send`], out of band. The server must have been asked for that before.
    ///
    /// # Errors
    /// That the connection failed.
    pub fn send_oob(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, ClientError> {
        self.send_request("exec-oob", name, arguments, &[])
    }

    fn send_request(
        &mut self,
        key: &str,
        name: &str,
        arguments: Option<Value>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, ClientError> {
        let id = Value::Int(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let mut request = Map::from_iter([(key, name)]);
        if let Some(arguments) = arguments {
            request.insert("arguments", arguments);
        }
        request.insert("id", id.clone());
        self.send_raw(&json::to_string(&Value::Object(request)), fds)?;
        Ok(id)
    }

    /// Sends a text as it is, and a line end.
    ///
    /// # Errors
    /// That the connection failed, or cannot carry the file descriptors.
    pub fn send_raw(&mut self, text: &str, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let text = format!("{text}\r\n");
        let mut rest = text.as_bytes();
        if !fds.is_empty() {
            let Stream::Unix(stream) = &self.stream else {
                return Err(ClientError::Protocol("only a unix socket carries file descriptors".into()));
            };
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(ClientError::Protocol(format!("at most {MAX_FDS} file descriptors at once")));
            }
            let sent = rustix::net::sendmsg(stream, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL);
            rest = rest.get(sent.map_err(io::Error::from)?..).unwrap_or_default();
        }
        Ok(self.stream.write_all(rest)?)
    }
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
    /// [`ClientError::Timeout`], [`ClientError::Closed`], or what is wrong with the message.
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Message, ClientError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut buffer = [0; 16384];
        loop {
            if let Some(result) = self.reader.next() {
                let value = result.map_err(|error| ClientError::Protocol(error.to_string()))?;
                return Message::from_value(value);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(ClientError::Timeout);
            }
            self.stream.set_timeout(left)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self.reader.push(buffer.get(..count).unwrap_or_default()),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(ClientError::Timeout),
                    io::ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                    _ => return Err(error.into()),
                },
            }
        }
    }
}

/// A connection to a server, past the negotiation.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
    receiver: Receiver,
    greeting: Value,
    events: VecDeque<ServerEvent>,
}

impl Client {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// That there is no connection, or no QMP server.
    pub fn connect(address: &Address) -> Result<Self, ClientError> {
        match address {
            Address::Unix(path) => Self::from_unix(UnixStream::connect(path)?),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                // Commands are small, and each waits for its reply.
                stream.set_nodelay(true)?;
                Self::start(Stream::Tcp(stream))
            }
        }
    }

    /// Negotiates on an open unix socket.
    ///
    /// # Errors
    /// That there is no QMP server.
    pub fn from_unix(stream: UnixStream) -> Result<Self, ClientError> {
        Self::start(Stream::Unix(stream))
    }

    fn start(stream: Stream) -> Result<Self, ClientError> {
        let sender = Sender { stream: stream.try_clone()?, next_id: 1 };
        let mut receiver = Receiver { stream, reader: Reader::new() };
        let greeting = match receiver.receive(None)? {
            Message::Greeting(greeting) => greeting,
            _ => return Err(ClientError::Protocol("the server sent no greeting".into())),
        };
        let oob = Value::from("oob");
        let offered = greeting.get("capabilities").and_then(Value::as_array);
        let enable = offered.is_some_and(|offered| offered.contains(&oob)).then(|| vec![oob]);
        let mut client = Self { sender, receiver, greeting, events: VecDeque::new() };
        let arguments = enable.map(|enable| Value::Object(Map::from_iter([("enable", enable)])));
        client.execute_value("qmp_capabilities", arguments)?;
        Ok(client)
    }

    /// The server's greeting: its version and capabilities.
    #[must_use]
    pub fn greeting(&self) -> &Value {
        &self.greeting
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
    /// As [`Client::execute`].
    pub fn execute_with_fds<C: Command>(
        &mut self,
        command: &C,
        fds: &[BorrowedFd<'_>],
    ) -> Result<C::Return, ClientError> {
        let arguments = Some(command.to_map()).filter(|map| !map.is_empty()).map(Value::Object);
        let id = self.sender.send_with_fds(C::NAME, arguments, fds)?;
        let value = self.wait_for(&id)?;
        C::Return::from_value(value, &qapi::Path::root())
            .map_err(|error| ClientError::Protocol(format!("the result of {} does not fit its type: {error}", C::NAME)))
    }

    /// Runs a command by name.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_value(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, ClientError> {
        let id = self.sender.send(name, arguments)?;
        self.wait_for(&id)
    }

    /// Runs a command by name, out of band.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_oob(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, ClientError> {
        let id = self.sender.send_oob(name, arguments)?;
        self.wait_for(&id)
    }

    fn wait_for(&mut self, wanted: &Value) -> Result<Value, ClientError> {
        loop {
            match self.receiver.receive(None)? {
                Message::Event(event) => self.events.push_back(event),
                Message::Return { id, value } if id.as_ref() == Some(wanted) => return Ok(value),
                Message::Failure { id, error } if id.as_ref() == Some(wanted) || id.is_none() => {
                    return Err(ClientError::Command(error));
                }
                // The reply to a command that was given up.
                _ => {}
            }
        }
    }

    /// The next event: one that was kept, or one that comes within `timeout`; `None` if none does.
    ///
    /// # Errors
    /// That the connection failed.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Option<ServerEvent>, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.receiver.receive(left) {
                Ok(Message::Event(event)) => return Ok(Some(event)),
                Ok(_) => {}
                Err(ClientError::Timeout) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the connection apart: the sending half, the receiving half, and events that have come.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver, Vec<ServerEvent>) {
        (self.sender, self.receiver, self.events.into())
    }
}
