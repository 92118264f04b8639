//! `pinpost view` with a real mosquitto, asked as a browser asks.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use support::mosquitto::Mosquitto;
use support::program::{PATIENCE, Program, pinpost, run};

/// The shortest thing that begins and ends as a JPEG does.
fn picture(n: u8) -> Vec<u8> {
    [&[0xff, 0xd8, 0xff, 0xe0][..], &vec![n; 2000], &[0xff, 0xd9]].concat()
}

struct View {
    program: Program,
    broker: Mosquitto,
    address: String,
}

impl View {
    fn start() -> View {
        let mut broker = Mosquitto::start();
        let mut program = Program::start(&mut pinpost([
            "view",
            "-L",
            &broker.url(),
            "-t",
            "shed/camera",
            "--listen",
            "127.0.0.1:0",
            "-i",
            "viewer",
        ]));
        program.err.wait_for("http://");
        let address = program.err.line().trim_end_matches('/').to_owned();
        broker.wait_log("Sending SUBACK to viewer");
        View { program, broker, address }
    }
    fn publish(&self, payload: &[u8]) {
        let file = self.broker.dir().join("payload");
        fs::write(&file, payload).unwrap();
        let port = self.broker.port().to_string();
        let file = file.to_str().unwrap();
        run(Command::new("mosquitto_pub").args(["-p", &port, "-t", "shed/camera", "-q", "1", "-f", file]), b"").with(0);
    }
    fn ask(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).unwrap();
        BufReader::new(stream)
    }
    fn get(&self, path: &str) -> (String, Vec<u8>) {
        let mut reader = self.ask(path);
        let head = head(&mut reader);
        let mut body = Vec::new();
        reader.read_to_end(&mut body).unwrap();
        (head, body)
    }
}

/// Lines up to an empty one.
fn head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "it ended in {head:?}");
        if line == "\r\n" {
            return head;
        }
        head.push_str(&line);
    }
}

/// What follows a picture of a stream: a browser shows it when the next one has begun.
const NEXT: &[u8] = b"\r\n--pinpost-next-frame\r\nContent-Type: image/jpeg\r\n\r\n";

/// A stream of pictures, behind the beginning of its first one.
fn stream(view: &View) -> BufReader<TcpStream> {
    let mut reader = view.ask("/stream");
    assert!(head(&mut reader).contains("multipart/x-mixed-replace; boundary=pinpost-next-frame"));
    assert_eq!(head(&mut reader), "--pinpost-next-frame\r\nContent-Type: image/jpeg\r\n");
    reader
}

/// Whether this is the next picture of a stream.
#[track_caller]
fn shows(reader: &mut impl BufRead, frame: &[u8]) {
    let mut part = vec![0; frame.len() + NEXT.len()];
    reader.read_exact(&mut part).unwrap();
    assert!(part == [frame, NEXT].concat(), "another picture of {} bytes", frame.len());
}

#[test]
fn a_viewer_gets_every_new_picture_and_a_late_one_the_latest() {
    let mut view = View::start();
    assert!(view.get("/frame.jpg").0.starts_with("HTTP/1.1 503 "));
    let (page_head, page) = view.get("/");
    assert!(page_head.starts_with("HTTP/1.1 200 ") && page_head.contains("text/html"), "{page_head}");
    assert!(String::from_utf8(page).unwrap().contains("src=\"/stream\""));

    let mut early = stream(&view);
    for n in 1..=3 {
        view.publish(&picture(n));
        shows(&mut early, &picture(n));
    }

    view.publish(b"no picture");
    view.program.err.wait_for("no JPEG picture");
    let (frame_head, frame) = view.get("/frame.jpg");
    assert!(frame_head.contains("image/jpeg"), "{frame_head}");
    assert_eq!(frame, picture(3));
    shows(&mut stream(&view), &picture(3));
}

#[test]
fn a_viewer_who_does_not_read_stops_nobody() {
    let view = View::start();
    let asleep = view.ask("/stream");
    let mut awake = stream(&view);
    for n in 1..=40 {
        let large = [picture(n), vec![n; 1_000_000]].concat();
        view.publish(&large);
        shows(&mut awake, &large);
    }
    drop(asleep);
}

#[test]
fn an_address_that_is_taken_and_a_broker_that_is_not_there_are_said() {
    let view = View::start();
    let again = ["view", "-L", &view.broker.url(), "-t", "x", "--listen", &view.address].map(str::to_owned);
    let ended = run(&mut pinpost(again), b"").with(1);
    assert!(ended.err.contains("cannot listen on") && ended.err.contains("--listen"), "{}", ended.err);
    let nobody = support::mosquitto::free_port().to_string();
    let ended = run(&mut pinpost(["view", "-p", &nobody, "-t", "x", "--listen", "127.0.0.1:0"]), b"").with(1);
    assert!(ended.err.contains("connection refused"), "{}", ended.err);
    run(&mut pinpost(["view"]), b"").with(2);
}
