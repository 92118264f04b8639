//! What all outputs have in common: the keys of their limits, what contradicts itself in them, and what `explain` says.
//! No kind of its own.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::scalar::{OnOff, Span};
use crate::model::{OutputLimits, Scale, Setting, is_name};

use super::Desk;

/// Greatest age of a command that says when it was wished, where `command_ttl` is not given.
const COMMAND_TTL: Duration = Duration::from_secs(30);

/// Keys of the limits.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Safety {
    /// Longest time on; default: no limit.
    max_on: Option<Span>,
    /// Shortest time on; default 0s.
    min_on: Option<Span>,
    /// Shortest time off; where nobody knows since when it is off, from the daemon's start; default 0s.
    min_off: Option<Span>,
    /// Goes off by itself after this time; default: never.
    auto_off: Option<Span>,
    /// Group of which only one may be on.
    #[schemars(extend("format" = "name"))]
    interlock: Option<String>,
    /// Pause between one of the group going off and another going on; default 0s.
    dead_time: Option<Span>,
    /// Expression over points that must hold while it is on; default: nothing.
    requires: Option<String>,
    #[serde(flatten)]
    commands: Commands,
}

/// Keys of what commands are obeyed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Commands {
    /// Greatest age of a command that carries a `time` and no `ttl`; default 30s.
    command_ttl: Option<Span>,
    /// Whether retained commands are obeyed; default no.
    accept_retained: Option<OnOff>,
}

impl Commands {
    /// The limits they make.
    pub(super) fn limits(&self, states: States) -> OutputLimits {
        OutputLimits {
            scale: states.scale,
            safe: states.safe,
            restore: states.restore,
            on_stop: states.on_stop,
            on_broker_loss: states.on_broker_loss,
            command_ttl: self.command_ttl.map_or(COMMAND_TTL, |s| s.0),
            accept_retained: self.accept_retained.unwrap_or_default().0,
            ..OutputLimits::default()
        }
    }
}

/// The states of a kind's own keys.
pub(super) struct States {
    pub(super) scale: Scale,
    /// Whether it is on when it is taken over, whatever was before.
    pub(super) begins_on: bool,
    pub(super) restore: bool,
    pub(super) safe: Setting,
    pub(super) on_stop: Option<Setting>,
    pub(super) on_broker_loss: Option<(Duration, Option<Setting>)>,
}

impl Safety {
    /// The limits; what contradicts itself is reported.
    pub(super) fn limits(&self, states: States, desk: &mut Desk) -> OutputLimits {
        let span = |key: Option<Span>| key.map_or(Duration::ZERO, |s| s.0);
        let safe = states.safe.is_on();
        if let Some(group) = &self.interlock
            && !is_name(group)
        {
            desk.error(&["interlock"], format!("`{group}` is not a name"), "use a-z, 0-9, _ and -");
        }
        if self.interlock.is_none() && self.dead_time.is_some() {
            desk.error(&["dead_time"], "`dead_time` without `interlock`", "name the group: interlock: blind");
        }
        if self.interlock.is_some() && (states.begins_on || safe) {
            let key = if safe { "safe" } else { "initial" };
            desk.error(
                &[key],
                "a member of an interlock cannot begin on",
                "write off: two members must never be on at once",
            );
        }
        if let (Some(max), min) = (self.max_on, span(self.min_on))
            && max.0 <= min
            && !max.0.is_zero()
        {
            desk.error(&["max_on"], "`max_on` is not longer than `min_on`", "give max_on more time");
        }
        if self.max_on.is_some() && safe {
            desk.error(
                &["max_on"],
                "`max_on` cannot hold where the safe state is on",
                "remove max_on, or write safe: off",
            );
        }
        let stop_on = states.on_stop.is_some_and(Setting::is_on);
        if self.max_on.is_some() && stop_on && !safe {
            desk.error(&["on_stop"], "nobody holds `max_on` once the daemon has stopped", "write on_stop: off");
        }
        for (key, value) in [("max_on", self.max_on), ("auto_off", self.auto_off)] {
            if value.is_some_and(|s| s.0.is_zero()) {
                desk.error(&[key], format!("`{key}` of no time"), "write a time such as 20m, or remove the key");
            }
        }
        OutputLimits {
            max_on: self.max_on.map(|s| s.0),
            min_on: span(self.min_on),
            min_off: span(self.min_off),
            auto_off: self.auto_off.map(|s| s.0),
            interlock: self.interlock.clone(),
            dead_time: span(self.dead_time),
            requires: self.requires.clone(),
            ..self.commands.limits(states)
        }
    }

    /// What `explain` says of them.
    pub(super) fn notes(&self, initial: &str, limits: &OutputLimits) -> Vec<String> {
        let mut notes = states(initial, limits);
        let times = [("max_on", self.max_on), ("min_on", self.min_on), ("min_off", self.min_off)];
        for (key, value) in times.into_iter().chain([("auto_off", self.auto_off)]) {
            notes.extend(value.map(|s| format!("{key} {s}")));
        }
        notes.extend(self.interlock.as_ref().map(|g| format!("interlock {g}, dead time {}", Span(limits.dead_time))));
        notes.extend(self.requires.as_ref().map(|text| format!("requires {text}")));
        notes
    }
}

/// What `explain` says of where an output begins and ends.
pub(super) fn states(initial: &str, limits: &OutputLimits) -> Vec<String> {
    let word = |state: Option<Setting>| match state {
        None => "keep".to_owned(),
        Some(Setting::Off) => "off".to_owned(),
        Some(Setting::On(_)) if limits.scale == Scale::Switch => "on".to_owned(),
        Some(Setting::On(n)) => n.to_string(),
    };
    let mut notes = vec![format!("initial {initial}, on_stop {}", word(limits.on_stop))];
    if let Some((after, to)) = limits.on_broker_loss {
        notes.push(format!("{} when the broker has been away for {}", word(to), Span(after)));
    }
    notes
}
