//! Every file below `tests/configs/valid` passes without a word; every one below `tests/configs/invalid` gives exactly
//! the report beside it. `UPDATE_EXPECT=1 cargo test --test config_files` writes the reports anew: read the difference.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use pinpost::config::raw::PointKeys;
use pinpost::config::scalar::{OnOff, Pin, Span};
use pinpost::config::{self, Loaded, When};
use pinpost::model::Problem;
use pinpost::plan::{self, Ask, Checked};
use proptest::prelude::*;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

/// What a file comes to: as written, and as judged.
struct Judged {
    loaded: Loaded,
    problems: Vec<Problem>,
    text: String,
    runs: bool,
}

/// The whole check of a file, its form and its meaning, as on a machine called `testhost`.
fn check(bytes: &[u8]) -> Judged {
    let loaded = config::load(bytes, &env, &plan::vocabulary());
    // relative, so that a report with a path in it is the same on every machine
    let base = Path::new("tests/configs");
    let ask = Ask { env: &env, base, when: When::Check, simulate: false, host: "testhost", machine: "abcdef" };
    let Checked { plan, problems, text } = plan::check(bytes, &ask);
    Judged { loaded, problems, text, runs: plan.is_some() }
}

impl Judged {
    fn report(&self, name: &str) -> String {
        config::report::render(&self.problems, name, &self.text, false)
    }
}

#[derive(Deserialize)]
struct Input {
    pin: Pin,
    pull: String,
    debounce: Span,
}

#[derive(Deserialize)]
struct Output {
    safe: OnOff,
    #[serde(flatten)]
    point: PointKeys,
}

#[derive(Deserialize)]
struct Instrument {
    points: IndexMap<String, PointKeys>,
}

#[test]
fn what_was_written_arrives_as_types() {
    let loaded = check(SEED.as_bytes()).loaded;
    let raw = &loaded.raw;
    assert_eq!(raw.mqtt.client_id.as_deref(), Some("4711"));
    assert_eq!(raw.mqtt.password.as_ref().unwrap().reveal(), "CANARY");
    assert_eq!(raw.defaults.qos, Some(1));
    assert!(raw.broker.is_some());
    assert_eq!(raw.ports["meter"].baud_rate, Some(9600));
    assert_eq!(raw.ports["scale"].usb.as_ref().unwrap().vid.0, 0x0403);
    assert_eq!(raw.devices.len(), 6);
    let bell: Input = raw.devices["bell"].params.read().unwrap();
    assert_eq!((bell.pin.0, bell.pull.as_str(), bell.debounce.0.as_millis()), (4, "up", 50));
    let pump: Output = raw.devices["pump"].params.read().unwrap();
    assert!(!pump.safe.0);
    assert_eq!(pump.point.payload_on.as_deref(), Some("1"));
    assert_eq!(pump.point.payload_off.as_deref(), Some("off"));
    let weather: Instrument = raw.devices["weather"].params.read().unwrap();
    assert_eq!(weather.points["humidity"].unit.as_deref(), Some("%"));
    let (filter, value) = weather.points["temperature"].filters[1].word().unwrap();
    assert_eq!((filter, value.read::<String>().unwrap().as_str()), ("throttle", "5s"));
    let error = raw.devices["door"].params.read_at::<Instrument>().err().unwrap();
    assert!(error.1.contains("points"), "{error:?}");
    assert_eq!(loaded.places.value(&["devices", "bell", "debounce"]).unwrap().col, 67);
}

#[test]
fn what_is_wrong_is_left_out_and_the_rest_arrives() {
    let text = "version: 1\nqueue: {max_age: 7, max_size: 2MiB}\ndevices:\n  a: {kind: digital_in, pin: 1, pull: x}\n  b: {kind: digital_out}\n  c: {kind: digital_out, pin: 300}\n";
    let Judged { loaded, problems, .. } = check(text.as_bytes());
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert_eq!(loaded.raw.queue.max_size.unwrap().0, 2 << 20);
    assert_eq!(loaded.raw.queue.max_age, None);
    assert_eq!(loaded.raw.devices.keys().collect::<Vec<_>>(), ["a"]);
    let places = &loaded.places;
    assert!(places.has(&["devices", "b"]) && places.dropped(&["devices", "b"]));
    assert!(places.dropped(&["devices", "a", "pull"]) && !places.dropped(&["devices", "a", "pin"]));
}

fn env(name: &str) -> Option<String> {
    match name {
        "MQTT_URL" => Some("mqtt://joe:CANARY@pi:1883".into()),
        "QOS" => Some("1".into()),
        "EMPTY" => Some(String::new()),
        "MQTT_PASSWORD" => Some("CANARY".into()),
        _ => None,
    }
}

/// The files below `tests/configs`.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("tests/configs").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files that must be right: those of the tests and those that users are given.
fn good_files() -> Vec<PathBuf> {
    let given = ["config.example.yaml", "packaging/config.yaml"].map(|name| root().join(name));
    let files = files("valid");
    assert!(files.len() >= 3);
    files.into_iter().chain(given).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn valid_files_pass_without_a_word() {
    for path in good_files() {
        let bytes = config::read(&path).unwrap();
        let judged = check(&bytes);
        assert!(judged.problems.is_empty(), "{}", judged.report(&name(&path)));
        assert!(judged.runs);
    }
}

#[test]
fn the_example_shows_every_key_and_both_documents_explain_it() {
    let schema = config::schema::plain(&plan::vocabulary());
    let mut keys = BTreeSet::new();
    collect(&schema, &mut keys);
    assert!(keys.len() > 90, "{keys:?}");
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (example, doc) = (read("config.example.yaml"), read("docs/configuration.md"));
    for key in keys {
        let shown = Regex::new(&format!(r"(?m)(^|[\s{{,#]){key}(:| \||  )")).unwrap();
        assert!(shown.is_match(&example), "config.example.yaml does not show `{key}`");
        let explained = Regex::new(&format!(r"`([^`\n]*[^`\n\w])?{key}([^`\n\w][^`\n]*)?`")).unwrap();
        assert!(explained.is_match(&doc), "docs/configuration.md does not explain `{key}`");
    }
}

/// Every key that a schema knows.
fn collect(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            map.values().for_each(|v| collect(v, keys));
        }
        Value::Array(list) => list.iter().for_each(|v| collect(v, keys)),
        _ => {}
    }
}

#[test]
fn other_tools_words_come_to_the_same_plan() {
    let ours = "version: 1\nmqtt: {url: \"mqtt://pi:1884\", topic_prefix: home, username: joe}\nports: {m: {path: /dev/serial0, baud_rate: 1200}}\ndevices:\n  a: {kind: digital_in, pin: 4, pull: up, debounce: 50ms, unit: l}\n  b: {kind: serial, port: m, points: {t: {unit: mm, filters: [{round: 1}, {delta: 2%}]}}}\n";
    let other = "version: 1\nmqtt: {host: pi, port: 1884, base_topic: home, user: joe}\nports: {m: {path: /dev/serial0, baud: 1200}}\ndevices:\n  a: {kind: digital_in, pin: 4, pullup: true, bouncetime: 50, unit_of_measurement: l}\n  b: {kind: serial, port: m, points: {t: {unit_of_measurement: mm, filters: [{round: 1}, {delta: 2%}]}}}\n";
    let explained = |text: &str| {
        let ask =
            Ask { env: &env, base: Path::new(""), when: When::Run, simulate: false, host: "h", machine: "abcdef" };
        let checked = plan::check(text.as_bytes(), &ask);
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        let plan = checked.plan.unwrap();
        assert_eq!(plan.link.login, Some(("joe".into(), String::new())));
        (plan::explain(&plan), plan::explain_json(&plan))
    };
    let (text, json) = explained(ours);
    assert_eq!((text.clone(), json), explained(other));
    for part in
        ["mqtt://pi:1884", "home/a", "pulled up, debounce 50ms", "[mm]", "ON or OFF; qos 1", "round 1 → delta 2%"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_file_of_the_page_for_users_can_be_run() {
    // its secret and its certificates are not there: that is said, and stops nobody
    let path = root().join("tests/configs/invalid/product.yaml");
    let judged = check(&config::read(&path).unwrap());
    assert!(judged.runs && judged.problems.iter().all(|p| p.warning), "{}", judged.report("product.yaml"));
}

#[test]
fn invalid_files_give_the_report_beside_them() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let files = files("invalid");
    assert!(files.len() >= 40);
    for path in files {
        let bytes = config::read(&path).unwrap();
        let judged = check(&bytes);
        let problems = &judged.problems;
        let mqtt = &judged.loaded.raw.mqtt;
        let secrets = (&mqtt.username, &mqtt.password);
        let report = judged.report(&name(&path));
        let json = config::report::render_json(problems, &name(&path), &judged.text).to_string();
        assert!(!problems.is_empty(), "{} has no problem", path.display());
        assert_eq!(judged.runs, problems.iter().all(|p| p.warning), "{}", path.display());
        for shown in [report.clone(), json, format!("{problems:?}"), format!("{:?}", secrets)] {
            assert!(!shown.contains("CANARY"), "{} shows a secret: {shown}", path.display());
        }
        let expected = path.with_extension("txt");
        if update {
            std::fs::write(&expected, &report).unwrap();
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        assert!(wanted == report, "{} reports now:\n{report}\nand not:\n{wanted}", path.display());
    }
}

#[test]
fn the_schema_for_editors_is_valid_and_accepts_valid_files() {
    let schema = config::schema(&plan::vocabulary());
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    assert!(!schema.to_string().contains("x-"), "words of our own stay inside");
    for path in good_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        let errors: Vec<String> = validator.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
}

#[test]
fn the_schema_for_editors_refuses_what_check_refuses() {
    let validator = jsonschema::draft202012::new(&config::schema(&plan::vocabulary())).unwrap();
    for yaml in [
        "mqt: {}",
        "mqtt: {urls: x}",
        "devices: {a: {kind: digital_out}}",
        "devices: {a: {kind: counter, pin: 4, rate_unit: d}}",
        "devices: {a: {kind: encoder, pins: [4]}}",
        "devices: {a: {kind: digital_in, pin: 17, pan: 1}}",
        "devices: {a: {kind: nope, pin: 17}}",
        "devices: {a: {kind: digital_in, pin: 17, debounce: 20}}",
        "devices: {a: {kind: digital_in, pin: 17, pull: sideways}}",
        "devices: {a: {kind: digital_in, pin: 17, filters: [{nope: 1}]}}",
        "devices: {A: {kind: digital_in, pin: 17}}",
        "devices: {sim: {kind: digital_in, pin: 17}}",
        "defaults: {qos: 3}",
        "queue: {max_size: 64}",
        "queue: {replay: {rate: fast}}",
        "ports: {a: {usb: {vid: 0403}}}",
        "devices: {a: {kind: serial, port: a, frame: cobz}}",
        "devices: {a: {kind: serial, port: a, points: {t: {as: u7}}}}",
        "devices: {a: {kind: digital_out, pin: 17, on_broker_loss: {do: safe}}}",
    ] {
        let json: serde_json::Value = serde_yaml::from_str(yaml).unwrap();
        assert!(!validator.is_valid(&json), "{yaml}");
        assert!(!check(yaml.as_bytes()).problems.is_empty(), "{yaml}");
    }
}

/// CPU time of this thread: what else runs on the machine does not count.
fn cpu() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The one problem's text and how much work it was.
fn only(bytes: &[u8]) -> (String, Duration) {
    let start = cpu();
    let judged = check(bytes);
    let report = judged.report("f");
    assert!(!report.is_empty());
    (report, cpu() - start)
}

#[test]
fn monsters_are_refused_at_once() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..30 {
        let last = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![last; 9].join(", "));
    }
    let utf16: Vec<u8> = "version: 1\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let big = b"a: 1\n".repeat(2 << 20);
    let full = |unit: &str| unit.repeat((1 << 20) / unit.len()).into_bytes();
    for (bytes, part) in [
        (bomb.into_bytes(), "with its aliases (`*`) the file has more than 50000 values"),
        (big, "the file has 10.0 MiB; the limit is 1.0 MiB"),
        (utf16, "UTF-16 or binary, not UTF-8"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(), "binary"),
        (full("["), "nested"),
        (full("{a: "), "nested"),
        (full("- "), "nested"),
        (full("? "), "nested"),
        (full("a: "), "error"),
        (full("a: 1\n"), "is given twice"),
        (full("a\n"), "must be a mapping"),
        (full("\"\n"), "error"),
        (full("&a "), "error"),
        (full("!a "), "error"),
        (full("x,"), "error"),
        (format!("[{}]", "x,".repeat(500_000)).into_bytes(), "more than 50000 values"),
        (format!("devices: {{{}}}", "x: {kind: y}, ".repeat(9_000)).into_bytes(), "given twice"),
        ((0..9_000).map(|i| format!("key{i}: 1\n")).collect::<String>().into_bytes(), "unknown key `key0`"),
        (full("x"), "must be a mapping"),
        (format!("{}: 1", "x".repeat(1000)).into_bytes(), "unknown key"),
        (format!("gateway: {{id: \"{}\"}}", "x".repeat(1 << 19)).into_bytes(), "is not a name"),
    ] {
        let (report, took) = only(&bytes);
        let head: String = report.chars().take(300).collect();
        assert!(report.contains(part), "{part:?} is not in {head}");
        assert!(took < Duration::from_secs(15), "{took:?} for {head}");
        assert!(report.len() < 200_000, "{} bytes of report: {head}", report.len());
    }
}

const SEED: &str = include_str!("configs/valid/greenhouse.yaml");

proptest! {
    #[test]
    fn any_bytes_end_fast_and_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        only_ends(&bytes);
    }

    #[test]
    fn any_yaml_like_text_ends_fast_and_without_panic(text in "([a-z]{1,8}|devices|mqtt|[:,#&*!|>'\"{}\\[\\]%@`~?-]|\\$\\{|\\}| |\n|\r|\t|  |0x|9|ü|\u{202e}|\\\\){0,300}") {
        only_ends(text.as_bytes());
    }

    #[test]
    fn any_mutated_valid_file_ends_fast_and_without_panic(
        edits in proptest::collection::vec((0..SEED.len(), 0..12usize, proptest::option::of("[ -~\n\tü]{0,6}")), 1..6)
    ) {
        let mut bytes = SEED.as_bytes().to_vec();
        for (at, cut, put) in edits {
            let at = at.min(bytes.len());
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, put.unwrap_or_default().into_bytes());
        }
        only_ends(&bytes);
    }
}

/// Files with secrets in several forms; the places where they may be broken are marked by `|`.
const LEAKY: [&str; 4] = [
    "|version: 1|\n|mqtt:|\n|  |client_id: x|\n|  |password: CANARY\n|  |foo: 1|\n|devices: {}|\n|",
    "|mqtt: |{ |foo: 1|, |password: CANARY, |bar: [1|, 2]|, baz: \"q|\" }|\n|devices:| {a: 1|}\n|",
    "|mqtt:|\n|  |url: mqtt://joe:CANARY@pi|\n|  |qux: 1|\n|queue|: |{ x: mqtt://a:CANARY@b, |y: 1 }|\n|",
    "|mqtt:|\n|  |token: |\"|a\\|n CANARY\"|\n|  |secret:|\n|    CANARY|\n|  |foo: 1|\n|",
];

proptest! {
    #[test]
    fn no_broken_file_shows_its_secret(
        which in 0..LEAKY.len(),
        puts in proptest::collection::vec((0..40usize, "[\"'{}\\[\\]:,#&*!|> \n\t-]{1,3}|[a-z]{1,3}"), 0..4)
    ) {
        let mut pieces: Vec<String> = LEAKY[which].split('|').map(str::to_owned).collect();
        let last = pieces.len() - 1;
        for (at, put) in puts {
            pieces[at.min(last)].push_str(&put);
        }
        let text = pieces.concat();
        let Judged { problems, text: shown_text, .. } = check(text.as_bytes());
        // and with a problem at every line, whatever was found
        let mut all = problems.clone();
        for line in 1..=text.lines().count() {
            all.push(Problem::error(Some(pinpost::model::Place { line, col: 1, len: 200 }), "x"));
        }
        let shown = config::report::render(&all, "f", &shown_text, false);
        prop_assert!(!shown.contains("CANARY"), "{text}\n-----\n{shown}");
        prop_assert!(!format!("{problems:?}").contains("CANARY"), "{text}\n-----\n{problems:?}");
    }
}

fn only_ends(bytes: &[u8]) {
    let start = cpu();
    let judged = check(bytes);
    let report = judged.report("f");
    assert_eq!(judged.problems.is_empty(), report.is_empty());
    for problem in &judged.problems {
        if let Some(place) = problem.place {
            assert!(place.line >= 1 && place.col >= 1 && place.len >= 1, "{problem:?}");
        }
    }
    assert!(cpu() - start < Duration::from_secs(5));
}
