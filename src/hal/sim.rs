//! The simulated board of `--simulate`, of the demo and of the tests: pins in memory.
//!
//! Inputs are driven with [`SimBoard::drive`]; every output's level is told to a watcher, in order. A pin may be
//! held by one owner, as on a real board.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, futures::Notified};
use tokio::time::Instant;

use nix::time::{ClockId, clock_gettime};

use super::{Board, Edge, EdgeSender, HalError, HalErrorKind, InputPin, Level, OutputPin, Pull, PwmPin, Start};

/// Told of every change of an output: pin, share of the time at the high level (1 and 0 where it holds still). Called
/// under no lock.
pub type Watcher = Box<dyn Fn(u8, f64) + Send + Sync>;

#[derive(Default)]
struct Pin {
    /// What drives it from outside, or from inside when it is an output.
    level: Option<Level>,
    pull: Pull,
    edges: Option<EdgeSender>,
    /// `Some(true)`: held as an output.
    held: Option<bool>,
    /// Share at the high level, of one that gives pulses.
    duty: Option<f64>,
}

impl Pin {
    fn level(&self) -> Level {
        self.level.unwrap_or(if self.pull == Pull::Up { Level::High } else { Level::Low })
    }
}

#[derive(Default)]
struct Shared {
    pins: Mutex<BTreeMap<u8, Pin>>,
    watcher: Mutex<Option<Watcher>>,
    trace: Mutex<Option<File>>,
    changed: Notify,
}

impl Shared {
    fn pins(&self) -> MutexGuard<'_, BTreeMap<u8, Pin>> {
        self.pins.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn tell(&self, pin: u8, high: f64) {
        if let Some(trace) = &mut *self.trace.lock().unwrap_or_else(|e| e.into_inner()) {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
            // one write, so that a line is whole whatever happens to the process
            let _ = trace.write_all(format!("{} {pin} {high}\n", now.as_nanos()).as_bytes());
        }
        self.changed.notify_waiters();
        if let Some(watch) = &*self.watcher.lock().unwrap_or_else(|e| e.into_inner()) {
            watch(pin, high);
        }
    }
    fn take(&self, pin: u8, output: bool) -> Result<MutexGuard<'_, BTreeMap<u8, Pin>>, HalError> {
        let mut pins = self.pins();
        let p = pins.entry(pin).or_default();
        if p.held.is_some() {
            return Err(HalError::new(HalErrorKind::Busy, format!("GPIO{pin} is already in use")));
        }
        p.held = Some(output);
        Ok(pins)
    }
}

/// Pins in memory. Clones share them.
#[derive(Clone, Default)]
pub struct SimBoard {
    shared: Arc<Shared>,
}

impl SimBoard {
    /// A board whose pins nothing drives.
    pub fn new() -> SimBoard {
        SimBoard::default()
    }

    /// Who is told of the outputs' levels from now on.
    pub fn watch(&self, watcher: Watcher) {
        *self.shared.watcher.lock().unwrap_or_else(|e| e.into_inner()) = Some(watcher);
    }

    /// Appends every output's level at its takeover, and every change of it, to a file: nanoseconds of the monotonic
    /// clock, pin, share, a line each.
    pub fn trace(&self, file: File) {
        *self.shared.trace.lock().unwrap_or_else(|e| e.into_inner()) = Some(file);
    }

    /// Drives a pin from outside, as a switch or sensor would. An output cannot be driven.
    pub fn drive(&self, pin: u8, level: Level) -> Result<(), HalError> {
        let mut pins = self.shared.pins();
        let p = pins.entry(pin).or_default();
        if p.held == Some(true) {
            return Err(HalError::new(
                HalErrorKind::Busy,
                format!("GPIO{pin} is an output; only inputs can be driven"),
            ));
        }
        let before = p.level();
        p.level = Some(level);
        if before != level
            && let Some(edges) = &p.edges
        {
            edges.push(Edge { level, at: Instant::now() });
        }
        Ok(())
    }

    /// Until an output's level is told after this call.
    pub fn changed(&self) -> Notified<'_> {
        self.shared.changed.notified()
    }

    /// The share of the time at which an output held now is at the high level: 1 and 0 where it holds still.
    pub fn share(&self, pin: u8) -> Option<f64> {
        let pins = self.shared.pins();
        let pin = pins.get(&pin).filter(|p| p.held == Some(true))?;
        Some(pin.duty.unwrap_or_else(|| share(pin.level())))
    }

    /// Every output held now, with its level.
    pub fn outputs(&self) -> Vec<(u8, Level)> {
        self.shared.pins().iter().filter(|(_, p)| p.held == Some(true)).map(|(n, p)| (*n, p.level())).collect()
    }
}

fn share(level: Level) -> f64 {
    if level == Level::High { 1.0 } else { 0.0 }
}

/// Gives no pulses that anybody could see: their share is the truth.
struct SimPwm {
    shared: Arc<Shared>,
    pin: u8,
}

impl PwmPin for SimPwm {
    fn set(&mut self, high: f64) -> Result<(), HalError> {
        let before = {
            let mut pins = self.shared.pins();
            let p = pins.entry(self.pin).or_default();
            p.level = Some(if high > 0.0 { Level::High } else { Level::Low });
            p.duty.replace(high)
        };
        if before != Some(high) {
            self.shared.tell(self.pin, high);
        }
        Ok(())
    }
    fn high(&self) -> Result<f64, HalError> {
        Ok(self.shared.pins().entry(self.pin).or_default().duty.unwrap_or_default())
    }
    fn how(&self) -> &'static str {
        "simulated"
    }
}

impl Drop for SimPwm {
    fn drop(&mut self) {
        let mut pins = self.shared.pins();
        let p = pins.entry(self.pin).or_default();
        (p.held, p.duty) = (None, None);
    }
}

struct SimInput {
    shared: Arc<Shared>,
    pin: u8,
}

impl InputPin for SimInput {
    fn read(&self) -> Result<Level, HalError> {
        Ok(self.shared.pins().entry(self.pin).or_default().level())
    }
}

impl Drop for SimInput {
    fn drop(&mut self) {
        let mut pins = self.shared.pins();
        let p = pins.entry(self.pin).or_default();
        p.held = None;
        p.edges = None;
    }
}

struct SimOutput {
    shared: Arc<Shared>,
    pin: u8,
}

impl OutputPin for SimOutput {
    fn write(&mut self, level: Level) -> Result<(), HalError> {
        let before = {
            let mut pins = self.shared.pins();
            let p = pins.entry(self.pin).or_default();
            p.level.replace(level)
        };
        if before != Some(level) {
            self.shared.tell(self.pin, share(level));
        }
        Ok(())
    }
    fn read(&self) -> Result<Level, HalError> {
        Ok(self.shared.pins().entry(self.pin).or_default().level())
    }
}

impl Drop for SimOutput {
    fn drop(&mut self) {
        self.shared.pins().entry(self.pin).or_default().held = None;
    }
}

impl Board for SimBoard {
    fn describe(&self) -> String {
        "simulated".into()
    }

    fn input(&self, pin: u8, pull: Pull, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        let mut pins = self.shared.take(pin, false)?;
        let p = pins.entry(pin).or_default();
        p.pull = pull;
        p.edges = Some(edges);
        drop(pins);
        Ok(Box::new(SimInput { shared: self.shared.clone(), pin }))
    }

    fn output(&self, pin: u8, start: Start) -> Result<Box<dyn OutputPin>, HalError> {
        let mut pins = self.shared.take(pin, true)?;
        let p = pins.entry(pin).or_default();
        let level = match start {
            Start::At(level) => level,
            Start::Keep => p.level(),
        };
        p.level = Some(level);
        drop(pins);
        self.shared.tell(pin, share(level));
        Ok(Box::new(SimOutput { shared: self.shared.clone(), pin }))
    }

    fn pwm(&self, pin: u8, _: f64, high: f64, _: Level) -> Result<Box<dyn PwmPin>, HalError> {
        drop(self.shared.take(pin, true)?);
        let mut pwm = SimPwm { shared: self.shared.clone(), pin };
        pwm.set(high)?;
        Ok(Box::new(pwm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hal::edges;

    #[tokio::test]
    async fn driving_an_input_gives_an_edge_and_the_same_level_none() {
        let board = SimBoard::new();
        let (tx, mut rx) = edges();
        let pin = board.input(17, Pull::Up, tx).unwrap();
        assert_eq!(pin.read().unwrap(), Level::High);
        board.drive(17, Level::High).unwrap();
        board.drive(17, Level::Low).unwrap();
        assert_eq!(rx.next().await.unwrap().level, Level::Low);
        assert_eq!(pin.read().unwrap(), Level::Low);
    }

    #[test]
    fn a_pin_has_one_owner_and_keeps_its_level_when_given_up() {
        let board = SimBoard::new();
        let mut out = board.output(27, Start::At(Level::Low)).unwrap();
        assert_eq!(board.output(27, Start::Keep).err().unwrap().kind, HalErrorKind::Busy);
        assert!(board.drive(27, Level::High).is_err());
        out.write(Level::High).unwrap();
        drop(out);
        assert_eq!(board.output(27, Start::Keep).unwrap().read().unwrap(), Level::High);
    }
}
