//! A monitor session that shows every byte: deliberately not the product's own client.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::PATIENCE;

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What a command answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// `return`.
    Value(Value),
    /// `error`: its class and text.
    Error(String, String),
}

fn request(command: &str, arguments: Value) -> Value {
    let mut request = json!({ "execute": command });
    request["arguments"] = arguments;
    request
}

/// One connection to a monitor.
pub struct Session {
    stream: Stream,
    unread: Vec<u8>,
    events: Vec<Value>,
    next_id: u64,
}

impl Session {
    /// Over a connected unix socket.
    pub fn over(stream: UnixStream) -> Self {
        Self { stream: Stream::Unix(stream), unread: Vec::new(), events: Vec::new(), next_id: 1 }
    }

    /// Over a connected TCP socket.
    pub fn over_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { stream: Stream::Tcp(stream), unread: Vec::new(), events: Vec::new(), next_id: 1 }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the monitor takes input");
    }

    /// Sends bytes; the monitor may have gone or have stopped reading.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Unix(stream) => {
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.write_all(bytes)
            }
            Stream::Tcp(stream) => {
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.write_all(bytes)
            }
        }
    }

    /// Sends bytes and file descriptors in one message.
    pub fn send_with_fds(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let Stream::Unix(stream) = &self.stream else { panic!("descriptors need a unix socket") };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "at most eight descriptors");
        let sent = sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).expect("sendmsg");
        assert_eq!(sent, bytes.len(), "a short message");
    }

    fn read_some(&mut self, patience: Duration) -> io::Result<usize> {
        let mut block = [0; 65536];
        let patience = patience.max(Duration::from_millis(1));
        let count = match &mut self.stream {
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.read(&mut block)?
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.read(&mut block)?
            }
        };
        self.unread.extend_from_slice(&block[..count]);
        Ok(count)
    }

    /// The next line with its end, `None` at the end of the stream. Waits at most `patience` and then fails.
    pub fn line_within(&mut self, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8(line).expect("the monitor writes ASCII"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no answer from the monitor; begun: {:?}", String::from_utf8_lossy(&self.unread));
            match self.read_some(left) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("reading from the monitor: {error}"),
            }
        }
    }

    /// The next line with its end.
    pub fn line(&mut self) -> String {
        self.line_within(PATIENCE).expect("the monitor closed the connection")
    }

    /// The next message.
    pub fn message(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"))
    }

    /// Whether the monitor has closed the connection, after reading what is left.
    pub fn closed(&mut self) -> bool {
        loop {
            match self.line_within(PATIENCE) {
                None => return true,
                Some(line) => self.keep_event(&serde_json::from_str(&line).expect("JSON")),
            }
        }
    }

    /// Whether nothing comes for a moment. For "a client that is not served gets no greeting" alone.
    pub fn silent(&mut self) -> bool {
        let before = self.unread.len();
        let read = self.read_some(Duration::from_millis(300));
        before == 0 && matches!(read, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Takes the greeting and leaves negotiation mode. Returns the greeting.
    pub fn negotiate(&mut self) -> Value {
        let greeting = self.message();
        assert!(greeting.get("QMP").is_some(), "no greeting: {greeting}");
        assert_eq!(self.run("qmp_capabilities", json!({})), json!({}));
        greeting
    }

    fn keep_event(&mut self, message: &Value) {
        if message.get("event").is_some() {
            self.events.push(message.clone());
        }
    }

    /// Sends a request and waits for its reply; events on the way are kept.
    pub fn call(&mut self, request: &Value) -> Reply {
        let mut request = request.clone();
        let id = json!(format!("test-{}", self.next_id));
        self.next_id += 1;
        request["id"] = id.clone();
        self.send(format!("{request}\r\n"));
        self.reply_to(&id)
    }

    /// Waits for the reply with `id`.
    pub fn reply_to(&mut self, id: &Value) -> Reply {
        loop {
            let message = self.message();
            self.keep_event(&message);
            if message.get("id") != Some(id) {
                assert!(message.get("event").is_some(), "an answer to nothing: {message}");
                continue;
            }
            if let Some(value) = message.get("return") {
                return Reply::Value(value.clone());
            }
            let error = &message["error"];
            let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("no {name} in {message}")).to_owned();
            return Reply::Error(text("class"), text("desc"));
        }
    }

    /// A command's result; it must succeed.
    pub fn run(&mut self, command: &str, arguments: Value) -> Value {
        match self.call(&request(command, arguments)) {
            Reply::Value(value) => value,
            Reply::Error(class, text) => panic!("{command}: {class}: {text}"),
        }
    }

    /// A command's result without arguments.
    pub fn query(&mut self, command: &str) -> Value {
        self.run(command, json!({}))
    }

    /// A command's error: class and text.
    pub fn error(&mut self, command: &str, arguments: Value) -> (String, String) {
        match self.call(&request(command, arguments)) {
            Reply::Value(value) => panic!("{command} succeeded: {value}"),
            Reply::Error(class, text) => (class, text),
        }
    }

    /// The text of a command's GenericError.
    pub fn generic_error(&mut self, command: &str, arguments: Value) -> String {
        let (class, text) = self.error(command, arguments);
        assert_eq!(class, "GenericError", "{command}: {text}");
        text
    }

    /// Sends a request with descriptors and returns the reply.
    pub fn call_with_fds(&mut self, command: &str, arguments: &Value, descriptors: &[BorrowedFd<'_>]) -> Reply {
        let id = json!(format!("test-{}", self.next_id));
        self.next_id += 1;
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        self.send_with_fds(format!("{request}\r\n").as_bytes(), descriptors);
        self.reply_to(&id)
    }

    /// The names of the events since the last call, in order.
    pub fn take_events(&mut self) -> Vec<String> {
        self.events.drain(..).map(|event| event["event"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits for an event and returns its data (null without).
    pub fn event(&mut self, name: &str) -> Value {
        self.event_within(name, PATIENCE)
    }

    /// The same with another bound.
    pub fn event_within(&mut self, name: &str, patience: Duration) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.remove(at)["data"].clone();
        }
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.line_within(left).unwrap_or_else(|| panic!("the connection ended before {name}"));
            let message: Value = serde_json::from_str(&line).expect("JSON");
            if message["event"] == name {
                return message["data"].clone();
            }
            self.keep_event(&message);
        }
    }

    /// `status` of `query-status`.
    pub fn status(&mut self) -> String {
        self.query("query-status")["status"].as_str().expect("a status").to_owned()
    }
}
