//! STORE AND FORWARD. Opaque bodies, sequence numbers, and the order in which they leave.
//!
//! This is the queue's one door. Every message that pinpost publishes passes through it: [`Queue::append`] takes it
//! in, [`Queue::take`] hands it to the link, [`Queue::done`] forgets it once the broker has it. What was taken and
//! not done when the link breaks is taken again, in the old order ([`Queue::link_down`]). The room knows no other
//! room: no topic, no payload, no broker.
//!
//! # What it promises
//! - *Accepted* means: the broker has it, or it is on disk after fdatasync. What is accepted is not lost by a kill, a
//!   power cut, a full disk (then the policy drops, counts and reports) or damaged bytes elsewhere in the log.
//! - A record is written only if it is still here `sync` after it came. A healthy link writes nothing.
//! - The books balance at every moment: `accepted + found = delivered + waiting + dead + dropped + replaced`.
//! - Sequence numbers are never used twice, not even across a power cut.
//! - Memory is bounded: what is on disk is read back a page at a time.
//!
//! # Order
//! Records of one rank and lane never overtake each other among those that waited (the *backlog*, `replayed`) nor
//! among the live ones. Under [`Order::LiveFirst`] a live record passes the backlogs of all other lanes; behind that of
//! its own it waits while that is short (4096 records, or a second of [`Replay::rate`]) and passes a longer one, unless
//! it is marked [`Entry::in_order`] (for retained topics, whose last word must be the newest). Under
//! [`Order::BacklogFirst`] nothing of a rank passes anything. A greater rank goes first either way; a live record of a
//! lesser rank and a backlog of a greater one take turns.
//!
//! # Who does the work
//! [`Queue`] is bookkeeping: it never touches the disk and answers in microseconds, so it may sit behind a mutex that
//! the daemon's loop takes. Work for the disk is asked for with [`Queue::next_job`], done by a [`Log`] wherever
//! blocking is allowed, and answered with [`Queue::finished`]. [`Writer`] is the thread that does so; tests turn the
//! crank by hand.
//!
//! # The directory (format 1)
//! | file | what |
//! |---|---|
//! | `lock` | locked (flock) by the owner; its process id inside |
//! | `state` | two slots of 4096 bytes, written in turn, the newer whole one counts: magic `PPQSTATE`, version u16, generation u64, seq limit u64 (numbers below may have been used), next token u64, gaps not yet reported, which records of which segments are finished, CRC32C in the last four bytes. Each process begins with a new file (`state.new`, renamed) |
//! | `RRRk-TTTTTTTTTTTTTTTTTTTT.seg` | a segment, at most 1 MiB (more only for one larger record): rank, kind (`a` all, `l` latest of a lane), first token, all decimal |
//! | `reserve` | space that is given up when the disk is full, so that the state can be saved |
//! | `dead-letter.ndjson`, `dead-letter.1.ndjson` | what the broker refused for good |
//! | `bad-…` | damaged stretches of segments, set aside |
//!
//! Numbers are little-endian; *varint* is base 128, low bits first; *signed* is a varint in zigzag. A segment is two
//! equal 64-byte headers and then entries. Header: magic `PINPOSTQ`, version u16, rank u8, latest u8, how
//! many records the chain's segment before it had (u32; 0: unknown), the bases (first token u64, first seq u64, wall
//! ms i64, mono ms u64, boot u64), the low half of that segment's first token u32, CRC32C u32. An
//! entry: u32 (low 22 bits: payload length; high 10 bits: a check of it), CRC32C u32 of that word and the payload,
//! payload. All checksums of a segment start from the CRC32C of its file name, so that no entry can be taken for one
//! of another file. Payloads by the low three bits of their first byte:
//! 1. *record*: further bits say 8 has seq, 16 has ttl, 32 foreign clock, 64 clock synced, 128 in order; varint index
//!    in the segment, varint source number, signed (token − base − index), \[signed (seq − base − index)\],
//!    \[varint ttl ms\], stamp (signed wall − base, signed drift between wall and mono; or in full), body.
//! 2. *source*: varint number, lane u64, keep u8, name. Precedes the first record that names it.
//! 3. *footer*, the end of a finished segment: count u32, readings u32, last token u64, first seq u64, has last u8,
//!    last seq u64, last stamp, bytes of the entry before it u32, the header again.
//! 4. *lanes*, right before the footer: for each lane u64, varint records.
//!
//! Four zero bytes in an entry's place end the segment: files grow by zeros ahead of need, since growing costs the
//! card a journal commit. Whatever is neither entry nor blank is skipped to the next good entry, set aside and
//! reported as a gap (`corrupt`) where records are missing. A file of another version is left alone and reported.

mod aside;
mod books;
mod chains;
mod cursor;
pub mod disk;
mod faults;
mod inspect;
mod jobs;
mod lanes;
mod lock;
mod log;
mod memory;
mod open;
mod outcomes;
mod policy;
mod purge;
mod record;
mod recover;
mod segment;
mod work;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

pub use books::{DiskState, Health, Stats};
#[cfg(any(test, feature = "planted-bugs"))]
pub use faults::Bug;
pub use faults::Faults;
pub use inspect::{Inspector, Kept, Overview, View, dead_letters};
pub use log::Log;
pub use open::OpenError;
pub use purge::{Purged, Which, purge_at_rest};
pub use record::MAX_BODY;
pub use work::{Done, Job};
pub use writer::{ByHand, Guard, Shared, Writer};

/// Who goes first, who is dropped last; a greater rank is more important.
pub type Rank = u8;

/// What is kept of a lane while the link is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Keep {
    /// Every record.
    #[default]
    All,
    /// The latest record of the lane.
    Latest,
    /// Nothing.
    None,
}

/// When a reading was taken, kept with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Milliseconds since 1970 by the system's clock then.
    pub wall: i64,
    /// Milliseconds on the clock that never jumps.
    pub mono: u64,
    /// Names the clock that `mono` counts on: equal ones may be compared. 0: no stamp, the queue makes one.
    pub boot: u64,
    /// Whether the system's clock had been set.
    pub synced: bool,
}

/// A record to be kept until the broker has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Whether it is a reading and takes the next sequence number.
    pub reading: bool,
    /// Importance; greater leaves first and is dropped last.
    pub rank: Rank,
    /// Records of one lane keep their order (a hash of the point or topic).
    pub lane: u64,
    /// What is kept while the link is down.
    pub keep: Keep,
    /// Never to overtake older ones of its rank that wait, even under [`Order::LiveFirst`]: for retained topics.
    pub in_order: bool,
    /// Time since the daemon's start at which it is worth nothing; `None`: the queue's `max_age` alone decides.
    pub expires: Option<Duration>,
    /// When it was taken; `boot` 0: now.
    pub stamp: Stamp,
    /// A name for reports of loss: the point, `weather/temperature`.
    pub source: String,
    /// The message, opaque; at most [`MAX_BODY`] bytes.
    pub body: Vec<u8>,
}

/// A record handed out to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    /// For [`Queue::done`].
    pub token: u64,
    /// Sequence number, for a reading.
    pub seq: Option<u64>,
    /// Waited while the link was down, or was sent before without an answer.
    pub replayed: bool,
    /// When it was taken.
    pub stamp: Stamp,
    /// How long it has waited.
    pub age: Duration,
    /// What is left of its life, where it has an end.
    pub expires_in: Option<Duration>,
    /// The message, opaque.
    pub body: Vec<u8>,
}

/// What becomes of records that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest of the least rank goes.
    #[default]
    DropOldest,
    /// The one that just came goes, unless something of a lesser rank can.
    DropNewest,
}

/// Limits of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files in the directory; without a directory, bytes of memory.
    pub max_bytes: u64,
    /// Age after which a record is worth nothing.
    pub max_age: Duration,
    /// Policy.
    pub when_full: WhenFull,
}

/// When a record must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// This long after it came, if it is still here.
    Within(Duration),
    /// Before it is sent.
    Always,
}

/// Who goes first when the link is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// What comes now.
    #[default]
    LiveFirst,
    /// What has waited.
    BacklogFirst,
}

/// How the backlog is sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Replay {
    /// Who goes first.
    pub order: Order,
    /// At most so many records of the backlog in a second; `None`: no limit. Live ones are not limited.
    pub rate: Option<f64>,
}

/// How a queue on disk is to be kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory; made if it is not there.
    pub dir: PathBuf,
    /// Limits.
    pub limits: Limits,
    /// When records are written.
    pub sync: Sync,
    /// How the backlog is sent.
    pub replay: Replay,
    /// Bytes of memory that records may take.
    pub memory: u64,
    /// The first sequence number of a new directory.
    pub first_seq: u64,
    /// What the clocks say at the `now` that is handed to `open`.
    pub clock: Stamp,
    /// Segment size in bytes; 0: a sixty-fourth of `max_bytes`, between 4 KiB and 1 MiB.
    pub segment: u64,
    /// Planted bugs, for tests.
    pub faults: Faults,
}

impl Options {
    /// The defaults, at `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        let day = Duration::from_secs(86_400);
        Options {
            dir: dir.into(),
            limits: Limits { max_bytes: 64 << 20, max_age: day * 7, when_full: WhenFull::DropOldest },
            sync: Sync::Within(Duration::from_secs(1)),
            replay: Replay::default(),
            memory: 4 << 20,
            first_seq: 1,
            clock: Stamp::default(),
            segment: 0,
            faults: Faults::default(),
        }
    }
}

/// Why readings are lost, as [`Gap::reason`] says it.
pub const REASONS: [&str; 5] = ["full", "expired", "corrupt", "newest dropped", "purged"];

/// Readings that were lost, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First sequence number lost.
    pub from: u64,
    /// Last sequence number lost.
    pub to: u64,
    /// How many readings.
    pub count: u64,
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// Whose, where all are of one source.
    pub source: Option<String>,
}

/// The queue. Not shared: the owner wraps it as it likes ([`Shared`] is a mutex with a writer behind it).
pub struct Queue {
    limits: Limits,
    sync: Sync,
    replay: policy::Replayer,
    /// Bytes that records may take in memory.
    memory: u64,
    clock: policy::TimeBase,
    next_seq: u64,
    /// Numbers below this are reserved on disk.
    seq_limit: u64,
    /// Numbers are given out that are not reserved.
    unreserved: bool,
    next_token: u64,
    up: bool,
    /// All records in memory: waiting, handed out, read back.
    records: BTreeMap<u64, chains::Rec>,
    /// Waiting records and segments, by rank.
    chains: BTreeMap<segment::Chain, chains::ChainState>,
    /// Handed out and not yet done.
    out: BTreeSet<u64>,
    /// In memory only, and to be written when their time comes.
    unsynced: BTreeSet<u64>,
    unsynced_bytes: u64,
    mem_bytes: u64,
    /// Memory may hold records that could be read back instead.
    evictable: bool,
    /// The waiting record of a lane that keeps only its latest.
    latest: BTreeMap<u64, u64>,
    books: books::Books,
    /// Nothing here for a queue that lives in memory only.
    disk: Option<jobs::DiskSide>,
    now: i64,
}

#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod mishap_tests;
#[cfg(test)]
mod tests;
