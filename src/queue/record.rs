//! ONE RECORD AS BYTES, and back. See the prose in `mod.rs`.
//!
//! Decoding promises: any bytes are answered, never with a panic; nothing is taken for a record whose checksum does
//! not fit, and the checksum is salted with the segment's name, so that a copy of a record inside another's body, or
//! left behind by another file, is never taken for one.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Keep, Stamp};

/// Bytes before a record's payload: length with its check, and the CRC.
pub const HEAD: usize = 8;
/// Bytes that a usual record takes beside its body.
pub const USUAL: u64 = 24;
/// Greatest payload: 22 bits of length.
pub const MAX_PAYLOAD: usize = (1 << 22) - 1;
/// Greatest body that is taken in.
pub const MAX_BODY: usize = MAX_PAYLOAD - 4096;
/// Longest source name that is kept, bytes.
pub const MAX_SOURCE: usize = 1024;

const KIND: u8 = 0x07;
/// A record of the queue.
pub const ITEM: u8 = 1;
/// What a source number of this segment stands for.
pub const SOURCE: u8 = 2;
/// The last entry of a finished segment.
pub const FOOTER: u8 = 3;
/// How many records of which lane a finished segment has.
pub const LANES: u8 = 4;
const HAS_SEQ: u8 = 0x08;
const HAS_TTL: u8 = 0x10;
const FOREIGN: u8 = 0x20;
const SYNCED: u8 = 0x40;
const IN_ORDER: u8 = 0x80;

/// A record's unchanging part, shared between the queue and the thread that writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Place in the order of arrival.
    pub token: u64,
    /// Sequence number of a reading.
    pub seq: Option<u64>,
    /// Records of one lane never overtake each other.
    pub lane: u64,
    /// What is kept while the link is down.
    pub keep: Keep,
    /// Not to be overtaken, even by live ones of its lane.
    pub in_order: bool,
    /// Life in milliseconds from its arrival.
    pub ttl: Option<u64>,
    /// When it was taken.
    pub stamp: Stamp,
    /// Name for reports of loss.
    pub source: Arc<str>,
    /// The message.
    pub body: Vec<u8>,
}

/// What the deltas of a segment's records count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Base {
    /// Token of the first record; also in the file's name.
    pub token: u64,
    /// Sequence number at the start.
    pub seq: u64,
    /// Stamp of the first record.
    pub stamp: Stamp,
    /// What the segment before it in the chain held when it was finished.
    pub before: Before,
}

/// A finished segment, as the next one's header remembers it, lest its end be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Before {
    /// The low half of its first token.
    pub token: u32,
    /// Its records; 0: not known.
    pub count: u32,
}

/// A source as the records of one segment name it by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Name for reports.
    pub name: Arc<str>,
    /// Lane.
    pub lane: u64,
    /// What is kept.
    pub keep: Keep,
}

/// Appends `v` in base 128, low bits first.
pub fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn put_signed(out: &mut Vec<u8>, v: i64) {
    put_varint(out, ((v << 1) ^ (v >> 63)) as u64);
}

/// Reads numbers off the front of a slice; `None` once it is too short.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }
    /// Little-endian, four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
    /// Little-endian, eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
    /// Base 128.
    pub fn varint(&mut self) -> Option<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Some(v);
            }
        }
        None
    }
    fn signed(&mut self) -> Option<i64> {
        let v = self.varint()?;
        Some((v >> 1) as i64 ^ -((v & 1) as i64))
    }
}

/// Appends a stamp in full, 25 bytes.
pub fn put_stamp(out: &mut Vec<u8>, s: &Stamp) {
    out.extend_from_slice(&s.wall.to_le_bytes());
    out.extend_from_slice(&s.mono.to_le_bytes());
    out.extend_from_slice(&s.boot.to_le_bytes());
    out.push(u8::from(s.synced));
}

/// Reads what [`put_stamp`] wrote.
pub fn get_stamp(c: &mut Cursor) -> Option<Stamp> {
    Some(Stamp { wall: c.u64()? as i64, mono: c.u64()?, boot: c.u64()?, synced: c.u8()? != 0 })
}

/// The ten bits that tell a length from chance.
fn check(len: u32, salt: u32) -> u32 {
    (len ^ salt).wrapping_mul(0x9E37_79B1) >> 22
}

fn crc(salt: u32, head: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &head.to_le_bytes()), payload)
}

/// Appends one entry; `fill` writes its payload.
pub fn put_entry(out: &mut Vec<u8>, salt: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD]);
    fill(out);
    let len = (out.len() - at - HEAD).min(MAX_PAYLOAD) as u32;
    let head = len | check(len, salt) << 22;
    let crc = crc(salt, head, out.get(at + HEAD..).unwrap_or_default());
    if let Some(place) = out.get_mut(at..at + HEAD) {
        place[..4].copy_from_slice(&head.to_le_bytes());
        place[4..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// What lies at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A good entry's payload.
    Good(&'a [u8]),
    /// A zero where an entry would begin: nothing was written here yet.
    Blank,
    /// A plausible length whose bytes are not all there.
    Short,
    /// Not an entry.
    Bad,
}

/// Looks at the front of `bytes`. `trust` skips the checksum: a planted bug, see `Faults`.
pub fn find(bytes: &[u8], salt: u32, trust: bool) -> Found<'_> {
    let mut c = Cursor(bytes);
    let Some(head) = c.u32() else {
        return if bytes.iter().all(|b| *b == 0) { Found::Blank } else { Found::Short };
    };
    if head == 0 {
        return Found::Blank;
    }
    let len = head & MAX_PAYLOAD as u32;
    if head >> 22 != check(len, salt) || len == 0 {
        return Found::Bad;
    }
    let (Some(sum), Some(payload)) = (c.u32(), c.bytes(len as usize)) else { return Found::Short };
    if trust || sum == crc(salt, head, payload) { Found::Good(payload) } else { Found::Bad }
}

/// What is there of a record's payload at the front of `bytes`, its checksum wrong or its end missing.
pub fn guess(bytes: &[u8], salt: u32) -> Option<&[u8]> {
    let mut c = Cursor(bytes);
    let head = c.u32()?;
    let len = head & MAX_PAYLOAD as u32;
    c.u32()?;
    let payload = c.0.get(..len as usize).unwrap_or(c.0);
    (head >> 22 == check(len, salt) && len > 0 && kind(payload) == ITEM).then_some(payload)
}

/// Which kind of entry a payload is.
pub fn kind(payload: &[u8]) -> u8 {
    payload.first().map_or(0, |b| b & KIND)
}

/// The payload that gives `source` the number `id`.
pub fn put_source(out: &mut Vec<u8>, id: u64, source: &Source) {
    out.push(SOURCE);
    put_varint(out, id);
    out.extend_from_slice(&source.lane.to_le_bytes());
    out.push(match source.keep {
        Keep::All => 0,
        Keep::Latest => 1,
        Keep::None => 2,
    });
    let name = source.name.as_bytes();
    out.extend_from_slice(name.get(..MAX_SOURCE).unwrap_or(name));
}

/// Reads what [`put_source`] wrote.
pub fn get_source(payload: &[u8]) -> Option<(u64, Source)> {
    let mut c = Cursor(payload.get(1..)?);
    let (id, lane, keep) = (c.varint()?, c.u64()?, c.u8()?);
    let keep = match keep {
        0 => Keep::All,
        1 => Keep::Latest,
        _ => Keep::None,
    };
    Some((id, Source { name: String::from_utf8_lossy(c.0).into(), lane, keep }))
}

/// The payload that says how many records of each lane there are.
pub fn put_lanes(out: &mut Vec<u8>, lanes: &HashMap<u64, u32>) {
    out.push(LANES);
    for (lane, n) in lanes {
        out.extend_from_slice(&lane.to_le_bytes());
        put_varint(out, u64::from(*n));
    }
}

/// Reads what [`put_lanes`] wrote.
pub fn get_lanes(payload: &[u8]) -> Option<HashMap<u64, u32>> {
    let mut c = Cursor(payload.get(1..).filter(|_| kind(payload) == LANES)?);
    let mut lanes = HashMap::new();
    while !c.0.is_empty() {
        lanes.insert(c.u64()?, u32::try_from(c.varint()?).ok()?);
    }
    Some(lanes)
}

/// The payload of a record: the `index`th of its segment, of source number `source`.
pub fn put_item(out: &mut Vec<u8>, base: &Base, index: u32, source: u64, item: &Item) {
    let near = item.stamp.boot == base.stamp.boot;
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.push(
        ITEM | flag(item.seq.is_some(), HAS_SEQ)
            | flag(item.ttl.is_some(), HAS_TTL)
            | flag(!near, FOREIGN)
            | flag(item.stamp.synced, SYNCED)
            | flag(item.in_order, IN_ORDER),
    );
    let index64 = u64::from(index);
    put_varint(out, index64);
    put_varint(out, source);
    put_signed(out, item.token.wrapping_sub(base.token).wrapping_sub(index64) as i64);
    if let Some(seq) = item.seq {
        put_signed(out, seq.wrapping_sub(base.seq).wrapping_sub(index64) as i64);
    }
    if let Some(ttl) = item.ttl {
        put_varint(out, ttl);
    }
    if near {
        let wall = item.stamp.wall.wrapping_sub(base.stamp.wall);
        put_signed(out, wall);
        put_signed(out, wall.wrapping_sub(item.stamp.mono.wrapping_sub(base.stamp.mono) as i64));
    } else {
        put_stamp(out, &item.stamp);
    }
    out.extend_from_slice(&item.body);
}

/// Reads what [`put_item`] wrote: its index and itself. A source number nobody defined (its definition was
/// corrupt) gives a nameless source; the message itself is whole.
pub fn get_item(
    payload: &[u8],
    base: &Base,
    keep: Keep,
    source: impl Fn(u64) -> Option<Source>,
) -> Option<(u32, Item)> {
    let mut c = Cursor(payload);
    let flags = c.u8()?;
    let index = u32::try_from(c.varint()?).ok()?;
    let index64 = u64::from(index);
    let id = c.varint()?;
    let token = base.token.wrapping_add(index64).wrapping_add(c.signed()? as u64);
    let seq = match flags & HAS_SEQ {
        0 => None,
        _ => Some(base.seq.wrapping_add(index64).wrapping_add(c.signed()? as u64)),
    };
    let ttl = match flags & HAS_TTL {
        0 => None,
        _ => Some(c.varint()?),
    };
    let mut stamp = if flags & FOREIGN == 0 {
        let wall = c.signed()?;
        let mono = wall.wrapping_sub(c.signed()?);
        Stamp {
            wall: base.stamp.wall.wrapping_add(wall),
            mono: base.stamp.mono.wrapping_add(mono as u64),
            boot: base.stamp.boot,
            synced: false,
        }
    } else {
        get_stamp(&mut c)?
    };
    stamp.synced = flags & SYNCED != 0;
    let source = source(id).unwrap_or_else(|| Source { name: "".into(), lane: super::lanes::stray(id), keep });
    let (lane, keep, in_order) = (source.lane, source.keep, flags & IN_ORDER != 0);
    let item = Item { token, seq, lane, keep, in_order, ttl, stamp, source: source.name, body: c.0.to_vec() };
    Some((index, item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(token: u64, seq: Option<u64>, ttl: Option<u64>, boot: u64, body: Vec<u8>) -> Item {
        Item {
            token,
            seq,
            lane: 7,
            keep: Keep::All,
            in_order: ttl.is_some(),
            ttl,
            stamp: Stamp { wall: 1_700_000_000_123, mono: 99, boot, synced: true },
            source: "weather/temperature".into(),
            body,
        }
    }

    fn round(base: &Base, index: u32, it: &Item, salt: u32) -> Option<(u32, Item)> {
        let mut out = Vec::new();
        put_entry(&mut out, salt, |o| put_item(o, base, index, 0, it));
        let source = Source { name: it.source.clone(), lane: it.lane, keep: it.keep };
        match find(&out, salt, false) {
            Found::Good(p) => get_item(p, base, Keep::All, |_| Some(source.clone())),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn lanes_come_back_as_they_were(lanes in proptest::collection::hash_map(any::<u64>(), any::<u32>(), 0..50)) {
            let mut out = Vec::new();
            put_lanes(&mut out, &lanes);
            prop_assert_eq!(get_lanes(&out), Some(lanes));
        }

        #[test]
        fn a_record_comes_back_as_it_was(token in any::<u64>(), seq in any::<Option<u64>>(), ttl in any::<Option<u64>>(),
            boot in 0u64..3, index in any::<u32>(), salt in any::<u32>(), body in proptest::collection::vec(any::<u8>(), 0..300),
            bt in any::<u64>(), bs in any::<u64>(), bw in any::<i64>(), bm in any::<u64>()) {
            let base = Base { token: bt, seq: bs, stamp: Stamp { wall: bw, mono: bm, boot: 1, synced: false }, ..Base::default() };
            let it = item(token, seq, ttl, boot, body);
            prop_assert_eq!(round(&base, index, &it, salt), Some((index, it)));
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), salt in any::<u32>()) {
            let base = Base::default();
            for trust in [false, true] {
                if let Found::Good(p) = find(&bytes, salt, trust) {
                    let _ = (get_item(p, &base, Keep::All, |_| None), get_source(p), kind(p));
                }
            }
            let _ = (get_item(&bytes, &base, Keep::All, |_| None), get_source(&bytes), get_lanes(&bytes), guess(&bytes, salt));
        }

        #[test]
        fn one_flipped_bit_is_noticed(bit in 0usize..400) {
            let mut out = Vec::new();
            put_entry(&mut out, 5, |o| put_item(o, &Base::default(), 3, 0, &item(3, Some(3), None, 0, vec![0x55; 60])));
            let bit = bit % (out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(find(&out, 5, false), Found::Good(_)));
        }
    }

    #[test]
    fn a_record_of_another_segment_is_not_taken_for_one_of_this() {
        let mut out = Vec::new();
        put_entry(&mut out, 1, |o| put_item(o, &Base::default(), 0, 0, &item(1, None, None, 0, b"x".to_vec())));
        assert!(matches!(find(&out, 1, false), Found::Good(_)));
        assert!(!matches!(find(&out, 2, false), Found::Good(_)));
    }
}
