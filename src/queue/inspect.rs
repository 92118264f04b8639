//! A LOOK INSIDE a queue's directory without owning it: for `queue list` and `queue export`, with the daemon
//! running or not. Changes nothing.

use std::io;
use std::path::Path;

use super::cursor::{SLOT, State};
use super::disk::{Directory, Disk};
use super::log::{MAX_FILE, STATE, read_base};
use super::segment::{self, Scanner, Step};
use super::work::SegmentId;
use super::{Queue, Rank, Stamp};

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Place in the order of arrival.
    pub token: u64,
    /// Sequence number of a reading.
    pub seq: Option<u64>,
    /// Importance.
    pub rank: Rank,
    /// Whose.
    pub source: String,
    /// When it was taken.
    pub stamp: Stamp,
    /// The message.
    pub body: Vec<u8>,
}

/// Goes through the records on disk that are not finished, by rank and then in order; a greater rank comes later.
/// Holds one segment in memory at a time. A record of a `latest` lane may appear with the ones it replaced.
pub struct Inspector {
    disk: Box<dyn Disk>,
    state: State,
    segments: std::vec::IntoIter<SegmentId>,
    here: Option<(SegmentId, Vec<u8>, Scanner)>,
    /// Bytes that are no record, met so far.
    pub bad_bytes: u64,
}

impl Inspector {
    /// Of the directory at `path`.
    pub fn open(path: &Path) -> io::Result<Inspector> {
        Inspector::on(Box::new(Directory::new(path)))
    }

    /// Of any [`Disk`].
    pub fn on(mut disk: Box<dyn Disk>) -> io::Result<Inspector> {
        let names = disk.list()?;
        let mut segments: Vec<SegmentId> = names.iter().filter_map(|(n, _)| segment::parse_name(n)).collect();
        segments.sort();
        let state = read(&mut *disk, STATE, 2 * SLOT as u64).unwrap_or_default();
        let state = State::newest(&state).map(|s| s.0).unwrap_or_default();
        Ok(Inspector { disk, state, segments: segments.into_iter(), here: None, bad_bytes: 0 })
    }

    fn finished(&self, id: SegmentId, index: u32) -> bool {
        let here = self.state.finished.iter().filter(|f| (f.chain, f.token) == id);
        here.into_iter().any(|f| f.gone || f.runs.iter().any(|(from, len)| (*from..from + len).contains(&index)))
    }
}

fn read(disk: &mut dyn Disk, name: &str, len: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(name, false)?;
    let mut bytes = vec![0; len as usize];
    let n = disk.read_at(file, 0, &mut bytes);
    disk.close(file);
    bytes.truncate(n?);
    Ok(bytes)
}

impl Iterator for Inspector {
    type Item = Kept;

    fn next(&mut self) -> Option<Kept> {
        loop {
            let Some((id, bytes, scan)) = &mut self.here else {
                let id = self.segments.next()?;
                let name = segment::name(id.0, id.1);
                let len = self
                    .disk
                    .list()
                    .ok()?
                    .into_iter()
                    .find(|(n, _)| *n == name)
                    .map_or(0, |(_, len)| len)
                    .min(MAX_FILE);
                // One that was finished and removed in the meantime is no loss.
                let Ok(bytes) = read(&mut *self.disk, &name, len) else { continue };
                match read_base(&bytes, id) {
                    Some(base) => self.here = Some((id, bytes, Scanner::new(id.0, base, false))),
                    None => self.bad_bytes += len,
                }
                continue;
            };
            let id = *id;
            match scan.step(bytes) {
                Step::Item(index, item) if !self.finished(id, index) => {
                    let (rank, source) = (id.0.rank, item.source.to_string());
                    return Some(Kept {
                        token: item.token,
                        seq: item.seq,
                        rank,
                        source,
                        stamp: item.stamp,
                        body: item.body,
                    });
                }
                Step::Item(..) | Step::Footer(_) => {}
                Step::Bad(from, to) => self.bad_bytes += (to - from) as u64,
                Step::End(..) => self.here = None,
            }
        }
    }
}

impl Queue {
    /// The records that only memory has, in order, for the part of `queue list` that an [`Inspector`] cannot see.
    pub fn in_memory(&self) -> impl Iterator<Item = Kept> {
        let here = self.records.values().filter(|r| r.place.is_none());
        here.map(|r| Kept {
            token: r.item.token,
            seq: r.item.seq,
            rank: r.chain.rank,
            source: r.item.source.to_string(),
            stamp: r.item.stamp,
            body: r.item.body.clone(),
        })
    }
}
