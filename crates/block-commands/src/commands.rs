//! The table of commands, and those that are no reads or writes.

use std::sync::Arc;
use std::time::Duration;

use block::open::GENERIC_OPTIONS;
use block::{DriverKind, Engine, Error, Node, NodeConfig, Options, Permissions, Preallocation};
use block_filters::blkdebug::Blkdebug;
use block_tools::{json, keyval, open, status};

use crate::args::{integer, number};
use crate::format;
use crate::requests::{self, parse, wrong};
use crate::session::{Failed, OpenMode, Session};

/// A command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// A shorter name.
    pub short: Option<&'static str>,
    /// Name, operands and purpose in one line.
    pub usage: &'static str,
    /// How many words it takes; `usize::MAX` for any number.
    words: (usize, usize),
    /// It works without an image.
    anywhere: bool,
    /// What it does to the image.
    permissions: Permissions,
    /// Only programs of their own have it.
    standalone: bool,
}

const ANY: usize = usize::MAX;

const fn command(name: &'static str, usage: &'static str, words: (usize, usize)) -> Command {
    Command { name, short: None, usage, words, anywhere: false, permissions: Permissions::NONE, standalone: false }
}

impl Command {
    const fn short(self, short: &'static str) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn writes(self) -> Self {
        Self { permissions: Permissions::WRITE, ..self }
    }

    const fn anywhere(self) -> Self {
        Self { anywhere: true, ..self }
    }

    const fn standalone(self) -> Self {
        Self { standalone: true, ..self }
    }
}

/// All commands, by name.
pub const COMMANDS: &[Command] = &[
    command("abort", "abort -- simulate a program crash using abort(3)", (0, 0)).anywhere(),
    command("aio_flush", "aio_flush -- completes all outstanding aio requests", (0, 0)),
    command(
        "aio_read",
        "aio_read [-Ciqv] [-P pattern] off len [len..] -- asynchronously reads a number of bytes",
        (2, ANY),
    ),
    command(
        "aio_write",
        "aio_write [-Cfiquz] [-P pattern] off len [len..] -- asynchronously writes a number of bytes",
        (2, ANY),
    )
    .writes(),
    command("alloc", "alloc offset [count] -- checks if offset is allocated in the file", (1, 2)).short("a"),
    command("break", "break event tag -- sets a breakpoint on event and tags the stopped request as tag", (2, 2)),
    command("close", "close -- close the current open file", (0, 0)).short("c").standalone(),
    command("discard", "discard [-Cq] off len -- discards a number of bytes at a specified offset", (2, ANY))
        .short("d")
        .writes(),
    command("flush", "flush -- flush all in-core file state to disk", (0, 0)).short("f"),
    command("help", "help [command] -- help for one or all commands", (0, 1)).short("?").anywhere(),
    command("info", "info -- prints information about the current file", (0, 0)).short("i"),
    command("length", "length -- gets the length of the current file", (0, 0)).short("l"),
    command("map", "map  -- prints the allocated areas of a file", (0, 0)),
    command(
        "open",
        "open [-rsCnkU] [-t cache] [-d discard] [-o options] [path] -- open the file specified by path",
        (1, ANY),
    )
    .short("o")
    .anywhere()
    .standalone(),
    command("quit", "quit -- exit the program", (0, ANY)).short("q").anywhere().standalone(),
    command(
        "read",
        "read [-abCqv] [-P pattern [-s off] [-l len]] off len -- reads a number of bytes at a specified offset",
        (2, ANY),
    )
    .short("r"),
    command(
        "readv",
        "readv [-Cqv] [-P pattern] off len [len..] -- reads a number of bytes at a specified offset",
        (2, ANY),
    ),
    command("remove_break", "remove_break tag -- remove a breakpoint by tag", (1, 1)),
    command("reopen", "reopen [(-r|-w)] [-c cache] [-o options] -- reopens an image with new options", (0, ANY)),
    command("resume", "resume tag -- resumes the request tagged as tag", (1, 1)),
    command("sigraise", "sigraise signal -- raises a signal", (1, 1)).anywhere(),
    command("sleep", "sleep -- waits for the given value in milliseconds", (1, 1)).anywhere(),
    command("truncate", "truncate [-m prealloc_mode] off -- truncates the current file at the given offset", (1, 3))
        .short("t")
        .writes(),
    command("wait_break", "wait_break tag -- waits for the suspension of a request", (1, 1)),
    command(
        "write",
        "write [-bcCfnquz] [-P pattern | -s source_file] off len -- writes a number of bytes at a specified offset",
        (2, ANY),
    )
    .short("w")
    .writes(),
    command(
        "writev",
        "writev [-Cfq] [-P pattern] off len [len..] -- writes a number of bytes at a specified offset",
        (2, ANY),
    )
    .writes(),
];

type Answer = Result<String, Failed>;

fn find(session: &Session, name: &str) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .filter(|command| session.standalone || !command.standalone)
        .find(|command| command.name == name || command.short == Some(name))
}

/// Runs a command.
pub async fn run(session: &mut Session, name: &str, words: &[&str]) -> Answer {
    let Some(command) = find(session, name) else {
        session.output.complain(&format!("command \"{name}\" not found\n"));
        return Err(Failed::silent());
    };
    if !command.anywhere && session.child.is_none() {
        session.output.complain("no file open, try 'help open'\n");
        return Err(Failed::silent());
    }
    let (least, most) = command.words;
    let given = words.len();
    if given < least || given > most {
        let expected = match (least, most) {
            (_, ANY) => format!("at least {least}"),
            (least, most) if least == most => format!("{least}"),
            _ => format!("between {least} and {most}"),
        };
        session.output.complain(&format!("bad argument count {given} to {name}, expected {expected} arguments\n"));
        return Err(Failed::silent());
    }
    if !command.permissions.is_empty() {
        session.permit(command.permissions)?;
    }
    let usage = command.usage;
    match command.name {
        "read" => requests::read(session, words, usage).await,
        "readv" => requests::readv(session, words, usage).await,
        "write" => requests::write(session, words, usage).await,
        "writev" => requests::writev(session, words, usage).await,
        "aio_read" => requests::aio_read(session, words, usage).await,
        "aio_write" => requests::aio_write(session, words, usage).await,
        "discard" => requests::discard(session, words, usage).await,
        "aio_flush" => {
            session.drain().await;
            Ok(String::new())
        }
        "flush" => {
            let child = session.image()?;
            session.with(child.flush()).await.map_err(|_| Failed::silent())?;
            Ok(String::new())
        }
        "truncate" => truncate(session, words, usage).await,
        "length" => Ok(format!("{}\n", format::size(status::size(&*session.node()?)))),
        "info" => info(&session.node()?),
        "alloc" => alloc(session, words).await,
        "map" => map(session).await,
        "reopen" => reopen(session, words, usage).await,
        "break" => set_break(session, words),
        "remove_break" => remove_break(&session.node()?, words[0]),
        "resume" => resume(session, words[0]).await,
        "wait_break" => wait_break(session, words[0]).await,
        "sleep" => sleep(session, words[0]).await,
        "abort" => std::process::abort(),
        "sigraise" => raise(words[0]),
        "help" => help(session, words),
        "open" => open_command(session, words, usage).await,
        "close" => {
            session.close().await;
            Ok(String::new())
        }
        "quit" => {
            session.quit = true;
            Ok(String::new())
        }
        _ => Err(Failed::silent()),
    }
}

async fn truncate(session: &mut Session, words: &[&str], usage: &'static str) -> Answer {
    let args = parse(session, "truncate", words, "m:", usage)?;
    let mut mode = Preallocation::Off;
    if let Some(name) = args.value('m') {
        let index = Preallocation::NAMES.iter().position(|known| *known == name);
        let index = index.ok_or_else(|| Failed::error(format!("Invalid preallocation mode '{name}'")))?;
        mode = Preallocation::from_index(index);
    }
    let Some(size) = args.operands.first() else { return Err(wrong(usage)) };
    let size = number(size)?;
    session.permit(Permissions::WRITE | Permissions::RESIZE)?;
    session.truncate(size, mode).await?;
    Ok(String::new())
}

fn info(node: &Arc<Node>) -> Answer {
    let details = node.driver().details();
    let mut text = format!("format name: {}\n", node.driver_type().name());
    if node.driver_type().kind() == DriverKind::Protocol {
        // Its name as a format, and as a protocol.
        text = text.repeat(2);
        if node.driver_type().name().starts_with("null-") {
            return Ok(text);
        }
    }
    text.push_str(&format!("cluster size: {}\n", format::size(details.cluster_size.unwrap_or(0))));
    text.push_str(&format!("vm state offset: {}\n", format::size(details.vm_state_offset.unwrap_or(0))));
    if let Some((_, data)) = details.specific {
        text.push_str("Format specific information:\n");
        text.push_str(&json::human(&data, 1));
    }
    Ok(text)
}

/// Whether the topmost image has the range, and how far that holds.
async fn is_allocated(session: &mut Session, offset: u64, len: u64) -> block::Result<(bool, u64)> {
    let node = session.node().map_err(|_| Error::no_medium("No medium inserted"))?;
    let extent = session.with(status::of_node(&node, offset, len)).await?;
    Ok((extent.allocated, extent.len))
}

async fn alloc(session: &mut Session, words: &[&str]) -> Answer {
    let start = number(words[0])?;
    let mut count = words.get(1).map_or(Ok(512), |text| number(text))?;
    let (mut offset, mut rest, mut allocated) = (start, count, 0);
    while rest > 0 {
        let (is, len) = is_allocated(session, offset, rest).await.map_err(|error| {
            Failed::printed(format!("is_allocated failed: {}\n", block::error::strerror(error.errno())))
        })?;
        if len == 0 {
            count -= rest;
            break;
        }
        offset += len;
        rest -= len;
        allocated += if is { len } else { 0 };
    }
    Ok(format!("{allocated}/{count} bytes allocated at offset {}\n", format::size(start)))
}

async fn map(session: &mut Session) -> Answer {
    let size = status::size(&*session.node()?);
    let mut text = String::new();
    let mut print = |allocated: bool, offset: u64, len: u64| {
        let what = if allocated { "    allocated" } else { "not allocated" };
        text.push_str(&format!(
            "{} ({len:#x}) bytes {what} at offset {} ({offset:#x})\n",
            format::size(len),
            format::size(offset)
        ));
    };
    let mut run: Option<(bool, u64, u64)> = None;
    let mut offset = 0;
    while offset < size {
        let (is, len) = is_allocated(session, offset, size - offset).await.map_err(|error| {
            Failed::error(format!("Failed to get allocation status: {}", block::error::strerror(error.errno())))
        })?;
        if len == 0 {
            return Err(Failed::error("Unexpected end of image"));
        }
        run = Some(match run {
            Some((same, start, total)) if same == is => (is, start, total + len),
            Some((other, start, total)) => {
                print(other, start, total);
                (is, offset, len)
            }
            None => (is, offset, len),
        });
        offset += len;
    }
    if let Some((is, start, total)) = run {
        print(is, start, total);
    }
    Ok(text)
}

/// The error injector of the chain.
fn debugger(node: &Arc<Node>) -> Option<Arc<Node>> {
    let mut node = Arc::clone(node);
    loop {
        if node.driver().as_any().is::<Blkdebug>() {
            return Some(node);
        }
        node = node.driver().data_child()?.node();
    }
}

/// Runs `work` on the error injector of the chain.
fn with_debugger<T>(node: &Arc<Node>, work: impl FnOnce(&Blkdebug) -> block::Result<T>) -> block::Result<T> {
    let missing = || Error::unsupported("There is no blkdebug node");
    let node = debugger(node).ok_or_else(missing)?;
    work(node.driver().as_any().downcast_ref().ok_or_else(missing)?)
}

/// How many requests the break points of a name hold.
pub fn suspended(node: &Arc<Node>, tag: &str) -> usize {
    with_debugger(node, |debugger| Ok(debugger.suspended(tag))).unwrap_or(0)
}

fn set_break(session: &mut Session, words: &[&str]) -> Answer {
    with_debugger(&session.node()?, |debugger| debugger.set_breakpoint(words[0], words[1])).map_err(|error| {
        Failed::printed(format!("Could not set breakpoint: {}\n", block::error::strerror(error.errno())))
    })?;
    session.breaks.entry(words[1].to_owned()).or_default();
    Ok(String::new())
}

fn remove_break(node: &Arc<Node>, tag: &str) -> Answer {
    with_debugger(node, |debugger| debugger.remove_breakpoint(tag)).map_err(|error| {
        Failed::printed(format!("Could not remove breakpoint {tag}: {}\n", block::error::strerror(error.errno())))
    })?;
    Ok(String::new())
}

async fn resume(session: &mut Session, tag: &str) -> Answer {
    let node = session.node()?;
    if suspended(&node, tag) != 0 {
        session.output.print(&format!("blkdebug: Resuming request '{tag}'\n"));
    }
    with_debugger(&node, |debugger| debugger.resume(tag)).map_err(|error| {
        Failed::printed(format!("Could not resume request: {}\n", block::error::strerror(error.errno())))
    })?;
    session.pending.poll_once().await;
    Ok(String::new())
}

async fn wait_break(session: &mut Session, tag: &str) -> Answer {
    let node = session.node()?;
    session.pending.until(|| suspended(&node, tag) != 0).await;
    Ok(String::new())
}

async fn sleep(session: &mut Session, text: &str) -> Answer {
    let milliseconds = integer(text).and_then(|value| u64::try_from(value).ok());
    let milliseconds = milliseconds.ok_or_else(|| Failed::printed(format!("{text} is not a valid number\n")))?;
    session.with(aio::sleep(Duration::from_millis(milliseconds))).await;
    Ok(String::new())
}

fn raise(text: &str) -> Answer {
    let wanted = number(text)?;
    let signal = i32::try_from(wanted).ok().and_then(rustix::process::Signal::from_named_raw);
    let Some(signal) = signal else {
        return Err(Failed::printed(format!("signal argument '{text}' is too large to be a valid signal\n")));
    };
    use std::io::Write as _;
    let _ = std::io::stdout().flush();
    rustix::process::kill_process(rustix::process::getpid(), signal)
        .map_err(|error| Failed::error(block::error::strerror(error.raw_os_error())))?;
    Ok(String::new())
}

fn help(session: &Session, words: &[&str]) -> Answer {
    if let Some(name) = words.first() {
        let command = find(session, name);
        let command = command.ok_or_else(|| Failed::printed(format!("command {name} not found\n")))?;
        return Ok(format!("{}\n", command.usage));
    }
    let commands = COMMANDS.iter().filter(|command| session.standalone || !command.standalone);
    let lines: Vec<&str> = commands.map(|command| command.usage).collect();
    Ok(format!("{}\n\nUse 'help commandname' for extended help.\n", lines.join("\n")))
}

async fn open_command(session: &mut Session, words: &[&str], usage: &'static str) -> Answer {
    let args = parse(session, "open", words, "snCro:ki:t:d:U", usage)?;
    let mut mode = OpenMode::default();
    let mut options = Options::new();
    for (letter, value) in args.options() {
        match letter {
            'o' if session.image_opts => {
                return Err(Failed::printed("--image-opts and 'open -o' are mutually exclusive\n"));
            }
            'o' => {
                for (name, value) in keyval::parse(value, None) {
                    options.set(&name, value);
                }
            }
            _ => mode.apply(letter, value).map_err(Failed::error)?,
        }
    }
    let name = match args.operands[..] {
        [list] if session.image_opts => {
            options = keyval::to_options(list, None);
            None
        }
        [name] => Some(name),
        [] => None,
        _ => return Err(wrong(usage)),
    };
    if let Some(name) = name {
        options.set("filename", name);
    }
    session.open(name, options, &mode).await?;
    Ok(String::new())
}

impl OpenMode {
    /// Takes an option that the program's command line and `open` have both.
    ///
    /// # Errors
    /// A wrong value.
    pub fn apply(&mut self, letter: char, value: &str) -> Result<(), String> {
        match letter {
            's' => self.snapshot = true,
            'n' => {
                self.cache.direct = true;
                self.writethrough = false;
            }
            'C' => self.copy_on_read = true,
            'r' => self.read_only = true,
            'k' => self.engine = Engine::Native,
            'U' => self.force_share = true,
            't' => {
                (self.cache, self.writethrough) =
                    open::parse_cache(value).ok_or_else(|| format!("Invalid cache option: {value}"))?;
            }
            'd' => {
                self.discard = match value {
                    "unmap" | "on" => true,
                    "ignore" | "off" => false,
                    _ => return Err(format!("Invalid discard option: {value}")),
                };
            }
            'i' => {
                self.engine = Engine::by_name(value).ok_or_else(|| format!("Invalid aio option: {value}"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

async fn reopen(session: &mut Session, words: &[&str], usage: &'static str) -> Answer {
    let args = parse(session, "reopen", words, "c:o:rw", usage)?;
    let node = session.node()?;
    let mut config = node.config();
    let mut writethrough = session.writethrough;
    let mut options = Options::new();
    let (mut has_mode, mut has_cache) = (false, false);
    for (letter, value) in args.options() {
        match letter {
            'c' => {
                (config.cache, writethrough) =
                    open::parse_cache(value).ok_or_else(|| Failed::error(format!("Invalid cache option: {value}")))?;
                has_cache = true;
            }
            'o' => {
                for (name, value) in keyval::parse(value, None) {
                    options.set(&name, value);
                }
            }
            _ if has_mode => return Err(Failed::error("Only one -r/-w option may be given")),
            letter => {
                config.read_only = letter == 'r';
                has_mode = true;
            }
        }
    }
    if !args.operands.is_empty() {
        return Err(wrong(usage));
    }
    let failed = |error: Error| Failed::error(open::text_with_hint(&error));
    options.take_bool("auto-read-only").map_err(failed)?;
    if let Some(read_only) = options.take_bool("read-only").map_err(failed)? {
        if has_mode {
            return Err(Failed::error("Cannot set both -r/-w and 'read-only'"));
        }
        config.read_only = read_only;
    }
    for (name, direct) in [("cache.direct", true), ("cache.no-flush", false)] {
        if let Some(value) = options.take_bool(name).map_err(failed)? {
            if has_cache {
                return Err(Failed::error("Cannot set both -c and the cache options"));
            }
            *(if direct { &mut config.cache.direct } else { &mut config.cache.no_flush }) = value;
        }
    }
    config.take_handling(&mut options).map_err(failed)?;
    let mut below = Vec::new();
    check_unchanged(&node, &mut options, &mut below).map_err(failed)?;
    session.drain().await;
    change(session, &node, config, options).await.map_err(failed)?;
    for (node, NodeConfig { discard, detect_zeroes, .. }) in below {
        node.set_config(NodeConfig { discard, detect_zeroes, ..node.config() });
    }
    session.writethrough = writethrough;
    Ok(String::new())
}

/// How the host's cache is used is said in the node's configuration.
const CACHE_OPTIONS: [&str; 2] = ["cache.direct", "cache.no-flush"];

/// What is left of a node's options for its driver.
fn of_driver(mut options: Options) -> Options {
    for generic in GENERIC_OPTIONS.into_iter().chain(CACHE_OPTIONS) {
        options.take(generic);
    }
    options
}

/// Options that can't be changed may be given as they are. Those of the nodes below are among them; what can be changed
/// there goes to `changed`.
fn check_unchanged(
    node: &Arc<Node>,
    options: &mut Options,
    changed: &mut Vec<(Arc<Node>, NodeConfig)>,
) -> block::Result<()> {
    let refuse = |name: &str| Err(Error::invalid(format!("Cannot change the option '{name}'")));
    if let Some(driver) = options.take_str("driver")?
        && driver != node.driver_type().name()
    {
        return refuse("driver");
    }
    if let Some(name) = options.take_str("node-name")?
        && name != node.name()
    {
        return refuse("node-name");
    }
    for child in node.children() {
        let mut below = options.take_below(child.name());
        let old = child.node().config();
        let mut config = old;
        config.take_handling(&mut below)?;
        if config != old {
            changed.push((child.node(), config));
        }
        check_unchanged(&child.node(), &mut below, changed)?;
        let known = child.node().options();
        if let Some((name, _)) = below.iter().find(|(name, value)| known.get(name) != Some(value)) {
            return refuse(name);
        }
    }
    Ok(())
}

/// Gives a node other options. What is not named stays.
async fn change(session: &mut Session, node: &Arc<Node>, config: NodeConfig, options: Options) -> block::Result<()> {
    let child = session.image().map_err(|_| Error::no_medium("No medium inserted"))?;
    let (used, shared) = child.permissions();
    let was_read_only = node.is_read_only();
    if config.read_only && !was_read_only {
        node.flush().await?;
        session.graph.set_permissions(&child, used & Permissions::CONSISTENT_READ, shared)?;
    }
    let mut merged = node.options();
    let related = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('.'));
    let old: Vec<String> = merged.iter().map(|(name, _)| name.to_owned()).collect();
    for (name, value) in options.iter() {
        // Another form of the same option replaces it.
        for other in old.iter().filter(|other| related(other, name) || related(name, other)) {
            merged.take(other);
        }
        merged.set(name, value.clone());
    }
    let [all, l2, refcounts] = ["cache-size", "l2-cache-size", "refcount-cache-size"];
    if options.contains(all) {
        // A new size of both caches replaces what was said of each, and the other way round.
        for one in [l2, refcounts].into_iter().filter(|one| !options.contains(one)) {
            merged.take(one);
        }
    } else if [all, l2, refcounts].iter().all(|name| merged.contains(name)) {
        merged.take(all);
    }
    let kept = merged.clone();
    let merged = of_driver(merged);
    if was_read_only && !config.read_only {
        set_children(node, config).await?;
    }
    node.driver().reopen(merged, config.read_only).await?;
    if config.read_only && !was_read_only {
        set_children(node, config).await?;
    }
    node.set_config(config);
    node.set_options(kept);
    if was_read_only && !config.read_only {
        session.graph.set_permissions(&child, used | Permissions::WRITE, shared)?;
    }
    Ok(())
}

/// The read-only state and the cache mode hold for the files below, too.
fn set_children(node: &Arc<Node>, config: NodeConfig) -> block::driver::IoFuture<'_, ()> {
    Box::pin(async move {
        for child in node.driver().children() {
            let below = child.node();
            let merged = of_driver(below.options());
            let changed = NodeConfig { read_only: config.read_only, cache: config.cache, ..below.config() };
            if config.read_only {
                below.driver().reopen(merged, true).await?;
                set_children(&below, config).await?;
            } else {
                set_children(&below, config).await?;
                below.driver().reopen(merged, false).await?;
            }
            below.set_config(changed);
        }
        Ok(())
    })
}
