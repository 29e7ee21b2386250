//! The handlers of QMP commands: one module a subject, each with the visible list of its commands.

pub mod block;
mod chardev;
pub(crate) mod cpu;
pub(crate) mod device;
mod display;
mod fd;
mod human;
mod input;
mod jit;
mod machine;
mod memory;
mod numa;
mod pci;
mod qom;
mod run_state;
pub(crate) mod stats;
mod virtio;
mod vnc;

pub(crate) use self::display::console;

use qapi::control::{QueryVersion, Quit};
use qapi::events;
use qmp::{CommandTable, Reply};

use crate::control::Control;
use crate::daemon::Daemon;
use crate::snapshot::Snapshot;

/// The program's command table.
pub type Table = CommandTable<Control, Snapshot>;

/// Every command and event that the program has.
pub fn table() -> Table {
    let mut table = Table::new();
    run_state::register(&mut table);
    machine::register(&mut table);
    cpu::register(&mut table);
    jit::register(&mut table);
    memory::register(&mut table);
    pci::register(&mut table);
    virtio::register(&mut table);
    stats::register(&mut table);
    numa::register(&mut table);
    human::register(&mut table);
    qom::register(&mut table);
    fd::register(&mut table);
    chardev::register(&mut table);
    device::register(&mut table);
    display::register(&mut table);
    vnc::register(&mut table);
    input::register(&mut table);
    block::register(&mut table);
    table.declare_event::<events::Stop>();
    table.declare_event::<events::Resume>();
    table.declare_event::<events::Reset>();
    table.declare_event::<events::Shutdown>();
    table.declare_event::<events::Powerdown>();
    table.declare_event::<events::RtcChange>();
    table.declare_event::<events::VserportChange>();
    table.declare_event::<events::Suspend>();
    table.declare_event::<events::SuspendDisk>();
    table.declare_event::<events::Wakeup>();
    table.declare_event::<events::GuestPanicked>();
    table.declare_event::<events::Watchdog>();
    table
}

/// Every command and event of a storage daemon.
pub fn daemon_table() -> CommandTable<Daemon, ()> {
    let mut table = CommandTable::new();
    block::register(&mut table);
    table.register_deferred::<Quit>(|daemon: &mut Daemon, _, _, reply| daemon.quit(reply));
    table.register_snapshot::<QueryVersion>(|_: &(), _, _| Ok(Snapshot::version()));
    table
}

/// Runs `work` on a thread of its own and sends its result.
fn in_background<R: qapi::QapiType + 'static>(
    name: &str,
    reply: Reply<R>,
    work: impl FnOnce() -> Result<R, qapi::Error> + Send + 'static,
) {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(move || reply.send(work()));
    if let Err(error) = spawned {
        // The reply went with the closure and told its client that it was given up.
        eprintln!("cannot start a thread: {error}");
    }
}
