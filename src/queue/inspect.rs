//! A LOOK INSIDE a queue without disturbing it, for `pinpost queue`: what is there ([`Overview`], [`Inspector`],
//! [`dead_letters`]), with the daemon stopped from the directory alone, with the daemon running from its [`View`].
//! Changes nothing, takes no lock, and holds one segment in memory at a time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use super::aside::{BAD, DEAD, DEAD_OLD};
use super::cursor::{CUT, Marks, SLOT, State, TORN};
use super::disk::{Directory, Disk};
use super::log::{MAX_FILE, STATE, read_base};
use super::record::Item;
use super::segment::{self, Chain, FOOTER, Scanner, Step};
use super::work::SegmentId;
use super::{Queue, REASONS, Rank, Stamp};

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Place in the order of arrival.
    pub token: u64,
    /// Sequence number of a reading.
    pub seq: Option<u64>,
    /// Importance.
    pub rank: Rank,
    /// Whose.
    pub source: String,
    /// When it was taken.
    pub stamp: Stamp,
    /// Its life in milliseconds from its arrival, where it has an end of its own.
    pub ttl: Option<u64>,
    /// Whether it is on disk.
    pub on_disk: bool,
    /// The message.
    pub body: Vec<u8>,
}

impl Kept {
    fn new(rank: Rank, on_disk: bool, item: Item) -> Kept {
        let Item { token, seq, stamp, ttl, body, .. } = item;
        Kept { token, seq, rank, source: item.source.to_string(), stamp, ttl, on_disk, body }
    }
}

/// What waits in a running queue at one moment: which records of which segments, and those that only memory has
/// (shared, not copied). Holding it delays nothing.
#[derive(Debug, Clone, Default)]
pub struct View(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Segment(Piece),
    Memory(Rank, Arc<Item>),
}

/// The part of a segment that counts.
#[derive(Debug, Clone)]
struct Piece {
    id: SegmentId,
    /// Records from this index on do not count.
    count: u32,
    finished: Marks,
    /// From this token on its records are also in the next segment.
    until: u64,
    /// Of a chain that keeps only the latest: the token of each lane's last.
    last: Option<Arc<HashMap<u64, u64>>>,
}

/// Goes through the records that wait, greatest rank first, then in order.
pub struct Inspector {
    disk: Box<dyn Disk>,
    parts: std::vec::IntoIter<Part>,
    here: Option<(Piece, Vec<u8>, Scanner)>,
    /// Bytes that are no record, met so far.
    pub bad_bytes: u64,
}

impl Inspector {
    /// Of the directory at `path`, as it is on disk.
    pub fn open(path: &Path) -> io::Result<Inspector> {
        Inspector::on(Box::new(Directory::new(path)))
    }

    /// Of a running queue, whose directory is at `path`.
    pub fn live(path: &Path, view: View) -> Inspector {
        Inspector::new(Box::new(Directory::new(path)), view.0)
    }

    /// Of any [`Disk`], as it is.
    pub fn on(mut disk: Box<dyn Disk>) -> io::Result<Inspector> {
        let (pieces, _) = pieces(&mut *disk)?;
        Ok(Inspector::new(disk, pieces.into_iter().map(|(p, _)| Part::Segment(p)).collect()))
    }

    fn new(disk: Box<dyn Disk>, parts: Vec<Part>) -> Inspector {
        Inspector { disk, parts: parts.into_iter(), here: None, bad_bytes: 0 }
    }
}

/// The segments that are there, greatest rank first, and the state.
fn pieces(disk: &mut dyn Disk) -> io::Result<(Vec<(Piece, u64)>, State)> {
    let state = match read(disk, STATE, 2 * SLOT as u64) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let state = State::newest(&state).map(|s| s.0).unwrap_or_default();
    let names = disk.list()?;
    let mut ids: Vec<(SegmentId, u64)> =
        names.iter().filter_map(|(n, len)| Some((segment::parse_name(n)?, *len))).collect();
    ids.sort_by_key(|((chain, token), _)| (std::cmp::Reverse(chain.rank), chain.latest, *token));
    let next = ids.iter().skip(1).map(|(id, _)| Some(*id)).chain([None]);
    let mut pieces = Vec::new();
    for ((id, len), next) in ids.iter().zip(next) {
        let known = state.finished.iter().find(|f| (f.chain, f.token) == *id);
        if known.is_some_and(|f| f.gone) || *len > MAX_FILE {
            continue;
        }
        let mut piece = Piece { id: *id, count: u32::MAX, finished: Marks::default(), until: u64::MAX, last: None };
        for (from, len) in known.iter().flat_map(|f| &f.runs) {
            match *len {
                CUT => piece.count = *from,
                TORN => {}
                // No segment has more records than bytes.
                len => {
                    for index in *from..from.saturating_add(len.min(MAX_FILE as u32)) {
                        piece.finished.add(index);
                    }
                }
            }
        }
        if let Some(next) = next.filter(|n| n.0 == id.0 && !id.0.latest) {
            piece.until = next.1;
        }
        pieces.push((piece, *len));
    }
    let chains: Vec<Chain> = pieces.iter().map(|(p, _)| p.id.0).filter(|c| c.latest).collect();
    for chain in chains {
        let mut last = HashMap::new();
        for (piece, _) in pieces.iter().filter(|(p, _)| p.id.0 == chain && p.last.is_none()) {
            let Some((bytes, mut scan)) = load(disk, piece.id)? else { continue };
            loop {
                match scan.step(&bytes) {
                    Step::Item(index, item) if index < piece.count && !piece.finished.has(index) => {
                        last.insert(item.lane, item.token);
                    }
                    Step::End(..) => break,
                    _ => {}
                }
            }
        }
        let last = Arc::new(last);
        for (piece, _) in pieces.iter_mut().filter(|(p, _)| p.id.0 == chain && p.last.is_none()) {
            piece.last = Some(last.clone());
        }
    }
    Ok((pieces, state))
}

fn read(disk: &mut dyn Disk, name: &str, len: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(name, false)?;
    let mut bytes = vec![0; len as usize];
    let n = disk.read_at(file, 0, &mut bytes);
    disk.close(file);
    bytes.truncate(n?);
    Ok(bytes)
}

/// A segment's bytes and a scan at its first entry; `None`: it is gone, or no segment.
fn load(disk: &mut dyn Disk, id: SegmentId) -> io::Result<Option<(Vec<u8>, Scanner)>> {
    let name = segment::name(id.0, id.1);
    let Some((_, len)) = disk.list()?.into_iter().find(|(n, _)| *n == name) else { return Ok(None) };
    let bytes = match read(disk, &name, len.min(MAX_FILE)) {
        // Finished and removed in the meantime.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok(read_base(&bytes, id).map(|base| (bytes, Scanner::new(id.0, base, false))))
}

impl Iterator for Inspector {
    type Item = Kept;

    fn next(&mut self) -> Option<Kept> {
        loop {
            let Some((piece, bytes, scan)) = &mut self.here else {
                match self.parts.next()? {
                    Part::Memory(rank, item) => return Some(Kept::new(rank, false, (*item).clone())),
                    Part::Segment(piece) => {
                        // What cannot be read is left out, as it is when it is sent.
                        self.here = load(&mut *self.disk, piece.id).ok().flatten().map(|(b, s)| (piece, b, s));
                    }
                }
                continue;
            };
            match scan.step(bytes) {
                Step::Item(index, _) if index >= piece.count => self.here = None,
                Step::Item(index, item) => {
                    let replaced = piece.last.as_ref().is_some_and(|l| l.get(&item.lane) != Some(&item.token));
                    if !piece.finished.has(index) && item.token < piece.until && !replaced {
                        return Some(Kept::new(piece.id.0.rank, true, item));
                    }
                }
                Step::Footer(_) => {}
                Step::Bad(from, to) => self.bad_bytes += (to - from) as u64,
                Step::End(..) => self.here = None,
            }
        }
    }
}

/// What a directory holds, by names, headers and footers: no full scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// Records that wait, a second's deliveries more or less.
    pub waiting: u64,
    /// Of those, by rank.
    pub by_rank: BTreeMap<Rank, u64>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Stamp of the oldest that waits.
    pub oldest: Option<Stamp>,
    /// Stamp of the newest on disk.
    pub newest: Option<Stamp>,
    /// Records dropped since the directory was made, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Records that the broker refused for good since then; the last of them are in [`dead_letters`].
    pub dead: u64,
    /// Bytes set aside as damaged.
    pub set_aside: u64,
    /// Losses that the daemon has yet to report.
    pub gaps: Vec<super::Gap>,
    /// No number of this or above was used.
    pub next_seq: u64,
    /// Bytes a minute at which the newest segment was filled; `None` if that cannot be told.
    pub per_minute: Option<u64>,
}

impl Overview {
    /// Of the directory at `path`.
    pub fn open(path: &Path) -> io::Result<Overview> {
        Overview::on(&mut Directory::new(path))
    }

    /// Of any [`Disk`].
    pub fn on(disk: &mut dyn Disk) -> io::Result<Overview> {
        let (pieces, state) = pieces(disk)?;
        let files = disk.list()?;
        let mut o = Overview {
            bytes: files.iter().map(|f| f.1).sum(),
            set_aside: files.iter().filter(|f| f.0.starts_with(BAD)).map(|f| f.1).sum(),
            dropped: REASONS.into_iter().zip(state.dropped).filter(|(_, n)| *n > 0).collect(),
            dead: state.dead,
            next_seq: state.seq_limit,
            gaps: state.gaps,
            ..Overview::default()
        };
        let mut newest = 0;
        let mut begun: Option<Chain> = None;
        for (piece, len) in pieces {
            let Some(look) = look(disk, &piece, len, begun != Some(piece.id.0))? else { continue };
            o.segments += 1;
            o.waiting += look.waiting;
            if look.waiting > 0 {
                *o.by_rank.entry(piece.id.0.rank).or_default() += look.waiting;
            }
            if let Some(first) = look.first {
                begun = Some(piece.id.0);
                o.oldest = o.oldest.filter(|o| o.wall <= first.wall).or(Some(first));
            }
            if look.last_token >= newest {
                newest = look.last_token;
                o.newest = Some(look.last);
                let span = look.last.mono.checked_sub(look.base.mono).filter(|_| look.last.boot == look.base.boot);
                o.per_minute = span.filter(|s| *s >= 1000).map(|s| look.bytes.saturating_mul(60_000) / s);
            }
        }
        Ok(o)
    }
}

struct Look {
    waiting: u64,
    first: Option<Stamp>,
    base: Stamp,
    last: Stamp,
    last_token: u64,
    bytes: u64,
}

/// What a segment holds. `first`: the first record that waits is wanted too.
fn look(disk: &mut dyn Disk, piece: &Piece, len: u64, first: bool) -> io::Result<Option<Look>> {
    let (chain, token) = piece.id;
    let name = segment::name(chain, token);
    if !first && piece.last.is_none() {
        let mut foot = [0; FOOTER];
        let Ok(file) = disk.open(&name, false) else { return Ok(None) };
        let n = disk.read_at(file, len.saturating_sub(FOOTER as u64), &mut foot);
        disk.close(file);
        let known = segment::read_footer(foot.get(..n?).unwrap_or_default(), chain, token);
        if let Some((s, base)) = known.filter(|(s, _)| s.last_token < piece.until) {
            let count = s.count.min(piece.count);
            return Ok(Some(Look {
                waiting: u64::from(count.saturating_sub(piece.finished.count)),
                first: None,
                base: base.stamp,
                last: s.last_stamp,
                last_token: s.last_token,
                bytes: len,
            }));
        }
    }
    let Some((bytes, mut scan)) = load(disk, piece.id)? else { return Ok(None) };
    let Some(base) = read_base(&bytes, piece.id) else { return Ok(None) };
    let mut look = Look { waiting: 0, first: None, base: base.stamp, last: base.stamp, last_token: token, bytes: 0 };
    loop {
        match scan.step(&bytes) {
            Step::Item(index, item) if index < piece.count => {
                look.bytes = scan.at as u64;
                (look.last, look.last_token) = (item.stamp, item.token);
                let replaced = piece.last.as_ref().is_some_and(|l| l.get(&item.lane) != Some(&item.token));
                if !piece.finished.has(index) && item.token < piece.until && !replaced {
                    look.waiting += 1;
                    look.first = look.first.or(Some(item.stamp));
                }
            }
            Step::Item(..) | Step::End(..) => return Ok(Some(look)),
            Step::Footer(_) | Step::Bad(..) => {}
        }
    }
}

/// The messages that the broker refused for good and that are still kept, oldest first, one JSON object a line:
/// `time`, `taken`, `seq`, `source`, `reason`, `body` or `body_hex`.
pub fn dead_letters(path: &Path) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let mut files = Vec::new();
    for name in [DEAD_OLD, DEAD] {
        match File::open(path.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => files.push(other?),
        }
    }
    let lines = files.into_iter().flat_map(|f| BufReader::new(f).lines());
    // A line that a power cut tore is no letter.
    let whole = |l: &io::Result<String>| l.as_ref().map_or(true, |l| l.starts_with('{') && l.ends_with('}'));
    Ok(lines.filter(whole))
}

impl Queue {
    /// What waits now, for [`Inspector::live`]. Quick: it copies marks and counts references.
    pub fn view(&self) -> View {
        let mut parts = Vec::new();
        let refused = |token: &u64| self.disk.as_ref().is_some_and(|d| d.refused.contains(token));
        let memory = self.records.iter().filter(|(t, r)| (r.place.is_none() || r.chain.latest) && !refused(t));
        let mut memory: Vec<_> = memory.map(|(_, r)| (r.chain, r.item.clone())).collect();
        memory.sort_by_key(|(chain, _)| std::cmp::Reverse(chain.rank));
        let mut memory = memory.into_iter().peekable();
        let mut ranks: Vec<Rank> = self.chains.keys().map(|c| c.rank).collect();
        ranks.dedup();
        for rank in ranks.into_iter().rev() {
            let chain = Chain { rank, latest: false };
            let segs = self.chains.get(&chain).into_iter().flat_map(|c| &c.segs);
            for (token, seg) in segs.filter(|(_, s)| !s.is_finished()) {
                parts.push(Part::Segment(Piece {
                    id: (chain, *token),
                    count: seg.standing.summary.count,
                    finished: seg.finished.clone(),
                    until: seg.doubled_from.unwrap_or(u64::MAX),
                    last: None,
                }));
            }
            while let Some((_, item)) = memory.next_if(|(c, _)| c.rank == rank) {
                parts.push(Part::Memory(rank, item));
            }
        }
        View(parts)
    }

    /// The records that only memory has, in order of arrival.
    pub fn in_memory(&self) -> impl Iterator<Item = Kept> {
        let here = self.records.values().filter(|r| r.place.is_none());
        here.map(|r| Kept::new(r.chain.rank, false, (*r.item).clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{T0, drain_all, options, reading, sec, work};
    use super::*;
    use crate::queue::{Entry, Keep};

    /// A running queue of several segments, some of it delivered, some only in memory.
    fn filled(dir: &Path) -> (Queue, crate::queue::Log) {
        let opt = super::super::Options { segment: 4096, ..options(dir) };
        let (mut q, mut log) = Queue::open(opt, T0).unwrap();
        for i in 0..600u64 {
            let entry = Entry { rank: if i % 10 == 0 { 9 } else { 1 }, ..reading(i % 3, &format!("body {i}")) };
            let keep = if i % 10 == 5 { Keep::Latest } else { Keep::All };
            q.append(Entry { keep, ..entry }, Duration::from_millis(i * 100));
            work(&mut q, &mut log, Duration::from_millis(i * 100));
        }
        work(&mut q, &mut log, sec(62));
        q.link_up();
        work(&mut q, &mut log, sec(62));
        for _ in 0..40 {
            let out = q.take(sec(62)).unwrap();
            q.done(out.token);
            work(&mut q, &mut log, sec(62));
        }
        q.link_down();
        work(&mut q, &mut log, sec(64));
        q.append(reading(1, "young"), sec(64));
        (q, log)
    }
    use std::time::Duration;

    #[test]
    fn a_running_queue_shows_exactly_what_waits_and_goes_on_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, mut log) = filled(dir.path());
        let view = q.view();
        // The queue goes on: what is listed is what waited when it was looked at, less what was removed since.
        let seen: Vec<Kept> = Inspector::live(dir.path(), view).collect();
        let waiting = q.stats().waiting;
        q.link_up();
        let mut sent: Vec<_> = drain_all(&mut q, &mut log, sec(65)).into_iter().map(|o| o.seq).collect();
        let mut listed: Vec<_> = seen.iter().map(|k| k.seq).collect();
        assert_eq!(seen.len() as u64, waiting);
        assert!(seen.windows(2).all(|w| w[0].rank >= w[1].rank), "the most important first");
        assert_eq!(seen.iter().filter(|k| !k.on_disk && k.body == b"young").count(), 1);
        sent.sort();
        listed.sort();
        assert_eq!(listed, sent);
        assert!(Inspector::live(dir.path(), q.view()).next().is_none());
    }

    #[test]
    fn a_view_of_what_was_delivered_in_the_meantime_ends_quietly() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, mut log) = filled(dir.path());
        let mut seen = Inspector::live(dir.path(), q.view());
        let first = seen.next().unwrap();
        q.link_up();
        drain_all(&mut q, &mut log, sec(65));
        work(&mut q, &mut log, sec(70));
        assert_eq!(first.rank, 9);
        let rest: Vec<Kept> = seen.collect();
        assert!(rest.len() < 500 && rest.iter().any(|k| k.body == b"young"), "{}", rest.len());
    }

    #[test]
    fn the_overview_of_a_directory_says_what_its_records_do_without_reading_them() {
        let dir = tempfile::tempdir().unwrap();
        let (q, log) = filled(dir.path());
        let (stats, disk) = (q.stats(), q.stats().waiting - 1);
        drop((q, log));
        let o = Overview::open(dir.path()).unwrap();
        let kept: Vec<Kept> = Inspector::open(dir.path()).unwrap().collect();
        assert_eq!((kept.len() as u64, o.waiting), (disk, disk), "all but the one in memory");
        let of_rank = |r: Rank| kept.iter().filter(|k| k.rank == r).count() as u64;
        assert_eq!(
            o.by_rank,
            BTreeMap::from([(1, of_rank(1)), (9, of_rank(9))]).into_iter().filter(|r| r.1 > 0).collect()
        );
        assert_eq!(o.oldest, kept.iter().map(|k| k.stamp).min_by_key(|s| s.wall));
        assert_eq!(o.newest, kept.iter().map(|k| k.stamp).max_by_key(|s| s.wall));
        assert!(o.bytes.abs_diff(stats.bytes) <= 16 && o.segments > 3, "{o:?}");
        // Six hundred readings a minute of some thirty bytes.
        let rate = o.per_minute.unwrap();
        assert!((12_000..36_000).contains(&rate), "{rate}");
    }

    #[test]
    fn how_long_the_space_lasts_is_reckoned_from_the_last_minute() {
        let dir = tempfile::tempdir().unwrap();
        let (mut q, _log) = Queue::open(options(dir.path()), T0).unwrap();
        assert_eq!(q.stats().lasts, None);
        for i in 0..3000u64 {
            q.append(reading(1, "twenty five bytes of data"), Duration::from_millis(i * 100));
        }
        let stats = q.stats();
        assert!((28_000..31_000).contains(&stats.per_minute), "{}", stats.per_minute);
        let minutes = (stats.max_bytes - stats.bytes) as f64 / 29_400.0;
        let lasts = stats.lasts.unwrap().as_secs_f64() / 60.0;
        assert!((lasts / minutes - 1.0).abs() < 0.1, "{lasts} {minutes}");
        q.next_take(sec(400));
        assert_eq!((q.stats().per_minute, q.stats().lasts), (0, None), "a minute without anything");
    }

    #[test]
    fn dead_letters_are_read_line_by_line_and_a_torn_one_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(dead_letters(dir.path()).unwrap().count(), 0);
        std::fs::write(dir.path().join(DEAD_OLD), "{\"seq\":1}\n").unwrap();
        std::fs::write(dir.path().join(DEAD), "{\"seq\":2}\n{\"se\n{\"seq\":3}\n").unwrap();
        let lines: Vec<String> = dead_letters(dir.path()).unwrap().map(|l| l.unwrap()).collect();
        assert_eq!(lines, [r#"{"seq":1}"#, r#"{"seq":2}"#, r#"{"seq":3}"#]);
    }
}
