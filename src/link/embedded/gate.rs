//! Between a client and rumqttd: what the client's user may not do does not get through, and is answered here; and who
//! speaks MQTT 3.1.1 is brought to MQTT 5 and back. Pure.
//!
//! A publish that is not allowed is refused with MQTT 5's "not authorized"; MQTT 3.1.1 has no such word, so there it is
//! acknowledged and thrown away, as mosquitto does. A subscription that is not allowed is refused in both.
//!
//! The other language is needed because rumqttd's own 3.1.1 panics at the first message that came with properties of
//! MQTT 5, as every message of pinpost's does. The two differ little: 5 has properties in most packets and reasons in
//! answers (both standards, chapter 3).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::packet::{Bad, Fields, packet};
use crate::link::guard::User;

/// "Not authorized" of MQTT 5 (section 2.4), and the only word that 3.1.1 has for a refused subscription.
const NOT_ALLOWED: u8 = 0x87;
const REFUSED_V4: u8 = 0x80;
/// Subscriptions whose answer is awaited.
const SUBSCRIBING: usize = 256;

/// One connection's gate.
#[derive(Debug)]
pub(super) struct Gate {
    v5: bool,
    /// `None`: everything is allowed.
    user: Option<Arc<User>>,
    /// Whether the topic behind an alias (MQTT 5, section 3.3.2.3.4) may be published to.
    aliases: HashMap<u16, bool>,
    /// Refused publishes of QoS 2 that a client of 3.1.1 goes on with.
    unheard: HashSet<u16>,
    /// Which filters of a SUBSCRIBE were let through.
    subscribing: HashMap<u16, Vec<bool>>,
}

/// What becomes of a packet of the client's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Up {
    /// It goes on as it is.
    Pass,
    /// This goes on in its place.
    Instead(Vec<u8>),
    /// It does not go on; this is the answer.
    Answer(Vec<u8>),
    /// It does not go on.
    Nothing,
}

impl Gate {
    pub fn new(v5: bool, user: Option<Arc<User>>) -> Gate {
        Gate { v5, user, aliases: HashMap::new(), unheard: HashSet::new(), subscribing: HashMap::new() }
    }

    /// A packet on its way to the broker.
    pub fn up(&mut self, bytes: &[u8]) -> Result<Up, Bad> {
        Ok(match self.judge(bytes)? {
            Up::Pass if !self.v5 => Up::Instead(to_v5(bytes)?),
            Up::Instead(bytes) if !self.v5 => Up::Instead(to_v5(&bytes)?),
            verdict => verdict,
        })
    }

    /// A packet on its way to the client; `None`: its version of MQTT does not know it.
    pub fn down(&mut self, bytes: Bytes) -> Result<Option<Bytes>, Bad> {
        let bytes = match self.v5 {
            true => Some(bytes),
            false => from_v5(bytes)?,
        };
        bytes.map(|bytes| self.answered(bytes)).transpose()
    }

    fn judge(&mut self, bytes: &[u8]) -> Result<Up, Bad> {
        let head = *bytes.first().ok_or(Bad)?;
        match head >> 4 {
            // only the first packet may be a CONNECT
            1 => Err(Bad),
            3 => self.publish(head, bytes),
            6 => {
                let id = Fields::of(bytes)?.u16()?;
                Ok(if self.unheard.remove(&id) { Up::Answer(packet(0x70, &[&id.to_be_bytes()])) } else { Up::Pass })
            }
            8 => self.subscribe(head, bytes),
            _ => Ok(Up::Pass),
        }
    }

    fn publish(&mut self, head: u8, bytes: &[u8]) -> Result<Up, Bad> {
        let mut fields = Fields::of(bytes)?;
        let qos = head >> 1 & 3;
        let topic = fields.text()?;
        let id = if qos > 0 { fields.u16()? } else { 0 };
        let alias = if self.v5 { alias(fields.properties()?)? } else { None };
        let allowed = match alias {
            Some(alias) if topic.is_empty() => *self.aliases.get(&alias).ok_or(Bad)?,
            _ => self.user.as_ref().is_none_or(|user| user.may_publish(topic)),
        };
        if let Some(alias) = alias {
            self.aliases.insert(alias, allowed);
        }
        if allowed {
            // the id is in use anew
            self.unheard.remove(&id);
            return Ok(Up::Pass);
        }
        let id_bytes = id.to_be_bytes();
        let answer = if qos == 2 { 0x50 } else { 0x40 };
        Ok(match (qos, self.v5) {
            (0, _) => Up::Nothing,
            (3, _) => return Err(Bad),
            (_, true) => Up::Answer(packet(answer, &[&id_bytes, &[NOT_ALLOWED]])),
            (_, false) => {
                if qos == 2 {
                    self.unheard.insert(id);
                }
                Up::Answer(packet(answer, &[&id_bytes]))
            }
        })
    }

    fn subscribe(&mut self, head: u8, bytes: &[u8]) -> Result<Up, Bad> {
        let mut fields = Fields::of(bytes)?;
        let whole = fields.rest();
        let id = fields.u16()?;
        if self.v5 {
            fields.properties()?;
        }
        let before = whole.get(..whole.len() - fields.rest().len()).ok_or(Bad)?;
        let (mut verdicts, mut through) = (Vec::new(), Vec::new());
        while !fields.is_empty() {
            let (start, mut entry) = (fields.rest(), fields);
            let filter = entry.text()?;
            entry.u8()?;
            fields = entry;
            let allowed = self.user.as_ref().is_none_or(|user| user.may_subscribe(filter));
            verdicts.push(allowed);
            if allowed {
                through.extend_from_slice(start.get(..start.len() - fields.rest().len()).ok_or(Bad)?);
            }
        }
        if verdicts.iter().all(|allowed| *allowed) {
            return Ok(Up::Pass);
        }
        if through.is_empty() {
            let codes = vec![self.refused(); verdicts.len()];
            let properties: &[u8] = if self.v5 { &[0] } else { &[] };
            return Ok(Up::Answer(packet(0x90, &[&id.to_be_bytes(), properties, &codes])));
        }
        if self.subscribing.len() >= SUBSCRIBING {
            return Err(Bad);
        }
        self.subscribing.insert(id, verdicts);
        Ok(Up::Instead(packet(head, &[before, &through])))
    }

    fn refused(&self) -> u8 {
        if self.v5 { NOT_ALLOWED } else { REFUSED_V4 }
    }

    /// In the answer to a subscription the filters that were held back are refused.
    fn answered(&mut self, bytes: Bytes) -> Result<Bytes, Bad> {
        if self.subscribing.is_empty() || bytes.first() != Some(&0x90) {
            return Ok(bytes);
        }
        let mut fields = Fields::of(&bytes)?;
        let whole = fields.rest();
        let id = fields.u16()?;
        let Some(verdicts) = self.subscribing.remove(&id) else { return Ok(bytes) };
        if self.v5 {
            fields.properties()?;
        }
        let before = whole.get(..whole.len() - fields.rest().len()).ok_or(Bad)?;
        let mut given = fields.rest().iter().copied();
        let refused = self.refused();
        let codes: Vec<u8> =
            verdicts.iter().map(|allowed| if *allowed { given.next().unwrap_or(refused) } else { refused }).collect();
        Ok(packet(0x90, &[before, &codes]).into())
    }
}

/// A packet of a 3.1.1 client's, in MQTT 5: with no properties.
fn to_v5(bytes: &[u8]) -> Result<Vec<u8>, Bad> {
    let head = *bytes.first().ok_or(Bad)?;
    let mut fields = Fields::of(bytes)?;
    let whole = fields.rest();
    match head >> 4 {
        3 => {
            fields.bytes()?;
            if head >> 1 & 3 > 0 {
                fields.u16()?;
            }
        }
        8 | 10 => drop(fields.u16()?),
        _ => return Ok(bytes.to_vec()),
    }
    let before = whole.get(..whole.len() - fields.rest().len()).ok_or(Bad)?;
    Ok(packet(head, &[before, &[0], fields.rest()]))
}

/// A packet of MQTT 5 for a 3.1.1 client: without properties and reasons. `None`: 3.1.1 has no such packet.
fn from_v5(bytes: Bytes) -> Result<Option<Bytes>, Bad> {
    let head = *bytes.first().ok_or(Bad)?;
    let mut fields = Fields::of(&bytes)?;
    let whole = fields.rest();
    let made = match head >> 4 {
        2 => {
            let present = fields.u8()?;
            let code = match fields.u8()? {
                0 => 0,
                0x84 => 1,
                0x85 => 2,
                0x88 => 3,
                0x86 => 4,
                _ => 5,
            };
            packet(head, &[&[present, code]])
        }
        3 => {
            fields.bytes()?;
            if head >> 1 & 3 > 0 {
                fields.u16()?;
            }
            let before = whole.get(..whole.len() - fields.rest().len()).ok_or(Bad)?;
            fields.properties()?;
            packet(head, &[before, fields.rest()])
        }
        4..=7 | 11 => packet(head, &[fields.take(2)?]),
        9 => {
            let id = fields.take(2)?;
            fields.properties()?;
            let codes: Vec<u8> =
                fields.rest().iter().map(|code| if *code < 0x80 { *code } else { REFUSED_V4 }).collect();
            packet(head, &[id, &codes])
        }
        14 | 15 => return Ok(None),
        _ => return Ok(Some(bytes)),
    };
    Ok(Some(made.into()))
}

/// The topic alias among the properties of a PUBLISH.
fn alias(properties: &[u8]) -> Result<Option<u16>, Bad> {
    // a packet of them, so that they are read like one
    let whole = packet(0, &[properties]);
    let mut fields = Fields::of(&whole)?;
    let mut found = None;
    while !fields.is_empty() {
        match fields.u8()? {
            0x01 => drop(fields.u8()?),
            0x02 => drop(fields.take(4)?),
            0x03 | 0x08 | 0x09 => drop(fields.bytes()?),
            0x0b => drop(fields.varint()?),
            0x23 => found = Some(fields.u16()?),
            0x26 => {
                fields.bytes()?;
                fields.bytes()?;
            }
            _ => return Err(Bad),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::guard::Hash;
    use proptest::prelude::*;

    fn gate(v5: bool) -> Gate {
        let of = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let hash = Hash::new(b"x").unwrap();
        Gate::new(v5, Some(Arc::new(User { hash, publish: of(&["ok/#"]), subscribe: of(&["in/#"]) })))
    }
    fn text(s: &str) -> Vec<u8> {
        [&(s.len() as u16).to_be_bytes(), s.as_bytes()].concat()
    }
    fn publish(v5: bool, qos: u8, topic: &str, properties: &[u8]) -> Vec<u8> {
        let id: &[u8] = if qos > 0 { &[0, 7] } else { &[] };
        let length = [properties.len() as u8];
        let length: &[u8] = if v5 { &length } else { &[] };
        packet(0x30 | qos << 1, &[&text(topic), id, length, properties, b"hello"])
    }

    #[test]
    fn a_publish_that_is_not_allowed_is_answered_in_the_words_of_its_version() {
        for v5 in [false, true] {
            let mut g = gate(v5);
            for qos in 0..3 {
                assert_eq!(g.judge(&publish(v5, qos, "ok/a", &[])), Ok(Up::Pass));
            }
            assert_eq!(g.judge(&publish(v5, 0, "no", &[])), Ok(Up::Nothing));
            assert_eq!(g.judge(&publish(v5, 3, "no", &[])), Err(Bad));
        }
        let mut g = gate(true);
        assert_eq!(g.judge(&publish(true, 1, "no", &[])), Ok(Up::Answer(vec![0x40, 3, 0, 7, 0x87])));
        assert_eq!(g.judge(&publish(true, 2, "no", &[])), Ok(Up::Answer(vec![0x50, 3, 0, 7, 0x87])));
        let mut g = gate(false);
        assert_eq!(g.judge(&publish(false, 1, "no", &[])), Ok(Up::Answer(vec![0x40, 2, 0, 7])));
        assert_eq!(g.judge(&publish(false, 2, "no", &[])), Ok(Up::Answer(vec![0x50, 2, 0, 7])));
        let release = packet(0x62, &[&[0, 7]]);
        assert_eq!(g.judge(&release), Ok(Up::Answer(vec![0x70, 2, 0, 7])), "the exchange is brought to its end");
        assert_eq!(g.judge(&release), Ok(Up::Pass));
        assert_eq!(g.judge(&[0x10, 0]), Err(Bad));
    }

    #[test]
    fn an_alias_is_worth_what_its_topic_is_worth() {
        let mut g = gate(true);
        let alias = [0x23, 0, 9];
        assert_eq!(g.judge(&publish(true, 0, "", &alias)), Err(Bad), "never given");
        assert_eq!(g.judge(&publish(true, 0, "ok/a", &alias)), Ok(Up::Pass));
        assert_eq!(g.judge(&publish(true, 0, "", &alias)), Ok(Up::Pass));
        let with_more = [&[0x01, 1, 0x26][..], &text("k"), &text("v"), &alias].concat();
        assert_eq!(g.judge(&publish(true, 0, "no", &with_more)), Ok(Up::Nothing));
        assert_eq!(g.judge(&publish(true, 0, "", &alias)), Ok(Up::Nothing), "the broker has the old topic behind it");
    }

    #[test]
    fn of_a_subscription_only_what_is_allowed_goes_on_and_the_answer_tells_of_all() {
        for v5 in [false, true] {
            let none: &[u8] = if v5 { &[0] } else { &[] };
            let refused = if v5 { 0x87 } else { 0x80 };
            let subscribe = |filters: &[&str]| {
                let list: Vec<u8> = filters.iter().flat_map(|f| [&text(f)[..], &[1]].concat()).collect();
                packet(0x82, &[&[0, 5], none, &list])
            };
            let mut g = gate(v5);
            assert_eq!(g.judge(&subscribe(&["in/a", "in/#"])), Ok(Up::Pass));
            let all = packet(0x90, &[&[0, 5], none, &[refused, refused]]);
            assert_eq!(g.judge(&subscribe(&["#", "x"])), Ok(Up::Answer(all)));
            let through = subscribe(&["in/a", "in/b"]);
            assert_eq!(g.judge(&subscribe(&["#", "in/a", "x", "in/b"])), Ok(Up::Instead(through)));
            let answer: Bytes = packet(0x90, &[&[0, 5], none, &[1, 0]]).into();
            let other: Bytes = packet(0x90, &[&[0, 6], none, &[1]]).into();
            assert_eq!(g.answered(other.clone()), Ok(other));
            let whole = packet(0x90, &[&[0, 5], none, &[refused, 1, refused, 0]]);
            assert_eq!(g.answered(answer.clone()).unwrap(), whole);
            assert_eq!(g.answered(answer.clone()).unwrap(), answer);
        }
    }

    #[test]
    fn a_client_of_3_1_1_speaks_mqtt_5_behind_the_gate_and_hears_its_own() {
        let mut g = Gate::new(false, None);
        for qos in 0..3 {
            let Ok(Up::Instead(up)) = g.up(&publish(false, qos, "a", &[])) else { panic!("{qos}") };
            assert_eq!(up, publish(true, qos, "a", &[]));
            let down = publish(true, qos, "a", &[0x26, 0, 1, b'k', 0, 1, b'v']);
            assert_eq!(g.down(down.into()).unwrap().unwrap(), publish(false, qos, "a", &[]));
        }
        let subscribe = |v5: bool| packet(0x82, &[&[0, 5], if v5 { &[0] } else { &[] }, &text("a/#"), &[1]]);
        assert_eq!(g.up(&subscribe(false)), Ok(Up::Instead(subscribe(true))));
        let unsubscribe = |v5: bool| packet(0xa2, &[&[0, 5], if v5 { &[0] } else { &[] }, &text("a/#")]);
        assert_eq!(g.up(&unsubscribe(false)), Ok(Up::Instead(unsubscribe(true))));
        for (v5, v4) in [
            (&[0x20, 6, 1, 0, 3, 0x21, 0, 20][..], Some(&[0x20, 2, 1, 0][..])),
            (&[0x20, 3, 0, 0x86, 0], Some(&[0x20, 2, 0, 4])),
            (&[0x40, 4, 0, 7, 0x10, 0], Some(&[0x40, 2, 0, 7])),
            (&[0x50, 2, 0, 7], Some(&[0x50, 2, 0, 7])),
            (&[0x90, 5, 0, 5, 0, 1, 0x87], Some(&[0x90, 4, 0, 5, 1, 0x80])),
            (&[0xb0, 4, 0, 5, 0, 0], Some(&[0xb0, 2, 0, 5])),
            (&[0xd0, 0], Some(&[0xd0, 0])),
            (&[0xe0, 2, 0x8e, 0], None),
        ] {
            assert_eq!(g.down(Bytes::from_static(v5)), Ok(v4.map(Bytes::from_static)), "{v5:x?}");
        }
        assert_eq!(g.up(&[0xe0, 0]), Ok(Up::Instead(vec![0xe0, 0])));
    }

    proptest! {
        #[test]
        fn no_packet_panics(head: u8, body in proptest::collection::vec(any::<u8>(), 0..60), v5: bool) {
            let mut g = gate_of(v5);
            let bytes = packet(head, &[&body]);
            let _ = g.up(&bytes);
            let _ = g.down(bytes.into());
        }
        /// Whatever is asked, a topic that is not allowed never goes through.
        #[test]
        fn nothing_forbidden_goes_through(topic in "(ok|no|in)(/[a-z+#]{0,3}){0,3}", qos in 0u8..3, v5: bool) {
            let mut g = gate_of(v5);
            if g.judge(&publish(v5, qos, &topic, &[])) == Ok(Up::Pass) {
                prop_assert!(topic == "ok" || topic.starts_with("ok/"));
            }
        }
    }

    /// The same without a hash that takes its time.
    fn gate_of(v5: bool) -> Gate {
        static USER: std::sync::OnceLock<Option<Arc<User>>> = std::sync::OnceLock::new();
        Gate::new(v5, USER.get_or_init(|| gate(true).user).clone())
    }
}
