//! A serial device's conversation, without I/O and without a clock: what is asked when, which frame is the answer to
//! what, what a silence means. The driver feeds it what the port says ([`Heard`]) and carries out what it [`Say`]s.
//!
//! Which frame is whose:
//! - From when a request goes out ([`Heard::Begun`]) until its patience is over, the first frame that can be its answer
//!   is: for a poll one that passes its `match` and gives readings, for a command one that `expect` matches.
//! - A request without an answer leaves a **debt**: its answer may still come. Until it has come, or three times the
//!   patience (at least [`DEBT`]) has passed, the device is asked nothing more by itself, and a frame that comes is
//!   the late answer: it is counted and thrown away. So a late answer is never taken for the next one.
//! - What is heard at any other time is what the instrument says by itself.
//! - What is heard in another device's turn is not for a device that asks.
//!
//! A poll that got no answer is asked again as soon as the debt allows, and from the third time on with growing pauses,
//! so that a dead device costs the line little.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::codec::{Decoded, Frame, Joined, Output, Pipeline, Reason};
use crate::config::scalar::Span;
use crate::hal::bus::{Heard, Urgency};
use crate::model::{self, Action, Now, OutcomeKind, Quality, Refusal, Ticket, Value};

use super::keys::{Command, Poll};

/// Shortest time in which an answer that did not come in time is still expected.
const DEBT: Duration = Duration::from_secs(2);
/// Longest time that a command waits for an answer owed to the one before it.
const COMMAND_WAITS: Duration = Duration::from_secs(3);
/// Longest time that a line is held for an answer that is late.
const HOLD: Duration = Duration::from_millis(500);
/// A silence after which bytes that make no frame may be a command's answer.
const PAUSE: Duration = Duration::from_millis(60);
/// So many requests in a row without an answer, and the device counts as silent.
const MISSES: u32 = 3;
/// Longest pause between two requests to a silent device, where `every` is shorter.
const SELDOM: Duration = Duration::from_secs(10);
/// Bytes kept of an answer that makes no frame.
const RAW: usize = 1024;
/// Orders that wait for their turn.
const WAITING: usize = 16;

/// What the conversation is about.
pub struct Script {
    /// Questions.
    pub polls: Vec<Poll>,
    /// Commands.
    pub commands: Vec<Command>,
    /// Silence that makes the device offline.
    pub offline_after: Option<Duration>,
    /// How many points there are.
    pub points: usize,
}

/// What is to be told to the hub.
#[derive(Debug, PartialEq)]
pub enum Say {
    /// A reading of a point, and what came with it.
    Reading(usize, Value, Quality, Instant, model::Frame),
    /// What became of an order.
    Acted(Ticket, Result<Option<Value>, Refusal>),
    /// The device is there.
    Online,
    /// It says nothing.
    Silent(String),
}

/// Counts since they were last taken.
#[derive(Debug, Default, PartialEq)]
pub struct Counts {
    pub frames: u64,
    pub bad: u64,
    pub dropped: u64,
    pub missed: u64,
    pub late: u64,
    pub errors: u64,
    /// Bad frames by reason.
    pub reasons: BTreeMap<&'static str, u64>,
}

/// The conversation.
pub struct Talk {
    pipeline: Pipeline,
    state: State,
}

struct State {
    script: Script,
    /// Points that only the answer to one poll may give.
    bound: Vec<bool>,
    polls: Vec<Round>,
    orders: VecDeque<Order>,
    stage: Stage,
    debt: Option<Debt>,
    counts: Counts,
    status: Status,
    /// Requests in a row that were not answered, and late answers since the last good one.
    missed: u32,
    late: u32,
    /// When the last good frame was heard, or the port opened.
    heard: Instant,
    /// When a silence will mean something to the framing.
    idle: Option<Instant>,
    /// Whether anybody reads other fields than the points, and those of the frame at hand.
    wants_fields: bool,
    fields: Option<Arc<Vec<(String, Value)>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Status {
    Unknown,
    Online,
    Silent,
}

/// Where a poll stands.
struct Round {
    due: Instant,
    /// When it would be due had it been answered.
    regular: Instant,
    misses: u32,
}

/// An answer that may still come.
#[derive(Clone, Copy)]
struct Debt {
    since: Instant,
    until: Instant,
    /// Of which request.
    of: What,
}

/// An order that waits for its turn.
struct Order {
    ticket: Ticket,
    /// Which command; `None`: `/send`.
    command: Option<usize>,
    bytes: Vec<u8>,
    begin_by: Instant,
}

enum Stage {
    Idle,
    Asked(Asked),
    /// A request was not answered; for a moment nobody else may speak.
    Hold(Instant),
}

struct Asked {
    what: What,
    begun: Option<Instant>,
    /// When the patience is over; known once the request is out.
    until: Option<Instant>,
    /// What the instrument said instead of what was expected.
    instead: Option<String>,
    /// What was heard since it began, while no frame was.
    raw: Option<Vec<u8>>,
    heard: Option<Instant>,
}

#[derive(Clone, Copy)]
enum What {
    Poll(usize),
    Command(Ticket, usize),
    Send(Ticket),
}

impl Talk {
    /// A conversation that has not begun.
    pub fn new(pipeline: Pipeline, script: Script, now: Instant) -> Talk {
        let mut bound = vec![false; script.points];
        for point in script.polls.iter().flat_map(|p| &p.points) {
            if let Some(bound) = bound.get_mut(*point) {
                *bound = true;
            }
        }
        let state = State {
            bound,
            polls: Vec::new(),
            orders: VecDeque::new(),
            stage: Stage::Idle,
            debt: None,
            counts: Counts::default(),
            status: Status::Unknown,
            missed: 0,
            late: 0,
            heard: now,
            idle: None,
            wants_fields: false,
            fields: None,
            script,
        };
        Talk { pipeline, state }
    }

    /// Its pipeline, for who only listens, and whether it asks.
    pub fn into_ear(self) -> (Pipeline, bool) {
        (self.pipeline, !self.state.script.polls.is_empty())
    }

    /// Somebody reads all fields of the frames.
    pub fn want_fields(&mut self, wanted: bool) {
        self.state.wants_fields = wanted;
    }

    /// The port was opened; `again`: not for the first time.
    pub fn open(&mut self, joined: Joined, again: bool, now: Instant, out: &mut Vec<Say>) {
        self.pipeline.reset(joined);
        let s = &mut self.state;
        s.polls = s.script.polls.iter().map(|_| Round { due: now, regular: now, misses: 0 }).collect();
        s.orders.clear();
        (s.stage, s.debt, s.idle) = (Stage::Idle, None, None);
        (s.missed, s.late, s.heard) = (0, 0, now);
        s.status = Status::Unknown;
        if s.script.polls.is_empty() {
            s.online(out);
        } else if again {
            s.status = Status::Silent;
            out.push(Say::Silent("it has not answered yet".into()));
        }
    }

    /// Whether a turn is wanted now, and how much.
    pub fn wants(&self, now: Instant) -> Option<Urgency> {
        let s = &self.state;
        if !matches!(s.stage, Stage::Idle) {
            return None;
        }
        if !s.orders.is_empty() && s.debt.is_none_or(|d| d.for_orders() <= now) {
            return Some(Urgency::Command);
        }
        let free = s.debt.is_none_or(|d| d.until <= now);
        (free && s.polls.iter().any(|p| p.due <= now)).then_some(Urgency::Poll)
    }

    /// The turn is there: what is written now. `None`: there is nothing to be asked any more.
    pub fn begin(&mut self, now: Instant) -> Option<Vec<u8>> {
        let wants = self.wants(now)?;
        let s = &mut self.state;
        s.debt = s.debt.filter(|d| d.until > now);
        let (what, bytes) = if wants == Urgency::Command {
            let order = s.orders.pop_front()?;
            let what = match order.command {
                Some(command) => What::Command(order.ticket, command),
                None => What::Send(order.ticket),
            };
            (what, order.bytes)
        } else {
            let due = s.polls.iter().enumerate().filter(|(_, p)| p.due <= now);
            let i = due.min_by_key(|(_, p)| p.due)?.0;
            (What::Poll(i), s.script.polls.get(i)?.request.clone())
        };
        let raw = matches!(what, What::Command(..)).then(Vec::new);
        s.stage = Stage::Asked(Asked { what, begun: None, until: None, instead: None, raw, heard: None });
        Some(bytes)
    }

    /// Whether a turn that was had is not needed any more.
    pub fn turn_is_over(&self) -> bool {
        matches!(self.state.stage, Stage::Idle)
    }

    /// An order, and the moment by which it must be begun.
    pub fn order(&mut self, ticket: Ticket, action: Action, begin_by: Instant, now: Now, out: &mut Vec<Say>) {
        let rejected = |why: String| Refusal::new(OutcomeKind::Rejected, why);
        let s = &mut self.state;
        let made = match action {
            Action::Send(bytes) => Ok((None, bytes)),
            Action::Verb { verb, value, .. } => {
                match s.script.commands.iter().enumerate().find(|(_, c)| c.name == verb) {
                    Some((i, command)) => match command.request.bytes(&value, now, self.pipeline.check()) {
                        Ok(bytes) => Ok((Some(i), bytes)),
                        Err(why) => Err(rejected(format!("there is no request for it: {why}"))),
                    },
                    None => Err(rejected(format!("there is no command `{verb}`"))),
                }
            }
            Action::Set(_) | Action::Fade { .. } => Err(rejected("its points cannot be set; use /send".into())),
        };
        match made {
            Ok(_) if s.orders.len() == WAITING => {
                let busy = Refusal::new(OutcomeKind::Busy, "the device is behind; ask again");
                out.push(Say::Acted(ticket, Err(busy)));
            }
            Ok((command, bytes)) => s.orders.push_back(Order { ticket, command, bytes, begin_by }),
            Err(refusal) => out.push(Say::Acted(ticket, Err(refusal))),
        }
    }

    /// Something was heard.
    pub fn heard(&mut self, heard: Heard, now: Instant, out: &mut Vec<Say>) {
        match heard {
            Heard::Bytes { at, bytes, others } => {
                // what was due before these bytes came is done before them
                self.tick(at, out);
                self.bytes(at, &bytes, others, out);
            }
            Heard::Begun { quiet } => {
                let Stage::Asked(asked) = &mut self.state.stage else { return };
                asked.begun = Some(now);
                if quiet && self.state.script.answered(asked.what) {
                    // half a frame from before must not be joined with the answer
                    self.state.counts.dropped += self.pipeline.buffered() as u64;
                    self.pipeline.reset(Joined::AtStart);
                    self.state.idle = None;
                }
            }
            Heard::Written(result) => self.state.written(result, now, out),
            // the driver ends
            Heard::Lost(_) => {}
        }
    }

    fn bytes(&mut self, at: Instant, bytes: &Arc<[u8]>, others: bool, out: &mut Vec<Say>) {
        let Talk { pipeline, state } = self;
        if let Stage::Asked(Asked { begun: Some(_), raw: Some(raw), heard, .. }) = &mut state.stage {
            raw.extend(bytes.iter().take(RAW - raw.len()));
            *heard = Some(at);
        }
        pipeline.push(bytes, &mut |output| state.judge(output, others, at, out));
        state.idle = pipeline.idle_after().map(|d| at + d);
    }

    /// When [`Talk::tick`] wants to be called.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let s = &self.state;
        let stage = match &s.stage {
            Stage::Idle => None,
            Stage::Asked(asked) => [asked.until, asked.pause()].into_iter().flatten().min(),
            Stage::Hold(until) => Some(*until),
        };
        let debt = s.debt.filter(|_| matches!(s.stage, Stage::Idle));
        let free = debt.map(|d| d.until);
        let orders = s.orders.iter().map(|o| o.begin_by).min();
        let order = if s.orders.is_empty() { None } else { debt.map(|d| d.for_orders()) };
        let due = match s.stage {
            Stage::Idle => s.polls.iter().map(|p| free.map_or(p.due, |f| p.due.max(f))).min(),
            _ => None,
        };
        let offline = s.script.offline_after.filter(|_| s.status != Status::Silent).map(|after| s.heard + after);
        // what is due already waits for its turn
        let later = |t: Option<Instant>| t.filter(|t| *t > now);
        [s.idle, stage, orders, later(order), later(due), offline].into_iter().flatten().min()
    }

    /// Does what is due by now.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Say>) {
        let Talk { pipeline, state: s } = self;
        if s.idle.is_some_and(|t| t <= now) {
            s.idle = None;
            pipeline.idle(&mut |output| s.judge(output, false, now, out));
        }
        s.pause_is_over(now, out);
        match &s.stage {
            Stage::Asked(Asked { until: Some(until), .. }) if *until <= now => s.not_answered(now, out),
            Stage::Hold(until) if *until <= now => s.stage = Stage::Idle,
            _ => {}
        }
        while let Some(i) = s.orders.iter().position(|o| o.begin_by < now) {
            if let Some(order) = s.orders.remove(i) {
                let late = Refusal::new(OutcomeKind::Timeout, "the line was busy for too long");
                out.push(Say::Acted(order.ticket, Err(late)));
            }
        }
        if let Some(after) = s.script.offline_after
            && s.status != Status::Silent
            && s.heard + after <= now
        {
            s.silent(format!("nothing was heard for {}", Span(after)), out);
        }
    }

    /// The counts since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.state.counts)
    }
}

impl Debt {
    fn for_orders(self) -> Instant {
        self.until.min(self.since + COMMAND_WAITS)
    }
}

impl Asked {
    /// When bytes that make no frame may be looked at as an answer.
    fn pause(&self) -> Option<Instant> {
        self.raw.as_ref().filter(|raw| !raw.is_empty()).and(self.heard).map(|at| at + PAUSE)
    }
}

impl Script {
    /// Whether an answer is waited for.
    fn answered(&self, what: What) -> bool {
        self.patience(what).is_some()
    }
    fn patience(&self, what: What) -> Option<Duration> {
        match what {
            What::Poll(i) => self.polls.get(i).map(|p| p.timeout),
            What::Command(_, i) => self.commands.get(i).and_then(|c| c.timeout),
            What::Send(_) => None,
        }
    }
}

impl State {
    fn online(&mut self, out: &mut Vec<Say>) {
        if self.status != Status::Online {
            self.status = Status::Online;
            out.push(Say::Online);
        }
    }

    fn silent(&mut self, why: String, out: &mut Vec<Say>) {
        self.status = Status::Silent;
        out.push(Say::Silent(why));
    }

    /// What the pipeline made of bytes.
    fn judge(&mut self, output: Output<'_>, others: bool, at: Instant, out: &mut Vec<Say>) {
        if others && !self.polls.is_empty() {
            return;
        }
        match output {
            Output::Frame { frame, readings, fields } => {
                self.counts.frames += 1;
                self.fields = self.wants_fields.then(|| {
                    let mut list = Vec::new();
                    fields.each(&mut |name, value| list.push((name.to_owned(), value)));
                    Arc::new(list)
                });
                self.good(frame, readings, &|gate| fields.passes(gate), at, out);
            }
            Output::NotOurs(frame) => {
                self.counts.frames += 1;
                self.maybe_answer(frame.bytes, false, at, out);
            }
            Output::Rejected { reason, frame, bytes } => {
                // cut and checked well, only not of the decoder's form: as an acknowledgement is not
                let whole = matches!(reason, Reason::Syntax | Reason::NoMatch | Reason::Columns);
                if whole && self.maybe_answer(frame, true, at, out) {
                    self.counts.frames += 1;
                    return;
                }
                if whole && self.pays(frame, false, &|_| false, at) {
                    self.counts.frames += 1;
                    self.pay(at);
                    return;
                }
                self.counts.bad += 1;
                self.counts.dropped += bytes as u64;
                *self.counts.reasons.entry(reason.as_str()).or_default() += 1;
            }
            Output::Dropped(bytes) => self.counts.dropped += bytes.len() as u64,
        }
    }

    /// A good frame with its readings.
    fn good(
        &mut self,
        frame: &Frame<'_>,
        readings: &mut Vec<Decoded>,
        passes: &dyn Fn(usize) -> bool,
        at: Instant,
        out: &mut Vec<Say>,
    ) {
        self.heard = at;
        match &self.stage {
            Stage::Asked(Asked { what: What::Poll(i), begun: Some(_), .. }) => {
                let i = *i;
                let Some(poll) = self.script.polls.get(i) else { return };
                let gated = poll.gate.is_some_and(|gate| !passes(gate));
                if !gated {
                    let bound = &self.bound;
                    readings.retain(|r| match poll.points.as_slice() {
                        [] => !bound.get(r.point).is_some_and(|b| *b),
                        own => own.contains(&r.point),
                    });
                    if !readings.is_empty() || poll.gate.is_some() {
                        self.say(readings, at, out);
                        self.answered(i, at, out);
                    }
                    return;
                }
            }
            Stage::Asked(Asked { what: What::Command(..), begun: Some(_), .. }) => {
                let streams = self.polls.is_empty() && !readings.is_empty();
                if self.maybe_answer(frame.bytes, !streams, at, out) {
                    return;
                }
            }
            _ => {}
        }
        if self.pays(frame.bytes, !readings.is_empty(), passes, at) {
            self.pay(at);
            return;
        }
        let bound = &self.bound;
        readings.retain(|r| !bound.get(r.point).is_some_and(|b| *b));
        self.say(readings, at, out);
        if self.polls.is_empty() || !readings.is_empty() {
            self.online(out);
        }
        readings.clear();
    }

    fn say(&self, readings: &[Decoded], at: Instant, out: &mut Vec<Say>) {
        out.extend(readings.iter().enumerate().map(|(i, r)| {
            let quality = if r.bad { Quality::Bad } else { Quality::Good };
            let frame = model::Frame { fields: self.fields.clone(), more: i + 1 < readings.len() };
            Say::Reading(r.point, r.value.clone(), quality, at, frame)
        }));
    }

    /// Whether a frame is the answer to the command that was asked. `nothing_else`: if it is not the good one, it is
    /// the bad one; the instrument does not speak by itself so.
    fn maybe_answer(&mut self, frame: &[u8], nothing_else: bool, at: Instant, out: &mut Vec<Say>) -> bool {
        let owed = self.debt.is_some_and(|d| d.until > at);
        let Stage::Asked(asked) = &mut self.stage else { return false };
        let (What::Command(ticket, i), Some(_)) = (asked.what, asked.begun) else { return false };
        let Some(command) = self.script.commands.get(i).filter(|c| c.timeout.is_some()) else { return false };
        asked.raw = None;
        let done = match &command.expect {
            None => Some(None),
            Some(expect) => expect.captures(frame).map(|found| {
                let group = found.get(1).and_then(|g| std::str::from_utf8(g.as_bytes()).ok());
                group.map(|text| Value::parse(text.trim()))
            }),
        };
        let result = match done {
            Some(value) => Ok(value),
            None if nothing_else && !owed => Err(format!("it answered {}", shown(frame)).into()),
            None => {
                asked.instead = Some(shown(frame));
                return false;
            }
        };
        self.stage = Stage::Idle;
        self.heard = at;
        (self.missed, self.late) = (0, 0);
        out.push(Say::Acted(ticket, result));
        self.online(out);
        true
    }

    /// Bytes that make no frame, and then a pause: an answer of another form.
    fn pause_is_over(&mut self, now: Instant, out: &mut Vec<Say>) {
        let Stage::Asked(asked) = &mut self.stage else { return };
        if asked.pause().is_some_and(|t| t <= now)
            && let Some(raw) = asked.raw.take()
            && !self.maybe_answer(&raw, false, now, out)
            && let Stage::Asked(asked) = &mut self.stage
        {
            // more may come
            asked.raw = Some(raw);
            asked.heard = None;
        }
    }

    /// The request is out, or is not.
    fn written(&mut self, result: Result<Instant, String>, now: Instant, out: &mut Vec<Say>) {
        let Stage::Asked(asked) = &mut self.stage else { return };
        if asked.begun.is_none() {
            // of the request before, which was answered before it was known to be out
            return;
        }
        let what = asked.what;
        match (result, self.script.patience(what)) {
            (Ok(at), Some(patience)) => asked.until = Some(at + patience),
            (Ok(_), None) => {
                self.stage = Stage::Idle;
                if let What::Command(ticket, _) | What::Send(ticket) = what {
                    out.push(Say::Acted(ticket, Ok(None)));
                }
            }
            (Err(why), _) => {
                self.stage = Stage::Idle;
                match what {
                    What::Poll(i) => {
                        self.counts.errors += 1;
                        let n = self.missed.saturating_add(1);
                        self.missed_poll(i, now, now, format!("{n} requests could not be written: {why}"), out);
                    }
                    What::Command(ticket, _) | What::Send(ticket) => {
                        out.push(Say::Acted(ticket, Err(why.into())));
                    }
                }
            }
        }
    }

    /// The patience is over.
    fn not_answered(&mut self, now: Instant, out: &mut Vec<Say>) {
        let Stage::Asked(asked) = std::mem::replace(&mut self.stage, Stage::Idle) else { return };
        let patience = self.script.patience(asked.what).unwrap_or_default();
        let since = asked.begun.unwrap_or(now);
        let until = since + (3 * patience).max(DEBT);
        self.counts.missed += 1;
        self.debt = Some(Debt { since, until, of: asked.what });
        self.stage = Stage::Hold(now + patience.min(HOLD));
        match asked.what {
            What::Poll(i) => {
                if self.polls.get(i).is_some_and(|p| p.misses + 1 >= MISSES) {
                    // it has been away for longer: nobody waits for it
                    self.stage = Stage::Idle;
                }
                let n = self.missed.saturating_add(1);
                let why = format!("no answer within {} to {n} requests in a row", Span(patience));
                self.missed_poll(i, until, now, why, out);
            }
            What::Command(ticket, _) => {
                let refusal = match asked.instead {
                    Some(instead) => Refusal::from(format!("it answered {instead}")),
                    None => Refusal::new(OutcomeKind::Timeout, format!("no answer within {}", Span(patience))),
                };
                out.push(Say::Acted(ticket, Err(refusal)));
            }
            What::Send(_) => {}
        }
    }

    /// A poll came to nothing; it may be asked again at `again`.
    fn missed_poll(&mut self, i: usize, again: Instant, now: Instant, why: String, out: &mut Vec<Say>) {
        let (Some(round), Some(poll)) = (self.polls.get_mut(i), self.script.polls.get(i)) else { return };
        round.misses = round.misses.saturating_add(1);
        round.regular = (round.due + poll.every).max(now);
        round.due = match round.misses.checked_sub(MISSES) {
            None => again.max(now + DEBT / 4),
            Some(times) => {
                let pause = DEBT.saturating_mul(2u32.saturating_pow(times.min(8))).min(SELDOM);
                again.max(now + pause.max(poll.every))
            }
        };
        self.missed = self.missed.saturating_add(1);
        if self.script.offline_after.is_none() && self.missed >= MISSES && self.status != Status::Silent {
            let late = match self.late {
                0 => String::new(),
                n => format!("; {n} answers came late: raise `timeout`"),
            };
            self.silent(format!("{why}{late}"), out);
        }
    }

    /// A poll was answered.
    fn answered(&mut self, i: usize, at: Instant, out: &mut Vec<Say>) {
        self.stage = Stage::Idle;
        (self.missed, self.late) = (0, 0);
        self.online(out);
        let (Some(round), Some(poll)) = (self.polls.get_mut(i), self.script.polls.get(i)) else { return };
        let regular = if round.misses > 0 { at } else { round.due };
        round.misses = 0;
        round.due = (regular + poll.every).max(at);
        round.regular = round.due;
    }

    /// Whether a frame that answers nothing is the answer that is owed.
    fn pays(&self, frame: &[u8], reads: bool, passes: &dyn Fn(usize) -> bool, at: Instant) -> bool {
        let Some(debt) = self.debt.filter(|d| d.until > at) else { return false };
        match debt.of {
            What::Poll(i) => reads && self.script.polls.get(i).and_then(|p| p.gate).is_none_or(passes),
            // what streams in is none; an acknowledgement is, whatever it says
            What::Command(_, i) => {
                let expect = self.script.commands.get(i).and_then(|c| c.expect.as_ref());
                !reads || !self.polls.is_empty() || expect.is_some_and(|e| e.is_match(frame))
            }
            What::Send(_) => false,
        }
    }

    /// The answer that was owed has come; it is thrown away.
    fn pay(&mut self, at: Instant) {
        self.debt = None;
        self.counts.late += 1;
        self.late = self.late.saturating_add(1);
        if let Stage::Hold(_) = self.stage {
            self.stage = Stage::Idle;
        }
        for round in self.polls.iter_mut().filter(|p| (1..MISSES).contains(&p.misses)) {
            round.due = round.due.min(round.regular.max(at));
        }
    }
}

/// An answer for people.
fn shown(frame: &[u8]) -> String {
    let short = frame.get(..32).unwrap_or(frame);
    let more = if frame.len() > short.len() { "…" } else { "" };
    match std::str::from_utf8(short) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            format!("`{}`{more}", text.trim_end())
        }
        _ => format!("{}{more}", crate::codec::Bytes(short.to_vec())),
    }
}

#[cfg(test)]
mod tests;
