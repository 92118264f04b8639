//! `servo`: a lever that goes to an angle. Fifty pulses a second, whose length says where.
//!
//! Off means no pulses: the servo is limp and its angle unknown. So nothing moves before the first command, unless
//! `initial` says so.

use std::time::Duration;

use tokio::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{Drive, Pin, Span};
use crate::hal::{HalError, Level, PwmPin};
use crate::model::{Action, Begin, Quality, Scale, Setting, Value};

use super::output::{Commands, States, states};
use super::{Built, Context, Desk, DeviceError, Driver, Kind, PointDraft, SafePin, Task};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "servo",
        summary: "a model servo on a pin",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Time from pulse to pulse.
const PERIOD: Duration = Duration::from_millis(20);
/// Pulses at both ends where nothing is said: what every servo bears.
const MIN_PULSE: Duration = Duration::from_millis(1);
const MAX_PULSE: Duration = Duration::from_millis(2);
/// Shortest and longest pulse that any servo takes.
const BOUNDS: (Duration, Duration) = (Duration::from_micros(300), Duration::from_millis(3));

/// Keys of `servo`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// BCM number (18), GPIO18 or header:12. 12, 13, 18 and 19 have a PWM of their own and do not tremble.
    pin: Pin,
    /// Pulse at the first angle of `range`; default 1ms.
    min_pulse: Option<Span>,
    /// Pulse at the second; default 2ms.
    max_pulse: Option<Span>,
    /// The angles at both ends; default [0, 180].
    range: Option<[f64; 2]>,
    /// Angle when the pin is taken over: off (default: no pulses), an angle, or restore (as it was before the daemon's
    /// end).
    initial: Option<Drive>,
    /// Angle that does no harm: off (default: no pulses) or an angle. After a crash there are no pulses.
    safe: Option<Drive>,
    /// Angle at an orderly stop: off or an angle; default: safe.
    on_stop: Option<Drive>,
    /// What to do when the broker has been away: `{after: 60s, do: safe}`.
    on_broker_loss: Option<BrokerLoss>,
    #[serde(flatten)]
    commands: Commands,
    #[serde(flatten)]
    point: PointKeys,
}

/// What to do when the broker has been away.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
struct BrokerLoss {
    /// For how long.
    after: Span,
    /// Take the safe state (default), off, an angle, or keep as it is.
    #[serde(rename = "do")]
    then: Option<Drive>,
}

struct Servo {
    pin: u8,
    pulses: (Duration, Duration),
    range: (f64, f64),
    initial: Setting,
    safe: Setting,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    desk.claim_pin(keys.pin.0, &["pin"]);
    let pulses = (keys.min_pulse.map_or(MIN_PULSE, |s| s.0), keys.max_pulse.map_or(MAX_PULSE, |s| s.0));
    let fits = |d: Duration| (BOUNDS.0..=BOUNDS.1).contains(&d);
    for (key, pulse) in [("min_pulse", pulses.0), ("max_pulse", pulses.1)] {
        if !fits(pulse) {
            let text = format!("no servo takes a pulse of {}", Span(pulse));
            desk.error(&[key], text, "write a time from 300us to 3ms; 1ms and 2ms are what every servo bears");
        }
    }
    if pulses.0 >= pulses.1 {
        let help = "turn `range` around for one that goes the other way: range: [180, 0]";
        desk.error(&["min_pulse"], "`min_pulse` is not shorter than `max_pulse`", help);
    }
    let [from, to] = keys.range.unwrap_or([0.0, 180.0]);
    if from == to || !from.is_finite() || !to.is_finite() {
        desk.error(&["range"], "a range of one angle is none", "write range: [0, 180]");
        return None;
    }
    let scale = Scale::Angle { from, to };
    let mut read = |key: &[&str], drive: Drive, safe: Setting, more: &[Drive]| -> Option<Setting> {
        let setting = match drive {
            Drive::Off => Setting::Off,
            Drive::At(n) => Setting::On(n),
            Drive::Safe if more.contains(&drive) => safe,
            Drive::Keep | Drive::Restore if more.contains(&drive) => return None,
            other => {
                desk.error(key, format!("`{other}` is not an angle"), "write an angle within `range`, or off");
                return None;
            }
        };
        if let Some(why) = scale.refuses(setting) {
            desk.error(key, why, "write an angle within `range`, or off");
        }
        Some(setting)
    };
    let off = Setting::Off;
    let safe = keys.safe.and_then(|d| read(&["safe"], d, off, &[])).unwrap_or(off);
    let initial = keys.initial.unwrap_or(Drive::Off);
    let begins = read(&["initial"], initial, safe, &[Drive::Restore]).unwrap_or(safe);
    let on_stop = keys.on_stop.map_or(Some(safe), |d| read(&["on_stop"], d, safe, &[]));
    let loss = keys.on_broker_loss.map(|loss| {
        let drive = loss.then.unwrap_or(Drive::Safe);
        (loss.after.0, read(&["on_broker_loss", "do"], drive, safe, &[Drive::Safe, Drive::Keep]))
    });
    let restore = initial == Drive::Restore;
    let all = States { scale, begins_on: false, restore, safe, on_stop, on_broker_loss: loss };
    let limits = keys.commands.limits(all);
    let mut notes = vec![format!(
        "pin {}, {} to {} us for {from} to {to}, safe {}",
        keys.pin,
        pulses.0.as_micros(),
        pulses.1.as_micros(),
        if let Setting::On(n) = safe { n.to_string() } else { "off".into() }
    )];
    notes.extend(states(&initial.to_string(), &limits));
    Some(Built {
        points: vec![PointDraft {
            name: "angle".into(),
            keys: keys.point,
            path: vec![],
            values: "an angle",
            stateful: true,
        }],
        point_verbs: vec!["set", "get"],
        device_verbs: vec![],
        own_verbs: vec![],
        output: Some(limits),
        safe: Some(SafePin { pin: keys.pin.0, high: false }),
        notes,
        driver: Box::new(Servo { pin: keys.pin.0, pulses, range: (from, to), initial: begins, safe }),
    })
}

impl Servo {
    /// Share of the period at the high level.
    fn high(&self, setting: Setting) -> f64 {
        let Setting::On(angle) = setting else { return 0.0 };
        let share = ((angle - self.range.0) / (self.range.1 - self.range.0)).clamp(0.0, 1.0);
        let pulse = self.pulses.0 + (self.pulses.1 - self.pulses.0).mul_f64(share);
        pulse.as_secs_f64() / PERIOD.as_secs_f64()
    }
    fn scale(&self) -> Scale {
        Scale::Angle { from: self.range.0, to: self.range.1 }
    }
    fn write(&self, pin: &mut dyn PwmPin, setting: Setting) -> Result<Option<Value>, HalError> {
        let wished = self.high(setting);
        pin.set(wished)?;
        let read = pin.high()?;
        // a microsecond is nothing to a servo
        if (read - wished).abs() < 1e-6 / PERIOD.as_secs_f64() {
            return Ok(Some(self.scale().value(setting)));
        }
        Ok(None)
    }
}

impl Driver for Servo {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let start = match cx.begin {
                Begin::AsWritten => self.initial,
                Begin::Safe | Begin::Kept => self.safe,
                Begin::At(setting) => setting,
            };
            let hertz = 1.0 / PERIOD.as_secs_f64();
            let mut pin = cx.board.pwm(self.pin, hertz, self.high(start), Level::Low)?;
            cx.begin = Begin::Safe;
            cx.online().await;
            cx.reading(0, self.scale().value(start), Quality::Good, Instant::now()).await;
            while let Some(order) = cx.orders.recv().await {
                let (ticket, action) = match order.in_time() {
                    Ok(in_time) => in_time,
                    Err((ticket, why)) => {
                        cx.acted(ticket, Err(why)).await;
                        continue;
                    }
                };
                let result = match &action {
                    Action::Set(value) => match self.scale().setting(value) {
                        Some(setting) => self.write(&mut *pin, setting),
                        None => Ok(None),
                    },
                    _ => Ok(None),
                };
                match result {
                    Ok(read) => cx.read_back(ticket, read).await,
                    Err(e) => {
                        let _ = pin.set(self.high(self.safe));
                        cx.acted(ticket, Err(e.text.clone().into())).await;
                        return Err(e.into());
                    }
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_angle_is_a_length_of_pulse() {
        let ms = Duration::from_millis;
        let servo =
            Servo { pin: 18, pulses: (ms(1), ms(2)), range: (0.0, 180.0), initial: Setting::Off, safe: Setting::Off };
        for (setting, high) in [
            (Setting::Off, 0.0),
            (Setting::On(0.0), 0.05),
            (Setting::On(90.0), 0.075),
            (Setting::On(180.0), 0.1),
            (Setting::On(999.0), 0.1),
        ] {
            assert!((servo.high(setting) - high).abs() < 1e-9, "{setting:?}");
        }
        let other_way = Servo { range: (90.0, -90.0), ..servo };
        assert!((other_way.high(Setting::On(-90.0)) - 0.1).abs() < 1e-9);
    }
}
