//! Running other programs, with progress.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a task returns: an error is a sentence for a person.
pub type Outcome<T = ()> = Result<T, String>;

/// The root of the repository.
pub fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or(xtask.clone(), PathBuf::from)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Announces a step.
pub fn step(text: &str) {
    println!("\n=== {text}");
}

/// Runs a program in the repository's root and waits for it.
pub fn run(program: &str, arguments: &[&str]) -> Outcome {
    run_command(Command::new(program).args(arguments))
}

/// The programs that tests and the demo use. There is one selection of them: with others cargo gives shared dependencies
/// other features, and compiles nearly everything again.
const PROGRAMS: [&str; 6] = ["--package", "ouzel", "--package", "ouzel-ctl", "--package", "ouzel-img"];

/// Builds the programs for release.
pub fn build_programs() -> Outcome {
    run("cargo", &[&["build", "--release"][..], &PROGRAMS].concat())
}

/// Runs a prepared command in the repository's root and waits for it.
pub fn run_command(command: &mut Command) -> Outcome {
    let shown = format!("{command:?}");
    let status = command.current_dir(root()).status().map_err(|error| format!("cannot run {shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} failed ({status})")) }
}

/// Runs a program and returns what it printed; `None` when it can't run or fails.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program is on the path.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
