//! `digital_out`: a relay, a pump, a lamp.
//!
//! The pin is taken over with its first level already set. Every write is read back; the answer and the state are what
//! the pin reads, not what was wished. What may be wished at all is decided by the engine (`engine/outputs.rs`).

use tokio::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{OnOff, Pin, Span};
use crate::hal::{HalError, Level, OutputPin, Start};
use crate::model::{Action, Begin, Quality, Scale, Setting, Value};

use super::output::{Safety, States};
use super::{Built, Context, Desk, DeviceError, Driver, Kind, PointDraft, SafePin, Task};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "digital_out",
        summary: "a relay or lamp on a pin",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// Keys of `digital_out`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// BCM number (17), GPIO17 or header:11.
    pin: Pin,
    /// ON is the low level; default no.
    inverted: Option<OnOff>,
    /// State when the pin is taken over: off (default), on, keep (as it is found), or restore (as it was before the
    /// daemon's end).
    initial: Option<StateKey>,
    /// State that does no harm: off (default) or on.
    safe: Option<OnOff>,
    /// State at an orderly stop: off, on or keep; default: safe.
    on_stop: Option<EndKey>,
    /// What to do when the broker has been away: `{after: 60s, do: safe}`.
    on_broker_loss: Option<BrokerLoss>,
    #[serde(flatten)]
    safety: Safety,
    #[serde(flatten)]
    point: PointKeys,
}

/// A state, the one that is found, or the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StateKey {
    /// Off.
    Off,
    /// On.
    On,
    /// As it is.
    Keep,
    /// As it was.
    Restore,
}

/// A state, or the one that is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum EndKey {
    /// Off.
    Off,
    /// On.
    On,
    /// As it is.
    Keep,
}

/// What to do when the broker has been away.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
struct BrokerLoss {
    /// For how long.
    after: Span,
    /// Take the safe state (default), off, on, or keep as it is.
    #[serde(rename = "do")]
    then: Option<LossKey>,
}

/// What is done.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum LossKey {
    /// The safe state.
    Safe,
    /// Off.
    Off,
    /// On.
    On,
    /// As it is.
    Keep,
}

struct DigitalOut {
    pin: u8,
    inverted: bool,
    initial: StateKey,
    safe: bool,
}

const OFF: Setting = Setting::Off;
const ON: Setting = Setting::On(1.0);

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    desk.claim_pin(keys.pin.0, &["pin"]);
    let safe = keys.safe.unwrap_or_default().0;
    let initial = keys.initial.unwrap_or(StateKey::Off);
    let safe_setting = if safe { ON } else { OFF };
    let states = States {
        scale: Scale::Switch,
        begins_on: initial == StateKey::On,
        restore: initial == StateKey::Restore,
        safe: safe_setting,
        on_stop: match keys.on_stop {
            None => Some(safe_setting),
            Some(EndKey::Off) => Some(OFF),
            Some(EndKey::On) => Some(ON),
            Some(EndKey::Keep) => None,
        },
        on_broker_loss: keys.on_broker_loss.map(|loss| {
            let state = match loss.then.unwrap_or(LossKey::Safe) {
                LossKey::Safe => Some(safe_setting),
                LossKey::Off => Some(OFF),
                LossKey::On => Some(ON),
                LossKey::Keep => None,
            };
            (loss.after.0, state)
        }),
    };
    let inverted = keys.inverted.unwrap_or_default().0;
    let begins = match initial {
        StateKey::Off => "off",
        StateKey::On => "on",
        StateKey::Keep => "keep",
        StateKey::Restore => "restore",
    };
    let mut notes = vec![format!("pin {}{}, safe {}", keys.pin, if inverted { ", inverted" } else { "" }, OnOff(safe))];
    let limits = keys.safety.limits(states, desk);
    notes.extend(keys.safety.notes(begins, &limits));
    Some(Built {
        points: vec![PointDraft {
            name: "state".into(),
            keys: keys.point,
            path: vec![],
            values: "ON or OFF",
            stateful: true,
        }],
        point_verbs: vec!["set", "get", "pulse", "blink"],
        device_verbs: vec![],
        own_verbs: vec![],
        output: Some(limits),
        safe: Some(SafePin { pin: keys.pin.0, high: safe != inverted }),
        notes,
        driver: Box::new(DigitalOut { pin: keys.pin.0, inverted, initial, safe }),
    })
}

impl DigitalOut {
    fn level(&self, on: bool) -> Level {
        if on != self.inverted { Level::High } else { Level::Low }
    }
    fn logical(&self, level: Level) -> bool {
        (level == Level::High) != self.inverted
    }
    fn act(&self, pin: &mut dyn OutputPin, action: &Action) -> Result<Option<Value>, HalError> {
        if let Action::Set(Value::Bool(on)) = action {
            pin.write(self.level(*on))?;
        }
        Ok(Some(Value::Bool(self.logical(pin.read()?))))
    }
}

impl Driver for DigitalOut {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let start = match (cx.begin, self.initial) {
                (Begin::Kept, _) => Start::Keep,
                (Begin::At(setting), _) => Start::At(self.level(setting.is_on())),
                (Begin::Safe, _) | (_, StateKey::Restore) => Start::At(self.level(self.safe)),
                (_, StateKey::Off) => Start::At(self.level(false)),
                (_, StateKey::On) => Start::At(self.level(true)),
                (_, StateKey::Keep) => Start::Keep,
            };
            let mut pin = cx.board.output(self.pin, start)?;
            cx.begin = Begin::Safe;
            let first = self.logical(pin.read()?);
            cx.online().await;
            cx.reading(0, Value::Bool(first), Quality::Good, Instant::now()).await;
            while let Some(order) = cx.orders.recv().await {
                let (ticket, action) = match order.in_time() {
                    Ok(in_time) => in_time,
                    Err((ticket, why)) => {
                        cx.acted(ticket, Err(why)).await;
                        continue;
                    }
                };
                match self.act(&mut *pin, &action) {
                    Ok(read) => cx.read_back(ticket, read).await,
                    Err(e) => {
                        // what it is now nobody knows, and nobody watches its limits until it is taken over again
                        let _ = pin.write(self.level(self.safe));
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
    use crate::device::Report;
    use crate::device::testing::Bench;
    use crate::hal::sim::SimBoard;
    use crate::hal::{Board, EdgeSender, InputPin, Pull};
    use std::sync::{Arc, Mutex};

    fn driver() -> DigitalOut {
        DigitalOut { pin: 27, inverted: false, initial: StateKey::Off, safe: false }
    }

    #[tokio::test]
    async fn an_order_that_waited_too_long_is_not_begun() {
        let board = SimBoard::new();
        let mut bench = Bench::new(Arc::new(board.clone()));
        bench.order_late(1, Action::Set(Value::Bool(true)));
        bench.order(2, Action::Set(Value::Bool(false)));
        let reports = bench.run(&driver(), 4).await;
        assert_eq!(bench.counters().readings, 2, "the first level, and what the pin read after the order");
        assert!(matches!(&reports[2], Report::Acted(_, Err(why)) if why.reason.contains("too long")), "{reports:?}");
        assert!(matches!(&reports[3], Report::Acted(_, Ok(Some(Value::Bool(false))))), "{reports:?}");
    }

    /// A pin that can be written and not read back after the first time.
    struct Blind(Arc<Mutex<Vec<Level>>>);
    impl OutputPin for Blind {
        fn write(&mut self, level: Level) -> Result<(), HalError> {
            self.0.lock().unwrap().push(level);
            Ok(())
        }
        fn read(&self) -> Result<Level, HalError> {
            match self.0.lock().unwrap().as_slice() {
                [first] => Ok(*first),
                _ => Err(HalError::new(crate::hal::HalErrorKind::Io, "it cannot be read")),
            }
        }
    }
    impl Board for Blind {
        fn describe(&self) -> String {
            "blind".into()
        }
        fn input(&self, _: u8, _: Pull, _: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
            Err(HalError::new(crate::hal::HalErrorKind::Unsupported, "no inputs"))
        }
        fn output(&self, _: u8, _: Start) -> Result<Box<dyn OutputPin>, HalError> {
            self.0.lock().unwrap().push(Level::Low);
            Ok(Box::new(Blind(self.0.clone())))
        }
    }

    #[tokio::test]
    async fn an_output_that_fails_is_left_in_its_safe_state() {
        let levels = Arc::new(Mutex::new(Vec::new()));
        let mut bench = Bench::new(Arc::new(Blind(levels.clone())));
        bench.order(1, Action::Set(Value::Bool(true)));
        let reports = bench.run(&driver(), 3).await;
        assert!(matches!(&reports[2], Report::Acted(_, Err(_))), "{reports:?}");
        assert_eq!(*levels.lock().unwrap(), [Level::Low, Level::High, Level::Low]);
    }
}
