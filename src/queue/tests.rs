//! The door's promises, in memory and on a real directory, the crank turned by hand.

use std::path::Path;

use super::chains::OVERHEAD;
use super::*;

pub(super) const T0: Duration = Duration::ZERO;

fn queue(max_bytes: u64, when_full: WhenFull) -> Queue {
    Queue::new(Limits { max_bytes, max_age: Duration::from_secs(60), when_full }, 1)
}
pub(super) fn reading(lane: u64, body: &str) -> Entry {
    Entry { reading: true, rank: 1, lane, source: "a".into(), body: body.into(), ..Entry::default() }
}
fn drain(q: &mut Queue) -> Vec<String> {
    std::iter::from_fn(|| q.take(T0)).map(|o| String::from_utf8(o.body).unwrap()).collect()
}

#[test]
fn what_was_taken_and_not_done_is_taken_again_in_order() {
    let mut q = queue(10_000, WhenFull::DropOldest);
    q.link_up();
    for b in ["1", "2", "3", "4"] {
        q.append(reading(1, b), T0);
    }
    let first = q.take(T0).unwrap();
    q.take(T0).unwrap();
    q.take(T0).unwrap();
    q.done(first.token);
    q.link_down();
    assert_eq!(drain(&mut q), ["2", "3", "4"]);
}

#[test]
fn a_full_queue_drops_the_oldest_of_the_least_rank_and_names_it() {
    let mut q = queue(OVERHEAD * 3 + 6, WhenFull::DropOldest);
    q.append(Entry { rank: 2, ..reading(1, "x") }, T0);
    for b in ["1", "2", "3"] {
        q.append(reading(1, b), T0);
    }
    assert_eq!(drain(&mut q), ["x", "2", "3"]);
    assert_eq!(q.take_gaps(), [Gap { from: 2, to: 2, count: 1, reason: "full", source: Some("a".into()) }]);
    assert_eq!(q.stats().dropped["full"], 1);
}

#[test]
fn drop_newest_keeps_what_waits() {
    let mut q = queue(OVERHEAD * 2 + 4, WhenFull::DropNewest);
    for b in ["1", "2", "3", "4"] {
        q.append(reading(1, b), T0);
    }
    assert_eq!(drain(&mut q), ["1", "2"]);
    let gaps = q.take_gaps();
    assert_eq!((gaps[0].from, gaps[0].to, gaps[0].reason), (3, 4, "newest dropped"));
}

#[test]
fn latest_keeps_one_of_a_lane_while_the_link_is_down() {
    let mut q = queue(10_000, WhenFull::DropOldest);
    for (lane, b) in [(1, "a1"), (2, "b1"), (1, "a2"), (2, "b2")] {
        q.append(Entry { keep: Keep::Latest, ..reading(lane, b) }, T0);
    }
    q.append(Entry { keep: Keep::None, ..reading(3, "never") }, T0);
    assert_eq!(drain(&mut q), ["a2", "b2"]);
    assert!(q.take_gaps().is_empty());
}

#[test]
fn an_old_record_expires_and_is_reported() {
    let mut q = queue(10_000, WhenFull::DropOldest);
    q.append(Entry { expires: Some(Duration::from_secs(5)), ..reading(1, "1") }, T0);
    q.append(reading(1, "2"), T0);
    let out = q.take(Duration::from_secs(6)).unwrap();
    assert_eq!((out.seq, out.replayed), (Some(2), true));
    assert_eq!(q.take_gaps()[0].reason, "expired");
    q.done(out.token);
    assert_eq!(q.stats().bytes, 0);
}

// From here on: on a directory.

pub(super) fn options(dir: &Path) -> Options {
    Options { clock: Stamp { wall: 1_700_000_000_000, mono: 0, boot: 1, synced: true }, ..Options::new(dir) }
}

pub(super) fn sec(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Does all that is to be done at `now`.
pub(super) fn work(q: &mut Queue, log: &mut Log, now: Duration) -> Vec<&'static str> {
    let mut did = Vec::new();
    while let Some(job) = q.next_job(now) {
        did.push(match &job {
            Job::Recover => "recover",
            Job::Commit(_) => "commit",
            Job::Read { names_only: true, .. } => "drop",
            Job::Read { .. } => "read",
            Job::Save(_) => "save",
            Job::Remove(_) => "remove",
            Job::Bury(_) => "bury",
        });
        let done = log.run(job);
        q.finished(done, now);
        assert!(did.len() < 100_000);
    }
    assert!(q.next_wake(now).is_none_or(|w| w > Duration::ZERO), "nothing to do and yet awake");
    assert!(q.stats().balance(), "{:?}", q.stats());
    did
}

pub(super) fn drain_all(q: &mut Queue, log: &mut Log, now: Duration) -> Vec<Out> {
    let mut all = Vec::new();
    loop {
        work(q, log, now);
        let before = all.len();
        while let Some(out) = q.take(now) {
            q.done(out.token);
            all.push(out);
        }
        if all.len() == before {
            return all;
        }
    }
}

pub(super) fn bodies(outs: &[Out]) -> Vec<String> {
    outs.iter().map(|o| String::from_utf8(o.body.clone()).unwrap()).collect()
}

#[test]
fn a_backlog_survives_the_end_of_the_process_in_order_and_with_its_stamps() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    let stamp = Stamp { wall: 1_600_000_000_000, mono: 5, boot: 1, synced: false };
    for i in 0..5000 {
        q.append(Entry { stamp, ..reading(i % 7, &format!("{i}")) }, T0);
    }
    work(&mut q, &mut log, sec(1));
    assert_eq!(q.stats().unsynced, 0);
    drop((q, log));
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    assert_eq!((q.stats().found, q.stats().waiting), (5000, 5000));
    q.link_up();
    let outs = drain_all(&mut q, &mut log, T0);
    assert_eq!(bodies(&outs), (0..5000).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(outs.iter().enumerate().all(|(i, o)| o.seq == Some(i as u64 + 1) && o.replayed && o.stamp == stamp));
    assert!(q.append(reading(1, "new"), T0).unwrap() > 5000);
    assert_eq!(q.stats().delivered, 5000);
}

#[test]
fn what_is_done_before_its_time_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.link_up();
    work(&mut q, &mut log, T0);
    for i in 0..10_000u64 {
        let now = Duration::from_millis(i * 10);
        q.append(reading(1, "x"), now);
        let out = q.take(now).unwrap();
        assert!(!out.replayed);
        let later = now + Duration::from_millis(5);
        assert_eq!(work(&mut q, &mut log, later), Vec::<&str>::new());
        q.done(out.token);
    }
    assert_eq!(q.stats().written, 0);
}

#[test]
fn always_means_on_disk_before_it_is_sent_and_one_sync_for_many() {
    let dir = tempfile::tempdir().unwrap();
    let opt = Options { sync: Sync::Always, ..options(dir.path()) };
    let (mut q, mut log) = Queue::open(opt, T0).unwrap();
    q.link_up();
    work(&mut q, &mut log, T0);
    for i in 0..64 {
        q.append(reading(i, "x"), T0);
    }
    assert_eq!(q.take(T0), None);
    assert_eq!(work(&mut q, &mut log, T0), ["commit"]);
    assert_eq!(std::iter::from_fn(|| q.take(T0)).count(), 64);
}

#[test]
fn live_ones_pass_a_long_backlog_unless_they_must_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    for i in 0..20_000 {
        q.append(reading(1, &format!("{i}")), T0);
        if i % 1000 == 0 {
            work(&mut q, &mut log, T0);
        }
    }
    work(&mut q, &mut log, sec(1));
    q.link_up();
    work(&mut q, &mut log, sec(1));
    assert_eq!(q.take(sec(1)).unwrap().body, b"0");
    q.append(Entry { in_order: true, ..reading(1, "retained") }, sec(1));
    q.append(reading(1, "live"), sec(1));
    let live = q.take(sec(1)).unwrap();
    assert_eq!((live.body.as_slice(), live.replayed), (b"live".as_slice(), false));
    let rest = drain_all(&mut q, &mut log, sec(1));
    assert_eq!(rest.len(), 20_000);
    assert_eq!(rest.last().unwrap().body, b"retained");
}

#[test]
fn a_burst_that_heeds_the_pressure_keeps_its_order_over_a_good_link() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(Options { memory: 64 << 10, ..options(dir.path()) }, T0).unwrap();
    q.link_up();
    let mut got = Vec::new();
    let mut held = 0;
    for n in 0..3000u64 {
        let now = Duration::from_millis(n * 4);
        while q.pressed() {
            held += 1;
            let out = q.take(now).unwrap();
            q.done(out.token);
            got.push(out);
        }
        q.append(reading(n % 3, &n.to_string()), now);
        work(&mut q, &mut log, now);
    }
    got.extend(drain_all(&mut q, &mut log, sec(13)));
    assert_eq!(bodies(&got), (0..3000).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(held > 1000, "the burst was never held back");
}

#[test]
fn backlog_first_keeps_everything_of_a_rank_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let replay = Replay { order: Order::BacklogFirst, rate: None };
    let (mut q, mut log) = Queue::open(Options { replay, ..options(dir.path()) }, T0).unwrap();
    for i in 0..3000 {
        q.append(reading(1, &format!("{i}")), T0);
    }
    work(&mut q, &mut log, sec(1));
    q.link_up();
    q.append(reading(1, "3000"), sec(1));
    q.append(Entry { rank: 9, ..reading(1, "alarm") }, sec(1));
    let outs = drain_all(&mut q, &mut log, sec(1));
    let mut want: Vec<String> = (0..=3000).map(|i| i.to_string()).collect();
    want.insert(0, "alarm".into());
    assert_eq!(bodies(&outs), want);
}

#[test]
fn a_rate_holds_back_only_the_backlog() {
    let mut q = queue(1 << 20, WhenFull::DropOldest);
    q.set_replay(Replay { order: Order::LiveFirst, rate: Some(10.0) });
    for i in 0..5 {
        q.append(reading(1, &format!("old {i}")), T0);
    }
    q.link_up();
    for i in 0..5 {
        q.append(reading(2, &format!("live {i}")), T0);
    }
    assert_eq!(drain(&mut q).len(), 6);
    let wait = q.next_take(T0).unwrap();
    assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
    assert_eq!(q.take(wait + Duration::from_millis(1)).unwrap().body, b"old 1");
}

#[test]
fn a_full_disk_quota_drops_whole_segments_of_the_least_rank_and_names_every_reading() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.limits.max_bytes = 256 << 10;
    let (mut q, mut log) = Queue::open(opt, T0).unwrap();
    let mut now = T0;
    for i in 0..20_000u64 {
        now += Duration::from_millis(100);
        let rank = if i % 100 == 0 { 200 } else { 100 };
        q.append(Entry { rank, ..reading(i % 5, "twenty five bytes of data") }, now);
        work(&mut q, &mut log, now);
    }
    work(&mut q, &mut log, now + sec(2));
    let used: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(used <= 256 << 10, "{used}");
    assert!(q.stats().bytes.abs_diff(used) <= 16, "{} {used}", q.stats().bytes);
    let gaps = q.take_gaps();
    q.link_up();
    let outs = drain_all(&mut q, &mut log, now);
    let alarms = outs.iter().filter(|o| (o.seq.unwrap() - 1) % 100 == 0).count();
    assert_eq!(alarms, 200, "alarms are the last to go");
    let mut seen = std::collections::BTreeSet::new();
    for out in &outs {
        assert!(seen.insert(out.seq.unwrap()));
    }
    let lost: u64 = gaps.iter().map(|g| g.count).sum();
    assert_eq!(lost + seen.len() as u64, 20_000);
    assert!(seen.len() > 4000, "{}", seen.len());
    let covered = |s: u64| gaps.iter().any(|g| (g.from..=g.to).contains(&s));
    assert!((1..=20_000).all(|s| seen.contains(&s) || covered(s)));
    assert!(gaps.iter().all(|g| g.reason == "full"));
}

#[test]
fn drop_newest_on_disk_keeps_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.limits.max_bytes = 128 << 10;
    opt.limits.when_full = WhenFull::DropNewest;
    let (mut q, mut log) = Queue::open(opt, T0).unwrap();
    for i in 0..6000u64 {
        let now = Duration::from_millis(i * 100);
        q.append(reading(1, "twenty five bytes of data"), now);
        work(&mut q, &mut log, now);
    }
    work(&mut q, &mut log, sec(700));
    let gaps = q.take_gaps();
    q.link_up();
    let outs = drain_all(&mut q, &mut log, sec(700));
    let kept = outs.len() as u64;
    assert!(kept > 1000 && outs.iter().enumerate().all(|(i, o)| o.seq == Some(i as u64 + 1)), "{kept}");
    assert_eq!(gaps.iter().map(|g| g.count).sum::<u64>(), 6000 - kept);
    assert_eq!((gaps[0].from, gaps[0].reason), (kept + 1, "newest dropped"));
}

#[test]
fn latest_on_disk_is_one_of_a_lane_across_restarts_and_the_disk_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.segment = 4096;
    let (mut q, mut log) = Queue::open(opt.clone(), T0).unwrap();
    let mut now = T0;
    for i in 0..2000 {
        now += sec(2);
        let lane = if i == 0 { 9 } else { i % 3 };
        q.append(Entry { keep: Keep::Latest, ..reading(lane, &format!("{lane} {i}")) }, now);
        work(&mut q, &mut log, now);
        assert!(q.stats().segments <= 5, "{}", q.stats().segments);
    }
    work(&mut q, &mut log, now + sec(2));
    let mut want = vec!["9 0".to_string(), "0 1998".into(), "1 1999".into(), "2 1997".into()];
    want.sort();
    drop((q, log));
    let (mut q, mut log) = Queue::open(opt, T0).unwrap();
    q.link_up();
    let mut got = bodies(&drain_all(&mut q, &mut log, T0));
    got.sort();
    assert_eq!(got, want);
}

#[test]
fn a_refused_message_is_buried_with_its_reason_and_the_rest_flows_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.link_up();
    q.append(reading(1, "bad \"one\""), T0);
    q.append(reading(1, "good"), T0);
    let bad = q.take(T0).unwrap();
    q.refuse(bad.token, "not authorised", T0);
    assert_eq!(work(&mut q, &mut log, T0), ["bury"]);
    let good = q.take(T0).unwrap();
    q.done(good.token);
    let text = std::fs::read_to_string(dir.path().join("dead-letter.ndjson")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["body"], &line["reason"], &line["seq"]),
        (&"bad \"one\"".into(), &"not authorised".into(), &1.into())
    );
    let s = q.stats();
    assert_eq!((s.dead, s.delivered, s.waiting), (1, 1, 0));
}

#[test]
fn the_dead_letter_file_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.limits.max_bytes = 1 << 20;
    let (mut q, mut log) = Queue::open(opt, T0).unwrap();
    q.link_up();
    for i in 0..2000 {
        q.append(reading(1, &format!("{i} {}", "x".repeat(200))), T0);
        let out = q.take(T0).unwrap();
        q.refuse(out.token, "no", T0);
        work(&mut q, &mut log, T0);
    }
    let len = |n: &str| std::fs::metadata(dir.path().join(n)).unwrap().len();
    assert!(len("dead-letter.ndjson") + len("dead-letter.1.ndjson") <= 64 << 10);
    let used: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(q.stats().bytes.abs_diff(used) <= 16);
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Queue::open(options(dir.path()), T0).unwrap();
    let second = Queue::open(options(dir.path()), T0).err();
    assert_eq!(second, Some(OpenError::Owned(Some(std::process::id()))));
}

#[test]
fn without_a_usable_directory_it_runs_from_memory_and_finds_the_disk_later() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("queue");
    std::fs::write(&place, "in the way").unwrap();
    let (mut q, mut log) = Queue::open(options(&place), T0).unwrap();
    assert!(matches!(q.stats().disk, DiskState::Failing { .. }), "{:?}", q.stats().disk);
    let seq = q.append(reading(1, "early"), T0).unwrap();
    assert!(seq >= 1_700_000_000_000_000, "{seq}");
    work(&mut q, &mut log, sec(1));
    std::fs::remove_file(&place).unwrap();
    work(&mut q, &mut log, sec(5));
    assert_eq!((q.stats().disk, q.stats().unsynced), (DiskState::Durable, 0));
    drop((q, log));
    let (q, _log) = Queue::open(options(&place), T0).unwrap();
    assert_eq!(q.stats().waiting, 1);
    assert!(q.stats().next_seq > seq);
}

#[test]
fn what_expires_on_disk_is_counted_without_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.limits.max_age = sec(100);
    opt.segment = 4096;
    let (mut q, mut log) = Queue::open(opt, T0).unwrap();
    for i in 0..1000 {
        q.append(reading(1, "x"), sec(i));
        work(&mut q, &mut log, sec(i));
    }
    work(&mut q, &mut log, sec(1002));
    let s = q.stats();
    assert!(s.dropped["expired"] > 700 && s.waiting >= 100, "{s:?}");
    q.link_up();
    assert!(drain_all(&mut q, &mut log, sec(1002)).iter().all(|o| o.seq.unwrap() > 900));
}

#[test]
fn a_clean_stop_wastes_no_number() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
        assert_eq!(q.append(reading(1, "x"), T0), Some(round + 1));
        q.stop();
        work(&mut q, &mut log, T0);
        assert!(q.stopped());
    }
}

#[test]
fn files_of_others_and_of_other_versions_are_left_alone_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let name = "100a-00000000000000000001.seg";
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.append(Entry { rank: 100, ..reading(1, "x") }, T0);
    work(&mut q, &mut log, sec(1));
    drop((q, log));
    let mut bytes = std::fs::read(dir.path().join(name)).unwrap();
    (bytes[8], bytes[72]) = (9, 9);
    std::fs::write(dir.path().join(name), &bytes).unwrap();
    std::fs::write(dir.path().join("holiday.jpg"), b"pixels").unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    work(&mut q, &mut log, sec(1));
    let words = q.health().words.join("; ");
    assert!(words.contains("version 9") && words.contains("holiday.jpg"), "{words}");
    assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), bytes);
    assert!(q.append(reading(1, "y"), T0).is_some());
}

#[test]
fn a_flipped_bit_in_the_middle_costs_one_record_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    for i in 1..=300 {
        q.append(reading(i % 3, &format!("body {i}")), T0);
    }
    work(&mut q, &mut log, sec(1));
    drop((q, log));
    let seg = dir.path().join("001a-00000000000000000001.seg");
    let mut bytes = std::fs::read(&seg).unwrap();
    let at = bytes.windows(8).position(|w| w == b"body 150").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&seg, bytes).unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.link_up();
    let outs = drain_all(&mut q, &mut log, T0);
    assert_eq!(outs.len(), 299);
    assert_eq!(q.take_gaps(), [Gap { from: 150, to: 150, count: 1, reason: "corrupt", source: None }]);
    assert!(
        std::fs::read_dir(dir.path()).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().starts_with("bad-"))
    );
    assert!(q.health().bad_bytes > 0);
}

#[test]
fn purging_empties_disk_and_memory_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    for i in 0..1000 {
        q.append(reading(1, &format!("{i}")), T0);
    }
    work(&mut q, &mut log, sec(1));
    q.append(reading(1, "young"), sec(1));
    q.purge(Which::default(), sec(1));
    work(&mut q, &mut log, sec(1));
    assert_eq!((q.stats().waiting, q.stats().dropped["purged"], q.stats().segments), (0, 1001, 0));
}

#[test]
fn an_inspector_sees_what_is_not_finished() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    for i in 0..10 {
        q.append(reading(1, &format!("{i}")), T0);
    }
    work(&mut q, &mut log, sec(1));
    q.link_up();
    for _ in 0..4 {
        work(&mut q, &mut log, sec(1));
        let out = q.take(sec(1)).unwrap();
        q.done(out.token);
    }
    work(&mut q, &mut log, sec(3));
    q.append(reading(1, "only in memory"), sec(3));
    let seen: Vec<_> = Inspector::open(dir.path()).unwrap().map(|k| k.seq.unwrap()).collect();
    assert_eq!(seen, [5, 6, 7, 8, 9, 10]);
    assert_eq!(q.in_memory().map(|k| k.seq.unwrap()).collect::<Vec<_>>(), [11]);
}

#[test]
fn a_report_of_loss_is_given_again_after_a_crash_until_it_is_safe() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.limits.max_bytes = 64 << 10;
    let (mut q, mut log) = Queue::open(opt.clone(), T0).unwrap();
    for i in 0..3000u64 {
        q.append(reading(1, "twenty five bytes of data"), Duration::from_millis(i * 100));
        work(&mut q, &mut log, Duration::from_millis(i * 100));
    }
    let gaps = q.take_gaps();
    assert!(!gaps.is_empty());
    drop((q, log));
    let (mut q, _log) = Queue::open(opt, T0).unwrap();
    let again = q.take_gaps();
    assert_eq!(again.iter().map(|g| g.to).max(), gaps.iter().map(|g| g.to).max());
}

#[test]
fn the_thread_writes_reads_back_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let opt = Options { sync: Sync::Within(Duration::from_millis(20)), ..options(dir.path()) };
    let start = std::time::Instant::now();
    let (queue, log) = Queue::open(opt.clone(), T0).unwrap();
    let shared = Shared::new(queue, start);
    let (tell, told) = std::sync::mpsc::channel();
    let writer = Writer::start(shared.clone(), log, move || assert!(tell.send(()).is_ok())).unwrap();
    for i in 0..30_000 {
        // faster than the disk: what does not heed the pressure is dropped
        while shared.lock().pressed() {
            told.recv_timeout(sec(10)).unwrap();
        }
        let now = shared.now();
        shared.lock().append(reading(1, &format!("{i}")), now);
    }
    while shared.lock().stats().unsynced > 0 {
        told.recv_timeout(sec(10)).unwrap();
    }
    shared.lock().link_up();
    let mut got = Vec::new();
    while got.len() < 30_000 {
        let now = shared.now();
        let out = shared.lock().take(now);
        match out {
            Some(out) => {
                shared.lock().done(out.token);
                got.push(out);
            }
            None => told.recv_timeout(sec(10)).unwrap(),
        }
    }
    assert_eq!(bodies(&got), (0..30_000).map(|i| i.to_string()).collect::<Vec<_>>());
    let now = shared.now();
    shared.lock().append(reading(1, "last"), now);
    writer.stop();
    assert!(shared.lock().stopped());
    drop(shared);
    let (q, _log) = Queue::open(opt, T0).unwrap();
    assert_eq!((q.stats().waiting, q.stats().next_seq), (1, 30_002));
}

#[test]
fn a_huge_file_with_a_segments_name_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("001a-00000000000000000001.seg");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.append(reading(1, "x"), T0);
    work(&mut q, &mut log, sec(1));
    assert!(q.health().words.iter().any(|w| w.contains("larger than any segment")), "{:?}", q.health());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 40);
    assert_eq!((q.stats().unsynced, q.stats().segments), (0, 1));
}

#[test]
fn a_reserve_that_a_power_cut_left_empty_is_filled_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(super::log::RESERVE);
    for left in [0, 100] {
        std::fs::write(&file, vec![0xff; left]).unwrap();
        drop(Queue::open(Options::new(dir.path()), T0).unwrap());
        assert_eq!(std::fs::metadata(&file).unwrap().len(), super::log::RESERVE_BYTES as u64);
    }
}
