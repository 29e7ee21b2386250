//! A minimal QMP client for the demo: one JSON object a line, with a bound on every wait.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run::Outcome;

/// How long the emulator may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that has been greeted.
pub struct Client {
    reader: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Client {
    /// Connects as soon as the socket is there; returns the greeting too.
    pub fn connect(path: &Path) -> Outcome<(Self, Value)> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("no monitor at {}: {error}", path.display()));
                }
                Err(_) => sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let mut client = Self { reader: BufReader::new(stream), events: Vec::new() };
        let greeting = client.message()?;
        if greeting.get("QMP").is_none() {
            return Err(format!("that is no QMP greeting: {greeting}"));
        }
        Ok((client, greeting))
    }

    fn message(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Err("the monitor closed the connection".into()),
            Ok(_) => {
                serde_json::from_str(&line).map_err(|error| format!("the monitor's line is no JSON ({error}): {line}"))
            }
            Err(error) => Err(format!("no answer from the monitor within {} s: {error}", PATIENCE.as_secs())),
        }
    }

    /// Runs a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Outcome<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        let stream = self.reader.get_mut();
        stream.write_all(format!("{request}\n").as_bytes()).map_err(|error| format!("{command}: {error}"))?;
        loop {
            let message = self.message()?;
            if message.get("event").is_some() {
                self.events.push(message);
            } else if let Some(value) = message.get("return") {
                return Ok(value.clone());
            } else {
                return Err(format!("{command} was refused: {}", message["error"]["desc"]));
            }
        }
    }

    /// The next event of that name.
    pub fn event(&mut self, name: &str) -> Outcome<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return Ok(self.events.remove(at));
            }
            if Instant::now() > deadline {
                return Err(format!("no event {name} came within {} s", PATIENCE.as_secs()));
            }
            let message = self.message().map_err(|error| format!("waiting for {name}: {error}"))?;
            self.events.push(message);
        }
    }
}
