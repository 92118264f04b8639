//! WHAT A START FINDS in the directory: names, headers and footers, not the records themselves. Only a segment
//! without a footer, the one that was being written, is read through.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::aside::{Aside, BAD};
use super::cursor::{SLOT, State, TORN};
use super::faults::Bug;
use super::lanes;
use super::lock;
use super::log::{Active, Log, MAX_FILE, NEW_STATE, RESERVE, RESERVE_BYTES, STATE, read_base, standing, write_all};
use super::record::Item;
use super::segment::{self, Builder, Chain, FIRST, FOOTER, Header, Scanner, Step, Torn};
use super::work::{Failure, SegmentId, Standing};

/// What is in the directory.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The last state that was saved.
    pub state: Option<State>,
    /// There is a state file, but no state in it: it was damaged.
    pub state_lost: bool,
    /// No file is named for this token or a greater one.
    pub next_token: u64,
    /// Segments in order.
    pub segments: Vec<Standing>,
    /// Records by lane that are not finished.
    pub lanes: BTreeMap<Chain, HashMap<u64, u64>>,
    /// All records of the chains that keep only the latest of a lane.
    pub latest: Vec<(SegmentId, u32, Item)>,
    /// What torn ends may have held.
    pub torn: Vec<Torn>,
    /// Segments whose header could not be read; set aside.
    pub unreadable: Vec<SegmentId>,
    /// Files that are not ours to read, left alone: what they are, for people.
    pub foreign: Vec<String>,
    /// Among them are segments: how far the tokens in them go is not known.
    pub unread: bool,
}

/// Takes the directory and looks through it.
pub fn recover(log: &mut Log) -> Result<Recovered, Failure> {
    log.disk.lock()?;
    let mut found = Recovered::default();
    let listed = |e| Failure::new("cannot list the queue's directory", &e);
    log.aside = Aside::default();
    log.active.clear();
    read_state(log, &mut found)?;
    // What an earlier process saw of the directory need not be durable yet; from here on it is built upon.
    log.disk.sync_dir().map_err(|e| Failure::new("cannot sync the queue's directory", &e))?;
    let mut files = log.disk.list().map_err(listed)?;
    files.sort();
    let mut segments = Vec::new();
    let reserved = files.iter().find(|(name, _)| name == RESERVE).map(|(_, len)| *len);
    for (name, len) in files {
        match segment::parse_name(&name) {
            Some(id) => segments.push((id, name, len)),
            None if name == STATE => log.aside.state_bytes(len),
            // Left by a crash; the next save replaces it.
            None if name == NEW_STATE => {}
            None => {
                let ours = [RESERVE, lock::NAME].contains(&name.as_str()) || name.starts_with("dead-letter.");
                let bad = name.starts_with(BAD);
                log.aside.bytes += if ours || bad { len } else { 0 };
                log.aside.bad += if bad { len } else { 0 };
                if !ours && !bad {
                    found.foreign.push(format!("{name} is not a file of the queue; left alone"));
                }
            }
        }
    }
    segments.sort();
    found.next_token = segments.iter().map(|(id, ..)| id.1.saturating_add(1)).max().unwrap_or(0);
    for i in 0..segments.len() {
        let Some((id, name, len)) = segments.get(i) else { continue };
        if *len > MAX_FILE {
            found.foreign.push(format!("{name} is larger than any segment; left alone"));
            found.unread = true;
            continue;
        }
        let last = segments.get(i + 1).is_none_or(|next| next.0.0 != id.0);
        if let Err(e) = look(log, &mut found, *id, name, *len, last) {
            found.foreign.push(format!("cannot read {name}, left alone: {e}"));
            found.unread = true;
        }
    }
    reserve(log, reserved);
    Ok(found)
}

fn read_state(log: &mut Log, found: &mut Recovered) -> Result<(), Failure> {
    let failed = |e| Failure::new("cannot read the queue's state", &e);
    if let Some(file) = log.state.take() {
        log.disk.close(file);
    }
    let file = match log.disk.open(STATE, false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    let mut bytes = vec![0; 2 * SLOT];
    let read = log.disk.read_at(file, 0, &mut bytes);
    log.disk.close(file);
    let n = read.map_err(failed)?;
    found.state = State::newest(bytes.get(..n).unwrap_or_default()).map(|s| s.0);
    found.state_lost = found.state.is_none();
    Ok(())
}

/// Looks at one segment. `last`: of its chain, where writing may go on.
fn look(log: &mut Log, found: &mut Recovered, id: SegmentId, name: &str, len: u64, last: bool) -> io::Result<()> {
    let (chain, token) = id;
    let disk = &mut *log.disk;
    let file = disk.open(name, false)?;
    let mut read = |at: u64, n: usize| {
        let mut bytes = vec![0; n];
        let n = disk.read_at(file, at, &mut bytes)?;
        bytes.truncate(n);
        Ok::<_, io::Error>(bytes)
    };
    let done = found.state.as_ref().and_then(|s| s.finished.iter().find(|f| (f.chain, f.token) == id));
    let gone = done.is_some_and(|f| f.gone);
    // Where some are finished it takes the records to tell whose are not.
    let whole = chain.latest || len <= (FIRST + FOOTER as u64) || done.is_some_and(|f| !f.runs.is_empty());
    let mut seen = || {
        let head = read(0, FIRST as usize)?;
        let tail = (FOOTER as u64 + 512).min(len);
        let foot = read(len - tail, tail as usize)?;
        let last = foot.len().saturating_sub(FOOTER);
        let known = segment::read_footer(foot.get(last..).unwrap_or_default(), chain, token).filter(|_| !whole);
        // With few lanes their table comes with the footer.
        let mut lanes = segment::read_lanes(&foot, chain, token);
        if let Err(more @ FOOTER..) = lanes
            && more as u64 <= len
        {
            lanes = segment::read_lanes(&read(len.saturating_sub(more as u64), more)?, chain, token);
        }
        let known = known.and_then(|(s, b)| Some((s, b, lanes.ok()?)));
        let header = segment::read_header(&head, chain, token);
        let bytes = if known.is_some() { Vec::new() } else { read(0, len as usize)? };
        Ok::<_, io::Error>((header, known, bytes))
    };
    let seen = seen();
    disk.close(file);
    let (header, known, bytes) = seen?;
    if let Header::Version(v) = header {
        found.foreign.push(format!("{name} has version {v} of the format, which this pinpost cannot read; left alone"));
        found.unread = true;
        return Ok(());
    }
    let cut = found.state.as_ref().and_then(|s| s.cut(id));
    if let Some((mut summary, base, lanes)) = known {
        let bits = count_lanes(found, chain, gone, lanes.into_iter().map(|(lane, n)| (lane, u64::from(n))));
        summary.count = summary.count.min(cut.unwrap_or(u32::MAX));
        let (sealed, cut) = (true, cut.is_some());
        found.segments.push(Standing { id, summary, base, end: len, len, sealed, cut, torn: false, lanes: bits });
        return Ok(());
    }
    let Some(base) = read_base(&bytes, id) else {
        // A file that was never written cannot have held anything.
        if bytes.iter().all(|b| *b == 0) {
            log.disk.remove(name)?;
        } else {
            log.aside.keep_file(&mut *log.disk, name, len, log.sizes.aside)?;
            found.unreadable.push(id);
        }
        return Ok(());
    };
    let mut scan = Scanner::new(chain, base, log.faults.has(Bug::CrcOff));
    let mut sealed = false;
    let mut unfinished: HashMap<u64, u64> = HashMap::new();
    let runs = done.map(|f| f.runs.clone()).unwrap_or_default();
    let finished = |i: u32| runs.iter().any(|(from, n)| *n != TORN && (*from..from.saturating_add(*n)).contains(&i));
    let (end, junk) = loop {
        match scan.step(&bytes) {
            Step::Item(index, item) if chain.latest => found.latest.push((id, index, item)),
            Step::Item(index, item) if !finished(index) => *unfinished.entry(item.lane).or_default() += 1,
            Step::Item(..) | Step::Bad(..) => {}
            Step::Footer(summary) => {
                scan.summary = summary;
                sealed = true;
            }
            Step::End(at, junk) => break (at as u64, junk),
        }
    };
    let lanes = scan.lanes.keys().fold(0, |bits, lane| bits | lanes::bit(*lane));
    count_lanes(found, chain, gone, unfinished.into_iter());
    if junk && !sealed && cut.is_none() {
        // A power cut does this to what was being written; damage could do it too, so it is kept and said.
        let tail = bytes.get(end as usize..).unwrap_or_default();
        let len = tail.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
        log.aside.keep(&mut *log.disk, id, end as usize, tail.get(..len).unwrap_or_default(), log.sizes.aside);
        found.foreign.push(format!("the last write to {name} was cut short; everything whole before it is kept"));
        // The end of an earlier one is known from the next one's header.
        if last && !found.state.as_ref().is_some_and(|s| s.torn(id, scan.summary.count)) {
            found.torn.push(scan.torn(&bytes, end as usize));
        }
    }
    let read_through = |scan: &Scanner| {
        let mut summary = scan.summary;
        summary.count = summary.count.min(cut.unwrap_or(u32::MAX));
        let torn = junk && !sealed && cut.is_none();
        Standing { id, summary, base, end, len, sealed: true, cut: cut.is_some(), torn, lanes }
    };
    if sealed || cut.is_some() || !last || end >= log.sizes.segment {
        found.segments.push(read_through(&scan));
        return Ok(());
    }
    let file = match log.disk.open(name, true) {
        Ok(file) => file,
        // Readable is enough; the next record begins a new segment.
        Err(_) => {
            found.segments.push(read_through(&scan));
            return Ok(());
        }
    };
    // As with names: what is found counts as durable from now on, so it has to be.
    if log.disk.sync(file).is_err() {
        log.disk.close(file);
        found.segments.push(read_through(&scan));
        return Ok(());
    }
    let active = Active { token, file, builder: Builder::resume(scan), end, len, trim: junk };
    found.segments.push(standing(chain, &active, false));
    close_older(log, chain, active);
    Ok(())
}

/// Counts records of lanes; gives the set of them.
fn count_lanes(found: &mut Recovered, chain: Chain, gone: bool, lanes: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut bits = 0;
    let sum = found.lanes.entry(chain).or_default();
    for (lane, n) in lanes {
        bits |= lanes::bit(lane);
        if !gone && !chain.latest {
            *sum.entry(lane).or_default() += n;
        }
    }
    bits
}

fn close_older(log: &mut Log, chain: Chain, active: Active) {
    if let Some(old) = log.active.insert(chain, active) {
        log.disk.close(old.file);
    }
}

/// Puts some space by; without it everything works but a full copy-on-write file system. `there`: its present length.
fn reserve(log: &mut Log, there: Option<u64>) {
    if let Some(len) = there {
        if len == RESERVE_BYTES as u64 {
            return;
        }
        // A power cut left the name without the space.
        log.aside.bytes = log.aside.bytes.saturating_sub(len);
        let _ = log.disk.remove(RESERVE);
    }
    let Ok(file) = log.disk.create(RESERVE) else { return };
    let put = write_all(&mut *log.disk, file, 0, &[0xff; RESERVE_BYTES]);
    log.disk.close(file);
    match put {
        Ok(()) => log.aside.bytes += RESERVE_BYTES as u64,
        Err(_) => drop(log.disk.remove(RESERVE)),
    }
}
