//! Every kind of port against a real other end: pseudo terminals, loopback sockets, small programs.

use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::*;
use crate::hal::HalErrorKind;

/// Far more than anything here takes; a test that meets it has failed.
const LONG: Duration = Duration::from_secs(20);

/// A pseudo terminal: our end, and the path of the other one. No program that another test starts inherits it.
pub fn pty() -> (std::fs::File, String) {
    let ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let path = ptsname_r(&ours).unwrap();
    (OwnedFd::from(ours).into(), path)
}

fn serial(path: impl Into<String>) -> PortSpec {
    PortSpec { name: "meter".into(), kind: PortKind::Path { path: path.into(), line: Line::default() } }
}

fn command(argv: &[&str]) -> PortSpec {
    PortSpec { name: "camera".into(), kind: PortKind::Command { argv: argv.iter().map(|s| s.to_string()).collect() } }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it takes too long")
}

#[tokio::test]
async fn bytes_go_both_ways_through_a_link_with_a_line_that_a_pseudo_terminal_cannot_have() {
    use std::io::{Read, Write};
    let (mut sensor, path) = pty();
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("usb-FTDI-if00-port0");
    symlink(&path, &link).unwrap();
    let line = Line {
        baud_rate: 31_250,
        data_bits: 7,
        parity: Parity::Odd,
        stop_bits: 2,
        flow_control: FlowControl::Hardware,
        rs485: None,
    };
    let spec =
        PortSpec { name: "meter".into(), kind: PortKind::Path { path: link.to_string_lossy().into_owned(), line } };
    let mut port = soon(open(&spec)).await.unwrap();
    sensor.write_all(b"T=21.5\r\n\x03\x04\x11\x13\x1a\xff\0").unwrap();
    let mut got = [0; 15];
    soon(port.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"T=21.5\r\n\x03\x04\x11\x13\x1a\xff\0");
    soon(port.write_all(b"GET\n")).await.unwrap();
    soon(port.flush()).await.unwrap();
    let mut asked = [0; 4];
    sensor.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"GET\n");
}

#[tokio::test]
async fn bytes_from_before_the_opening_are_dropped() {
    use std::io::Write;
    let (mut sensor, path) = pty();
    let slave = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    sensor.write_all(b"old\n").unwrap();
    let mut port = soon(open(&serial(&path))).await.unwrap();
    drop(slave);
    sensor.write_all(b"new\n").unwrap();
    let mut got = [0; 4];
    soon(port.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"new\n");
}

#[tokio::test]
async fn an_unplugged_port_ends_while_it_is_read_and_stays_ended() {
    let (sensor, path) = pty();
    let mut port = soon(open(&serial(&path))).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut buf = [0; 16];
        let first = port.read(&mut buf).await.unwrap();
        let second = port.read(&mut buf).await.unwrap();
        (first, second, port.ended().map(str::to_owned))
    });
    tokio::task::yield_now().await;
    drop(sensor);
    let (first, second, why) = soon(reader).await.unwrap();
    assert_eq!((first, second), (0, 0));
    assert!(why.unwrap().contains("gone"));
}

#[tokio::test]
async fn a_serial_port_has_one_owner_and_is_free_once_dropped() {
    let (_sensor, path) = pty();
    let first = soon(open(&serial(&path))).await.unwrap();
    let refused = soon(open(&serial(&path))).await.unwrap_err();
    assert_eq!(refused.kind, HalErrorKind::Busy);
    assert!(refused.text.contains("already in use by this gateway"), "{refused}");
    drop(first);
    for _ in 0..100 {
        drop(soon(open(&serial(&path))).await.unwrap());
    }
    let left = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter(|fd| std::fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to == Path::new(&path)));
    assert_eq!(left.count(), 0, "descriptors of {path} leaked");
}

#[tokio::test]
async fn a_crashed_owner_s_mark_does_not_outlive_it_on_a_pseudo_terminal() {
    use std::os::fd::AsRawFd;
    let (_sensor, path) = pty();
    let port = soon(open(&serial(&path))).await.unwrap();
    let other = std::fs::File::open(&path).unwrap();
    let mut marked: libc::c_int = -1;
    // SAFETY: the request writes one int
    assert_eq!(unsafe { libc::ioctl(other.as_raw_fd(), libc::TIOCGEXCL, &raw mut marked) }, 0);
    assert_eq!(marked, 0, "after a kill -9 nobody but root could open it again");
    assert!(other.try_lock().is_err(), "it must be locked instead");
    drop(port);
    assert!(other.try_lock().is_ok());
}

#[tokio::test]
async fn a_port_that_comes_back_elsewhere_under_its_link_is_noticed_and_opens() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("by-id/usb-sensor");
    let spec = serial(link.to_string_lossy());
    let missing = soon(open(&spec)).await.unwrap_err();
    assert_eq!(missing.kind, HalErrorKind::NotFound);

    // nothing on the way exists yet: the directory, then the link must be seen
    let started = Instant::now();
    let (first, path) = pty();
    let make = async {
        tokio::task::yield_now().await;
        std::fs::create_dir(dir.path().join("by-id")).unwrap();
        tokio::task::yield_now().await;
        symlink(&path, &link).unwrap();
    };
    tokio::join!(wait_for(&spec, LONG), make);
    let mut port = soon(open(&spec)).await.unwrap();

    drop(first);
    assert_eq!(soon(port.read(&mut [0; 8])).await.unwrap(), 0);
    drop(port);
    let (mut second, path) = pty();
    let replug = async {
        tokio::task::yield_now().await;
        std::fs::remove_file(&link).unwrap();
        symlink(&path, &link).unwrap();
    };
    tokio::join!(wait_for(&spec, LONG), replug);
    assert!(started.elapsed() < LONG / 2, "nothing woke the waiting: {:?}", started.elapsed());
    let mut port = soon(open(&spec)).await.unwrap();
    second.write_all(b"back\n").unwrap();
    let mut got = [0; 5];
    soon(port.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"back\n");
}

#[tokio::test]
async fn waiting_for_a_node_that_never_comes_ends_with_the_time_given() {
    let dir = tempfile::tempdir().unwrap();
    let spec = serial(dir.path().join("never").to_string_lossy());
    let time = Duration::from_millis(30);
    let started = Instant::now();
    // neighbours come and go meanwhile, and are none of its business
    let noise = async {
        tokio::task::yield_now().await;
        std::fs::write(dir.path().join("other"), "").unwrap();
    };
    tokio::join!(soon(wait_for(&spec, time)), noise);
    assert!(started.elapsed() >= time);
}

#[tokio::test]
async fn waiting_survives_the_directory_being_removed() {
    let dir = tempfile::tempdir().unwrap();
    let by_id = dir.path().join("by-id");
    std::fs::create_dir(&by_id).unwrap();
    let spec = serial(by_id.join("usb-sensor").to_string_lossy());
    let started = Instant::now();
    let change = async {
        tokio::task::yield_now().await;
        std::fs::remove_dir(&by_id).unwrap();
        tokio::task::yield_now().await;
        std::fs::create_dir(&by_id).unwrap();
        tokio::task::yield_now().await;
        std::fs::write(by_id.join("usb-sensor"), "").unwrap();
    };
    tokio::join!(wait_for(&spec, LONG), change);
    assert!(started.elapsed() < LONG / 2);
}

#[tokio::test]
async fn a_plain_file_and_a_directory_are_no_ports() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for (path, word) in [(file.as_path(), "not a serial port"), (dir.path(), "directory")] {
        let e = soon(open(&serial(path.to_string_lossy()))).await.unwrap_err();
        assert_eq!(e.kind, HalErrorKind::Unsupported);
        assert!(e.text.contains(word), "{e}");
    }
}

#[tokio::test]
async fn a_tcp_port_ends_with_its_server_and_says_when_nobody_listens() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host_port = server.local_addr().unwrap().to_string();
    let spec = PortSpec { name: "ser2".into(), kind: PortKind::Tcp { host_port: host_port.clone() } };
    let (port, accepted) = tokio::join!(open(&spec), server.accept());
    let (mut port, mut other) = (port.unwrap(), accepted.unwrap().0);
    other.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    soon(port.read_exact(&mut got)).await.unwrap();
    soon(port.write_all(b"ping")).await.unwrap();
    let mut asked = [0; 4];
    soon(other.read_exact(&mut asked)).await.unwrap();
    assert_eq!((&got, &asked), (b"hello", b"ping"));

    // a server that dies resets the connection instead of closing it
    port.write_all(b"unread").await.unwrap();
    soon(other.readable()).await.unwrap();
    drop((other, server));
    assert_eq!(soon(port.read(&mut [0; 8])).await.unwrap(), 0);
    assert!(port.ended().unwrap().contains("connection broke"), "{:?}", port.ended());
    drop(port);
    let refused = soon(open(&spec)).await.unwrap_err();
    assert_eq!(refused.kind, HalErrorKind::NotFound);
    assert!(refused.text.contains(&host_port) && refused.text.contains("ser2net"), "{refused}");
}

#[tokio::test]
async fn a_program_is_read_and_written_and_its_exit_is_told() {
    let mut port = open(&command(&["sh", "-c", "read x; echo got $x; exit 3"])).unwrap_soon().await;
    soon(port.write_all(b"frame\n")).await.unwrap();
    let mut got = String::new();
    soon(port.read_to_string(&mut got)).await.unwrap();
    assert_eq!(got, "got frame\n");
    assert_eq!(port.ended(), Some("`sh` ended: exit status: 3"));
}

#[tokio::test]
async fn dropping_a_program_ends_it_and_what_it_started_even_if_they_will_not() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("alive");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // our end sees the end of the FIFO when the last of them is gone
    let mut alive = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
    let script = format!("trap '' TERM; exec 3>{}; sleep 1000 & echo up; wait", fifo.display());
    let mut port = open(&command(&["sh", "-c", &script])).unwrap_soon().await;
    let mut up = [0; 3];
    soon(port.read_exact(&mut up)).await.unwrap();
    drop(port);
    assert_eq!(soon(alive.read(&mut [0; 1])).await.unwrap(), 0);
}

#[test]
fn a_runtime_that_stops_takes_its_programs_with_it() {
    use std::io::Read;
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("alive");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = fifo.clone();
    let alive = std::thread::spawn(move || std::fs::File::open(path).unwrap().read(&mut [0; 1]).unwrap());
    runtime.block_on(async {
        let script = format!("trap '' TERM; exec 3>{}; sleep 1000 & echo up; wait", fifo.display());
        let mut port = open(&command(&["sh", "-c", &script])).unwrap_soon().await;
        let mut up = [0; 3];
        soon(port.read_exact(&mut up)).await.unwrap();
    });
    drop(runtime);
    assert_eq!(alive.join().unwrap(), 0);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let e = open(&command(&["rpicam-vid-of-another-world"])).await.unwrap_err();
    assert_eq!(e.kind, HalErrorKind::NotFound);
    assert!(e.text.contains("`rpicam-vid-of-another-world`"), "{e}");
    assert_eq!(open(&command(&[])).await.unwrap_err().kind, HalErrorKind::Unsupported);
}

/// `open(…).await.unwrap()` that cannot hang.
trait UnwrapSoon {
    async fn unwrap_soon(self) -> Stream;
}

impl<F: Future<Output = Result<Stream, HalError>>> UnwrapSoon for F {
    async fn unwrap_soon(self) -> Stream {
        soon(self).await.unwrap()
    }
}

#[tokio::test]
async fn a_driver_that_cannot_switch_rs485_is_named_with_what_to_do() {
    let (_sensor, path) = pty();
    let usual = rs485::Rs485 { rts_on_send: true, before: Duration::ZERO, after: Duration::ZERO, listen: false };
    let line = Line { rs485: Some(usual), ..Line::default() };
    let spec = PortSpec { name: "meter".into(), kind: PortKind::Path { path: path.clone(), line } };
    let e = soon(open(&spec)).await.unwrap_err();
    assert_eq!(e.kind, HalErrorKind::Unsupported);
    assert!(e.text.contains(&path) && e.text.contains("leave `rs485` out"), "{e}");
}
