//! What a broker may do wrong, one row each, in MQTT 5 and 3.1.1. For every row: nothing is lost and nothing taken for
//! delivered that was not, first arrivals are in order, no record ends connection after connection, the link comes
//! back by itself, and what was wrong is said in words that a person can act on.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::link_outbox::{Memory, Running, config, message};
use super::scripted_broker::{Act, Broker, Script, framed, publish};
use pinpost::link::{LinkConfig, LinkEvent, Patience, Protocol, Subscription};
use pinpost::model::{Message, Qos};

/// Records of a row; one more is added when they are through.
const RECORDS: usize = 30;

/// One way to misbehave.
struct Row {
    name: String,
    on: &'static [Protocol],
    scripts: fn(Protocol, u8) -> Vec<Script>,
    /// Given to `scripts`: a reason code, say.
    code: u8,
    tune: fn(&mut LinkConfig),
    qos: Qos,
    /// Each of these is said.
    says: Vec<String>,
    /// How often the link goes down: from, to.
    downs: (usize, usize),
    /// Records that are put aside, with the reason code.
    dead: Vec<(usize, u8)>,
}

const BOTH: &[Protocol] = &[Protocol::V5, Protocol::V311];
const FIVE: &[Protocol] = &[Protocol::V5];
const OLD: &[Protocol] = &[Protocol::V311];

fn row(name: impl Into<String>, on: &'static [Protocol], scripts: fn(Protocol, u8) -> Vec<Script>) -> Row {
    Row {
        name: name.into(),
        on,
        scripts,
        code: 0,
        tune: |_| {},
        qos: Qos::AtLeastOnce,
        says: Vec::new(),
        downs: (1, 3),
        dead: Vec::new(),
    }
}

impl Row {
    fn code(self, code: u8) -> Row {
        Row { code, ..self }
    }
    fn tune(self, tune: fn(&mut LinkConfig)) -> Row {
        Row { tune, ..self }
    }
    fn qos2(self) -> Row {
        Row { qos: Qos::ExactlyOnce, ..self }
    }
    fn says(mut self, words: &str) -> Row {
        self.says.push(words.into());
        self
    }
    fn downs(self, from: usize, to: usize) -> Row {
        Row { downs: (from, to), ..self }
    }
    /// Only the link's own patience ends it: a short one, which a busy machine may try too.
    fn impatient(self) -> Row {
        Row {
            tune: |c| {
                c.patience =
                    Patience { answers: Duration::from_millis(700), connect: Duration::from_secs(2), ..c.patience }
            },
            downs: (self.downs.0, 20),
            ..self
        }
    }
    /// The connection holds.
    fn holds(self) -> Row {
        self.downs(0, 0)
    }
    fn dead(mut self, record: usize, code: u8) -> Row {
        self.dead.push((record, code));
        self
    }
}

fn one(script: Script) -> Vec<Script> {
    vec![script]
}
fn bytes(bytes: impl Into<Vec<u8>>) -> Act {
    Act::Bytes(bytes.into())
}
/// PUBACK, PUBREC or PUBCOMP by its first byte, with a code and without properties in MQTT 5.
fn answer(protocol: Protocol, head: u8, id: u16, code: u8) -> Act {
    let mut body = id.to_be_bytes().to_vec();
    if protocol == Protocol::V5 {
        body.push(code);
    }
    bytes(framed(head, &body))
}
/// The third PUBLISH of the connection is answered with a code, and all else is well.
fn third(_: Protocol, code: u8) -> Vec<Script> {
    one(Script::publish(move |n, seen| vec![Act::Ack(seen.id, if n == 3 { code } else { 0 })]))
}
/// Record 4 is answered with a code each time it comes, for as long as it comes.
fn each_time(_: Protocol, code: u8) -> Vec<Script> {
    let script =
        move || Script::publish(move |_, seen| vec![Act::Ack(seen.id, if seen.payload == "4" { code } else { 0 })]);
    (0..6).map(|_| script()).collect()
}
/// Everything is answered with a code for a while.
fn all_at_first(_: Protocol, code: u8) -> Vec<Script> {
    one(Script::publish(move |n, seen| vec![Act::Ack(seen.id, if n <= 20 { code } else { 0 })]))
}
fn hangs_up(_: Protocol, code: u8) -> Vec<Script> {
    one(Script::publish(move |n, seen| if n == 5 { vec![Act::Disconnect(code)] } else { vec![Act::Ack(seen.id, 0)] }))
}
fn refuses(_: Protocol, code: u8) -> Vec<Script> {
    one(Script { code: Some(code), ..Script::default() })
}
fn closes_on(_: Protocol, packet: u8) -> Vec<Script> {
    one(Script::in_place_of(packet, |_| vec![Act::Close]))
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    // CONNECT is refused.
    for (code, words) in [
        (0x80, "does not name"), (0x81, "malformed"), (0x82, "protocol error"), (0x83, "own reasons"), (0x84, "protocol version"),
        (0x85, "client id"), (0x86, "password"), (0x87, "not authorised"), (0x88, "not available"), (0x89, "busy"), (0x8A, "banned"),
        (0x8C, "another way of authentication"), (0x90, "topic of the will"), (0x95, "larger"), (0x97, "quota"), (0x99, "format"),
        (0x9A, "retained"), (0x9B, "QoS"), (0x9C, "moved"), (0x9D, "moved"), (0x9F, "too often"),
    ] {
        rows.push(row(format!("CONNECT refused with 0x{code:02X}"), FIVE, refuses).code(code).says(words).downs(1, 1));
    }
    for (code, words) in [(1, "protocol version"), (2, "client id"), (3, "not available"), (4, "password"), (5, "not authorised"), (77, "0x4D")] {
        rows.push(row(format!("CONNECT refused with {code}"), OLD, refuses).code(code).says(words).downs(1, 1));
    }
    // Around CONNACK.
    rows.push(row("silence in place of CONNACK", BOTH, |_, _| one(Script { code: None, ..Script::default() }))
        .says("no answer within").impatient());
    rows.push(row("closed in place of CONNACK", BOTH, closes_on).code(1).says("closed the connection").downs(1, 1));
    rows.push(row("half a CONNACK", BOTH, |_, _| one(Script::in_place_of(1, |_| vec![bytes([0x20, 3, 0]), Act::Close]))).downs(1, 1));
    rows.push(row("another packet in place of CONNACK", BOTH, |_, _| one(Script::in_place_of(1, |_| vec![bytes([0xD0, 0]), Act::Freeze])))
        .says("something else than CONNACK").downs(1, 1));
    rows.push(row("a web server", BOTH, |_, _| one(Script::in_place_of(1, |_| vec![bytes(*b"HTTP/1.1 400 Bad Request\r\n\r\n"), Act::Close])))
        .downs(1, 1));
    rows.push(row("two CONNACKs", BOTH, |p, _| one(Script::then(vec![bytes(framed(0x20, if p == Protocol::V5 { &[0, 0, 0] } else { &[0, 0] }))])))
        .downs(0, 1));
    rows.push(row("Receive Maximum 0, which is forbidden", FIVE, |_, _| one(Script::greeting(&[0x21, 0, 0]))).says("(Receive Maximum 0)").downs(1, 1));
    rows.push(row("a property of CONNACK that does not exist", FIVE, |_, _| one(Script::greeting(&[0x7E, 0]))).downs(1, 1));
    rows.push(row("slow drip of bytes", BOTH, |_, _| one(Script { drip: Some(Duration::from_millis(2)), ..Script::default() })).holds());
    // Sessions.
    rows.push(row("session lost with all that was on its way", BOTH, |_, _| (0..2).map(|_| Script::publish(|n, _| if n == 8 { vec![Act::Close] } else { vec![] })).collect())
        .tune(|c| c.session_expiry = Duration::from_secs(60)).downs(2, 2));
    rows.push(row("session present, our publishes forgotten", BOTH, |_, _| {
        let forgets = || Script { session_present: true, ..Script::publish(|n, _| if n == 8 { vec![Act::Close] } else { vec![] }) };
        vec![forgets(), forgets(), Script { session_present: true, ..Script::default() }]
    }).tune(|c| c.session_expiry = Duration::from_secs(60)).downs(2, 2));
    rows.push(row("session present though a clean one was asked for", BOTH, |_, _| one(Script { session_present: true, ..Script::default() })).holds());
    rows.push(row("client id assigned", FIVE, |_, _| one(Script::greeting(&[0x12, 0, 3, b'n', b'e', b'w']))).holds());
    rows.push(row("session expiry shortened", FIVE, |_, _| one(Script::greeting(&[0x11, 0, 0, 0, 5]))).tune(|c| c.session_expiry = Duration::from_secs(60)).holds());
    // Acknowledgements.
    rows.push(row("acks backwards", BOTH, |_, _| {
        let mut held = Vec::new();
        one(Script::publish(move |n, seen| {
            held.push(seen.id);
            if held.len() == 4 || n > 24 { held.drain(..).rev().map(|id| Act::Ack(id, 0)).collect() } else { vec![] }
        }))
    }).holds());
    rows.push(row("no acks while pings pass", BOTH, |_, _| one(Script::publish(|_, _| vec![]))).says("acknowledged nothing").downs(1, 0).impatient());
    rows.push(row("one ack missing", BOTH, |_, _| one(Script::publish(|n, seen| if n == 7 { vec![] } else { vec![Act::Ack(seen.id, 0)] }))).downs(1, 0).impatient());
    rows.push(row("slow acks", BOTH, |_, _| one(Script::publish(|_, seen| vec![Act::Wait(Duration::from_millis(40)), Act::Ack(seen.id, 0)]))).holds());
    rows.push(row("acks twice", BOTH, |_, _| one(Script::publish(|n, seen| vec![Act::Ack(seen.id, 0); if n == 9 { 2 } else { 1 }]))).says("not waiting for an answer").downs(1, 1));
    rows.push(row("stale acks of the connection before", BOTH, |p, _| vec![
        Script::publish(|n, _| if n == 8 { vec![Act::Close] } else { vec![] }),
        Script::then((1..=8).map(|id| answer(p, 0x40, id, 0)).collect()),
    ]).downs(1, 2));
    rows.push(row("acks for ids beyond ours", BOTH, |p, _| one(Script::publish(move |n, seen| match n {
        6 => vec![answer(p, 0x40, 60_000, 0), Act::Ack(seen.id, 0)],
        _ => vec![Act::Ack(seen.id, 0)],
    }))).says("60000").downs(1, 1));
    rows.push(row("ack for id 0", BOTH, |p, _| one(Script::then(vec![answer(p, 0x40, 0, 0)]))).downs(1, 1));
    rows.push(row("PUBREC in place of PUBACK", BOTH, |p, _| one(Script::publish(move |n, seen| match n {
        6 => vec![answer(p, 0x50, seen.id, 0)],
        _ => vec![Act::Ack(seen.id, 0)],
    }))).downs(0, 0).impatient());
    rows.push(row("an ack of one byte", BOTH, |_, _| one(Script::publish(|n, seen| match n {
        6 => vec![bytes([0x40, 1, 0]), Act::Close],
        _ => vec![Act::Ack(seen.id, 0)],
    }))).downs(1, 1));
    for code in [0x80, 0x83, 0x91, 0x97] {
        rows.push(row(format!("one publish put off with 0x{code:02X}"), FIVE, third).code(code).holds().says(&format!("0x{code:02X}")));
        rows.push(row(format!("one publish put off with 0x{code:02X} for ever"), FIVE, each_time).code(code).tune(|c| c.in_flight = 2).holds().dead(4, code).says("each of 9 times"));
        rows.push(row(format!("every publish put off with 0x{code:02X} for a while"), FIVE, all_at_first).code(code).holds());
    }
    for (code, words) in [(0x87, "not authorised"), (0x90, "topic name"), (0x99, "format")] {
        rows.push(row(format!("a publish refused with 0x{code:02X}"), FIVE, each_time).code(code).holds().dead(4, code).says(words));
        rows.push(row(format!("a publish refused with 0x{code:02X} at QoS 2"), FIVE, each_time).code(code).qos2().holds().dead(4, code).says(words));
    }
    for (code, words) in [(0x95, "larger than the broker takes"), (0xC3, "0xC3")] {
        rows.push(row(format!("a publish refused with 0x{code:02X}, which the library cannot read"), FIVE, each_time).code(code).downs(3, 3).dead(4, code).says(words));
    }
    // QoS 2.
    rows.push(row("QoS 2 in order", BOTH, |_, _| one(Script::default())).qos2().holds());
    rows.push(row("PUBREC twice", BOTH, |_, _| one(Script::publish(|n, seen| match n {
        6 => vec![Act::Ack(seen.id, 0), bytes(framed(0x50, &seen.id.to_be_bytes()))],
        _ => vec![Act::Ack(seen.id, 0)],
    }))).qos2().downs(1, 1));
    rows.push(row("PUBACK in place of PUBREC", BOTH, |_, _| one(Script::publish(|n, seen| match n {
        6 => vec![bytes(framed(0x40, &seen.id.to_be_bytes()))],
        _ => vec![Act::Ack(seen.id, 0)],
    }))).qos2().downs(0, 1));
    rows.push(row("PUBCOMP: packet identifier not found", FIVE, |_, _| one(Script::in_place_of(6, |body| vec![bytes([0x70, 4, body[0], body[1], 0x92, 0])]))).qos2().downs(0, 2));
    rows.push(row("no PUBCOMP", BOTH, |_, _| one(Script::in_place_of(6, |_| vec![]))).qos2().says("acknowledged nothing").downs(1, 0).impatient());
    rows.push(row("closed on PUBREL", BOTH, closes_on).code(6).qos2().downs(1, 1));
    rows.push(row("no PUBREC", BOTH, |_, _| one(Script::publish(|_, _| vec![]))).qos2().says("acknowledged nothing").downs(1, 0).impatient());
    // Limits.
    rows.push(row("small Maximum Packet Size", FIVE, |_, _| vec![Script::greeting(&[0x27, 0, 0, 0, 40])]).tune(|c| c.hello[0].payload = vec![b'x'; 100]).holds().says("at most 40"));
    rows.push(row("Receive Maximum 1", FIVE, |_, _| one(Script::greeting(&[0x21, 0, 1]))).holds());
    rows.push(row("Topic Alias Maximum 0", FIVE, |_, _| one(Script::greeting(&[0x22, 0, 0]))).holds());
    rows.push(row("Maximum QoS 0", FIVE, |_, _| one(Script::greeting(&[0x24, 0]))).holds());
    rows.push(row("Maximum QoS 1", FIVE, |_, _| one(Script::greeting(&[0x24, 1]))).qos2().holds());
    rows.push(row("no retained messages", FIVE, |_, _| one(Script::greeting(&[0x25, 0]))).holds());
    rows.push(row("a server keep-alive", FIVE, |_, _| one(Script::greeting(&[0x13, 0, 7]))).holds());
    rows.push(row("no wildcards, no shared subscriptions, no identifiers", FIVE, |_, _| one(Script::greeting(&[0x28, 0, 0x29, 0, 0x2A, 0]))).holds());
    // Subscriptions.
    rows.push(row("SUBSCRIBE refused", BOTH, |_, _| one(Script { suback: 0x80, ..Script::default() })).holds().says("cmd/#"));
    rows.push(row("SUBSCRIBE granted with a reserved code", BOTH, |_, _| one(Script { suback: 0x42, ..Script::default() })).downs(0, 1));
    rows.push(row("no SUBACK", BOTH, |_, _| one(Script::in_place_of(8, |_| vec![]))).says("acknowledged nothing").downs(0, 0).impatient());
    rows.push(row("SUBACK with too many codes", BOTH, |p, _| one(Script::in_place_of(8, move |body| {
        let mut answer = body[..2].to_vec();
        if p == Protocol::V5 { answer.push(0); }
        answer.extend([1; 9]);
        vec![bytes(framed(0x90, &answer))]
    }))).holds());
    rows.push(row("SUBACK for another id", BOTH, |p, _| one(Script::in_place_of(8, move |_| {
        vec![bytes(framed(0x90, if p == Protocol::V5 { &[0x30, 0x39, 0, 1] } else { &[0x30, 0x39, 1] }))]
    }))).downs(0, 0).impatient());
    // The end of the connection.
    for (packet, name) in [(8, "SUBSCRIBE"), (12, "PINGREQ")] {
        let row = row(format!("closed on {name}"), BOTH, closes_on).code(packet);
        rows.push(if packet == 12 { row.tune(|c| c.keep_alive = Duration::from_secs(1)).downs(0, 1) } else { row.says("closed the connection").downs(1, 1) });
    }
    rows.push(row("closed right behind CONNACK", BOTH, |_, _| one(Script::then(vec![Act::Close]))).downs(1, 1));
    rows.push(row("closed behind the first publish, three times", BOTH, |_, _| (0..3).map(|_| Script::publish(|_, _| vec![Act::Close])).collect())
        .says("another client uses the id").downs(3, 3));
    rows.push(row("closed behind each fourth publish", BOTH, |_, _| {
        (0..4).map(|_| Script::publish(|n, seen| if n == 4 { vec![Act::Close] } else { vec![Act::Ack(seen.id, 0)] })).collect()
    }).downs(4, 4));
    for (code, words) in [
        (0x81, "malformed"), (0x82, "protocol error"), (0x83, "own reasons"), (0x89, "busy"), (0x8B, "shutting down"), (0x8D, "heard nothing from us"),
        (0x8E, "another client uses the id"), (0x93, "in_flight"), (0x95, "larger"), (0x96, "too fast"), (0x97, "quota"), (0x98, "administrator"),
        (0x9C, "moved"), (0x9D, "moved"), (0x9F, "too often"), (0xA0, "longest connection time"),
    ] {
        rows.push(row(format!("DISCONNECT 0x{code:02X}"), FIVE, hangs_up).code(code).says(words).downs(1, 1));
    }
    rows.push(row("DISCONNECT without properties, as mosquitto writes it", FIVE, |_, _| one(Script::then(vec![bytes([0xE0, 1, 0x8B]), Act::Close]))).says("closed the connection").downs(1, 1));
    rows.push(row("DISCONNECT with nothing behind it", BOTH, |_, _| one(Script::then(vec![bytes([0xE0, 0]), Act::Close]))).downs(1, 1));
    rows.push(row("half-open", BOTH, |_, _| one(Script::publish(|n, seen| if n == 9 { vec![Act::Freeze] } else { vec![Act::Ack(seen.id, 0)] })))
        .says("acknowledged nothing").downs(1, 0).impatient());
    // Bytes that mean nothing.
    for (name, garbage) in [("0xFF", [0xFF; 64]), ("zeros", [0; 64]), ("letters", [b'A'; 64])] {
        let scripts: fn(Protocol, u8) -> Vec<Script> = |_, byte| one(Script::then(vec![bytes(vec![byte; 64]), Act::Close]));
        rows.push(row(format!("garbage: {name}"), BOTH, scripts).code(garbage[0]).downs(1, 1));
    }
    for packet in [0x00, 0x10, 0x82, 0xA2, 0xC0, 0xF0] {
        let scripts: fn(Protocol, u8) -> Vec<Script> = |_, head| one(Script::then(vec![bytes(framed(head, &[0, 1, 0, 0])), Act::Close]));
        rows.push(row(format!("a packet that only clients send, or nobody: 0x{packet:02X}"), BOTH, scripts).code(packet).downs(1, 1));
    }
    rows.push(row("a packet of 256 MB is announced", BOTH, |_, _| one(Script::then(vec![bytes([0x30, 0xFF, 0xFF, 0xFF, 0x7F])]))).says("268435").downs(1, 2));
    rows.push(row("a length that never ends", BOTH, |_, _| one(Script::then(vec![bytes([0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])]))).downs(1, 1));
    rows.push(row("a message whose topic is not text", BOTH, |p, _| {
        let mut body = vec![0, 2, 0xC3, 0x28];
        if p == Protocol::V5 { body.push(0); }
        one(Script::then(vec![bytes(framed(0x30, &body))]))
    }).downs(0, 1));
    rows.push(row("a message with QoS 3", BOTH, |_, _| one(Script::then(vec![bytes(framed(0x36, &[0, 1, b'a', 0, 1, 0]))]))).downs(1, 1));
    rows.push(row("a message of QoS 1 with id 0", BOTH, |_, _| one(Script::then(vec![bytes(framed(0x32, &[0, 1, b'a', 0, 0, 0]))]))).downs(0, 1));
    rows.push(row("a topic alias that was never told", FIVE, |_, _| one(Script::then(vec![bytes(framed(0x30, &[0, 0, 3, 0x23, 0, 9]))]))).says("topic alias").downs(1, 1));
    rows.push(row("PUBREL for nothing", BOTH, |_, _| one(Script::then(vec![bytes(framed(0x62, &[0, 9]))]))).downs(0, 1));
    rows.push(row("PINGRESP that nobody asked for", BOTH, |_, _| one(Script::then(vec![bytes([0xD0, 0])]))).holds());
    rows.push(row("UNSUBACK for nothing", BOTH, |p, _| one(Script::then(vec![bytes(framed(0xB0, if p == Protocol::V5 { &[0, 9, 0, 0] } else { &[0, 9] }))]))).downs(0, 1));
    rows.push(row("a flood of messages", BOTH, |p, _| one(Script::then((0..3000).map(|_| bytes(publish(p, "cmd/x", 0, false, b"x"))).collect()))).holds());
    rows
}

/// Plays a row; what is wrong with the outcome.
async fn play(row: &Row, protocol: Protocol) -> Vec<String> {
    let broker = Broker::start(protocol, (row.scripts)(protocol, row.code)).await;
    let outbox = Memory::new();
    let record = |n: usize| Message { qos: row.qos, retain: true, ..message("t", n.to_string()) };
    let mut config = config(&broker.url(), protocol);
    config.in_flight = 8;
    config.patience.retry = Duration::from_millis(20);
    config.patience.not_now = Duration::from_millis(20);
    config.hello = vec![message("hello", "hello")];
    config.subscriptions = vec![Subscription { filter: "cmd/#".into(), qos: Qos::ExactlyOnce }];
    (row.tune)(&mut config);
    for n in 0..RECORDS {
        outbox.add(record(n));
    }
    let mut link = Running::start(config, outbox.clone());
    link.drained().await;
    // It lives.
    outbox.add(record(RECORDS));
    link.drained().await;
    let seen = link.stop(vec![]).await;

    let mut wrong = Vec::new();
    let dead: Vec<(usize, u8)> = outbox.dead().iter().map(|(p, code, _)| (p.parse().unwrap(), *code)).collect();
    if dead != row.dead {
        wrong.push(format!("put aside: {dead:?}"));
    }
    let mut done: Vec<usize> = outbox.done_payloads().iter().map(|p| p.parse().unwrap()).collect();
    done.sort();
    let due: Vec<usize> = (0..=RECORDS).filter(|n| !row.dead.iter().any(|(d, _)| d == n)).collect();
    if done != due {
        wrong.push(format!("done: {done:?}"));
    }
    let first: Vec<usize> = broker.first_arrivals().iter().filter_map(|p| p.parse().ok()).collect();
    if first != (0..=RECORDS).collect::<Vec<_>>() {
        wrong.push(format!("came in this order: {first:?}"));
    }
    let log = broker.log.lock().unwrap();
    if !log.breaches.is_empty() {
        wrong.push(format!("the client broke the protocol: {:?}", log.breaches));
    }
    let texts: Vec<&String> = seen
        .iter()
        .filter_map(|e| match e {
            LinkEvent::Down { reason, .. } => Some(reason),
            LinkEvent::Refused { text, .. } | LinkEvent::Problem(text) => Some(text),
            _ => None,
        })
        .collect();
    for words in &row.says {
        if !texts.iter().any(|t| t.contains(words.as_str())) {
            wrong.push(format!("nobody says `{words}`: {texts:?}"));
        }
    }
    // Names of the library's own types are no words for people.
    let foreign = [
        "stopped unexpectedly",
        "serialization",
        "bytes remaining",
        "waiting for another",
        "StateError",
        "Deserialization",
        "ConnAck(",
        "InvalidProperty",
        "{ ",
    ];
    if let Some(text) =
        texts.iter().find(|t| t.is_empty() || foreign.iter().any(|f| t.contains(f)) && !t.contains("mqtt: {"))
    {
        wrong.push(format!("not in words for people: {text:?}"));
    }
    let downs = seen.iter().filter(|e| matches!(e, LinkEvent::Down { .. })).count();
    if !(row.downs.0..=row.downs.1).contains(&downs) {
        wrong.push(format!("down {downs} times: {texts:?}"));
    }
    wrong
}

#[tokio::test]
async fn no_behaviour_of_a_broker_loses_a_record_or_stops_the_link() {
    let names: BTreeSet<String> = rows().iter().map(|r| r.name.clone()).collect();
    assert_eq!(names.len(), rows().len(), "each row has its own name");
    let on = |p| rows().iter().filter(|r| r.on.contains(&p)).count();
    println!("{} ways with MQTT 5, {} with 3.1.1", on(Protocol::V5), on(Protocol::V311));
    assert!(on(Protocol::V5) >= 100 && on(Protocol::V311) >= 50, "{} {}", on(Protocol::V5), on(Protocol::V311));
    let mut all = JoinSet::new();
    for row in rows() {
        for protocol in row.on {
            let row = Row { name: row.name.clone(), says: row.says.clone(), dead: row.dead.clone(), ..row };
            all.spawn(async move {
                let (name, begun) = (row.name.clone(), std::time::Instant::now());
                let played = tokio::spawn(async move { play(&row, *protocol).await });
                let wrong = played.await.unwrap_or_else(|e| vec![e.to_string().chars().take(2000).collect()]);
                if begun.elapsed() > Duration::from_secs(15) {
                    println!("{protocol:?} {name} took {:?}", begun.elapsed());
                }
                (!wrong.is_empty()).then(|| format!("{protocol:?} {name}: {}", wrong.join("\n    ")))
            });
        }
    }
    let mut wrong: Vec<String> = Vec::new();
    while let Some(done) = all.join_next().await {
        wrong.extend(done.unwrap());
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
