//! Random histories against an independent judge: commands, writes that take time or fail, a broker that comes and
//! goes, requirements, crashes with and without their memory, restarts in order, power cuts, a clock that is stepped. The
//! judge sees nothing but the pins.

use super::*;
use proptest::prelude::*;

/// Longest way from an order to the pin, and from the pin to the answer, in milliseconds.
const WAY: u64 = 20;

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Wish(usize, u8),
    Broker(bool),
    Requires(usize, bool),
    /// The process dies: whether somebody calls `safe-state`, and how many of the last notes did not reach the disk.
    Crash(bool, usize),
    /// The power fails: pins go off, another boot.
    PowerCut(usize),
    /// A stop in order, and a start; whether the machine was started anew in between.
    Restart(bool),
    Clock(i64, bool),
    Fails(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..700).prop_map(Step::Wait),
        12 => (0usize..6, 0u8..9).prop_map(|(d, w)| Step::Wish(d, w)),
        1 => any::<bool>().prop_map(Step::Broker),
        1 => (0usize..6, any::<bool>()).prop_map(|(d, b)| Step::Requires(d, b)),
        1 => (any::<bool>(), 0usize..3).prop_map(|(s, n)| Step::Crash(s, n)),
        1 => (0usize..3).prop_map(Step::PowerCut),
        1 => any::<bool>().prop_map(Step::Restart),
        1 => (-100_000_000i64..100_000_000, any::<bool>()).prop_map(|(d, s)| Step::Clock(d, s)),
        1 => any::<bool>().prop_map(Step::Fails),
    ]
}

fn house() -> Vec<DeviceSpec> {
    let base = OutputLimits { on_stop: Some(OFF), ..Default::default() };
    let group = OutputLimits { interlock: Some("g".into()), dead_time: ms(300), ..base.clone() };
    let duty = Scale::Duty { min: 20.0, max: 80.0 };
    [
        OutputLimits { max_on: Some(ms(1000)), ..group.clone() },
        OutputLimits { dead_time: ms(150), restore: true, ..group.clone() },
        OutputLimits { min_off: ms(200), max_on: Some(ms(900)), restore: true, on_stop: None, ..group },
        OutputLimits { min_on: ms(200), min_off: ms(400), max_on: Some(ms(1500)), restore: true, ..base.clone() },
        OutputLimits { scale: duty, max_on: Some(ms(800)), restore: true, on_stop: None, ..base.clone() },
        OutputLimits {
            min_off: ms(250),
            requires: Some("lid".into()),
            on_broker_loss: Some((ms(500), Some(ON))),
            auto_off: Some(ms(700)),
            ..base
        },
    ]
    .into_iter()
    .enumerate()
    .map(|(i, limits)| device(i as u32, limits))
    .collect()
}

/// What happened at a pin, and what the judge has to know of it.
#[derive(Debug, Clone, Copy)]
struct Moved {
    at: u64,
    pin: usize,
    to: Setting,
    /// Whether somebody wished it: only then `min_on` is asked.
    wished: bool,
}

enum Job {
    /// An order reaches its pin.
    Write(usize, Write, bool),
    /// Its answer reaches the engine.
    Answer(usize, Option<Setting>),
    /// A fade has come to its end.
    Faded(usize, Setting),
    /// The device tells by itself where it stands.
    Seen(usize, Setting),
}

struct World {
    list: Vec<DeviceSpec>,
    t: u64,
    boot: (u32, u64),
    wall: i64,
    synced: bool,
    fails: bool,
    random: u64,
    pins: Vec<Setting>,
    trace: Vec<Moved>,
    /// When nobody was there to act.
    down: Vec<(u64, u64)>,
    disk: BTreeMap<String, Json>,
    older: Vec<BTreeMap<String, Json>>,
    o: Outputs,
    began: u64,
    jobs: Vec<(u64, u64, Job)>,
    count: u64,
}

impl World {
    fn new() -> World {
        let list = house();
        let mut world = World {
            o: outputs(&list),
            pins: vec![OFF; list.len()],
            list,
            t: 5000,
            boot: (1, 0),
            wall: 0,
            synced: true,
            fails: false,
            random: 7,
            trace: Vec::new(),
            down: Vec::new(),
            disk: BTreeMap::new(),
            older: Vec::new(),
            began: 5000,
            jobs: Vec::new(),
            count: 0,
        };
        world.start(false);
        world
    }
    fn now(&self) -> Now {
        let wall = Wall(1_800_000_000_000 + self.t as i64 + self.wall);
        Now { wall, mono: Mono(ms(self.t - self.began)), synced: self.synced }
    }
    fn way(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 40) % WAY
    }
    fn job(&mut self, after: u64, job: Job) {
        self.count += 1;
        self.jobs.push((self.t + after, self.count, job));
    }
    fn moves(&mut self, pin: usize, to: Setting, wished: bool) {
        if self.pins[pin] != to {
            self.pins[pin] = to;
            self.trace.push(Moved { at: self.t, pin, to, wished });
        }
    }
    fn order(&mut self, pin: usize, write: Write, wished: bool) {
        // orders of one device keep their order
        let last =
            self.jobs.iter().filter(|(.., j)| matches!(j, Job::Write(p, ..) if *p == pin)).map(|(t, ..)| *t).max();
        let at = (self.t + self.way()).max(last.unwrap_or(0));
        self.job(at - self.t, Job::Write(pin, write, wished));
    }
    fn forced(&mut self, forced: Vec<Forced>) {
        for f in forced {
            self.order(f.device.0 as usize, Write { to: f.to, over: Duration::ZERO }, false);
        }
        for (key, value) in self.o.take_notes() {
            self.older.push(self.disk.clone());
            match value {
                Some(value) => drop(self.disk.insert(key, value)),
                None => drop(self.disk.remove(&key)),
            }
        }
        self.o.take_told();
    }
    fn start(&mut self, abnormal: bool) {
        self.began = self.t;
        self.jobs.clear();
        let boot = Boot { id: format!("boot{}", self.boot.0), offset: ms(self.t - self.boot.1) };
        self.o = Outputs::new(&self.list, &self.disk, boot, abnormal, &self.now());
        self.o.broker(true, self.now().mono);
        self.forced(vec![]);
        for pin in 0..self.list.len() {
            let to = match self.o.begin(DeviceId(pin as u32), abnormal, false) {
                Begin::At(to) => to,
                _ => OFF,
            };
            self.moves(pin, to, false);
            let way = self.way();
            self.job(way, Job::Seen(pin, to));
            let holds = self.o.requirement(DeviceId(pin as u32), Ok(()), &self.now());
            self.forced(holds);
        }
    }
    fn run(&mut self, until: u64) {
        for turn in 0.. {
            assert!(turn < 10_000, "it wants to be woken for ever at {}: {:?}", self.t, self.o.next_wake());
            let job = self.jobs.iter().enumerate().min_by_key(|(_, (t, n, _))| (*t, *n)).map(|(i, (t, ..))| (i, *t));
            let wake = self.o.next_wake().map(|w| self.began + w.0.as_millis() as u64);
            match (job, wake) {
                (Some((i, t)), wake) if t <= until && wake.is_none_or(|w| t <= w) => {
                    self.t = self.t.max(t);
                    let (.., job) = self.jobs.remove(i);
                    self.act(job);
                }
                (_, Some(w)) if w <= until => {
                    self.t = self.t.max(w);
                    let forced = self.o.due(&self.now());
                    self.forced(forced);
                }
                _ => break,
            }
        }
        self.t = until;
    }
    fn act(&mut self, job: Job) {
        let way = self.way();
        match job {
            Job::Write(pin, write, wished) => {
                if self.fails && self.way() < WAY / 2 {
                    return self.job(way, Job::Answer(pin, None));
                }
                self.jobs.retain(|(.., j)| !matches!(j, Job::Faded(p, _) if *p == pin));
                let first = match (write.over.is_zero(), self.pins[pin], write.to) {
                    (true, _, to) => to,
                    (_, Setting::On(n), _) => Setting::On(n),
                    (_, Setting::Off, Setting::On(_)) => Setting::On(20.0),
                    (_, Setting::Off, Setting::Off) => OFF,
                };
                self.moves(pin, first, wished);
                self.job(way, Job::Answer(pin, Some(first)));
                if !write.over.is_zero() {
                    self.job(write.over.as_millis() as u64, Job::Faded(pin, write.to));
                }
            }
            Job::Answer(pin, read) => {
                let forced = self.o.settled(DeviceId(pin as u32), read, &self.now());
                self.forced(forced);
            }
            Job::Faded(pin, to) => {
                // the wish was judged when it came
                self.moves(pin, to, false);
                self.job(way, Job::Seen(pin, to));
            }
            Job::Seen(pin, to) => {
                let forced = self.o.seen(DeviceId(pin as u32), to, &self.now());
                self.forced(forced);
            }
        }
    }
    fn die(&mut self, lost: usize, away: u64) {
        for _ in 0..lost {
            self.disk = self.older.pop().unwrap_or_else(|| self.disk.clone());
        }
        self.jobs.clear();
        self.down.push((self.t, self.t + away));
        self.t += away;
    }
    fn step(&mut self, step: Step) {
        match step {
            Step::Wait(d) => self.run(self.t + d),
            Step::Wish(pin, what) => {
                let duty = pin == 4;
                let wish = match what {
                    0 | 1 => Wish::On,
                    2 => Wish::Be(OFF),
                    3 => Wish::Toggle,
                    4 => Wish::Pulse(ms(250)),
                    5 => Wish::Blink(Blink { on: ms(210), off: ms(410), times: Some(3) }),
                    6 if duty => Wish::Fade { to: Setting::On(60.0), over: ms(300) },
                    7 if duty => Wish::Fade { to: OFF, over: ms(300) },
                    8 if duty => Wish::Be(Setting::On(33.0)),
                    _ => Wish::Pulse(ms(700)),
                };
                if let Verdict::Write(write) = self.o.wish(DeviceId(pin as u32), wish, &self.now()) {
                    self.order(pin, write, true);
                }
                self.forced(vec![]);
            }
            Step::Broker(up) => self.o.broker(up, self.now().mono),
            Step::Requires(pin, holds) => {
                let holds = if holds { Ok(()) } else { Err("no".into()) };
                let forced = self.o.requirement(DeviceId(pin as u32), holds, &self.now());
                self.forced(forced);
            }
            Step::Crash(safe_state, lost) => {
                self.die(lost, 150);
                for pin in 0..self.pins.len() {
                    if safe_state {
                        self.moves(pin, OFF, false);
                    }
                }
                self.start(true);
            }
            Step::PowerCut(lost) => {
                self.die(lost, 0);
                for pin in 0..self.pins.len() {
                    self.moves(pin, OFF, false);
                }
                self.t += 100;
                self.boot = (self.boot.0 + 1, self.t);
                self.t += 50;
                self.start(true);
            }
            Step::Restart(reboot) => {
                let forced = self.o.stop(&[], &self.now());
                self.forced(forced);
                // the daemon waits for the answers
                self.run(self.t + 3 * WAY);
                self.die(0, 100);
                if reboot {
                    for pin in 0..self.pins.len() {
                        self.moves(pin, OFF, false);
                    }
                    self.boot = (self.boot.0 + 1, self.t);
                    self.t += 30;
                }
                self.start(false);
            }
            Step::Clock(by, synced) => {
                // a clock that is believed is right; one that is not may be anything
                self.synced = synced;
                self.wall = if synced { 0 } else { by };
            }
            Step::Fails(fails) => self.fails = fails,
        }
    }
}

/// What the pins have done, against what was declared. Knows nothing of the engine.
fn judge(list: &[DeviceSpec], trace: &[Moved], down: &[(u64, u64)], failures: bool, end: u64) -> Result<(), String> {
    let limits: Vec<&OutputLimits> = list.iter().map(|d| d.output.as_ref().unwrap()).collect();
    let mut on: Vec<Option<u64>> = vec![None; list.len()];
    let mut off: Vec<Option<u64>> = vec![None; list.len()];
    let away = |t: u64| down.iter().find(|(from, to)| (*from..=*to).contains(&t)).map(|(_, to)| *to);
    let too_long = |pin: usize, from: u64, to: u64| {
        let max = limits[pin].max_on?.as_millis() as u64;
        // who was dead at the time must act as soon as it lives again; a write that fails is tried again
        let mut last = from + max + 2 * WAY;
        while let Some(until) = away(last) {
            last = until + 1;
        }
        (to > last && !failures).then(|| format!("pin {pin} was on from {from} to {to}, max_on {max}"))
    };
    for m in trace {
        let (pin, l) = (m.pin, limits[m.pin]);
        match (m.to.is_on(), on[pin]) {
            (true, None) => {
                for other in (0..list.len()).filter(|o| *o != pin && l.interlock.is_some()) {
                    if limits[other].interlock != l.interlock {
                        continue;
                    }
                    if on[other].is_some() {
                        return Err(format!("{pin} and {other} were on at {}", m.at));
                    }
                    let dead = l.dead_time.max(limits[other].dead_time).as_millis() as u64;
                    if off[other].is_some_and(|t| m.at - t < dead) {
                        return Err(format!("{pin} went on at {}, {other} off at {:?}", m.at, off[other]));
                    }
                }
                let min = l.min_off.as_millis() as u64;
                if off[pin].is_some_and(|t| m.at - t < min) {
                    return Err(format!("{pin} went on at {} and off at {:?}, min_off {min}", m.at, off[pin]));
                }
                on[pin] = Some(m.at);
            }
            (false, Some(from)) => {
                if let Some(why) = too_long(pin, from, m.at) {
                    return Err(why);
                }
                if m.wished && m.at - from < l.min_on.as_millis() as u64 {
                    return Err(format!("{pin} was on from {from} to {} only", m.at));
                }
                (on[pin], off[pin]) = (None, Some(m.at));
            }
            _ => {}
        }
    }
    for (pin, from) in on.iter().enumerate() {
        if let Some(why) = from.and_then(|from| too_long(pin, from, end)) {
            return Err(why);
        }
    }
    Ok(())
}

/// How many; more with `PINPOST_HISTORIES`.
fn histories() -> u32 {
    std::env::var("PINPOST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), ..ProptestConfig::default() })]
    #[test]
    fn no_history_breaks_a_limit_at_the_pin(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        let failures = steps.iter().any(|s| matches!(s, Step::Fails(true)));
        for step in steps {
            world.step(step);
        }
        world.run(world.t + 3000);
        let verdict = judge(&world.list, &world.trace, &world.down, failures, world.t);
        prop_assert!(verdict.is_ok(), "{:?}\n{:#?}", verdict, world.trace);
    }
}

#[test]
fn the_judge_sees_what_is_wrong() {
    let list = house();
    let on = |at, pin| Moved { at, pin, to: ON, wished: true };
    let off = |at, pin| Moved { at, pin, to: OFF, wished: true };
    for (trace, why) in [
        (vec![on(0, 0), on(10, 1)], "were on"),
        (vec![on(0, 0), off(10, 0), on(200, 1)], "off at"),
        (vec![on(0, 3), off(300, 3), on(600, 3)], "min_off"),
        (vec![on(0, 3), off(100, 3)], "only"),
        (vec![on(0, 0), off(1100, 0)], "max_on"),
        (vec![on(0, 0)], "max_on"),
    ] {
        assert!(judge(&list, &trace, &[], false, 5000).unwrap_err().contains(why), "{why}");
    }
    let good = vec![on(0, 0), off(900, 0), on(1300, 1), off(1500, 1)];
    assert_eq!(judge(&list, &good, &[], false, 5000), Ok(()));
}
