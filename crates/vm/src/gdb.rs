//! The server for gdb: its remote serial protocol (crate [`gdb`]) over a character device.
//!
//! A vCPU is a thread, numbered from 1. Breakpoints of both kinds are the vCPUs' own business ([`accel::DebugRequest`]):
//! guest memory is never written for them. All vCPUs stop together; `vCont` says which run again. While one is stepped,
//! interrupts wait and guest time stands, unless `qqemu.sstep` says otherwise. `monitor` runs lines of the human
//! monitor; `qqemu.PhyMemMode` makes addresses physical ones.
//!
//! Bytes are cut into packets on the monitor thread, requests are answered on the control thread. Left out on purpose:
//! reverse execution, semihosting, several inferiors, and accelerators that can't stop for a debugger (KVM: the host of
//! the tests has none), which are refused when the server starts.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use accel::{DebugRequest, DebugStop, Watchpoint};
use chardev::{Chardev, Event, Legacy, Outbox};
use gdb::{Action, Incoming, PACKET_SIZE, PointKind, Reader, Request, Thread, hex, packet, registers};
use qapi::run_state::{RunState, ShutdownCause};
use qmp::SessionContext;

use crate::control::Control;
use crate::human;

/// The device of `-s`, and of `gdbserver` without an argument.
pub const DEFAULT_DEVICE: &str = "tcp::1234";

/// Bits of `qqemu.sstep`: interrupts wait, guest time stands. The lowest is always set.
const NO_INTERRUPTS: u64 = 2;
const NO_TIME: u64 = 4;
const STEP_FLAGS: u64 = 1 | NO_INTERRUPTS | NO_TIME;

/// Requests that wait for the control thread before no more bytes are taken.
const MAX_ASKED: usize = 16;
/// Bytes of output that the client has not taken, likewise.
const MAX_OUTPUT: usize = 4 * PACKET_SIZE;

const BAD: &str = "E22";
const NO_MEMORY: &str = "E14";

/// The character device of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Made for the server: it goes with it.
    Own(String),
    /// It was there before, and stays.
    Existing(String),
}

impl Line {
    /// The device's id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Own(id) | Self::Existing(id) => id,
        }
    }
}

/// What a device's description on the command line means; the device is called `gdb`.
///
/// # Errors
/// What is wrong with it.
pub fn device(text: &str) -> Result<Legacy, chardev::Error> {
    match text.starts_with("tcp:") {
        // A server that nobody has to wait for.
        true => chardev::parse_legacy("gdb", &format!("{text},wait=off,nodelay=on,server=on")),
        false => chardev::parse_legacy("gdb", text),
    }
}

#[derive(Default)]
struct Wire {
    reader: Reader,
    output: Outbox,
    /// The last packet, until the client has understood it.
    last: Vec<u8>,
    /// Packets are not acknowledged.
    is_quiet: bool,
    /// Requests that the control thread has not done.
    asked: usize,
    /// Bytes wait at the device until there is room.
    is_held: bool,
}

impl Wire {
    fn is_full(&self) -> bool {
        self.asked >= MAX_ASKED || self.output.len() >= MAX_OUTPUT
    }
}

struct Session {
    breakpoints: Vec<u64>,
    watchpoints: Vec<Watchpoint>,
    /// The vCPU that registers and memory are of.
    cpu: usize,
    /// gdb waits for the machine to stop.
    waits: bool,
    is_physical: bool,
    step_flags: u64,
    /// The vCPUs that do one instruction.
    steps: Vec<usize>,
    /// For lines of the human monitor.
    context: SessionContext,
}

/// A server with one client at a time.
pub struct Gdb {
    chardev: Chardev,
    line: Line,
    wire: Mutex<Wire>,
    session: Mutex<Session>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves gdb on a character device from now on, and no longer on the one before.
///
/// # Errors
/// There is no such device, or no vCPU that can be debugged.
pub fn serve(control: &mut Control, line: &Line) -> Result<(), String> {
    let able = control.machine().vcpus().with(0, |cpu| cpu.set_debug(&DebugRequest::default()));
    match able {
        Some(true) => {}
        None if control.awaits_preconfig() => {}
        None => return Err("gdbstub: meaningless to attach gdb to a machine without any CPU.".into()),
        Some(false) => return Err("gdbstub: current accelerator doesn't support guest debugging".into()),
    }
    let chardev = control.chardevs().attach(line.id()).map_err(|error| error.to_string())?;
    let gdb = Gdb::start(chardev, line.clone(), control);
    control.set_gdb(Some(gdb));
    Ok(())
}

/// Ends the server, and its device where that was made for it.
pub fn end(control: &mut Control) {
    let Some(gdb) = control.set_gdb(None) else { return };
    gdb.forget(control);
    let line = gdb.line.clone();
    drop(gdb);
    if let Line::Own(id) = line {
        // Nobody else can have it: its name is reserved.
        let _gone = control.chardevs().remove(&id);
    }
}

impl Gdb {
    fn start(chardev: Chardev, line: Line, control: &Control) -> Arc<Self> {
        let session = Session {
            breakpoints: Vec::new(),
            watchpoints: Vec::new(),
            cpu: 0,
            waits: false,
            is_physical: false,
            step_flags: STEP_FLAGS,
            steps: Vec::new(),
            context: SessionContext::new("gdb", control.fd_sets().clone()),
        };
        let gdb = Arc::new(Self { chardev, line, wire: Mutex::default(), session: Mutex::new(session) });
        let (for_input, for_events, for_output) = (Arc::downgrade(&gdb), Arc::downgrade(&gdb), Arc::downgrade(&gdb));
        gdb.chardev.set_writable(Box::new(move || with(&for_output, |gdb| gdb.pump(&mut lock(&gdb.wire)))));
        let inbox = Arc::clone(control.inbox());
        let of_input = Arc::clone(&inbox);
        gdb.chardev.set_events(Box::new(move |event| {
            let gdb = Weak::clone(&for_events);
            match event {
                Event::Opened => {
                    with(&gdb, |gdb| *lock(&gdb.wire) = Wire::default());
                    inbox.request(Box::new(move |control| with(&gdb, |gdb| gdb.client_came(control))));
                }
                Event::Closed => {
                    inbox.request(Box::new(move |control| with(&gdb, |gdb| gdb.forget(control))));
                }
                Event::Break | Event::FocusIn | Event::FocusOut => {}
            }
        }));
        gdb.chardev.set_input(Box::new(move |bytes| {
            let Some(gdb) = for_input.upgrade() else { return bytes.len() };
            for (taken, &byte) in bytes.iter().enumerate() {
                if gdb.holds_back() {
                    return taken;
                }
                let Some(incoming) = gdb.byte(byte) else { continue };
                let gdb = Weak::clone(&for_input);
                of_input.request(Box::new(move |control| {
                    with(&gdb, |gdb| {
                        match &incoming {
                            Incoming::Packet(body) => gdb.packet(control, body),
                            _ => gdb.interrupt(control),
                        }
                        gdb.answered();
                    });
                }));
            }
            bytes.len()
        }));
        gdb
    }

    /// Takes one byte; what it completes is for the control thread.
    fn byte(&self, byte: u8) -> Option<Incoming> {
        let wire = &mut *lock(&self.wire);
        let incoming = wire.reader.take(byte)?;
        match &incoming {
            Incoming::Packet(_) if !wire.is_quiet => wire.output.put(b"+"),
            Incoming::Bad if !wire.is_quiet => wire.output.put(b"-"),
            Incoming::Nack if !wire.is_quiet => wire.output.put(&wire.last),
            Incoming::Ack => wire.last.clear(),
            _ => {}
        }
        let is_request = matches!(incoming, Incoming::Packet(_) | Incoming::Interrupt);
        wire.asked += usize::from(is_request);
        self.pump(wire);
        is_request.then_some(incoming)
    }

    /// Whether the next byte has to wait.
    fn holds_back(&self) -> bool {
        let mut wire = lock(&self.wire);
        wire.is_held = wire.is_full();
        wire.is_held
    }

    /// The control thread has done a request.
    fn answered(&self) {
        let mut wire = lock(&self.wire);
        // A client that has come meanwhile counts anew.
        wire.asked = wire.asked.saturating_sub(1);
        self.go_on(&mut wire);
    }

    /// Takes bytes again if there is room.
    fn go_on(&self, wire: &mut Wire) {
        if wire.is_held && !wire.is_full() {
            wire.is_held = false;
            self.chardev.resume_input();
        }
    }

    fn pump(&self, wire: &mut Wire) {
        wire.output.send(&self.chardev);
        self.go_on(wire);
    }

    /// Sends a packet.
    fn send(&self, body: &str) {
        let packet = packet::frame(body.as_bytes());
        let mut wire = lock(&self.wire);
        wire.output.put(&packet);
        wire.last = packet;
        self.pump(&mut wire);
    }

    fn client_came(&self, control: &mut Control) {
        self.forget(control);
        control.stop(RunState::Paused);
    }

    /// Takes back what the client has set.
    fn forget(&self, control: &Control) {
        {
            let mut session = lock(&self.session);
            session.breakpoints.clear();
            session.watchpoints.clear();
            session.steps.clear();
            (session.cpu, session.waits, session.is_physical) = (0, false, false);
            session.step_flags = STEP_FLAGS;
        }
        self.apply(control);
    }

    fn interrupt(&self, control: &mut Control) {
        if control.states().is_running() {
            control.stop(RunState::Paused);
        } else if std::mem::take(&mut lock(&self.session).waits) {
            let reply = self.reason(2);
            self.send(&reply);
        }
    }

    /// The machine has stopped; `cpu` has asked for it.
    pub fn stopped(&self, control: &Control, state: RunState, cpu: Option<usize>) {
        let vcpus = control.machine().vcpus();
        vcpus.hold(&[]);
        // What others have met at the same time they will meet again.
        let stops: Vec<_> = (0..vcpus.count()).map(|cpu| vcpus.with(cpu, |cpu| cpu.debug_stop()).flatten()).collect();
        let (waits, stepped) = {
            let mut session = lock(&self.session);
            session.cpu = cpu.unwrap_or(session.cpu);
            let stepped = !std::mem::take(&mut session.steps).is_empty();
            (std::mem::take(&mut session.waits), stepped)
        };
        if stepped {
            self.apply(control);
        }
        if !waits {
            return;
        }
        // gdb's own numbers of signals.
        let signal = match state {
            RunState::Debug => 5,
            RunState::Paused => 2,
            RunState::Shutdown => 3,
            RunState::InternalError => 6,
            RunState::Watchdog => 14,
            RunState::IoError => 23,
            _ => 143,
        };
        let mut reply = self.reason(signal);
        if let Some(Some(DebugStop::Watchpoint(point))) = cpu.and_then(|cpu| stops.get(cpu)) {
            let kind = match (point.reads, point.writes) {
                (true, true) => "a",
                (true, false) => "r",
                _ => "",
            };
            // A string takes everything.
            let _ = write!(reply, "{kind}watch:{:x};", point.address);
        }
        self.send(&reply);
    }

    fn reason(&self, signal: u8) -> String {
        format!("T{signal:02x}thread:{:02x};", lock(&self.session).cpu + 1)
    }

    /// The program ends.
    pub fn program_ends(&self, status: i32) {
        if std::mem::take(&mut lock(&self.session).waits) {
            self.send(&format!("W{:02x}", status & 0xff));
        }
    }

    /// The id of the character device.
    pub fn chardev(&self) -> &str {
        self.chardev.id()
    }

    /// Tells the vCPUs what stops them. `false`: they can't.
    fn apply(&self, control: &Control) -> bool {
        let session = lock(&self.session);
        let vcpus = control.machine().vcpus();
        let mut all = true;
        for index in 0..vcpus.count() {
            let request = DebugRequest {
                step: session.steps.contains(&index),
                masks_interrupts: session.step_flags & NO_INTERRUPTS != 0,
                breakpoints: session.breakpoints.clone(),
                watchpoints: session.watchpoints.clone(),
            };
            // One that has gone has nothing to stop at.
            let done = vcpus.with(index, move |cpu| cpu.set_debug(&request) || request.is_empty());
            all &= done != Some(false);
        }
        all
    }

    /// Lets vCPUs run: each as the plan says, those that it does not name stand.
    fn resume(&self, control: &mut Control, plan: &[Option<Action>]) -> Result<(), &'static str> {
        if plan.iter().all(Option::is_none) {
            return Err(BAD);
        }
        // Somebody else may have let it run.
        control.stop(RunState::Paused);
        let steps = plan.iter().enumerate().filter(|(_, action)| **action == Some(Action::Step));
        let with_time = {
            let mut session = lock(&self.session);
            session.steps = steps.map(|(cpu, _)| cpu).collect();
            session.steps.is_empty() || session.step_flags & NO_TIME == 0
        };
        if !self.apply(control) {
            return Err(BAD);
        }
        let held: Vec<bool> = plan.iter().map(Option::is_none).collect();
        control.machine().vcpus().hold(&held);
        lock(&self.session).waits = true;
        if control.resume_debugged(with_time).is_err() {
            control.machine().vcpus().hold(&[]);
            let mut session = lock(&self.session);
            session.steps.clear();
            session.waits = false;
            drop(session);
            self.apply(control);
            return Err(BAD);
        }
        Ok(())
    }

    /// Answers a packet.
    fn packet(self: &Arc<Self>, control: &mut Control, body: &[u8]) {
        let cpu = lock(&self.session).cpu;
        let reply = match Request::parse(body) {
            Request::Resume(action, address) => {
                if let Some(address) = address {
                    self.change(control, |all| {
                        all.rip = address;
                        true
                    });
                }
                let rest = (action == Action::Continue).then_some(action);
                let mut plan = vec![rest; control.machine().vcpus().count()];
                if let Some(own) = plan.get_mut(cpu) {
                    *own = Some(action);
                }
                match self.resume(control, &plan) {
                    Ok(()) => return,
                    Err(error) => error.to_owned(),
                }
            }
            Request::Continue(actions) => {
                let fits = |thread: Thread, index: usize| match thread {
                    Thread::All => true,
                    Thread::Any => index == cpu,
                    Thread::One(one) => one == index,
                };
                let of =
                    |index: usize| actions.iter().find(|(_, thread)| fits(*thread, index)).map(|(action, _)| *action);
                let plan: Vec<_> = (0..control.machine().vcpus().count()).map(of).collect();
                match self.resume(control, &plan) {
                    Ok(()) => return,
                    Err(error) => error.to_owned(),
                }
            }
            Request::StopReason => {
                // A client that has just come.
                let mut session = lock(&self.session);
                session.breakpoints.clear();
                session.watchpoints.clear();
                drop(session);
                self.apply(control);
                self.reason(5)
            }
            Request::Detach => {
                self.forget(control);
                self.send("OK");
                // Whatever stopped the machine may keep it from going on.
                let _going = control.resume();
                return;
            }
            Request::Kill => return control.end(ShutdownCause::HostUi, 0),
            Request::KillProcess => {
                self.send("OK");
                return control.end(ShutdownCause::HostUi, 0);
            }
            Request::StartNoAckMode => {
                // Before the answer, behind which the next packet may follow at once.
                lock(&self.wire).is_quiet = true;
                "OK".into()
            }
            Request::Monitor(line) => return self.monitor(control, &line),
            request => self.answer(control, cpu, request),
        };
        self.send(&reply);
    }

    /// The answer to a request that does not move the machine.
    fn answer(&self, control: &Control, cpu: usize, request: Request) -> String {
        let vcpus = control.machine().vcpus();
        let is_there = |cpu: usize| cpu < vcpus.count();
        match request {
            Request::ReadRegisters => {
                vcpus.with(cpu, |cpu| registers::all(&cpu.registers())).unwrap_or_else(|| BAD.into())
            }
            Request::WriteRegisters(text) => self.change(control, |all| registers::set_all(all, &text)),
            Request::ReadRegister(number) => {
                let found = vcpus.with(cpu, move |cpu| registers::one(&cpu.registers(), number));
                found.flatten().unwrap_or_else(|| NO_MEMORY.into())
            }
            Request::WriteRegister(number, text) => self.change(control, |all| registers::set_one(all, number, &text)),
            Request::ReadMemory { address, len } => self.read_memory(control, address, len),
            Request::WriteMemory { address, bytes } => {
                let memory = control.machine().guest_memory();
                if lock(&self.session).is_physical {
                    memory.write_physical(address, &bytes);
                } else if !memory.write_virtual(cpu, address, &bytes) {
                    return NO_MEMORY.into();
                }
                "OK".into()
            }
            Request::Select(Thread::One(wanted)) if is_there(wanted) => {
                lock(&self.session).cpu = wanted;
                "OK".into()
            }
            Request::Select(Thread::One(_)) => BAD.into(),
            Request::IsAlive(Thread::One(wanted)) if !is_there(wanted) => BAD.into(),
            Request::Select(_) | Request::IsAlive(_) | Request::Extended => "OK".into(),
            Request::Point { is_set, kind, address, len } => self.point(control, is_set, kind, (address, len.max(1))),
            Request::ContinueKinds => "vCont;c;C;s;S".into(),
            Request::Supported => {
                format!("PacketSize={PACKET_SIZE:x};qXfer:features:read+;vContSupported+;QStartNoAckMode+")
            }
            Request::ReadFeatures { name, offset, len } if name == "target.xml" => {
                let whole = registers::description();
                let from = offset.min(whole.len());
                let to = from.saturating_add(len.min(PACKET_SIZE / 2)).min(whole.len());
                let mark = if to == whole.len() { 'l' } else { 'm' };
                format!("{mark}{}", whole.get(from..to).unwrap_or_default())
            }
            Request::ReadFeatures { .. } => "E00".into(),
            Request::CurrentThread => format!("QC{:02x}", cpu + 1),
            Request::IsAttached => "1".into(),
            Request::Threads => {
                let all: Vec<String> = (1..=vcpus.count()).map(|id| format!("{id:02x}")).collect();
                format!("m{}", all.join(","))
            }
            Request::MoreThreads => "l".into(),
            Request::ThreadInfo(Thread::One(wanted)) => match vcpus.with(wanted, |cpu| cpu.registers().activity) {
                Some(x86::regs::Activity::Running) => hex(format!("CPU#{wanted} [running]").as_bytes()),
                Some(_) => hex(format!("CPU#{wanted} [halted ]").as_bytes()),
                None => BAD.into(),
            },
            Request::EmulatorFeatures => "sstepbits;sstep;PhyMemMode".into(),
            Request::IsPhysical => u8::from(lock(&self.session).is_physical).to_string(),
            Request::SetPhysical(is_physical) => {
                lock(&self.session).is_physical = is_physical;
                "OK".into()
            }
            Request::StepBits => format!("ENABLE=1,NOIRQ={NO_INTERRUPTS:x},NOTIMER={NO_TIME:x}"),
            Request::StepFlags => format!("{:#x}", lock(&self.session).step_flags),
            Request::SetStepFlags(flags) if flags & !STEP_FLAGS == 0 => {
                lock(&self.session).step_flags = flags;
                "OK".into()
            }
            Request::SetStepFlags(_) | Request::ThreadInfo(_) | Request::Malformed => BAD.into(),
            // An empty answer: not known. The others were answered before.
            _ => String::new(),
        }
    }

    fn change(&self, control: &Control, change: impl FnOnce(&mut x86::regs::Registers) -> bool) -> String {
        let cpu = lock(&self.session).cpu;
        let vcpus = control.machine().vcpus();
        let Some(mut registers) = vcpus.with(cpu, |cpu| cpu.registers()) else { return BAD.into() };
        if !change(&mut registers) {
            return BAD.into();
        }
        vcpus.with(cpu, move |cpu| cpu.set_registers(&registers));
        "OK".into()
    }

    fn read_memory(&self, control: &Control, address: u64, len: usize) -> String {
        if len > PACKET_SIZE / 2 {
            return BAD.into();
        }
        let (cpu, is_physical) = {
            let session = lock(&self.session);
            (session.cpu, session.is_physical)
        };
        let mut bytes = vec![0; len];
        let memory = control.machine().guest_memory();
        if is_physical {
            memory.read_physical(address, &mut bytes);
        } else if !memory.read_virtual(cpu, address, &mut bytes) {
            return NO_MEMORY.into();
        }
        hex(&bytes)
    }

    /// Sets or takes a breakpoint or watchpoint.
    fn point(&self, control: &Control, is_set: bool, kind: PointKind, (address, len): (u64, u64)) -> String {
        /// More would only slow the guest down.
        const LIMIT: usize = 1000;
        {
            let mut session = lock(&self.session);
            if is_set && session.breakpoints.len() + session.watchpoints.len() >= LIMIT {
                return BAD.into();
            }
            if kind == PointKind::Execute {
                session.breakpoints.retain(|known| *known != address);
                if is_set {
                    session.breakpoints.push(address);
                }
            } else {
                let (reads, writes) = (kind != PointKind::Write, kind != PointKind::Read);
                let point = Watchpoint { address, len, reads, writes };
                session.watchpoints.retain(|known| *known != point);
                if is_set {
                    session.watchpoints.push(point);
                }
            }
        }
        if self.apply(control) { "OK".into() } else { BAD.into() }
    }

    /// Runs a line of the human monitor.
    fn monitor(self: &Arc<Self>, control: &mut Control, line: &str) {
        let gdb = Arc::downgrade(self);
        let done = Box::new(move |text: String| {
            with(&gdb, |gdb| {
                for piece in text.as_bytes().chunks(PACKET_SIZE / 4) {
                    gdb.send(&format!("O{}", hex(piece)));
                }
                gdb.send("OK");
            });
        });
        let fresh = SessionContext::new("gdb", control.fd_sets().clone());
        // The line may end this very server, whose lock is not held meanwhile.
        let mut context = std::mem::replace(&mut lock(&self.session).context, fresh);
        human::execute(control, &mut context, line, done);
        lock(&self.session).context = context;
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        self.chardev.detach();
    }
}

fn with(gdb: &Weak<Gdb>, act: impl FnOnce(&Arc<Gdb>)) {
    if let Some(gdb) = gdb.upgrade() {
        act(&gdb);
    }
}
