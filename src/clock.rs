//! The only place that reads time.
//!
//! Order, ages and timers go by a clock that never jumps; the system's clock is only written down. On a board without
//! a clock of its own the system's time is a guess until NTP has set it: [`Now::synced`] says so.
//!
//! Moments are tokio's, as its timers are: where a runtime's time is held (`pinpost test`), all of the gateway's time
//! is. A clock that was [`set`](Clock::set_to) then also tells the time of day by it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::model::{Boot, Mono, Now, Stamp, Wall};

/// 2025-01-01 UTC in milliseconds: pinpost did not exist before, so an earlier time is wrong.
const FLOOR: i64 = 1_735_689_600_000;
/// Microseconds by which the system's clock may move against ours before stamps follow it.
const FOLLOW: i64 = 1000;

/// The machine's clock since its last boot, which outlives this process, in numbers for the queue.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    /// Names this boot.
    pub id: u64,
    /// Milliseconds on that clock at which this process's time began.
    pub start: u64,
}

/// Reads time since its creation.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Once set, a clock counts as set.
    synced: AtomicBool,
    /// Microseconds from the start to 1970, as stamps have it.
    offset: AtomicI64,
    /// A board that boots with a guessed time: a device tree and no real-time clock.
    guesses: bool,
    epoch: Epoch,
    /// A time of day that goes by our own clock, and its zone.
    set: Option<Set>,
}

#[derive(Debug)]
struct Set {
    /// At the start.
    wall: Wall,
    zone: TimeZone,
    boot: Boot,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    /// A clock that starts now.
    pub fn new() -> Clock {
        let guesses = Path::new("/proc/device-tree").exists() && !Path::new("/sys/class/rtc/rtc0").exists();
        let epoch = Epoch { id: boot_id(), start: since_boot() };
        Clock {
            start: Instant::now(),
            synced: AtomicBool::new(false),
            offset: AtomicI64::new(0),
            guesses,
            epoch,
            set: None,
        }
    }

    /// A clock that starts now and takes this for the time of day, in this zone.
    pub fn set_to(wall: Wall, zone: TimeZone) -> Clock {
        let clock = Clock::new();
        let boot = clock.boot();
        Clock { set: Some(Set { wall, zone, boot }), ..clock }
    }

    /// The time zone: the system's (`TZ`, else `/etc/localtime`), UTC where there is none.
    pub fn zone(&self) -> TimeZone {
        match &self.set {
            Some(set) => set.zone.clone(),
            None => TimeZone::try_system().unwrap_or(TimeZone::UTC),
        }
    }

    /// What stamps of this process and of others since the machine's boot have in common.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The present moment.
    pub fn now(&self) -> Now {
        if let Some(set) = &self.set {
            let mono = self.mono(Instant::now());
            return Now { wall: later(set.wall, mono), mono, synced: true };
        }
        let wall = Wall(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64));
        if !self.synced.load(Ordering::Relaxed) && wall.0 >= FLOOR && (!self.guesses || kernel_says_synced()) {
            self.synced.store(true, Ordering::Relaxed);
        }
        Now { wall, mono: self.mono(Instant::now()), synced: self.synced.load(Ordering::Relaxed) }
    }

    /// This run of the machine, and where this clock began in it.
    pub fn boot(&self) -> Boot {
        if let Some(set) = &self.set {
            return set.boot.clone();
        }
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(now) => Boot { id, offset: Duration::from(now).saturating_sub(self.start.elapsed()) },
            Err(_) => Boot::default(),
        }
    }

    /// The moment that times count from.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// A moment of the clock that never jumps.
    pub fn mono(&self, at: Instant) -> Mono {
        Mono(at.saturating_duration_since(self.start))
    }

    /// When a moment will be.
    pub fn instant(&self, mono: Mono) -> Instant {
        self.start + mono.0
    }

    /// A stamp for something that happened at `at`. The same moment has the same stamp whenever it is asked for, and an
    /// earlier one no later stamp, as long as nobody sets the system's clock.
    pub fn stamp(&self, at: Instant) -> Stamp {
        if let Some(set) = &self.set {
            let mono = self.mono(at);
            return Stamp { wall: later(set.wall, mono), mono, synced: true };
        }
        let synced = self.now().synced;
        let before = Instant::now();
        let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let after = Instant::now();
        let offset = self.offset.load(Ordering::Relaxed);
        // between these bounds the offset is now; how far apart they are is how long this thread was interrupted
        let (least, most) = (system - micros(self.mono(after)), system - micros(self.mono(before)));
        let follows = offset < least - FOLLOW || offset > most + FOLLOW;
        let offset = if follows { most } else { offset };
        if follows {
            self.offset.store(offset, Ordering::Relaxed);
        }
        let mono = self.mono(at);
        Stamp { wall: Wall(offset.saturating_add(micros(mono)) / 1000), mono, synced }
    }
}

fn later(wall: Wall, by: Mono) -> Wall {
    Wall(wall.0.saturating_add(micros(by) / 1000))
}

fn micros(mono: Mono) -> i64 {
    i64::try_from(mono.0.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds on the clock that [`Instant`] reads.
fn since_boot() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_millis()).unwrap_or(0)
}

/// The kernel's name for this boot as a number, never 0; a random one where it says none.
fn boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).ok().filter(|id| *id != 0).unwrap_or_else(|| fastrand::u64(1..))
}

/// Whether an NTP client has told the kernel that it keeps the time.
fn kernel_says_synced() -> bool {
    // SAFETY: adjtimex only writes the structure it is given; zeroed `modes` asks and changes nothing.
    let mut t: libc::timex = unsafe { std::mem::zeroed() };
    let state = unsafe { libc::adjtimex(&mut t) };
    state >= 0 && t.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clocks_of_one_boot_agree_on_a_moment() {
        let clocks = [Clock::new(), Clock::new()];
        let moment = Instant::now();
        let [a, b] = clocks.map(|c| (c.boot().id.clone(), c.boot().offset + c.mono(moment).0));
        assert!(a.0 == b.0 && a.0.len() > 30, "{a:?} {b:?}");
        assert!(a.1.abs_diff(b.1) < Duration::from_millis(50), "{a:?} {b:?}");
    }

    #[test]
    fn two_clocks_of_one_boot_agree_on_when_a_moment_was() {
        let (a, b) = (Clock::new(), Clock::new());
        assert_eq!(a.epoch().id, b.epoch().id);
        let moment = Instant::now();
        let on = |c: &Clock| c.epoch().start + c.mono(moment).0.as_millis() as u64;
        assert!(on(&a).abs_diff(on(&b)) <= 2, "{a:?} {b:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_goes_as_the_runtime_s_time_does() {
        let clock = Clock::set_to(Wall(1_000_000), TimeZone::UTC);
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let now = clock.now();
        assert!(now.synced && (now.wall, now.mono) == (Wall(4_600_000), Mono(Duration::from_secs(3600))), "{now:?}");
        assert_eq!(clock.stamp(begun).wall, Wall(1_000_000));
        assert_eq!(clock.boot().offset, clock.boot().offset);
    }

    #[test]
    fn a_moment_has_one_stamp_whenever_it_is_asked_for() {
        let clock = Clock::new();
        let moment = Instant::now();
        let first = clock.stamp(moment);
        let mut last = first;
        // hundreds of edges of milliseconds are crossed
        while moment.elapsed().as_millis() < 300 {
            assert_eq!(clock.stamp(moment), first);
            let next = clock.stamp(Instant::now());
            assert!(next.wall >= last.wall, "{last:?} {next:?}");
            last = next;
        }
        let (before, stamp, after) = (clock.now(), clock.stamp(Instant::now()), clock.now());
        assert!(
            before.wall.0 - 3 <= stamp.wall.0 && stamp.wall.0 <= after.wall.0 + 3,
            "{before:?} {stamp:?} {after:?}"
        );
    }
}
