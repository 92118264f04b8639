//! How many frames and how much garbage one core takes. `cargo bench --bench codec`.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use pinpost::codec::{CheckKeys, DecodeKeys, FieldKeys, FrameKeys, Output, Pipeline};

fn main() {
    divan::main();
}

fn pipeline(frame: &str, check: Option<&str>, decode: &str, points: &[(&str, &str)]) -> Pipeline {
    let frame: FrameKeys = serde_json::from_str(frame).expect("frame");
    let check: Option<CheckKeys> = check.map(|check| serde_json::from_str(check).expect("check"));
    let decode: DecodeKeys = serde_json::from_str(decode).expect("decode");
    let points: Vec<(&str, FieldKeys)> =
        points.iter().map(|(name, keys)| (*name, serde_json::from_str(keys).expect("point"))).collect();
    let points: Vec<(&str, &FieldKeys)> = points.iter().map(|(name, keys)| (*name, keys)).collect();
    Pipeline::new(&frame, check.as_ref(), &decode, &points).expect("keys that go together")
}

/// Feeds reads of 512 bytes, as a serial port gives them; returns readings and bytes lost.
fn feed(pipeline: &mut Pipeline, stream: &[u8]) -> (usize, usize) {
    let (mut values, mut lost) = (0, 0);
    for read in stream.chunks(512) {
        pipeline.push(read, &mut |output| match output {
            Output::Frame { readings, .. } => values += readings.len(),
            Output::NotOurs(_) => {}
            Output::Rejected { bytes, .. } => lost += bytes,
            Output::Dropped(bytes) => lost += bytes.len(),
        });
    }
    (values, lost)
}

const LINES: usize = 10_000;

#[divan::bench]
fn keyvalue_lines(bencher: Bencher) {
    let stream: Vec<u8> =
        (0..LINES).flat_map(|i| format!("T={}.5;H={};P=1013.2\r\n", i % 40, i % 100).into_bytes()).collect();
    let points = [("temperature", r#"{"field": "T"}"#), ("humidity", r#"{"field": "H"}"#)];
    let mut pipeline =
        pipeline(r#"{"delimiter": "\n"}"#, None, r#"{"type": "keyvalue", "pair": ";", "assign": "="}"#, &points);
    bencher.counter(ItemsCount::new(LINES)).bench_local(|| feed(&mut pipeline, &stream));
}

#[divan::bench]
fn csv_lines(bencher: Bencher) {
    let stream: Vec<u8> =
        (0..LINES).flat_map(|i| format!("{}.5,{},1013.2\r\n", i % 40, i % 100).into_bytes()).collect();
    let mut pipeline = pipeline(
        r#"{"delimiter": "\r\n"}"#,
        None,
        r#"{"type": "csv", "columns": ["t", "h", "p"]}"#,
        &[("t", "{}"), ("h", "{}")],
    );
    bencher.counter(ItemsCount::new(LINES)).bench_local(|| feed(&mut pipeline, &stream));
}

#[divan::bench]
fn json_lines(bencher: Bencher) {
    let stream: Vec<u8> =
        (0..LINES).flat_map(|i| format!("{{\"t\":{}.5,\"h\":{}}}\n", i % 40, i % 100).into_bytes()).collect();
    let mut pipeline = pipeline(r#"{"delimiter": "\n"}"#, None, r#"{"type": "json"}"#, &[("t", "{}"), ("h", "{}")]);
    bencher.counter(ItemsCount::new(LINES)).bench_local(|| feed(&mut pipeline, &stream));
}

#[divan::bench]
fn binary_frames_with_crc(bencher: Bencher) {
    let keys = (r#"{"start": "aa 55", "length_prefix": "u8", "at": 2, "adjust": 5}"#, r#"{"crc": "MODBUS"}"#);
    let mut pipeline = pipeline(
        keys.0,
        Some(keys.1),
        r#"{"type": "binary"}"#,
        &[("a", r#"{"at": 3, "as": "i16be"}"#), ("b", r#"{"at": 5, "as": "f32le"}"#)],
    );
    let check = pipeline.check().expect("a check");
    let stream: Vec<u8> = (0..LINES)
        .flat_map(|i| {
            let mut frame = vec![0xaa, 0x55, 16];
            frame.extend((0..16).map(|j| (i * 7 + j) as u8));
            check.append(&mut frame).expect("room");
            frame
        })
        .collect();
    bencher.counter(ItemsCount::new(LINES)).bench_local(|| feed(&mut pipeline, &stream));
}

/// Garbage of every kind that must be refused; the counter is in bytes.
#[divan::bench(args = ["random", "start marks only", "random, no start mark", "no line end", "short lines"])]
fn garbage(bencher: Bencher, kind: &str) {
    const SIZE: usize = 1 << 20;
    let mut state = 1u32;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(SIZE)
    .collect();
    let prefix = r#"{"start": "aa", "length_prefix": "u8", "at": 1, "adjust": 4}"#;
    let every = r#"{"length": 32}"#;
    let lines = r#"{"delimiter": "\n"}"#;
    let crc = Some(r#"{"crc": "CRC-16/MODBUS"}"#);
    let keyvalue = r#"{"type": "keyvalue"}"#;
    let (mut pipeline, stream) = match kind {
        "random" => (pipeline(prefix, crc, keyvalue, &[("a", "{}")]), random),
        "start marks only" => (pipeline(prefix, crc, keyvalue, &[("a", "{}")]), vec![0xaa; SIZE]),
        "random, no start mark" => (pipeline(every, crc, keyvalue, &[("a", "{}")]), random),
        "no line end" => (pipeline(lines, None, keyvalue, &[("a", "{}")]), vec![b'x'; SIZE]),
        _ => (pipeline(lines, None, keyvalue, &[("a", "{}")]), b"?\n".repeat(SIZE / 2)),
    };
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| feed(&mut pipeline, &stream));
}
