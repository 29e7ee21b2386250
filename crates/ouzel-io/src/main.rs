//! `ouzel-io`: reads, writes and looks at an image by commands, from the command line or from standard input.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use block::Graph;
use block_commands::{OpenMode, Output, Session};
use block_tools::arguments::{Argument, Arguments, LongOption};
use block_tools::{keyval, open, secret};

struct Terminal;

impl Output for Terminal {
    fn print(&mut self, text: &str) {
        // Nobody may be reading any more.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }

    fn complain(&mut self, text: &str) {
        let _ = std::io::stdout().flush();
        eprint!("{text}");
    }
}

/// What the command line says.
#[derive(Default)]
struct Line {
    mode: OpenMode,
    commands: Vec<String>,
    objects: Vec<String>,
    format: Option<String>,
    image_opts: bool,
    misalign: bool,
    file: Option<String>,
}

/// What else to do instead of running commands.
enum Instead {
    Help(u8),
    Version,
    Fail(String),
}

const OPTIONS: &[LongOption] = &[
    ("help", false, "h"),
    ("version", false, "V"),
    ("cmd", true, "c"),
    ("format", true, "f"),
    ("read-only", false, "r"),
    ("snapshot", false, "s"),
    ("nocache", false, "n"),
    ("copy-on-read", false, "C"),
    ("misalign", false, "m"),
    ("native-aio", false, "k"),
    ("aio", true, "i"),
    ("discard", true, "d"),
    ("cache", true, "t"),
    ("trace", true, "T"),
    ("object", true, "object"),
    ("image-opts", false, "image-opts"),
    ("force-share", false, "U"),
];

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_default();
    let program = program.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("ouzel-io").to_owned();
    let args: Vec<String> = args.collect();
    let line = match parse(&program, &args) {
        Ok(line) => line,
        Err(Instead::Help(code)) => {
            print!("{}", usage(&program));
            return ExitCode::from(code);
        }
        Err(Instead::Version) => {
            println!("{program} version {} (Ouzel)", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(Instead::Fail(message)) => {
            eprintln!("{program}: {message}");
            return ExitCode::FAILURE;
        }
    };
    if aio::block_on(run(&program, line)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(program: &str, args: &[String]) -> Result<Line, Instead> {
    let mut line = Line::default();
    let mut operands = Vec::new();
    for argument in Arguments::new(args, OPTIONS) {
        let wrong = |text: String| {
            eprintln!("{program}: {text}");
            Instead::Help(1)
        };
        match argument.map_err(wrong)? {
            Argument::Option(key, value) => line.take(key, &value)?,
            Argument::Operand(file) => operands.push(file),
        }
    }
    if operands.len() > 1 {
        return Err(Instead::Help(1));
    }
    if line.format.is_some() && line.image_opts {
        return Err(Instead::Fail("--image-opts and -f are mutually exclusive".to_owned()));
    }
    line.file = operands.pop();
    Ok(line)
}

impl Line {
    fn take(&mut self, key: &str, value: &str) -> Result<(), Instead> {
        match key {
            "h" => return Err(Instead::Help(0)),
            "V" => return Err(Instead::Version),
            "c" => self.commands.push(value.to_owned()),
            "f" => self.format = Some(value.to_owned()),
            "m" => self.misalign = true,
            "T" => return Err(Instead::Fail("Trace events are not supported".to_owned())),
            "object" => self.objects.push(value.to_owned()),
            "image-opts" => self.image_opts = true,
            letter => {
                letter.chars().try_for_each(|letter| self.mode.apply(letter, value)).map_err(Instead::Fail)?;
            }
        }
        Ok(())
    }
}

async fn run(program: &str, line: Line) -> bool {
    let graph = Graph::new(block_drivers::registry());
    let mut session = Session::new(std::sync::Arc::clone(&graph), program, Box::new(Terminal));
    for object in &line.objects {
        if let Err(error) = secret::add_object(&graph, object) {
            session.report(&error.to_string());
            return false;
        }
    }
    if line.misalign {
        session.set_misaligned();
    }
    if line.image_opts {
        session.set_image_opts();
    }
    if let Some(file) = &line.file {
        let (name, options) = if line.image_opts {
            (None, keyval::to_options(file, Some("file")))
        } else {
            (Some(file.as_str()), open::file_options(file, line.format.as_deref()))
        };
        if let Err(failed) = session.open(name, options, &line.mode).await {
            if let Some(error) = failed.error {
                session.report(&error);
            }
            return false;
        }
    }
    let mut good = true;
    if line.commands.is_empty() {
        good = interact(&mut session, program).await;
    }
    for command in &line.commands {
        if session.has_quit() {
            break;
        }
        good &= session.run(command).await;
    }
    session.close().await;
    good
}

/// Reads commands from standard input.
async fn interact(session: &mut Session, program: &str) -> bool {
    let mut good = true;
    while !session.has_quit() {
        let _ = write!(std::io::stdout(), "{program}> ");
        let _ = std::io::stdout().flush();
        let line = session
            .with(aio::spawn_blocking(|| {
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).ok().filter(|len| *len != 0).map(|_| line)
            }))
            .await;
        let Some(line) = line else { break };
        good &= session.run(line.trim_end_matches('\n')).await;
    }
    good
}

fn usage(program: &str) -> String {
    format!(
        "Usage: {program} [OPTIONS]... [-c STRING]... [file]\n\n  \
         --object OBJECTDEF   an object, as a secret\n  \
         --image-opts         the file is a list of options\n  \
         -c, --cmd STRING     run this command (may be repeated)\n  \
         -f, --format FMT     the format of the file\n  \
         -r, --read-only      open for reading\n  \
         -s, --snapshot       write to a temporary overlay\n  \
         -n, --nocache        same as -t none\n  \
         -C, --copy-on-read   copy what is read into the file\n  \
         -m, --misalign       use buffers at odd addresses\n  \
         -k, --native-aio     same as -i native\n  \
         -i, --aio=MODE       threads, native or io_uring\n  \
         -t, --cache=MODE     none, writeback, writethrough, directsync or unsafe\n  \
         -d, --discard=MODE   ignore or unmap\n  \
         -U, --force-share    open although somebody else uses the file\n  \
         -h, --help           this text\n  \
         -V, --version        the version\n\n\
         See '{program} -c help' for the commands.\n"
    )
}
