//! What is lost is said: exactly, once, and in few words. And clocks that are set while records wait.

use std::path::Path;

use super::tests::{T0, bodies, drain_all, options, reading, sec, work};
use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn small_losses_of_several_points_side_by_side_make_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.limits.when_full = WhenFull::DropNewest;
    opt.limits.max_bytes = 64 << 10;
    let (mut q, mut log) = Queue::open(opt, T0).unwrap();
    let mut reports = Vec::new();
    for i in 0..4000u64 {
        q.append(Entry { source: format!("p{}", i % 3), ..reading(i % 3, "twenty five bytes of data") }, ms(i * 100));
        work(&mut q, &mut log, ms(i * 100));
        reports.extend(q.take_settled_gaps(ms(i * 100)));
    }
    assert!(reports.is_empty(), "with the link down they can grow: {reports:?}");
    q.link_up();
    let wait = q.next_gap(sec(400)).unwrap();
    reports.extend(q.take_settled_gaps(sec(400) + wait));
    let lost = q.stats().dropped["newest dropped"];
    // Where the last bytes of room are, one is kept now and then.
    assert!(reports.len() < 20, "{reports:?}");
    assert!(lost > 3000 && reports.iter().map(|g| g.count).sum::<u64>() == lost);
    assert!(reports.iter().all(|g| g.to - g.from + 1 == g.count), "exactly");
    assert_eq!(reports.last().unwrap().source, None, "of several points");
}

#[test]
fn with_the_link_up_a_report_waits_until_it_has_stopped_growing_but_not_for_long() {
    let mut q = Queue::new(Limits { max_bytes: 600, max_age: sec(60), when_full: WhenFull::DropNewest }, 1);
    q.link_up();
    let mut reports = Vec::new();
    for i in 0..150 {
        q.append(reading(1, "x"), ms(i * 100));
        reports.extend(q.take_settled_gaps(ms(i * 100)).into_iter().map(|g| (i, g.count)));
    }
    assert_eq!(reports, [(102, 101)], "ten seconds after the first");
    assert_eq!(q.next_gap(ms(14_900)), Some(sec(1)));
    assert_eq!(q.take_settled_gaps(ms(15_899)), []);
    assert_eq!(q.take_settled_gaps(ms(15_900)).len(), 1);
    assert_eq!(q.next_gap(ms(15_900)), None);
}

#[test]
fn of_too_many_reports_the_nearest_are_merged_and_none_is_forgotten() {
    let mut q = Queue::new(Limits { max_bytes: 1 << 20, max_age: sec(600), when_full: WhenFull::DropNewest }, 1);
    for i in 0..1000u64 {
        // every third is worth nothing at once
        let expires = (i % 3 == 0).then_some(T0);
        q.append(Entry { expires, ..reading(1, "x") }, sec(1));
    }
    let got = std::iter::from_fn(|| q.take(sec(2))).count();
    let gaps = q.take_gaps();
    assert_eq!((got, gaps.iter().map(|g| g.count).sum::<u64>()), (666, 334));
    assert!(gaps.len() <= 128 && gaps.windows(2).all(|w| w[0].to < w[1].from), "{gaps:?}");
    assert_eq!((gaps[0].from, gaps.last().unwrap().to), (1, 1000));
}

/// Cuts the last `n` bytes of the only segment's entries off, leaving what lies before them.
fn tear(dir: &Path, n: usize) {
    let seg = dir.join("001a-00000000000000000001.seg");
    let mut bytes = std::fs::read(&seg).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    bytes[end - n..end].fill(0);
    std::fs::write(&seg, bytes).unwrap();
}

#[test]
fn a_torn_end_is_kept_aside_and_reported_once_with_its_range() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    for i in 1..=20 {
        q.append(reading(1, &format!("the body of number {i:5}")), T0);
    }
    work(&mut q, &mut log, sec(1));
    drop((q, log));
    // The last whole sector did not reach the disk: the bodies of some, all of others.
    tear(dir.path(), 8);
    for start in 0..3 {
        let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
        let gaps = q.take_gaps();
        work(&mut q, &mut log, sec(start));
        assert_eq!(q.stats().waiting, 19 + start);
        let want = Gap { from: 20, to: 20, count: 1, reason: "corrupt", source: None };
        assert_eq!(gaps, if start == 0 { vec![want] } else { vec![] }, "start {start}");
        q.append(Entry { reading: false, rank: 3, ..reading(9, "told") }, sec(start));
        work(&mut q, &mut log, sec(start + 3));
        work(&mut q, &mut log, sec(start + 15));
    }
    let aside = std::fs::read_dir(dir.path()).unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
    assert_eq!(aside.filter(|n| n.starts_with("bad-")).count(), 1);
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.append(reading(1, "after"), T0);
    work(&mut q, &mut log, sec(1));
    q.link_up();
    let outs = drain_all(&mut q, &mut log, sec(1));
    assert_eq!(outs.iter().filter(|o| o.seq.is_some()).count(), 20, "nineteen and the new one");
    assert!(q.take_gaps().is_empty());
}

#[test]
fn a_report_that_a_power_cut_interrupts_is_given_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.append(Entry { expires: Some(sec(1)), ..reading(1, "x") }, T0);
    q.link_up();
    assert!(q.take(sec(2)).is_none());
    q.link_down();
    work(&mut q, &mut log, sec(3));
    work(&mut q, &mut log, sec(64));
    work(&mut q, &mut log, sec(70));
    drop((q, log));
    let (mut q, _log) = Queue::open(options(dir.path()), T0).unwrap();
    assert_eq!(q.take_gaps()[0].reason, "expired");
}

#[test]
fn numbers_are_skipped_sparingly_and_a_busy_gateway_seldom_writes_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    q.link_up();
    work(&mut q, &mut log, T0);
    // Ten a second for eighteen hours over a good link.
    let (mut saves, mut last) = (0, 0);
    for i in 0..648_000u64 {
        let now = ms(i * 100);
        last = q.append(reading(1, "x"), now).unwrap();
        let out = q.take(now).unwrap();
        q.done(out.token);
        if i % 100 == 0 {
            saves += work(&mut q, &mut log, now).len();
        }
    }
    assert!(saves <= 3, "{saves} writes");
    drop((q, log));
    let (mut q, log) = Queue::open(options(dir.path()), T0).unwrap();
    let next = q.append(reading(1, "x"), T0).unwrap();
    assert!(next > last && next - last <= 1 << 20);
    drop((q, log));
    let (mut q, _log) = Queue::open(options(dir.path()), T0).unwrap();
    let after = q.append(reading(1, "x"), T0).unwrap();
    assert!(after > next && after - next <= 1 << 16, "a gateway that says little loses little: {}", after - next);
}

#[test]
fn a_clock_that_jumps_back_reorders_and_expires_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
    let jump = |q: &mut Queue, at: u64, wall: i64| {
        q.set_clock(sec(at), Stamp { wall, mono: at * 1000, boot: 1, synced: true });
    };
    for i in 0..300u64 {
        match i {
            100 => jump(&mut q, i, 1_000_000_000_000),
            200 => jump(&mut q, i, 1_900_000_000_000),
            _ => {}
        }
        q.append(reading(1, &i.to_string()), sec(i));
        work(&mut q, &mut log, sec(i));
    }
    work(&mut q, &mut log, sec(302));
    drop((q, log));
    let clock = Stamp { wall: 900_000_000_000, mono: 400_000, boot: 1, synced: true };
    let (mut q, mut log) = Queue::open(Options { clock, ..options(dir.path()) }, T0).unwrap();
    q.link_up();
    let got = bodies(&drain_all(&mut q, &mut log, sec(1)));
    assert_eq!(got, (0..300).map(|i| i.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_clock_that_is_set_while_records_wait_makes_the_age_of_older_ones_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut opt = options(dir.path());
    opt.limits.max_age = sec(3600);
    let (mut q, mut log) = Queue::open(opt.clone(), T0).unwrap();
    q.append(reading(1, "of an earlier boot"), T0);
    work(&mut q, &mut log, sec(1));
    drop((q, log));
    // It boots with a guess.
    let guess = Stamp { wall: 5_000, mono: 0, boot: 2, synced: false };
    let (mut q, mut log) = Queue::open(Options { clock: guess, ..opt }, T0).unwrap();
    work(&mut q, &mut log, sec(2));
    assert_eq!(q.stats().waiting, 1, "nothing is known of its age");
    q.set_clock(sec(3), Stamp { wall: 1_700_000_000_000 + 7_200_000, mono: 3000, boot: 2, synced: true });
    work(&mut q, &mut log, sec(20));
    assert_eq!((q.stats().waiting, q.stats().dropped["expired"]), (0, 1));
}
