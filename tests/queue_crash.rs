//! POWER CUTS BY THE MILLION: the real queue on a simulated strict file system, cut at a random operation, several
//! times in a row, against an oracle. Twelve planted bugs prove that the oracle sees.
//!
//! A *crash state* is what a disk holds after a cut: one choice of what survived. From each cut several are drawn; a
//! queue is opened on each and must deliver everything that was promised, in order, and one of them lives on.
//! `QUEUE_CRASH_STATES` is their number (default 12,000), `QUEUE_CRASH_SEED` the first history's seed.

#[path = "support/queue_sim.rs"]
mod queue_sim;

#[path = "support/queue_faults.rs"]
mod queue_faults;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use pinpost::queue::{Bug, Entry, Faults, Inspector, Job, Keep, Limits, Options, Order, Queue, Stamp, Sync, WhenFull};
use queue_sim::{Fs, Rng, SimDisk};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// `QUEUE_CRASH_TRACE` prints what happens; with `QUEUE_CRASH_STATES=1` of the history `QUEUE_CRASH_SEED` only.
fn trace(what: impl FnOnce() -> String) {
    static ON: LazyLock<bool> = LazyLock::new(|| std::env::var("QUEUE_CRASH_TRACE").is_ok());
    if *ON {
        println!("{}", what());
    }
}

/// Lanes from here on keep only their latest.
const LATEST: u64 = 100;

/// States drawn from a cut beside the one that lives on.
const PROBES: u64 = 3;

/// Counts different states: a set of bits, so that memory is bounded. Where two share one, one is not counted.
struct Distinct {
    bits: Vec<AtomicU64>,
    count: AtomicU64,
}

impl Distinct {
    fn new(states: u64) -> Distinct {
        let bits = (states * 64).next_power_of_two().clamp(1 << 12, 1 << 32);
        Distinct { bits: (0..bits / 64).map(|_| AtomicU64::new(0)).collect(), count: AtomicU64::new(0) }
    }

    fn add(&self, digest: u64) {
        let bit = digest % (self.bits.len() as u64 * 64);
        let before = self.bits[(bit / 64) as usize].fetch_or(1 << (bit % 64), Ordering::Relaxed);
        self.count.fetch_add(u64::from(before >> (bit % 64) & 1 == 0), Ordering::Relaxed);
    }
}

/// What the world knows, whatever the queue believes.
#[derive(Clone, Default)]
struct World {
    /// Every reading ever taken in: its rank, lane and body.
    all: BTreeMap<u64, (u8, u64, Arc<[u8]>)>,
    /// Promised: taken in and on disk, and neither delivered nor reported lost.
    owed: BTreeSet<u64>,
    /// Only in this life's memory.
    young: BTreeSet<u64>,
    /// Acknowledged by the broker in this life.
    delivered: BTreeSet<u64>,
    /// Acknowledged, and the state on disk knew of it.
    over: BTreeSet<u64>,
    /// Of the lanes that keep only their latest: the last promised, the last taken in, the last acknowledged.
    latest: BTreeMap<u64, [u64; 3]>,
    highest: u64,
    /// The order in which they came.
    came: BTreeMap<u64, usize>,
}

struct Plan {
    options: Options,
    drops: bool,
    tear: u64,
    /// Whether each life looks at what it leaves on the disk, else one in three: the only way to see a kept tail.
    examine: bool,
}

fn plan(rng: &mut Rng, bug: Option<Bug>) -> Plan {
    let mut options = Options::new("sim");
    let small = rng.one_in(4);
    options.limits = Limits {
        max_bytes: if small { 30_000 } else { 1 << 30 },
        max_age: Duration::from_secs(1_000_000),
        when_full: if rng.one_in(2) { WhenFull::DropOldest } else { WhenFull::DropNewest },
    };
    options.segment = [700, 1500, 3000, 9000][rng.below(4) as usize];
    options.memory = 6000 + rng.below(3) * 20_000;
    options.sync = if rng.one_in(3) { Sync::Always } else { Sync::Within(Duration::from_secs(1)) };
    options.replay.order = if rng.one_in(2) { Order::LiveFirst } else { Order::BacklogFirst };
    options.faults = bug.map(Faults::plant).unwrap_or_default();
    let tear = if rng.one_in(3) { 6 } else { 0 };
    let examine = bug == Some(Bug::TailKept);
    Plan { drops: small || options.memory < 10_000 || tear > 0, options, tear, examine }
}

/// One history: up to four lives that end in a power cut, and one that ends well. Gives the number of crash states.
fn history(seed: u64, bug: Option<Bug>, distinct: &Distinct) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let plan = plan(&mut rng, bug);
    let mut world = World::default();
    let mut fs = Fs::new(rng.next());
    let lives = 1 + rng.below(4);
    let mut states = 0;
    for life in 0..=lives {
        let last = life == lives;
        fs.crash_at = if last { u64::MAX } else { 1 + rng.below(100) };
        fs.sync_fails = if last { 0 } else { plan.tear };
        let disk = SimDisk::new(fs);
        let outcome = live(&disk, &mut world, &mut rng, &plan, life, last);
        outcome.map_err(|e| format!("seed {seed}, life {life}: {e}"))?;
        // Now and then only the process dies: what was not synced is still there, and still not synced.
        let killed = rng.one_in(4) && !disk.fs().crashed;
        fs = if killed { disk.fs().after_kill() } else { disk.fs().after_crash(&mut rng) };
        trace(|| format!("life {life} is over, killed {killed}; owed {:?}, files {:?}", world.owed, fs.names()));
        // What only memory had was never promised.
        world.young.clear();
        world.latest.values_mut().for_each(|last| last[1] = 0);
        world.delivered.clear();
        if last || killed {
            continue;
        }
        let mut seen = BTreeSet::from([fs.digest()]);
        distinct.add(fs.digest());
        states += 1;
        for probe in 0..if plan.examine { 0 } else { PROBES } {
            let state = disk.fs().after_crash(&mut rng);
            // The same choice once more is no other state.
            if !seen.insert(state.digest()) {
                continue;
            }
            distinct.add(state.digest());
            states += 1;
            let mut world = world.clone();
            let outcome = revive(&SimDisk::new(state), &mut world, &plan, life + 1);
            outcome.map_err(|e| format!("seed {seed}, state {probe} after life {life}: {e}"))?;
        }
    }
    Ok(states)
}

struct Life<'a> {
    q: Queue,
    world: &'a mut World,
    now: Duration,
    /// Sent and not acknowledged: token, seq.
    flying: Vec<(u64, u64)>,
    /// The last seq of a rank and lane in this connection, live and replayed apart unless the backlog goes first.
    last: BTreeMap<(u8, u64, bool), u64>,
    apart: bool,
    drops: bool,
}

impl Life<'_> {
    fn append(&mut self, rng: &mut Rng) -> Result<(), String> {
        let (rank, lane) = (1 + (rng.one_in(5)) as u8, rng.below(3));
        let mut body = rng.next().to_le_bytes().repeat(1 + rng.below(30) as usize);
        if rng.one_in(20) {
            body.resize(1200, 0x5a);
        }
        let keep = if rng.one_in(4) { Keep::Latest } else { Keep::All };
        let lane = if keep == Keep::Latest { lane + LATEST } else { lane };
        let rank = if keep == Keep::Latest { 1 } else { rank };
        let source = format!("s{lane}");
        let entry = Entry { reading: true, rank, lane, keep, source, body: body.clone(), ..Entry::default() };
        let seq = self.q.append(entry, self.now).ok_or("a reading got no number")?;
        // Without a disk numbers come from the clock; else they rise.
        let (low, high) = (self.world.highest, 1_000_000_000_000_000);
        if self.world.all.contains_key(&seq) || (seq <= low && low < high) {
            return Err(format!("number {seq} was used before (up to {low})"));
        }
        self.world.highest = self.world.highest.max(seq);
        self.world.came.insert(seq, self.world.came.len());
        self.world.all.insert(seq, (rank, lane, body.into()));
        if keep == Keep::Latest {
            self.world.latest.entry(lane).or_default()[1] = seq;
        } else {
            self.world.young.insert(seq);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<bool, String> {
        let Some(out) = self.q.take(self.now) else { return Ok(false) };
        let seq = out.seq.ok_or("a reading lost its number")?;
        let (rank, lane, body) = self.world.all.get(&seq).ok_or_else(|| format!("nobody appended {seq}"))?;
        if **body != *out.body {
            return Err(format!("the body of {seq} has changed"));
        }
        if self.world.over.contains(&seq) {
            return Err(format!("{seq} comes again although it was known to be delivered"));
        }
        let before = self.last.insert((*rank, *lane, self.apart && out.replayed), seq);
        if before.is_some_and(|b| self.world.came.get(&b) >= self.world.came.get(&seq)) {
            return Err(format!("{seq} comes after {before:?} in its lane"));
        }
        self.flying.push((out.token, seq));
        Ok(true)
    }

    fn ack(&mut self, i: usize) {
        let (token, seq) = self.flying.remove(i);
        self.q.done(token);
        self.world.delivered.insert(seq);
        self.world.owed.remove(&seq);
        self.world.young.remove(&seq);
        if let Some(lane) = self.world.all.get(&seq).map(|r| r.1).filter(|l| *l >= LATEST) {
            let known = &mut self.world.latest.entry(lane).or_default()[2];
            *known = (*known).max(seq);
        }
    }

    fn down(&mut self) {
        self.q.link_down();
        self.flying.clear();
        self.last.clear();
    }

    /// After a job: what is no longer only in memory is promised. After each step: what is reported lost is not.
    fn note(&mut self, worked: bool) -> Result<(), String> {
        for gap in self.q.take_gaps() {
            trace(|| format!("   {gap:?}"));
            // A torn tail may be called corrupt, but nothing that was promised may be in there.
            if gap.reason == "corrupt" {
                continue;
            }
            if !self.drops {
                return Err(format!("{gap:?} though there was room"));
            }
            self.world.owed.retain(|s| !(gap.from..=gap.to).contains(s));
            self.world.young.retain(|s| !(gap.from..=gap.to).contains(s));
            // One that replaced an older one and was then dropped has taken that one with it.
            for (seq, (_, lane, _)) in self.world.all.range(gap.from..=gap.to) {
                if let Some(last) = self.world.latest.get_mut(lane)
                    && *seq >= last[0]
                {
                    last[0] = 0;
                    last[1] = if last[1] == *seq { 0 } else { last[1] };
                }
            }
        }
        if worked {
            let stats = self.q.stats();
            if !stats.balance() {
                return Err(format!("the books do not balance: {stats:?}"));
            }
            let memory: BTreeSet<u64> = self.q.in_memory().filter_map(|k| k.seq).collect();
            let safe: Vec<u64> = self.world.young.iter().filter(|s| !memory.contains(s)).copied().collect();
            for seq in safe {
                self.world.young.remove(&seq);
                self.world.owed.insert(seq);
            }
            for last in self.world.latest.values_mut() {
                if last[1] > 0 && !memory.contains(&last[1]) {
                    last[0] = last[1];
                }
            }
        }
        Ok(())
    }
}

fn bad_bytes(disk: &SimDisk) -> Result<u64, String> {
    let copy = SimDisk::new(disk.fs().clone());
    copy.fs().crash_at = u64::MAX;
    let mut inspector = Inspector::on(Box::new(copy)).map_err(|e| e.to_string())?;
    while inspector.next().is_some() {}
    Ok(inspector.bad_bytes)
}

fn clock(life: u64, synced: bool) -> Stamp {
    let wall = 1_700_000_000_000 + life as i64 * 1_000_000;
    Stamp { wall, mono: life * 1_000_000, boot: 1 + life / 2, synced }
}

/// Opens a queue on what a cut has left and lets it deliver.
fn revive(disk: &SimDisk, world: &mut World, plan: &Plan, life: u64) -> Result<(), String> {
    let options = Options { clock: clock(life, true), ..plan.options.clone() };
    let (q, mut log) = Queue::open_on(Box::new(disk.clone()), options, Duration::ZERO).map_err(|e| e.to_string())?;
    let (flying, last, now) = (Vec::new(), BTreeMap::new(), Duration::ZERO);
    finale(Life { q, world, now, flying, last, apart: false, drops: plan.drops }, &mut log)
}

fn live(disk: &SimDisk, world: &mut World, rng: &mut Rng, plan: &Plan, life: u64, last: bool) -> Result<(), String> {
    let options = Options { clock: clock(life, rng.one_in(2)), ..plan.options.clone() };
    // No backlog of a lane is long here: nothing passes anything of its lane.
    let apart = false;
    let (q, mut log) = Queue::open_on(Box::new(disk.clone()), options, Duration::ZERO).map_err(|e| e.to_string())?;
    if disk.fs().crashed {
        return Ok(());
    }
    let mut l =
        Life { q, world, now: Duration::ZERO, flying: Vec::new(), last: BTreeMap::new(), apart, drops: plan.drops };
    let examine = rng.one_in(3) || plan.examine;
    let bad_at_start = if examine { bad_bytes(disk)? } else { 0 };
    let lazy = rng.one_in(2);
    let mut worked = false;
    for _ in 0..60 + rng.below(100) {
        match rng.below(12) {
            0..=3 => l.append(rng)?,
            4 => l.now += Duration::from_millis(rng.below(1500)),
            5 if rng.one_in(3) => l.q.link_up(),
            6 if rng.one_in(4) => l.down(),
            5..=7 => drop(l.take()?),
            8 | 9 if !l.flying.is_empty() => {
                let i = if lazy { rng.below(l.flying.len() as u64) as usize } else { 0 };
                l.ack(i);
            }
            _ => {
                let Some(job) = l.q.next_job(l.now) else { continue };
                if job == Job::Recover {
                    // A backlog that is found only now cannot have come first.
                    l.last.clear();
                }
                let known = matches!(job, Job::Save(_)).then(|| l.world.delivered.clone());
                trace(|| format!("{:?} {job:?}", l.now));
                let done = log.run(job);
                trace(|| format!("   {done:?}"));
                if disk.fs().crashed {
                    return Ok(());
                }
                l.q.finished(done, l.now);
                worked = true;
                if let Some(known) = known
                    && l.q.stats().disk == pinpost::queue::DiskState::Durable
                {
                    l.world.over.extend(known);
                }
            }
        }
        l.note(std::mem::take(&mut worked))?;
        if rng.one_in(400) {
            return Ok(());
        }
    }
    if examine && bad_bytes(disk)? > bad_at_start {
        return Err("what a torn write left was not cleared away before writing on".into());
    }
    if !last {
        return Ok(());
    }
    finale(l, &mut log)
}

/// Everything that is owed must come now, and nothing may be left.
fn finale(mut l: Life, log: &mut pinpost::queue::Log) -> Result<(), String> {
    l.down();
    l.q.link_up();
    for _ in 0..20_000 {
        l.now += Duration::from_millis(100);
        while let Some(job) = l.q.next_job(l.now) {
            let done = log.run(job);
            l.q.finished(done, l.now);
        }
        l.note(true)?;
        while l.take()? {}
        while !l.flying.is_empty() {
            l.ack(0);
        }
        l.note(true)?;
        if l.q.stats().waiting == 0 {
            break;
        }
    }
    let left: Vec<u64> = l.world.owed.iter().copied().take(5).collect();
    if !left.is_empty() {
        return Err(format!("lost: {left:?} and {} in all; {:?}", l.world.owed.len(), l.q.stats()));
    }
    if let Some(lane) = l.world.latest.iter().find(|(_, last)| last[2] < last[0].max(last[1])) {
        return Err(format!("the latest of a lane is lost (promised, came, delivered): {lane:?}"));
    }
    if !l.world.young.is_empty() {
        return Err(format!("forgotten without a crash: {:?}", l.world.young));
    }
    match l.q.stats().waiting {
        0 => Ok(()),
        n => Err(format!("{n} records wait for ever")),
    }
}

#[test]
fn no_power_cut_loses_reorders_or_renumbers_what_was_accepted() {
    let (want, first) = (env("QUEUE_CRASH_STATES", 12_000), env("QUEUE_CRASH_SEED", 1));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(want);
    let began = Instant::now();
    let distinct = Distinct::new(want);
    let work = |t: u64| {
        let (mut states, mut seed) = (0, first + t);
        while states < want.div_ceil(threads) {
            states += history(seed, None, &distinct).unwrap_or_else(|e| panic!("{e}"));
            seed += threads;
        }
        states
    };
    let states: u64 = std::thread::scope(|s| {
        let all: Vec<_> = (0..threads).map(|t| s.spawn(move || work(t))).collect();
        all.into_iter().map(|h| h.join().unwrap()).sum()
    });
    let (secs, distinct) = (began.elapsed().as_secs_f64(), distinct.count.into_inner());
    println!("{states} crash states, at least {distinct} of them different, {:.0}/s, 0 lost", states as f64 / secs);
}

/// How many crash states it takes to find `bug`.
fn states_to_find(bug: Bug) -> u64 {
    let began = Instant::now();
    let mut states = 0;
    let distinct = Distinct::new(1);
    for seed in 1.. {
        match history(seed, Some(bug), &distinct) {
            Ok(n) => states += n,
            Err(e) => {
                println!("{bug:?}: found after {states} states, {:.1?}: {e}", began.elapsed());
                return states;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{bug:?} was not found in 30 s ({states} states)");
    }
    states
}

#[test]
fn every_planted_bug_is_found() {
    use Bug::*;
    for bug in [
        NoSync,
        NoDirSync,
        AckBeforeSync,
        UnlinkBeforeCursor,
        UnsyncedCursor,
        CrcOff,
        RetriedSync,
        TailKept,
        SeqReuse,
        CursorAhead,
        PendingCleared,
        DoneBeforeAck,
    ] {
        states_to_find(bug);
    }
}
