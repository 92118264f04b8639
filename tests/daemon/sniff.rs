//! `pinpost serial sniff` on a real pty, on TCP and on captures.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use nix::sys::signal::Signal;

use crate::support::gateway::Pty;
use crate::support::program::{Program, pinpost, run};

/// A line-based instrument with a check in hex, and a particulate sensor; the file's path.
fn file(dir: &Path) -> String {
    let at = dir.join("my.yaml");
    let text = format!(
        r#"version: 1
mqtt: {{ url: "mqtt://127.0.0.1" }}
ports:
  line: {{ path: {} }}
  dust: {{ path: /dev/ttyS99 }}
devices:
  probe:
    kind: serial
    port: line
    check: {{ xor: u8, as: hex, over: [1, -3] }}
    decode: {{ type: keyvalue }}
    points: {{ t: {{ field: t, type: number }}, u: {{ field: u }} }}
  air:
    kind: serial
    port: dust
    frame: {{ start: "42 4d", length_prefix: u16be, at: 2, adjust: 4 }}
    check: {{ sum: u16be }}
    decode: {{ type: binary }}
    points: {{ pm2_5: {{ at: 12, as: u16be }} }}
  door: {{ kind: digital_in, pin: 17 }}
"#,
        dir.join("line").display()
    );
    fs::write(&at, text).unwrap();
    at.display().to_string()
}

/// A line with its check.
fn checked(text: &str) -> String {
    format!("${text}*{:02X}\r\n", text.bytes().fold(0, |sum, b| sum ^ b))
}

#[test]
fn what_is_sniffed_of_a_device_is_captured_and_its_replay_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (file, capture) = (file(dir.path()), dir.path().join("capture.txt").display().to_string());
    let mut pty = Pty::new(dir.path().join("line"));
    let args = ["serial", "sniff", "-c", &file, "--device", "probe", "--capture", &capture, "--count", "4"];
    let mut sniff = Program::start(&mut pinpost(args));
    sniff.err.wait_for("listening to");
    pty.write(b"1.5;u=4*00\r\n");
    sniff.out.wait_for("in no frame");
    let good = checked("t=21.5;u=40");
    let (first, second) = good.split_at(7);
    pty.write(first.as_bytes());
    sniff.out.wait_for("|$t=21.5|");
    pty.write(second.as_bytes());
    sniff.out.wait_for("u = 40");
    pty.write(good.replace("21.5", "21.6").as_bytes());
    pty.write(checked("nothing").as_bytes());
    pty.write(checked("t=warm").as_bytes());
    let live = sniff.end().with(0);
    let text = live.text();
    for line in [
        "dropped  ",
        "frame    15 bytes \"$t=21.5;u=40*",
        "         t = 21.5\n",
        "refused  ",
        "check: the check is ",
        "syntax: it is not of the declared form",
        "t = warm   (bad: not of its type)",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("t = 21.6"), "{text}");
    assert!(live.err.contains("2 good frames, refused: 1 × check, 1 × syntax"), "{}", live.err);
    // the line is gone; its capture says the same again, time stamps included
    pty.unplug();
    let again = run(&mut pinpost(["serial", "sniff", "-c", &file, "--device", "probe", "--replay", &capture]), b"");
    let again = again.with(0);
    assert_eq!(again.text(), text);
    assert!(again.err.contains("2 good frames, refused: 1 × check, 1 × syntax"), "{}", again.err);
    // and without a device it is the bytes alone
    let bytes = run(&mut pinpost(["serial", "sniff", "--replay", &capture]), b"").with(0).text();
    assert!(bytes.contains("|$t=21.5|") && !bytes.contains("frame"), "{bytes}");
}

#[test]
fn a_replay_lives_in_the_time_of_its_capture() {
    let dir = tempfile::tempdir().unwrap();
    let (file, capture) = (file(dir.path()), dir.path().join("capture.txt").display().to_string());
    let frame = "42 4d 00 1c 00 05 00 08 00 09 00 05 00 08 00 09 04 1d 01 2d 00 33 00 06 00 01 00 00 97 00 01 f7";
    // a length that was hit waits for bytes that never come, until the silence; then an hour, and a frame
    let text = format!("pinpost-capture 1\n0 {frame}\n1000 42 4d 01 1c\n\n# why\n2000 {frame}\n3600000000 {frame}\n");
    fs::write(&capture, text).unwrap();
    let replayed = run(&mut pinpost(["serial", "sniff", "-c", &file, "--device", "air", "--replay", &capture]), b"");
    let text = replayed.with(0).text();
    assert_eq!(text.matches("pm2_5 = 8").count(), 3, "{text}");
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(at("0.202000  200ms of silence") < at("incomplete: its end never came"), "{text}");
    assert!(at("incomplete: its end never came") < at("3600.000000"), "{text}");
}

#[test]
fn a_line_is_shown_as_hex_and_text_until_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let mut pty = Pty::new(dir.path().join("line"));
    let path = pty.name().display().to_string();
    let mut sniff = Program::start(&mut pinpost(["serial", "sniff", &path, "--baud", "115200", "--parity", "even"]));
    sniff.err.wait_for("at 115200 8E1");
    pty.write(b"hi\xff\n");
    sniff.out.wait_for("68 69 ff 0a");
    sniff.out.wait_for("|hi..|");
    sniff.signal(Signal::SIGINT);
    let ended = sniff.end().with(0);
    assert!(ended.err.contains("1 read, 4 bytes"), "{}", ended.err);
    // a port that goes away is a failure
    let mut sniff = Program::start(&mut pinpost(["serial", "sniff", &path]));
    sniff.err.wait_for("listening to");
    pty.unplug();
    let ended = sniff.end().with(1);
    assert!(ended.err.contains("the device is gone") || ended.err.contains("broke"), "{}", ended.err);
}

#[test]
fn tcp_is_a_port_too_and_for_ends_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        first.write_all(b"hello").unwrap();
        (first, listener.accept().unwrap())
    });
    let ended = run(&mut pinpost(["serial", "sniff", &address, "--count", "1"]), b"").with(0);
    assert!(ended.text().contains("|hello|"), "{}", ended.text());
    let ended = run(&mut pinpost(["serial", "sniff", &address, "--for", "50ms"]), b"").with(0);
    assert_eq!(ended.text(), "");
    assert!(ended.err.contains("0 reads, 0 bytes"), "{}", ended.err);
    drop(server.join().unwrap());
}

#[test]
fn what_cannot_be_sniffed_is_said_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("torn"), "pinpost-capture 1\n0 42\n10 4\n").unwrap();
    fs::write(at("foreign"), "hello\n").unwrap();
    fs::write(at("wrong.yaml"), "version: 1\ndevices: 7\n").unwrap();
    for (args, code, says) in [
        (vec![], 2, "name a port"),
        (vec!["dust"], 2, "give its file: -c FILE"),
        (vec!["lime", "-c", &file], 2, "the file's are line, dust"),
        (vec!["-c", &file, "--device", "prob"], 2, "devices of kind serial are probe, air"),
        (vec!["-c", &file, "--device", "door"], 2, "`door` is of kind digital_in"),
        (vec!["127.0.0.1:1", "--baud", "9600"], 2, "has no speed"),
        (vec!["x", "--replay", "y"], 2, "cannot be used with"),
        (vec!["-c", &file, "--device", "air"], 1, "/dev/ttyS99"),
        (vec!["--replay", &at("none")], 1, "No such file"),
        (vec!["--replay", &at("torn")], 1, "torn: line 3: not hex pairs"),
        (vec!["--replay", &at("foreign")], 1, "foreign: line 1: not a capture"),
        (vec!["-c", &at("wrong.yaml"), "--device", "air"], 78, "nothing was started"),
    ] {
        let ended = run(&mut pinpost(["serial", "sniff"].iter().chain(&args)), b"");
        assert!(ended.code == Some(code) && ended.err.contains(says), "{args:?}: {:?} {}", ended.code, ended.err);
    }
}

#[test]
fn the_page_about_serial_instruments_is_true() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/serial.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut files, mut replays) = (0, 0);
    for block in page.split("\n```").skip(1).step_by(2) {
        let (head, body) = block.split_once('\n').unwrap();
        match head.split_once(' ') {
            Some((_, name)) => {
                fs::write(dir.path().join(name), format!("{body}\n")).unwrap();
                if name.ends_with(".yaml") {
                    let checked = run(pinpost(["check", name]).current_dir(&dir), b"").with(0);
                    assert!(checked.err.contains("0 errors, 0 warnings"), "{name}: {}", checked.err);
                    files += 1;
                }
            }
            None if head == "console" => {
                let (line, shown) = body.split_once('\n').unwrap();
                let words = line.strip_prefix("$ pinpost ").unwrap().split(' ');
                let ended = run(pinpost(words).current_dir(&dir), b"").with(0);
                assert_eq!(format!("{}{}", ended.text(), ended.err).trim_end(), shown, "{line}");
                replays += 1;
            }
            None => {}
        }
    }
    assert_eq!((files, replays), (5, 3));
}
