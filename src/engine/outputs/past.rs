//! What a run remembers of an output for the next: where it stood, and since when.
//!
//! A moment is kept by the machine's run (boot id and its clock that never jumps) and by the system's clock. It is only
//! believed where the run is the same, or the system's clock was set both times; else nobody knows how long ago it was.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::model::{Boot, Mono, Now, Setting};

use super::Output;

/// What two roundings to milliseconds may make of a time.
const CUT: Duration = Duration::from_millis(2);

/// A moment that may lie before the daemon's start.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Since {
    at: Mono,
    /// How long it had lasted then.
    before: Duration,
}

impl Since {
    pub(super) fn just(now: Mono) -> Since {
        Since { at: now, before: Duration::ZERO }
    }
    pub(super) fn age(self, now: Mono) -> Duration {
        now.since(self.at).saturating_add(self.before)
    }
    /// When it is `d` ago; at once if it is already.
    pub(super) fn end(self, d: Duration) -> Mono {
        self.at.after(d.saturating_sub(self.before))
    }
}

/// What is remembered, as far as it can be believed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Past {
    /// Where it stood before the stop.
    pub(super) lasting: Setting,
    /// Where it begins, if it is restored.
    pub(super) begin: Setting,
    /// Whether the pin was left on.
    pub(super) on: bool,
    /// Since when it was on.
    pub(super) on_from: Since,
    /// Since when it is off: known only after a stop in order.
    pub(super) off_since: Option<Since>,
    pub(super) tries: u32,
    /// Whether it is known since when it was on.
    known: bool,
}

impl Past {
    pub(super) fn read(json: &Json, boot: &Boot, abnormal: bool, now: &Now) -> Option<Past> {
        let on = json["on"].as_bool()?;
        let lasting = json["level"].as_f64().filter(|n| n.is_finite()).map_or(Setting::Off, Setting::On);
        let since = |key: &str| ago(&json[key], boot, now).map(|before| Since { at: now.mono, before });
        // what was cut off in milliseconds must not shorten a time off or lengthen a time on
        let off_since = since("since").map(|s| Since { before: s.before.saturating_sub(CUT), ..s });
        let on_from = since("on_from").map(|s| Since { before: s.before + CUT, ..s });
        Some(Past {
            lasting,
            begin: Setting::Off,
            on: on && !abnormal,
            on_from: on_from.unwrap_or(Since::just(now.mono)),
            off_since: off_since.filter(|_| !on && !abnormal),
            tries: json["tries"].as_u64().unwrap_or(0) as u32,
            known: on_from.is_some(),
        })
    }

    /// What is on record.
    pub(super) fn noted(&self) -> (Setting, Since) {
        (self.lasting, if self.lasting.is_on() { self.on_from } else { Since::default() })
    }

    /// What goes on from where it was.
    pub(super) fn resumed(to: Setting, on_from: Since) -> Past {
        Past { lasting: to, begin: to, on: true, on_from, off_since: None, tries: 0, known: true }
    }
}

impl Output {
    /// Decides how it begins, and whether it is restored later.
    pub(super) fn prepare(&mut self, abnormal: bool, now: Mono) {
        let limits = &self.limits;
        let Some(past) = self.past.as_mut().filter(|_| limits.restore) else { return };
        // a restart loop must not click
        let again = abnormal && past.tries > 0;
        self.tries = if abnormal { past.tries + u32::from(past.lasting.is_on()) } else { 0 };
        let Setting::On(_) = past.lasting else { return };
        let most = limits.max_on.into_iter().chain(limits.auto_off).min();
        let over = most.is_some_and(|d| !past.known || past.on_from.end(d) <= now);
        if again || over || limits.scale.refuses(past.lasting).is_some() {
            past.begin = if limits.safe.is_on() { limits.safe } else { Setting::Off };
            self.lasting = past.begin;
            return;
        }
        self.last_on = Some(past.lasting);
        let waits = limits.interlock.is_some() || !limits.min_off.is_zero() || limits.requires.is_some();
        if waits {
            self.wanted = Some((past.lasting, past.on_from, now));
        } else {
            past.begin = past.lasting;
        }
    }

    /// What the next run has to know.
    pub(super) fn record(&self, boot: &Boot, now: &Now) -> Json {
        // what is on its way may get there
        let on = self.is.is_some_and(Setting::is_on) || self.writing.is_some() || self.fading.is_some();
        let level = if let Setting::On(n) = self.lasting { Some(n) } else { None };
        let on_from = match (&self.past, level) {
            (_, None) => Json::Null,
            (Some(past), Some(_)) if past.known => moment(past.on_from, boot, now),
            (Some(_), Some(_)) => Json::Null,
            (None, Some(_)) => moment(self.on_from, boot, now),
        };
        let since = moment(self.since, boot, now);
        json!({ "level": level, "on": on, "since": since, "on_from": on_from, "tries": self.tries })
    }
}

/// A moment as it is kept.
fn moment(since: Since, boot: &Boot, now: &Now) -> Json {
    let age = since.age(now.mono).as_millis() as i64;
    let up = (boot.offset + now.mono.0).as_millis() as i64;
    json!({ "boot": boot.id, "up": up - age, "wall": now.wall.0.saturating_sub(age), "synced": now.synced })
}

/// How long ago a moment was, if that can be known.
fn ago(json: &Json, boot: &Boot, now: &Now) -> Option<Duration> {
    let ms = |key: &str| json[key].as_i64();
    let age = if !boot.id.is_empty() && json["boot"].as_str() == Some(&boot.id) {
        ((boot.offset + now.mono.0).as_millis() as i64).checked_sub(ms("up")?)?
    } else if now.synced && json["synced"].as_bool()? {
        now.wall.0.checked_sub(ms("wall")?)?
    } else {
        return None;
    };
    u64::try_from(age).ok().map(Duration::from_millis)
}
