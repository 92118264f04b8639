//! THE BOOKS OF A PROOF, kept outside the daemon: what was written into the port, what an independent subscriber
//! received, what `bridge/event` calls lost, what the broker refused, what the disk holds. At every audit
//! `accepted = delivered + queued + dead-lettered + dropped`, exactly; whatever does not fit ends the test.
//!
//! Readings are named by their sequence number, so that a number used twice is found by whoever sees it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pinpost::model::Value;
use pinpost::queue::{Inspector, Kept};
use pinpost::wire::Record;
use serde_json::Value as Json;

/// A message as the subscriber got it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub topic: String,
    pub payload: Vec<u8>,
    pub user: BTreeMap<String, String>,
    pub at: Instant,
}

impl Heard {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the daemon sends text here")
    }

    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.payload).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn seq(&self) -> Option<u64> {
        self.user.get("seq").map(|s| s.parse().unwrap())
    }
}

#[derive(Default)]
struct Ear {
    heard: Vec<Heard>,
    /// Everything that came since the beginning.
    total: u64,
}

/// A subscriber of everything at QoS 0, MQTT 5, which reads to the very end of its broker: it gets what the broker
/// wrote before it was killed, so a message that the broker has acknowledged is never missed.
#[derive(Clone, Default)]
pub struct Listener(Arc<(Mutex<Ear>, Condvar)>);

impl Listener {
    /// Subscribed when it returns; the thread ends with the broker.
    pub fn attach(&self, port: u16) -> JoinHandle<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // CONNECT: version 5, clean start, no keep alive, no properties, client id "ear"
        stream.write_all(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x03ear").unwrap();
        assert_eq!(packet(&mut stream).unwrap().0, 0x20);
        // SUBSCRIBE: packet 1, no properties, "#" at QoS 0
        stream.write_all(b"\x82\x07\x00\x01\x00\x00\x01#\x00").unwrap();
        assert_eq!(packet(&mut stream).unwrap().0, 0x90);
        let ear = self.0.clone();
        std::thread::spawn(move || {
            while let Some((head, body)) = packet(&mut stream) {
                if head >> 4 == 3 {
                    let heard = parse(&body).expect("a broker sends whole packets");
                    let mut inner = ear.0.lock().unwrap();
                    inner.heard.push(heard);
                    inner.total += 1;
                    ear.1.notify_all();
                }
            }
        })
    }

    /// What came since the last call.
    pub fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut self.0.0.lock().unwrap().heard)
    }

    /// Waits until something has come that was not taken, at most so long.
    pub fn wait(&self, at_most: Duration) {
        let inner = self.0.0.lock().unwrap();
        if inner.heard.is_empty() {
            drop(self.0.1.wait_timeout(inner, at_most).unwrap());
        }
    }
}

fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 1];
    stream.read_exact(&mut head).ok()?;
    let (mut len, mut shift, mut byte) = (0usize, 0, [0; 1]);
    loop {
        stream.read_exact(&mut byte).ok()?;
        len |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] & 128 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    Some((head[0], body))
}

/// PUBLISH at QoS 0, as MQTT 5 (OASIS, 3.3) writes it.
fn parse(body: &[u8]) -> Option<Heard> {
    let mut rest = body;
    fn cut<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (a, b) = rest.split_at_checked(n)?;
        *rest = b;
        Some(a)
    }
    fn text(rest: &mut &[u8]) -> Option<String> {
        let n = cut(rest, 2)?;
        let n = usize::from(u16::from_be_bytes([n[0], n[1]]));
        Some(String::from_utf8_lossy(cut(rest, n)?).into_owned())
    }
    fn varint(rest: &mut &[u8]) -> Option<usize> {
        let (mut n, mut shift) = (0, 0);
        loop {
            let byte = cut(rest, 1)?[0];
            n |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                return Some(n);
            }
        }
    }
    let topic = text(&mut rest)?;
    let n = varint(&mut rest)?;
    let mut properties = cut(&mut rest, n)?;
    let mut user = BTreeMap::new();
    while let Some(id) = cut(&mut properties, 1) {
        match id[0] {
            0x26 => {
                let name = text(&mut properties)?;
                user.insert(name, text(&mut properties)?);
            }
            0x01 => drop(cut(&mut properties, 1)?),
            0x23 => drop(cut(&mut properties, 2)?),
            0x02 => drop(cut(&mut properties, 4)?),
            0x0B => drop(varint(&mut properties)?),
            0x03 | 0x08 | 0x09 => drop(text(&mut properties)?),
            _ => return None,
        }
    }
    Some(Heard { topic, payload: rest.to_vec(), user, at: Instant::now() })
}

/// Whose reading, and which: numbers are written into the port in rising order and each only once.
type Name = (String, u64);

/// The books.
#[derive(Default)]
pub struct Books {
    /// Numbers below this were written into the port.
    pub written: u64,
    names: HashMap<u64, Name>,
    seqs: HashMap<Name, u64>,
    delivered: HashSet<u64>,
    /// Numbers of readings of other points that came.
    others: HashSet<u64>,
    /// When those came that came since the last audit.
    recent: Vec<Instant>,
    /// Accepted and neither delivered, dead nor dropped: it must be in the queue.
    owed: BTreeSet<u64>,
    accepted: HashSet<u64>,
    dead: HashSet<u64>,
    /// Accepted and called lost.
    dropped: BTreeSet<u64>,
    /// Accepted and no longer on disk: a gap must name them in the end. Only where readings may be dropped.
    unnamed: BTreeMap<u64, String>,
    gaps: HashSet<(u64, u64, String)>,
    /// Gaps that name more than they lost.
    vague: Vec<(u64, u64, u64)>,
    /// Whatever another gap names.
    lost: HashSet<u64>,
    /// The first arrivals of a point, replayed or not, never go back.
    last: HashMap<(String, bool, bool), u64>,
    /// Whether it waited or not makes no difference to the order.
    pub one_line: bool,
    /// Numbers below this are of a life whose disk may be found late: they may come behind those of this life.
    pub earlier: u64,
    /// And in any order: a segment that could not be read at one start is delivered after the next.
    pub late: bool,
    /// Came again.
    pub duplicates: u64,
    /// The greatest number of delivered readings that the disk still held at an audit.
    pub most_doubled: usize,
    doubled: BTreeSet<u64>,
    /// The queue may be too small for what comes, so that gaps are an answer.
    pub may_drop: bool,
    /// Total of `count` of all gaps.
    pub gap_count: u64,
    /// A health has said that the disk fails, and why.
    pub sick: bool,
}

/// The sensor's readings that a queue's directory holds.
pub fn on_disk(dir: &Path) -> Vec<Kept> {
    let ours = |k: &Kept| k.seq.is_some() && k.source.starts_with("probe");
    Inspector::open(dir).map_or(Vec::new(), |i| i.filter(ours).collect())
}

/// Reports of loss that wait in a queue's directory.
fn gaps_on_disk(dir: &Path) -> Vec<Json> {
    let event = |k: Kept| match Record::decode(&k.body) {
        Ok(Record::Message(m)) if m.topic == "gw/bridge/event" => serde_json::from_slice(&m.payload).ok(),
        _ => None,
    };
    Inspector::open(dir).map_or(Vec::new(), |i| i.filter_map(event).collect())
}

/// The number that a payload begins with.
pub fn number(text: &str) -> u64 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().unwrap_or_else(|e| panic!("{e}: {text}"))
}

pub fn name_of(kept: &Kept) -> (String, u64) {
    let Ok(Record::Reading(reading)) = Record::decode(&kept.body) else { panic!("not a reading: {kept:?}") };
    let n = match &reading.value {
        Value::Number(n) => *n as u64,
        Value::Text(text) => number(text),
        other => panic!("nobody wrote {other:?}"),
    };
    (reading.topic, n)
}

impl Books {
    fn known(&mut self, seq: u64, name: Name) {
        assert!(name.1 < self.written, "{name:?} was never written");
        if let Some(other) = self.names.get(&seq) {
            assert_eq!(*other, name, "number {seq} was used twice");
            return;
        }
        if let Some(other) = self.seqs.insert(name.clone(), seq) {
            panic!("{name:?} has two numbers, {other} and {seq}");
        }
        self.names.insert(seq, name);
    }

    /// Takes in what the subscriber got.
    pub fn arrived(&mut self, heard: &Heard) {
        match heard.topic.as_str() {
            "gw/bridge/event" => return self.event(&heard.json()),
            "gw/bridge/health" => {
                let health = heard.json();
                balanced(&health);
                self.sick |= health["queue"]["disk"] == "failing" && health["queue"]["trouble"].is_string();
                return;
            }
            _ => {}
        }
        let Some(seq) = heard.seq() else { return };
        if !heard.topic.starts_with("gw/probe/") {
            self.others.insert(seq);
            return;
        }
        let name = (heard.topic.clone(), number(heard.text()));
        self.known(seq, name.clone());
        assert!(!self.dead.contains(&seq), "{name:?} was refused and came: {self}");
        self.accepted.insert(seq);
        self.owed.remove(&seq);
        self.dropped.remove(&seq);
        self.unnamed.remove(&seq);
        if !self.delivered.insert(seq) {
            self.duplicates += 1;
            return;
        }
        self.recent.push(heard.at);
        let replayed = heard.user.contains_key("replayed");
        let replayed = replayed && !self.one_line;
        if self.late && name.1 < self.earlier {
            return;
        }
        let last = self.last.insert((name.0.clone(), replayed, name.1 < self.earlier), name.1);
        assert!(last.is_none_or(|l| l < name.1), "{name:?} came after {last:?} (replayed: {replayed})");
    }

    fn event(&mut self, event: &Json) {
        if event["event"] != "gap" {
            return;
        }
        assert!(self.may_drop, "there was room for everything: {event}");
        let figure = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("{name} of {event}"));
        let (from, to, count) = (figure("from"), figure("to"), figure("count"));
        assert!(from <= to && (1..=to - from + 1).contains(&count), "{event}");
        let reason = event["reason"].as_str().unwrap().to_owned();
        if !self.gaps.insert((from, to, reason)) {
            return;
        }
        self.gap_count += count;
        if count < to - from + 1 {
            // Too many to be told one by one; how many of these is exact.
            self.vague.push((from, to, count));
            return;
        }
        self.lost.extend(from..=to);
        let lost: Vec<u64> = self.owed.range(from..=to).copied().collect();
        for seq in lost {
            self.owed.remove(&seq);
            self.dropped.insert(seq);
        }
        let named: Vec<u64> = self.unnamed.range(from..=to).map(|(s, _)| *s).collect();
        for seq in named {
            self.unnamed.remove(&seq);
            self.dropped.insert(seq);
        }
    }

    /// These are accepted: they were on disk, and what was asked of the disk for them has been answered.
    pub fn accept(&mut self, kept: &[Kept]) {
        for kept in kept {
            let seq = kept.seq.unwrap();
            self.known(seq, name_of(kept));
            if !self.accepted.insert(seq) || self.delivered.contains(&seq) || self.dead.contains(&seq) {
                continue;
            }
            if self.lost.contains(&seq) {
                self.dropped.insert(seq)
            } else {
                self.owed.insert(seq)
            };
        }
    }

    /// What the broker refused for good, as the dead-letter files of the queue say it.
    pub fn buried(&mut self, dir: &Path) {
        for name in ["dead-letter.1.ndjson", "dead-letter.ndjson"] {
            let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            // The last line may be torn.
            for json in text.lines().filter_map(|l| serde_json::from_str::<Json>(l).ok()) {
                if let Some(seq) = json["seq"].as_u64() {
                    assert!(!self.delivered.contains(&seq), "{json} came as well: {self}");
                    self.accepted.insert(seq);
                    self.dropped.remove(&seq);
                    self.unnamed.remove(&seq);
                    self.owed.remove(&seq);
                    self.dead.insert(seq);
                }
            }
        }
    }

    /// The daemon is dead and this is its directory: nothing accepted may be missing. `window`: how many of
    /// those that were delivered since the last audit may be there as well, and would come again.
    pub fn audit(&mut self, when: &str, dir: &Path, window: usize) {
        self.buried(dir);
        for gap in gaps_on_disk(dir) {
            self.event(&gap);
        }
        let queued = on_disk(dir);
        self.accept(&queued);
        let here: BTreeSet<u64> = queued.iter().map(|k| k.seq.unwrap()).collect();
        let missing: Vec<u64> = self.owed.difference(&here).copied().collect();
        assert!(
            missing.is_empty() || self.may_drop,
            "LOST {when}: {} readings, such as {:?}; {self}",
            missing.len(),
            missing.iter().take(5).map(|s| (s, &self.names[s])).collect::<Vec<_>>()
        );
        for seq in missing {
            self.owed.remove(&seq);
            self.unnamed.insert(seq, when.to_owned());
        }
        let doubled: BTreeSet<u64> = here.iter().filter(|s| self.delivered.contains(s)).copied().collect();
        let fresh = doubled.difference(&self.doubled).count();
        assert!(fresh <= window, "{fresh} readings would come twice, more than the window of {window}; {self}");
        self.most_doubled = self.most_doubled.max(fresh);
        self.doubled = doubled;
        self.recent.clear();
        let gone = self.delivered.len() + self.dead.len() + self.dropped.len() + self.unnamed.len();
        assert_eq!(self.accepted.len(), gone + self.owed.len(), "{when}: {self}");
    }

    /// Nothing is missing for which no gap has been told.
    pub fn settled(&mut self) {
        let missing: Vec<u64> = self.unnamed.keys().copied().collect();
        self.unnamed.retain(|s, _| !self.vague.iter().any(|(from, to, _)| (from..=to).contains(&s)));
        let named = missing.len() - self.unnamed.len();
        assert!(named as u64 <= self.vague.iter().map(|v| v.2).sum(), "more is missing than gaps say: {self}");
        self.dropped.extend(missing.iter().filter(|s| !self.unnamed.contains_key(s)));
        let n = self.unnamed.len();
        assert!(n == 0, "LOST without a word: {n} readings, such as {:?}; {self}", self.unnamed.first_key_value());
        assert!(self.owed.is_empty(), "{self}");
    }

    /// So many came first at or after this moment, and after the last audit.
    pub fn came_since(&self, since: Instant) -> usize {
        self.recent.iter().filter(|at| **at >= since).count()
    }

    /// Whether this number has come.
    pub fn has_come(&self, n: u64) -> bool {
        ["a", "b", "c"].iter().any(|point| {
            let name = (format!("gw/probe/{point}"), n);
            self.seqs.get(&name).is_some_and(|seq| self.delivered.contains(seq))
        })
    }

    /// Numbers that should have come and have not, those aside that the broker refuses.
    pub fn uncome(&self, numbers: std::ops::Range<u64>) -> Vec<u64> {
        let came: HashSet<u64> =
            self.seqs.iter().filter(|(_, seq)| self.delivered.contains(seq)).map(|((_, n), _)| *n).collect();
        numbers.filter(|n| n % 16 != 15 && !came.contains(n)).collect()
    }

    /// After one run that was not cut: every number between the first and the last that came is accounted for, and
    /// no gap names what came or was refused.
    pub fn exact(&self, when: &str) {
        let (first, last) = (self.delivered.iter().min().unwrap(), self.delivered.iter().max().unwrap());
        let here = |s: &u64| self.delivered.contains(s) || self.dead.contains(s) || self.others.contains(s);
        let silent: Vec<u64> = (*first..*last).filter(|s| !here(s) && !self.lost.contains(s)).collect();
        let covered = |s: &u64| self.vague.iter().any(|(from, to, _)| (from..=to).contains(&s));
        assert!(silent.iter().all(covered), "{when}: lost without a word: {silent:?}; {self}");
        let counted: u64 = self.vague.iter().map(|v| v.2).sum();
        assert_eq!(silent.len() as u64, counted, "{when}: {:?} and {silent:?}; {self}", self.vague);
        let wrong: Vec<&u64> = self.lost.iter().filter(|s| here(s)).collect();
        // What was in flight when the link broke may have come, and nobody told the daemon.
        assert!(wrong.len() <= 64, "{when}: called lost and not lost: {wrong:?}; {self}");
    }
}

/// The daemon's own books, as `bridge/health` tells them.
pub fn balanced(health: &Json) {
    let q = &health["queue"];
    let n = |name: &str| q[name].as_u64().unwrap_or_else(|| panic!("{name} of {health}"));
    let (taken, gone) =
        (n("accepted") + n("found"), n("delivered") + n("waiting") + n("dead") + n("dropped_total") + n("replaced"));
    assert_eq!(taken, gone, "the daemon's own books do not balance: {q}");
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "written {}, accepted {} = delivered {} + queued {} + dead-lettered {} + dropped {}; came twice {}",
            self.written,
            self.accepted.len(),
            self.delivered.len(),
            self.owed.len(),
            self.dead.len(),
            self.dropped.len(),
            self.duplicates
        )
    }
}
