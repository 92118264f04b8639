//! OPENING a queue on disk: its sizes, its log, its first look. Only a directory that belongs to another process
//! is an error; one that cannot be used is a trouble that may pass.

use std::fmt;
use std::time::Duration;

use super::disk::{Directory, Disk};
use super::jobs::DiskSide;
use super::log::Log;
use super::policy::{Replayer, TimeBase, us};
use super::work::{Report, Sizes};
use super::{Options, Queue};

/// Why a queue could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// Another process owns the directory; its id, where it could be read.
    Owned(Option<u32>),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            OpenError::Owned(Some(pid)) => {
                write!(f, "the queue's directory belongs to another pinpost, process {pid}; stop that one first")
            }
            OpenError::Owned(None) => {
                f.write_str("the queue's directory belongs to another pinpost; stop that one first")
            }
        }
    }
}

impl std::error::Error for OpenError {}

pub(super) fn sizes(options: &Options) -> Sizes {
    let max = options.limits.max_bytes;
    let segment = match options.segment {
        0 => (max / 64).clamp(4 << 10, 1 << 20),
        given => given.min(super::log::MAX_FILE / 2),
    };
    let chunk = (segment / 4).clamp(segment.min(4096), 64 << 10);
    let read_ahead = (segment as usize).clamp(1 << 10, 256 << 10).min((options.memory / 8).max(1024) as usize);
    Sizes { segment, chunk, read_ahead, aside: (max / 16).clamp(4 << 10, 1 << 20) }
}

impl Queue {
    /// Opens the queue in `options.dir`, reading only names, headers and footers. If the directory cannot be used
    /// the queue lives in memory until it can ([`Queue::health`] says so), and sequence numbers start from the wall
    /// clock's seconds times a million, which no number out of the directory can have reached.
    pub fn open(options: Options, now: Duration) -> Result<(Queue, Log), OpenError> {
        let disk = Box::new(Directory::new(&options.dir));
        Queue::open_on(disk, options, now)
    }

    /// The same on any [`Disk`].
    pub fn open_on(disk: Box<dyn Disk>, mut options: Options, now: Duration) -> Result<(Queue, Log), OpenError> {
        if options.clock.boot == 0 {
            options.clock = super::writer::system_stamp();
        }
        let sizes = sizes(&options);
        let mut queue = Queue::new(options.limits.clone(), options.first_seq);
        queue.sync = options.sync;
        queue.memory = options.memory;
        queue.replay = Replayer::new(options.replay);
        queue.clock = TimeBase::new(us(now), options.clock);
        queue.seq_limit = options.first_seq;
        queue.disk = Some(DiskSide::new(sizes, options.faults));
        let mut log = Log::new(disk, sizes, options.faults);
        // Recovering, and reserving the first numbers.
        let seconds = (options.clock.wall / 1000).max(0) as u64;
        for _ in 0..8 {
            if queue.has_numbers() {
                break;
            }
            let Some(job) = queue.next_job(now) else { break };
            let done = log.run(job);
            if let Report::Recovered(Err(f)) = &done.report {
                if let Some(pid) = f.owned {
                    return Err(OpenError::Owned(pid));
                }
                // What is found later must come before what comes now.
                queue.next_token = queue.next_token.max(seconds << 24);
            }
            queue.finished(done, now);
        }
        Ok((queue, log))
    }
}
