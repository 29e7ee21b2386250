//! The client over a socket pair. The peer's messages are written in advance: ids count from 1.

use super::*;
use qapi::ErrorClass;
use qapi::control::{QmpCapabilities, QueryVersion};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "p"}, "capabilities": ["oob"]}}"#;
const NEGOTIATED: &str = r#"{"return": {}, "id": 1}"#;
const STOP: &str = r#"{"timestamp": {"seconds": 5, "microseconds": 6}, "event": "STOP"}"#;
const RESUME: &str = r#"{"timestamp": {"seconds": 7, "microseconds": 8}, "event": "RESUME"}"#;
const MOMENT: Option<Duration> = Some(Duration::from_millis(20));

fn start(messages: &[&str], options: &ClientOptions) -> (Result<Client, ClientError>, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    for message in messages {
        write!(theirs, "{message}\r\n").unwrap();
    }
    (Client::from_stream(ours, options), theirs)
}

/// A negotiated client, to whose commands the peer answers with `messages`.
fn client(messages: &[&str]) -> (Client, UnixStream) {
    let all = [&[GREETING, NEGOTIATED], messages].concat();
    let options = ClientOptions { timeout: MOMENT, ..ClientOptions::default() };
    let (client, peer) = start(&all, &options);
    (client.unwrap(), peer)
}

/// Everything that the client has sent.
fn sent(client: Client, mut peer: UnixStream) -> Vec<String> {
    drop(client);
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn negotiation_plain_enables_nothing() {
    let (client, peer) = client(&[]);
    assert_eq!(client.version().unwrap().qemu.major, 7);
    assert!(client.greeting().get("capabilities").is_some());
    assert_eq!(sent(client, peer), [r#"{"execute": "qmp_capabilities", "id": 1}"#]);
}

#[test]
fn negotiation_oob_offered_is_enabled() {
    let options = ClientOptions { negotiation: Negotiation::Oob, timeout: MOMENT, ..ClientOptions::default() };
    let (client, peer) = start(&[GREETING, NEGOTIATED], &options);
    let request = json::parse(&sent(client.unwrap(), peer)[0]).unwrap();
    assert_eq!(request.get("arguments"), Some(&json::parse(r#"{"enable": ["oob"]}"#).unwrap()));
}

#[test]
fn execute_oob_uses_the_other_member() {
    let (mut client, peer) = client(&[r#"{"return": {}, "id": 2}"#]);
    client.execute_oob("yank", None).unwrap();
    assert_eq!(sent(client, peer)[1], r#"{"exec-oob": "yank", "id": 2}"#);
}

#[test]
fn negotiation_skipped_sends_nothing() {
    let options = ClientOptions { negotiation: Negotiation::Skip, timeout: MOMENT, ..ClientOptions::default() };
    let (client, peer) = start(&[GREETING], &options);
    assert!(sent(client.unwrap(), peer).is_empty());
}

#[test]
fn start_without_greeting_times_out() {
    let options = ClientOptions { timeout: MOMENT, ..ClientOptions::default() };
    let (client, _peer) = start(&[], &options);
    assert!(matches!(client, Err(ClientError::Timeout)), "{client:?}");
}

#[test]
fn start_at_another_server_is_a_protocol_error() {
    let options = ClientOptions { timeout: MOMENT, ..ClientOptions::default() };
    for message in ["SSH-2.0-OpenSSH_9.2", r#"{"return": {}}"#, "[1]"] {
        let (client, _peer) = start(&[message], &options);
        assert!(matches!(client, Err(ClientError::Protocol(_))), "{message}: {client:?}");
    }
}

#[test]
fn execute_typed_reads_the_result_and_passes_over_new_members() {
    let reply = r#"{"return": {"qemu": {"micro": 1, "minor": 2, "major": 3}, "package": "", "new": 1}, "id": 2}"#;
    let (mut client, peer) = client(&[reply]);
    assert_eq!(client.execute(&QueryVersion).unwrap().qemu.minor, 2);
    assert_eq!(sent(client, peer)[1], r#"{"execute": "query-version", "id": 2}"#);
}

#[test]
fn execute_with_arguments_sends_them() {
    let (mut client, peer) = client(&[r#"{"return": {}, "id": 2}"#]);
    client.execute(&QmpCapabilities { enable: Some(Vec::new()) }).unwrap();
    let request = json::parse(&sent(client, peer)[1]).unwrap();
    assert_eq!(request.get("arguments").unwrap().to_string(), r#"{"enable": []}"#);
}

#[test]
fn execute_refused_returns_class_and_text() {
    let reply = r#"{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}, "id": 2}"#;
    let (mut client, _peer) = client(&[reply]);
    let error = client.execute_value("x", None).unwrap_err();
    assert_eq!(error.refusal(), Some(&Error::command_not_found("x")));
    assert_eq!(error.to_string(), "The command x has not been found");
}

#[test]
fn execute_with_a_result_of_another_type_is_a_protocol_error() {
    let (mut client, _peer) = client(&[r#"{"return": {"qemu": 1}, "id": 2}"#]);
    let error = client.execute(&QueryVersion).unwrap_err();
    assert!(matches!(&error, ClientError::Protocol(text) if text.contains("query-version")), "{error}");
}

#[test]
fn execute_with_a_foreign_id_is_a_protocol_error() {
    for reply in [r#"{"return": {}, "id": "2"}"#, r#"{"return": {}}"#, GREETING] {
        let (mut client, _peer) = client(&[reply]);
        let result = client.execute_value("stop", None);
        assert!(matches!(result, Err(ClientError::Protocol(_))), "{reply}: {result:?}");
    }
}

#[test]
fn execute_not_answered_in_time_drops_the_late_reply() {
    let (mut client, mut peer) = client(&[]);
    let result = client.execute_value("stop", None);
    assert!(matches!(result, Err(ClientError::Timeout)), "{result:?}");
    peer.write_all(b"{'return': 'late', 'id': 2}{'return': 'right', 'id': 3}").unwrap();
    assert_eq!(client.execute_value("cont", None).unwrap().as_str(), Some("right"));
}

#[test]
fn run_with_an_id_of_its_own_keeps_it() {
    let (mut client, _peer) = client(&[r#"{"id": {"a": [1]}, "return": 5}"#]);
    let request = json::parse(r#"{"execute": "x", "id": {"a": [1]}}"#).unwrap();
    let value = client.run(request.as_object().cloned().unwrap(), &[]).unwrap();
    assert_eq!(value.as_i64(), Some(5));
}

#[test]
fn events_before_a_reply_are_kept_in_order() {
    let (mut client, _peer) = client(&[STOP, RESUME, r#"{"return": {}, "id": 2}"#]);
    client.execute_value("x", None).unwrap();
    let first = client.next_event(MOMENT).unwrap().unwrap();
    assert_eq!((first.name.as_str(), first.seconds, first.microseconds), ("STOP", 5, 6));
    assert_eq!(first.to_value(), json::parse(STOP).unwrap());
    assert_eq!(client.next_event(MOMENT).unwrap().unwrap().name, "RESUME");
    assert_eq!(client.next_event(MOMENT).unwrap(), None);
}

#[test]
fn wait_event_keeps_the_others() {
    let (mut client, _peer) = client(&[STOP, RESUME]);
    assert_eq!(client.wait_event("RESUME", MOMENT).unwrap().seconds, 7);
    let result = client.wait_event("RESUME", MOMENT);
    assert!(matches!(result, Err(ClientError::Timeout)), "{result:?}");
    assert_eq!(client.wait_event("STOP", MOMENT).unwrap().seconds, 5);
}

#[test]
fn event_read_as_a_type_checks_the_name() {
    let data = r#"{"timestamp": {}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
    let (mut client, _peer) = client(&[data]);
    let event = client.next_event(MOMENT).unwrap().unwrap();
    assert_eq!(event.read::<qapi::events::Stop>().unwrap(), None);
    assert!(event.read::<qapi::events::Shutdown>().unwrap().unwrap().guest);
}

#[test]
fn raw_input_malformed_gets_the_error_without_id() {
    let reply = r#"{"error": {"class": "GenericError", "desc": "JSON parse error, expecting value"}}"#;
    let (mut client, peer) = client(&[reply]);
    client.send_raw(b"}").unwrap();
    match client.next_message(MOMENT).unwrap() {
        Message::Failure { id: None, error } => assert_eq!(error.class, ErrorClass::GenericError),
        other => panic!("{other:?}"),
    }
    assert_eq!(sent(client, peer)[1], "}");
}

#[test]
fn connection_closed_by_the_peer_is_told_apart() {
    let (mut client, peer) = client(&[]);
    drop(peer);
    // The write may fail first, or the read.
    let result = client.execute_value("stop", None);
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");
    let result = client.next_event(None);
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");
}

#[test]
fn connection_closed_inside_a_message_is_a_protocol_error() {
    let (mut client, mut peer) = client(&[]);
    peer.write_all(b"{'return'").unwrap();
    drop(peer);
    let result = client.next_message(None);
    assert!(matches!(result, Err(ClientError::Protocol(_))), "{result:?}");
}

#[test]
fn connection_that_takes_no_input_times_out_and_is_closed() {
    let (mut client, _peer) = client(&[]);
    let result = client.send_raw(&vec![b' '; 16 << 20]);
    assert!(matches!(result, Err(ClientError::Timeout)), "{result:?}");
    let result = client.send_raw(b" ");
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");
}

#[test]
fn descriptors_travel_with_the_request() {
    let (mut client, peer) = client(&[r#"{"return": {}, "id": 2}"#]);
    let mut file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(b"content").unwrap();
    let request = request("getfd", Some(Map::from_iter([("fdname", "a")])));
    client.run(request, &[file.as_fd()]).unwrap();

    let mut received = Vec::new();
    let (mut bytes, mut space) = ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX))]);
    peer.set_read_timeout(MOMENT).unwrap();
    while received.is_empty() {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(&peer, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty()).unwrap();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                received.extend(fds);
            }
        }
    }
    assert_eq!(received.len(), 1);
    assert_eq!(rustix::fs::fstat(&received[0]).unwrap().st_size, 7);
}

const MAX: usize = 16;

#[test]
fn descriptors_too_many_are_refused_and_the_connection_lives() {
    let (mut client, _peer) = client(&[r#"{"return": {}, "id": 3}"#]);
    let stdin = std::io::stdin();
    let fds = vec![stdin.as_fd(); MAX + 1];
    let result = client.run(request("getfd", None), &fds);
    assert!(matches!(result, Err(ClientError::Descriptors(_))), "{result:?}");
    client.execute_value("x", None).unwrap();
}

#[test]
fn descriptors_over_tcp_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        write!(stream, "{GREETING}\r\n{NEGOTIATED}\r\n").unwrap();
        stream
    });
    let mut client = Client::connect_tcp(address).unwrap();
    let result = client.execute_with_fds(&QueryVersion, &[std::io::stdin().as_fd()]);
    assert!(matches!(result, Err(ClientError::Descriptors(_))), "{result:?}");
    drop(peer.join());
}

#[test]
fn connect_to_nothing_names_the_address() {
    let error = Client::connect_unix("/nonexistent/socket").unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to /nonexistent/socket");
}

#[test]
fn connect_retries_until_the_server_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let address = Address::Unix(path.clone());
    let peer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        let (mut stream, _) = UnixListener::bind(path).unwrap().accept().unwrap();
        write!(stream, "{GREETING}\r\n{NEGOTIATED}\r\n").unwrap();
        stream
    });
    let options = ClientOptions { retry_for: Duration::from_secs(60), ..ClientOptions::default() };
    Client::connect(&address, &options).unwrap();
    drop(peer.join());
}

#[test]
fn address_is_told_from_a_path() {
    let unix = |path: &str| Address::Unix(path.into());
    let tcp = |address: &str| Address::Tcp(address.to_owned());
    let cases = [
        ("unix:/a:1", unix("/a:1")),
        ("tcp:h:1", tcp("h:1")),
        ("/a/b", unix("/a/b")),
        ("qmp.sock", unix("qmp.sock")),
        ("./a:1", unix("./a:1")),
        ("host:4444", tcp("host:4444")),
        ("[::1]:4444", tcp("[::1]:4444")),
        (":4444", tcp("localhost:4444")),
        ("host:port", unix("host:port")),
    ];
    for (text, address) in cases {
        assert_eq!(Address::parse(text), address, "{text}");
    }
}
