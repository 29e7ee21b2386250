//! The task that serves one connection: input to the front end, kept output to the host.

use crate::port::{Event, OUTPUT_LIMIT, Port, Sink};
use crate::stream::{Kind, Stream};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How much is read at once.
const CHUNK: usize = 4096;
/// After so many chunks other tasks get their turn.
const TURN: usize = 16;

/// A file descriptor and the way to wait for it.
enum Source {
    /// The runtime tells when something happens.
    Polled(AsyncFd<Arc<OwnedFd>>),
    /// A regular file or the like: always ready.
    Ready,
}

impl Source {
    fn new(fd: &Arc<OwnedFd>, interest: Interest) -> std::io::Result<Self> {
        match watch(Arc::clone(fd), interest) {
            Ok(fd) => Ok(Self::Polled(fd)),
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => Ok(Self::Ready),
            Err(error) => Err(error),
        }
    }
}

/// Lets the runtime watch a file descriptor.
#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types whose descriptor may change; OwnedFd's cannot"
)]
pub(crate) fn watch(fd: Arc<OwnedFd>, interest: Interest) -> std::io::Result<AsyncFd<Arc<OwnedFd>>> {
    AsyncFd::with_interest(fd, interest)
}

/// What the task knows of its connection.
struct Server<'a> {
    port: &'a Port,
    stream: Stream,
    input: Option<Source>,
    /// The output's own source; `None` where it is that of the input.
    output: Option<Source>,
    buffer: Vec<u8>,
    /// The part of `buffer` that the front end has not taken.
    start: usize,
    end: usize,
    /// The front end took less than it got, and has to ask for more.
    waiting: bool,
    /// The other side has sent all that it will send.
    ended: bool,
    /// The front end has agreed that nothing more needs to be said, either.
    over: bool,
}

/// Serves `stream` until it ends or somebody asks to hang up, then closes it.
pub(crate) async fn serve(port: &Port, stream: Stream) {
    let sources = open_sources(&stream);
    let result = match sources {
        Ok((input, output)) => {
            open(port, &stream);
            let mut server = Server {
                port,
                stream: stream.clone(),
                input,
                output,
                buffer: Vec::new(),
                start: 0,
                end: 0,
                waiting: false,
                ended: false,
                over: false,
            };
            std::future::poll_fn(|context| server.poll(context)).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(chardev = port.id, %error, "connection lost");
    }
    close(port, &stream);
}

fn open_sources(stream: &Stream) -> std::io::Result<(Option<Source>, Option<Source>)> {
    if stream.is_one() {
        let both = stream.input.as_ref().map(|fd| Source::new(fd, Interest::READABLE | Interest::WRITABLE));
        return Ok((both.transpose()?, None));
    }
    let input = stream.input.as_ref().map(|fd| Source::new(fd, Interest::READABLE)).transpose()?;
    let output = stream.output.as_ref().map(|fd| Source::new(fd, Interest::WRITABLE)).transpose()?;
    Ok((input, output))
}

/// Makes the connection the one that output goes to.
fn open(port: &Port, stream: &Stream) {
    let mut state = port.state();
    // Where the connection stood from the start, there may be output already.
    if !matches!(state.sink, Sink::Stream(Some(_))) {
        state.sink = Sink::Stream(Some(stream.clone()));
        state.pending.clear();
    }
    state.hang_up = false;
    state.announced = false;
    state.received_fds = None;
}

fn close(port: &Port, stream: &Stream) {
    let (announced, starved) = {
        let mut state = port.state();
        // The last words, as far as the host takes them.
        _ = state.flush();
        state.sink = Sink::Stream(None);
        state.pending = std::collections::VecDeque::new();
        state.received_fds = None;
        state.waker = None;
        (std::mem::take(&mut state.announced), std::mem::take(&mut state.starved))
    };
    stream.shut_down();
    if announced {
        port.announce(Event::Closed);
    }
    if starved {
        port.tell_writable();
    }
}

impl Server<'_> {
    /// Does what can be done now; ready when the connection is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.register(context) {
            return Poll::Ready(Ok(()));
        }
        self.port.announce_open();
        if let Poll::Ready(Err(error)) = self.poll_output(context) {
            return Poll::Ready(Err(error.into()));
        }
        let result = self.poll_input(context);
        // Input may have been a question that is answered below the front end.
        if result.is_pending()
            && self.stream.is_behind()
            && let Poll::Ready(Err(error)) = self.poll_output(context)
        {
            return Poll::Ready(Err(error.into()));
        }
        result
    }

    /// Leaves the waker, so that pokes arrive from now on. Says whether to hang up.
    fn register(&self, context: &Context<'_>) -> bool {
        let mut state = self.port.state();
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        state.hang_up
    }

    fn poll_output(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        loop {
            let (empty, room) = {
                let mut state = self.port.state();
                let empty = state.flush()?;
                let room = state.pending.len() <= OUTPUT_LIMIT / 2;
                (empty, room && std::mem::take(&mut state.starved))
            };
            if room {
                self.port.tell_writable();
                continue;
            }
            if empty {
                return Poll::Ready(Ok(()));
            }
            let source = self.output.as_ref().or(self.input.as_ref());
            let Some(Source::Polled(fd)) = source else {
                return Poll::Ready(Ok(()));
            };
            match ready!(fd.poll_write_ready(context)) {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return Poll::Ready(Err(Errno::IO)),
            }
            // Between the failed write and the clearing there may have been room: look once more.
            if self.port.state().flush()? {
                continue;
            }
            match ready!(fd.poll_write_ready(context)) {
                Ok(_) => {}
                Err(_) => return Poll::Ready(Err(Errno::IO)),
            }
        }
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        for _ in 0..TURN {
            if !self.over && !self.deliver() {
                return self.poll_gone(context);
            }
            if self.ended {
                self.over = true;
                if !self.stream.is_one() && self.stream.output.is_some() {
                    // Standard input or an input file is at its end; output goes on.
                    self.input = None;
                    self.ended = false;
                    return Poll::Pending;
                }
                // Only a unix socket tells apart who has said everything and who is gone.
                let speaking = self.stream.kind == Kind::UnixSocket && !self.port.state().pending.is_empty();
                return if speaking { self.poll_gone(context) } else { Poll::Ready(Ok(())) };
            }
            // Nobody would take it: leave it with the host.
            if !self.port.input.is_set() {
                return Poll::Pending;
            }
            match ready!(self.poll_read(context)) {
                Ok(0) => self.ended = true,
                Ok(count) => (self.start, self.end) = (0, count),
                // What a terminal says when its last user is gone.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => self.ended = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives the front end what was read. Says whether it took everything.
    fn deliver(&mut self) -> bool {
        loop {
            if self.start == self.end && !self.ended {
                self.waiting = false;
                return true;
            }
            if !std::mem::take(&mut self.port.state().resume) && self.waiting {
                return false;
            }
            self.waiting = true;
            if self.port.input.is_set() {
                // A front end that came since the last look learns first that the device is open.
                self.port.announce_open();
            }
            let offered = self.buffer.get(self.start..self.end).unwrap_or_default();
            let Some(taken) = self.port.input.call(|input| input(offered)) else {
                return self.ended;
            };
            self.start += taken.min(offered.len());
            let last = self.ended && offered.is_empty();
            if last && (taken == 0 || self.stream.kind != Kind::UnixSocket) {
                return true;
            }
        }
    }

    /// While the front end holds a connection whose other side has ended its input: is it there?
    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let (true, Some(Source::Polled(fd))) = (self.ended, &self.input) else {
            return Poll::Pending;
        };
        loop {
            let mut guard = ready!(fd.poll_write_ready(context))?;
            if guard.ready().is_write_closed() {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.buffer.resize(CHUNK, 0);
        loop {
            let mut guard = match &self.input {
                None => return Poll::Pending,
                Some(_) if self.stream.has_input() => None,
                Some(Source::Ready) => None,
                Some(Source::Polled(fd)) => Some(ready!(fd.poll_read_ready(context))?),
            };
            let mut fds = None;
            let result = self.stream.read(&mut self.buffer, &mut fds);
            if fds.is_some() {
                self.port.state().received_fds = fds;
            }
            for _ in 0..self.stream.take_breaks() {
                self.port.announce(Event::Break);
            }
            match (result, &mut guard) {
                (Err(Errno::AGAIN), Some(guard)) => guard.clear_ready(),
                (Err(Errno::AGAIN), None) => return Poll::Pending,
                (Ok(count), Some(guard)) if count > 0 && count < CHUNK && self.stream.kind == Kind::Socket => {
                    // A short read has emptied the socket: the next byte is a new event. Not so
                    // where file descriptors, datagrams or sessions cut the stream.
                    if self.stream.session.is_none() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                (result, _) => return Poll::Ready(result.map_err(Into::into)),
            }
        }
    }
}
