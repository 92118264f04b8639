//! The shapes in which serde types come, walked by their schema and read back.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::raw::PointKeys;
use super::scalar::{OnOff, Pin, Span};
use super::{Loaded, Vocabulary, Word, load};

#[derive(Debug, Deserialize, JsonSchema)]
struct Gadget {
    /// A word, or one mapping of many, with an option beside it.
    frame: Option<Frame>,
    check: Option<Check>,
    decode: Option<Decode>,
    poll: Option<OneOrMany<Poll>>,
    #[serde(default)]
    map: IndexMap<String, serde_json::Value>,
    #[serde(default)]
    table: Vec<(f64, f64)>,
    level: Option<Level>,
    pair: Option<[u8; 2]>,
    #[serde(flatten)]
    pin: Option<PinKeys>,
    #[serde(flatten)]
    point: PointKeys,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct PinKeys {
    pin: Pin,
    flag: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Poll {
    every: Span,
    send: Option<Bytes>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Hex { hex: String },
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Frame {
    Word(FrameWord),
    Full(FullFrame),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FrameWord {
    Cobs,
    Slip,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FullFrame {
    #[serde(flatten)]
    shape: Shape,
    max: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Shape {
    /// Ends with these bytes.
    Delimiter(String),
    /// Always that long.
    Length(u16),
    /// Silence.
    Gap(Span),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Check {
    None,
    Crc(String),
    Sum { width: u8 },
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Decode {
    /// Keys and values.
    Keyvalue(Keyvalue),
    Text,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Keyvalue {
    pair: String,
    strict: Option<OnOff>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Level {
    Word(LevelWord),
    Span(Span),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LevelWord {
    Always,
    Never,
}

fn words() -> Vocabulary {
    Vocabulary {
        kinds: vec![Word { name: "gadget", summary: "G.", schema: |g| g.subschema_for::<Gadget>() }],
        filters: Vec::new(),
    }
}

fn device(keys: &str) -> Loaded {
    load(format!("devices:\n  d: {{kind: gadget, {keys}}}\n").as_bytes(), &|_| None, &words())
}

#[test]
fn every_shape_of_type_is_read_from_what_people_write() {
    for (keys, part) in [
        ("frame: cobs", "Word(Cobs)"),
        ("frame: {delimiter: \"\\n\"}", "Full(FullFrame { shape: Delimiter(\"\\n\"), max: None })"),
        ("frame: {max: 5, length: 7}", "Full(FullFrame { shape: Length(7), max: Some(5) })"),
        ("frame: {gap: 20ms}", "Gap(Span(20ms))"),
        ("check: none", "check: Some(None)"),
        ("check: {crc: 5}", "Crc(\"5\")"),
        ("check: {sum: {width: 1}}", "Sum { width: 1 }"),
        ("decode: {type: text}", "decode: Some(Text)"),
        ("decode: {type: keyvalue, pair: ',', strict: on}", "Keyvalue { pair: \",\", strict: Some(OnOff(true)) }"),
        ("poll: {every: 5s, send: 1}", "One(Poll { every: Span(5s), send: Some(Text(\"1\")) })"),
        ("poll: [{every: 5s, send: {hex: 01}}]", "Many([Poll { every: Span(5s), send: Some(Hex { hex: \"01\" }) }])"),
        ("map: {1: ON, off: 2, x: [1.5, yes]}", "{\"1\": String(\"ON\"), \"off\": Number(2), \"x\": Array"),
        ("table: [[0, 1], [1.5, -2]]", "table: [(0.0, 1.0), (1.5, -2.0)]"),
        ("level: always", "Word(Always)"),
        ("level: 5s", "Span(Span(5s))"),
        ("pair: [4, 7]", "pair: Some([4, 7])"),
        ("pin: GPIO4, flag: yes", "Some(PinKeys { pin: Pin(4), flag: Some(true) })"),
        ("qos: 1, payload_on: 0x10", "payload_on: Some(\"0x10\")"),
        ("", "frame: None"),
    ] {
        let loaded = device(keys);
        assert_eq!(loaded.problems, [], "{keys}");
        let gadget: Gadget = loaded.raw.devices["d"].params.read().unwrap_or_else(|e| panic!("{keys}: {e}"));
        let shown = format!("{gadget:?}");
        assert!(shown.contains(part), "{keys}: {shown}");
    }
}

#[test]
fn every_shape_of_type_tells_what_is_wrong_inside() {
    for (keys, part) in [
        ("frame: cobz", "`frame`: `cobz` is not one of `cobs`, `slip`"),
        ("frame: {gap: 20}", "`gap`: `20` has no unit"),
        ("frame: {gap: 20ms, length: 3}", "unknown key `length` in `frame` of device `d`"),
        ("frame: {max: 3}", "is missing in `frame`"),
        ("frame: {delimiter: a, mx: 3}", "unknown key `mx`"),
        ("check: {crk: x}", "unknown key `crk`"),
        ("check: {sum: {width: 256}}", "`width`: `256` is out of range"),
        ("check: crc", "`check`: `crc` is not one of `none`"),
        ("decode: {type: keyvalue}", "`pair` is missing in `decode`"),
        ("decode: {type: keyvalue, pair: [a]}", "`pair` must be text, not a list"),
        ("decode: {type: text, pair: a}", "unknown key `pair` in `decode`"),
        ("poll: {every: 5}", "`every`: `5` has no unit"),
        ("poll: [{every: 5s}, {evry: 5s}]", "unknown key `evry`"),
        ("poll: {every: 5s, send: {hx: 1}}", "unknown key `hx`"),
        ("table: [[0]]", "an item of `table` has 1 item"),
        ("level: alway", "`level`: `alway` is not one of `always`, `never`"),
        ("level: 5", "`level`: `5` has no unit"),
        ("pair: [1, 2, 3]", "`pair` has 3 items"),
        ("pin: 17, flg: 1", "unknown key `flg`"),
        ("flag: perhaps, pin: 1", "`flag`: true or false is wanted"),
    ] {
        let loaded = device(keys);
        let texts: Vec<&str> = loaded.problems.iter().map(|p| p.text.as_str()).collect();
        assert!(texts.len() == 1 && texts[0].contains(part), "{keys}: {texts:?}");
    }
}

#[test]
fn without_any_word_the_rest_is_still_judged() {
    let loaded = load(b"devices: {d: {kind: x}}\nfoo: 1", &|_| None, &Vocabulary::default());
    assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);
    assert_eq!(loaded.raw.devices["d"].kind, "x");
}
