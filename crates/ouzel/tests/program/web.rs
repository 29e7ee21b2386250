//! The web console: what the option says, and the console in a real browser.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::{Directory, Machine, PATIENCE, Setup, repository};

/// A boot sector that says `READY` on the screen and on COM1, and then everything that is typed on the keyboard and on
/// COM1, without a cursor that blinks. Its source, for `nasm -f bin`, is this:
///
/// ```text
///   bits 16                 poll:   mov dx,0x3fd     both:   push ax
///   org 0x7c00                      in al,dx                 mov dx,0x3f8
///   cli                             test al,1                out dx,al
///   xor ax,ax                       jz keys                  mov ah,0x0e
///   mov ds,ax                       mov dx,0x3f8             mov bx,7
///   mov ss,ax                       in al,dx                 int 0x10
///   mov sp,0x7c00                   call both                pop ax
///   sti                     keys:   mov ah,1                 ret
///   mov ax,3; int 0x10              int 0x16         text:   db "READY",13,10,0
///   mov ah,1                        jz poll
///   mov cx,0x2607; int 0x10         mov ah,0
///   mov si,text                     int 0x16
///   say: lodsb; test al,al          call both
///   jz poll; call both; jmp say     jmp poll
/// ```
const ECHO: [u8; 88] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb, 0xb8, 0x03, 0x00, 0xcd, 0x10, 0xb4, 0x01, 0xb9,
    0x07, 0x26, 0xcd, 0x10, 0xbe, 0x50, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x05, 0xe8, 0x20, 0x00, 0xeb, 0xf6, 0xba, 0xfd,
    0x03, 0xec, 0xa8, 0x01, 0x74, 0x07, 0xba, 0xf8, 0x03, 0xec, 0xe8, 0x0f, 0x00, 0xb4, 0x01, 0xcd, 0x16, 0x74, 0xeb,
    0xb4, 0x00, 0xcd, 0x16, 0xe8, 0x02, 0x00, 0xeb, 0xe2, 0x50, 0xba, 0xf8, 0x03, 0xee, 0xb4, 0x0e, 0xbb, 0x07, 0x00,
    0xcd, 0x10, 0x58, 0xc3, b'R', b'E', b'A', b'D', b'Y', 0x0d, 0x0a, 0x00,
];

/// The address that was told at the start.
fn url(machine: &mut Machine) -> String {
    machine.wait_for("the console's address", PATIENCE, |machine| {
        let said = machine.stderr();
        let line = said.lines().find_map(|line| line.strip_prefix("web console: "));
        line.map(str::to_owned)
    })
}

/// A request; the answer as it came.
fn get(place: &str, path: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(place).expect("the console listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let text = format!("GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(text.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn console_listens_on_this_host_alone_and_wants_its_token() {
    let mut machine = Setup::new().args(["-S", "-name", "guest one", "-serial", "null", "-web", "0"]).start();
    let url = url(&mut machine);
    let (place, query) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    assert!(place.starts_with("127.0.0.1:") && query.starts_with("?token="), "{url}");
    assert!(get(place, "/api/info", "").starts_with("HTTP/1.1 401 "));
    let answer = get(place, &format!("/{query}"), "");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).expect("a cookie");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().expect("a pair");
    let answer = get(place, "/api/info", &format!("Cookie: {cookie}\r\n"));
    assert!(answer.contains("\"name\": \"guest one\"") || answer.contains("\"name\":\"guest one\""), "{answer}");
    assert!(answer.contains("\"serial0\""), "{answer}");
    assert!(get(place, &format!("/{query}"), "").starts_with("HTTP/1.1 403 "), "the token was used");
    let page = get(place, "/", &format!("Cookie: {cookie}\r\n"));
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<!doctype html>"), "{page}");
}

#[test]
fn console_that_can_not_be_had_is_an_error_at_the_start() {
    for (option, message) in [
        ("here", "-web here: 'here' is no port"),
        ("80,token=abc", "-web 80,token=abc: Parameter 'token' expects 8 to 256"),
        ("192.0.2.1:1", "-web: can't listen at 192.0.2.1:1: Cannot assign requested address"),
    ] {
        let mut machine = Setup::bare().args(["-nodefaults", "-S", "-web", option]).start();
        assert_eq!(machine.wait_exit(PATIENCE).code(), Some(1));
        assert!(machine.stderr().contains(message), "{}", machine.stderr());
    }
}

#[test]
#[ignore = "peer: Debian's packages chromium and seabios, Node.js, and the console built by `cargo xtask web`"]
fn peer_chromium_clicks_through_the_whole_console() {
    let images = Directory::new();
    let image = images.join("boot.img");
    std::fs::write(&image, boot_sector()).expect("an image");
    let drive = format!("file={},format=raw,if=ide", image.display());
    let mut machine = Setup::new()
        .args(["-m", "64", "-vga", "std", "-serial", "null", "-web", "127.0.0.1:0"])
        .args(["-drive", &drive])
        .args(["-blockdev", "driver=null-co,node-name=source,size=1073741824,read-zeroes=on"])
        .args(["-blockdev", "driver=null-co,node-name=target,size=1073741824,read-zeroes=on"])
        .start();
    drop(machine.connect(0));
    let url = url(&mut machine);
    let output = Command::new("node")
        .arg(repository().join("web/tests/console.mjs"))
        .args([url.as_str(), &machine.file("monitor0"), &machine.file("")])
        .output()
        .expect("Node.js runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{problems}\n{}", machine.story());
    print!("{text}");
    // The last click was the one that ends the program.
    assert_eq!(machine.wait_exit(Duration::from_secs(20)).code(), Some(0));
}

fn boot_sector() -> Vec<u8> {
    let mut sector = ECHO.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    sector
}
