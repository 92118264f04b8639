//! ONE OWNER: a lock on the queue's directory that ends with the process, and the owner's process id inside.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::disk::LockError;

/// The lock file.
pub const NAME: &str = "lock";

/// The lock; dropping it gives the directory back.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// Takes the lock; never waits.
pub fn take(path: &Path) -> Result<Lock, LockError> {
    let mut how = OpenOptions::new();
    let file = how.read(true).write(true).create(true).truncate(false).mode(0o640).custom_flags(libc::O_NOFOLLOW);
    let file = file.open(path).map_err(LockError::Io)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // Only a courtesy to the next one, which must not fail the start.
            let _ = lock.set_len(0).and_then(|()| writeln!(&*lock, "{}", std::process::id()));
            let _ = lock.flush();
            Ok(Lock(lock))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = Read::take(&mut file, 32).read_to_string(&mut text);
            Err(LockError::Held(text.trim().parse().ok()))
        }
        Err((_, e)) => Err(LockError::Io(io::Error::from(e))),
    }
}
