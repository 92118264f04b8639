//! Rules: when they fire and why. Pure; what they do is carried out by [`super::logic`], and every move of an output goes
//! the way of a command.
//!
//! A rule with `when` is a state: it begins when `when` has held for `for`, and ends when `until` holds (without one, when
//! `when` no longer does). Beginning runs `then`, ending `otherwise`; the first decision after the start counts as a turn,
//! so that outputs are put in order. What is not known decides nothing: the state stays, a waiting `for` begins anew.
//! A rule with `every` or `at` fires by the clock; its `when` is asked then and chooses the branch.
//!
//! Loops end: a rule that fires [`OFTEN`] times within [`SPAN`] rests for [`REST`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::config::scalar::Span;
use crate::expr::{Expression, Lookup, Template, Zone};
use crate::model::{DeviceId, Mono, Now, PointId, Qos, Value, Wall};

use super::schedule::{BACK, LATE, Schedule, next_of};

/// A rule that fires so often
pub const OFTEN: usize = 30;
/// within this time
pub const SPAN: Duration = Duration::from_secs(10);
/// rests for this.
pub const REST: Duration = Duration::from_secs(60);
/// The system's clock may be set at any time, and nobody says so: while a time of day is awaited it is looked at this
/// often.
const LOOK: Duration = Duration::from_secs(60);

/// A rule, complete.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// What makes it look.
    pub trigger: Trigger,
    /// What must hold.
    pub when: Option<Expression>,
    /// What ends it.
    pub until: Option<Expression>,
    /// How long `when` must hold.
    pub hold: Duration,
    /// What is done when it begins.
    pub then: Arc<[Step]>,
    /// What is done when it ends.
    pub otherwise: Arc<[Step]>,
}

/// What makes a rule look at its `when`.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// A change of what `when` reads.
    Change,
    /// The same time again and again, from the start.
    Every(Duration),
    /// Times of day.
    At(Vec<Schedule>),
}

/// One thing that a rule does.
#[derive(Debug, Clone)]
pub enum Step {
    /// A command, judged as any other.
    Wish {
        /// Whose.
        device: DeviceId,
        /// Which point, where it matters.
        point: Option<PointId>,
        /// What.
        verb: String,
        /// How much.
        value: Worth,
    },
    /// A message.
    Publish {
        /// Where.
        topic: Template,
        /// What.
        payload: Template,
        /// Delivery.
        qos: Qos,
        /// Whether the broker keeps it.
        retain: bool,
    },
    /// The next step waits.
    Delay(Duration),
}

/// The value of a wish.
#[derive(Debug, Clone)]
pub enum Worth {
    /// As it stands.
    Fixed(Value),
    /// Filled in when the rule fires.
    Filled(Template),
}

/// Which of its two lists a rule runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branch {
    /// `then`
    Then,
    /// `otherwise`
    Otherwise,
}

impl Branch {
    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Branch::Then => "then",
            Branch::Otherwise => "otherwise",
        }
    }
}

/// What came of looking at a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing is to be done.
    Quiet,
    /// This branch runs, for this reason.
    Fire(Branch, String),
    /// A time has come and nobody knows whether `when` holds.
    Undecided(String),
    /// It fires too often and rests now.
    Rests,
}

/// A rule and where it stands.
#[derive(Debug)]
pub struct Watch {
    /// The rule.
    pub rule: Rule,
    /// Whether it has begun; `None`: not decided yet.
    active: Option<bool>,
    /// Since when `when` holds, while `for` runs.
    holds_since: Option<Mono>,
    /// When time alone may change it, or its clock strikes.
    wake: Option<Mono>,
    /// The planned time of day.
    planned: Option<Wall>,
    /// The last time of day that was taken.
    struck: Option<Wall>,
    /// When the clock on the wall was last looked at.
    looked: Mono,
    /// When it fired, the last few times.
    fired: VecDeque<Mono>,
    rests_until: Option<Mono>,
}

impl Watch {
    /// A rule that has seen nothing yet; it looks at once.
    pub fn new(rule: Rule, now: Mono) -> Watch {
        let wake = match rule.trigger {
            Trigger::Every(every) => now.after(every),
            _ => now,
        };
        Watch {
            rule,
            active: None,
            holds_since: None,
            wake: Some(wake),
            planned: None,
            struck: None,
            looked: now,
            fired: VecDeque::new(),
            rests_until: None,
        }
    }

    /// When it wants to look again, whatever happens.
    pub fn next_wake(&self) -> Option<Mono> {
        self.wake
    }

    /// Whether a change of what it reads concerns it.
    pub fn heeds_changes(&self) -> bool {
        self.rule.trigger == Trigger::Change
    }

    /// Looks.
    pub fn look(&mut self, at: &dyn Lookup, name: &dyn Fn(PointId) -> String) -> Verdict {
        let now = at.now();
        if let Some(until) = self.rests_until {
            if now.mono < until {
                self.wake = Some(until);
                return Verdict::Quiet;
            }
            self.rests_until = None;
            self.fired.clear();
        }
        let verdict = match &self.rule.trigger {
            Trigger::Change => self.look_at_state(at, &now),
            Trigger::Every(every) => {
                let every = *every;
                if self.wake.is_some_and(|t| t > now.mono) {
                    return Verdict::Quiet;
                }
                // not one for each that was missed
                self.wake = Some(now.mono.after(every));
                self.strike(at, name, format!("every {}", Span(every)))
            }
            Trigger::At(_) => match self.time_has_come(&now, at.zone()) {
                Some(because) => self.strike(at, name, because),
                None => Verdict::Quiet,
            },
        };
        if matches!(verdict, Verdict::Fire(..)) {
            if self.fired.len() == OFTEN {
                self.fired.pop_front();
            }
            self.fired.push_back(now.mono);
            if self.fired.len() == OFTEN && self.fired.front().is_some_and(|first| now.mono.since(*first) < SPAN) {
                self.rests_until = Some(now.mono.after(REST));
                // what it would have done is decided anew after the rest
                self.active = None;
                self.wake = self.rests_until;
                return Verdict::Rests;
            }
        }
        verdict
    }

    fn look_at_state(&mut self, at: &dyn Lookup, now: &Now) -> Verdict {
        let Some(when) = self.rule.when.as_ref() else {
            self.wake = None;
            return Verdict::Quiet;
        };
        let holds = when.decide(at);
        let changes = |e: &Expression| e.changes_in(at).map(|d| now.mono.after(d));
        self.wake = changes(when).into_iter().chain(self.rule.until.as_ref().and_then(changes)).min();
        let ends = match &self.rule.until {
            Some(until) => until.decide(at) == Ok(true),
            None => holds == Ok(false),
        };
        if self.active == Some(true) {
            if !ends {
                return Verdict::Quiet;
            }
            self.active = Some(false);
            // with `until` both may hold: it does not begin again before `when` has failed
            let because = match &self.rule.until {
                Some(until) => until.text().to_owned(),
                None => format!("not ({})", when.text()),
            };
            self.holds_since = None;
            return Verdict::Fire(Branch::Otherwise, because);
        }
        match holds {
            Ok(true) if self.rule.until.is_some() && ends => {
                self.holds_since = None;
                Verdict::Quiet
            }
            Ok(true) => {
                let since = *self.holds_since.get_or_insert(now.mono);
                let begins = since.after(self.rule.hold);
                if now.mono < begins {
                    self.wake = self.wake.into_iter().chain([begins]).min();
                    return Verdict::Quiet;
                }
                self.active = Some(true);
                self.holds_since = None;
                let held = match self.rule.hold {
                    Duration::ZERO => String::new(),
                    hold => format!(" for {}", Span(hold)),
                };
                Verdict::Fire(Branch::Then, format!("{}{held}", when.text()))
            }
            Ok(false) => {
                self.holds_since = None;
                if self.active.is_none() && (self.rule.until.is_none() || ends) {
                    self.active = Some(false);
                    let because =
                        self.rule.until.as_ref().map_or_else(|| format!("not ({})", when.text()), |u| u.text().into());
                    return Verdict::Fire(Branch::Otherwise, because);
                }
                Verdict::Quiet
            }
            Err(_) => {
                self.holds_since = None;
                Verdict::Quiet
            }
        }
    }

    /// The clock has struck: `when` chooses the branch.
    fn strike(&mut self, at: &dyn Lookup, name: &dyn Fn(PointId) -> String, because: String) -> Verdict {
        let Some(when) = &self.rule.when else { return Verdict::Fire(Branch::Then, because) };
        match when.decide(at) {
            Ok(true) => Verdict::Fire(Branch::Then, format!("{because}, {}", when.text())),
            Ok(false) => Verdict::Fire(Branch::Otherwise, format!("{because}, not ({})", when.text())),
            Err(blank) => Verdict::Undecided(format!("{because}: {}", blank.say(name))),
        }
    }

    /// Whether a planned time of day is here, and which; plans the next one.
    fn time_has_come(&mut self, now: &Now, zone: &Zone) -> Option<String> {
        let Trigger::At(schedules) = &self.rule.trigger else { return None };
        self.wake = Some(now.mono.after(LOOK));
        let ago = now.mono.since(std::mem::replace(&mut self.looked, now.mono)).min(LATE);
        if !now.synced {
            self.planned = None;
            return None;
        }
        if self.planned.is_none() {
            // the clock was set since the last look: what has struck since counts
            self.planned = next_of(schedules, Wall(now.wall.0 - ago.as_millis() as i64), zone);
        }
        let gone = |t: Wall| Duration::from_millis(now.wall.0.saturating_sub(t.0).max(0) as u64);
        let mut came = None;
        if let Some(planned) = self.planned.filter(|t| *t <= now.wall) {
            // a time that lies far back was jumped over: it is not made up for
            if gone(planned) <= LATE {
                came = Some(planned);
            }
            self.struck = Some(planned);
        }
        // a clock that was put back a little does not bring a time again; one that was wrong by far begins anew
        let struck = self.struck.filter(|t| t.0.saturating_sub(now.wall.0) < BACK.as_millis() as i64);
        self.planned = next_of(schedules, struck.map_or(now.wall, |t| t.max(now.wall)), zone);
        if let Some(planned) = self.planned {
            let left = Duration::from_millis(planned.0.saturating_sub(now.wall.0).max(1) as u64);
            self.wake = Some(now.mono.after(left.min(LOOK)));
        }
        let came = came?;
        let due = |s: &&Schedule| s.next(Wall(came.0 - 1), zone) == Some(came);
        Some(format!("at {}", schedules.iter().find(due).map_or_else(String::new, ToString::to_string)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Scope, Seen};
    use jiff::tz::TimeZone;

    const T: PointId = PointId(0);

    struct World {
        t: Option<Value>,
        now: Now,
        zone: Zone,
    }

    impl Lookup for World {
        fn now(&self) -> Now {
            self.now
        }
        fn point(&self, _: PointId) -> Seen<'_> {
            match &self.t {
                Some(v) => Seen { value: Some(v), quality: "good", age: Some(Duration::ZERO) },
                None => Seen::UNKNOWN,
            }
        }
        fn zone(&self) -> &Zone {
            &self.zone
        }
    }

    struct Play {
        watch: Watch,
        world: World,
    }

    impl Play {
        fn new(trigger: Trigger, when: &str, until: Option<&str>, hold: u64) -> Play {
            let scope = Scope::new().device("t", [("state", T)]);
            let compile = |text: &str| Expression::compile(text, &scope).unwrap();
            let rule = Rule {
                name: "r".into(),
                trigger,
                when: (!when.is_empty()).then(|| compile(when)),
                until: until.map(compile),
                hold: Duration::from_secs(hold),
                then: [].into(),
                otherwise: [].into(),
            };
            let zone = Zone(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());
            let world = World { t: None, now: Now::default(), zone };
            Play { watch: Watch::new(rule, Mono::default()), world }
        }
        fn look(&mut self) -> &'static str {
            match self.watch.look(&self.world, &|_| "t".into()) {
                Verdict::Quiet => "-",
                Verdict::Fire(branch, _) => branch.word(),
                Verdict::Undecided(_) => "?",
                Verdict::Rests => "rests",
            }
        }
        fn at(&mut self, seconds: u64, t: impl Into<Option<f64>>) -> &'static str {
            self.world.now.mono = Mono(Duration::from_secs(seconds));
            self.world.t = t.into().map(Value::Number);
            self.look()
        }
        fn wall(&mut self, mono: u64, wall: &str) -> &'static str {
            let wall = Wall(wall.parse::<jiff::Timestamp>().unwrap().as_millisecond());
            self.world.now = Now { wall, mono: Mono(Duration::from_secs(mono)), synced: true };
            self.look()
        }
        fn wake(&self) -> u64 {
            self.watch.next_wake().map_or(0, |m| m.0.as_secs())
        }
    }

    #[test]
    fn it_begins_once_and_ends_once_and_what_is_not_known_decides_nothing() {
        let mut p = Play::new(Trigger::Change, "t > 5", None, 0);
        assert_eq!(p.at(0, None), "-");
        assert_eq!(p.at(1, 9.0), "then");
        assert_eq!(p.at(2, 9.0), "-");
        assert_eq!(p.at(3, None), "-");
        assert_eq!(p.at(4, 9.0), "-", "it had not ended");
        assert_eq!(p.at(5, 1.0), "otherwise");
        assert_eq!(p.at(6, None), "-");
        assert_eq!(p.at(7, 1.0), "-");
        assert_eq!(p.at(8, 6.0), "then");
    }

    #[test]
    fn the_first_decision_puts_things_in_order() {
        let mut p = Play::new(Trigger::Change, "t > 5", None, 0);
        assert_eq!(p.at(0, 1.0), "otherwise");
    }

    #[test]
    fn it_must_hold_without_a_break() {
        let mut p = Play::new(Trigger::Change, "t > 5", None, 10);
        p.at(0, 1.0);
        assert_eq!(p.at(1, 9.0), "-");
        assert_eq!(p.wake(), 11);
        assert_eq!(p.at(5, 1.0), "-");
        assert_eq!(p.at(6, 9.0), "-");
        assert_eq!(p.at(11, 9.0), "-");
        assert_eq!(p.at(12, None), "-", "not known: the wait begins anew");
        assert_eq!(p.at(13, 9.0), "-");
        assert_eq!(p.at(22, 9.0), "-");
        assert_eq!(p.at(23, 9.0), "then");
    }

    #[test]
    fn hysteresis_holds_between_when_and_until() {
        let mut p = Play::new(Trigger::Change, "t > 25", Some("t < 23"), 0);
        assert_eq!(p.at(0, 24.0), "-", "between the two nothing is decided");
        assert_eq!(p.at(1, 26.0), "then");
        assert_eq!(p.at(2, 24.0), "-");
        assert_eq!(p.at(3, 22.0), "otherwise");
        assert_eq!(p.at(4, 24.0), "-");
        assert_eq!(p.at(5, 25.5), "then");
    }

    #[test]
    fn every_goes_by_the_clock_that_never_jumps_and_misses_no_beat_twice() {
        let mut p = Play::new(Trigger::Every(Duration::from_secs(60)), "", None, 0);
        assert_eq!((p.look(), p.wake()), ("-", 60));
        assert_eq!(p.at(60, None), "then");
        assert_eq!((p.at(400, None), p.wake()), ("then", 460));
    }

    #[test]
    fn a_schedule_asks_when_and_says_that_it_does_not_know() {
        let mut p = Play::new(Trigger::Every(Duration::from_secs(60)), "t > 5", None, 0);
        assert_eq!(p.at(60, 9.0), "then");
        assert_eq!(p.at(120, 1.0), "otherwise");
        assert_eq!(p.at(180, None), "?");
    }

    fn half_past_seven() -> Play {
        Play::new(Trigger::At(vec![Schedule::parse("07:30").unwrap()]), "", None, 0)
    }

    #[test]
    fn a_time_of_day_waits_for_the_clock_to_be_set() {
        let mut p = half_past_seven();
        assert_eq!(p.look(), "-");
        assert_eq!(p.wake(), 60, "it looks whether the clock was set");
        assert_eq!(p.wall(60, "2026-11-20T06:29:30Z"), "-");
        assert_eq!(p.wake(), 90);
        assert_eq!(p.wall(90, "2026-11-20T06:30:00Z"), "then");
        assert_eq!(p.wall(91, "2026-11-20T06:30:01Z"), "-");
    }

    #[test]
    fn a_clock_that_is_set_skips_no_time_nearby_makes_up_for_none_far_back_and_brings_none_twice() {
        let mut p = half_past_seven();
        assert_eq!(p.wall(0, "2026-11-20T06:29:00Z"), "-");
        assert_eq!(p.wall(1, "2026-11-20T06:30:40Z"), "then", "set forward over it by seconds");
        assert_eq!(p.wall(2, "2026-11-20T06:29:50Z"), "-");
        assert_eq!(p.wall(13, "2026-11-20T06:30:01Z"), "-", "set back, it does not come twice");
        assert_eq!(p.wall(20, "2026-11-21T12:00:00Z"), "-", "set forward by a day: old news");
        assert_eq!(p.wall(80, "2026-11-22T06:30:00Z"), "then");
        assert_eq!(p.wall(81, "2026-01-01T06:29:59Z"), "-", "it was wrong by far");
        assert_eq!(p.wall(82, "2026-01-01T06:30:00Z"), "then");
    }

    #[test]
    fn a_rule_that_fires_again_and_again_rests() {
        let mut p = Play::new(Trigger::Change, "t > 5", None, 0);
        let mut fired = 0;
        for i in 0..100 {
            match p.at(1, if i % 2 == 0 { 9.0 } else { 1.0 }) {
                "then" | "otherwise" => fired += 1,
                "rests" => break,
                _ => {}
            }
        }
        assert_eq!(fired, OFTEN - 1);
        assert_eq!((p.at(2, 9.0), p.wake()), ("-", 61));
        assert_eq!(p.at(61, 9.0), "then", "and goes on after its rest");
    }
}
