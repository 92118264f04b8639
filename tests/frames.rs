//! Instruments as files: `tests/frames/<case>/` holds what a user would write (`config.yaml`: frame, check, decode,
//! points), what the instrument sends (`input`) and what must come out (`expected`). A new instrument needs no code.
//!
//! `input`, a line each: `text: T=1\r\n` (with escapes), `hex: 42 4d`, `idle` (the silence the framer asked for),
//! `# why`. `expected`, in order: `point = value`, `bad point = text`, `rejected reason`, `not ours`, and at the end
//! `lost N`, all bytes that gave nothing. Every case is fed whole, byte by byte and in odd pieces.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use indexmap::IndexMap;
use pinpost::codec::bytes::{parse_escaped, parse_hex};
use pinpost::codec::{CheckKeys, DecodeKeys, FieldKeys, FrameKeys, Output, Pipeline};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    frame: FrameKeys,
    check: Option<CheckKeys>,
    #[serde(default)]
    decode: DecodeKeys,
    points: IndexMap<String, FieldKeys>,
}

enum Step {
    Bytes(Vec<u8>),
    Idle,
}

fn steps(text: &str) -> Vec<Step> {
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(": ") {
            Some(("text", text)) => Step::Bytes(parse_escaped(text).unwrap()),
            Some(("hex", hex)) => Step::Bytes(parse_hex(hex).unwrap()),
            _ if line == "idle" => Step::Idle,
            _ => panic!("a line of input is `text: …`, `hex: …`, `idle` or `# …`, not `{line}`"),
        })
        .collect()
}

/// Feeds the steps in pieces of the given sizes, over and over.
fn run(config: &Config, steps: &[Step], sizes: &[usize]) -> Vec<String> {
    let names: Vec<&str> = config.points.keys().map(String::as_str).collect();
    let points: Vec<(&str, &FieldKeys)> = config.points.iter().map(|(name, keys)| (name.as_str(), keys)).collect();
    let mut pipeline = Pipeline::new(&config.frame, config.check.as_ref(), &config.decode, &points)
        .unwrap_or_else(|errors| panic!("{}", errors.iter().map(|e| format!("{e}\n")).collect::<String>()));
    let mut lines = Vec::new();
    let mut lost = 0;
    let mut sink = |output: Output<'_>| match output {
        Output::Frame { readings, .. } => lines.extend(readings.iter().map(|reading| {
            let bad = if reading.bad { "bad " } else { "" };
            format!("{bad}{} = {}", names[reading.point], reading.value)
        })),
        Output::NotOurs(_) => lines.push("not ours".to_owned()),
        Output::Rejected { reason, bytes, .. } => {
            lost += bytes;
            lines.push(format!("rejected {}", reason.as_str()));
        }
        Output::Dropped(bytes) => lost += bytes.len(),
    };
    let mut sizes = sizes.iter().cycle();
    for step in steps {
        match step {
            Step::Idle => {
                assert!(pipeline.idle_after().is_some(), "the framer did not ask for a silence");
                pipeline.idle(&mut sink);
            }
            Step::Bytes(bytes) => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                    pipeline.push(piece, &mut sink);
                    rest = after;
                }
            }
        }
    }
    lines.push(format!("lost {lost}"));
    lines
}

/// What the schemas say against a configuration.
fn not_in_schema(config: &serde_json::Value) -> Vec<String> {
    let judge = |schema: schemars::Schema, value: &serde_json::Value| {
        let validator = jsonschema::validator_for(schema.as_value()).unwrap();
        validator.iter_errors(value).map(|error| error.to_string()).collect::<Vec<_>>()
    };
    let mut errors = judge(schemars::schema_for!(FrameKeys), &config["frame"]);
    if let Some(check) = config.get("check") {
        errors.extend(judge(schemars::schema_for!(CheckKeys), check));
    }
    errors.extend(judge(schemars::schema_for!(DecodeKeys), &config["decode"]));
    for point in config["points"].as_object().unwrap().values() {
        errors.extend(judge(schemars::schema_for!(FieldKeys), point));
    }
    errors
}

fn case(dir: &Path) {
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
    let config: Config = serde_yaml::from_str(&read("config.yaml")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let written: serde_json::Value = serde_yaml::from_str(&read("config.yaml")).unwrap();
    assert_eq!(not_in_schema(&written), Vec::<String>::new(), "{name}: the schema refuses what the code takes");
    let steps = steps(&read("input"));
    let expected: Vec<String> =
        read("expected").lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
    for sizes in [&[usize::MAX][..], &[1], &[3, 7, 1, 64, 2]] {
        let found = run(&config, &steps, sizes);
        assert_eq!(found, expected, "\n{name}, in pieces of {sizes:?}; found:\n{}\n", found.join("\n"));
    }
}

#[test]
fn every_instrument_is_understood_however_its_bytes_are_split() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frames");
    let mut cases: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    let mut failed = BTreeMap::new();
    for dir in &cases {
        if let Err(panic) = std::panic::catch_unwind(|| case(dir)) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            failed.insert(dir.file_name().unwrap().to_owned(), text);
        }
    }
    assert!(failed.is_empty(), "failed: {:?}", failed.keys().collect::<Vec<_>>());
}

#[test]
fn the_schema_refuses_unknown_keys_and_words() {
    let wrong = serde_json::json!({
        "frame": { "delimitre": ";" }, "check": { "sum": "u9" }, "decode": { "type": "keyvalu" }, "points": { "p": { "as": "u16" } }
    });
    assert_eq!(not_in_schema(&wrong).len(), 4);
}
