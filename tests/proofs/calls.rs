//! Every file system call of a run is the one at which the process dies, or which fails with EIO, or with ENOSPC.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::books::on_disk;
use crate::fault::Fault;
use crate::rig::{Rig, wish};

/// Runs at a time: they wait more than they work.
const AT_A_TIME: u64 = 8;
const QUEUE: &str = "sync: 20ms, max_size: 1MiB";

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// A queue that a daemon which was killed has left: several segments, a state, no goodbye.
fn template() -> (tempfile::TempDir, u64) {
    let mut rig = Rig::new(1, QUEUE);
    rig.start();
    assert!(rig.feed(90, 900));
    rig.until_kept(rig.last());
    rig.kill();
    let dir = tempfile::tempdir().unwrap();
    copy(&rig.home.path("state"), &dir.path().join("state"));
    (dir, rig.books.written)
}

/// What a run came to.
struct Run {
    calls: Vec<String>,
    /// The fault struck.
    struck: bool,
}

/// The reference run: a backlog is found, live readings pass, the broker goes, segments fill, it comes back, everything
/// leaves, one in sixteen is refused for good, the daemon stops. `fault` strikes somewhere in there; a healthy daemon
/// then finds what is left, and the books balance.
fn run(template: &Path, written: u64, fault: &str) -> Run {
    let at = fault.split_once(':').map_or(usize::MAX, |(n, _)| n.parse().unwrap());
    let kills = fault.ends_with("kill");
    let mut rig = Rig::new(1, QUEUE);
    rig.name = format!("fault {fault}");
    copy(&template.join("state"), &rig.home.path("."));
    (rig.books.written, rig.books.earlier, rig.books.late) = (written, written, !kills);
    let before = on_disk(&rig.dir());
    rig.books.accept(&before);
    let injected = Fault::new(fault, rig.home.path("state"), rig.home.path("calls"));
    let mut command = rig.home.command();
    injected.put_on(&mut command);
    rig.set_door(true);
    rig.start_with(command);
    let hello = rig.hello();
    if hello.is_some() {
        rig.set_door(false);
        rig.feed(24, 900);
        rig.feed(16, 0);
        let last = rig.last();
        rig.until("it is kept, or the fault strikes", |rig| {
            !rig.lives() || injected.calls().len() >= at || rig.is_kept(last)
        });
        rig.set_door(true);
        rig.until("what waited comes", |rig| !rig.lives() || rig.books.has_come(last));
        // Whatever struck: it goes on sampling.
        rig.feed(3, 0);
        let last = rig.last();
        rig.until("what is read now comes", |rig| !rig.lives() || rig.books.has_come(last));
    }
    let fed = rig.books.written;
    if rig.lives() {
        rig.gateway.as_ref().unwrap().program.signal(Signal::SIGTERM);
    }
    let ended = rig.gateway.take().unwrap().program.end();
    let calls = injected.calls();
    let struck = calls.len() >= at;
    let right = if kills && struck { ended.code.is_none() } else { ended.code == Some(0) };
    assert!(right && !ended.err.contains("panicked"), "fault {fault}: it ended with {:?}: {}", ended.code, ended.err);
    let dir = rig.dir();
    rig.hear_out();
    rig.books.audit(&format!("with fault {fault}"), &dir, usize::MAX);
    rig.start();
    rig.finish();
    if !kills {
        let missing = rig.books.uncome(hello.unwrap()..fed);
        assert!(missing.is_empty(), "fault {fault}: {missing:?} were lost without a word; {}", rig.books);
    }
    Run { calls, struck }
}

#[test]
fn a_kill_or_an_error_at_any_file_system_call_loses_nothing_and_stops_nothing() {
    let (dir, written) = template();
    let reference = run(dir.path(), written, "");
    let total = reference.calls.len() as u64;
    let begun = Instant::now();
    let only = std::env::var("FAULT").ok();
    if let Some(fault) = only {
        let calls = run(dir.path(), written, &fault).calls;
        println!("{}", calls.iter().enumerate().map(|(i, c)| format!("{} {c}", i + 1)).collect::<Vec<_>>().join(", "));
        return;
    }
    let every = wish("FAULT_EVERY", 1);
    let mut struck: BTreeMap<&str, u64> = BTreeMap::new();
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    let failed = Mutex::new(Vec::new());
    let hit = Mutex::new(BTreeSet::new());
    for kind in ["kill", "5", "28"] {
        let next = AtomicU64::new(1);
        let count = Mutex::new(0);
        let work = || {
            loop {
                let n = next.fetch_add(every, Ordering::SeqCst);
                let fault = format!("{n}:{kind}");
                let Ok(done) = std::panic::catch_unwind(|| run(dir.path(), written, &fault)) else {
                    failed.lock().unwrap().push(fault);
                    continue;
                };
                *count.lock().unwrap() += u64::from(done.struck);
                hit.lock().unwrap().extend(done.calls.get(n as usize - 1).map(|call| (kind, call.clone())));
                // To the end of the longest run, which differs by a call or two.
                if !done.struck && n > total {
                    return;
                }
            }
        };
        std::thread::scope(|s| {
            for _ in 0..AT_A_TIME {
                s.spawn(work);
            }
        });
        struck.insert(kind, count.into_inner().unwrap());
    }
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} faults did harm, such as {failed:?}; FAULT=… runs one of them", failed.len());
    for call in &reference.calls {
        *names.entry(call.clone()).or_default() += 1;
    }
    // Runs differ in length, but none of the calls that there are may have been spared.
    let hit = hit.into_inner().unwrap();
    let spared = |kind: &'static str| names.keys().find(|name| !hit.contains(&(kind, (*name).clone())));
    assert!(every > 1 || ["kill", "5", "28"].iter().all(|kind| spared(kind).is_none()), "spared: {hit:?}");
    println!(
        "file system calls: {total} in the reference run ({}); struck by SIGKILL {}, EIO {}, ENOSPC {} in {:.0} s: 0 \
         lost, 0 panics, sampling went on",
        names.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", "),
        struck["kill"],
        struck["5"],
        struck["28"],
        begun.elapsed().as_secs_f64()
    );
}
