//! `ouzel-ctl` against a running machine: one-shot, JSON output, exit codes, scripts.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Machine, PATIENCE, Setup, ouzel};

fn shell() -> PathBuf {
    let path = std::env::var_os("OUZEL_CTL_BIN").map_or_else(|| ouzel().with_file_name("ouzel-ctl"), PathBuf::from);
    assert!(path.exists(), "{} is missing: build ouzel-ctl or set OUZEL_CTL_BIN", path.display());
    path
}

fn run(machine: &Machine, arguments: &[&str], input: &str) -> Output {
    run_at(&machine.file("monitor0"), arguments, input)
}

pub fn run_at(address: &str, arguments: &[&str], input: &str) -> Output {
    let (options, words): (Vec<&&str>, Vec<&&str>) = arguments.iter().partition(|word| word.starts_with('-'));
    let mut child = Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(shell())
        .args(options)
        .arg(address)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout runs");
    child.stdin.take().expect("input").write_all(input.as_bytes()).expect("the shell takes input");
    child.wait_with_output().expect("the shell ends")
}

fn paused() -> Machine {
    let mut machine = Setup::new().args(["-S", "-name", "sheep"]).start();
    drop(machine.connect_raw(0));
    machine
}

#[test]
fn one_shot_command_prints_its_result_and_succeeds() {
    let machine = paused();
    let output = run(&machine, &["query-status"], "");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("status") && text.contains("prelaunch"), "{text}");
    assert!(!text.contains('\x1b'), "no colours into a pipe: {text:?}");
}

#[test]
fn json_output_is_one_line_of_json() {
    let machine = paused();
    let output = run(&machine, &["--json", "query-name"], "");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), json!({"name": "sheep"}));
}

#[test]
fn arguments_are_given_as_key_and_value_with_the_schema_s_types() {
    let mut machine = paused();
    let file = machine.file("memory");
    let output = run(&machine, &["pmemsave", "val=0", "size=4096", &format!("filename={file}")], "");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(std::fs::metadata(&file).expect("the file").len(), 4096);
    assert!(machine.runs());
}

#[test]
fn refused_command_exits_with_1_and_its_text() {
    let machine = paused();
    let output = run(&machine, &["closefd", "fdname=none"], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let both = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(both.contains("File descriptor named 'none' not found"), "{both}");
}

#[test]
fn missing_server_and_wrong_usage_exit_with_2() {
    let output = run_at("/nonexistent/socket", &["query-status"], "");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/socket"));
    let output = Command::new(shell()).arg("--no-such-option").stdin(Stdio::null()).output().expect("the shell runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn script_on_standard_input_runs_line_by_line() {
    let mut machine = paused();
    let output = run(&machine, &["--json"], "cont\nquery-status\nstop\n\n{\"execute\": \"query-status\"}\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let running: Vec<bool> =
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("running")?.as_bool()).collect();
    assert_eq!(running, [true, false], "{text}");
    assert_eq!(machine.connect(0).status(), "paused");
}

#[test]
fn script_with_a_refused_command_exits_with_1() {
    let machine = paused();
    let output = run(&machine, &[], "query-name\nclosefd fdname=none\nquery-status\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn quit_ends_the_machine_and_the_shell() {
    let mut machine = paused();
    let output = run(&machine, &["quit"], "");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(machine.wait_exit(PATIENCE).success());
}
