//! The connection, and running one line.
//!
//! While a person types, a thread reads from the server, shows events and hands replies over. For
//! scripts there is no thread: events come out with the reply that they preceded.

use crate::args::Args;
use crate::help;
use crate::input::{self, Line};
use crate::output::{self, Style};
use qapi::json::{Map, Value};
use qapi::schema::Model;
use qmp::client::{self, Client, ClientError, ClientOptions, Message, Receiver, Sender, ServerEvent};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// How long to wait for the greeting unless told otherwise.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take to close the connection after `quit`.
const CLOSING_TIME: Duration = Duration::from_secs(2);

/// Why the session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// There is no connection, or it failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No greeting came.
    #[error("the server at {0} sends no greeting; is another client connected?")]
    NoGreeting(String),
    /// The terminal failed.
    #[error("the terminal failed")]
    Terminal(#[from] rustyline::error::ReadlineError),
    /// Standard input failed.
    #[error("standard input cannot be read")]
    Input(#[source] io::Error),
    /// Standard output failed.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// What became of a line, the worse the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// It was done.
    Succeeded,
    /// The person wants to leave.
    Left,
    /// The server refused it.
    Refused,
    /// It cannot be read.
    Misused,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded | Outcome::Left => Self::SUCCESS,
            Outcome::Refused => Self::from(1),
            Outcome::Misused => Self::from(2),
        }
    }
}

/// What the reading thread hands over.
type Replies = mpsc::Receiver<Result<Message, ClientError>>;

enum Link {
    /// The connection is read when a reply is wanted.
    Direct(Box<Client>),
    /// A thread reads all the time, for the sake of events.
    Watched { sender: Sender, replies: Replies },
    /// The server has left.
    Closed,
}

/// A connection to a server and what is known of its commands.
pub(crate) struct Session {
    link: Link,
    model: Option<Arc<Model>>,
    pub(crate) style: Style,
    events: Arc<AtomicBool>,
    timeout: Option<Duration>,
}

impl Session {
    pub(crate) fn connect(args: &Args, style: Style) -> Result<Self, SessionError> {
        let timeout = Some(args.timeout.unwrap_or(GREETING_TIMEOUT));
        let options = ClientOptions { retry_for: args.wait, timeout, ..ClientOptions::default() };
        let mut client = Client::connect(&args.address, &options).map_err(|error| match error {
            ClientError::Timeout => SessionError::NoGreeting(args.address.to_string()),
            other => other.into(),
        })?;
        client.set_timeout(args.timeout)?;
        let (link, events) = (Link::Direct(Box::new(client)), Arc::new(AtomicBool::new(false)));
        Ok(Self { link, model: None, style, events, timeout: args.timeout })
    }

    /// The version that the server claims, for people; empty if it does not say.
    pub(crate) fn version(&self) -> String {
        let version = match &self.link {
            Link::Direct(client) => client.version(),
            Link::Watched { .. } | Link::Closed => None,
        };
        version.map_or_else(String::new, |version| {
            let (triple, package) = (version.qemu, version.package);
            let package = if package.is_empty() { package } else { format!(" ({package})") };
            format!("QEMU {}.{}.{}{package}", triple.major, triple.minor, triple.micro)
        })
    }

    /// The server's schema; an empty one if it has none.
    pub(crate) fn model(&mut self) -> Result<Arc<Model>, SessionError> {
        if let Some(model) = &self.model {
            return Ok(Arc::clone(model));
        }
        let model = match self.execute(client::request("query-qmp-schema", None)) {
            Ok(reply) => Model::from_reply(reply)
                .map_err(|error| ClientError::Protocol(format!("the schema cannot be read: {error}")))?,
            Err(ClientError::Command(_)) => Model::default(),
            Err(error) => return Err(error.into()),
        };
        let model = Arc::new(model);
        self.model = Some(Arc::clone(&model));
        Ok(model)
    }

    /// From now on events are given to `show` when they come, not when the next command is run. At
    /// last it gets a line that says why there is no more.
    pub(crate) fn watch(&mut self, mut show: impl FnMut(String) + Send + 'static) {
        let client = match std::mem::replace(&mut self.link, Link::Closed) {
            Link::Direct(client) => client,
            other => {
                self.link = other;
                return;
            }
        };
        let (hand_over, replies) = mpsc::channel();
        let (sender, receiver, kept) = client.split();
        let (style, events) = (self.style, Arc::clone(&self.events));
        events.store(true, Ordering::Relaxed);
        self.link = Link::Watched { sender, replies };
        std::thread::spawn(move || {
            let mut show_event = |event: &ServerEvent| {
                if events.load(Ordering::Relaxed) {
                    show(style.event(event));
                }
            };
            kept.iter().for_each(&mut show_event);
            let error = read_all(receiver, &hand_over, show_event);
            show(style.complaint(&output::chain(&error)));
            // The shell may be gone.
            _ = hand_over.send(Err(error));
        });
    }

    /// Sends a request and waits for its reply.
    fn execute(&mut self, request: Map) -> Result<Value, ClientError> {
        match &mut self.link {
            Link::Direct(client) => client.run(request, &[]),
            Link::Watched { sender, replies } => {
                let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
                let id = sender.send(request, &[])?;
                wait_for(&id, replies, deadline)
            }
            Link::Closed => Err(ClientError::Closed),
        }
    }

    /// Whether the server has left. Late replies are dropped.
    pub(crate) fn is_closed(&mut self) -> bool {
        let Link::Watched { replies, .. } = &self.link else {
            return matches!(self.link, Link::Closed);
        };
        loop {
            match replies.try_recv() {
                Ok(Ok(_)) => {}
                Err(TryRecvError::Empty) => return false,
                Ok(Err(_)) | Err(TryRecvError::Disconnected) => {
                    self.link = Link::Closed;
                    return true;
                }
            }
        }
    }

    /// Waits for the server to leave, which it should do at once.
    fn await_end(&mut self) {
        match &mut self.link {
            Link::Watched { replies, .. } => {
                if let Ok(Ok(_)) | Err(RecvTimeoutError::Timeout) = replies.recv_timeout(CLOSING_TIME) {
                    return;
                }
            }
            Link::Direct(client) => {
                if client.next_message(Some(CLOSING_TIME)).is_ok() {
                    return;
                }
            }
            Link::Closed => {}
        }
        self.link = Link::Closed;
    }

    /// Runs a line. What the server refuses and what cannot be read is said on standard error.
    pub(crate) fn run(&mut self, line: Result<Line, String>) -> Result<Outcome, SessionError> {
        let request = match line {
            Err(problem) => return Ok(self.complain(&problem)),
            Ok(Line::Nothing) => return Ok(Outcome::Succeeded),
            Ok(Line::Exit) => return Ok(Outcome::Left),
            Ok(Line::Help(words)) => {
                let model = self.model()?;
                return match help::describe(&model, &words, self.style) {
                    Ok(text) => print(&text),
                    Err(problem) => Ok(self.complain(&problem)),
                };
            }
            Ok(Line::Events(None)) => {
                let shown = if self.events.load(Ordering::Relaxed) { "on" } else { "off" };
                return print(&format!("events {shown}\n"));
            }
            Ok(Line::Events(Some(shown))) => {
                self.events.store(shown, Ordering::Relaxed);
                return Ok(Outcome::Succeeded);
            }
            Ok(Line::Json(request)) => request,
            Ok(Line::Command { name, words }) => {
                let model = if input::needs_schema(&words) { self.model()? } else { Arc::default() };
                match input::arguments(&model, &name, &words) {
                    Ok(arguments) => client::request(&name, arguments),
                    Err(problem) => return Ok(self.complain(&problem)),
                }
            }
        };
        self.run_request(request)
    }

    fn run_request(&mut self, request: Map) -> Result<Outcome, SessionError> {
        let ends = request.get("execute").and_then(Value::as_str) == Some("quit");
        let result = self.execute(request);
        self.show_kept()?;
        match result {
            Ok(value) => {
                let outcome = print(&self.style.result(&value));
                if ends {
                    self.await_end();
                }
                outcome
            }
            Err(ClientError::Command(error)) => {
                eprint!("{}", self.style.refusal(&error));
                Ok(Outcome::Refused)
            }
            // A person can try something else.
            Err(error @ ClientError::Timeout) if matches!(self.link, Link::Watched { .. }) => {
                Ok(self.complain(&error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Shows, or drops, the events that came before a reply.
    fn show_kept(&mut self) -> Result<(), SessionError> {
        let Link::Direct(client) = &mut self.link else {
            return Ok(());
        };
        let events = client.take_events();
        if self.events.load(Ordering::Relaxed) {
            for event in &events {
                print(&self.style.event(event))?;
            }
        }
        Ok(())
    }

    fn complain(&self, problem: &str) -> Outcome {
        eprint!("{}", self.style.complaint(problem));
        Outcome::Misused
    }
}

fn print(text: &str) -> Result<Outcome, SessionError> {
    output::print(text).map(|()| Outcome::Succeeded).map_err(SessionError::Output)
}

/// Reads until there is no more; returns why.
fn read_all(
    mut receiver: Receiver,
    replies: &mpsc::Sender<Result<Message, ClientError>>,
    mut show: impl FnMut(&ServerEvent),
) -> ClientError {
    loop {
        match receiver.receive(None) {
            Ok(Message::Event(event)) => show(&event),
            // If nobody wants it, the program ends.
            Ok(message) => _ = replies.send(Ok(message)),
            Err(error) => return error,
        }
    }
}

/// Waits for the reply to a request, passing over those of requests that were given up.
fn wait_for(wanted: &Value, replies: &Replies, deadline: Option<Instant>) -> Result<Value, ClientError> {
    loop {
        let message = match deadline {
            None => replies.recv().map_err(|_| ClientError::Closed)?,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                replies.recv_timeout(left).map_err(|error| match error {
                    RecvTimeoutError::Timeout => ClientError::Timeout,
                    RecvTimeoutError::Disconnected => ClientError::Closed,
                })?
            }
        };
        match message? {
            Message::Return { id, value } if id.as_ref() == Some(wanted) => return Ok(value),
            Message::Failure { id, error } if id.is_none() || id.as_ref() == Some(wanted) => {
                return Err(ClientError::Command(error));
            }
            _ => {}
        }
    }
}
