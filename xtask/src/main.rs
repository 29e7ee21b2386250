//! Development tasks. `cargo xtask help` lists them.

#![forbid(unsafe_code)]

mod client;
mod debian;
mod demo;
mod guest;
mod layers;
mod run;
mod setup;
mod test;
mod web;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask TASK

  demo          set up, build, boot a guest and show a short QMP session with it
  test          set up, then run every check and test
  check-layers  check which crate may depend on which, and where `unsafe` may be
  debian        build the Debian disk image of the firmware tests and print its name
  web           build the web console's pages, with Node.js; the next build of ouzel embeds them
  guest         build the test guests (kernel, initrd, bare-metal images) and print their directory
";

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    let result = match task.as_str() {
        "demo" => demo::run_demo(),
        "test" => test::run_tests(),
        "check-layers" => layers::check(),
        "web" => web::build(),
        "debian" => debian::image().map(|image| println!("{}", image.display())),
        "guest" => guest::build().map(|guests| println!("{}", guests.directory.display())),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("unknown task '{task}'\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
