//! A pseudo terminal whose other end a program here can speak on: the simulated instrument of the demo.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;

/// A pseudo terminal; [`Pair::path`] is what the gateway opens. Gone with this value.
pub struct Pair {
    master: AsyncFd<PtyMaster>,
    path: PathBuf,
}

impl Pair {
    /// A new one in raw mode. Must be called within a runtime.
    pub fn open() -> io::Result<Pair> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = PathBuf::from(ptsname_r(&master)?);
        let mut line = tcgetattr(master.as_fd())?;
        cfmakeraw(&mut line);
        tcsetattr(master.as_fd(), SetArg::TCSANOW, &line)?;
        // SAFETY: a PtyMaster owns one descriptor, which stays open and the same for as long as it lives.
        let master = unsafe { AsyncFd::register(master)? };
        Ok(Pair { master, path })
    }

    /// The end that is opened as a serial port.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says these bytes on the line; waits while nobody takes them.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
                Ok(written) => bytes = bytes.get(written?..).unwrap_or_default(),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Hears what is said on the line; waits while nothing is. Fails with EIO while nobody has the other end open.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), buffer)?)) {
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }
}
