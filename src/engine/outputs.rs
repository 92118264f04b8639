//! On/off outputs and what they are held to. The one place that decides whether a pin may move.
//!
//! Pure: told what was wished ([`Outputs::wish`]), what the pin reads back ([`Outputs::settled`]) and what time it is
//! ([`Outputs::due`]), it says which pin to write. Promises:
//! - two members of an interlock are never wished on at once, and `dead_time` passes between them;
//! - no output stays on longer than `max_on`, whoever switched it on;
//! - going off for safety (limit, stop, broker loss) is never refused;
//! - one write at a time per output: what comes meanwhile is `busy`.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::{DeviceId, DeviceSpec, Mono, Outcome, OutcomeKind, OutputLimits, Value};

/// How long a failed switching-off is left before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// While one daemon hands its outputs over to the next, nobody watches their limits; it takes less than this.
const CHANGE: Duration = Duration::from_secs(15);

/// What is wished of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This state.
    Be(bool),
    /// The other state.
    Toggle,
    /// On, and off again after this time.
    Pulse(Duration),
}

/// What comes of a wish.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing is to be done; this is the answer.
    Answer(Outcome),
    /// Write this state, then tell [`Outputs::settled`].
    Write(bool),
}

/// A write that nobody wished: a limit, a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// Which output.
    pub device: DeviceId,
    /// The state to write.
    pub on: bool,
    /// Why, for the event.
    pub reason: String,
}

struct Output {
    name: String,
    limits: OutputLimits,
    /// As last read back; `None` until the device has its pin.
    on: Option<bool>,
    /// When it last changed.
    since: Mono,
    /// A write on its way.
    writing: Option<bool>,
    /// When it goes off by itself, and why.
    off_at: Option<(Mono, String)>,
    /// A pulse that begins with the write on its way.
    pulse: Option<Duration>,
    /// Whether the loss of the broker was acted upon.
    loss_done: bool,
    /// Not before this: it was tried and could not be done.
    loss_again: Mono,
}

impl Output {
    fn is_or_gets_on(&self) -> bool {
        self.writing.or(self.on) == Some(true)
    }
}

/// All on/off outputs.
#[derive(Default)]
pub struct Outputs {
    list: HashMap<DeviceId, Output>,
    /// Members by interlock.
    groups: HashMap<String, Vec<DeviceId>>,
    /// Since when the broker is away; `None` while it is there.
    broker_lost: Option<Mono>,
    /// After [`Outputs::stop`] nothing goes on any more.
    stopped: bool,
}

fn text(d: Duration) -> String {
    let ms = d.as_millis();
    if ms >= 10_000 { format!("{} s", ms.div_ceil(1000)) } else { format!("{ms} ms") }
}

fn refuse(kind: OutcomeKind, reason: String) -> Verdict {
    Verdict::Answer(Outcome::because(kind, reason))
}

impl Outputs {
    /// The outputs among `devices`; the broker counts as away from now on.
    pub fn new(devices: &[DeviceSpec], now: Mono) -> Outputs {
        let mut outputs = Outputs { broker_lost: Some(now), ..Outputs::default() };
        for device in devices {
            let Some(limits) = &device.output else { continue };
            if let Some(group) = &limits.interlock {
                outputs.groups.entry(group.clone()).or_default().push(device.id);
            }
            let output = Output {
                name: device.name.clone(),
                limits: limits.clone(),
                on: None,
                since: now,
                writing: None,
                off_at: None,
                pulse: None,
                loss_done: false,
                loss_again: Mono::default(),
            };
            outputs.list.insert(device.id, output);
        }
        outputs
    }

    /// Whether a device is an on/off output.
    pub fn has(&self, device: DeviceId) -> bool {
        self.list.contains_key(&device)
    }

    /// Whether a write to it, or to another member of its interlock, is on its way: a wish is judged better after it.
    pub fn unsettled(&self, device: DeviceId) -> bool {
        let Some(output) = self.list.get(&device) else { return false };
        let others = output.limits.interlock.as_ref().and_then(|g| self.groups.get(g)).into_iter().flatten();
        others.filter_map(|d| self.list.get(d)).chain([output]).any(|o| o.writing.is_some())
    }

    /// Judges a wish.
    pub fn wish(&mut self, device: DeviceId, wish: Wish, now: Mono) -> Verdict {
        let Some(output) = self.list.get(&device) else {
            return refuse(OutcomeKind::Rejected, "it is not an output".into());
        };
        let Some(is) = output.on else {
            return refuse(OutcomeKind::Failed, format!("{} has no pin now; see its availability", output.name));
        };
        if output.writing.is_some() {
            return refuse(OutcomeKind::Busy, "the command before is still being carried out".into());
        }
        let target = match wish {
            Wish::Be(on) => on,
            Wish::Toggle => !is,
            Wish::Pulse(_) => true,
        };
        if let (Wish::Pulse(d), Some(max)) = (wish, output.limits.max_on)
            && d > max
        {
            return refuse(OutcomeKind::Rejected, format!("{} is longer than max_on ({})", text(d), text(max)));
        }
        if matches!(wish, Wish::Pulse(d) if d < output.limits.min_on) {
            let min = text(output.limits.min_on);
            return refuse(OutcomeKind::Rejected, format!("the pulse is shorter than min_on ({min})"));
        }
        if target == is {
            if let Some(output) = self.list.get_mut(&device) {
                match wish {
                    // a new pulse on a running one begins anew, within max_on
                    Wish::Pulse(d) => output.off_at = pulse_end(output, now, d),
                    // a plain ON ends a pulse's claim; the limits stay
                    _ if is => output.off_at = on_limit(output, output.since),
                    _ => {}
                }
            }
            let kind = if matches!(wish, Wish::Pulse(_)) { OutcomeKind::Done } else { OutcomeKind::Unchanged };
            return Verdict::Answer(Outcome { kind, value: Some(Value::Bool(is)), reason: None });
        }
        if target && let Some(refusal) = self.may_go_on(device, now) {
            return refusal;
        }
        let Some(output) = self.list.get_mut(&device) else {
            return refuse(OutcomeKind::Rejected, "it is not an output".into());
        };
        let age = now.since(output.since);
        if !target && age < output.limits.min_on {
            let left = text(output.limits.min_on - age);
            return refuse(OutcomeKind::Rejected, format!("min_on runs for another {left}"));
        }
        output.writing = Some(target);
        output.pulse = if let Wish::Pulse(d) = wish { Some(d) } else { None };
        Verdict::Write(target)
    }

    fn may_go_on(&self, device: DeviceId, now: Mono) -> Option<Verdict> {
        let output = self.list.get(&device)?;
        let age = now.since(output.since);
        if age < output.limits.min_off {
            let left = text(output.limits.min_off - age);
            return Some(refuse(OutcomeKind::Rejected, format!("min_off runs for another {left}")));
        }
        let group = output.limits.interlock.as_ref()?;
        let others = || self.groups.get(group).into_iter().flatten().filter(|d| **d != device);
        for other in others().filter_map(|d| self.list.get(d)) {
            if other.is_or_gets_on() {
                let reason = format!("{} is on; switch it off first (interlock {group})", other.name);
                return Some(refuse(OutcomeKind::Rejected, reason));
            }
            if other.writing.is_some() {
                return Some(refuse(OutcomeKind::Busy, format!("{} is just being switched off", other.name)));
            }
            if other.on.is_none() {
                let reason = format!("whether {} is on is not known now (interlock {group})", other.name);
                return Some(refuse(OutcomeKind::Busy, reason));
            }
            let off_for = now.since(other.since);
            let dead = output.limits.dead_time.max(other.limits.dead_time);
            if off_for < dead {
                let left = text(dead - off_for);
                return Some(refuse(OutcomeKind::Busy, format!("dead time of interlock {group}: another {left}")));
            }
        }
        None
    }

    /// The pin was read back, after a write or on its own; `None`: the write failed and the pin is as it was.
    ///
    /// Gives a write that becomes necessary by it: two members of an interlock found on.
    pub fn settled(&mut self, device: DeviceId, on: Option<bool>, now: Mono) -> Option<Forced> {
        let output = self.list.get_mut(&device)?;
        let wished = output.writing.take();
        let pulse = output.pulse.take();
        let Some(on) = on else {
            if wished == Some(false) {
                output.off_at = Some((now.after(RETRY), "switching off failed; trying again".into()));
            }
            return None;
        };
        if output.on != Some(on) {
            // the first sight of a pin is no switching, but it may have been switched just before
            output.on = Some(on);
            output.since = now;
            output.off_at = if on { on_limit(output, now) } else { None };
        }
        if let (true, Some(d)) = (on, pulse) {
            output.off_at = pulse_end(output, now, d);
        }
        if wished == Some(false) && on {
            output.off_at = Some((now.after(RETRY), "switching off did not take; trying again".into()));
        }
        let group = output.limits.interlock.clone()?;
        let clash = on
            && self
                .groups
                .get(&group)?
                .iter()
                .any(|d| *d != device && self.list.get(d).is_some_and(Output::is_or_gets_on));
        clash.then(|| self.force(device, false, format!("interlock {group}: two were on")))?
    }

    /// The device has lost its pin.
    pub fn lost(&mut self, device: DeviceId) {
        if let Some(output) = self.list.get_mut(&device) {
            output.on = None;
            output.writing = None;
            output.pulse = None;
            output.off_at = None;
        }
    }

    /// The broker came or went.
    pub fn broker(&mut self, up: bool, now: Mono) {
        if up {
            self.broker_lost = None;
            self.list.values_mut().for_each(|o| o.loss_done = false);
        } else if self.broker_lost.is_none() {
            self.broker_lost = Some(now);
        }
    }

    /// When [`Outputs::due`] has something to say.
    pub fn next_wake(&self) -> Option<Mono> {
        let off = self.list.values().filter(|o| o.writing.is_none()).filter_map(|o| o.off_at.as_ref().map(|(t, _)| *t));
        let lost = self.broker_lost.into_iter().flat_map(|t| {
            self.list
                .values()
                .filter(|o| !o.loss_done)
                .filter_map(move |o| o.limits.on_broker_loss.map(|(d, _)| t.after(d).max(o.loss_again)))
        });
        off.chain(lost).min()
    }

    /// Writes that have become necessary by `now`.
    pub fn due(&mut self, now: Mono) -> Vec<Forced> {
        let mut forced = Vec::new();
        let lost = self.broker_lost;
        let mut ids: Vec<_> = self.list.keys().copied().collect();
        ids.sort();
        for id in ids {
            let Some(output) = self.list.get_mut(&id) else { continue };
            if output.writing.is_none()
                && let Some((at, reason)) = output.off_at.clone()
                && at <= now
            {
                output.off_at = None;
                forced.extend(self.force(id, false, reason));
                continue;
            }
            let Some((after, state)) = output.limits.on_broker_loss else { continue };
            if !output.loss_done && lost.is_some_and(|t| t.after(after).max(output.loss_again) <= now) {
                output.loss_done = true;
                let Some(on) = state.filter(|on| !(*on && self.stopped)) else { continue };
                if !on || output.on == Some(true) || self.may_go_on(id, now).is_none() {
                    forced.extend(self.force(id, on, format!("no broker for {}", text(after))));
                } else if let Some(output) = self.list.get_mut(&id) {
                    // min_off or a dead time runs, or another of the interlock is on
                    output.loss_done = false;
                    output.loss_again = now.after(RETRY);
                }
            }
        }
        forced
    }

    /// What the outputs are to be set to at an orderly stop; those that go off come first. Those in `keep` stay as they
    /// are, if their time is not over in a moment.
    pub fn stop(&mut self, keep: &[DeviceId], now: Mono) -> Vec<Forced> {
        self.stopped = true;
        // nobody will hold an output that stays on to its limit
        let state = |o: &Output| o.limits.on_stop.or((o.off_at.is_some() || o.pulse.is_some()).then_some(false));
        // a limit is found again, a pulse would never end
        let limit = |o: &Output| if o.on == Some(true) { on_limit(o, o.since) } else { None };
        let soon = |o: &Output| o.off_at.as_ref().is_some_and(|(t, _)| *t <= now.after(CHANGE));
        let goes_on = |o: &Output| o.pulse.is_none() && o.off_at == limit(o) && !soon(o);
        let stops = self.list.iter().filter(|(id, o)| !keep.contains(id) || !goes_on(o));
        let mut ids: Vec<_> = stops.filter_map(|(id, o)| state(o).map(|on| (on, *id))).collect();
        ids.sort();
        let mut forced = Vec::new();
        for (on, id) in ids {
            if !on || self.may_go_on(id, now).is_none() {
                forced.extend(self.force(id, on, "stop".into()));
            }
        }
        forced
    }

    fn force(&mut self, device: DeviceId, on: bool, reason: String) -> Option<Forced> {
        let output = self.list.get_mut(&device)?;
        if output.on.is_none() || output.writing.or(output.on) == Some(on) {
            return None;
        }
        output.writing = Some(on);
        output.pulse = None;
        Some(Forced { device, on, reason })
    }
}

/// When an output that went on at `since` goes off by itself.
fn on_limit(output: &Output, since: Mono) -> Option<(Mono, String)> {
    let max = output.limits.max_on.map(|d| (since.after(d), format!("max_on of {} is over", text(d))));
    let auto = output.limits.auto_off.map(|d| (since.after(d), format!("auto_off after {}", text(d))));
    max.into_iter().chain(auto).min_by_key(|(t, _)| *t)
}

/// When a pulse that begins now ends: never later than `max_on` allows.
fn pulse_end(output: &Output, now: Mono, d: Duration) -> Option<(Mono, String)> {
    let end = (now.after(d), format!("pulse of {} is over", text(d)));
    match output.limits.max_on.map(|max| output.since.after(max)) {
        Some(limit) if limit < end.0 => on_limit(output, output.since),
        _ => Some(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device(id: u32, limits: OutputLimits) -> DeviceSpec {
        DeviceSpec {
            id: DeviceId(id),
            name: format!("d{id}"),
            kind: "digital_out",
            points: vec![],
            verbs: vec![],
            own: vec![],
            output: Some(limits),
        }
    }
    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }
    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }
    fn blinds() -> Outputs {
        let limits = OutputLimits { interlock: Some("blind".into()), dead_time: ms(500), ..OutputLimits::default() };
        let mut o = Outputs::new(&[device(0, limits.clone()), device(1, limits)], at(0));
        o.settled(DeviceId(0), Some(false), at(0));
        o.settled(DeviceId(1), Some(false), at(0));
        o
    }
    fn kind(v: Verdict) -> OutcomeKind {
        match v {
            Verdict::Answer(o) => o.kind,
            Verdict::Write(_) => OutcomeKind::Done,
        }
    }

    #[test]
    fn an_interlock_refuses_while_the_other_is_on_and_is_busy_in_the_dead_time() {
        let (up, down) = (DeviceId(0), DeviceId(1));
        let mut o = blinds();
        assert_eq!(o.wish(up, Wish::Be(true), at(1000)), Verdict::Write(true));
        assert_eq!(kind(o.wish(down, Wish::Be(true), at(1000))), OutcomeKind::Rejected);
        o.settled(up, Some(true), at(1001));
        assert_eq!(kind(o.wish(down, Wish::Be(true), at(1002))), OutcomeKind::Rejected);
        assert_eq!(o.wish(up, Wish::Be(false), at(2000)), Verdict::Write(false));
        assert_eq!(kind(o.wish(down, Wish::Be(true), at(2000))), OutcomeKind::Busy);
        o.settled(up, Some(false), at(2000));
        assert_eq!(kind(o.wish(down, Wish::Be(true), at(2400))), OutcomeKind::Busy);
        assert_eq!(o.wish(down, Wish::Be(true), at(2500)), Verdict::Write(true));
    }

    #[test]
    fn max_on_holds_whatever_is_wished() {
        let id = DeviceId(0);
        let mut o = Outputs::new(&[device(0, OutputLimits { max_on: Some(ms(1000)), ..Default::default() })], at(0));
        o.settled(id, Some(false), at(0));
        assert_eq!(kind(o.wish(id, Wish::Pulse(ms(1500)), at(0))), OutcomeKind::Rejected);
        o.wish(id, Wish::Be(true), at(10));
        o.settled(id, Some(true), at(10));
        assert_eq!(kind(o.wish(id, Wish::Be(true), at(900))), OutcomeKind::Unchanged);
        assert_eq!(kind(o.wish(id, Wish::Pulse(ms(900)), at(900))), OutcomeKind::Done);
        assert_eq!(o.next_wake(), Some(at(1010)));
        assert!(o.due(at(1009)).is_empty());
        assert!(o.due(at(1010))[0].reason.contains("max_on"));
        o.settled(id, None, at(1011));
        assert_eq!(o.next_wake(), Some(at(2011)), "a switching-off that failed is tried again");
    }

    #[test]
    fn a_pulse_ends_by_itself_and_a_plain_on_ends_its_claim() {
        let id = DeviceId(0);
        let mut o = Outputs::new(&[device(0, OutputLimits::default())], at(0));
        o.settled(id, Some(false), at(0));
        assert_eq!(o.wish(id, Wish::Pulse(ms(300)), at(0)), Verdict::Write(true));
        o.settled(id, Some(true), at(5));
        assert_eq!(o.next_wake(), Some(at(305)));
        o.wish(id, Wish::Be(true), at(100));
        assert_eq!(o.next_wake(), None);
    }

    #[test]
    fn min_off_counts_from_the_start_and_safety_beats_min_on() {
        let id = DeviceId(0);
        let limits = OutputLimits { min_off: ms(100), min_on: ms(1000), on_stop: Some(false), ..Default::default() };
        let mut o = Outputs::new(&[device(0, limits)], at(0));
        o.settled(id, Some(false), at(0));
        assert_eq!(kind(o.wish(id, Wish::Be(true), at(50))), OutcomeKind::Rejected);
        o.wish(id, Wish::Be(true), at(150));
        o.settled(id, Some(true), at(150));
        assert_eq!(kind(o.wish(id, Wish::Toggle, at(300))), OutcomeKind::Rejected);
        assert_eq!(o.stop(&[], at(301)).len(), 1);
    }

    #[test]
    fn the_loss_of_the_broker_acts_once() {
        let id = DeviceId(0);
        let limits = OutputLimits { on_broker_loss: Some((ms(60), Some(false))), ..Default::default() };
        let mut o = Outputs::new(&[device(0, limits)], at(0));
        o.broker(true, at(0));
        o.settled(id, Some(true), at(0));
        assert_eq!(o.next_wake(), None);
        o.broker(false, at(100));
        assert_eq!(o.next_wake(), Some(at(160)));
        assert_eq!(o.due(at(160)).len(), 1);
        o.settled(id, Some(false), at(160));
        assert_eq!(o.next_wake(), None);
    }

    proptest! {
        #[test]
        fn no_history_breaks_interlock_dead_time_or_max_on(
            steps in proptest::collection::vec((0u64..400, 0u32..3, 0u8..5, any::<bool>()), 1..200),
        ) {
            let limits = OutputLimits {
                interlock: Some("g".into()), dead_time: ms(300), max_on: Some(ms(1000)), ..Default::default()
            };
            let devices: Vec<_> = (0..3).map(|i| device(i, limits.clone())).collect();
            let mut o = Outputs::new(&devices, at(0));
            let mut pins = [false; 3];
            let mut on_since = [0u64; 3];
            let mut off_since = [0u64; 3];
            for d in &devices { o.settled(d.id, Some(false), at(0)); }
            let mut now = 500;
            let mut write = |o: &mut Outputs, id: DeviceId, on: bool, now: u64, fail: bool| {
                let i = id.0 as usize;
                if fail && on { o.settled(id, None, at(now)); return Ok(()); }
                if on && !pins[i] {
                    for j in (0..3).filter(|j| *j != i) {
                        prop_assert!(!pins[j], "two on at {}", now);
                        prop_assert!(now - off_since[j] >= 300 || off_since[j] == 0, "dead time at {}", now);
                    }
                    on_since[i] = now;
                }
                if !on && pins[i] {
                    prop_assert!(now - on_since[i] <= 1000, "max_on at {}", now);
                    off_since[i] = now;
                }
                pins[i] = on;
                o.settled(id, Some(on), at(now));
                Ok(())
            };
            for (wait, id, what, fail) in steps {
                let until = now + wait;
                while let Some(t) = o.next_wake().filter(|t| *t <= at(until)) {
                    now = now.max(t.0.as_millis() as u64);
                    for f in o.due(at(now)) { write(&mut o, f.device, f.on, now, false)?; }
                }
                now = until;
                let wish = match what { 0 => Wish::Be(true), 1 => Wish::Be(false), 2 => Wish::Toggle, 3 => Wish::Pulse(ms(wait)), _ => Wish::Pulse(ms(900)) };
                if let Verdict::Write(on) = o.wish(DeviceId(id), wish, at(now)) {
                    write(&mut o, DeviceId(id), on, now, fail)?;
                }
            }
        }
    }
}
