//! The power is cut under the real daemon: its state lies on an ext4 of its own, which the shutdown ioctl kills at a
//! random moment; mounted again, it holds what a power cut would have left.

use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::lab::{Mount, own_mounts};
use crate::rig::{Rig, wish};

/// At the power cut at most so many that were delivered may come again: `in_flight`, and what the broker acknowledged
/// since the state was saved last, once a second.
const IN_FLIGHT: usize = 32;
const SAVED_EVERY: Duration = Duration::from_secs(1);
/// What a busy machine may be late with that.
const LATE: Duration = Duration::from_secs(2);

/// One life: it begins, something happens, and the power is cut. `fault`: what is planted into the daemon's calls.
fn life(rig: &mut Rig, disk: &mut Mount, cut: u64, fault: &str) {
    let sync = ["always", "10ms", "50ms", "200ms"][rig.rng.usize(0..4)];
    let size = if rig.books.may_drop { "1MiB" } else { "64MiB" };
    rig.configure(&format!("in_flight: {IN_FLIGHT}"), &format!("sync: {sync}, max_size: {size}"));
    let open = rig.rng.u32(0..5) < if rig.books.may_drop { 1 } else { 2 };
    rig.set_door(open);
    let mut command = rig.home.command();
    if !fault.is_empty() {
        Fault::new(fault, rig.home.path("state"), rig.home.path("calls")).put_on(&mut command);
    }
    rig.start_with(command);
    let steps = rig.rng.u32(1..6);
    for _ in 0..steps {
        let fat = if rig.books.may_drop { 1500 } else { 300 };
        let pad = if rig.rng.bool() { rig.rng.usize(0..fat) } else { 0 };
        let count = rig.rng.u64(1..40);
        assert!(rig.feed(count, pad), "the daemon has ended");
        match rig.rng.u32(0..8) {
            0 => {
                let open = !rig.open;
                rig.set_door(open);
            }
            1 | 2 => rig.keep_one(),
            3 => rig.look(Duration::from_millis(50)),
            _ => {
                let pause = Duration::from_millis(rig.rng.u64(0..20));
                rig.listen(pause);
            }
        }
    }
    // The last moments: in the middle of a write, of a sync, after it, while a backlog leaves.
    match rig.rng.u32(0..4) {
        0 => {}
        1 => rig.keep_one(),
        _ => {
            let until = Instant::now() + Duration::from_millis(rig.rng.u64(0..80));
            while Instant::now() < until {
                rig.look(Duration::ZERO);
                rig.listen(Duration::from_millis(1));
            }
        }
    }
    rig.look(Duration::from_millis(5));
    disk.cut_power();
    let cut_at = Instant::now();
    rig.kill();
    disk.unmount();
    disk.mount();
    let window = IN_FLIGHT + rig.books.came_since(cut_at - SAVED_EVERY - LATE);
    let dir = rig.dir();
    rig.books.audit(&format!("at power cut {cut}"), &dir, window);
}

/// A rig whose state lies on an ext4 of its own.
fn on_ext4(seed: u64) -> (Rig, Mount) {
    let rig = Rig::new(seed, "");
    let image = rig.home.path("disk.img");
    Mount::image(&image, 64 << 10, &[]);
    let disk = Mount::new(&["-o", "loop", &image.display().to_string()], &rig.home.path("state"));
    (rig, disk)
}

#[test]
fn after_every_power_cut_what_was_accepted_is_delivered_queued_or_dead_and_in_a_full_queue_said_to_be_dropped() {
    own_mounts();
    let (cuts, seed) = (wish("POWER_CUTS", 200), wish("SEED", 1));
    let (mut rig, mut disk) = on_ext4(seed);
    let begun = Instant::now();
    for cut in 1..=cuts {
        // The last quarter in a queue that is too small for what comes.
        rig.books.may_drop |= cut > cuts - cuts / 4;
        life(&mut rig, &mut disk, cut, "");
    }
    rig.finish();
    println!(
        "power cuts: {cuts} in {:.0} s, 0 lost; {}; at most {} doubled by one cut",
        begun.elapsed().as_secs_f64(),
        rig.books,
        rig.books.most_doubled
    );
}

#[test]
fn a_daemon_whose_syncs_do_nothing_is_found_out() {
    own_mounts();
    let found = |fault: &str| {
        let (mut rig, mut disk) = on_ext4(7);
        let lives = || (1..=40).for_each(|cut| life(&mut rig, &mut disk, cut, fault));
        let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(lives));
        let text = lost.err().and_then(|e| e.downcast::<String>().ok()).map(|text| *text).unwrap_or_default();
        text.contains("LOST at power cut") || text.contains("used twice") || text.contains("has two numbers")
    };
    assert!(found("nosync"), "40 power cuts without a single sync, and nothing was missing");
    assert!(found("no-fdatasync"), "40 power cuts without fdatasync, and nothing was missing");
    println!("power cuts: a daemon whose fsync and fdatasync do nothing is found out, and one without fdatasync");
}
