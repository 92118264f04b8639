//! The one door to byte streams: a serial line by path or by USB ids, TCP (ser2net and friends), a program's output.
//!
//! Promises:
//! - [`open`] says in words what is wrong and what to do: who holds the port, which group is missing, what is
//!   plugged in instead. It never blocks the caller's thread.
//! - A port that is gone is an end of stream, whatever it is: an unplugged adapter, a dead server, a program that
//!   ended. [`Stream::ended`] says why. Who sees it drops the stream at once, so that the kernel can give the device's
//!   number away, and calls [`open`] again.
//! - [`wait_for`] sleeps until a node may have come back, or a given time; nothing polls.
//! - A serial port has one owner: a second one is refused, by the kernel or by a lock.

mod command;
pub mod pty;
pub mod rs485;
pub mod sim;
mod tcp;
mod tty;
mod wait;

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use self::tty::forbidden;
pub use self::wait::wait_for;
use super::{HalError, HalErrorKind};
use crate::config::raw::{FlowControl, Parity};
use crate::config::scalar::UsbId;

/// A byte stream by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name in the file, for people.
    pub name: String,
    /// What it is.
    pub kind: PortKind,
}

/// What a port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortKind {
    /// A serial line by its device node.
    Path {
        /// Device node or a link to one.
        path: String,
        /// How it is driven.
        line: Line,
    },
    /// A USB adapter by its ids, wherever it is plugged in.
    Usb {
        /// Vendor.
        vid: UsbId,
        /// Product.
        pid: UsbId,
        /// Serial number, where several are alike.
        serial: Option<String>,
        /// How it is driven.
        line: Line,
    },
    /// A TCP server.
    Tcp {
        /// `HOST:PORT`.
        host_port: String,
    },
    /// A program: its output is read, what is written goes to its input.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// How a serial line is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Bits a second.
    pub baud_rate: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// Who stops whom.
    pub flow_control: FlowControl,
    /// Whether the driver switches an RS-485 transmitter by RTS.
    pub rs485: Option<rs485::Rs485>,
}

impl Default for Line {
    /// 9600 8N1 without flow control.
    fn default() -> Line {
        Line {
            baud_rate: 9600,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            flow_control: FlowControl::None,
            rs485: None,
        }
    }
}

impl Line {
    /// Bits on the wire for one byte, start and stop bits included.
    pub fn bits_per_byte(&self) -> u32 {
        1 + u32::from(self.data_bits) + u32::from(self.parity != Parity::None) + u32::from(self.stop_bits)
    }
}

impl fmt::Display for Line {
    /// For people: `9600 8N1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Odd => 'O',
            Parity::Even => 'E',
        };
        write!(f, "{} {}{parity}{}", self.baud_rate, self.data_bits, self.stop_bits)
    }
}

impl fmt::Display for PortKind {
    /// For people: `/dev/ttyUSB0`, `USB 0403:6001 serial A10K3`, `tcp HOST:PORT`, `program rpicam-vid`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortKind::Path { path, .. } => f.write_str(path),
            PortKind::Usb { vid, pid, serial: None, .. } => write!(f, "USB {vid}:{pid}"),
            PortKind::Usb { vid, pid, serial: Some(serial), .. } => write!(f, "USB {vid}:{pid} serial {serial}"),
            PortKind::Tcp { host_port } => write!(f, "tcp {host_port}"),
            PortKind::Command { argv } => write!(f, "program {}", argv.first().map_or("", String::as_str)),
        }
    }
}

/// Opens a port. Cancel safe. Must be called inside a tokio runtime with I/O and time.
pub async fn open(spec: &PortSpec) -> Result<Stream, HalError> {
    let inner = match &spec.kind {
        PortKind::Path { path, line } => Inner::Serial(tty::open(Path::new("/"), path.clone(), *line).await?),
        PortKind::Usb { vid, pid, serial, line } => {
            let ids = tty::Ids { vid: *vid, pid: *pid, serial: serial.clone() };
            Inner::Serial(tty::open_usb(Path::new("/"), ids, *line).await?)
        }
        PortKind::Tcp { host_port } => Inner::Tcp(tcp::open(host_port).await?),
        PortKind::Command { argv } => Inner::Command(command::open(&spec.name, argv)?),
    };
    Ok(Stream { inner, ended: None })
}

/// Opens a simulated port.
pub fn open_simulated(port: &sim::SimPort) -> Result<Stream, HalError> {
    match port.open() {
        Some(stream) => Ok(Stream { inner: Inner::Simulated(stream), ended: None }),
        None => Err(HalError::new(HalErrorKind::NotFound, "the simulated port is unplugged")),
    }
}

/// An open port. Once it has ended, every read gives 0 bytes at once.
///
/// `flush` does not wait until a serial line has sent everything: that call blocks the thread, for ever if the other
/// side holds the line.
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
    ended: Option<String>,
}

#[derive(Debug)]
enum Inner {
    Serial(tty::Tty),
    Tcp(tokio::net::TcpStream),
    Command(command::Running),
    Simulated(sim::SimStream),
}

impl Stream {
    /// Why it has ended, for people; `None` while it has not.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    fn end(&mut self, why: impl Into<String>) {
        self.ended.get_or_insert_with(|| why.into());
    }
}

/// Errors that only mean that the device, or the other side, is gone.
fn is_end(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::ENODEV | libc::ENXIO))
        || matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::TimedOut
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
        )
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended.is_some() || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let (result, why) = match &mut self.inner {
            Inner::Serial(tty) => {
                (std::task::ready!(Pin::new(tty).poll_read(cx, buf)), "the device is gone".to_owned())
            }
            Inner::Tcp(tcp) => {
                (std::task::ready!(Pin::new(tcp).poll_read(cx, buf)), "the server closed the connection".to_owned())
            }
            Inner::Command(running) => std::task::ready!(running.poll_read(cx, buf)),
            Inner::Simulated(sim) => {
                (std::task::ready!(Pin::new(sim).poll_read(cx, buf)), "the device is gone".to_owned())
            }
        };
        match result {
            Ok(()) if buf.filled().len() > before => Poll::Ready(Ok(())),
            Ok(()) => {
                self.end(why);
                Poll::Ready(Ok(()))
            }
            Err(e) if is_end(&e) => {
                self.end(format!("the connection broke: {e}"));
                Poll::Ready(Ok(()))
            }
            Err(e) => Poll::Ready(Err(e)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Serial(tty) => Pin::new(tty).poll_write(cx, bytes),
            Inner::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Inner::Command(running) => running.poll_write(cx, bytes),
            Inner::Simulated(sim) => Pin::new(sim).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Serial(_) => Poll::Ready(Ok(())),
            Inner::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Inner::Command(running) => running.poll_flush(cx),
            Inner::Simulated(sim) => Pin::new(sim).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Serial(_) => Poll::Ready(Ok(())),
            Inner::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Inner::Command(running) => running.poll_shutdown(cx),
            Inner::Simulated(sim) => Pin::new(sim).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
