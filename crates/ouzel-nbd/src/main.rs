//! `ouzel-nbd`: serves one image over NBD, or lists what another server offers. A drop-in for `qemu-nbd`, without the
//! kernel's NBD devices.

#![forbid(unsafe_code)]

mod cli;
mod list;
mod serve;

use std::process::ExitCode;

use cli::{Instead, Line};

fn main() -> ExitCode {
    process::main("ouzel-nbd", run)
}

fn run(program: &str, args: &[String]) -> Result<u8, String> {
    let line = match Line::parse(args.get(1..).unwrap_or_default()) {
        Ok(line) => line,
        Err(Instead::Help) => {
            print!("{}", cli::usage(program));
            return Ok(0);
        }
        Err(Instead::Version) => {
            println!("{program} version {} (Ouzel)", env!("CARGO_PKG_VERSION"));
            return Ok(0);
        }
        Err(Instead::Fail(message)) => return Err(message),
        Err(Instead::Misuse(message)) => {
            eprintln!("{program}: {message}");
            eprintln!("Try `{program} --help' for more information.");
            return Ok(1);
        }
    };
    let activated = serve::activation()?;
    line.check(activated)?;
    if line.list {
        return aio::block_on(list::run(&line)).map(|()| 0);
    }
    if line.fork && !process::is_daemon() {
        return process::start_daemon(args).map(|code| u8::try_from(code).unwrap_or(1));
    }
    aio::block_on(serve::run(&line, activated)).map(|()| 0)
}
