//! The tool as scripts use it: output, exit status, reading of standard input.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, \
    \"package\": \"\"}, \"capabilities\": []}}\r\n";

const SCHEMA: &str = r#"[{"name": "x-echo", "meta-type": "command", "arg-type": "0", "ret-type": "str"},
    {"name": "0", "meta-type": "object", "members": [{"name": "text", "type": "str"}]},
    {"name": "str", "meta-type": "builtin", "json-type": "string"}]"#;

/// A server for one client that knows `x-echo` and sends an event before each reply. Gives back the
/// lines that it got.
fn serve(listener: UnixListener) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut output = stream.try_clone().unwrap();
        output.write_all(GREETING.as_bytes()).unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            let request = qapi::json::parse(&line).unwrap();
            let id = request.get("id").unwrap();
            let result = match request.get("execute").and_then(|name| name.as_str()) {
                Some("qmp_capabilities") => "\"return\": {}".to_owned(),
                Some("query-qmp-schema") => format!("\"return\": {}", SCHEMA.replace('\n', "")),
                Some("x-echo") => format!("\"return\": {}", request.get("arguments").unwrap()),
                _ => r#""error": {"class": "CommandNotFound", "desc": "no such thing"}"#.to_owned(),
            };
            let reply = format!("{{\"event\": \"NOISE\"}}\r\n{{{result}, \"id\": {id}}}\r\n");
            lines.push(line);
            if output.write_all(reply.as_bytes()).is_err() {
                break;
            }
        }
        lines
    })
}

fn run(arguments: &[&str], input: &str) -> (Output, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let server = serve(UnixListener::bind(&path).unwrap());
    let mut words = vec![path.to_str().unwrap()];
    let options = arguments.iter().take_while(|word| **word != "--").count();
    words.splice(0..0, arguments[..options].iter().copied());
    words.extend(arguments.iter().skip(options + 1));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ouzel-ctl"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output, server.join().unwrap())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn one_command_prints_its_result_and_succeeds() {
    let (output, requests) = run(&["--", "x-echo", "text=1"], "");
    assert_eq!(text(&output.stdout), "{\n  \"text\": \"1\"\n}\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(requests.last().unwrap().contains(r#""text": "1""#), "the schema says that it is a string");
}

#[test]
fn json_output_is_one_line_without_events() {
    let (output, _) = run(&["--json", "--", "x-echo", "text=a b"], "");
    assert_eq!(text(&output.stdout), "{\"text\": \"a b\"}\n");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn events_come_before_the_reply_when_they_are_on() {
    let (output, _) = run(&["--json", "-c", "events on", "-c", "x-echo text=t"], "");
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    // Also those of the schema's query.
    assert!(lines.len() >= 2 && lines[..lines.len() - 1].iter().all(|line| line.contains("NOISE")), "{lines:?}");
    assert_eq!(lines.last(), Some(&"{\"text\": \"t\"}"));
}

#[test]
fn error_reply_stops_and_gives_status_1() {
    let (output, _) = run(&["-c", "nonsense", "-c", "x-echo text=t"], "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    assert_eq!(text(&output.stderr), "error: no such thing (CommandNotFound)\n");
}

#[test]
fn error_reply_with_keep_going_runs_the_rest() {
    let (output, _) = run(&["--keep-going", "--json", "-c", "nonsense", "-c", "x-echo text=t"], "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "{\"text\": \"t\"}\n"));
    let (output, _) = run(&["--keep-going", "-c", "x-echo text='", "-c", "nonsense"], "");
    assert_eq!(output.status.code(), Some(2), "a line that cannot be read is worse");
}

#[test]
fn command_without_arguments_does_not_ask_for_the_schema() {
    let (_, requests) = run(&["--", "nonsense"], "");
    assert_eq!(requests.len(), 2, "{requests:?}");
}

#[test]
fn standard_input_is_run_line_by_line() {
    let input =
        "# a comment\n{'execute': 'x-echo',\n 'arguments': {'text': 'j'}}\nhelp x-echo\nexit\nx-echo text=never\n";
    let (output, requests) = run(&[], input);
    assert_eq!(text(&output.stdout), "{\n  \"text\": \"j\"\n}\nx-echo\n  text  str\nreturns str\n");
    assert_eq!((output.status.code(), requests.len()), (Some(0), 3));
}

#[test]
fn standard_input_stops_at_a_line_that_cannot_be_read() {
    let (output, _) = run(&[], "x-echo text='\nx-echo text=never\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    assert_eq!(text(&output.stderr), "ouzel-ctl: a ' is not closed\n");
    let (output, _) = run(&[], "{'execute': 'x-echo'");
    assert_eq!(output.status.code(), Some(2), "an open request at the end");
}

#[test]
fn silent_server_gives_status_2_after_the_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let _listener = UnixListener::bind(&path).unwrap();
    let tool = Command::new(env!("CARGO_BIN_EXE_ouzel-ctl")).arg(&path).args(["stop", "--timeout", "0.05"]).output();
    let output = tool.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no greeting"), "{}", text(&output.stderr));
}

#[test]
fn wrong_usage_and_missing_server_give_status_2() {
    let tool = || Command::new(env!("CARGO_BIN_EXE_ouzel-ctl"));
    for arguments in [&["--nonsense"][..], &[], &["/nonexistent/socket", "stop"]] {
        let output = tool().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("ouzel-ctl: "));
    }
}
