//! Packets of MQTT as bytes: cut out of a stream, and the few fields in them that the gate judges. Pure but for the
//! reading. What is not as the standard has it is [`Bad`], and ends its connection.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Not MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad;

impl From<Bad> for io::Error {
    fn from(_: Bad) -> io::Error {
        io::Error::other("not MQTT")
    }
}

/// A stream of packets, none larger than `most` bytes.
#[derive(Debug)]
pub(super) struct Packets {
    bytes: BytesMut,
    most: usize,
}

impl Packets {
    pub fn new(most: usize) -> Packets {
        Packets { bytes: BytesMut::new(), most }
    }

    /// Reads what is there, waiting for the first of it; false at the end of the stream. Cancel safe.
    pub async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        self.bytes.reserve(4096);
        Ok(from.read_buf(&mut self.bytes).await? > 0)
    }

    /// What was read and not taken.
    pub fn rest(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }

    /// The next packet, as soon as it is whole.
    pub fn pop(&mut self) -> Result<Option<Bytes>, Bad> {
        let mut length = 0;
        for i in 0..4 {
            let Some(byte) = self.bytes.get(1 + i) else { return Ok(None) };
            length |= usize::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                let whole = 2 + i + length;
                if whole > self.most {
                    return Err(Bad);
                }
                return Ok((self.bytes.len() >= whole).then(|| self.bytes.split_to(whole).freeze()));
            }
        }
        Err(Bad)
    }
}

/// Reads the fields of a packet, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those behind the fixed header of a whole packet.
    pub fn of(packet: &'a [u8]) -> Result<Fields<'a>, Bad> {
        let mut fields = Fields(packet.get(1..).ok_or(Bad)?);
        fields.varint()?;
        Ok(fields)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Bad> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Bad)?;
        self.0 = rest;
        Ok(head)
    }
    pub fn u8(&mut self) -> Result<u8, Bad> {
        self.take(1).map(|mut b| b.get_u8())
    }
    pub fn u16(&mut self) -> Result<u16, Bad> {
        self.take(2).map(|mut b| b.get_u16())
    }
    pub fn varint(&mut self) -> Result<usize, Bad> {
        let mut value = 0;
        for i in 0..4 {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Bad)
    }
    /// Bytes with their length before them.
    pub fn bytes(&mut self) -> Result<&'a [u8], Bad> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
    pub fn text(&mut self) -> Result<&'a str, Bad> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Bad)
    }
    /// Properties of MQTT 5 with their length before them.
    pub fn properties(&mut self) -> Result<&'a [u8], Bad> {
        let n = self.varint()?;
        self.take(n)
    }
}

/// A packet of these parts.
pub(super) fn packet(head: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut packet = Vec::with_capacity(5 + length);
    packet.push(head);
    let mut left = length;
    loop {
        let low = (left & 0x7f) as u8;
        left >>= 7;
        packet.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    parts.iter().for_each(|part| packet.extend_from_slice(part));
    packet
}

/// What a CONNECT says (MQTT 3.1.1 and 5, section 3.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connect<'a> {
    /// 4 for MQTT 3.1.1, 5 for 5; of any other nothing else is read.
    pub level: u8,
    pub id: &'a str,
    pub will: Option<&'a str>,
    pub user: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    /// The bytes before the client id and its length, and those behind it.
    around: (&'a [u8], &'a [u8]),
}

impl<'a> Connect<'a> {
    pub fn of(packet: &'a [u8]) -> Result<Connect<'a>, Bad> {
        if packet.first() != Some(&0x10) {
            return Err(Bad);
        }
        let mut fields = Fields::of(packet)?;
        let all = fields.rest();
        let name = fields.text()?;
        let level = fields.u8()?;
        match (name, level) {
            ("MQTT", 4 | 5) => {}
            ("MQTT" | "MQIsdp", _) => {
                return Ok(Connect { level, id: "", will: None, user: None, password: None, around: (&[], &[]) });
            }
            _ => return Err(Bad),
        }
        let flags = fields.u8()?;
        fields.u16()?;
        if level == 5 {
            fields.properties()?;
        }
        let before = all.get(..all.len() - fields.rest().len()).ok_or(Bad)?;
        let id = fields.text()?;
        let around = (before, fields.rest());
        let will = match flags & 0x04 != 0 {
            true => {
                if level == 5 {
                    fields.properties()?;
                }
                let topic = fields.text()?;
                fields.bytes()?;
                Some(topic)
            }
            false => None,
        };
        let user = if flags & 0x80 != 0 { Some(fields.text()?) } else { None };
        let password = if flags & 0x40 != 0 { Some(fields.bytes()?) } else { None };
        Ok(Connect { level, id, will, user, password, around })
    }

    /// The same for rumqttd: in MQTT 5, with an id that no other user can take, a keep-alive that is not 0 and none of
    /// the signs that rumqttd does not bear in ids. An empty id stays empty: then the broker gives one.
    pub fn for_broker(&self, user: Option<&str>) -> Vec<u8> {
        let id = match (self.id, user) {
            ("", _) => String::new(),
            (id, Some(user)) => format!("{}.{user}.{id}", user.len()),
            (id, None) => id.to_owned(),
        };
        let mut id = id.replace(['+', '$', '#', '/'], "_");
        let longest = (0..=usize::from(u16::MAX)).rev().find(|n| id.is_char_boundary(*n)).unwrap_or(0);
        id.truncate(longest);
        let mut before = self.around.0.to_vec();
        // name (2 + 4), level, flags, keep-alive
        if let Some(keep_alive) = before.get_mut(8..10)
            && keep_alive == [0, 0]
        {
            keep_alive.copy_from_slice(&u16::MAX.to_be_bytes());
        }
        let mut will: &[u8] = &[];
        if self.level == 4 {
            let kept = before.get(7).is_some_and(|flags| flags & 0x02 == 0);
            if let Some(level) = before.get_mut(6) {
                *level = 5;
            }
            // a session that 3.1.1 keeps has no end
            before.extend_from_slice(if kept { &[5, 0x11, 0xff, 0xff, 0xff, 0xff] } else { &[0] });
            will = if self.will.is_some() { &[0] } else { &[] };
        }
        packet(0x10, &[&before, &(id.len() as u16).to_be_bytes(), id.as_bytes(), will, self.around.1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_connect_is_read_and_comes_out_under_the_users_own_id() {
        let text = |s: &str| [&(s.len() as u16).to_be_bytes(), s.as_bytes()].concat();
        for level in [4, 5] {
            let none: &[u8] = if level == 5 { &[0] } else { &[] };
            let parts = [
                &text("MQTT")[..],
                &[level, 0b1100_0110, 0, 0],
                none,
                &text("a/b"),
                none,
                &text("will"),
                &text("gone"),
                &text("joe"),
                &text("pw"),
            ];
            let whole = packet(0x10, &parts);
            let connect = Connect::of(&whole).unwrap();
            assert_eq!((connect.level, connect.id, connect.will), (level, "a/b", Some("will")));
            assert_eq!((connect.user, connect.password), (Some("joe"), Some(&b"pw"[..])));
            for (user, id) in [(Some("joe"), "3.joe.a_b"), (None, "a_b")] {
                let ours = connect.for_broker(user);
                let again = Connect::of(&ours).unwrap();
                assert_eq!((again.level, again.id, again.will, again.user), (5, id, Some("will"), Some("joe")));
                assert_eq!(again.around.0.get(8..10), Some(&[0xff, 0xff][..]));
            }
        }
        assert_eq!(Connect::of(&packet(0x10, &[&text("HTTP"), &[4]])), Err(Bad));
        assert_eq!(Connect::of(&packet(0x10, &[&text("MQIsdp"), &[3, 2, 0, 60]])).unwrap().level, 3);
    }

    #[test]
    fn packets_are_cut_out_of_a_stream_however_it_comes() {
        let stream = [packet(0x30, &[&[7; 200]]), packet(0xc0, &[])].concat();
        let mut packets = Packets::new(1000);
        let mut found = Vec::new();
        for byte in stream {
            packets.bytes.extend_from_slice(&[byte]);
            found.extend(packets.pop().unwrap());
        }
        assert_eq!(found.iter().map(Bytes::len).collect::<Vec<_>>(), [203, 2]);
        packets.bytes.extend_from_slice(&[0x30, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(packets.pop(), Err(Bad));
        let mut small = Packets::new(100);
        small.bytes.extend_from_slice(&[0x30, 0xc8, 0x01]);
        assert_eq!(small.pop(), Err(Bad), "before its bytes are waited for");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), connect: bool) {
            if connect {
                let head = [0x10, bytes.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 5];
                bytes.splice(0..0, head);
            }
            if let Ok(connect) = Connect::of(&bytes) {
                connect.for_broker(Some("u"));
            }
            let mut packets = Packets::new(1000);
            packets.bytes.extend_from_slice(&bytes);
            while let Ok(Some(_)) = packets.pop() {}
        }
    }
}
