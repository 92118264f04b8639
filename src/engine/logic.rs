//! What the gateway does by itself: computed points, alarms and rules, each time something has changed.
//!
//! It runs at the end of each event: first the computed points, in the order of who needs whom, then the rules. While
//! more readings of one frame follow it waits, so that nobody computes with halves of two frames.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::expr::{Expression, Zone};
use crate::model::{
    Deliver, DeviceId, DeviceStatus, Frame, Message, Mono, Now, Outcome, OutcomeKind, PointId, Priority, Properties,
    Qos, Quality, Value,
};
use crate::wire::topics::check_topic;
use crate::wire::{Record, payload};

use super::bridge::lane;
use super::commands::Reply;
use super::points::Alarm;
use super::rules::{Branch, Rule, Step, Verdict, Watch, Worth};
use super::{Effect, Engine, Outgoing};

/// What a plan says of it.
#[derive(Debug, Default)]
pub struct Logic {
    /// Where the clock on the wall hangs.
    pub zone: Option<Zone>,
    /// Alarms by point.
    pub alarms: Vec<(PointId, Alarm)>,
    /// Payloads of the users' own, by point.
    pub payloads: Vec<(PointId, crate::expr::Template)>,
    /// Computed points; one that another needs comes before it.
    pub computed: Vec<Computed>,
    /// Rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// What outputs require.
    pub requires: Vec<Requires>,
    /// Relays.
    pub relays: super::relays::Plan,
    /// Sessions.
    pub sessions: super::sessions::Plan,
}

/// Who wishes something from within.
#[derive(Debug, Clone, PartialEq)]
pub struct By {
    /// `rule NAME`, for the event.
    pub sender: String,
    /// The step, where it is a rule's.
    pub step: Option<StepAt>,
    /// The command, where it is a session's.
    pub session: Option<super::sessions::Asked>,
}

/// A step of a rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepAt {
    /// The rule, by its place.
    pub rule: usize,
    /// In which of its lists the step stands.
    pub branch: Branch,
    /// The step, by its place.
    pub step: usize,
}

/// What must hold while an output is on.
#[derive(Debug, Clone)]
pub struct Requires {
    /// The output.
    pub device: DeviceId,
    /// What.
    pub holds: Expression,
}

/// A point that is computed from others.
#[derive(Debug, Clone)]
pub struct Computed {
    /// Its device, which has no other point.
    pub device: DeviceId,
    /// The point.
    pub point: PointId,
    /// How.
    pub value: Expression,
}

/// A list of steps on its way.
struct Run {
    branch: Branch,
    steps: Arc<[Step]>,
    next: usize,
    at: Mono,
}

struct ComputedWatch {
    computed: Computed,
    wake: Option<Mono>,
    dirty: bool,
}

struct RequiresWatch {
    requires: Requires,
    wake: Option<Mono>,
    dirty: bool,
}

struct RuleWatch {
    watch: Watch,
    /// The list it ran last.
    branch: Option<Branch>,
    run: Option<Run>,
    again: Again,
    dirty: bool,
}

/// Steps of a rule's present state that were refused: the pump that must not go on yet.
#[derive(Default)]
struct Again {
    steps: Vec<usize>,
    at: Option<Mono>,
    wait: Duration,
}

/// How long a refused step waits before it is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl RuleWatch {
    fn steps(&self, branch: Branch) -> Arc<[Step]> {
        match branch {
            Branch::Then => self.watch.rule.then.clone(),
            Branch::Otherwise => self.watch.rule.otherwise.clone(),
        }
    }
}

/// Who hangs on a point.
#[derive(Default, Clone)]
struct Dependents {
    computed: Vec<usize>,
    requires: Vec<usize>,
    rules: Vec<usize>,
}

/// The state of it.
pub(super) struct Reactions {
    computed: Vec<ComputedWatch>,
    requires: Vec<RequiresWatch>,
    rules: Vec<RuleWatch>,
    by_point: Vec<Dependents>,
    changed: Vec<PointId>,
}

impl Reactions {
    pub(super) fn new(
        computed: Vec<Computed>,
        requires: Vec<Requires>,
        rules: Vec<Rule>,
        points: usize,
        now: Mono,
    ) -> Reactions {
        let mut by_point = vec![Dependents::default(); points];
        for (i, c) in computed.iter().enumerate() {
            for id in c.value.points() {
                by_point.iter_mut().skip(id.0 as usize).take(1).for_each(|d| d.computed.push(i));
            }
        }
        for (i, r) in requires.iter().enumerate() {
            for id in r.holds.points() {
                by_point.iter_mut().skip(id.0 as usize).take(1).for_each(|d| d.requires.push(i));
            }
        }
        for (i, rule) in rules.iter().enumerate() {
            for id in rule.when.iter().chain(&rule.until).flat_map(Expression::points) {
                by_point
                    .iter_mut()
                    .skip(id.0 as usize)
                    .take(1)
                    .filter(|d| d.rules.last() != Some(&i))
                    .for_each(|d| d.rules.push(i));
            }
        }
        let computed =
            computed.into_iter().map(|computed| ComputedWatch { computed, wake: None, dirty: true }).collect();
        let rules = rules
            .into_iter()
            .map(|rule| RuleWatch {
                watch: Watch::new(rule, now),
                branch: None,
                run: None,
                again: Again::default(),
                dirty: false,
            })
            .collect();
        let requires =
            requires.into_iter().map(|requires| RequiresWatch { requires, wake: None, dirty: true }).collect();
        Reactions { computed, requires, rules, by_point, changed: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.computed.is_empty() && self.requires.is_empty() && self.rules.is_empty()
    }

    pub(super) fn next_wake(&self) -> Option<Mono> {
        let computed = self.computed.iter().filter_map(|c| c.wake);
        let rules =
            self.rules.iter().flat_map(|r| [r.watch.next_wake(), r.run.as_ref().map(|r| r.at), r.again.at]).flatten();
        computed.chain(self.requires.iter().filter_map(|r| r.wake)).chain(rules).min()
    }

    /// Marks who hangs on the points that changed.
    fn mark(&mut self) {
        for id in self.changed.drain(..) {
            let Some(dependents) = self.by_point.get(id.0 as usize) else { continue };
            for i in &dependents.computed {
                self.computed.iter_mut().skip(*i).take(1).for_each(|c| c.dirty = true);
            }
            for i in &dependents.requires {
                self.requires.iter_mut().skip(*i).take(1).for_each(|r| r.dirty = true);
            }
            for i in &dependents.rules {
                self.rules.iter_mut().skip(*i).take(1).for_each(|r| r.dirty = r.watch.heeds_changes());
            }
        }
    }
}

impl Engine {
    /// Lets everything react to what has changed.
    pub(super) fn react(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        self.say_turns(now, fx);
        if self.reactions.is_empty() {
            self.points.take_changed(&mut self.reactions.changed);
            self.reactions.changed.clear();
            return;
        }
        self.points.take_changed(&mut self.reactions.changed);
        self.reactions.mark();
        for i in 0..self.reactions.computed.len() {
            self.compute(i, now, fx);
            self.points.take_changed(&mut self.reactions.changed);
            self.reactions.mark();
        }
        self.say_turns(now, fx);
        if self.stopping {
            return;
        }
        // what an output requires is judged before a rule may wish it on
        for i in 0..self.reactions.requires.len() {
            self.require(i, now, fx);
        }
        for i in 0..self.reactions.rules.len() {
            self.look(i, now, fx);
        }
    }

    fn require(&mut self, i: usize, now: &Now, fx: &mut Vec<Effect>) {
        let Some(watch) = self.reactions.requires.get_mut(i) else { return };
        if !watch.dirty && watch.wake.is_none_or(|t| t > now.mono) {
            return;
        }
        watch.dirty = false;
        let view = self.points.view(now);
        let what = &watch.requires.holds;
        watch.wake = what.changes_in(&view).map(|d| now.mono.after(d));
        let holds = match what.decide(&view) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("it requires `{}`, which does not hold", what.text())),
            Err(blank) => {
                let why = blank.say(|id| self.points.source(id).to_owned());
                Err(format!("it requires `{}`: {why}", what.text()))
            }
        };
        let forced = self.outputs.requirement(watch.requires.device, holds, now);
        self.force(forced, true, now, fx);
    }

    fn compute(&mut self, i: usize, now: &Now, fx: &mut Vec<Effect>) {
        let Some(watch) = self.reactions.computed.get_mut(i) else { return };
        if !watch.dirty && watch.wake.is_none_or(|t| t > now.mono) {
            return;
        }
        watch.dirty = false;
        let view = self.points.view(now);
        let value = watch.computed.value.value(&view);
        watch.wake = watch.computed.value.changes_in(&view).map(|d| now.mono.after(d));
        let (device, point) = (watch.computed.device, watch.computed.point);
        match value {
            Ok(value) => {
                self.status(device, DeviceStatus::Online, now, fx);
                self.points.reading(point, value, Quality::Good, now.stamp(), &Frame::default(), now, fx);
            }
            // that it is not known yet is no news
            Err(blank) if self.bridge.status_of(device) == Some(&DeviceStatus::Online) => {
                let why = blank.say(|id| self.points.source(id).to_owned());
                self.status(device, DeviceStatus::Silent(why), now, fx);
            }
            Err(_) => {}
        }
    }

    fn look(&mut self, i: usize, now: &Now, fx: &mut Vec<Effect>) {
        let Some(rule) = self.reactions.rules.get_mut(i) else { return };
        let woken = rule.watch.next_wake().is_some_and(|t| t <= now.mono);
        if rule.dirty || woken {
            rule.dirty = false;
            let view = self.points.view(now);
            let name = |id: PointId| self.points.source(id).to_owned();
            match rule.watch.look(&view, &name) {
                Verdict::Quiet => {}
                Verdict::Fire(branch, because) => return self.fire(i, branch, &because, now, fx),
                Verdict::Undecided(why) => {
                    let about =
                        json!({ "event": "rule", "rule": rule.watch.rule.name, "did": "nothing", "because": why });
                    self.bridge.event(&self.topics, about, now, fx);
                    ordinary(fx);
                }
                Verdict::Rests => {
                    rule.run = None;
                    rule.again = Again::default();
                    let text = format!(
                        "rule {} fires again and again; it rests for a minute: does what it does make it fire?",
                        rule.watch.rule.name
                    );
                    self.bridge.problem(&self.topics, &text, now, fx);
                }
            }
        }
        let due = |run: &Run| run.at <= now.mono;
        if self.reactions.rules.get(i).is_some_and(|r| r.run.as_ref().is_some_and(due)) {
            self.go_on(i, now, fx);
        }
        let Some(rule) = self.reactions.rules.get_mut(i) else { return };
        if rule.again.at.is_some_and(|t| t <= now.mono)
            && let Some(branch) = rule.branch
        {
            rule.again.at = None;
            let steps = rule.steps(branch);
            for at in std::mem::take(&mut rule.again.steps) {
                if let Some(step) = steps.get(at) {
                    self.take_step((i, branch, at), step, now, fx);
                }
            }
        }
    }

    /// A wish from within has come to its end.
    pub(super) fn came_of(&mut self, reply: &Reply, verb: &str, outcome: &Outcome, now: &Now, fx: &mut Vec<Effect>) {
        self.unheeded(reply, verb, outcome, now);
        self.session_moved(reply, outcome, now, fx);
    }

    /// A command was answered. A state that a rule wished and that was refused is wished again while the rule stands as
    /// it stood then: what `min_off` or an interlock forbids now they allow later.
    fn unheeded(&mut self, reply: &Reply, verb: &str, outcome: &Outcome, now: &Now) {
        use OutcomeKind::{Busy, Failed, Rejected, Timeout};
        let Some(by) = reply.by.as_ref().and_then(|by| by.step) else { return };
        if verb != "set" || !matches!(outcome.kind, Rejected | Busy | Failed | Timeout) || self.stopping {
            return;
        }
        let Some(rule) = self.reactions.rules.get_mut(by.rule) else { return };
        if !rule.watch.heeds_changes() || rule.branch != Some(by.branch) || rule.again.steps.contains(&by.step) {
            return;
        }
        rule.again.steps.push(by.step);
        if rule.again.at.is_none() {
            rule.again.wait = (rule.again.wait * 2).clamp(AGAIN.0, AGAIN.1);
            rule.again.at = Some(now.mono.after(rule.again.wait));
        }
    }

    /// Says that a rule has fired, and begins its steps. A run that is still on its way gives way.
    fn fire(&mut self, i: usize, branch: Branch, because: &str, now: &Now, fx: &mut Vec<Effect>) {
        let Some(rule) = self.reactions.rules.get_mut(i) else { return };
        let steps = rule.steps(branch);
        rule.again = Again::default();
        rule.branch = Some(branch);
        if steps.is_empty() {
            return;
        }
        let name = &rule.watch.rule.name;
        let mut with = Map::new();
        let view = self.points.view(now);
        for id in rule.watch.rule.when.iter().chain(&rule.watch.rule.until).flat_map(Expression::points) {
            use crate::expr::Lookup;
            let value = view.point(*id).value.map_or(Json::Null, |v| payload::to_json(v, "ON", "OFF"));
            with.insert(self.points.source(*id).to_owned(), value);
        }
        let mut about = json!({ "event": "rule", "rule": name, "did": branch.word(), "because": because });
        if let Some(map) = about.as_object_mut().filter(|_| !with.is_empty()) {
            map.insert("with".into(), Json::Object(with));
        }
        self.bridge.event(&self.topics, about, now, fx);
        ordinary(fx);
        rule.run = Some(Run { branch, steps, next: 0, at: now.mono });
        self.go_on(i, now, fx);
    }

    /// Takes the steps up to the next delay.
    fn go_on(&mut self, i: usize, now: &Now, fx: &mut Vec<Effect>) {
        let Some(rule) = self.reactions.rules.get_mut(i) else { return };
        let Some(mut run) = rule.run.take() else { return };
        let steps = run.steps.clone();
        while let Some(step) = steps.get(run.next) {
            let at = run.next;
            run.next += 1;
            match step {
                Step::Delay(d) => {
                    run.at = now.mono.after(*d);
                    if let Some(rule) = self.reactions.rules.get_mut(i) {
                        rule.run = Some(run);
                    }
                    return;
                }
                step => self.take_step((i, run.branch, at), step, now, fx),
            }
        }
    }

    fn take_step(&mut self, (rule, branch, at): (usize, Branch, usize), step: &Step, now: &Now, fx: &mut Vec<Effect>) {
        let Some(name) = self.reactions.rules.get(rule).map(|r| r.watch.rule.name.clone()) else { return };
        let name = name.as_str();
        match step {
            Step::Delay(_) => {}
            Step::Wish { device, point, verb, value } => {
                let filled = match value {
                    Worth::Fixed(value) => Ok(value.clone()),
                    Worth::Filled(template) => template.render(&self.points.view(now)).map(Value::Text),
                };
                match filled {
                    Ok(value) => {
                        let by = By {
                            sender: format!("rule {name}"),
                            step: Some(StepAt { rule, branch, step: at }),
                            session: None,
                        };
                        self.wish_by(by, *device, *point, verb, value, now, fx);
                    }
                    Err(blank) => self.rule_problem(name, &blank, now, fx),
                }
            }
            Step::Publish { topic, payload, qos, retain } => {
                let view = self.points.view(now);
                match (topic.render(&view), payload.render(&view)) {
                    (Ok(topic), Ok(payload)) => match check_topic(&topic) {
                        Ok(()) => fx.push(message(topic, payload, *qos, *retain)),
                        Err(why) => self.bridge.problem(&self.topics, &format!("rule {name}: {why}"), now, fx),
                    },
                    (Err(blank), _) | (_, Err(blank)) => self.rule_problem(name, &blank, now, fx),
                }
            }
        }
    }

    fn rule_problem(&mut self, rule: &str, blank: &crate::expr::Blank, now: &Now, fx: &mut Vec<Effect>) {
        let why = blank.say(|id| self.points.source(id).to_owned());
        self.bridge.problem(&self.topics, &format!("rule {rule}: a step could not be taken: {why}"), now, fx);
    }

    /// Tells of alarms that began or ended, and of readings that could not be written.
    fn say_turns(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        for turn in self.points.take_turns() {
            let about = json!({
                "event": "alarm", "point": self.points.source(turn.point), "state": if turn.on { "ON" } else { "OFF" },
                "value": payload::to_json(&turn.value, "ON", "OFF"),
            });
            self.bridge.event(&self.topics, about, now, fx);
        }
        for (point, why) in self.points.take_unwritten() {
            let text = format!("{}: its payload cannot be written: {why}", self.points.source(point));
            self.bridge.problem(&self.topics, &text, now, fx);
        }
    }
}

/// A rule may fire every second: what it says of itself must not crowd out readings while the broker is away.
fn ordinary(fx: &mut [Effect]) {
    if let Some(Effect::Send(out)) = fx.last_mut() {
        out.priority = Priority::Normal;
    }
}

fn message(topic: String, payload: String, qos: Qos, retain: bool) -> Effect {
    let lane = lane(&topic);
    let properties = Properties::default();
    let message = Message { topic, payload: payload.into_bytes(), qos, retain, properties };
    Effect::Send(Outgoing {
        reading: false,
        priority: Priority::Normal,
        lane,
        deliver: Deliver::All,
        expires: None,
        retain,
        taken: None,
        source: "rule".into(),
        record: Record::Message(Box::new(message)),
    })
}
