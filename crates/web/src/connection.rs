//! One browser's connection: requests one after the other, until it ends or becomes a WebSocket.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use websocket::Opening;

use crate::http::{self, Method, Request};
use crate::server::Site;
use crate::socket::{self, Target};
use crate::{files, pages};

/// How long a request may take to come, and how long nobody may ask for anything.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long an answer may take to leave.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// How long somebody waits who has shown a wrong token.
const WRONG_TOKEN: Duration = Duration::from_secs(1);
/// What pages may do: use what comes from here. The terminal makes styles of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; \
font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What is answered.
struct Answer {
    status: &'static str,
    fields: Vec<(&'static str, Cow<'static, str>)>,
    body: Cow<'static, [u8]>,
}

impl Answer {
    fn page(status: &'static str, text: String) -> Self {
        Self {
            status,
            fields: vec![("Content-Type", "text/html; charset=utf-8".into()), ("Cache-Control", "no-store".into())],
            body: Cow::Owned(text.into_bytes()),
        }
    }

    fn json(text: String) -> Self {
        Self {
            status: "200 OK",
            fields: vec![("Content-Type", "application/json".into()), ("Cache-Control", "no-store".into())],
            body: Cow::Owned(text.into_bytes()),
        }
    }

    fn problem(status: &'static str) -> Self {
        Self::page(status, pages::problem(status))
    }

    fn file(request: &Request, file: &'static files::File) -> Self {
        let cache = if file.is_for_ever() { "private, max-age=31536000, immutable" } else { "private, no-cache" };
        let mut fields =
            vec![("ETag", file.tag.into()), ("Cache-Control", cache.into()), ("Vary", "Accept-Encoding".into())];
        if request.known_tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == file.tag) {
            return Self { status: "304 Not Modified", fields, body: Cow::Borrowed(&[]) };
        }
        fields.push(("Content-Type", file.media_type.into()));
        let body = if request.accepts("br") {
            fields.push(("Content-Encoding", "br".into()));
            Cow::Borrowed(file.brotli)
        } else if request.accepts("gzip") {
            fields.push(("Content-Encoding", "gzip".into()));
            Cow::Borrowed(file.gzip)
        } else {
            Cow::Owned(file.unpacked())
        };
        Self { status: "200 OK", fields, body }
    }

    fn head(&self, is_last: bool) -> String {
        let mut head = format!("HTTP/1.1 {}\r\nServer: ouzel\r\n", self.status);
        let mut put = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        for (name, value) in &self.fields {
            put(name, value);
        }
        put("Content-Security-Policy", POLICY);
        put("X-Content-Type-Options", "nosniff");
        put("Referrer-Policy", "no-referrer");
        put("Cross-Origin-Opener-Policy", "same-origin");
        put("Cross-Origin-Resource-Policy", "same-origin");
        if self.status != "304 Not Modified" {
            put("Content-Length", &self.body.len().to_string());
        }
        put("Connection", if is_last { "close" } else { "keep-alive" });
        head.push_str("\r\n");
        head
    }
}

/// What is done with a request.
enum Reaction {
    Answer(Answer),
    /// The same after some time.
    Late(Answer),
    Socket(Target),
}

/// Serves a connection to its end.
pub async fn serve(site: Arc<Site>, stream: TcpStream, permit: OwnedSemaphorePermit) {
    if let Err(error) = requests(&site, stream, permit).await {
        tracing::debug!("a browser leaves: {error}");
    }
}

async fn requests(site: &Site, mut stream: TcpStream, permit: OwnedSemaphorePermit) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        let request = match timeout(HEAD_TIME, next(&mut stream, &mut input)).await?? {
            None => return Ok(()),
            Some(Err(refusal)) => {
                let answer = Answer::problem(refusal.status());
                send(&mut stream, &answer, Method::Get, true).await?;
                return linger(stream).await;
            }
            Some(Ok(request)) => request,
        };
        let (request, length) = request;
        let answer = match react(site, &request) {
            Reaction::Answer(answer) => answer,
            Reaction::Late(answer) => {
                tokio::time::sleep(WRONG_TOKEN).await;
                answer
            }
            Reaction::Socket(target) => {
                let head = input.get(..length).unwrap_or_default();
                let refused = match (websocket::open(head), Arc::clone(&site.sockets).try_acquire_owned()) {
                    // Clients say nothing before they are answered.
                    (Opening::Accepted(..), _) if input.len() > length => "400 Bad Request",
                    (Opening::Accepted(..), Err(_)) => "503 Service Unavailable",
                    (Opening::Accepted(answer, _), Ok(place)) => {
                        timeout(ANSWER_TIME, stream.write_all(answer.as_bytes())).await??;
                        drop(permit);
                        let result = socket::serve(stream, target).await;
                        drop(place);
                        return result;
                    }
                    (Opening::Refused(status), _) => status,
                    (Opening::Incomplete, _) => "400 Bad Request",
                };
                Answer::problem(refused)
            }
        };
        input.drain(..length);
        send(&mut stream, &answer, request.method, request.is_last).await?;
        if request.is_last {
            return linger(stream).await;
        }
    }
}

type Next = Result<(Request, usize), http::Refusal>;

/// The next request, which stays in `input`; nothing when the browser has gone.
async fn next(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<Option<Next>> {
    loop {
        match http::read(input) {
            Ok(Some(found)) => return Ok(Some(Ok(found))),
            Err(refusal) => return Ok(Some(Err(refusal))),
            Ok(None) => {}
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(None);
        }
        input.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

async fn send(stream: &mut TcpStream, answer: &Answer, method: Method, is_last: bool) -> io::Result<()> {
    let mut bytes = answer.head(is_last).into_bytes();
    if method != Method::Head {
        bytes.extend_from_slice(&answer.body);
    }
    timeout(ANSWER_TIME, stream.write_all(&bytes)).await?
}

/// Ends a connection so that the last answer arrives: what is still coming would reset it.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let rest = async {
        let (mut chunk, mut left) = ([0; 4096], 64_usize);
        while left > 0 && stream.read(&mut chunk).await.is_ok_and(|count| count > 0) {
            left -= 1;
        }
    };
    // Either is the end.
    let _ = timeout(Duration::from_secs(1), rest).await;
    Ok(())
}

fn react(site: &Site, request: &Request) -> Reaction {
    if !site.access.is_own_host(&request.host) {
        return Reaction::Answer(Answer::problem("421 Misdirected Request"));
    }
    if request.path == "/"
        && request.method == Method::Get
        && let Some(token) = request.parameter("token")
    {
        return log_in(site, request, token);
    }
    if !site.access.knows(request) {
        return Reaction::Answer(Answer::page("401 Unauthorized", pages::log_in(false)));
    }
    if request.is_websocket || request.method == Method::Post {
        if !site.access.is_own_origin(request) {
            return Reaction::Answer(Answer::problem("403 Forbidden"));
        }
        return if request.is_websocket { open(site, request) } else { Reaction::Answer(post(site, request)) };
    }
    Reaction::Answer(match request.path.as_str() {
        "/api/info" => Answer::json(site.host.info()),
        "/" if !files::are_there() => Answer::page("200 OK", pages::unbuilt()),
        path => match files::find(path) {
            Some(file) => Answer::file(request, file),
            None => Answer::problem("404 Not Found"),
        },
    })
}

fn log_in(site: &Site, request: &Request, token: &str) -> Reaction {
    match site.access.log_in(token) {
        Ok(Some(cookie)) => {
            let mut answer = Answer::page("200 OK", pages::welcome());
            answer.fields.push(("Set-Cookie", cookie.into()));
            Reaction::Answer(answer)
        }
        // The link once more, from the list of visited places.
        Ok(None) if site.access.knows(request) => Reaction::Answer(Answer::page("200 OK", pages::welcome())),
        Ok(None) => Reaction::Late(Answer::page("403 Forbidden", pages::log_in(true))),
        Err(_) => Reaction::Answer(Answer::problem("500 Internal Server Error")),
    }
}

fn post(site: &Site, request: &Request) -> Answer {
    match request.path.as_str() {
        "/api/link" => match site.access.new_token() {
            Ok(token) => Answer::json(format!("{{\"token\":\"{token}\"}}")),
            Err(_) => Answer::problem("500 Internal Server Error"),
        },
        "/api/logout" => {
            site.access.log_out(request);
            Answer::json("{}".to_owned())
        }
        _ => Answer::problem("404 Not Found"),
    }
}

fn open(site: &Site, request: &Request) -> Reaction {
    let target = match request.path.as_str() {
        "/ws/vnc" => Some(Target::Screen(Arc::clone(&site.host))),
        "/ws/qmp" => site.host.monitor().ok().map(Target::Monitor),
        path => path.strip_prefix("/ws/serial/").and_then(|name| site.host.terminal(name)).map(Target::Terminal),
    };
    target.map_or_else(|| Reaction::Answer(Answer::problem("404 Not Found")), Reaction::Socket)
}

#[cfg(test)]
mod tests;
