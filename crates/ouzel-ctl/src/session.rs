//! The connection, and running one line.

use crate::line;
use crate::output::Style;
use qapi::json::{Map, Value};
use qapi::schema::{Argument, Model};
use qmp::client::{Address, Client, ClientError, ClientOptions, Message, Receiver, Sender, ServerEvent};
use std::fmt::Write as _;
use std::sync::mpsc;

/// Why the session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// There is no connection, or it failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The terminal failed.
    #[error(transparent)]
    Terminal(#[from] rustyline::error::ReadlineError),
}

/// What became of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    /// The person wants to leave.
    Leave,
}

/// Where replies come from.
enum Replies {
    /// The connection, read when a reply is wanted.
    Direct(Receiver),
    /// A thread that reads all the time, for the sake of events.
    Thread(mpsc::Receiver<Result<Message, ClientError>>),
}

/// A connection to a server and what is known of its commands.
pub(crate) struct Session {
    sender: Sender,
    replies: Replies,
    pub(crate) model: Model,
    pub(crate) style: Style,
}

impl Session {
    pub(crate) fn connect(address: &str, style: Style) -> Result<Self, SessionError> {
        let client = Client::connect(&Address::parse(address), &ClientOptions::default())?;
        let (sender, receiver, _) = client.split();
        let mut session = Self { sender, replies: Replies::Direct(receiver), model: Model::default(), style };
        // A server without a schema can be used all the same, but knows no types.
        if let Ok(schema) = session.execute("query-qmp-schema", None)? {
            session.model = Model::from_reply(schema).unwrap_or_default();
        }
        Ok(session)
    }

    /// From now on events are shown when they come, not when the next command is run.
    pub(crate) fn watch(&mut self, mut show: impl FnMut(String) + Send + 'static) {
        let (sender, thread) = mpsc::channel();
        if let Replies::Direct(mut receiver) = std::mem::replace(&mut self.replies, Replies::Thread(thread)) {
            let style = self.style;
            std::thread::spawn(move || {
                loop {
                    let message = receiver.receive(None);
                    let last = message.is_err();
                    match message {
                        Ok(Message::Event(event)) => show(style.event(&event)),
                        other => _ = sender.send(other),
                    }
                    if last {
                        show("the server has closed the connection\n".into());
                        return;
                    }
                }
            });
        }
    }

    /// Runs a command: its result or its error.
    fn execute(&mut self, name: &str, arguments: Option<Map>) -> Result<Result<Value, qapi::Error>, ClientError> {
        let wanted = self.sender.send(qmp::client::request(name, arguments), &[])?;
        loop {
            let message = match &mut self.replies {
                Replies::Direct(receiver) => receiver.receive(None)?,
                Replies::Thread(thread) => thread.recv().map_err(|_| ClientError::Closed)??,
            };
            match message {
                Message::Return { id, value } if id.as_ref() == Some(&wanted) => return Ok(Ok(value)),
                Message::Failure { id, error } if id.is_none() || id.as_ref() == Some(&wanted) => {
                    return Ok(Err(error));
                }
                Message::Event(event) => self.show_event(&event),
                _ => {}
            }
        }
    }

    fn show_event(&self, event: &ServerEvent) {
        // Scripts want results on standard output, and nothing else.
        eprint!("{}", self.style.event(event));
    }

    /// Runs a line that somebody has typed.
    pub(crate) fn run_line(&mut self, text: &str) -> Result<Outcome, SessionError> {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(Outcome::Succeeded);
        }
        if text.starts_with('{') {
            return match line::parse_json(text) {
                Ok((name, arguments)) => self.run(&name, arguments),
                Err(error) => Ok(self.complain(&error)),
            };
        }
        let words = line::split(text);
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["exit"] => Ok(Outcome::Leave),
            ["help" | "?"] => {
                print!("{}", self.overview());
                Ok(Outcome::Succeeded)
            }
            ["help" | "?", name] => match self.describe(name) {
                Some(text) => {
                    print!("{text}");
                    Ok(Outcome::Succeeded)
                }
                None => Ok(self.complain(&format!("there is no command or event '{name}'"))),
            },
            _ => Ok(if self.run_words(&words)? { Outcome::Succeeded } else { Outcome::Failed }),
        }
    }

    /// Runs a command with `key=value` words. Says whether it succeeded.
    pub(crate) fn run_words(&mut self, words: &[String]) -> Result<bool, SessionError> {
        let outcome = match words {
            [text] if text.starts_with('{') => return Ok(self.run_line(text)? != Outcome::Failed),
            [name, words @ ..] => match line::parse_arguments(&self.model, name, words) {
                Ok(arguments) => self.run(name, arguments)?,
                Err(error) => self.complain(&error),
            },
            [] => Outcome::Succeeded,
        };
        Ok(outcome == Outcome::Succeeded)
    }

    fn run(&mut self, name: &str, arguments: Option<Map>) -> Result<Outcome, SessionError> {
        match self.execute(name, arguments)? {
            Ok(value) => {
                print!("{}", self.style.result(&value));
                Ok(Outcome::Succeeded)
            }
            Err(error) => {
                eprint!("{}", self.style.error(&error));
                Ok(Outcome::Failed)
            }
        }
    }

    fn complain(&self, text: &str) -> Outcome {
        eprint!("{}", self.style.error(&qapi::Error::generic(text)));
        Outcome::Failed
    }

    fn overview(&self) -> String {
        let mut text = String::from("Commands of the server:\n");
        for name in self.model.commands() {
            _ = writeln!(text, "  {}", self.style.name(name));
        }
        text.push_str("'help COMMAND' shows its arguments, 'exit' or Ctrl-d leaves (the guest goes on).\n");
        text
    }

    fn describe(&self, name: &str) -> Option<String> {
        let arguments = self.model.arguments(name)?;
        let mut text = format!("{}\n", self.style.name(name));
        if arguments.is_empty() {
            text.push_str("  no arguments\n");
        }
        for argument in &arguments {
            text.push_str(&describe_argument(argument));
        }
        Some(text)
    }
}

fn describe_argument(argument: &Argument) -> String {
    let mut text = format!("  {}={}", argument.name, argument.type_name);
    if !argument.values.is_empty() {
        _ = write!(text, " ({})", argument.values.join(", "));
    }
    if argument.optional {
        text.push_str(", optional");
    }
    if let Some(case) = &argument.case {
        _ = write!(text, ", for {case}");
    }
    for feature in &argument.features {
        _ = write!(text, ", {feature}");
    }
    if !argument.doc.is_empty() {
        _ = write!(text, ": {}", argument.doc);
    }
    text.push('\n');
    text
}
