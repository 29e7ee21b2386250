//! One monitor and its client: the queue of requests, their order, and the way of replies.
//!
//! A connection goes through *negotiating* and *ready*; a new one starts from the beginning and has
//! a new number, by which late answers to an earlier client are known and dropped.

use crate::context::{FdSlot, MonitorData, SessionContext};
use crate::envelope::{self, Request};
use crate::events::{EventLine, EventTarget, line};
use crate::lock;
use crate::reply::{RawReply, ReplyTarget};
use crate::server::Shared;
use crate::table::{Entry, Handler};
use chardev::{Chardev, Event};
use qapi::control::QmpCapabilities;
use qapi::json::{JsonError, Map, Reader, Value};
use qapi::{Command as _, Error, ErrorClass};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

/// How many requests of an oob-capable client may wait before no more are read.
pub const QUEUE_LIMIT: usize = 8;
/// How much output may wait for a client that does not read, in bytes, before it is dropped.
pub const OUTPUT_BOUND: usize = 16 << 20;
/// How much may wait before no more commands are read.
const OUTPUT_HIGH: usize = 256 << 10;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody is there.
    Closed,
    /// Only `qmp_capabilities` is allowed.
    Negotiating,
    /// Everything is allowed; `oob` if the client has switched that on.
    Ready { oob: bool },
}

/// A message that waits for its turn.
struct Waiting {
    message: Result<Value, JsonError>,
    fds: Option<FdSlot>,
}

struct Inner {
    /// The number of the connection.
    connection: u64,
    phase: Phase,
    queue: VecDeque<Waiting>,
    /// A command of this connection runs.
    running: bool,
    /// No input is taken until there is room in the queue or for output.
    paused: bool,
    /// Output that the character device has not taken.
    out: Vec<u8>,
    /// How much of `out` it has taken since.
    out_start: usize,
    fds: Option<FdSlot>,
}

/// One monitor.
pub(crate) struct Session<C, S> {
    shared: Arc<Shared<C, S>>,
    chardev: Chardev,
    data: Arc<MonitorData>,
    pretty: bool,
    inner: Mutex<Inner>,
    /// Used on the monitor thread alone.
    reader: Mutex<Reader>,
}

/// What became of a request.
enum Outcome {
    /// It is answered.
    Answered(Result<Value, Error>),
    /// The control thread has it and will answer.
    Under,
}

impl<C: 'static, S: Send + Sync + 'static> Session<C, S> {
    pub(crate) fn start(shared: Arc<Shared<C, S>>, chardev: Chardev, data: MonitorData, pretty: bool) -> Arc<Self> {
        let inner = Inner {
            connection: 0,
            phase: Phase::Closed,
            queue: VecDeque::new(),
            running: false,
            paused: false,
            out: Vec::new(),
            out_start: 0,
            fds: None,
        };
        let data = Arc::new(data);
        let (inner, reader) = (Mutex::new(inner), Mutex::new(Reader::new()));
        let session = Arc::new(Self { shared, chardev, data, pretty, inner, reader });
        let target: Arc<dyn EventTarget> = session.clone();
        session.shared.events.add_target(Arc::downgrade(&target));
        let weak = Arc::downgrade(&session);
        let for_events = weak.clone();
        let for_output = weak.clone();
        session.chardev.set_writable(Box::new(move || {
            if let Some(session) = for_output.upgrade() {
                session.writable();
            }
        }));
        session.chardev.set_events(Box::new(move |event| {
            if let Some(session) = for_events.upgrade() {
                session.event(event);
            }
        }));
        session.chardev.set_input(Box::new(move |bytes| weak.upgrade().map_or(bytes.len(), |it| it.input(bytes))));
        session
    }

    fn event(&self, event: Event) {
        match event {
            Event::Opened => {
                self.close();
                self.shared.fd_sets.monitor_connected();
                let mut inner = lock(&self.inner);
                inner.phase = Phase::Negotiating;
                self.send(&mut inner, line(&self.shared.greeting, self.pretty).as_bytes());
            }
            Event::Closed => self.close(),
            Event::Break | Event::FocusIn | Event::FocusOut => {}
        }
    }

    /// Forgets the client: what waits, what it was to be told, its half of a message.
    fn close(&self) {
        *lock(&self.reader) = Reader::new();
        let mut inner = lock(&self.inner);
        let was = std::mem::replace(&mut inner.phase, Phase::Closed);
        inner.connection += 1;
        inner.queue = VecDeque::new();
        inner.running = false;
        inner.paused = false;
        inner.out = Vec::new();
        inner.out_start = 0;
        inner.fds = None;
        drop(inner);
        if was != Phase::Closed {
            self.shared.fd_sets.monitor_left();
        }
    }

    /// Takes input, as much as the queue has room for.
    fn input(self: &Arc<Self>, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return self.end_of_input();
        }
        if let Some(fds) = self.chardev.take_fds() {
            lock(&self.inner).fds = Some(Arc::new(Mutex::new(fds)));
        }
        let mut at = 0;
        while at < bytes.len() {
            match self.accepts() {
                Some(true) => {}
                Some(false) => return at + self.skip_space(bytes.get(at..).unwrap_or_default()),
                None => return bytes.len(),
            }
            let rest = bytes.get(at..).unwrap_or_default();
            // A message ends with one of these; what follows is read when it is wanted.
            let end = rest.iter().position(|byte| matches!(byte, b'}' | b']' | b'\n'));
            let part = rest.get(..end.map_or(rest.len(), |end| end + 1)).unwrap_or(rest);
            at += part.len();
            lock(&self.reader).push(part);
            loop {
                let Some(message) = lock(&self.reader).next() else {
                    break;
                };
                self.take(message);
            }
        }
        at
    }

    /// How much white space leads `bytes`. Taking it makes the end of input visible while a command
    /// runs.
    fn skip_space(&self, bytes: &[u8]) -> usize {
        if !lock(&self.reader).is_idle() {
            return 0;
        }
        bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(bytes.len())
    }

    /// The client has closed its sending side: is there still something to be answered?
    fn end_of_input(&self) -> usize {
        let mut inner = lock(&self.inner);
        let busy = inner.running || !inner.queue.is_empty() || inner.backlog() > 0;
        inner.paused = busy;
        usize::from(busy)
    }

    /// Whether another request may be read; if not, notes that reading has to be resumed. `None` if
    /// the client has been dropped.
    fn accepts(&self) -> Option<bool> {
        let mut inner = lock(&self.inner);
        inner.paused = !inner.has_room();
        (inner.phase != Phase::Closed).then_some(!inner.paused)
    }

    /// A message has been read.
    fn take(self: &Arc<Self>, message: Result<Value, JsonError>) {
        match message {
            Ok(message) if envelope::is_oob(&message) => self.run_oob(message),
            message => {
                let mut inner = lock(&self.inner);
                let fds = inner.fds.clone();
                inner.queue.push_back(Waiting { message, fds });
                drop(inner);
                self.advance();
            }
        }
    }

    /// Starts the next request, unless one runs; goes on as long as requests are answered in place.
    fn advance(self: &Arc<Self>) {
        loop {
            let (waiting, connection, phase) = {
                let mut inner = lock(&self.inner);
                if inner.running {
                    return;
                }
                let Some(waiting) = inner.queue.pop_front() else {
                    return;
                };
                inner.running = true;
                (waiting, inner.connection, inner.phase)
            };
            let (id, outcome) = self.start_request(waiting, connection, phase);
            match outcome {
                Outcome::Answered(result) => self.answer(connection, id, result),
                Outcome::Under => return,
            }
        }
    }

    fn start_request(self: &Arc<Self>, waiting: Waiting, connection: u64, phase: Phase) -> (Option<Value>, Outcome) {
        let mut message = match waiting.message {
            Ok(message) => message,
            Err(error) => return (None, Outcome::Answered(Err(error.into()))),
        };
        let mut id = envelope::take_id(&mut message);
        let outcome = match envelope::check(message, phase == Phase::Ready { oob: true }) {
            Err(error) => Outcome::Answered(Err(error)),
            Ok(request) if phase == Phase::Negotiating => Outcome::Answered(self.negotiate(request)),
            Ok(request) => {
                let context = self.context(waiting.fds);
                self.dispatch(request, context, connection, &mut id)
            }
        };
        (id, outcome)
    }

    fn context(&self, received: Option<FdSlot>) -> SessionContext {
        SessionContext { monitor: Arc::clone(&self.data), fd_sets: self.shared.fd_sets.clone(), received }
    }

    fn negotiate(&self, request: Request) -> Result<Value, Error> {
        if request.command != QmpCapabilities::NAME {
            let text = "Expecting capabilities negotiation with 'qmp_capabilities'";
            return Err(Error::new(ErrorClass::CommandNotFound, text));
        }
        let wanted = QmpCapabilities::from_arguments(request.arguments)?;
        let oob = wanted.enable.is_some_and(|capabilities| !capabilities.is_empty());
        lock(&self.inner).phase = Phase::Ready { oob };
        Ok(Value::empty_object())
    }

    fn find(&self, request: &Request) -> Result<&Entry<C, S>, Error> {
        let preconfig = self.shared.preconfig.load(Ordering::Acquire);
        self.shared.table.find(&request.command, request.oob, preconfig)
    }

    fn dispatch(
        self: &Arc<Self>,
        request: Request,
        mut context: SessionContext,
        connection: u64,
        id: &mut Option<Value>,
    ) -> Outcome {
        let entry = match self.find(&request) {
            Ok(entry) => entry,
            Err(error) => return Outcome::Answered(Err(error)),
        };
        let prepare = match &entry.handler {
            Handler::Control(prepare) => prepare,
            handler => return Outcome::Answered(self.run_in_place(handler, &mut context, request.arguments)),
        };
        match prepare(request.arguments) {
            Err(error) => Outcome::Answered(Err(error)),
            Ok(prepared) => {
                let target: Arc<dyn ReplyTarget> = self.clone();
                let reply = RawReply { target: Some(target), connection, id: id.take() };
                let work = move |control: &mut C| prepared(control, &mut context, reply);
                self.shared.control.push(Box::new(work));
                Outcome::Under
            }
        }
    }

    fn run_in_place(
        &self,
        handler: &Handler<C, S>,
        context: &mut SessionContext,
        arguments: Option<Map>,
    ) -> Result<Value, Error> {
        match handler {
            Handler::InPlace(run) => run(&self.shared.snapshot, context, arguments),
            Handler::Introspect(run) => run(&self.shared.table.inventory, arguments),
            // dispatch() has sent these on, and find() refuses them out of band.
            Handler::Control(_) => Err(Error::generic("The command needs the control thread")),
        }
    }

    /// Runs a request at once, whatever else waits or runs.
    fn run_oob(&self, mut message: Value) {
        let (connection, phase, fds) = {
            let inner = lock(&self.inner);
            (inner.connection, inner.phase, inner.fds.clone())
        };
        let id = envelope::take_id(&mut message);
        let result = envelope::check(message, phase == Phase::Ready { oob: true }).and_then(|request| {
            let entry = self.find(&request)?;
            self.run_in_place(&entry.handler, &mut self.context(fds), request.arguments)
        });
        let mut inner = lock(&self.inner);
        if inner.connection == connection {
            self.send_reply(&mut inner, id, result);
        }
    }

    /// Sends the answer to the running request and makes room for the next.
    fn answer(&self, connection: u64, id: Option<Value>, result: Result<Value, Error>) {
        let resume = {
            let mut inner = lock(&self.inner);
            if inner.connection != connection {
                return;
            }
            self.send_reply(&mut inner, id, result);
            inner.running = false;
            inner.take_pause()
        };
        if resume {
            self.chardev.resume_input();
        }
    }

    fn send_reply(&self, inner: &mut MutexGuard<'_, Inner>, id: Option<Value>, result: Result<Value, Error>) {
        let mut reply = match result {
            Ok(value) => Map::from_iter([("return", value)]),
            Err(error) => Map::from_iter([("error", error.to_value())]),
        };
        if let Some(id) = id {
            reply.insert("id", id);
        }
        self.send(inner, line(&Value::Object(reply), self.pretty).as_bytes());
    }

    /// Sends a whole message, or keeps what the client does not take.
    fn send(&self, inner: &mut Inner, message: &[u8]) {
        if inner.phase == Phase::Closed {
            return;
        }
        let mut rest = message;
        if inner.backlog() == 0 {
            let taken = self.chardev.write(message);
            rest = message.get(taken..).unwrap_or_default();
        }
        if rest.is_empty() {
            return;
        }
        if inner.backlog() > OUTPUT_BOUND {
            tracing::warn!(monitor = self.data.id, "the client does not read: it is dropped");
            inner.phase = Phase::Closed;
            inner.out = Vec::new();
            inner.out_start = 0;
            self.shared.fd_sets.monitor_left();
            self.chardev.hang_up();
            return;
        }
        inner.out.extend_from_slice(rest);
    }

    /// The character device has room again.
    fn writable(&self) {
        let resume = {
            let mut inner = lock(&self.inner);
            let taken = self.chardev.write(inner.out.get(inner.out_start..).unwrap_or_default());
            inner.out_start += taken;
            if inner.backlog() == 0 {
                inner.out = Vec::new();
                inner.out_start = 0;
            }
            inner.take_pause()
        };
        if resume {
            self.chardev.resume_input();
        }
    }
}

impl<C, S> Session<C, S> {
    /// The monitor's id.
    pub(crate) fn id(&self) -> &str {
        &self.data.id
    }

    /// Lets go of the character device, so that no callback runs any more.
    pub(crate) fn detach(&self) {
        self.chardev.detach();
    }
}

impl Inner {
    fn backlog(&self) -> usize {
        self.out.len() - self.out_start
    }

    fn has_room(&self) -> bool {
        let room = match self.phase {
            Phase::Ready { oob: true } => self.queue.len() < QUEUE_LIMIT,
            _ => self.queue.is_empty() && !self.running,
        };
        room && self.backlog() < OUTPUT_HIGH
    }

    /// Whether reading was paused and may go on.
    fn take_pause(&mut self) -> bool {
        if !self.paused || !self.has_room() {
            return false;
        }
        self.paused = false;
        true
    }
}

impl<C: 'static, S: Send + Sync + 'static> ReplyTarget for Session<C, S> {
    fn finish(self: Arc<Self>, connection: u64, id: Option<Value>, result: Result<Value, Error>) {
        self.answer(connection, id, result);
        self.advance();
    }
}

impl<C: 'static, S: Send + Sync + 'static> EventTarget for Session<C, S> {
    fn send_event(&self, event: &EventLine) {
        let mut inner = lock(&self.inner);
        if matches!(inner.phase, Phase::Ready { .. }) {
            self.send(&mut inner, event.text(self.pretty).as_bytes());
        }
    }
}
