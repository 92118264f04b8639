//! The only place that reads time.
//!
//! Order, ages and timers go by a clock that never jumps; the system's clock is only written down. On a board without
//! a clock of its own the system's time is a guess until NTP has set it: [`Now::synced`] says so.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Mono, Now, Stamp, Wall};

/// 2025-01-01 UTC in milliseconds: pinpost did not exist before, so an earlier time is wrong.
const FLOOR: i64 = 1_735_689_600_000;

/// Reads time since its creation.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Once set, a clock counts as set.
    synced: AtomicBool,
    /// A board that boots with a guessed time: a device tree and no real-time clock.
    guesses: bool,
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
        Clock { start: Instant::now(), synced: AtomicBool::new(false), guesses }
    }

    /// The present moment.
    pub fn now(&self) -> Now {
        let wall = Wall(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64));
        if !self.synced.load(Ordering::Relaxed) && wall.0 >= FLOOR && (!self.guesses || kernel_says_synced()) {
            self.synced.store(true, Ordering::Relaxed);
        }
        Now { wall, mono: self.mono(Instant::now()), synced: self.synced.load(Ordering::Relaxed) }
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

    /// A stamp for something that happened at `at`.
    pub fn stamp(&self, at: Instant) -> Stamp {
        self.now().stamp_at(self.mono(at))
    }
}

/// Whether an NTP client has told the kernel that it keeps the time.
fn kernel_says_synced() -> bool {
    // SAFETY: adjtimex only writes the structure it is given; zeroed `modes` asks and changes nothing.
    let mut t: libc::timex = unsafe { std::mem::zeroed() };
    let state = unsafe { libc::adjtimex(&mut t) };
    state >= 0 && t.status & libc::STA_UNSYNC == 0
}
