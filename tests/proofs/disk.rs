//! A disk that fails under the running daemon: full, without inodes, with write-back that fails, read-only, frozen. It
//! goes on sampling and moving outputs, says what is wrong, and is well again within seconds of the disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lab::{Mount, must, own_mounts};
use crate::rig::Rig;
use crate::support::gateway::publish;

/// Within this time of the disk's healing, readings must be safe on it again. `$HEALED` says how many seconds instead,
/// for a machine that others use too.
fn deadline() -> Duration {
    Duration::from_secs(std::env::var("HEALED").map_or(5, |s| s.parse().expect("HEALED is a number of seconds")))
}
/// Cases at a time: they wait more than they work.
const AT_A_TIME: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// A small tmpfs that something else fills.
    Tmpfs,
    /// An ext4 of 4 MiB that something else fills.
    Ext4,
    /// A tmpfs without a free inode.
    Inodes,
    /// An ext4 whose blocks cannot be written: fdatasync says so, after write did not.
    WriteBack,
    /// Mounted read-only, at the start; mounted for writing later.
    ReadOnly,
    /// An ext4 that has met an error and made itself read-only, for good: only a mount anew heals it.
    Emergency,
    /// A disk that answers nothing at all for a while.
    Frozen,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// It is there when the daemon starts.
    Start,
    /// It comes while the link is up.
    Live,
    /// It comes while the link is down and readings wait.
    Outage,
    /// The same, and more comes than memory holds.
    Flood,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    moment: Moment,
    queue: &'static str,
}

/// The mistreated disk. Dropped, it is well.
struct Patient {
    kind: Kind,
    mount: Mount,
    outer: Option<Mount>,
    sick: bool,
}

impl Patient {
    fn new(kind: Kind, moment: Moment, rig: &Rig) -> Patient {
        // The queue's max_size is 1 MiB; a flood needs it, else a small disk will do.
        let size = if moment == Moment::Flood { "size=2m" } else { "size=512k" };
        let (at, image) = (rig.home.path("state"), rig.home.path("disk.img"));
        let looped = |image: &PathBuf, options: &str| {
            Mount::new(&["-o", &format!("loop{options}"), &image.display().to_string()], &at)
        };
        let (mount, outer) = match kind {
            Kind::Tmpfs => (Mount::new(&["-t", "tmpfs", "-o", size, "tmpfs"], &at), None),
            // A queue of 1 MiB is 64 files when it is full, and they are to find room once the disk is well.
            Kind::Inodes => (Mount::new(&["-t", "tmpfs", "-o", "size=8m,nr_inodes=128", "tmpfs"], &at), None),
            Kind::ReadOnly => (Mount::new(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], &at), None),
            Kind::Ext4 | Kind::Emergency | Kind::Frozen => {
                Mount::image(&image, 4 << 10, &[]);
                (looped(&image, ",errors=remount-ro"), None)
            }
            Kind::WriteBack => {
                let outer = Mount::new(&["-t", "tmpfs", "-o", "size=3m", "tmpfs"], &rig.home.path("outer"));
                let image = outer.path().join("disk.img");
                Mount::image(&image, 16 << 10, &["-O", "^has_journal"]);
                (looped(&image, ",errors=continue"), Some(outer))
            }
        };
        Patient { kind, mount, outer, sick: false }
    }

    fn path(&self) -> String {
        self.mount.path().display().to_string()
    }

    fn fall_ill(&mut self) {
        self.sick = true;
        match self.kind {
            Kind::Tmpfs | Kind::Ext4 => fill(&self.mount.path().join("filler")),
            Kind::WriteBack => fill(&self.outer.as_ref().unwrap().path().join("filler")),
            Kind::Inodes => {
                let mut names = (0..).map(|i| self.mount.path().join(format!("filler{i}")));
                while names.next().is_some_and(|name| File::create(name).is_ok()) {}
            }
            Kind::ReadOnly => self.mount.remount("ro"),
            Kind::Emergency => {
                let device = must(&["findmnt", "-no", "SOURCE", &self.path()]);
                let name = device.trim().trim_start_matches("/dev/").to_owned();
                fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "on purpose").unwrap();
            }
            Kind::Frozen => drop(must(&["fsfreeze", "-f", &self.path()])),
        }
    }

    fn heal(&mut self) {
        if !std::mem::take(&mut self.sick) {
            return;
        }
        match self.kind {
            Kind::Tmpfs | Kind::Ext4 => fs::remove_file(self.mount.path().join("filler")).unwrap(),
            Kind::WriteBack => fs::remove_file(self.outer.as_ref().unwrap().path().join("filler")).unwrap(),
            Kind::Inodes => {
                for i in 0.. {
                    if fs::remove_file(self.mount.path().join(format!("filler{i}"))).is_err() {
                        break;
                    }
                }
            }
            Kind::ReadOnly => self.mount.remount("rw"),
            Kind::Emergency => {
                self.mount.unmount();
                self.mount.mount();
            }
            Kind::Frozen => drop(must(&["fsfreeze", "-u", &self.path()])),
        }
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        // A daemon that hangs in a frozen disk could not even be killed.
        if self.kind == Kind::Frozen && self.sick {
            let _ = std::process::Command::new("fsfreeze").args(["-u", &self.path()]).output();
        }
    }
}

/// Writes until nothing more fits.
fn fill(file: &std::path::Path) {
    let mut file = File::create(file).unwrap();
    for size in [64 << 10, 4096, 512, 1] {
        while file.write_all(&vec![b'#'; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
}

/// An output that is commanded now moves now.
fn obeys(rig: &mut Rig) {
    rig.talk.retain(|h| h.topic != "gw/pump/result");
    publish(&rig.broker, "gw/pump/set", "TOGGLE", &[]);
    let mut outcome = None;
    rig.until("the pump's answer", |rig| {
        outcome = rig.talk.iter().find(|h| h.topic == "gw/pump/result").map(|h| h.json());
        outcome.is_some()
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome["outcome"], "done", "{}: {outcome}", rig.name);
    let level = if outcome["value"] == "ON" { "1" } else { "0" };
    rig.until("the pin moves", |rig| {
        rig.talk.iter().rev().find(|h| h.topic == "gw/sim/pin/27").is_some_and(|h| h.text() == level)
    });
}

/// What is read now comes.
fn samples(rig: &mut Rig) {
    rig.feed(3, 0);
    let last = rig.last();
    rig.until_come(last);
}

fn is_failing(rig: &mut Rig) -> bool {
    let queue = rig.health()["queue"].clone();
    queue["disk"] == "failing" && queue["trouble"].as_str().is_some_and(|t| !t.is_empty())
}

fn play(case: Case) {
    let mut rig = Rig::new(1, "");
    rig.name = format!("{case:?}");
    rig.configure("", &format!("max_size: 1MiB, {}", case.queue));
    let mut disk = Patient::new(case.kind, case.moment, &rig);
    (rig.books.may_drop, rig.all_welcome) = (case.moment == Moment::Flood, case.moment == Moment::Flood);
    if case.moment == Moment::Start {
        disk.fall_ill();
    }
    rig.set_door(true);
    rig.start();
    let hello = rig.hello().expect("it runs");
    rig.feed(20, 200);
    let last = rig.last();
    rig.until_come(last);
    if case.moment == Moment::Live {
        disk.fall_ill();
        samples(&mut rig);
        obeys(&mut rig);
    }
    rig.set_door(false);
    rig.feed(20, 0);
    if matches!(case.moment, Moment::Outage | Moment::Flood) {
        let last = rig.last();
        rig.until_kept(last);
        disk.fall_ill();
    }
    let (count, pad) = if case.moment == Moment::Flood { (9000, 1500) } else { (120, 600) };
    rig.feed(count, pad);
    // Sampling and outputs go on with a sick disk, and what waited in memory leaves.
    rig.set_door(true);
    let last = rig.last();
    if case.moment == Moment::Flood {
        // The newest are dropped as long as memory is full.
        rig.hello();
    } else {
        rig.until_come(last);
    }
    samples(&mut rig);
    obeys(&mut rig);
    rig.until("the trouble is told", |rig| rig.books.sick || is_failing(rig));
    if case.kind == Kind::Emergency {
        // Only a mount anew heals this one, for which the daemon has to let go.
        rig.finish_sick();
        disk.heal();
        rig.start();
        rig.hello();
    } else {
        disk.heal();
    }
    let healed = Instant::now();
    rig.set_door(false);
    rig.feed(2, 0);
    rig.until("it is on disk again", |rig| {
        // One may just have slipped through the door.
        let slipped = rig.books.has_come(rig.last());
        if slipped {
            rig.feed(2, 0);
        }
        !slipped && rig.is_kept(rig.last())
    });
    assert!(healed.elapsed() < deadline(), "{}: well again only after {:?}", rig.name, healed.elapsed());
    rig.finish();
    let missing = rig.books.uncome(hello..rig.books.written);
    if case.moment == Moment::Flood {
        assert!(rig.books.gap_count > 0, "{}: no flood", rig.name);
    } else if case.kind != Kind::Emergency {
        assert!(missing.is_empty(), "{}: {missing:?} were lost without a word; {}", rig.name, rig.books);
    }
    if case.kind != Kind::Emergency {
        rig.books.exact(&rig.name);
    }
}

#[test]
fn a_disk_that_fails_stops_nothing_and_is_used_again_when_it_is_well() {
    let mut cases = Vec::new();
    let (lazy, strict) = ("sync: 100ms, when_full: drop_oldest", "sync: always, when_full: drop_newest");
    for kind in [Kind::Tmpfs, Kind::Ext4, Kind::Inodes, Kind::WriteBack, Kind::ReadOnly, Kind::Emergency, Kind::Frozen]
    {
        for moment in [Moment::Start, Moment::Live, Moment::Outage] {
            // A mounted disk that is in use cannot be made read-only; a frozen or dead one cannot be started from.
            let possible = match kind {
                Kind::ReadOnly => moment == Moment::Start,
                Kind::Emergency => moment == Moment::Live,
                Kind::Frozen => moment != Moment::Start,
                _ => true,
            };
            if possible {
                cases.extend([lazy, strict].map(|queue| Case { kind, moment, queue }));
            }
        }
    }
    for (kind, queue) in [
        (Kind::Tmpfs, lazy),
        (Kind::Ext4, "sync: 100ms, when_full: drop_newest"),
        (Kind::WriteBack, lazy),
        (Kind::Inodes, "sync: always, when_full: drop_oldest"),
    ] {
        cases.push(Case { kind, moment: Moment::Flood, queue });
    }
    let wanted = std::env::var("CASE").unwrap_or_default();
    cases.retain(|c| format!("{c:?}").contains(&wanted));
    let (total, begun) = (cases.len(), Instant::now());
    let (cases, failed) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|s| {
        for _ in 0..AT_A_TIME {
            s.spawn(|| {
                own_mounts();
                while let Some(case) = { cases.lock().unwrap().pop() } {
                    if std::panic::catch_unwind(|| play(case)).is_err() {
                        failed.lock().unwrap().push(case);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {total} cases failed: {failed:#?}", failed.len());
    println!(
        "disk faults: {total} cases in {:.0} s: 0 panics, sampling and outputs went on, reported, on disk again within {} s",
        begun.elapsed().as_secs_f64(),
        deadline().as_secs()
    );
}
