//! A STRICT FILE SYSTEM IN MEMORY, as strict as POSIX allows: names are durable only once the directory is synced,
//! contents once the file is. At a crash any subset of what was not synced survives, torn at 512 bytes. A failed sync
//! leaves what it should have written clean and perhaps unwritten, as Linux does, so that a second sync "succeeds".
//! Operations can be made to fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use pinpost::queue::disk::{Disk, Handle, LockError};

/// xorshift: quick, and the same everywhere.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        let mut r = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            r.next();
        }
        r
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Len(usize),
}

#[derive(Clone, Default)]
struct Node {
    durable: Vec<u8>,
    now: Vec<u8>,
    pending: Vec<Pending>,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fail {
    NoSpace,
    Io,
    ReadOnly,
    /// A write stops half way, with success; the rest fails for lack of space.
    Short,
    /// Only syncs fail.
    Sync,
}

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Read,
    Change,
    Write,
    Sync,
}

#[derive(Clone)]
pub struct Fs {
    nodes: Vec<Node>,
    dir: BTreeMap<String, usize>,
    durable_dir: BTreeMap<String, usize>,
    pending_dir: Vec<(String, Option<usize>)>,
    files: BTreeMap<Handle, usize>,
    next: Handle,
    /// Operations so far, reads included.
    pub ops: u64,
    /// Operations that change something so far.
    pub changes: u64,
    /// The power goes at this change.
    pub crash_at: u64,
    pub crashed: bool,
    /// Operations `.0..=.1` fail so.
    pub fail: Option<(u64, u64, Fail)>,
    /// One sync in so many fails.
    pub sync_fails: u64,
    pub rng: Rng,
}

impl Fs {
    pub fn new(seed: u64) -> Fs {
        Fs {
            nodes: Vec::new(),
            dir: BTreeMap::new(),
            durable_dir: BTreeMap::new(),
            pending_dir: Vec::new(),
            files: BTreeMap::new(),
            next: 1,
            ops: 0,
            changes: 0,
            crash_at: u64::MAX,
            crashed: false,
            fail: None,
            sync_fails: 0,
            rng: Rng::new(seed),
        }
    }

    /// The file system as the next process finds it.
    pub fn after_kill(&self) -> Fs {
        Fs { files: BTreeMap::new(), changes: 0, crash_at: u64::MAX, fail: None, ..self.clone() }
    }

    /// The file system as it comes back when the power does.
    pub fn after_crash(&self, rng: &mut Rng) -> Fs {
        let mut fs = Fs::new(rng.next());
        // Sometimes all or nothing survives, mostly some.
        let mood = rng.below(6);
        let survives = |rng: &mut Rng| match mood {
            0 => false,
            1 => true,
            _ => rng.one_in(2),
        };
        let mut dir = self.durable_dir.clone();
        for (name, node) in &self.pending_dir {
            if survives(rng) {
                match node {
                    Some(n) => dir.insert(name.clone(), *n),
                    None => dir.remove(name),
                };
            }
        }
        for (name, n) in dir {
            let node = &self.nodes[n];
            let mut bytes = node.durable.clone();
            for p in &node.pending {
                if !survives(rng) {
                    continue;
                }
                match p {
                    Pending::Len(len) => bytes.resize(*len, 0),
                    Pending::Write(at, data) => {
                        let torn = rng.one_in(3);
                        let mut from = 0;
                        while from < data.len() {
                            let to = (from + 512 - (at + from) % 512).min(data.len());
                            if !torn || rng.one_in(2) {
                                if bytes.len() < at + to {
                                    bytes.resize(at + to, 0);
                                }
                                bytes[at + from..at + to].copy_from_slice(&data[from..to]);
                            }
                            from = to;
                        }
                    }
                }
            }
            fs.nodes.push(Node { durable: bytes.clone(), now: bytes, pending: Vec::new() });
            fs.dir.insert(name.clone(), fs.nodes.len() - 1);
            fs.durable_dir.insert(name, fs.nodes.len() - 1);
        }
        fs
    }

    /// A number that differs where what is on the disk does.
    pub fn digest(&self) -> u64 {
        let mut h = 0u64;
        let mut add = |v: u64| h = (h.rotate_left(23) ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for (name, n) in &self.durable_dir {
            for bytes in [name.as_bytes(), &self.nodes[*n].durable] {
                add(bytes.len() as u64);
                for word in bytes.chunks(8) {
                    let mut w = [0; 8];
                    w[..word.len()].copy_from_slice(word);
                    add(u64::from_le_bytes(w));
                }
            }
        }
        h ^ h >> 29
    }

    /// A file's bytes, to be changed behind everybody's back.
    pub fn bytes(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        let n = *self.dir.get(name)?;
        Some(&mut self.nodes[n].now)
    }

    pub fn names(&self) -> Vec<String> {
        self.dir.keys().cloned().collect()
    }

    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.nodes.push(Node { durable: bytes.clone(), now: bytes, pending: Vec::new() });
        self.dir.insert(name.into(), self.nodes.len() - 1);
        self.durable_dir.insert(name.into(), self.nodes.len() - 1);
    }

    fn tick(&mut self, op: Op) -> io::Result<bool> {
        self.ops += 1;
        if op != Op::Read {
            self.changes += 1;
            self.crashed |= self.changes >= self.crash_at;
        }
        let err = |n: i32| Err(io::Error::from_raw_os_error(n));
        if self.crashed {
            return err(libc::EIO);
        }
        if op == Op::Sync && self.sync_fails > 0 {
            let n = self.sync_fails;
            if self.rng.one_in(n) {
                return err(libc::EIO);
            }
        }
        let Some((from, to, how)) = self.fail.filter(|f| (f.0..=f.1).contains(&self.ops)) else { return Ok(false) };
        debug_assert!(from <= to);
        match (how, op) {
            (Fail::Io, _) => err(libc::EIO),
            (Fail::Sync, Op::Sync) => err(libc::EIO),
            (Fail::ReadOnly, Op::Change | Op::Write | Op::Sync) => err(libc::EROFS),
            (Fail::NoSpace, Op::Write | Op::Change) => err(libc::ENOSPC),
            (Fail::Short, Op::Write) => Ok(true),
            _ => Ok(false),
        }
    }

    fn node(&mut self, file: Handle) -> io::Result<&mut Node> {
        let n = *self.files.get(&file).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.nodes[n])
    }

    fn handle(&mut self, node: usize) -> Handle {
        self.next += 1;
        self.files.insert(self.next, node);
        self.next
    }
}

/// The disk that the log is given; the test keeps another handle on the same file system.
#[derive(Clone)]
pub struct SimDisk(pub Arc<Mutex<Fs>>);

impl SimDisk {
    pub fn new(fs: Fs) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(fs)))
    }
    pub fn fs(&self) -> MutexGuard<'_, Fs> {
        self.0.lock().unwrap()
    }
}

impl Disk for SimDisk {
    fn lock(&mut self) -> Result<(), LockError> {
        self.fs().tick(Op::Read).map(drop).map_err(LockError::Io)
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut fs = self.fs();
        fs.tick(Op::Read)?;
        Ok(fs.dir.iter().map(|(name, n)| (name.clone(), fs.nodes[*n].now.len() as u64)).collect())
    }

    fn create(&mut self, name: &str) -> io::Result<Handle> {
        let mut fs = self.fs();
        fs.tick(Op::Change)?;
        if fs.dir.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs.nodes.push(Node::default());
        let n = fs.nodes.len() - 1;
        fs.dir.insert(name.into(), n);
        fs.pending_dir.push((name.into(), Some(n)));
        Ok(fs.handle(n))
    }

    fn open(&mut self, name: &str, _write: bool) -> io::Result<Handle> {
        let mut fs = self.fs();
        fs.tick(Op::Read)?;
        let n = *fs.dir.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(fs.handle(n))
    }

    fn close(&mut self, file: Handle) {
        self.fs().files.remove(&file);
    }

    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut fs = self.fs();
        fs.tick(Op::Read)?;
        let node = fs.node(file)?;
        let rest = node.now.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut fs = self.fs();
        let short = fs.tick(Op::Write)?;
        let bytes = match short {
            true if bytes.len() < 2 => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            true => &bytes[..bytes.len() / 2],
            false => bytes,
        };
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        let node = fs.node(file)?;
        if node.now.len() < to {
            node.now.resize(to, 0);
        }
        node.now[from..to].copy_from_slice(bytes);
        node.pending.push(Pending::Write(from, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn set_len(&mut self, file: Handle, len: u64) -> io::Result<()> {
        let mut fs = self.fs();
        fs.tick(Op::Change)?;
        let node = fs.node(file)?;
        node.now.resize(len as usize, 0);
        node.pending.push(Pending::Len(len as usize));
        Ok(())
    }

    fn sync(&mut self, file: Handle) -> io::Result<()> {
        let mut fs = self.fs();
        let result = fs.tick(Op::Sync);
        let crashed = fs.crashed;
        let half = fs.rng.one_in(2);
        let node = fs.node(file)?;
        match result {
            Ok(_) => {
                // What an earlier failed sync left clean is not written now either.
                for p in std::mem::take(&mut node.pending) {
                    apply(&mut node.durable, &p);
                }
                Ok(())
            }
            Err(e) => {
                if !crashed {
                    let pending = std::mem::take(&mut node.pending);
                    let some = pending.len() / 2 * usize::from(half);
                    pending.iter().take(some).for_each(|p| apply(&mut node.durable, p));
                }
                Err(e)
            }
        }
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let mut fs = self.fs();
        fs.tick(Op::Sync)?;
        fs.durable_dir = fs.dir.clone();
        fs.pending_dir.clear();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut fs = self.fs();
        fs.tick(Op::Change)?;
        let n = fs.dir.remove(from).ok_or(io::ErrorKind::NotFound)?;
        fs.dir.insert(to.into(), n);
        fs.pending_dir.push((to.into(), Some(n)));
        fs.pending_dir.push((from.into(), None));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut fs = self.fs();
        fs.tick(Op::Change)?;
        fs.dir.remove(name).ok_or(io::ErrorKind::NotFound)?;
        fs.pending_dir.push((name.into(), None));
        Ok(())
    }
}

fn apply(durable: &mut Vec<u8>, p: &Pending) {
    match p {
        Pending::Len(len) => durable.resize(*len, 0),
        Pending::Write(at, data) => {
            if durable.len() < at + data.len() {
                durable.resize(at + data.len(), 0);
            }
            durable[*at..at + data.len()].copy_from_slice(data);
        }
    }
}
