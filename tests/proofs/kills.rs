//! The daemon is killed again and again (SIGKILL) at random moments, against a broker that is killed at random too.

use std::time::{Duration, Instant};

use crate::rig::{Rig, wish};

const IN_FLIGHT: usize = 32;
/// The state is saved once a second; a busy machine may be late.
const SAVED: Duration = Duration::from_secs(3);

fn life(rig: &mut Rig, kill: u64, brokers: &mut u64) {
    let sync = ["always", "10ms", "100ms"][rig.rng.usize(0..3)];
    rig.configure(&format!("in_flight: {IN_FLIGHT}"), &format!("sync: {sync}, replay: {{ order: backlog_first }}"));
    let open = rig.rng.u32(0..5) < 3;
    rig.set_door(open);
    rig.start();
    let mut breaks = 1;
    for _ in 0..rig.rng.u32(1..6) {
        let count = rig.rng.u64(1..60);
        assert!(rig.feed(count, 0), "the daemon has ended");
        match rig.rng.u32(0..8) {
            0 => {
                rig.kill_broker();
                rig.restart_broker();
                let open = rig.rng.bool();
                rig.set_door(open);
                (*brokers, breaks) = (*brokers + 1, breaks + 1);
            }
            1 => {
                let open = !rig.open;
                rig.set_door(open);
                breaks += 1;
            }
            2 => rig.keep_one(),
            _ => {
                let pause = Duration::from_millis(rig.rng.u64(0..30));
                rig.listen(pause);
            }
        }
    }
    // What the page cache has survives a kill: what is seen is accepted.
    let seen = crate::books::on_disk(&rig.dir());
    rig.books.accept(&seen);
    let killed = Instant::now();
    rig.kill();
    let dir = rig.dir();
    let window = IN_FLIGHT * breaks + rig.books.came_since(killed - SAVED);
    rig.books.audit(&format!("at kill {kill}"), &dir, window);
}

#[test]
fn kill_9_of_daemon_and_broker_loses_nothing_and_keeps_the_order() {
    let (kills, seed) = (wish("KILLS", 200), wish("SEED", 1));
    let mut rig = Rig::new(seed, "");
    // One line: nothing overtakes anything, whether it waited or not.
    rig.books.one_line = true;
    let (begun, mut brokers) = (Instant::now(), 0);
    for kill in 1..=kills {
        life(&mut rig, kill, &mut brokers);
    }
    rig.finish();
    println!(
        "kill -9: {kills} of the daemon and {brokers} of the broker in {:.0} s, 0 lost; {}; at most {} doubled by one kill",
        begun.elapsed().as_secs_f64(),
        rig.books,
        rig.books.most_doubled
    );
}
