//! A machine to be mistreated: file systems that are mounted for one test and gone with it, the power that is cut,
//! and a look at what a daemon's queue thread is doing. Needs root and a kernel that lets it mount.
//!
//! Every test mounts in a mount namespace of its own thread, so that nothing outlives it, however it ends: with the
//! last process of the namespace the mounts go, and with those their loop devices.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::support::program::{PATIENCE, run};

/// From now on what this thread and its children mount is theirs alone. The first of all steps.
pub fn own_mounts() {
    // SAFETY: a plain system call.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(
        done,
        0,
        "this proof mounts file systems, and this machine does not let it ({}): run it as root, outside of a container \
         without CAP_SYS_ADMIN",
        std::io::Error::last_os_error()
    );
    must(&["mount", "--make-rprivate", "/"]);
}

/// A command that must succeed.
pub fn must(words: &[&str]) -> String {
    let ended = run(Command::new(words[0]).args(&words[1..]), b"");
    assert_eq!(ended.code, Some(0), "{words:?}: {}{}", ended.text(), ended.err);
    ended.text()
}

/// A file system on a directory, unmounted at the end.
pub struct Mount {
    at: PathBuf,
    what: Vec<String>,
    up: bool,
}

impl Mount {
    /// `mount` with these words, on `at`, which is made.
    pub fn new(words: &[&str], at: &Path) -> Mount {
        fs::create_dir_all(at).unwrap();
        let mut mount = Mount { at: at.to_owned(), what: words.iter().map(|w| (*w).to_owned()).collect(), up: false };
        mount.mount();
        mount
    }

    /// An image file with an ext4 of so many KiB, made by mkfs with these words.
    pub fn image(file: &Path, kib: u64, words: &[&str]) {
        File::create(file).unwrap().set_len(kib << 10).unwrap();
        let file = file.display().to_string();
        must(&[&["mkfs.ext4", "-q", "-F"], words, &[&file]].concat());
    }

    pub fn mount(&mut self) {
        let mut words: Vec<&str> = vec!["mount"];
        words.extend(self.what.iter().map(String::as_str));
        let at = self.at.display().to_string();
        words.push(&at);
        must(&words);
        self.up = true;
    }

    pub fn unmount(&mut self) {
        self.up = false;
        let path = CString::new(self.at.as_os_str().as_bytes()).unwrap();
        let begun = Instant::now();
        // A child that another thread is just making has our descriptors until it becomes its own program.
        // SAFETY: a whole C string.
        while unsafe { libc::umount2(path.as_ptr(), 0) } != 0 {
            let why = std::io::Error::last_os_error();
            assert!(why.raw_os_error() == Some(libc::EBUSY) && begun.elapsed() < PATIENCE, "umount: {why}");
            std::thread::yield_now();
        }
    }

    pub fn remount(&mut self, option: &str) {
        must(&["mount", "-o", &format!("remount,{option}"), &self.at.display().to_string()]);
    }

    /// The power is cut: from this moment nothing reaches the disk, not even what the journal has in memory.
    pub fn cut_power(&self) {
        const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let no_log_flush: u32 = 2;
        let dir = File::open(&self.at).unwrap();
        // SAFETY: the kernel reads one u32.
        let done = unsafe { libc::ioctl(dir.as_raw_fd(), EXT4_IOC_SHUTDOWN, &no_log_flush) };
        assert_eq!(done, 0, "the shutdown ioctl of ext4: {}", std::io::Error::last_os_error());
    }

    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.up {
            let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        }
    }
}

/// The thread of a daemon that works for its queue.
pub struct QueueThread(PathBuf);

impl QueueThread {
    /// `None`: it has not been started yet.
    pub fn of(pid: u32) -> Option<QueueThread> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut tasks = tasks.filter_map(|t| Some(t.ok()?.path()));
        let named = |t: &PathBuf| fs::read_to_string(t.join("comm")).is_ok_and(|c| c.trim() == "queue");
        tasks.find(named).map(QueueThread)
    }

    /// Whether it waits for work: then everything that it has written was made durable, for it syncs what it has
    /// written before it does anything else. This is how an observer knows, without asking the daemon, that what it
    /// saw in a file *before* this call is accepted.
    pub fn rests(&self) -> bool {
        let call = fs::read_to_string(self.0.join("syscall")).expect("/proc/PID/task/TID/syscall can be read");
        call.split(' ').next().and_then(|n| n.parse().ok()) == Some(libc::SYS_futex)
    }
}
