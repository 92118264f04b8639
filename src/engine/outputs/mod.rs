//! Outputs and what they are held to. The one place that decides whether a pin may move.
//!
//! Pure: told what was wished ([`Outputs::wish`]), what the pin reads back ([`Outputs::settled`], [`Outputs::seen`]) and
//! what time it is ([`Outputs::due`]), it says what to write. A switch, a PWM and a servo are the same here: what is not
//! off is on. Promises:
//! - two members of an interlock are never wished on at once, and `dead_time` passes between them;
//! - no output stays on longer than `max_on`, whoever switched it on and however often the daemon was restarted;
//! - going off for safety (limit, stop, broker loss, `requires`) is never refused;
//! - since when an output is off is remembered over a restart in order; where it is not known, and after any other end,
//!   it counts as just switched off;
//! - one write at a time per output: what comes meanwhile is `busy`.

mod past;
mod state;
mod words;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value as Json;

use crate::model::{Begin, Boot, DeviceId, DeviceSpec, Mono, Now, Outcome, OutcomeKind, Scale, Setting};

use past::{Past, Since};
use state::{OffAt, Output};
pub use words::{Blink, Wish, read};

/// How long a failed switching-off is left before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// While one daemon hands its outputs over to the next, nobody watches their limits; it takes less than this.
const CHANGE: Duration = Duration::from_secs(10);
/// A run that has lasted so long is no part of a restart loop.
const CALM: Duration = Duration::from_secs(600);

/// What an output is to be brought to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Write {
    /// Where to.
    pub to: Setting,
    /// In what time; zero: at once.
    pub over: Duration,
}

/// What comes of a wish.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing is to be done; this is the answer.
    Answer(Outcome),
    /// Write this, then tell [`Outputs::settled`].
    Write(Write),
}

/// A write that nobody wished: a limit, a stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Forced {
    /// Which output.
    pub device: DeviceId,
    /// What to write.
    pub to: Setting,
    /// Why, for the event.
    pub reason: String,
    /// Whether it is worth no event: a phase of a blink, the end of a pulse, as it was wished.
    pub quiet: bool,
}

/// Why an output may not go on.
struct Bar {
    kind: OutcomeKind,
    reason: String,
    /// Whether it passes with time.
    passes: bool,
}

/// All outputs.
#[derive(Default)]
pub struct Outputs {
    list: HashMap<DeviceId, Output>,
    /// Members by interlock.
    groups: HashMap<String, Vec<DeviceId>>,
    boot: Boot,
    /// Since when the broker is away; `None` while it is there.
    broker_lost: Option<Mono>,
    /// When this run is known to be no part of a restart loop.
    calm_at: Option<Mono>,
    /// After [`Outputs::stop`] nothing goes on any more.
    stopped: bool,
    /// What is to be remembered.
    notes: Vec<(String, Option<Json>)>,
    /// What is to be told.
    told: Vec<(DeviceId, String)>,
}

fn text(d: Duration) -> String {
    let ms = d.as_millis();
    if ms >= 10_000 { format!("{} s", ms.div_ceil(1000)) } else { format!("{ms} ms") }
}

fn refuse(kind: OutcomeKind, reason: String) -> Verdict {
    Verdict::Answer(Outcome::because(kind, reason))
}

fn bar(kind: OutcomeKind, passes: bool, reason: String) -> Option<Bar> {
    Some(Bar { kind, reason, passes })
}

fn key(name: &str) -> String {
    format!("output/{name}")
}

impl Outputs {
    /// The outputs among `devices`, with what is remembered of the run before; the broker counts as away from now on.
    pub fn new(
        devices: &[DeviceSpec],
        memory: &std::collections::BTreeMap<String, Json>,
        boot: Boot,
        abnormal: bool,
        now: &Now,
    ) -> Outputs {
        let mut outputs = Outputs { broker_lost: Some(now.mono), boot, ..Outputs::default() };
        for device in devices {
            let Some(limits) = &device.output else { continue };
            if let Some(group) = &limits.interlock {
                outputs.groups.entry(group.clone()).or_default().push(device.id);
            }
            let kept = memory.get(&key(&device.name));
            let past = kept.and_then(|json| Past::read(json, &outputs.boot, abnormal, now));
            let mut output = Output {
                name: device.name.clone(),
                limits: limits.clone(),
                is: None,
                since: Since::just(now.mono),
                on_from: Since::just(now.mono),
                writing: None,
                flights: 0,
                off_at: None,
                pulse: None,
                blink: None,
                on_at: None,
                fading: None,
                last_on: None,
                lasting: past.as_ref().map_or(Setting::Off, |p| p.lasting),
                wanted: None,
                tries: past.as_ref().map_or(0, |p| p.tries),
                noted: past.as_ref().map(Past::noted),
                past,
                loss_done: false,
                loss_again: Mono::default(),
                unmet: limits.requires.is_some().then(|| "what it requires is not known yet".to_owned()),
            };
            output.prepare(abnormal, now.mono);
            if output.tries > 0 {
                outputs.calm_at = Some(now.mono.after(CALM));
                let json = output.record(&outputs.boot, now);
                outputs.notes.push((key(&output.name), Some(json)));
            } else if kept.is_some() && !limits.restore {
                // it was true of the moment of that stop, and must not be taken for one of a later
                outputs.notes.push((key(&output.name), None));
            }
            outputs.list.insert(device.id, output);
        }
        outputs
    }

    /// How a device begins that takes its pin for the first time; `kept`: it is ours already. Others than outputs begin
    /// as written.
    pub fn begin(&mut self, device: DeviceId, abnormal: bool, kept: bool) -> Begin {
        let safe = if abnormal { Begin::Safe } else { Begin::AsWritten };
        let Some(output) = self.list.get_mut(&device) else { return safe };
        if kept {
            output.wanted = None;
            let stood = output.past.as_ref().map(|p| if p.on { p.lasting } else { Setting::Off });
            return match (output.limits.scale, stood) {
                (Scale::Switch, _) => Begin::Kept,
                // the new file may allow less
                (scale, Some(stood)) if scale.refuses(stood).is_none() => Begin::At(stood),
                _ => Begin::Safe,
            };
        }
        match &output.past {
            _ if !output.limits.restore => safe,
            Some(past) => Begin::At(past.begin),
            None => Begin::Safe,
        }
    }

    /// Whether a device is an output.
    pub fn has(&self, device: DeviceId) -> bool {
        self.list.contains_key(&device)
    }

    /// How an output's settings are written.
    pub fn scale(&self, device: DeviceId) -> Option<Scale> {
        self.list.get(&device).map(|o| o.limits.scale)
    }

    /// Whether a write to it, or to another member of its interlock, is on its way: a wish is judged better after it.
    pub fn unsettled(&self, device: DeviceId) -> bool {
        let Some(output) = self.list.get(&device) else { return false };
        let others = output.limits.interlock.as_ref().and_then(|g| self.groups.get(g)).into_iter().flatten();
        others.filter_map(|d| self.list.get(d)).chain([output]).any(|o| o.writing.is_some())
    }

    /// What is to be remembered since the last call, by key.
    pub fn take_notes(&mut self) -> Vec<(String, Option<Json>)> {
        std::mem::take(&mut self.notes)
    }

    /// What a person should be told since the last call.
    pub fn take_told(&mut self) -> Vec<(DeviceId, String)> {
        std::mem::take(&mut self.told)
    }

    /// Judges a wish.
    pub fn wish(&mut self, device: DeviceId, wish: Wish, now: &Now) -> Verdict {
        let now = now.mono;
        let Some(output) = self.list.get(&device) else {
            return refuse(OutcomeKind::Rejected, "it is not an output".into());
        };
        let Some(is) = output.is else {
            return refuse(OutcomeKind::Failed, format!("{} has no pin now; see its availability", output.name));
        };
        if output.writing.is_some() {
            return refuse(OutcomeKind::Busy, "the command before is still being carried out".into());
        }
        let some = if is.is_on() { is } else { output.last_on.unwrap_or(output.limits.scale.full()) };
        let target = match wish {
            Wish::Be(to) | Wish::Fade { to, .. } => to,
            Wish::Toggle if is.is_on() => Setting::Off,
            Wish::On | Wish::Toggle | Wish::Pulse(_) | Wish::Blink(_) => some,
        };
        if let Some(reason) = output.limits.scale.refuses(target).or_else(|| wish.breaks(&output.limits)) {
            return refuse(OutcomeKind::Rejected, reason);
        }
        let blinks = matches!(wish, Wish::Blink(_));
        if target == is && output.fading.is_none() && !blinks {
            return self.stays(device, wish, is, now);
        }
        if target.is_on()
            && !is.is_on()
            && let Some(bar) = self.bars(device, target, now)
        {
            return refuse(bar.kind, bar.reason);
        }
        let Some(output) = self.list.get_mut(&device) else {
            return refuse(OutcomeKind::Rejected, "it is not an output".into());
        };
        let age = output.since.age(now);
        if !target.is_on() && is.is_on() && age < output.limits.min_on {
            // a blink ends with the phase that runs
            output.blink = None;
            let left = text(output.limits.min_on - age);
            return refuse(OutcomeKind::Rejected, format!("min_on runs for another {left}"));
        }
        let over = if let Wish::Fade { over, .. } = wish { over } else { Duration::ZERO };
        let write = Write { to: target, over };
        output.order(write, now);
        output.tries = 0;
        output.pulse = if let Wish::Pulse(d) = wish { Some(d) } else { None };
        output.blink = if let Wish::Blink(blink) = wish { Some(blink.begun()) } else { None };
        Verdict::Write(write)
    }

    /// What comes of a wish for what is.
    fn stays(&mut self, device: DeviceId, wish: Wish, is: Setting, now: Mono) -> Verdict {
        let mut kind = OutcomeKind::Unchanged;
        let mut value = Scale::Switch.value(is);
        if let Some(output) = self.list.get_mut(&device) {
            (output.blink, output.on_at, output.wanted) = (None, None, None);
            value = output.limits.scale.value(is);
            match wish {
                // a new pulse on a running one begins anew, within max_on
                Wish::Pulse(d) => {
                    output.off_at = output.ends(now, d, pulse_is_over(d), true);
                    kind = OutcomeKind::Done;
                }
                // a plain ON ends a pulse's claim; the limits stay
                _ if is.is_on() => {
                    output.off_at = output.limit();
                    output.lasting = is;
                }
                _ => {}
            }
        }
        Verdict::Answer(Outcome { kind, value: Some(value), reason: None })
    }

    /// What keeps an output from going on now.
    fn bars(&self, device: DeviceId, to: Setting, now: Mono) -> Option<Bar> {
        use OutcomeKind::{Busy, Rejected};
        let output = self.list.get(&device)?;
        if let Some(unmet) = output.unmet.as_ref().filter(|_| to != output.limits.safe) {
            return bar(Rejected, false, unmet.clone());
        }
        let age = output.since.age(now);
        if age < output.limits.min_off {
            let left = text(output.limits.min_off - age);
            return bar(Rejected, true, format!("min_off runs for another {left}"));
        }
        let group = output.limits.interlock.as_ref()?;
        let others = || self.groups.get(group).into_iter().flatten().filter(|d| **d != device);
        for other in others().filter_map(|d| self.list.get(d)) {
            let name = &other.name;
            if other.writing.is_some_and(|f| !f.write.to.is_on()) {
                return bar(Busy, true, format!("{name} is just being switched off"));
            }
            if other.is_or_gets_on() {
                return bar(Rejected, false, format!("{name} is on; switch it off first (interlock {group})"));
            }
            if other.is.is_none() {
                return bar(Busy, true, format!("whether {name} is on is not known now (interlock {group})"));
            }
            let off_for = other.since.age(now);
            let dead = output.limits.dead_time.max(other.limits.dead_time);
            if off_for < dead {
                let left = text(dead - off_for);
                return bar(Busy, true, format!("dead time of interlock {group}: another {left}"));
            }
        }
        None
    }

    /// A write has come to its end and this was read back; `None`: it failed and the pin is as it was.
    ///
    /// Gives writes that become necessary by it: two members of an interlock found on.
    pub fn settled(&mut self, device: DeviceId, read: Option<Setting>, now: &Now) -> Vec<Forced> {
        let Some(output) = self.list.get_mut(&device) else { return Vec::new() };
        output.flights = output.flights.saturating_sub(1);
        let flight = if output.flights == 0 { output.writing.take() } else { output.writing };
        let pulse = output.pulse.take();
        let wished = flight.map(|f| f.write);
        let switches_off = wished.is_some_and(|w| !w.to.is_on());
        let retry = |why: &str| OffAt { at: now.mono.after(RETRY), reason: why.into(), quiet: false };
        let Some(read) = read else {
            (output.blink, output.past) = (None, None);
            if switches_off {
                output.off_at = Some(retry("switching off failed; trying again"));
            }
            self.note(device, now);
            return Vec::new();
        };
        output.now_is(read, flight.map_or(now.mono, |f| f.ordered), now.mono);
        if output.flights > 0 {
            self.note(device, now);
            return Vec::new();
        }
        output.lasting = match wished {
            _ if self.stopped => output.lasting,
            Some(_) if pulse.is_some() || output.blink.is_some() => Setting::Off,
            Some(write) if !write.over.is_zero() => write.to,
            _ => read,
        };
        if let Some(write) = wished.filter(|w| !w.over.is_zero()) {
            output.fading = Some(write.to);
            if switches_off {
                output.off_at = output.ends(now.mono, write.over + RETRY, "the fade did not end".into(), false);
            }
        } else if switches_off && read.is_on() {
            output.off_at = Some(retry("switching off did not take; trying again"));
        } else if read.is_on() && wished.is_some() {
            output.off_at = match (pulse, output.blink) {
                (Some(d), _) => output.ends(now.mono, d, pulse_is_over(d), true),
                (None, Some(blink)) => output.ends(now.mono, blink.on, "blink".into(), true),
                (None, None) => output.limit(),
            };
        } else if let (false, Some(blink)) = (read.is_on(), output.blink) {
            output.on_at = blink.goes_on().then(|| now.mono.after(blink.off));
            output.blink = output.blink.filter(|_| output.on_at.is_some());
        }
        self.note(device, now);
        self.clash(device, now.mono)
    }

    /// A device has said by itself where it stands: at the beginning, at the end of a fade.
    pub fn seen(&mut self, device: DeviceId, read: Setting, now: &Now) -> Vec<Forced> {
        let Some(output) = self.list.get_mut(&device) else { return Vec::new() };
        let first = output.is.is_none();
        output.now_is(read, now.mono, now.mono);
        if output.fading == Some(read) {
            output.fading = None;
            output.off_at = if read.is_on() { output.limit() } else { None };
        }
        if first && !self.stopped && output.wanted.is_none() {
            output.lasting = read;
        }
        self.note(device, now);
        self.clash(device, now.mono)
    }

    fn clash(&mut self, device: DeviceId, now: Mono) -> Vec<Forced> {
        let Some(output) = self.list.get(&device).filter(|o| o.is.is_some_and(Setting::is_on)) else {
            return Vec::new();
        };
        let Some(group) = output.limits.interlock.clone() else { return Vec::new() };
        let others = self.groups.get(&group).into_iter().flatten().filter(|d| **d != device);
        let clash = others.filter_map(|d| self.list.get(d)).any(Output::is_or_gets_on);
        let reason = format!("interlock {group}: two were on");
        clash.then(|| self.force(device, Setting::Off, reason, false, now)).flatten().into_iter().collect()
    }

    /// What `requires` says: `Err` with the reason while it does not hold. Then the output takes its safe state, and
    /// goes on for nothing else.
    pub fn requirement(&mut self, device: DeviceId, holds: Result<(), String>, now: &Now) -> Vec<Forced> {
        let Some(output) = self.list.get_mut(&device) else { return Vec::new() };
        let unmet = holds.err();
        if unmet == output.unmet {
            return Vec::new();
        }
        output.unmet = unmet.clone();
        let (safe, gone) = (output.limits.safe, output.is.is_none());
        let Some(reason) = unmet.filter(|_| !gone && output.will_be() != Some(safe)) else { return Vec::new() };
        self.force(device, safe, reason, false, now.mono).into_iter().collect()
    }

    /// The device has lost its pin.
    pub fn lost(&mut self, device: DeviceId) {
        if let Some(output) = self.list.get_mut(&device) {
            (output.is, output.writing, output.flights) = (None, None, 0);
            (output.pulse, output.blink, output.on_at) = (None, None, None);
            (output.fading, output.off_at) = (None, None);
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
        let idle = || self.list.values().filter(|o| o.writing.is_none());
        let off = idle().filter_map(|o| o.off_at.as_ref().map(|off| off.at));
        let on = idle().filter_map(|o| o.on_at);
        let wanted = idle().filter(|o| o.is.is_some()).filter_map(|o| o.wanted.map(|(.., at)| at));
        let lost = self.broker_lost.into_iter().flat_map(|t| {
            self.list
                .values()
                .filter(|o| !o.loss_done)
                .filter_map(move |o| o.limits.on_broker_loss.map(|(d, _)| t.after(d).max(o.loss_again)))
        });
        off.chain(on).chain(wanted).chain(lost).chain(self.calm_at).min()
    }

    /// Writes that have become necessary by `now`.
    pub fn due(&mut self, now: &Now) -> Vec<Forced> {
        let mut forced = Vec::new();
        let mut ids: Vec<_> = self.list.keys().copied().collect();
        ids.sort();
        if self.calm_at.is_some_and(|t| t <= now.mono) {
            self.calm_at = None;
            for id in &ids {
                if let Some(output) = self.list.get_mut(id).filter(|o| o.tries > 0) {
                    (output.tries, output.noted) = (0, None);
                }
                self.note(*id, now);
            }
        }
        for id in ids {
            let Some(output) = self.list.get_mut(&id) else { continue };
            if output.writing.is_none()
                && let Some(off) = output.off_at.take_if(|off| off.at <= now.mono)
            {
                forced.extend(self.force(id, Setting::Off, off.reason, off.quiet, now.mono));
                continue;
            }
            let before = forced.len();
            forced.extend(self.goes_on(id, now.mono));
            if forced.len() == before {
                forced.extend(self.broker_is_away(id, now.mono));
            }
        }
        forced
    }

    /// The next phase of a blink, or what is to be restored.
    fn goes_on(&mut self, id: DeviceId, now: Mono) -> Option<Forced> {
        let output = self.list.get_mut(&id).filter(|o| o.writing.is_none() && o.is.is_some())?;
        let to = output.last_on.unwrap_or(output.limits.scale.full());
        if output.on_at.take_if(|at| *at <= now).is_some() {
            let bar = if self.stopped { Some("stop".to_owned()) } else { self.bars(id, to, now).map(|b| b.reason) };
            if let Some(reason) = bar {
                self.told.push((id, format!("the blink was given up: {reason}")));
                self.list.get_mut(&id)?.blink = None;
                return None;
            }
            let blink = self.list.get(&id)?.blink;
            let forced = self.force(id, to, "blink".into(), true, now);
            self.list.get_mut(&id)?.blink = blink.map(Blink::begun);
            return forced;
        }
        let (to, on_from, at) = output.wanted?;
        if at > now || self.stopped {
            return None;
        }
        let bar = self.bars(id, to, now);
        let output = self.list.get_mut(&id)?;
        let over = output.limits.max_on.into_iter().chain(output.limits.auto_off).any(|d| on_from.end(d) <= now);
        match bar {
            _ if over => output.wanted = None,
            Some(bar) if bar.passes => output.wanted = Some((to, on_from, now.after(RETRY))),
            Some(bar) => {
                output.wanted = None;
                self.told.push((id, format!("it was not restored: {}", bar.reason)));
            }
            None => {
                let forced = self.force(id, to, "initial: restore".into(), false, now);
                // its time on goes on counting
                let output = self.list.get_mut(&id)?;
                output.past = Some(Past::resumed(to, on_from));
                return forced;
            }
        }
        None
    }

    /// What `on_broker_loss` asks for.
    fn broker_is_away(&mut self, id: DeviceId, now: Mono) -> Option<Forced> {
        let output = self.list.get_mut(&id)?;
        let (after, state) = output.limits.on_broker_loss?;
        if output.loss_done || self.broker_lost.is_none_or(|t| t.after(after).max(output.loss_again) > now) {
            return None;
        }
        output.loss_done = true;
        let to = state.filter(|to| !(to.is_on() && self.stopped))?;
        let (is_on, busy) = (output.is.is_some_and(Setting::is_on), output.writing.is_some());
        if !to.is_on() || (!busy && (is_on || self.bars(id, to, now).is_none())) {
            return self.force(id, to, format!("no broker for {}", text(after)), false, now);
        }
        // min_off or a dead time runs, or another of the interlock is on
        let output = self.list.get_mut(&id)?;
        output.loss_done = false;
        output.loss_again = now.after(RETRY);
        None
    }

    /// What the outputs are to be set to at an orderly stop; those that go off come first. Those in `keep` stay as they
    /// are, if nothing was begun with them and their time is not over in a moment.
    pub fn stop(&mut self, keep: &[DeviceId], now: &Now) -> Vec<Forced> {
        self.stopped = true;
        // nobody will hold an output that stays on to its limit, or go on with what was begun
        let begun = |o: &Output| o.off_at.is_some() || o.pulse.is_some() || o.blink.is_some();
        let state = |o: &Output| o.limits.on_stop.or(begun(o).then_some(Setting::Off));
        // a limit is found again, a pulse or a fade would never end
        let limit = |o: &Output| if o.is.is_some_and(Setting::is_on) { o.limit() } else { None };
        let soon = |o: &Output| o.off_at.as_ref().is_some_and(|off| off.at <= now.mono.after(CHANGE));
        let free = |o: &Output| o.pulse.is_none() && o.blink.is_none() && o.fading.is_none();
        let goes_on = |o: &Output| free(o) && o.off_at == limit(o) && !soon(o);
        let stops = self.list.iter().filter(|(id, o)| !keep.contains(id) || !goes_on(o));
        let mut ids: Vec<_> = stops.filter_map(|(id, o)| Some((*id, state(o)?))).collect();
        ids.sort_by_key(|(id, to)| (to.is_on(), *id));
        let mut forced = Vec::new();
        for (id, to) in ids {
            let free = self.list.get(&id).is_some_and(|o| o.writing.is_none());
            let on = self.list.get(&id).is_some_and(|o| o.is.is_some_and(Setting::is_on));
            if !to.is_on() || (free && (on || self.bars(id, to, now.mono).is_none())) {
                forced.extend(self.force(id, to, "stop".into(), false, now.mono));
            }
        }
        let mut all: Vec<_> = self.list.keys().copied().collect();
        all.sort();
        for id in all {
            self.note(id, now);
            if let Some(output) = self.list.get_mut(&id) {
                // nothing goes on any more
                (output.wanted, output.on_at, output.blink) = (None, None, None);
            }
        }
        forced
    }

    /// Remembers how an output stands, if the next run has to know and it is news: at a stop, and at once where it is
    /// restored after a crash too.
    fn note(&mut self, device: DeviceId, now: &Now) {
        let Some(output) = self.list.get_mut(&device).filter(|o| o.has_memory() && o.is.is_some()) else { return };
        let tells = (output.lasting, if output.lasting.is_on() { output.on_from } else { Since::default() });
        if self.stopped {
            output.tries = 0;
        } else if !output.limits.restore || output.noted == Some(tells) {
            return;
        }
        output.noted = Some(tells);
        let json = output.record(&self.boot, now);
        self.notes.push((key(&output.name), Some(json)));
    }

    fn force(&mut self, device: DeviceId, to: Setting, reason: String, quiet: bool, now: Mono) -> Option<Forced> {
        let output = self.list.get_mut(&device)?;
        let fades_elsewhere =
            output.writing.map_or(output.fading, |f| Some(f.write.to).filter(|_| !f.write.over.is_zero()));
        if output.is.is_none() || (output.will_be() == Some(to) && fades_elsewhere.is_none()) {
            return None;
        }
        output.order(Write { to, over: Duration::ZERO }, now);
        output.pulse = None;
        if !quiet {
            output.blink = None;
        }
        Some(Forced { device, to, reason, quiet })
    }
}

fn pulse_is_over(d: Duration) -> String {
    format!("pulse of {} is over", text(d))
}

#[cfg(test)]
mod tests;
