//! `pinpost test`: the scenarios of the examples and of config.example.yaml, what a failure looks like, and what is wrong
//! with a scenario.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn pinpost(dir: &Path, files: &[PathBuf]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinpost"));
    command.current_dir(dir).arg("test").args(files).env_remove("MQTT_URL").env("NO_COLOR", "1");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A scenario over a lamp, a button and a serial line.
fn played(steps: &str) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let gateway = "version: 1\ngateway: { id: t }\nports: { line: { path: /dev/ttyUSB0 } }\ndevices:\n  \
                   lamp: { kind: digital_out, pin: 5, max_on: 1h }\n  button: { kind: digital_in, pin: 17, pull: up }\n  \
                   meter: { kind: serial, port: line, decode: { type: keyvalue }, points: { v: { field: V } } }\n";
    fs::write(dir.path().join("gateway.yaml"), gateway).unwrap();
    fs::write(dir.path().join("s.yaml"), format!("config: gateway.yaml\n{steps}")).unwrap();
    let output = pinpost(dir.path(), &["s.yaml".into()]);
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_scenarios_of_the_examples_and_of_the_example_file_pass_and_hours_take_seconds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in fs::read_dir(root.join("examples")).unwrap() {
        let inside = fs::read_dir(dir.unwrap().path()).unwrap().map(|e| e.unwrap().path());
        files.extend(inside.filter(|p| p.to_string_lossy().ends_with(".test.yaml")));
    }
    assert!(files.len() >= 3, "{files:?}");
    files.extend(fs::read_dir(root.join("tests/scenarios")).unwrap().map(|e| e.unwrap().path()));
    files.sort();
    let begun = Instant::now();
    let output = pinpost(root, &files);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(err.contains(&format!("{} passed, 0 failed", files.len())), "{err}");
    // six hours and more; a busy machine has a minute
    assert!(out.contains("3h") && begun.elapsed() < Duration::from_secs(60), "{out}");
}

#[test]
fn a_step_that_fails_shows_what_was_wanted_and_what_there_was() {
    let (code, out, err) = played(
        "name: a lamp\nsteps:\n  - { at: 2s, publish: t/lamp/set, payload: \"ON\" }\n  - { expect: t/lamp, payload: \"OFF\" }\n",
    );
    assert_eq!(code, 1, "{out}{err}");
    for part in [
        "FAIL  s.yaml:5:7: step 2 at 3s (a lamp)",
        "- { expect: t/lamp, payload: \"OFF\" }",
        "did not come within 1s",
        "- t/lamp  OFF",
        "+ t/lamp  ON  qos 1  at 2s",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(err.contains("0 passed, 1 failed"), "{err}");
}

#[test]
fn each_kind_of_expectation_can_fail() {
    for (steps, said) in [
        ("- { level: 5, is: 1 }", "+ GPIO5  0"),
        ("- { level: 6, is: 1 }", "+ GPIO6  no output"),
        ("- { heard: line, bytes: READ }", "+ nothing"),
        ("- { heard: lime, bytes: READ }", "the gateway has no port `lime`; it has line"),
        ("- { exits: 0 }", "it still runs after 1s"),
        (
            "- { never: t/button, for: 1s, payload: \"OFF\" }\n- { pin: 17, to: 0 }\n- { never: t/button, for: 1s }",
            "came, and should never: t/button",
        ),
        ("- { expect: t/nothing, json: { a: 1 } }\n", "- t/nothing  json {\"a\":1}"),
        ("- { pin: 5, to: 1 }", "GPIO5 is an output; only inputs can be driven"),
        ("- { broker: down }\n- { publish: t/x, payload: 1 }", "there is no broker now"),
        ("- { at: 1s, level: 5, is: 0 }\n- { wait: 5s }\n- { at: 2s, level: 5, is: 0 }", "its time is over"),
        ("- { unplug: line }\n- { write: line, bytes: hello }", "`line` is unplugged"),
    ] {
        let steps: String = steps.lines().map(|line| format!("  {line}\n")).collect();
        let (code, out, err) = played(&format!("steps:\n{steps}"));
        assert_eq!(code, 1, "{steps}: {out}{err}");
        assert!(out.contains(said), "{said}: {out}");
    }
}

#[test]
fn a_gateway_that_is_killed_forgets_nothing_that_it_promised() {
    let (code, out, err) = played(
        "broker: down\nsteps:\n  \
         - { write: line, bytes: \"\\nV=1\\n\" }\n  - { at: 5s, write: line, bytes: \"V=2\\n\" }\n  - { wait: 2s }\n  \
         - { restart: kill }\n  - { at: 10s, broker: up }\n  \
         - { expect: t/meter, payload: 1 }\n  - { expect: t/meter, payload: 2 }\n  \
         - { restart: stop }\n  - { expect: t/bridge/state, payload: offline }\n  \
         - { expect: t/bridge/state, payload: online }\n  - { restart: kill }\n  \
         - { expect: t/bridge/state, payload: offline }\n",
    );
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn wrong_scenarios_are_told_with_their_place() {
    for (steps, place, said) in [
        ("steps: []", "s.yaml:2:1", "there are no steps"),
        ("steps:\n- { }", "s.yaml:3:3", "does nothing and expects nothing"),
        ("steps:\n- { expct: t/x }", "s.yaml:3:5", "expct"),
        ("steps:\n- { pin: 17 }", "s.yaml:3:10", "`pin` has no `to`"),
        ("steps:\n- { pin: 17, to: 2 }", "s.yaml:3:18", "`2` is no level"),
        ("steps:\n- { pin: 17, to: 1, expect: t/x }", "s.yaml:3:", "`pin` and `expect` in one step"),
        ("steps:\n- { wait: 1s, is: 1 }", "s.yaml:3:", "`is` means nothing beside `wait`"),
        ("steps:\n- { at: 2s, wait: 1s }\n- { at: 1s, wait: 1s }", "s.yaml:4:9", "before the one above it"),
        ("steps:\n- { expect: \"t/#/x\" }", "s.yaml:3:13", "`#` stands alone"),
        ("steps:\n- { expect: t/x, matches: \"(\" }", "s.yaml:3:", "`matches`"),
        ("steps:\n- { never: t/x }", "s.yaml:3:", "`never` has no `for`"),
        ("steps:\n- { restart: stop, gateway: other }", "s.yaml:3:", "there is no gateway `other`"),
        ("start: yesterday\nsteps:\n- { wait: 1s }", "s.yaml:2:8", "`start`"),
        ("zone: Nowhere\nsteps:\n- { wait: 1s }", "s.yaml:2:7", "`zone`"),
    ] {
        let (code, out, err) = played(steps);
        assert_eq!(code, 78, "{steps}: {out}{err}");
        assert!(err.contains(place) && err.contains(said), "{steps}: {place} {said}: {err}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("g.yaml"), "version: 1\nnothing: 1\n").unwrap();
    fs::write(dir.path().join("s.yaml"), "config: g.yaml\nsteps: [ { wait: 1s } ]\n").unwrap();
    let output = pinpost(dir.path(), &["s.yaml".into()]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{err}");
    assert!(err.contains("g.yaml:2:1"), "{err}");
}
