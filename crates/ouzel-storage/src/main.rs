//! `ouzel-storage`: the block layer, its jobs and its exports without a guest, driven by QMP. A drop-in for
//! `qemu-storage-daemon`.

#![forbid(unsafe_code)]

mod cli;

use std::path::Path;
use std::process::ExitCode;

use cli::{Line, Request};
use vm::daemon::DaemonProgram;

fn main() -> ExitCode {
    process::main("ouzel-storage", run)
}

fn run(program: &str, args: &[String]) -> Result<u8, String> {
    let line = match cli::parse(args.get(1..).unwrap_or_default())? {
        Request::Run(line) => line,
        Request::Help => {
            print!("{}", cli::usage(program));
            return Ok(0);
        }
        Request::Version => {
            println!("{program} version {} (Ouzel)", env!("CARGO_PKG_VERSION"));
            return Ok(0);
        }
    };
    if line.daemonize && !process::is_daemon() {
        return process::start_daemon(args).map(|code| u8::try_from(code).unwrap_or(1));
    }
    serve(&line).map(|()| 0)
}

fn serve(line: &Line) -> Result<(), String> {
    let daemon = DaemonProgram::start(&line.steps).map_err(|error| error.to_string())?;
    let _pid_file = line.pid_file.as_ref().map(|path| process::Pidfile::create(Path::new(path))).transpose()?;
    if process::is_daemon() {
        process::report_ready()?;
    }
    daemon.run();
    Ok(())
}
