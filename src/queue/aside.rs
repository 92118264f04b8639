//! WHAT IS SET ASIDE: bytes that were no record (`bad-…`), and messages that the broker refused for good
//! (`dead-letter.ndjson`). Both are bounded; nothing here may hold up the log.

use std::io;

use super::disk::{Disk, Handle};
use super::log::write_all;
use super::segment;
use super::work::{Failure, SegmentId};

/// Refused messages, one JSON object a line.
pub const DEAD: &str = "dead-letter.ndjson";
/// The older ones.
pub const DEAD_OLD: &str = "dead-letter.1.ndjson";
/// How the names of damaged stretches begin.
pub const BAD: &str = "bad-";

/// Bytes of everything that is not a segment.
#[derive(Debug, Default)]
pub struct Aside {
    /// All of it.
    pub bytes: u64,
    /// Damaged stretches.
    pub bad: u64,
    state: u64,
}

impl Aside {
    /// There is a state file of so many bytes.
    pub fn state_bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(self.state) + bytes;
        self.state = bytes;
    }

    /// Keeps a damaged stretch for whoever wants to look; gives up silently, since it is counted anyway.
    pub fn keep(&mut self, disk: &mut dyn Disk, id: SegmentId, at: usize, junk: &[u8], limit: u64) {
        if self.bad + junk.len() as u64 > limit {
            return;
        }
        let name = format!("{BAD}{}-{at}", segment::name(id.0, id.1).trim_end_matches(".seg"));
        // If it exists, it was met before the last restart.
        let Ok(file) = disk.create(&name) else { return };
        let kept = write_all(disk, file, 0, junk);
        disk.close(file);
        if kept.is_ok() {
            self.bad += junk.len() as u64;
            self.bytes += junk.len() as u64;
        } else {
            let _ = disk.remove(&name);
        }
    }

    /// Sets a whole segment aside whose header cannot be read.
    pub fn keep_file(&mut self, disk: &mut dyn Disk, name: &str, len: u64, limit: u64) -> io::Result<()> {
        if self.bad + len > limit {
            disk.remove(name)?;
        } else {
            disk.rename(name, &format!("{BAD}{name}"))?;
            self.bad += len;
            self.bytes += len;
        }
        Ok(())
    }

    /// Makes refused messages durable.
    pub fn bury(&mut self, disk: &mut dyn Disk, lines: &[String], limit: u64) -> Result<(), Failure> {
        self.try_bury(disk, lines, limit).map_err(|e| Failure::new(&format!("cannot write {DEAD}"), &e))
    }

    fn try_bury(&mut self, disk: &mut dyn Disk, lines: &[String], limit: u64) -> io::Result<()> {
        let size = |disk: &mut dyn Disk, name: &str| -> io::Result<u64> {
            Ok(disk.list()?.into_iter().find(|(n, _)| n == name).map_or(0, |(_, len)| len))
        };
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        let mut len = size(disk, DEAD)?;
        if len > 0 && len + text.len() as u64 > limit / 2 {
            let old = size(disk, DEAD_OLD)?;
            disk.rename(DEAD, DEAD_OLD)?;
            self.bytes = self.bytes.saturating_sub(old);
            len = 0;
        }
        let file = if len == 0 {
            match disk.create(DEAD) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => disk.open(DEAD, true)?,
                other => other?,
            }
        } else {
            disk.open(DEAD, true)?
        };
        let result = put(disk, file, len, text);
        disk.close(file);
        self.bytes += result?;
        disk.sync_dir()
    }
}

fn put(disk: &mut dyn Disk, file: Handle, len: u64, mut text: String) -> io::Result<u64> {
    let mut last = [b'\n'];
    if len > 0 {
        disk.read_at(file, len - 1, &mut last)?;
    }
    // A line torn by a power cut must not swallow the next.
    if last != [b'\n'] {
        text.insert(0, '\n');
    }
    write_all(disk, file, len, text.as_bytes())?;
    disk.sync(file)?;
    Ok(text.len() as u64)
}
