//! `digital_out`: a relay, a pump, a lamp.
//!
//! The pin is taken over with its first level already set. Every write is read back; the answer and the state are what
//! the pin reads, not what was wished. What may be wished at all is decided by the engine (`engine/outputs.rs`).

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::{OnOff, Pin, Span};
use crate::hal::{HalError, Level, OutputPin, Start};
use crate::model::{Action, OutputLimits, Quality, Value, is_name};

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

/// Greatest age of a command that says when it was wished, where `command_ttl` is not given.
const COMMAND_TTL: Duration = Duration::from_secs(30);

/// Keys of `digital_out`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// BCM number (17), GPIO17 or header:11.
    pin: Pin,
    /// ON is the low level; default no.
    inverted: Option<OnOff>,
    /// State when the pin is taken over: off (default), on, or keep.
    initial: Option<StateKey>,
    /// State that does no harm: off (default) or on.
    safe: Option<OnOff>,
    /// State at an orderly stop: off, on or keep; default: safe.
    on_stop: Option<StateKey>,
    /// What to do when the broker has been away: `{after: 60s, do: safe}`.
    on_broker_loss: Option<BrokerLoss>,
    /// Longest time on; default: no limit.
    max_on: Option<Span>,
    /// Shortest time on; default 0s.
    min_on: Option<Span>,
    /// Shortest time off, also from the daemon's start; default 0s.
    min_off: Option<Span>,
    /// Goes off by itself after this time; default: never.
    auto_off: Option<Span>,
    /// Group of which only one may be on.
    #[schemars(extend("format" = "name"))]
    interlock: Option<String>,
    /// Pause between one of the group going off and another going on; default 0s.
    dead_time: Option<Span>,
    /// Greatest age of a command that carries a `time` and no `ttl`; default 30s.
    command_ttl: Option<Span>,
    /// Whether retained commands are obeyed; default no.
    accept_retained: Option<OnOff>,
    #[serde(flatten)]
    point: PointKeys,
}

/// A state, or the one that is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StateKey {
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

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    desk.claim_pin(keys.pin.0, &["pin"]);
    let span = |key: Option<Span>| key.map_or(Duration::ZERO, |s| s.0);
    let safe = keys.safe.unwrap_or_default().0;
    let initial = keys.initial.unwrap_or(StateKey::Off);
    if let Some(group) = &keys.interlock
        && !is_name(group)
    {
        desk.error(&["interlock"], format!("`{group}` is not a name"), "use a-z, 0-9, _ and -");
    }
    if keys.interlock.is_none() && keys.dead_time.is_some() {
        desk.error(&["dead_time"], "`dead_time` without `interlock`", "name the group: interlock: blind");
    }
    if keys.interlock.is_some() && (initial == StateKey::On || safe) {
        let key = if safe { "safe" } else { "initial" };
        desk.error(
            &[key],
            "a member of an interlock cannot begin on",
            "write off: two members must never be on at once",
        );
    }
    if let (Some(max), min) = (keys.max_on, span(keys.min_on))
        && max.0 <= min
        && !max.0.is_zero()
    {
        desk.error(&["max_on"], "`max_on` is not longer than `min_on`", "give max_on more time");
    }
    if keys.max_on.is_some() && safe {
        desk.error(&["max_on"], "`max_on` cannot hold where the safe state is on", "remove max_on, or write safe: off");
    }
    if keys.max_on.is_some() && keys.on_stop == Some(StateKey::On) {
        desk.error(&["on_stop"], "nobody holds `max_on` once the daemon has stopped", "write on_stop: off");
    }
    for (key, value) in [("max_on", keys.max_on), ("auto_off", keys.auto_off)] {
        if value.is_some_and(|s| s.0.is_zero()) {
            desk.error(&[key], format!("`{key}` of no time"), "write a time such as 20m, or remove the key");
        }
    }
    let state = |key: StateKey| match key {
        StateKey::Off => Some(false),
        StateKey::On => Some(true),
        StateKey::Keep => None,
    };
    let limits = OutputLimits {
        safe,
        on_stop: keys.on_stop.map_or(Some(safe), state),
        on_broker_loss: keys.on_broker_loss.map(|loss| {
            let state = match loss.then.unwrap_or(LossKey::Safe) {
                LossKey::Safe => Some(safe),
                LossKey::Off => Some(false),
                LossKey::On => Some(true),
                LossKey::Keep => None,
            };
            (loss.after.0, state)
        }),
        max_on: keys.max_on.map(|s| s.0),
        min_on: span(keys.min_on),
        min_off: span(keys.min_off),
        auto_off: keys.auto_off.map(|s| s.0),
        interlock: keys.interlock.clone(),
        dead_time: span(keys.dead_time),
        command_ttl: keys.command_ttl.map_or(COMMAND_TTL, |s| s.0),
        accept_retained: keys.accept_retained.unwrap_or_default().0,
    };
    let inverted = keys.inverted.unwrap_or_default().0;
    let mut notes = vec![format!("pin {}{}, safe {}", keys.pin, if inverted { ", inverted" } else { "" }, OnOff(safe))];
    let word = |state: Option<bool>| state.map_or("keep".to_owned(), |on| OnOff(on).to_string());
    notes.push(format!("initial {}, on_stop {}", word(state(initial)), word(limits.on_stop)));
    if let Some((after, to)) = limits.on_broker_loss {
        notes.push(format!("{} when the broker has been away for {}", word(to), Span(after)));
    }
    let times = [("max_on", keys.max_on), ("min_on", keys.min_on), ("min_off", keys.min_off)];
    for (key, value) in times.into_iter().chain([("auto_off", keys.auto_off)]) {
        notes.extend(value.map(|s| format!("{key} {s}")));
    }
    notes.extend(keys.interlock.as_ref().map(|g| format!("interlock {g}, dead time {}", Span(limits.dead_time))));
    Some(Built {
        points: vec![PointDraft {
            name: "state".into(),
            keys: keys.point,
            path: vec![],
            values: "ON or OFF",
            stateful: true,
        }],
        point_verbs: vec!["set", "get", "pulse"],
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
            let start = match self.initial {
                _ if std::mem::take(&mut cx.start_kept) => Start::Keep,
                _ if cx.start_safe => Start::At(self.level(self.safe)),
                StateKey::Off => Start::At(self.level(false)),
                StateKey::On => Start::At(self.level(true)),
                StateKey::Keep => Start::Keep,
            };
            let mut pin = cx.board.output(self.pin, start)?;
            // whoever takes the pin again after a failure does no harm with it
            cx.start_safe = true;
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
                    Ok(read) => cx.acted(ticket, Ok(read)).await,
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
