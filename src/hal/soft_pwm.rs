//! Pulses made by a thread, for pins without a PWM of their own: a duty below 100 % and above 0 costs two wake-ups a
//! period, anything else none.
//!
//! Promises: 0 and 1 are on the pin when [`PwmPin::set`] returns; another share begins with the next period; a thread
//! that came late never makes up for it with a burst; the pin rests at its level when the pulses end for good. Not
//! promised: a pulse as long as the millisecond's fraction says. On a busy machine it is longer by what the thread had
//! to wait, some 100 µs: enough for lamps and heaters, a servo trembles.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{HalError, HalErrorKind, Level, OutputPin, PwmPin};

/// Highest frequency in Hz. Each pin costs at most twice as many wake-ups a second.
pub const FASTEST: f64 = 1000.0;
/// Lowest frequency in Hz.
const SLOWEST: f64 = 0.1;

struct State {
    pin: Box<dyn OutputPin>,
    /// Share of the period at the high level.
    high: f64,
    failed: Option<HalError>,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    period: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A pin with its thread.
pub struct SoftPwm {
    shared: Arc<Shared>,
    rest: Level,
    thread: Option<JoinHandle<()>>,
}

impl SoftPwm {
    /// Begins on a pin that is held at `rest` already.
    pub fn start(
        number: u8,
        pin: Box<dyn OutputPin>,
        frequency: f64,
        high: f64,
        rest: Level,
    ) -> Result<SoftPwm, HalError> {
        if !(SLOWEST..=FASTEST).contains(&frequency) {
            let text = format!(
                "GPIO{number} has no PWM of its own here, and in software {SLOWEST} to {FASTEST} Hz can be made, not \
                 {frequency}; use GPIO12, 13, 18 or 19 with dtoverlay=pwm-2chan in config.txt, or a lower frequency"
            );
            return Err(HalError::new(HalErrorKind::Unsupported, text));
        }
        let state = Mutex::new(State { pin, high: 0.0, failed: None, stop: false });
        let period = Duration::from_secs_f64(1.0 / frequency);
        let shared = Arc::new(Shared { state, changed: Condvar::new(), period });
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("pwm{number}"))
            .spawn(move || pulses(&own))
            .map_err(|e| HalError::new(HalErrorKind::Io, format!("GPIO{number}: no thread for its pulses: {e}")))?;
        let mut pwm = SoftPwm { shared, rest, thread: Some(thread) };
        pwm.set(high)?;
        Ok(pwm)
    }
}

impl PwmPin for SoftPwm {
    fn set(&mut self, high: f64) -> Result<(), HalError> {
        let mut state = self.shared.lock();
        if let Some(e) = state.failed.take() {
            return Err(e);
        }
        state.high = high.clamp(0.0, 1.0);
        if let Some(level) = steady(state.high) {
            state.pin.write(level)?;
        }
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
    fn high(&self) -> Result<f64, HalError> {
        let state = self.shared.lock();
        match steady(state.high) {
            // what the pin reads, where it holds still
            Some(_) => Ok(if state.pin.read()? == Level::High { 1.0 } else { 0.0 }),
            None => Ok(state.high),
        }
    }
    fn how(&self) -> &'static str {
        "software"
    }
}

impl Drop for SoftPwm {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        if steady(state.high).is_none() {
            let _ = state.pin.write(self.rest);
        }
        drop(state);
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The level of a share that is no pulse.
fn steady(high: f64) -> Option<Level> {
    match high {
        h if h <= 0.0 => Some(Level::Low),
        h if h >= 1.0 => Some(Level::High),
        _ => None,
    }
}

fn pulses(shared: &Shared) {
    // SAFETY: sets how late this thread alone may be woken, in nanoseconds; no pointer is passed.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1000_u64, 0_u64, 0_u64, 0_u64) };
    let mut state = shared.lock();
    let mut next = Instant::now();
    loop {
        if state.stop {
            return;
        }
        if steady(state.high).is_some() || state.failed.is_some() {
            state = shared.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            next = Instant::now();
            continue;
        }
        // who is late begins the period late, and cuts no pulse short
        let now = Instant::now();
        if now > next + shared.period / 50 {
            next = now;
        }
        let fall = next + shared.period.mul_f64(state.high);
        next += shared.period;
        for (level, until) in [(Level::High, fall), (Level::Low, next)] {
            if let Err(e) = state.pin.write(level) {
                state.failed = Some(e);
                break;
            }
            loop {
                let now = Instant::now();
                if now >= until || state.stop || steady(state.high).is_some() {
                    break;
                }
                state = shared.changed.wait_timeout(state, until - now).unwrap_or_else(|e| e.into_inner()).0;
            }
            if state.stop || steady(state.high).is_some() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hal::sim::SimBoard;
    use crate::hal::{Board, Start};
    use std::sync::mpsc::{Receiver, channel};

    fn board() -> (SimBoard, Receiver<(f64, Instant)>) {
        let board = SimBoard::new();
        let (tell, told) = channel();
        board.watch(Box::new(move |_, high| {
            let _ = tell.send((high, Instant::now()));
        }));
        (board, told)
    }
    fn soft(board: &SimBoard, frequency: f64, high: f64) -> Result<SoftPwm, HalError> {
        SoftPwm::start(5, board.output(5, Start::At(Level::Low))?, frequency, high, Level::Low)
    }

    #[test]
    fn pulses_are_as_long_as_their_share_and_end_at_rest() {
        let (board, told) = board();
        let pwm = soft(&board, 50.0, 0.25).unwrap();
        assert_eq!(told.recv().unwrap().0, 0.0);
        let mut edges = Vec::new();
        while edges.len() < 20 {
            edges.push(told.recv().unwrap());
        }
        drop(pwm);
        assert_eq!(board.outputs(), []);
        assert_eq!(board.output(5, Start::Keep).unwrap().read().unwrap(), Level::Low);
        // single pulses come late on a busy machine, their share stays
        let of = |from: f64| {
            let pairs = edges.windows(2).filter(move |w| w[0].0 == from);
            pairs.map(|w| (w[1].1 - w[0].1).as_secs_f64()).sum::<f64>()
        };
        let share = of(1.0) / (of(1.0) + of(0.0));
        assert!((0.1..0.5).contains(&share), "{share}");
    }

    #[test]
    fn off_and_full_are_on_the_pin_at_once() {
        let (board, _told) = board();
        let mut pwm = soft(&board, 10.0, 0.5).unwrap();
        for high in [0.0, 1.0, 0.5, 0.0, 0.3, 1.0, 0.0] {
            pwm.set(high).unwrap();
            assert_eq!(pwm.high().unwrap(), high);
            if high == 0.0 || high == 1.0 {
                let level = if high > 0.0 { Level::High } else { Level::Low };
                assert_eq!(board.outputs(), [(5, level)]);
            }
        }
    }

    #[test]
    fn what_software_cannot_do_is_refused_with_advice() {
        let (board, _told) = board();
        assert!(soft(&board, 25_000.0, 0.5).err().unwrap().text.contains("dtoverlay=pwm-2chan"));
    }
}
