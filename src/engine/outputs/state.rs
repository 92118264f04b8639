//! One output: where it stands, what is on its way to it, and when it moves by itself.

use std::time::Duration;

use crate::model::{Mono, OutputLimits, Scale, Setting};

use super::past::{Past, Since};
use super::{Blink, Write, text};

/// When an output goes off by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OffAt {
    pub(super) at: Mono,
    pub(super) reason: String,
    pub(super) quiet: bool,
}

/// A write on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Flight {
    pub(super) write: Write,
    pub(super) ordered: Mono,
}

pub(super) struct Output {
    pub(super) name: String,
    pub(super) limits: OutputLimits,
    /// As last read back; `None` until the device has its pin.
    pub(super) is: Option<Setting>,
    /// Since when it is on, or off.
    pub(super) since: Since,
    /// When it was told to go on: a limit counts from here.
    pub(super) on_from: Since,
    /// The last write on its way.
    pub(super) writing: Option<Flight>,
    /// How many writes are on their way: a forced one may follow a wished one.
    pub(super) flights: u32,
    /// When it goes off by itself.
    pub(super) off_at: Option<OffAt>,
    /// A pulse that begins with the write on its way.
    pub(super) pulse: Option<Duration>,
    /// What is left of a blink.
    pub(super) blink: Option<Blink>,
    /// When a blink goes on again.
    pub(super) on_at: Option<Mono>,
    /// Where a fade ends.
    pub(super) fading: Option<Setting>,
    /// Where it last stood while it was on.
    pub(super) last_on: Option<Setting>,
    /// What `initial: restore` brings back: not a pulse, a blink or what a stop has done.
    pub(super) lasting: Setting,
    /// What is remembered of the run before, until the pin is seen for the first time.
    pub(super) past: Option<Past>,
    /// What is to be restored as soon as the limits allow, and when to look again.
    pub(super) wanted: Option<(Setting, Since, Mono)>,
    /// How often it was restored after an abnormal end, without a command or a calm run since.
    pub(super) tries: u32,
    /// What is on record of it.
    pub(super) noted: Option<(Setting, Since)>,
    /// Whether the loss of the broker was acted upon.
    pub(super) loss_done: bool,
    /// Not before this: it was tried and could not be done.
    pub(super) loss_again: Mono,
    /// Why `requires` does not hold.
    pub(super) unmet: Option<String>,
}

impl Output {
    pub(super) fn is_or_gets_on(&self) -> bool {
        let now = self.is.is_some_and(Setting::is_on) || self.fading.is_some_and(Setting::is_on);
        match self.writing {
            // what is being switched off is on until it reads so
            Some(flight) => flight.write.to.is_on() || now,
            None => now,
        }
    }
    /// What the setting would be if everything on its way arrives.
    pub(super) fn will_be(&self) -> Option<Setting> {
        self.writing.map(|f| f.write.to).or(self.is)
    }
    pub(super) fn order(&mut self, write: Write, now: Mono) {
        self.writing = Some(Flight { write, ordered: now });
        self.flights += 1;
        self.fading = None;
        self.on_at = None;
        self.wanted = None;
    }
    /// When it goes off by itself, by its limits.
    pub(super) fn limit(&self) -> Option<OffAt> {
        let max = self.limits.max_on.map(|d| (self.on_from.end(d), format!("max_on of {} is over", text(d))));
        let auto = self.limits.auto_off.map(|d| (self.on_from.end(d), format!("auto_off after {}", text(d))));
        let first = max.into_iter().chain(auto).min_by_key(|(t, _)| *t);
        first.map(|(at, reason)| OffAt { at, reason, quiet: false })
    }
    /// When something that begins now ends: never later than `max_on` allows.
    pub(super) fn ends(&self, now: Mono, d: Duration, reason: String, quiet: bool) -> Option<OffAt> {
        let end = OffAt { at: now.after(d), reason, quiet };
        match self.limits.max_on.map(|max| self.on_from.end(max)) {
            Some(limit) if limit < end.at => self.limit(),
            _ => Some(end),
        }
    }
    /// Whether the next run has to know of it.
    pub(super) fn has_memory(&self) -> bool {
        let l = &self.limits;
        let times = !l.min_on.is_zero() || !l.min_off.is_zero() || l.max_on.is_some() || l.auto_off.is_some();
        // a duty or an angle cannot be read back from the pin that a reload leaves as it is
        l.restore || l.interlock.is_some() || times || l.scale != Scale::Switch
    }
}

impl Output {
    /// The pin stands so.
    pub(super) fn now_is(&mut self, read: Setting, ordered: Mono, now: Mono) {
        let was = self.is.replace(read);
        if read.is_on() {
            self.last_on = Some(read);
        }
        if was.map(Setting::is_on) == Some(read.is_on()) {
            return;
        }
        let past = self.past.take();
        self.since = Since::just(now);
        if read.is_on() {
            // what was on before, as far as one knows, has been on all the time
            self.on_from = past.filter(|p| p.on || p.begin.is_on()).map_or(Since::just(ordered), |p| p.on_from);
            if was.is_none() {
                self.since = self.on_from;
            }
            self.off_at = self.limit();
        } else {
            self.off_at = None;
            if was.is_none()
                && let Some(since) = past.and_then(|p| p.off_since)
            {
                self.since = since;
            }
            if let Some((_, on_from, _)) = self.wanted {
                self.on_from = on_from;
            }
        }
    }
}
