//! A byte stream from a TCP server. A server that is silently gone is noticed within five seconds.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::hal::{HalError, HalErrorKind};

/// Longest time a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

pub async fn open(host_port: &str) -> Result<TcpStream, HalError> {
    let lost = |text: String| HalError::new(HalErrorKind::NotFound, text);
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(host_port)).await {
        Err(_) => return Err(lost(format!("{host_port} does not answer within {} s", CONNECT.as_secs()))),
        Ok(Err(e)) => return Err(refused(host_port, &e)),
        Ok(Ok(stream)) => stream,
    };
    let tuned = stream.set_nodelay(true).and_then(|()| keep_alive(&stream));
    tuned.map_err(|e| HalError::new(HalErrorKind::Io, format!("{host_port}: {e}")))?;
    Ok(stream)
}

fn refused(host_port: &str, e: &io::Error) -> HalError {
    let (kind, text) = match e.kind() {
        io::ErrorKind::ConnectionRefused => {
            (HalErrorKind::NotFound, format!("nothing listens at {host_port}; is ser2net running there?"))
        }
        io::ErrorKind::InvalidInput => {
            (HalErrorKind::Unsupported, format!("`{host_port}` is not an address; write HOST:PORT"))
        }
        _ => (HalErrorKind::NotFound, format!("cannot reach {host_port}: {e}")),
    };
    HalError::new(kind, text)
}

/// After 2 s of silence a probe each second; 4 s without an answer or an acknowledgement end it.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let set = |level: libc::c_int, name: libc::c_int, value: libc::c_int| {
        // SAFETY: the descriptor is open for as long as `stream` lives and the option is an int of the given size.
        let rc = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 2)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 2)?;
    set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 4000)
}
