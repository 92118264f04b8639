//! THROWING AWAY what waits, at the user's wish: counted as `purged` and reported as a gap like any other loss.

use std::time::Duration;

use super::policy::us;
use super::segment::Chain;
use super::{Log, OpenError, Options, Queue, Rank, Stamp};

/// What is to go; everything that both allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Which {
    /// Only this importance.
    pub rank: Option<Rank>,
    /// Only what is older than this.
    pub older_than: Option<Duration>,
}

/// What of a segment is to go, and how that is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drop {
    pub reason: &'static str,
    /// Only what came before, microseconds since the start.
    pub before: Option<i64>,
}

impl From<&'static str> for Drop {
    fn from(reason: &'static str) -> Drop {
        Drop { reason, before: None }
    }
}

impl Queue {
    /// Drops what waits and is not being sent. What is in memory goes now, what is on disk with the next jobs
    /// ([`Queue::purging`]); [`super::Stats::dropped`] counts it as `purged`.
    pub fn purge(&mut self, which: Which, now: Duration) {
        let now = self.tick(now);
        let before = which.older_than.map(|age| now.saturating_sub(us(age)));
        let wanted = |chain: &Chain| which.rank.is_none_or(|r| r == chain.rank);
        let refused = |t: &u64| self.disk.as_ref().is_some_and(|d| d.refused.contains(t));
        let of_age = |at: i64| before.is_none_or(|b| at < b);
        let waiting = self.records.iter().filter(|(t, r)| wanted(&r.chain) && of_age(r.at) && !self.out.contains(t));
        let list: Vec<u64> = waiting.map(|(t, _)| *t).filter(|t| !refused(t)).collect();
        for token in list {
            self.lose(token, "purged");
        }
        let chains = self.chains.iter().filter(|(id, _)| wanted(id));
        let segs = chains.flat_map(|(id, c)| c.segs.iter().map(|(t, s)| ((*id, *t), s)));
        let old = segs.filter(|(_, s)| of_age(self.clock.at_of(&s.standing.first_stamp())));
        let drops: Vec<_> = old.map(|(id, _)| (id, Drop { reason: "purged", before })).collect();
        if let Some(disk) = &mut self.disk {
            disk.drops.extend(drops);
        }
    }

    /// Whether a purge is still at work.
    pub fn purging(&self) -> bool {
        self.disk.as_ref().is_some_and(|d| d.drops.iter().chain(&d.dropping).any(|(_, d)| d.reason == "purged"))
    }
}

/// Purges the queue in `options.dir` that no daemon runs on. The daemon reports the gap at its next start.
pub fn purge_at_rest(mut options: Options, which: Which) -> Result<Purged, OpenError> {
    // Nothing else is to go.
    options.limits.max_bytes = u64::MAX / 4;
    options.limits.max_age = Duration::from_secs(u64::from(u32::MAX));
    if options.clock.boot == 0 {
        // Whoever purges by age believes the clock.
        options.clock = Stamp { synced: true, ..super::writer::system_stamp() };
    }
    let (mut queue, mut log) = Queue::open(options, Duration::ZERO)?;
    queue.purge(which, Duration::ZERO);
    let drive = |queue: &mut Queue, log: &mut Log| {
        while let Some(job) = queue.next_job(Duration::ZERO) {
            let done = log.run(job);
            queue.finished(done, Duration::ZERO);
        }
    };
    drive(&mut queue, &mut log);
    queue.stop();
    drive(&mut queue, &mut log);
    let stats = queue.stats();
    let records = stats.dropped.get("purged").copied().unwrap_or(0);
    let trouble = match stats.disk {
        super::DiskState::Failing { text, .. } => Some(text),
        _ => None,
    };
    Ok(Purged { records, trouble })
}

/// What a purge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Records that went.
    pub records: u64,
    /// What was wrong with the disk, if something was: then they may be there again.
    pub trouble: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{T0, bodies, drain_all, options, reading, sec, work};
    use super::super::{Entry, Keep, Queue};
    use super::*;

    fn fill(dir: &std::path::Path) -> (Queue, Log) {
        let (mut q, mut log) = Queue::open(Options { segment: 4096, ..options(dir) }, T0).unwrap();
        for i in 0..400u64 {
            let rank = if i % 8 == 0 { 9 } else { 1 };
            let keep = if i % 8 == 1 { Keep::Latest } else { Keep::All };
            q.append(Entry { rank, keep, ..reading(i % 3, &i.to_string()) }, sec(i));
            work(&mut q, &mut log, sec(i));
        }
        (q, log)
    }

    #[test]
    fn a_purge_takes_one_importance_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, mut log) = fill(dir.path());
        q.purge(Which { rank: Some(1), older_than: None }, sec(400));
        assert!(q.purging());
        work(&mut q, &mut log, sec(400));
        assert!(!q.purging());
        assert_eq!(q.stats().dropped["purged"], 300 + 3);
        assert_eq!(q.stats().by_rank, std::collections::BTreeMap::from([(9, 50)]));
        let gaps = q.take_gaps();
        assert!(gaps.iter().all(|g| g.reason == "purged"));
        assert_eq!(gaps.iter().map(|g| g.count).sum::<u64>(), 303);
    }

    #[test]
    fn a_purge_takes_what_is_old_and_leaves_the_rest_also_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, mut log) = fill(dir.path());
        q.purge(Which { rank: None, older_than: Some(sec(100)) }, sec(400));
        work(&mut q, &mut log, sec(402));
        drop((q, log));
        let (mut q, mut log) = Queue::open(options(dir.path()), T0).unwrap();
        q.link_up();
        let got: std::collections::BTreeSet<u64> =
            bodies(&drain_all(&mut q, &mut log, T0)).iter().map(|b| b.parse().unwrap()).collect();
        assert!((300..400).filter(|i| i % 8 != 1).all(|i| got.contains(&i)));
        assert!(got.iter().all(|i| *i >= 300), "{got:?}");
    }

    #[test]
    fn a_queue_at_rest_is_purged_and_the_daemon_tells_of_it_later() {
        let dir = tempfile::tempdir().unwrap();
        drop(fill(dir.path()));
        let at_rest = || Options { clock: Default::default(), ..options(dir.path()) };
        let done = purge_at_rest(at_rest(), Which { rank: Some(9), older_than: None }).unwrap();
        assert_eq!(done, Purged { records: 50, trouble: None });
        let (mut q, log) = Queue::open(options(dir.path()), T0).unwrap();
        assert_eq!(q.take_gaps().iter().map(|g| g.count).sum::<u64>(), 50);
        assert_eq!(q.stats().dropped_ever["purged"], 50);
        let owned = purge_at_rest(at_rest(), Which::default()).unwrap_err();
        assert_eq!(owned, OpenError::Owned(Some(std::process::id())));
        drop((q, log));
        let all = purge_at_rest(at_rest(), Which { rank: None, older_than: Some(sec(60)) }).unwrap();
        assert!(all.records >= 300, "the clock says that these are years old: {all:?}");
    }
}
