//! Serial lines: opening by path or USB ids, exclusively, with every refusal explained.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{ClearBuffer, SerialPort, SerialStream};

use super::{Line, rs485};
use crate::config::raw::{FlowControl, Parity};
use crate::config::scalar::UsbId;
use crate::hal::list::{PortInfo, serial_ports_in};
use crate::hal::{HalError, HalErrorKind};

/// Longest time that closing may wait for bytes not yet sent; the kernel alone would wait up to 30 s.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a USB adapter is known by.
#[derive(Debug, Clone)]
pub struct Ids {
    pub vid: UsbId,
    pub pid: UsbId,
    pub serial: Option<String>,
}

/// An open serial line.
#[derive(Debug)]
pub struct Tty {
    stream: SerialStream,
    line: Line,
}

/// Opens the line at `path`. Setting up a USB adapter can take long, so it is done beside the runtime.
pub async fn open(root: &Path, path: String, line: Line) -> Result<Tty, HalError> {
    let root = root.to_owned();
    aside(move || open_now(&root, &path, line)).await
}

/// Opens the one adapter that has these ids.
pub async fn open_usb(root: &Path, ids: Ids, line: Line) -> Result<Tty, HalError> {
    let root = root.to_owned();
    aside(move || {
        let path = find_usb(&root, &ids)?;
        open_now(&root, &path.to_string_lossy(), line)
    })
    .await
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, HalError> + Send + 'static) -> Result<T, HalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(HalError::new(HalErrorKind::Io, format!("opening was broken off: {e}"))),
    }
}

fn open_now(root: &Path, path: &str, line: Line) -> Result<Tty, HalError> {
    let pseudo = fs::canonicalize(path).is_ok_and(|real| real.starts_with("/dev/pts"));
    let mut opened = SerialStream::open(&builder(path, line));
    if opened.is_err() && pseudo && explain(root, path).is_none() {
        // a pseudo terminal has no line to drive: what it refuses of one does not matter
        opened = SerialStream::open(&builder(path, Line::default()));
    }
    let stream = opened.map_err(|e| {
        explain(root, path)
            .unwrap_or_else(|| HalError::new(HalErrorKind::Unsupported, format!("{path} does not take {line}: {e}")))
    })?;
    if pseudo {
        // The mark would outlive us on a pseudo terminal whose other end stays open, and refuse us after a crash.
        // The lock remains. SAFETY: the descriptor is open and the request has no argument.
        unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCNXCL) };
    }
    if !pseudo && let Some((pid, program)) = holder(path, std::process::id()) {
        log::warn!("{path} is also open in {program} (pid {pid}), which takes bytes away; {}", advice(&program, path));
    }
    if let Some(rs485) = line.rs485 {
        rs485::set(stream.as_raw_fd(), path, rs485)?;
    }
    stream.clear(ClearBuffer::Input).map_err(|e| HalError::new(HalErrorKind::Io, format!("{path}: {e}")))?;
    Ok(Tty { stream, line })
}

fn builder(path: &str, line: Line) -> tokio_serial::SerialPortBuilder {
    tokio_serial::new(path, line.baud_rate)
        .data_bits(match line.data_bits {
            5 => tokio_serial::DataBits::Five,
            6 => tokio_serial::DataBits::Six,
            7 => tokio_serial::DataBits::Seven,
            _ => tokio_serial::DataBits::Eight,
        })
        .parity(match line.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Odd => tokio_serial::Parity::Odd,
            Parity::Even => tokio_serial::Parity::Even,
        })
        .stop_bits(if line.stop_bits == 2 { tokio_serial::StopBits::Two } else { tokio_serial::StopBits::One })
        .flow_control(match line.flow_control {
            FlowControl::None => tokio_serial::FlowControl::None,
            FlowControl::Software => tokio_serial::FlowControl::Software,
            FlowControl::Hardware => tokio_serial::FlowControl::Hardware,
        })
}

impl AsyncRead for Tty {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let waiting = self.stream.bytes_to_write().unwrap_or(0);
        let bits = u64::from(waiting) * u64::from(self.line.bits_per_byte());
        let time = Duration::from_secs(bits) / self.line.baud_rate.max(1);
        if waiting > 0 && (time > LAST_WORDS || self.line.flow_control != FlowControl::None) {
            let _ = self.stream.clear(ClearBuffer::Output);
        }
    }
}

/// The node of the one adapter that has these ids.
fn find_usb(root: &Path, ids: &Ids) -> Result<PathBuf, HalError> {
    let ports = serial_ports_in(root);
    let same: Vec<&PortInfo> = ports.iter().filter(|p| p.vid == Some(ids.vid) && p.pid == Some(ids.pid)).collect();
    let fits: Vec<&PortInfo> =
        same.iter().copied().filter(|p| ids.serial.is_none() || p.serial == ids.serial).collect();
    let wanted = match &ids.serial {
        Some(serial) => format!("USB {}:{} with serial number {serial}", ids.vid, ids.pid),
        None => format!("USB {}:{}", ids.vid, ids.pid),
    };
    match fits.as_slice() {
        [one] => Ok(one.path.clone()),
        [] if !same.is_empty() => Err(HalError::new(
            HalErrorKind::NotFound,
            format!("{wanted} is not plugged in; of that kind there is {}", named(&same)),
        )),
        [] => {
            let usb: Vec<&PortInfo> = ports.iter().filter(|p| p.vid.is_some()).collect();
            let others =
                if usb.is_empty() { "no USB serial adapter is".into() } else { format!("there is {}", named(&usb)) };
            Err(HalError::new(HalErrorKind::NotFound, format!("{wanted} is not plugged in; {others}")))
        }
        many => {
            let numbers: Vec<&Option<String>> = many.iter().map(|p| &p.serial).collect();
            let alike = numbers.iter().any(|a| a.is_none() || numbers.iter().filter(|b| *b == a).count() > 1);
            let advice = if alike { "`path:` with one of these names" } else { "`serial:` beside `vid` and `pid`" };
            Err(HalError::new(
                HalErrorKind::Unsupported,
                format!("{wanted} fits several ports: {}; write {advice}", named(many)),
            ))
        }
    }
}

/// Ports for people, at most five.
fn named(ports: &[&PortInfo]) -> String {
    let mut words: Vec<String> = ports
        .iter()
        .take(5)
        .map(|p| match (p.vid, p.pid, &p.serial) {
            (Some(vid), Some(pid), Some(serial)) => format!("{} ({vid}:{pid} serial {serial})", p.stable().display()),
            (Some(vid), Some(pid), None) => format!("{} ({vid}:{pid})", p.stable().display()),
            _ => p.stable().display().to_string(),
        })
        .collect();
    if ports.len() > words.len() {
        words.push(format!("{} more", ports.len() - words.len()));
    }
    words.join(", ")
}

/// What is wrong with `path`, by trying again what can go wrong; `None` if nothing is.
fn explain(root: &Path, path: &str) -> Option<HalError> {
    let tried = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let error = match tried {
        Ok(file) => {
            // SAFETY: the descriptor is open.
            if unsafe { libc::isatty(file.as_raw_fd()) } == 0 {
                let text = format!("{path} is not a serial port; `pinpost ports` lists them");
                return Some(HalError::new(HalErrorKind::Unsupported, text));
            }
            return match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => Some(held(path)),
                _ => None,
            };
        }
        Err(e) => e,
    };
    Some(match (error.raw_os_error(), error.kind()) {
        (Some(libc::EBUSY), _) => held(path),
        (_, io::ErrorKind::NotFound) => missing(root, path),
        (_, io::ErrorKind::PermissionDenied) => forbidden(path, &error),
        (Some(libc::ENXIO | libc::ENODEV | libc::EIO), _) => {
            HalError::new(HalErrorKind::NotFound, format!("{path} has no device behind it ({error})"))
        }
        (_, io::ErrorKind::IsADirectory) => {
            HalError::new(HalErrorKind::Unsupported, format!("{path} is a directory, not a serial port"))
        }
        _ => HalError::new(HalErrorKind::Io, format!("{path}: {error}")),
    })
}

fn missing(root: &Path, path: &str) -> HalError {
    let mut ports = serial_ports_in(root);
    let near = |p: &PortInfo| strsim::jaro_winkler(path, &p.stable().to_string_lossy());
    ports.sort_by(|a, b| near(b).total_cmp(&near(a)));
    let there = match named(&ports.iter().collect::<Vec<_>>()) {
        none if none.is_empty() => "no serial port is connected".into(),
        some => format!("connected now: {some}"),
    };
    HalError::new(HalErrorKind::NotFound, format!("there is no {path}; {there}"))
}

/// Why the user may not open `path`, and the group that may.
pub fn forbidden(path: &str, error: &io::Error) -> HalError {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |u| u.name);
    let text = match fs::metadata(path) {
        Ok(node) => {
            let gid = Gid::from_raw(node.gid());
            let group = Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |g| g.name);
            let member = Gid::effective() == gid || nix::unistd::getgroups().is_ok_and(|g| g.contains(&gid));
            let opens = node.permissions().mode() & 0o060 == 0o060;
            forbidden_words(path, &user, &group, opens, member || uid.is_root())
        }
        Err(_) => format!("user {user} may not open {path} ({error})"),
    };
    HalError::new(HalErrorKind::Permission, text)
}

/// `opens`: the group may read and write; `member`: the user is in it.
fn forbidden_words(path: &str, user: &str, group: &str, opens: bool, member: bool) -> String {
    let why = match (opens, member) {
        (false, _) => {
            format!("its group {group} may not either; give it one by a udev rule: MODE=\"0660\", GROUP=\"dialout\"")
        }
        (true, false) => format!("it belongs to group {group}: sudo usermod -aG {group} {user}, then start it again"),
        // in a unit with a device policy the kernel refuses whatever the group
        (true, true) => format!("though it is in group {group}; under systemd the unit needs DeviceAllow={path} rw"),
    };
    format!("user {user} may not open {path}: {why}")
}

fn held(path: &str) -> HalError {
    let text = match holder(path, 0) {
        Some((pid, _)) if pid == std::process::id() => format!("{path} is already in use by this gateway"),
        Some((pid, program)) => format!("{path} is held by {program} (pid {pid}); {}", advice(&program, path)),
        None => format!("{path} is held by a program that cannot be seen from here; {}", advice("", path)),
    };
    HalError::new(HalErrorKind::Busy, text)
}

/// How to get a port back from a program.
fn advice(program: &str, path: &str) -> String {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let node = real.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match program {
        "ModemManager" => "it probes for modems: sudo systemctl disable --now ModemManager".into(),
        "agetty" | "login" => format!("it is a login: sudo systemctl disable --now serial-getty@{node}"),
        "" => format!("often it is ModemManager or serial-getty@{node}"),
        _ => "end it, or give it another port".into(),
    }
}

/// Who has the node open besides `except`, as far as /proc lets us see.
fn holder(path: &str, except: u32) -> Option<(u32, String)> {
    let real = fs::canonicalize(path).ok()?;
    let holds = |pid: &u32| {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == real))))
    };
    let mut pids = fs::read_dir("/proc").ok()?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| *pid != except && holds(pid))?;
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, program.trim_end().to_owned()))
}

#[cfg(test)]
mod tests;
