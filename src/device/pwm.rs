//! `pwm`: a fan, a lamp that is dimmed, a heater.
//!
//! The point is the duty in percent, 0 to 100; 0 is off, everything else is on, and the limits of an output hold for
//! it. What may be wished at all is decided by the engine. A fade is made here, in steps; an order ends it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{Drive, OnOff, Pin, Span};
use crate::hal::{HalError, Level, PwmPin, soft_pwm};
use crate::model::{Action, Begin, Quality, Scale, Setting, Value};

use super::output::{Safety, States};
use super::{Built, Context, Desk, DeviceError, Driver, Kind, PointDraft, SafePin, Task};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "pwm",
        summary: "a dimmed lamp, a fan or a heater on a pin",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Pulses a second where nothing is said: no lamp flickers, and software can make them.
const FREQUENCY: f64 = 100.0;
/// Highest frequency that is accepted: the hardware's clock leaves a hundred steps of duty.
const FASTEST: f64 = 500_000.0;
/// Pins that have a PWM of their own on every Raspberry Pi.
const OWN: [u8; 4] = [12, 13, 18, 19];
/// Shortest step of a fade, and most steps of one.
const STEP: Duration = Duration::from_millis(20);
const STEPS: u32 = 500;
/// How far what is read back may be from what was wished, in percent: the hardware counts in nanoseconds.
const NEAR: f64 = 0.06;

/// Keys of `pwm`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// BCM number (18), GPIO18 or header:12. 12, 13, 18 and 19 have a PWM of their own.
    pin: Pin,
    /// Pulses go to the low level; default no.
    inverted: Option<OnOff>,
    /// Pulses a second in Hz; default 100. Without a PWM of the pin's own at most 1000.
    frequency: Option<f64>,
    /// Least duty while on, in percent; default 0.
    min: Option<f64>,
    /// Greatest duty in percent, and what ON means; default 100.
    max: Option<f64>,
    /// Duty when the pin is taken over: off (default), on, a number, or restore (as it was before the daemon's end).
    initial: Option<Drive>,
    /// Duty that does no harm: off (default), on or a number. After a crash nobody makes pulses, and it is off.
    safe: Option<Drive>,
    /// Duty at an orderly stop: off, on or a number; default: safe.
    on_stop: Option<Drive>,
    /// What to do when the broker has been away: `{after: 60s, do: safe}`.
    on_broker_loss: Option<BrokerLoss>,
    #[serde(flatten)]
    safety: Safety,
    #[serde(flatten)]
    point: PointKeys,
}

/// What to do when the broker has been away.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
struct BrokerLoss {
    /// For how long.
    after: Span,
    /// Take the safe state (default), off, on, a duty in percent, or keep as it is.
    #[serde(rename = "do")]
    then: Option<Drive>,
}

struct Dimmer {
    pin: u8,
    inverted: bool,
    frequency: f64,
    min: f64,
    initial: Setting,
    safe: Setting,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    desk.claim_pin(keys.pin.0, &["pin"]);
    let frequency = keys.frequency.unwrap_or(FREQUENCY);
    if !(0.1..=FASTEST).contains(&frequency) {
        let text = format!("a frequency of {frequency} Hz cannot be made");
        desk.error(&["frequency"], text, format!("write a number of Hz from 0.1 to {FASTEST}"));
    } else if frequency > soft_pwm::FASTEST && !OWN.contains(&keys.pin.0) {
        let text = format!("{} has no PWM of its own, and software makes at most {} Hz", keys.pin, soft_pwm::FASTEST);
        desk.error(&["frequency"], text, "take pin 12, 13, 18 or 19, or a lower frequency");
    }
    let (min, max) = (keys.min.unwrap_or(0.0), keys.max.unwrap_or(100.0));
    if !(0.0..100.0).contains(&min) || !(0.0..=100.0).contains(&max) || min >= max {
        let key = if keys.min.is_some() { "min" } else { "max" };
        desk.error(
            &[key],
            format!("a duty from {min} to {max} % is none"),
            "write min: 20 and max: 80, within 0 to 100",
        );
        return None;
    }
    let scale = Scale::Duty { min, max };
    // the words that a key knows; `None`: as it is
    let mut read = |key: &[&str], drive: Drive, safe: Setting, more: &[Drive], words: &str| -> Option<Setting> {
        let setting = match drive {
            Drive::Off => Setting::Off,
            Drive::On => scale.full(),
            Drive::At(0.0) => Setting::Off,
            Drive::At(n) => Setting::On(n),
            Drive::Safe if more.contains(&drive) => safe,
            Drive::Keep | Drive::Restore if more.contains(&drive) => return None,
            other => {
                desk.error(key, format!("`{other}` cannot be said here"), format!("write {words}"));
                return None;
            }
        };
        if let Some(why) = scale.refuses(setting) {
            desk.error(key, why, "write a number within min and max, or off");
        }
        Some(setting)
    };
    let off = Setting::Off;
    let safe = keys.safe.and_then(|d| read(&["safe"], d, off, &[], "off, on or a number")).unwrap_or(off);
    let initial = keys.initial.unwrap_or(Drive::Off);
    let begins = read(&["initial"], initial, safe, &[Drive::Restore], "off, on, restore or a number").unwrap_or(safe);
    let on_stop = keys.on_stop.map_or(Some(safe), |d| read(&["on_stop"], d, safe, &[], "off, on or a number"));
    let loss = keys.on_broker_loss.map(|loss| {
        let drive = loss.then.unwrap_or(Drive::Safe);
        let more = [Drive::Safe, Drive::Keep];
        (loss.after.0, read(&["on_broker_loss", "do"], drive, safe, &more, "safe, off, on, keep or a number"))
    });
    let restore = initial == Drive::Restore;
    let states = States { scale, begins_on: begins.is_on() && !restore, restore, safe, on_stop, on_broker_loss: loss };
    let inverted = keys.inverted.unwrap_or_default().0;
    let limits = keys.safety.limits(states, desk);
    let word = if inverted { ", inverted" } else { "" };
    let mut notes =
        vec![format!("pin {}{word}, {frequency} Hz, duty {min} to {max} %, safe {}", keys.pin, scale.value(safe))];
    notes.extend(keys.safety.notes(&initial.to_string(), &limits));
    Some(Built {
        points: vec![PointDraft {
            name: "duty".into(),
            keys: keys.point,
            path: vec![],
            values: "a duty in percent, 0 is off",
            stateful: true,
        }],
        point_verbs: vec!["set", "get", "fade"],
        device_verbs: vec![],
        own_verbs: vec![],
        output: Some(limits),
        // a full duty is a level; any other has nobody left to make it
        safe: Some(SafePin { pin: keys.pin.0, high: scale.is_full(safe) != inverted }),
        notes,
        driver: Box::new(Dimmer { pin: keys.pin.0, inverted, frequency, min, initial: begins, safe }),
    })
}

fn percent(setting: Setting) -> f64 {
    if let Setting::On(n) = setting { n } else { 0.0 }
}

/// A fade on its way.
struct Fade {
    from: f64,
    to: f64,
    begun: Instant,
    over: Duration,
}

impl Fade {
    /// The next step after `now`.
    fn next(&self, now: Instant) -> Instant {
        let step = (self.over / STEPS).max(STEP);
        (now + step).min(self.begun + self.over)
    }
    /// The duty at a moment, never off before the end: a fade from or to nothing is on all the way.
    fn at(&self, now: Instant, least: f64) -> f64 {
        let share = (now - self.begun).as_secs_f64() / self.over.as_secs_f64().max(f64::MIN_POSITIVE);
        if share >= 1.0 { self.to } else { (self.from + (self.to - self.from) * share).max(least) }
    }
}

impl Dimmer {
    fn high(&self, duty: f64) -> f64 {
        let share = duty / 100.0;
        if self.inverted { 1.0 - share } else { share }
    }
    fn write(&self, pin: &mut dyn PwmPin, duty: f64) -> Result<Value, HalError> {
        pin.set(self.high(duty))?;
        let high = pin.high()?;
        let read = 100.0 * if self.inverted { 1.0 - high } else { high };
        Ok(Value::Number(if (read - duty).abs() < NEAR { duty } else { (read * 100.0).round() / 100.0 }))
    }
    /// Least duty of what is on.
    fn least(&self) -> f64 {
        self.min.max(1.0)
    }
    fn act(&self, pin: &mut dyn PwmPin, action: Action, fade: &mut Option<Fade>) -> Result<Option<Value>, HalError> {
        match action {
            Action::Set(Value::Number(duty)) => {
                *fade = None;
                self.write(pin, duty).map(Some)
            }
            Action::Fade { to: Value::Number(to), over } => {
                let high = pin.high()?;
                let from = 100.0 * if self.inverted { 1.0 - high } else { high };
                let begun = Instant::now();
                let new = Fade { from, to, begun, over };
                // from and to nothing there is nothing to fade
                let first = if from <= 0.0 && to <= 0.0 { 0.0 } else { new.at(begun, self.least().min(from.max(to))) };
                *fade = Some(new);
                self.write(pin, first).map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Driver for Dimmer {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let start = percent(match cx.begin {
                Begin::AsWritten => self.initial,
                Begin::Safe | Begin::Kept => self.safe,
                Begin::At(setting) => setting,
            });
            let rest = if self.inverted { Level::High } else { Level::Low };
            let mut pin = cx.board.pwm(self.pin, self.frequency, self.high(start), rest)?;
            cx.begin = Begin::Safe;
            log::debug!(device = cx.name.as_str(); "its pulses are made by {}", pin.how());
            let first = self.write(&mut *pin, start)?;
            cx.online().await;
            cx.reading(0, first, Quality::Good, Instant::now()).await;
            let mut fade: Option<Fade> = None;
            let mut step = Instant::now();
            loop {
                let result = tokio::select! {
                    order = cx.orders.recv() => match order.map(super::Order::in_time) {
                        None => return Ok(()),
                        Some(Err((ticket, why))) => {
                            cx.acted(ticket, Err(why)).await;
                            continue;
                        }
                        Some(Ok((ticket, action))) => {
                            let result = self.act(&mut *pin, action, &mut fade);
                            step = fade.as_ref().map_or(step, |f| f.next(Instant::now()));
                            match &result {
                                Ok(read) => cx.read_back(ticket, read.clone()).await,
                                Err(e) => cx.acted(ticket, Err(e.text.clone().into())).await,
                            }
                            result.map(drop)
                        }
                    },
                    () = sleep_until(step), if fade.is_some() => {
                        let now = Instant::now();
                        let Some(on_its_way) = &fade else { continue };
                        let to = on_its_way.to;
                        let least = self.least().min(on_its_way.from.max(to));
                        let ends = now >= on_its_way.begun + on_its_way.over;
                        let duty = on_its_way.at(now, least);
                        step = on_its_way.next(now);
                        let written = self.write(&mut *pin, duty);
                        if ends {
                            fade = None;
                        }
                        match written {
                            Ok(read) if ends => {
                                cx.reading(0, read, Quality::Good, now).await;
                                Ok(())
                            }
                            other => other.map(drop),
                        }
                    }
                };
                if let Err(e) = result {
                    // what it is now nobody knows, and nobody watches its limits until it is taken over again
                    let _ = pin.set(self.high(percent(self.safe)));
                    return Err(e.into());
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Report;
    use crate::device::testing::Bench;
    use crate::hal::Board;
    use crate::hal::sim::SimBoard;
    use std::sync::{Arc, Mutex};

    fn fan() -> Dimmer {
        Dimmer { pin: 18, inverted: false, frequency: 100.0, min: 20.0, initial: Setting::Off, safe: Setting::Off }
    }
    fn numbers(reports: &[Report]) -> Vec<f64> {
        let value = |r: &Report| match r {
            Report::Acted(_, Ok(Some(Value::Number(n)))) | Report::Reading { value: Value::Number(n), .. } => Some(*n),
            _ => None,
        };
        reports.iter().filter_map(value).collect()
    }

    #[tokio::test]
    async fn a_fade_is_on_from_the_first_step_and_ends_with_a_reading() {
        let board = SimBoard::new();
        let told: Arc<Mutex<Vec<f64>>> = Arc::default();
        let tells = told.clone();
        board.watch(Box::new(move |_, high| tells.lock().unwrap().push((high * 1e4).round() / 1e4)));
        let mut bench = Bench::new(Arc::new(board));
        bench.order(1, Action::Fade { to: Value::Number(60.0), over: Duration::from_millis(150) });
        let reports = bench.run(&fan(), 4).await;
        assert_eq!(numbers(&reports), [0.0, 20.0, 60.0]);
        let steps = told.lock().unwrap().clone();
        assert_eq!((steps[0], steps[1], steps.last()), (0.0, 0.2, Some(&0.6)));
        assert!(steps.len() > 3 && steps.windows(2).all(|w| w[0] < w[1]), "{steps:?}");
    }

    #[tokio::test]
    async fn an_order_ends_a_fade() {
        let mut bench = Bench::new(Arc::new(SimBoard::new()));
        bench.order(1, Action::Fade { to: Value::Number(60.0), over: Duration::from_secs(3600) });
        bench.order(2, Action::Set(Value::Number(0.0)));
        bench.order(3, Action::Set(Value::Number(33.333)));
        bench.order(4, Action::Fade { to: Value::Number(0.0), over: Duration::from_millis(50) });
        let reports = bench.run(&fan(), 7).await;
        assert_eq!(numbers(&reports), [0.0, 20.0, 0.0, 33.333, 33.333, 0.0]);
    }

    #[tokio::test]
    async fn inverted_pulses_are_the_other_way_round() {
        let board = SimBoard::new();
        let mut bench = Bench::new(Arc::new(board.clone()));
        bench.order(1, Action::Set(Value::Number(25.0)));
        let reports = bench.run(&Dimmer { inverted: true, ..fan() }, 3).await;
        assert_eq!(numbers(&reports), [0.0, 25.0]);
        assert_eq!(board.pwm(18, 1.0, 0.0, Level::Low).err().map(|e| e.kind), None, "it was given up");
    }
}
