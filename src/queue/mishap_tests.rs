//! What the proofs with the real daemon found (`tests/proofs`), each in its smallest form.

use std::io;

use super::disk::{Directory, Disk, Handle, LockError};
use super::tests::{T0, bodies, drain_all, options, reading, sec, work};
use super::work::{Failure, Report};
use super::*;

#[test]
fn a_refused_message_that_cannot_be_buried_is_buried_when_the_disk_is_well_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.link_up();
    for i in 0..300 {
        q.append(reading(1, &i.to_string()), T0);
    }
    let outs: Vec<Out> = std::iter::from_fn(|| q.take(T0)).collect();
    for out in &outs {
        q.refuse(out.token, "no", T0);
    }
    // More than can wait to be buried: said to be lost, and not called dead.
    let lost: u64 = q.take_gaps().iter().map(|g| g.count).sum();
    assert_eq!((q.stats().dead + lost, q.stats().dropped_total()), (300, lost));
    assert!(lost > 0 && q.stats().balance(), "{:?}", q.stats());
    let job = std::iter::from_fn(|| q.next_job(T0)).find(|job| matches!(job, Job::Bury(_))).unwrap();
    let failure = Failure::new("cannot", &io::Error::from_raw_os_error(libc::EIO));
    q.finished(Done { report: Report::Buried(Err(failure)), other_bytes: 0 }, T0);
    assert!(matches!(job, Job::Bury(lines) if lines.len() as u64 == 300 - lost));
    work(&mut q, &mut log, sec(3));
    let text = std::fs::read_to_string(dir.path().join("dead-letter.ndjson")).unwrap();
    assert_eq!(text.lines().count() as u64, q.stats().dead);
    assert_eq!((q.stats().waiting, q.stats().disk), (0, DiskState::Durable));
}

#[test]
fn a_clean_stop_buries_what_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    for i in 0..3 {
        q.append(reading(1, &i.to_string()), T0);
    }
    work(&mut q, &mut log, sec(1));
    q.link_up();
    let out = q.take(sec(1)).unwrap();
    q.refuse(out.token, "no", sec(1));
    q.stop();
    work(&mut q, &mut log, sec(1));
    assert!(q.stopped());
    assert!(std::fs::metadata(dir.path().join("dead-letter.ndjson")).is_ok_and(|m| m.len() > 0));
}

/// A directory whose segments cannot be opened.
struct Blind(Directory);

impl Disk for Blind {
    fn open(&mut self, name: &str, write: bool) -> io::Result<Handle> {
        if name.ends_with(".seg") {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.open(name, write)
    }
    fn lock(&mut self) -> Result<(), LockError> {
        self.0.lock()
    }
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        self.0.list()
    }
    fn create(&mut self, name: &str) -> io::Result<Handle> {
        self.0.create(name)
    }
    fn close(&mut self, file: Handle) {
        self.0.close(file);
    }
    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(file, offset, into)
    }
    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(file, offset, bytes)
    }
    fn set_len(&mut self, file: Handle, len: u64) -> io::Result<()> {
        self.0.set_len(file, len)
    }
    fn sync(&mut self, file: Handle) -> io::Result<()> {
        self.0.sync(file)
    }
    fn sync_dir(&mut self) -> io::Result<()> {
        self.0.sync_dir()
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
}

#[test]
fn a_segment_that_could_not_be_read_at_one_start_is_delivered_whole_after_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut q = Queue::open(options(dir.path()), T0).unwrap();
    for life in 0..2 {
        for i in 0..50 {
            q.0.append(reading(1, &format!("{life} {i}")), T0);
        }
        // Killed: the state does not know how far the names of the records went.
        work(&mut q.0, &mut q.1, sec(1));
        drop(q);
        let disk = Directory::new(dir.path());
        let disk: Box<dyn Disk> = if life == 0 { Box::new(Blind(disk)) } else { Box::new(disk) };
        q = Queue::open_on(disk, options(dir.path()), T0).unwrap();
    }
    q.0.link_up();
    let got = bodies(&drain_all(&mut q.0, &mut q.1, sec(1)));
    let want: Vec<String> = (0..2).flat_map(|life| (0..50).map(move |i| format!("{life} {i}"))).collect();
    assert_eq!(got, want);
}

#[test]
fn a_disk_that_does_not_answer_is_reported_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(Options { sync: Sync::Always, ..options(dir.path()) }, T0).unwrap();
    work(&mut q, &mut log, T0);
    q.link_up();
    q.append(reading(1, "x"), T0);
    let job = q.next_job(T0).unwrap();
    assert_eq!(q.take(sec(9)), None, "a slow card is no dead one");
    assert_eq!(q.stats().disk, DiskState::Durable);
    let out = q.take(sec(11)).unwrap();
    assert!(matches!(q.stats().disk, DiskState::Failing { text, .. } if text.contains("11 s")));
    q.done(out.token);
    q.append(reading(1, "y"), sec(11));
    q.finished(log.run(job), sec(60));
    assert_eq!(q.stats().disk, DiskState::Durable);
    assert_eq!(q.take(sec(60)), None, "from now on it is on disk again before it is sent");
    work(&mut q, &mut log, sec(60));
    assert_eq!(bodies(&drain_all(&mut q, &mut log, sec(60))), ["y"]);
    assert!(q.stats().balance());
}
