//! THE LANGUAGE between the queue's bookkeeping and the log: what is to be done, and what came of it.

use std::io;
use std::sync::Arc;

use super::cursor::State;
use super::disk::LockError;
use super::record::{Base, Item};
use super::recover::Recovered;
use super::segment::{Chain, Summary};

/// A segment by its place.
pub type SegmentId = (Chain, u64);

/// Sizes, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// A segment is finished when it reaches this.
    pub segment: u64,
    /// Steps in which a segment grows.
    pub chunk: u64,
    /// Bodies read ahead at a time.
    pub read_ahead: usize,
    /// What was set aside may take this much.
    pub aside: u64,
}

/// Something to be done on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Take the directory and find out what is there.
    Recover,
    /// Write these records and make them durable.
    Commit(Vec<(Chain, Vec<Arc<Item>>)>),
    /// Read the records from index `from` on.
    Read {
        /// Which segment.
        id: SegmentId,
        /// First index wanted.
        from: u32,
        /// How far the segment reaches, bytes.
        end: u64,
        /// How many records it has.
        count: u32,
        /// Its last reading.
        last_seq: Option<u64>,
        /// All of the rest, without bodies, because the segment is to be dropped.
        names_only: bool,
        /// Only these lanes; empty: all.
        lanes: Vec<u64>,
    },
    /// Save the state.
    Save(State),
    /// Remove these segments, whose end the state knows.
    Remove(Vec<SegmentId>),
    /// Keep these refused messages, one line each.
    Bury(Vec<String>),
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// No space (or inodes, or quota) left.
    pub full: bool,
    /// Another process owns the directory.
    pub owned: Option<Option<u32>>,
    /// The file is not there.
    pub missing: bool,
    /// What went wrong, for people.
    pub text: String,
}

impl Failure {
    /// An error met while doing `what`.
    pub fn new(what: &str, e: &io::Error) -> Failure {
        let full = matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE));
        Failure { full, owned: None, missing: e.kind() == io::ErrorKind::NotFound, text: format!("{what}: {e}") }
    }
}

impl From<LockError> for Failure {
    fn from(e: LockError) -> Failure {
        match e {
            LockError::Io(e) => Failure::new("cannot use the queue's directory", &e),
            LockError::Held(pid) => Failure {
                full: false,
                owned: Some(pid),
                missing: false,
                text: match pid {
                    Some(pid) => format!("the queue's directory belongs to another pinpost, process {pid}"),
                    None => "the queue's directory belongs to another pinpost".into(),
                },
            },
        }
    }
}

/// A record that is durable now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Which record.
    pub token: u64,
    /// Where.
    pub id: SegmentId,
    /// Its index there.
    pub index: u32,
}

/// How a segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub id: SegmentId,
    /// What is in it.
    pub summary: Summary,
    /// What its records count from.
    pub base: Base,
    /// How far its entries reach, bytes.
    pub end: u64,
    /// How long the file is, bytes.
    pub len: u64,
    /// Nothing will be added.
    pub sealed: bool,
    /// Given up after a failed write: what may lie behind its last record does not count.
    pub cut: bool,
    /// Its end was torn by a power cut, and that is reported.
    pub torn: bool,
    /// The set of lanes of which there is something, see `lanes::bit`.
    pub lanes: u64,
}

impl Standing {
    /// The first record's stamp; headers do not say whether the clock was set, the last record does.
    pub fn first_stamp(&self) -> super::Stamp {
        super::Stamp { synced: self.summary.last_stamp.synced, ..self.base.stamp }
    }
}

/// Records that cannot be read: indices and the sequence numbers between the good neighbours, ends excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// First index lost.
    pub from: u32,
    /// First index not lost.
    pub to: u32,
    /// The readings lost begin here…
    pub from_seq: u64,
    /// …and end before this.
    pub to_seq: u64,
}

/// What a [`Job::Read`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Records by index.
    pub items: Vec<(u32, Item)>,
    /// Index to go on from.
    pub next: u32,
    /// What lay between and was no record.
    pub lost: Vec<Lost>,
    /// Bytes set aside.
    pub bad_bytes: u64,
}

/// The outcome of a [`Job`].
#[derive(Debug)]
pub enum Report {
    /// Of [`Job::Recover`].
    Recovered(Result<Box<Recovered>, Failure>),
    /// Of [`Job::Commit`]; what is not placed must be written again.
    Committed {
        /// What is durable.
        placed: Vec<Placed>,
        /// The segments touched.
        standings: Vec<Standing>,
        /// What went wrong.
        failure: Option<Failure>,
    },
    /// Of [`Job::Read`].
    Page(SegmentId, Result<Page, Failure>),
    /// Of [`Job::Save`].
    Saved(Result<(), Failure>),
    /// Of [`Job::Remove`]: what is gone for good.
    Removed(Vec<SegmentId>, Result<(), Failure>),
    /// Of [`Job::Bury`].
    Buried(Result<(), Failure>),
}

/// A report and what the disk holds beside the segments.
#[derive(Debug)]
pub struct Done {
    /// The outcome.
    pub report: Report,
    /// Bytes of all other files.
    pub other_bytes: u64,
}
