//! Reads and writes.

use std::io::Read as _;
use std::time::Instant;

use block::{Child, Error, WriteFlags, ZeroFlags};
use block_tools::status::{self, SECTOR};
use iobuf::IoBuf;

use crate::args::{Args, MAX_REQUEST, number, pattern};
use crate::format::{Report, dump};
use crate::session::{Direction, Failed, Session};

/// The number of an error for a request behind the end.
fn out_of_range() -> Error {
    Error::errno_only(5)
}

fn errno_text(error: &Error) -> String {
    block::error::strerror(error.errno())
}

/// Requests lie inside of the image.
fn check_range(child: &Child, offset: u64, len: u64) -> block::Result<()> {
    let size = status::size(&child.node());
    if offset > size || len > size - offset { Err(out_of_range()) } else { Ok(()) }
}

/// A buffer of that length full of `byte`.
fn buffer(session: &Session, len: u64, byte: u8) -> IoBuf {
    let len = usize::try_from(len).unwrap_or(0);
    let buf = if session.misalign && len > 0 { IoBuf::zeroed(len + 16).slice(16, len) } else { IoBuf::zeroed(len) };
    buf.fill(0, len, byte);
    buf
}

/// What a usage line is asked for with.
pub type Usage = &'static str;

/// The usage of the command, as the answer to a wrong line.
pub fn wrong(usage: Usage) -> Failed {
    Failed::printed(format!("{usage}\n"))
}

fn length(text: &str, limit: &str) -> Result<u64, Failed> {
    let len = number(text)?;
    if len > MAX_REQUEST {
        return Err(Failed::printed(format!("length cannot exceed {MAX_REQUEST}{limit}, given {text}\n")));
    }
    Ok(len)
}

/// The sum of the lengths of a vectored request.
fn lengths(words: &[&str]) -> Result<u64, Failed> {
    let mut total = 0u64;
    for word in words {
        let len = number(word)?;
        if len > MAX_REQUEST {
            return Err(Failed::printed(format!("Argument '{word}' exceeds maximum size {MAX_REQUEST}\n")));
        }
        total += len;
        if total > MAX_REQUEST {
            return Err(Failed::printed(format!("The total number of bytes exceed the maximum size {MAX_REQUEST}\n")));
        }
    }
    Ok(total)
}

/// What is done with the bytes of a read.
#[derive(Clone)]
struct Check {
    pattern: Option<u8>,
    /// The part that is compared.
    part: (u64, u64),
    quiet: bool,
    verbose: bool,
    machine: bool,
}

impl Check {
    /// What is printed of a read that worked, and whether the pattern was right.
    fn finish(&self, buf: &IoBuf, offset: u64, started: Instant) -> (String, bool) {
        let time = started.elapsed();
        let mut text = String::new();
        let mut right = true;
        if let Some(byte) = self.pattern {
            let (start, len) = self.part;
            let bytes = buf.slice(usize::try_from(start).unwrap_or(0), usize::try_from(len).unwrap_or(0)).to_vec();
            if bytes.iter().any(|other| *other != byte) {
                text = format!("Pattern verification failed at offset {}, {len} bytes\n", offset + start);
                right = false;
            }
        }
        if self.quiet {
            return (text, right);
        }
        if self.verbose {
            text.push_str(&dump(&buf.to_vec(), offset));
        }
        let count = buf.len() as u64;
        let report = Report { what: "read", offset, count, total: count, time, machine: self.machine };
        (text + &report.text(), right)
    }
}

/// `read`.
pub async fn read(session: &mut Session, words: &[&str], usage: Usage) -> Result<String, Failed> {
    let args = parse(session, "read", words, "bCl:pP:qs:v", usage)?;
    let mut check =
        Check { pattern: None, part: (0, 0), quiet: args.has('q'), verbose: args.has('v'), machine: args.has('C') };
    let mut pattern_len = None;
    for (letter, value) in args.options() {
        match letter {
            'l' => pattern_len = Some(number(value)?),
            's' => check.part.0 = number(value)?,
            'P' => check.pattern = Some(pattern(value)?),
            _ => {}
        }
    }
    let [offset, count] = args.operands[..] else { return Err(wrong(usage)) };
    let offset = number(offset)?;
    let count = length(count, "")?;
    if check.pattern.is_none() && (args.has('l') || args.has('s')) {
        return Err(wrong(usage));
    }
    let end = pattern_len.or(count.checked_sub(check.part.0)).and_then(|len| {
        check.part.1 = len;
        check.part.0.checked_add(len)
    });
    if end.is_none_or(|end| end > count) {
        return Err(Failed::printed("pattern verification range exceeds end of read data\n"));
    }
    if args.has('b') {
        check_sectors(offset, count)?;
    }
    let place = if args.has('b') { Place::VmState } else { Place::Disk };
    read_and_check(session, "read", place, (offset, count), &check).await
}

/// `readv`.
pub async fn readv(session: &mut Session, words: &[&str], usage: Usage) -> Result<String, Failed> {
    let args = parse(session, "readv", words, "CP:qv", usage)?;
    let (offset, count, check) = vectored(&args, usage)?;
    read_and_check(session, "readv", Place::Disk, (offset, count), &check).await
}

fn vectored(args: &Args<'_>, usage: Usage) -> Result<(u64, u64, Check), Failed> {
    let pattern = args.value('P').map(pattern).transpose()?;
    let [offset, rest @ ..] = &args.operands[..] else { return Err(wrong(usage)) };
    if rest.is_empty() {
        return Err(wrong(usage));
    }
    let offset = number(offset)?;
    let count = lengths(rest)?;
    let check =
        Check { pattern, part: (0, count), quiet: args.has('q'), verbose: args.has('v'), machine: args.has('C') };
    Ok((offset, count, check))
}

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Disk,
    VmState,
}

async fn read_and_check(
    session: &mut Session,
    name: &str,
    place: Place,
    (offset, count): (u64, u64),
    check: &Check,
) -> Result<String, Failed> {
    let child = session.image()?;
    let node = child.node();
    let buf = buffer(session, count, 0xab);
    let started = Instant::now();
    let result = match (place, check_range(&child, offset, count)) {
        (Place::VmState, _) => session.with(node.driver().read_vm_state(offset, buf.clone())).await,
        (Place::Disk, Ok(())) => {
            session.request(count, Direction::Read, async || child.read(offset, buf.clone()).await).await
        }
        (Place::Disk, error) => error,
    };
    result.map_err(|error| Failed::printed(format!("{name} failed: {}\n", errno_text(&error))))?;
    match check.finish(&buf, offset, started) {
        (text, true) => Ok(text),
        (text, false) => Err(Failed::printed(text)),
    }
}

fn check_sectors(offset: u64, count: u64) -> Result<(), Failed> {
    for (value, name) in [(offset, "offset"), (count, "count")] {
        if !value.is_multiple_of(SECTOR) {
            return Err(Failed::printed(format!("{value} is not a sector-aligned value for '{name}'\n")));
        }
    }
    Ok(())
}

/// `write`.
pub async fn write(session: &mut Session, words: &[&str], usage: Usage) -> Result<String, Failed> {
    let args = parse(session, "write", words, "bcCfnpP:qs:uz", usage)?;
    let byte = args.value('P').map(pattern).transpose()?;
    let [offset, count] = args.operands[..] else { return Err(wrong(usage)) };
    check_write_options(&args)?;
    let offset = number(offset)?;
    let count = if args.has('n') { number(count)? } else { length(count, " without -n")? };
    if args.has('b') || args.has('c') {
        check_sectors(offset, count)?;
    }
    let child = session.image()?;
    let fua = args.has('f') || session.writethrough;
    let buf = match (args.has('z'), args.value('s')) {
        (true, _) => IoBuf::empty(),
        (false, Some(file)) => from_file(session, file, count)?,
        (false, None) => buffer(session, count, byte.unwrap_or(0xcd)),
    };
    let started = Instant::now();
    let result = if args.has('b') {
        let node = child.node();
        let work = async {
            node.driver().write_vm_state(offset, buf).await?;
            if fua { node.flush().await } else { Ok(()) }
        };
        session.with(work).await
    } else if let Err(error) = check_range(&child, offset, count) {
        Err(error)
    } else if args.has('z') {
        let flags = ZeroFlags { may_unmap: args.has('u'), no_fallback: args.has('n'), fua };
        session.request(count, Direction::Write, async || child.write_zeroes(offset, count, flags).await).await
    } else {
        let compressed = args.has('c');
        let flags = WriteFlags { fua: fua && !compressed, compressed, ..WriteFlags::default() };
        session.request(count, Direction::Write, async || child.write(offset, buf, flags).await).await
    };
    let time = started.elapsed();
    result.map_err(|error| Failed::printed(format!("write failed: {}\n", errno_text(&error))))?;
    if args.has('q') {
        return Ok(String::new());
    }
    Ok(Report { what: "wrote", offset, count, total: count, time, machine: args.has('C') }.text())
}

fn check_write_options(args: &Args<'_>) -> Result<(), Failed> {
    let refuse =
        |condition: bool, text: &str| if condition { Err(Failed::printed(format!("{text}\n"))) } else { Ok(()) };
    let zero = args.has('z');
    refuse(args.has('b') && zero, "-b and -z cannot be specified at the same time")?;
    refuse(args.has('f') && (args.has('b') || args.has('c')), "-f and -b or -c cannot be specified at the same time")?;
    refuse(args.has('n') && !zero, "-n requires -z to be specified")?;
    refuse(args.has('u') && !zero, "-u requires -z to be specified")?;
    let sources = [zero, args.has('P'), args.has('s')].into_iter().filter(|given| *given).count();
    refuse(sources > 1, "Only one of -z, -P, and -s can be specified at the same time")
}

/// The first bytes of a file, again and again if it has fewer than `count`.
fn from_file(session: &mut Session, path: &str, count: u64) -> Result<IoBuf, Failed> {
    let mut bytes = Vec::new();
    // It may have no end.
    let read = std::fs::File::open(path).and_then(|file| file.take(count.max(1)).read_to_end(&mut bytes));
    let bytes = match read.map(|_| bytes) {
        Ok(bytes) => bytes,
        Err(error) => {
            let text = block::error::strerror(error.raw_os_error().unwrap_or(5));
            session.output.complain(&format!("{path}: {text}\n"));
            return Err(Failed::silent());
        }
    };
    if bytes.is_empty() {
        session.output.complain(&format!("{path}: file is empty\n"));
        return Err(Failed::silent());
    }
    let buf = buffer(session, count, 0);
    let mut at = 0;
    while at < buf.len() {
        let n = bytes.len().min(buf.len() - at);
        buf.write_at(at, &bytes[..n]);
        at += n;
    }
    Ok(buf)
}

/// `writev`.
pub async fn writev(session: &mut Session, words: &[&str], usage: Usage) -> Result<String, Failed> {
    let args = parse(session, "writev", words, "CfqP:", usage)?;
    let (offset, count, check) = vectored(&args, usage)?;
    let child = session.image()?;
    let flags = WriteFlags { fua: args.has('f') || session.writethrough, ..WriteFlags::default() };
    let buf = buffer(session, count, check.pattern.unwrap_or(0xcd));
    let started = Instant::now();
    let result = match check_range(&child, offset, count) {
        Ok(()) => session.request(count, Direction::Write, async || child.write(offset, buf, flags).await).await,
        error => error,
    };
    let time = started.elapsed();
    result.map_err(|error| Failed::printed(format!("writev failed: {}\n", errno_text(&error))))?;
    if check.quiet {
        return Ok(String::new());
    }
    Ok(Report { what: "wrote", offset, count, total: count, time, machine: check.machine }.text())
}

/// `aio_read`: starts a read.
pub async fn aio_read(session: &mut Session, words: &[&str], usage: Usage) -> Result<String, Failed> {
    let args = parse(session, "aio_read", words, "CP:iqv", usage)?;
    if args.has('i') {
        return Ok("injecting invalid read request\n".to_owned());
    }
    let (offset, count, check) = vectored(&args, usage)?;
    let child = session.image()?;
    let buf = buffer(session, count, 0xab);
    let started = Instant::now();
    let entrance = session.entrance();
    session.pending.push(async move {
        let _inside = entrance.enter(count, Direction::Read).await;
        let result = match check_range(&child, offset, count) {
            Ok(()) => child.read(offset, buf.clone()).await,
            error => error,
        };
        match result {
            Ok(()) => check.finish(&buf, offset, started).0,
            Err(error) => format!("readv failed: {}\n", errno_text(&error)),
        }
    });
    session.pending.poll_once().await;
    Ok(String::new())
}

/// `aio_write`: starts a write.
pub async fn aio_write(session: &mut Session, words: &[&str], usage: Usage) -> Result<String, Failed> {
    let args = parse(session, "aio_write", words, "CfiqP:uz", usage)?;
    if args.has('i') {
        return Ok("injecting invalid write request\n".to_owned());
    }
    let zero = args.has('z');
    let refuse =
        |condition: bool, text: &str| if condition { Err(Failed::printed(format!("{text}\n"))) } else { Ok(()) };
    if args.operands.len() < 2 {
        return Err(wrong(usage));
    }
    refuse(zero && args.operands.len() != 2, "-z supports only a single length parameter")?;
    refuse(args.has('u') && !zero, "-u requires -z to be specified")?;
    refuse(zero && args.has('P'), "-z and -P cannot be specified at the same time")?;
    let fua = args.has('f') || session.writethrough;
    let may_unmap = args.has('u');
    let (offset, count, quiet, machine, buf) = if zero {
        (number(args.operands[0])?, number(args.operands[1])?, args.has('q'), args.has('C'), IoBuf::empty())
    } else {
        let (offset, count, check) = vectored(&args, usage)?;
        (offset, count, check.quiet, check.machine, buffer(session, count, check.pattern.unwrap_or(0xcd)))
    };
    let child = session.image()?;
    let started = Instant::now();
    let entrance = session.entrance();
    session.pending.push(async move {
        let _inside = entrance.enter(count, Direction::Write).await;
        let result = if let Err(error) = check_range(&child, offset, count) {
            Err(error)
        } else if zero {
            child.write_zeroes(offset, count, ZeroFlags { may_unmap, no_fallback: false, fua }).await
        } else {
            child.write(offset, buf, WriteFlags { fua, ..WriteFlags::default() }).await
        };
        match result {
            Ok(()) if quiet => String::new(),
            Ok(()) => Report { what: "wrote", offset, count, total: count, time: started.elapsed(), machine }.text(),
            Err(error) => format!("aio_write failed: {}\n", errno_text(&error)),
        }
    });
    session.pending.poll_once().await;
    Ok(String::new())
}

/// `discard`.
pub async fn discard(session: &mut Session, words: &[&str], usage: Usage) -> Result<String, Failed> {
    let args = parse(session, "discard", words, "Cq", usage)?;
    let [offset, count] = args.operands[..] else { return Err(wrong(usage)) };
    let offset = number(offset)?;
    let count = length(count, "")?;
    let child = session.image()?;
    let started = Instant::now();
    let result = match check_range(&child, offset, count) {
        Ok(()) => session.request(0, Direction::Write, async || child.discard(offset, count).await).await,
        error => error,
    };
    let time = started.elapsed();
    result.map_err(|error| Failed::printed(format!("discard failed: {}\n", errno_text(&error))))?;
    if args.has('q') {
        return Ok(String::new());
    }
    Ok(Report { what: "discard", offset, count, total: count, time, machine: args.has('C') }.text())
}

/// The options of a command; what is wrong with them is told, and the usage.
pub fn parse<'a>(
    session: &mut Session,
    name: &str,
    words: &[&'a str],
    letters: &str,
    usage: Usage,
) -> Result<Args<'a>, Failed> {
    Args::parse(name, words, letters).map_err(|complaint| {
        session.output.complain(&complaint);
        wrong(usage)
    })
}
