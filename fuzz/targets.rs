//! What is fuzzed, one function a target: bytes in, and it must neither panic, nor stall, nor break a promise that it
//! asserts. The targets of cargo-fuzz call these, and so does `tests/fuzz_corpus.rs` with the committed corpus.

use pinpost::codec::{CheckKeys, DecodeKeys, Decoder, Event, FieldKeys, Frame, FrameKeys, Framer, Joined};
use pinpost::expr::{Expression, Given, MAX_BUILT, Scope, Template};
use pinpost::model::{PointId, Value};
use pinpost::wire::sparkplug::{command, host_state};

/// Bytes in; a panic is a finding.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("framing", framing),
    ("sparkplug", sparkplug),
    ("decode_binary", |data| decode("binary", data)),
    ("decode_csv", |data| decode("csv", data)),
    ("decode_json", |data| decode("json", data)),
    ("decode_keyvalue", |data| decode("keyvalue", data)),
    ("decode_nmea", |data| decode("nmea", data)),
    ("decode_raw", |data| decode("raw", data)),
    ("decode_regex", |data| decode("regex", data)),
    ("decode_text", |data| decode("text", data)),
    ("decode_tlv", |data| decode("tlv", data)),
    ("expression", expression),
    ("template", template),
];

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).expect("the name of a target");
    target(data);
}

/// What a Sparkplug host sends: a command, or its state. No number that is none comes of it.
fn sparkplug(data: &[u8]) {
    let _ = host_state(data);
    if let Ok((_, metrics)) = command(data) {
        for value in metrics.into_iter().filter_map(|metric| metric.value) {
            assert!(value.as_number().is_none_or(f64::is_finite));
        }
    }
}

/// Framings and checks; the first byte of the input picks one.
const FRAMES: &[(&str, Option<&str>)] = &[
    (r#"{"delimiter": "\n", "max": 64}"#, None),
    (r#"{"delimiter": "\r\n", "max": 64}"#, Some(r#"{"xor": "u8", "as": "hex", "over": [1, -3]}"#)),
    (r#"{"length": 5}"#, Some(r#"{"sum": "u8"}"#)),
    (r#"{"start": "aa aa", "length": 6}"#, Some(r#"{"sum": "u8", "then": "negate"}"#)),
    (r#"{"start": "02", "end": "03", "max": 64}"#, None),
    (r#"{"start": "7e", "end": "7e", "max": 64}"#, Some(r#"{"sum": "u8", "at": -2}"#)),
    (r#"{"start": "02 aa", "end": "aa 03", "trailer": 3, "max": 64, "ignore": {"start": "3a", "end": "0a"}}"#, None),
    (r#"{"length_prefix": "u8", "adjust": 1, "max": 64}"#, Some(r#"{"crc": "CRC-16/MODBUS"}"#)),
    (r#"{"start": "aa", "length_prefix": "u16le", "adjust": 3, "max": 64}"#, Some(r#"{"fletcher": "u8"}"#)),
    (r#"{"start": "aa", "length_prefix": "u16be", "at": 2, "adjust": -1, "max": 64}"#, None),
    (r#"{"gap": "20ms", "max": 64}"#, Some(r#"{"xor": "u8"}"#)),
    (r#"{"cobs": true, "max": 64}"#, Some(r#"{"sum": "u8"}"#)),
    (r#"{"slip": true, "max": 64}"#, None),
    (r#"{"nmea": true, "max": 64}"#, None),
];

/// First byte: which framing; second: the size of the pieces; the rest is the stream.
fn framing(data: &[u8]) {
    let [which, piece, stream @ ..] = data else { return };
    let (frame, check) = FRAMES[usize::from(*which) % FRAMES.len()];
    let keys: FrameKeys = serde_json::from_str(frame).unwrap();
    let check: Option<CheckKeys> = check.map(|check| serde_json::from_str(check).unwrap());
    let build = || Framer::new(&keys, check.as_ref()).unwrap_or_else(|_| panic!("{frame}"));
    let feed = |framer: &mut Framer, size: usize| {
        let (mut frames, mut lost, mut given) = (Vec::new(), 0, 0);
        for bytes in stream.chunks(size.max(1)) {
            framer.push(bytes, |event| match event {
                Event::Frame(frame) => {
                    given += frame.bytes.len();
                    frames.push(frame.bytes.to_vec());
                }
                Event::Rejected { bytes, .. } => lost += bytes,
                Event::Dropped(bytes) => lost += bytes.len(),
            });
            // SLIP may need two bytes for one
            assert!(framer.buffered() <= 2 * 64 + 8 + bytes.len(), "{frame} keeps {}", framer.buffered());
        }
        assert!(given + lost <= stream.len(), "{frame} gives more than came");
        (frames, lost + framer.buffered())
    };
    let (mut whole, mut torn) = (build(), build());
    let (one, many) = (feed(&mut whole, stream.len()), feed(&mut torn, usize::from(*piece)));
    assert_eq!(one, many, "{frame} depends on how the stream is torn");
    for _ in 0..=stream.len() {
        if torn.idle_after().is_none() {
            break;
        }
        torn.idle(|_| {});
    }
    torn.reset(Joined::Midway);
    assert_eq!(torn.buffered(), 0);
}

/// The whole input is one frame.
fn decode(kind: &str, data: &[u8]) {
    let (keys, points) = match kind {
        "binary" => (
            r#"{"type": "binary"}"#,
            r#"[{"at": 0, "as": "u16be"}, {"at": -4, "as": "f32le"}, {"at": 1, "as": "f64be"}, {"at": 2, "bcd": 3},
                {"at": 3, "bits": [2, 6]}, {"at": 4, "text": "rest"}, {"at": -2, "bytes": 2}, {"at": 5, "as": "i64le"}]"#,
        ),
        "csv" => (
            r#"{"type": "csv", "columns": ["a", "b", "c"], "separator": ";"}"#,
            r#"[{"field": "a"}, {"field": "b", "type": "number"}, {"field": "c", "type": "bool"}]"#,
        ),
        "json" => (
            r#"{"type": "json", "match": {"field": "k", "is": ["1", "x"]}}"#,
            r#"[{"field": "a.b"}, {"field": "l.0", "type": "number"}, {"field": "k", "type": "text"}]"#,
        ),
        "keyvalue" => (
            r#"{"type": "keyvalue"}"#,
            r#"[{"field": "T", "type": "number"}, {"field": "H"}, {"field": "D", "type": "bool"}, {"pattern": "x(\\d+)"}]"#,
        ),
        "nmea" => (
            r#"{"type": "nmea"}"#,
            r#"[{"field": "latitude"}, {"field": "longitude"}, {"field": "time"}, {"field": "3", "type": "number"}]"#,
        ),
        "raw" => (r#"{"type": "raw"}"#, r#"[{}, {"pattern": "T=([0-9.]+)"}]"#),
        "regex" => (
            r#"{"type": "regex", "pattern": "(?<a>-?[0-9.]+) *(?<u>\\w*)"}"#,
            r#"[{"field": "a", "type": "number"}, {"field": "u"}]"#,
        ),
        "tlv" => (
            r#"{"type": "tlv", "at": 1, "length": "u16le"}"#,
            r#"[{"tag": 1, "as": "u16be"}, {"tag": 2, "text": "rest"}, {"tag": 3, "bit": 4}, {"tag": 255}]"#,
        ),
        _ => (r#"{"type": "text"}"#, r#"[{}, {"type": "number"}, {"pattern": "([a-z]+)$"}]"#),
    };
    let keys: DecodeKeys = serde_json::from_str(keys).unwrap();
    let points: Vec<FieldKeys> = serde_json::from_str(points).unwrap();
    let named: Vec<(&str, &FieldKeys)> =
        ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"].into_iter().zip(&points).collect();
    let mut decoder = Decoder::new(&keys, &named)
        .unwrap_or_else(|e| panic!("{kind}: {}", e.iter().map(ToString::to_string).collect::<String>()));
    let frame = Frame::plain(data);
    let mut readings = Vec::new();
    let _ = decoder.decode(&frame, &mut readings);
    for reading in &readings {
        assert!(reading.point < points.len());
        sound(&reading.value);
    }
    decoder.fields(&frame, &mut |_, value| sound(&value));
}

fn sound(value: &Value) {
    if let Value::Number(n) = value {
        assert!(n.is_finite());
    }
    // shown in logs and payloads
    let _ = value.to_string();
}

fn scope() -> Scope {
    Scope::new()
        .device("door", [("state", PointId(0))])
        .device("weather", [("temperature", PointId(1)), ("rel-humidity", PointId(2))])
        .with_value()
        .with_fields()
        .with_word("grant")
}

fn given(value: &Value, check: impl Fn(&Given<'_>)) {
    check(&Given { value: Some(value), words: &[("grant", "12345")], ..Given::default() });
    check(&Given::default());
}

fn values() -> [Value; 3] {
    [Value::Number(21.5), Value::Text("a,b 1".into()), Value::Bool(true)]
}

fn expression(data: &[u8]) {
    let Ok(expression) = Expression::compile(&String::from_utf8_lossy(data), &scope()) else { return };
    for value in &values() {
        given(value, |at| {
            let _ = expression.decide(at);
            if let Ok(value) = expression.value(at) {
                sound(&value);
            }
            let _ = expression.changes_in(at);
        });
    }
}

fn template(data: &[u8]) {
    let Ok(template) = Template::compile(&String::from_utf8_lossy(data), &scope()) else { return };
    for value in &values() {
        given(value, |at| {
            if let Ok(text) = template.render(at) {
                assert!(text.len() <= 2 * MAX_BUILT, "{} bytes", text.len());
            }
        });
    }
}
