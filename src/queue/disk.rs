//! THE DISK, as the log needs it: a handful of file operations in one directory, behind a trait, so that the tests
//! can put a file system there that fails and crashes on command. [`Directory`] is the real one.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lock;

/// An open file.
pub type Handle = u64;

/// Why the directory could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process owns it; its id, where it can be read.
    Held(Option<u32>),
    /// It cannot be told: the directory is missing, read-only or dead.
    Io(io::Error),
}

/// File operations in the queue's directory. Names are plain file names.
pub trait Disk: Send {
    /// Makes the directory if needed and takes it for this process.
    fn lock(&mut self) -> Result<(), LockError>;
    /// Every file with its length in bytes.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;
    /// A new file, which must not exist.
    fn create(&mut self, name: &str) -> io::Result<Handle>;
    /// An existing file; to be written only if `write`.
    fn open(&mut self, name: &str, write: bool) -> io::Result<Handle>;
    /// Forgets a file.
    fn close(&mut self, file: Handle);
    /// Reads at `offset`; fewer bytes than asked for only at the end.
    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes at `offset`; may write less.
    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Sets the length.
    fn set_len(&mut self, file: Handle, len: u64) -> io::Result<()>;
    /// Makes contents and length durable (fdatasync).
    fn sync(&mut self, file: Handle) -> io::Result<()>;
    /// Makes names durable (fsync of the directory).
    fn sync_dir(&mut self) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a name away.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A directory of the real file system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: HashMap<Handle, File>,
    next: Handle,
    lock: Option<lock::Lock>,
}

impl Directory {
    /// The directory at `path`; nothing is touched yet.
    pub fn new(path: impl Into<PathBuf>) -> Directory {
        Directory { path: path.into(), files: HashMap::new(), next: 1, lock: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn keep(&mut self, file: File) -> Handle {
        let handle = self.next;
        self.next += 1;
        self.files.insert(handle, file);
        handle
    }

    fn file(&self, handle: Handle) -> io::Result<&File> {
        self.files.get(&handle).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Disk for Directory {
    fn lock(&mut self) -> Result<(), LockError> {
        if self.lock.is_none() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(&self.path);
            made.map_err(LockError::Io)?;
            self.lock = Some(lock::take(&self.path.join(lock::NAME))?);
        }
        Ok(())
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            if meta.is_file() {
                files.push((entry.file_name().to_string_lossy().into_owned(), meta.len()));
            }
        }
        Ok(files)
    }

    fn create(&mut self, name: &str) -> io::Result<Handle> {
        let mut how = OpenOptions::new();
        let file = how.read(true).write(true).create_new(true).mode(0o640).open(self.path.join(name))?;
        Ok(self.keep(file))
    }

    fn open(&mut self, name: &str, write: bool) -> io::Result<Handle> {
        let mut how = OpenOptions::new();
        let file = how.read(true).write(write).custom_flags(libc::O_NOFOLLOW).open(self.path.join(name))?;
        Ok(self.keep(file))
    }

    fn close(&mut self, file: Handle) {
        self.files.remove(&file);
    }

    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.file(file)?;
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|r| !r.is_empty()) {
            match file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file(file)?.write_at(bytes, offset)
    }

    fn set_len(&mut self, file: Handle, len: u64) -> io::Result<()> {
        self.file(file)?.set_len(len)
    }

    fn sync(&mut self, file: Handle) -> io::Result<()> {
        self.file(file)?.sync_data()
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }
}
