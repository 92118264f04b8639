//! Outputs: where they stand, and what they are held to.

use std::time::Duration;

use super::Value;

/// Where an output stands or is to go. Whatever is not off is on, and the limits hold for it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Setting {
    /// Off: the pin does not drive, a PWM gives no pulses, a servo is limp.
    #[default]
    Off,
    /// On: 1 of a switch, the duty of a PWM in percent (more than 0), the angle of a servo.
    On(f64),
}

impl Setting {
    /// Whether it is not off.
    pub fn is_on(self) -> bool {
        matches!(self, Setting::On(_))
    }
}

/// How an output's settings are written as values.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Scale {
    /// ON or OFF.
    #[default]
    Switch,
    /// A number: 0 is off; on is from `min` to `max` percent.
    Duty {
        /// Least duty while on.
        min: f64,
        /// Greatest duty.
        max: f64,
    },
    /// A number: an angle from `from` to `to`. Off is no number.
    Angle {
        /// One end.
        from: f64,
        /// The other end.
        to: f64,
    },
}

impl Scale {
    /// A setting as a value.
    pub fn value(self, setting: Setting) -> Value {
        match (self, setting) {
            (Scale::Switch, setting) => Value::Bool(setting.is_on()),
            (Scale::Duty { .. }, Setting::Off) => Value::Number(0.0),
            (Scale::Angle { .. }, Setting::Off) => Value::Bool(false),
            (_, Setting::On(n)) => Value::Number(n),
        }
    }

    /// A value as a setting; whether it lies within the bounds is not asked.
    pub fn setting(self, value: &Value) -> Option<Setting> {
        match (self, value) {
            (_, Value::Bool(false)) => Some(Setting::Off),
            (Scale::Switch, Value::Bool(true)) => Some(Setting::On(1.0)),
            (Scale::Duty { .. }, Value::Number(n)) if *n <= 0.0 => Some(Setting::Off),
            (Scale::Duty { .. } | Scale::Angle { .. }, Value::Number(n)) => Some(Setting::On(*n)),
            _ => None,
        }
    }

    /// A setting as a reading: a servo without pulses has no angle.
    pub fn reading(self, setting: Setting) -> Option<Value> {
        match (self, setting) {
            (Scale::Angle { .. }, Setting::Off) => None,
            _ => Some(self.value(setting)),
        }
    }

    /// Why a setting cannot be.
    pub fn refuses(self, setting: Setting) -> Option<String> {
        let Setting::On(n) = setting else { return None };
        match self {
            Scale::Switch => None,
            Scale::Duty { min, max } if n < min || n > max => {
                Some(format!("a duty of {n} % is not within {min} to {max} % (0 switches off)"))
            }
            Scale::Angle { from, to } if n < from.min(to) || n > from.max(to) => {
                Some(format!("an angle of {n} is not within {from} to {to}"))
            }
            _ => None,
        }
    }

    /// Whether the pin holds still at the level of on.
    pub fn is_full(self, setting: Setting) -> bool {
        match (self, setting) {
            (Scale::Switch, setting) => setting.is_on(),
            (Scale::Duty { .. }, Setting::On(n)) => n == 100.0,
            _ => false,
        }
    }

    /// What a plain ON means where nothing was on before.
    pub fn full(self) -> Setting {
        match self {
            Scale::Switch => Setting::On(1.0),
            Scale::Duty { max, .. } => Setting::On(max),
            Scale::Angle { from, to } => Setting::On((from + to) / 2.0),
        }
    }
}

/// How an output begins when its device takes the pin for the first time in a run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Begin {
    /// As `initial` says.
    #[default]
    AsWritten,
    /// In its safe state: the run before ended without order, or the device has failed.
    Safe,
    /// As it is: it was ours a moment ago, before a reload.
    Kept,
    /// Here: what is remembered of the run before.
    At(Setting),
}

/// What an output is held to, below every command.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OutputLimits {
    /// What its values are.
    pub scale: Scale,
    /// State that does no harm; taken after an abnormal exit and when the device comes back from a failure.
    pub safe: Setting,
    /// Whether it begins where it stood before (`initial: restore`).
    pub restore: bool,
    /// State at an orderly stop; `None`: left as it is.
    pub on_stop: Option<Setting>,
    /// What to do when the broker has been away for so long; `None` as state: leave it as it is.
    pub on_broker_loss: Option<(Duration, Option<Setting>)>,
    /// Longest time on.
    pub max_on: Option<Duration>,
    /// Shortest time on.
    pub min_on: Duration,
    /// Shortest time off; where it is not known since when it is off, it counts as just switched off.
    pub min_off: Duration,
    /// Goes off by itself after this time, without being called a limit.
    pub auto_off: Option<Duration>,
    /// Name of the group of which only one member may be on.
    pub interlock: Option<String>,
    /// Pause between one member going off and another going on.
    pub dead_time: Duration,
    /// What it requires, as written: it goes on only while that holds.
    pub requires: Option<String>,
    /// Greatest age of a command that says when it was wished but not how long it holds.
    pub command_ttl: Duration,
    /// Whether retained commands are obeyed.
    pub accept_retained: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_and_its_value_are_the_same_thing() {
        let duty = Scale::Duty { min: 10.0, max: 80.0 };
        for (scale, setting) in [
            (Scale::Switch, Setting::Off),
            (Scale::Switch, Setting::On(1.0)),
            (duty, Setting::Off),
            (duty, Setting::On(40.0)),
            (Scale::Angle { from: 0.0, to: 180.0 }, Setting::On(0.0)),
            (Scale::Angle { from: 0.0, to: 180.0 }, Setting::Off),
        ] {
            assert_eq!(scale.setting(&scale.value(setting)), Some(setting));
            assert_eq!(scale.refuses(setting), None);
        }
        assert!(duty.refuses(Setting::On(9.9)).is_some() && duty.refuses(Setting::On(80.5)).is_some());
        assert_eq!(duty.full(), Setting::On(80.0));
        assert!(Scale::Angle { from: 180.0, to: 0.0 }.refuses(Setting::On(181.0)).is_some());
        assert_eq!(Scale::Switch.setting(&Value::Number(1.0)), None);
    }
}
