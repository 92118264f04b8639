//! Waiting for a node to come back without polling: the kernel tells when its directory changes (inotify).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{PortKind, PortSpec};

/// Time for udev to give a new node its group before anybody tries to open it; also the shortest time between two
/// returns.
const SETTLE: Duration = Duration::from_millis(50);

/// Returns when the port may have (re)appeared or become accessible, at the latest after `longest`. A TCP server and a
/// program give no sign: for them it is `longest`. Cancel safe.
///
/// A node that is there already (held by somebody, or forbidden) ends the wait only by changing.
pub async fn wait_for(spec: &PortSpec, longest: Duration) {
    let watched = async {
        let seen = match &spec.kind {
            PortKind::Path { path, .. } => node(Path::new(path)).await,
            PortKind::Usb { .. } => any_tty(Path::new("/dev")).await,
            PortKind::Tcp { .. } | PortKind::Command { .. } => std::future::pending().await,
        };
        match seen {
            Ok(()) => tokio::time::sleep(SETTLE).await,
            // the kernel has no watch left for us: only the time is
            Err(_) => std::future::pending().await,
        }
    };
    let _ = tokio::time::timeout(longest, watched).await;
}

/// Until something happens to `path`, or to what it links to.
async fn node(path: &Path) -> io::Result<()> {
    let was_there = path.exists();
    loop {
        let watcher = Watcher::new()?;
        let mut near = vec![watcher.toward(path)?];
        if let Ok(target) = std::fs::read_link(path) {
            let from = path.parent().unwrap_or(Path::new("/"));
            near.push(watcher.toward(&from.join(target))?);
        }
        if !was_there && path.exists() {
            return Ok(());
        }
        let changed = watcher.changed(|wd, name| near.iter().any(|n| n.dir == wd && n.name.as_deref() == name)).await?;
        if near.iter().any(|n| n.last && changed.as_ref().is_some_and(|(wd, name)| n.dir == *wd && n.name == *name)) {
            return Ok(());
        }
        // a directory on the way came or went: look again from there
    }
}

/// Until a node whose name starts with `tty` comes or changes.
async fn any_tty(dev: &Path) -> io::Result<()> {
    let watcher = Watcher::new()?;
    watcher.add(dev)?;
    watcher.changed(|_, name| name.is_some_and(|n| n.as_encoded_bytes().starts_with(b"tty"))).await?;
    Ok(())
}

/// The directory nearest to a path, and the name to look for in it.
struct Near {
    dir: WatchDescriptor,
    name: Option<OsString>,
    /// Whether that name is the path itself, not a directory on the way to it.
    last: bool,
}

struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

struct Watcher(AsyncFd<Fd>);

impl Watcher {
    fn new() -> io::Result<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // SAFETY: `Fd` owns an open descriptor, always gives the same one and is not replaced.
        Ok(Watcher(unsafe { AsyncFd::register_with_interest(Fd(inotify), Interest::READABLE) }?))
    }

    fn add(&self, dir: &Path) -> nix::Result<WatchDescriptor> {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.0.get_ref().0.add_watch(dir, what)
    }

    /// Watches the nearest directory that exists on the way to `path`.
    fn toward(&self, path: &Path) -> io::Result<Near> {
        let mut below = path;
        loop {
            let dir = match below.parent() {
                Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
                Some(dir) => dir,
                None => return Err(io::ErrorKind::NotFound.into()),
            };
            match self.add(dir) {
                Ok(wd) => {
                    return Ok(Near { dir: wd, name: below.file_name().map(OsStr::to_owned), last: below == path });
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) if dir != Path::new(".") => below = dir,
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The next change that `wanted` likes; `None` if a watched directory itself is gone.
    async fn changed(
        &self,
        wanted: impl Fn(WatchDescriptor, Option<&OsStr>) -> bool,
    ) -> io::Result<Option<(WatchDescriptor, Option<OsString>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            let Ok(events) = ready.try_io(|fd| fd.get_ref().0.read_events().map_err(io::Error::from)) else {
                continue;
            };
            for event in events? {
                let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_Q_OVERFLOW;
                if event.mask.intersects(gone) {
                    return Ok(None);
                }
                if wanted(event.wd, event.name.as_deref()) {
                    return Ok(Some((event.wd, event.name)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_tty_of_any_name_ends_the_wait_and_other_nodes_do_not() {
        let dev = tempfile::tempdir().unwrap();
        let mut wait = std::pin::pin!(any_tty(dev.path()));
        let mut poll = async || tokio::time::timeout(Duration::from_millis(50), wait.as_mut()).await;
        assert!(poll().await.is_err());
        std::fs::write(dev.path().join("sda"), "").unwrap();
        assert!(poll().await.is_err());
        std::fs::write(dev.path().join("ttyACM3"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("nothing woke it").unwrap();
    }
}
