//! Serving an image.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use block::{Child, DetectZeroes, Graph, OpenFlags, Options};
use block_export::nbd::{BitmapRef, Export, ExportOptions, Server, ServerOptions};
use block_export::{Address, Listener};
use block_net::tls::server_credentials;
use block_tools::open::{self, Access};
use block_tools::{keyval, secret, status};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, getppid, pidfd_getfd, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::Notify;

use crate::cli::Line;

/// The first descriptor that a service manager passes.
const FIRST_SOCKET: i32 = 3;

/// How many sockets a service manager has passed.
pub fn activation() -> Result<u32, String> {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u32>().ok());
    let (Some(pid), Some(count)) = (number("LISTEN_PID"), number("LISTEN_FDS")) else { return Ok(0) };
    let parent = getppid().filter(|_| process::is_daemon());
    let is = |process: rustix::process::Pid| i64::from(process.as_raw_nonzero().get()) == i64::from(pid);
    if !is(getpid()) && !parent.is_some_and(is) {
        return Ok(0);
    }
    for number in (FIRST_SOCKET..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        inherited(number)
            .map_err(|error| format!("Socket activation failed: invalid file descriptor fd = {number}: {error}"))?;
    }
    Ok(count)
}

/// A duplicate of a descriptor that this process was started with.
fn inherited(number: i32) -> rustix::io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(this, number, PidfdGetfdFlags::empty())
}

/// Serves until a signal or the last client ends it.
pub async fn run(line: &Line, activated: u32) -> Result<(), String> {
    let graph = Graph::new(block_drivers::registry());
    for object in &line.objects {
        secret::add_object(&graph, object).map_err(|error| error.to_string())?;
    }
    let credentials = match &line.tls_creds {
        None => None,
        Some(id) => Some(server_credentials(&graph, id).map_err(|error| format!("Failed to get TLS creds: {error}"))?),
    };
    let address = if activated == 0 {
        line.address()
    } else {
        Address::Fd(inherited(FIRST_SOCKET).map_err(|error| format!("Failed to use socket activation: {error}"))?)
    };
    let listeners = Listener::bind(address).map_err(|error| open::text_with_hint(&error))?;
    let root = open_image(&graph, line).await?;
    let writethrough = line.cache.is_some_and(|(_, writethrough)| writethrough);
    let shared = line.shared.unwrap_or(1);

    let over = Arc::new(Notify::new());
    let options = ServerOptions { credentials, max_connections: shared, ..ServerOptions::default() };
    let (last, persistent) = (Arc::clone(&over), line.persistent);
    let server = Server::with_notice(options, move |left, chose| {
        if left == 0 && chose && !persistent {
            last.notify_one();
        }
    });
    let export = ExportOptions {
        name: line.name.clone().unwrap_or_default(),
        description: line.description.clone(),
        writable: !line.read_only,
        writethrough,
        multi_conn: server.has_multi_conn(),
        allocation_depth: line.allocation_depth,
        bitmaps: line.bitmaps.iter().rev().cloned().map(BitmapRef::Below).collect(),
    };
    let reactor = aio::Handle::current().ok_or("the program has no reactor")?;
    let export = Export::new(&graph, &root.node(), export, reactor).map_err(|error| open::text_with_hint(&error))?;
    server.add(&export).map_err(|error| error.to_string())?;
    for listener in listeners {
        drop(aio::spawn(Arc::clone(&server).serve(listener)));
    }
    let _pid_file = line.pid_file.as_ref().map(|path| process::Pidfile::create(Path::new(path))).transpose()?;
    watch_signals(&over)?;
    if process::is_daemon() {
        process::report_ready()?;
    }
    over.notified().await;
    server.close();
    let closed = export.close(&graph).await;
    let detached = graph.detach(&root).await;
    closed.and(detached).map_err(|error| error.to_string())
}

/// Ends the program at a signal.
fn watch_signals(over: &Arc<Notify>) -> Result<(), String> {
    let refused = |error: std::io::Error| format!("the host refuses a signal handler: {error}");
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(refused)?;
    let over = Arc::clone(over);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(|_| over.notify_one()))
        .map(drop)
        .map_err(refused)
}

/// Opens the image as the command line says.
async fn open_image(graph: &Arc<Graph>, line: &Line) -> Result<Arc<Child>, String> {
    let file = line.file();
    let failed = |error: block::Error| open::text_with_hint(&error.context(format!("Failed to blk_new_open '{file}'")));
    let options = if line.image_opts {
        keyval::to_options(file, Some("file"))
    } else {
        open::file_options(file, line.format.as_deref())
    };
    let access = Access {
        flags: OpenFlags { engine: line.aio.unwrap_or_default(), ..OpenFlags::default() },
        write: !line.read_only && !line.snapshot,
        unmap: line.discard == Some(true),
        cache: line.cache.map(|(mode, _)| mode).unwrap_or_default(),
        ..Access::default()
    };
    let mut root = open::open(graph, options, access).await.map_err(failed)?;
    if let Some(warning) = block::open::guess_warning(&root.node()) {
        eprintln!("{warning}");
    }
    if line.snapshot {
        root = open::overlay(graph, root, access).await.map_err(failed)?;
    }
    if line.offset != 0 {
        let options = Options::new()
            .with("driver", "raw")
            .with("file", root.node().name())
            .with("offset", line.offset.to_string());
        let part = open::open(graph, options, access).await.map_err(|error| open::text_with_hint(&error))?;
        graph.detach(&root).await.map_err(|error| error.to_string())?;
        root = part;
    }
    if let Some(snapshot) = &line.load_snapshot {
        status::load_snapshot(&root.node(), snapshot).await.map_err(|error| open::text_with_hint(&error))?;
    }
    if line.detect_zeroes != DetectZeroes::Off {
        let node = root.node();
        node.set_config(block::NodeConfig { detect_zeroes: line.detect_zeroes, ..node.config() });
    }
    // The export says who may write: the tool itself does nothing.
    let used = block::Permissions::NONE;
    graph.set_permissions(&root, used, block::Permissions::ALL).map_err(|error| error.to_string())?;
    Ok(root)
}
