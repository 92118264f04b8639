//! The page of `pinpost view`: as much HTTP/1.1 (RFC 9112) as a browser needs to look at pictures.
//!
//! `/` is the page, `/stream` the pictures as they come (`multipart/x-mixed-replace`, which every browser shows in an
//! `img`), `/frame.jpg` the latest one. A connection carries one request. A page of another site cannot read the
//! pictures: its name for this address is refused while we listen on loopback, and the answers forbid embedding.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// The largest head of a request.
const HEAD: usize = 8 * 1024;
/// How long a browser may take to ask.
const ASK: Duration = Duration::from_secs(10);
/// How long a browser may take to read one frame.
const READ: Duration = Duration::from_secs(30);
/// Between two frames of a stream.
const BOUNDARY: &str = "pinpost-next-frame";
/// What begins a frame. A browser shows a frame when the next one has begun, so this follows at once behind each; the
/// length of a frame that has not come yet is not known.
const BEGIN: &str = "--pinpost-next-frame\r\nContent-Type: image/jpeg\r\n\r\n";

/// What is shown.
pub(super) struct Site {
    /// The topic, for the page.
    pub topic: String,
    /// The latest frame; empty before the first.
    pub latest: watch::Receiver<Bytes>,
    /// Whether only this machine reaches us.
    pub loopback: bool,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Page,
    Stream,
    Frame,
}

/// Why it is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused(&'static str, &'static str);

const MALFORMED: Refused = Refused("400 Bad Request", "this is no HTTP request");
const TOO_LONG: Refused = Refused("431 Request Header Fields Too Large", "the request is too long");
const METHOD: Refused = Refused("405 Method Not Allowed", "there is only GET here");
const UNKNOWN: Refused = Refused("404 Not Found", "there are /, /stream and /frame.jpg");
const FOREIGN: Refused = Refused("421 Misdirected Request", "ask for localhost or 127.0.0.1");
const FULL: Refused = Refused("503 Service Unavailable", "too many viewers; close one");
const NOTHING: Refused = Refused("503 Service Unavailable", "no picture has come yet");

/// Answers one connection. An error is a browser that has gone or does not read.
pub(super) async fn answer(mut stream: TcpStream, site: &Site, room: bool) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let asked = timeout(ASK, request(&mut stream, &mut head, site.loopback)).await.map_err(|_| late())??;
    let latest = site.latest.borrow().clone();
    match asked {
        Err(refused) => text(&mut stream, refused.0, "text/plain; charset=utf-8", refused.1).await,
        Ok(_) if !room => text(&mut stream, FULL.0, "text/plain; charset=utf-8", FULL.1).await,
        Ok(Asked::Page) => text(&mut stream, "200 OK", "text/html; charset=utf-8", &page(&site.topic)).await,
        Ok(Asked::Frame) if latest.is_empty() => {
            text(&mut stream, NOTHING.0, "text/plain; charset=utf-8", NOTHING.1).await
        }
        Ok(Asked::Frame) => {
            write(&mut stream, &start("200 OK", "image/jpeg", Some(latest.len()))).await?;
            write(&mut stream, &latest).await
        }
        Ok(Asked::Stream) => pictures(stream, site.latest.clone()).await,
    }
}

async fn request(stream: &mut TcpStream, head: &mut Vec<u8>, loopback: bool) -> io::Result<Result<Asked, Refused>> {
    loop {
        if let Some(asked) = parse(head, loopback) {
            return Ok(asked);
        }
        if head.len() >= HEAD {
            return Ok(Err(TOO_LONG));
        }
        if stream.read_buf(head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reads a head; `None` while it is not complete.
fn parse(head: &[u8], loopback: bool) -> Option<Result<Asked, Refused>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Err(TOO_LONG)),
        Err(_) => return Some(Err(MALFORMED)),
    }
    if request.method != Some("GET") {
        return Some(Err(METHOD));
    }
    let host = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("host")).map(|h| h.value);
    // a site that has its own name resolve to 127.0.0.1 asks under that name (DNS rebinding)
    if loopback && !host.and_then(|h| std::str::from_utf8(h).ok()).is_some_and(is_this_machine) {
        return Some(Err(FOREIGN));
    }
    let path = request.path.unwrap_or_default();
    Some(match path.split(['?', '#']).next().unwrap_or_default() {
        "/" => Ok(Asked::Page),
        "/stream" => Ok(Asked::Stream),
        "/frame.jpg" => Ok(Asked::Frame),
        _ => Err(UNKNOWN),
    })
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Every new frame, until the browser goes. One that comes while the browser still reads takes the place of the last.
async fn pictures(stream: TcpStream, mut latest: watch::Receiver<Bytes>) -> io::Result<()> {
    let (mut read, mut write_half) = stream.into_split();
    let kind = format!("multipart/x-mixed-replace; boundary={BOUNDARY}");
    let mut head = start("200 OK", &kind, None);
    head.extend_from_slice(BEGIN.as_bytes());
    write(&mut write_half, &head).await?;
    latest.mark_changed();
    let mut ignored = [0; 256];
    loop {
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return Ok(()) },
            n = read.read(&mut ignored) => match n? {
                0 => return Ok(()),
                _ => continue,
            },
        }
        let frame = latest.borrow_and_update().clone();
        if frame.is_empty() {
            continue;
        }
        write(&mut write_half, &frame).await?;
        write(&mut write_half, b"\r\n").await?;
        write(&mut write_half, BEGIN.as_bytes()).await?;
    }
}

async fn text(stream: &mut TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let mut answer = start(status, kind, Some(body.len()));
    answer.extend_from_slice(body.as_bytes());
    write(stream, &answer).await
}

fn start(status: &str, kind: &str, length: Option<usize>) -> Vec<u8> {
    let length = length.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
    let policy = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    // with nosniff a browser shows no stream: its type is not a picture's
    let sniff = if kind.starts_with("multipart/") { "" } else { "X-Content-Type-Options: nosniff\r\n" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}Cache-Control: no-store\r\nConnection: close\r\n\
         {sniff}Cross-Origin-Resource-Policy: same-origin\r\n\
         Content-Security-Policy: {policy}\r\n\r\n"
    )
    .into_bytes()
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> io::Result<()> {
    timeout(READ, to.write_all(bytes)).await.map_err(|_| late())?
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

fn page(topic: &str) -> String {
    let topic = topic.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{topic}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <style>html,body{{margin:0;height:100%;background:#111;color:#aaa;font:14px sans-serif}}\
         img{{width:100%;height:100%;object-fit:contain}}p{{position:fixed;left:8px;bottom:0}}</style>\n\
         <img src=\"/stream\" alt=\"waiting for a picture\">\n<p>{topic}</p>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(head: &str) -> Option<Result<Asked, Refused>> {
        parse(head.as_bytes(), true)
    }

    #[test]
    fn a_browser_finds_the_page_the_stream_and_the_frame() {
        for (path, asked) in [
            ("/", Asked::Page),
            ("/stream", Asked::Stream),
            ("/frame.jpg?t=1", Asked::Frame),
            ("/stream#x", Asked::Stream),
        ] {
            assert_eq!(ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost:8081\r\n\r\n")), Some(Ok(asked)), "{path}");
        }
        assert_eq!(ask("GET / HTTP/1.1\r\nHost: local"), None);
        assert_eq!(ask("GET /etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"), Some(Err(UNKNOWN)));
        assert_eq!(ask("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Some(Err(METHOD)));
        assert_eq!(ask("\x01\x02\r\n\r\n"), Some(Err(MALFORMED)));
    }

    #[test]
    fn a_name_that_only_resolves_to_this_machine_is_refused() {
        for host in ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "", "10.0.0.1"] {
            assert_eq!(ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Some(Err(FOREIGN)), "{host:?}");
        }
        assert_eq!(ask("GET / HTTP/1.1\r\n\r\n"), Some(Err(FOREIGN)));
        for host in ["LOCALHOST", "127.0.0.1:8081", "127.1.2.3", "[::1]:8081", "[::1]"] {
            assert_eq!(ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Some(Ok(Asked::Page)), "{host:?}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: pi.lan\r\n\r\n", false), Some(Ok(Asked::Page)));
    }

    #[test]
    fn a_topic_cannot_become_part_of_the_page() {
        let page = page("a/<script>alert(1)</script>&\"");
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("a/&lt;script&gt;"), "{page}");
    }

    proptest! {
        #[test]
        fn no_head_panics(head in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&head, true);
        }
        #[test]
        fn no_request_line_panics(line in "[A-Z]{0,8} ?[ -~]{0,40} ?HTTP/1.[01]\r\n(Host: [ -~]{0,20}\r\n)?\r\n") {
            let _ = parse(line.as_bytes(), true);
        }
    }
}
