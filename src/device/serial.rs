//! `serial`: an instrument on a port. Bytes become frames, frames become readings (`codec`); `poll` asks, `commands`
//! and `/send` write.
//!
//! Several devices may share a port ([`crate::hal::bus`]): they take turns. What is asked when, and which frame is the
//! answer to what, is decided in [`talk`], without I/O; here it is carried out. A bad frame is counted by its reason
//! and never ends the task. A port that is gone ends it: the supervisor says `offline` until it is back.

mod keys;
mod talk;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::codec::{CheckKeys, DecodeKeys, DecodeType, FieldKeys, FieldType, FrameKeys, Joined, KeyError, Pipeline};
use crate::config::Word;
use crate::config::raw::{Params, PointKeys};
use crate::config::scalar::Span;
use crate::hal::bus::{Bus, Heard, Member, Turn, Urgency, WRITE_PATIENCE};
use crate::hal::port::PortKind;
use crate::model::{Problem, VerbSpec};

use self::keys::{CommandKeys, Polls, Reader};
use self::talk::{Counts, Say, Script, Talk};
use super::{Built, Context, Counters, Desk, DeviceError, Driver, Ear, Kind, PointDraft, Task};

/// The word.
pub const KIND: Kind = Kind {
    word: Word {
        name: "serial",
        summary: "an instrument on a port: frames to readings",
        schema: |generator| generator.subschema_for::<Keys>(),
    },
    build,
};

/// How quiet a line is before somebody speaks on it: longer than an adapter holds bytes back.
const QUIET: Duration = Duration::from_millis(30);
/// Time between two lines about bad frames.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Keys of `serial`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Keys {
    /// Name of a port.
    port: String,
    /// How frames are cut; default: lines, `{delimiter: "\n"}`.
    frame: Option<FrameKeys>,
    /// How frames are checked; default: not at all.
    check: Option<CheckKeys>,
    /// How frames are decoded; default: the whole frame as text.
    decode: Option<DecodeKeys>,
    /// Points by name.
    #[serde(default)]
    points: IndexMap<String, SerialPoint>,
    /// What the instrument is asked, and how often: one question or a list.
    #[serde(default)]
    poll: Polls,
    /// Commands by name: `PREFIX/DEVICE/NAME`.
    #[serde(default)]
    commands: IndexMap<String, CommandKeys>,
    /// Silence that makes it offline; default: never, or three questions without an answer.
    offline_after: Option<Span>,
}

/// A point of a serial device.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct SerialPoint {
    #[serde(flatten)]
    field: FieldKeys,
    #[serde(flatten)]
    keys: PointKeys,
}

struct Serial {
    bus: Bus,
    talk: Mutex<Talk>,
    /// Whether the port was open before.
    again: AtomicBool,
}

fn build(params: &Params, desk: &mut Desk) -> Option<Built> {
    let keys: Keys = desk.read(params)?;
    let bus = desk.share_port(&keys.port, &["port"]);
    if keys.points.is_empty() && keys.commands.is_empty() && !desk.places.dropped(&["devices", desk.name, "points"]) {
        let help = "name what it reads: points: { temperature: { field: T } }";
        let place = desk.place(&[]);
        desk.problems.push(Problem::error(place, "a serial device without points publishes nothing").help(help));
    }
    let frame = keys.frame.clone().unwrap_or_else(FrameKeys::lines);
    let decode = keys.decode.clone().unwrap_or_default();
    let fields: Vec<(&str, &FieldKeys)> = keys.points.iter().map(|(name, p)| (name.as_str(), &p.field)).collect();
    let gates: Vec<_> = keys.poll.gates();
    let pipeline = match Pipeline::with_gates(&frame, keys.check.as_ref(), &decode, &fields, &gates) {
        Ok(pipeline) => Some(pipeline),
        Err(errors) => {
            let wrong = |key: &str| desk.places.dropped(&["devices", desk.name, key]);
            let (frame, decode) = (wrong("frame"), wrong("decode"));
            for KeyError { path, text, help } in errors {
                let path: Vec<&str> = path.split('.').collect();
                // only follows from what was left out there as wrong
                let follows = match path.as_slice() {
                    ["points", point] => {
                        frame || decode || desk.places.dropped(&["devices", desk.name, "points", point])
                    }
                    ["points", ..] => frame || decode,
                    ["check", ..] => frame || wrong("check"),
                    [section, ..] => wrong(section),
                    [] => false,
                };
                if follows {
                    continue;
                }
                let problem = Problem::error(desk.place(&path), text);
                desk.problems.push(match help {
                    Some(help) => problem.help(help),
                    None => problem,
                });
            }
            None
        }
    };
    let mut reader = Reader { check: pipeline.as_ref().and_then(Pipeline::check), desk };
    let names: Vec<String> = keys.points.keys().cloned().collect();
    let polls = reader.polls(&keys.poll, &names);
    let commands: Vec<_> = keys.commands.iter().filter_map(|(name, keys)| reader.command(name, keys)).collect();
    if keys.offline_after.is_some_and(|s| s.0.is_zero()) {
        desk.error(&["offline_after"], "`offline_after` of no time", "write a time such as 30s, or remove the key");
    }
    let (bus, pipeline) = (bus?, pipeline?);
    let own_verbs = commands
        .iter()
        .map(|c| VerbSpec {
            verb: c.name.clone(),
            point: None,
            takes: c.takes.clone(),
            // its turn may come late within the patience of any command; then it is written and answered
            time: WRITE_PATIENCE + QUIET + c.timeout.unwrap_or_default(),
        })
        .collect();
    let mut notes = vec![format!("port {}: {}", bus.spec().name, bus.spec().kind)];
    notes.extend(polls.iter().map(|p| format!("asks every {}, waits {}", Span(p.every), Span(p.timeout))));
    notes.extend(commands.iter().map(|c| format!("{} takes {}", c.name, c.takes)));
    notes.extend(keys.offline_after.map(|s| format!("offline after {s} of silence")));
    let points: Vec<PointDraft> = keys
        .points
        .into_iter()
        .map(|(name, point)| {
            let path = vec!["points".to_owned(), name.clone()];
            let values = values(&point.field, decode.kind);
            PointDraft { name, keys: point.keys, path, values, stateful: false }
        })
        .collect();
    let offline_after = keys.offline_after.map(|s| s.0);
    let script = Script { polls, commands, offline_after, points: points.len() };
    Some(Built {
        points,
        point_verbs: vec!["get"],
        device_verbs: vec!["send"],
        own_verbs,
        output: None,
        safe: None,
        notes,
        driver: Box::new(Serial {
            bus,
            talk: Mutex::new(Talk::new(pipeline, script, Instant::now())),
            again: AtomicBool::new(false),
        }),
    })
}

/// What a point's values are.
fn values(field: &FieldKeys, decode: DecodeType) -> &'static str {
    match (field.kind, decode) {
        (Some(FieldType::Number), _) => "a number",
        (Some(FieldType::Text), _) => "text",
        (Some(FieldType::Bool), _) => "ON or OFF",
        (None, DecodeType::Binary | DecodeType::Tlv) if field.bit.is_some() => "ON or OFF",
        (None, DecodeType::Binary | DecodeType::Tlv) if field.text.is_some() => "text",
        (None, DecodeType::Binary | DecodeType::Tlv) if field.bytes.is_none() && says_number(field) => "a number",
        (None, DecodeType::Binary | DecodeType::Tlv) => "bytes",
        (None, DecodeType::Raw) if field.pattern.is_none() => "bytes",
        (None, _) => "a number or text",
    }
}

fn says_number(field: &FieldKeys) -> bool {
    field.number.is_some() || field.bcd.is_some() || field.bits.is_some()
}

/// Bad frames by reason since the last line of the log, and when that was.
#[derive(Default)]
struct Complaints {
    reasons: BTreeMap<&'static str, u64>,
    said: Option<Instant>,
}

impl Complaints {
    /// Moves the counts to the device's counters, and says now and then what is wrong.
    fn settle(&mut self, counts: Counts, cx: &Context) {
        for (counter, n) in [
            (&cx.counters.frames, counts.frames),
            (&cx.counters.bad_frames, counts.bad),
            (&cx.counters.dropped_bytes, counts.dropped),
            (&cx.counters.missed, counts.missed),
            (&cx.counters.late, counts.late),
            (&cx.counters.errors, counts.errors),
        ] {
            if n > 0 {
                Counters::add(counter, n);
            }
        }
        for (reason, n) in counts.reasons {
            *self.reasons.entry(reason).or_default() += n;
        }
        if !self.reasons.is_empty() && self.said.is_none_or(|t| t.elapsed() > COMPLAIN) {
            let list: Vec<_> = self.reasons.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
            log::warn!(device = cx.name.as_str(); "bad frames: {}", list.join(", "));
            self.reasons.clear();
            self.said = Some(Instant::now());
        }
    }
}

impl Serial {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A program begins to speak at its beginning; any other line may be joined in mid-sentence.
    fn joined(&self) -> Joined {
        match self.bus.spec().kind {
            PortKind::Command { .. } => Joined::AtStart,
            _ => Joined::Midway,
        }
    }

    /// What was heard goes into the conversation; an error ends the driver.
    fn listen(&self, heard: Heard, out: &mut Vec<Say>) -> Result<(), DeviceError> {
        if let Heard::Lost(why) = heard {
            return Err(DeviceError(why));
        }
        self.talk().heard(heard, Instant::now(), out);
        Ok(())
    }
}

/// A turn that is waited for, and how urgent it is.
type Waiting = Option<(Urgency, Pin<Box<dyn Future<Output = Turn> + Send>>)>;

/// The turn that is waited for; for ever where none is.
async fn granted(waiting: &mut Waiting) -> Turn {
    match waiting {
        Some((_, turn)) => turn.await,
        None => std::future::pending().await,
    }
}

impl Driver for Serial {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            let mut member: Member = self.bus.join().await.map_err(DeviceError)?;
            let joined = self.joined();
            let mut out = Vec::new();
            let again = self.again.swap(true, Ordering::Relaxed);
            self.talk().want_fields(cx.wants_fields);
            self.talk().open(joined, again, Instant::now(), &mut out);
            let mut complaints = Complaints::default();
            let (mut waiting, mut turn): (Waiting, Option<Turn>) = (None, None);
            loop {
                // before anything is told: who waits for the line need not wait for the hub
                if self.talk().turn_is_over() {
                    drop(turn.take());
                }
                for say in out.drain(..) {
                    match say {
                        Say::Reading(point, value, quality, at, frame) => {
                            cx.reading_of(point, value, quality, at, frame).await;
                        }
                        Say::Acted(ticket, result) => cx.acted(ticket, result).await,
                        Say::Online => cx.online().await,
                        Say::Silent(why) => {
                            log::warn!(device = cx.name.as_str(); "silent: {why}");
                            cx.silent(why).await;
                        }
                    }
                }
                let now = Instant::now();
                let (counts, wants, wake) = {
                    let mut talk = self.talk();
                    (talk.take_counts(), talk.wants(now), talk.wake(now))
                };
                complaints.settle(counts, cx);
                match (wants, &waiting) {
                    (None, _) => waiting = None,
                    (Some(urgency), Some((asked, _))) if urgency == *asked => {}
                    (Some(urgency), _) => waiting = Some((urgency, Box::pin(member.turn(urgency)))),
                }
                tokio::select! {
                    heard = member.next() => self.listen(heard, &mut out)?,
                    granted = granted(&mut waiting), if waiting.is_some() => {
                        waiting = None;
                        let bytes = self.talk().begin(Instant::now());
                        if let Some(bytes) = bytes {
                            member.write(&granted, bytes, QUIET).await;
                            turn = Some(granted);
                        }
                    }
                    order = cx.orders.recv() => match order {
                        Some(order) => {
                            let (until, now) = (order.until, cx.clock.now());
                            match order.in_time() {
                                Ok((ticket, action)) => self.talk().order(ticket, action, until, now, &mut out),
                                Err((ticket, why)) => out.push(Say::Acted(ticket, Err(why))),
                            }
                        }
                        None => return Ok(()),
                    },
                    () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {
                        // what was heard in time counts, even if it is looked at only now
                        while let Some(heard) = member.heard_already() {
                            self.listen(heard, &mut out)?;
                        }
                        self.talk().tick(Instant::now(), &mut out);
                    }
                }
            }
        })
    }

    fn wait(&self, longest: Duration) -> Task<'_, ()> {
        Box::pin(self.bus.wait(longest))
    }

    fn into_ear(self: Box<Self>) -> Option<Ear> {
        let (port, joined) = (self.bus.spec().clone(), self.joined());
        let (mut pipeline, asked) = self.talk.into_inner().unwrap_or_else(|e| e.into_inner()).into_ear();
        pipeline.reset(joined);
        Some(Ear { port, joined, pipeline, asked })
    }
}
