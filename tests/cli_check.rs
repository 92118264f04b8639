//! `pinpost check` as people and programs see it: the file named as typed, no secret shown, an end within seconds
//! whatever the file is, and the exit codes.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::program::{Ended, pinpost, run};

/// Longest that any file may take.
const SOON: Duration = Duration::from_secs(10);

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn at(dir: &Path, args: &[&str]) -> Ended {
    run(pinpost(args).current_dir(dir).env("SHED_SECRET", "CANARY5"), b"")
}

const GOOD: &str = "version: 1\ndevices: { door: { kind: digital_in, pin: 17 } }\n";
const WRONG: &str = "version: 1\ndevices:\n  door: { kind: digital_in, pin: 17, debonce: 20ms }\n";

#[test]
fn a_file_is_named_as_it_was_typed_with_line_and_column() {
    let dir = folder(&[("my.yaml", WRONG), ("good.yaml", GOOD)]);
    let absolute = dir.path().join("my.yaml").display().to_string();
    for typed in ["my.yaml", "./my.yaml", ".//./my.yaml", &absolute] {
        let ended = at(dir.path(), &["check", typed]).with(78);
        assert!(ended.err.starts_with(&format!("{typed}:3:38: error: unknown key `debonce`")), "{}", ended.err);
        assert!(ended.err.contains("  3 |   door: { kind: digital_in, pin: 17, debonce: 20ms }\n"), "{}", ended.err);
        assert!(ended.err.contains("help: did you mean `debounce`?"), "{}", ended.err);
        assert_eq!(ended.text(), "");
    }
    let good = at(dir.path(), &["check", "good.yaml"]).with(0);
    assert_eq!(good.err, "good.yaml: can be run: 1 device, 1 point; 0 errors, 0 warnings\n");
}

#[test]
fn json_goes_to_stdout_and_names_the_same_places() {
    let dir = folder(&[("my.yaml", WRONG), ("good.yaml", GOOD)]);
    let ended = at(dir.path(), &["check", "--json", "./my.yaml"]).with(78);
    assert_eq!(ended.err, "");
    let json: Value = serde_json::from_slice(&ended.out).unwrap();
    let first = &json[0];
    assert_eq!(
        (first["file"].as_str(), first["line"].as_u64(), first["column"].as_u64()),
        (Some("./my.yaml"), Some(3), Some(38))
    );
    assert_eq!((first["severity"].as_str(), json.as_array().unwrap().len()), (Some("error"), 1));
    let good = at(dir.path(), &["check", "--json", "good.yaml"]).with(0);
    assert_eq!(serde_json::from_slice::<Value>(&good.out).unwrap(), serde_json::json!([]));
}

#[test]
fn no_secret_is_shown_whatever_is_asked_of_the_file() {
    let leaky = "version: 1\nmqtt:\n  url: mqtt://joe:CANARY1@pi:99999\n  pasword: CANARY2\n  password: [CANARY3]\n  username: x\n\
                 ports: { a: { tcp: \"http://joe:CANARY4@x\" }, b: { tcp: \"${SHED_SECRET}\" } }\n\
                 broker: { listen: \"${SHED_SECRET}\" }\n";
    let fine = "version: 1\nmqtt: { url: \"mqtt://joe:CANARY1@pi\", username: joe, password: \"${SHED_SECRET}\" }\n";
    let broken = "version: 1\nmqtt: { password: CANARY1, url: mqtt://a:CANARY2@b\n";
    let dir = folder(&[("leaky.yaml", leaky), ("fine.yaml", fine), ("broken.yaml", broken)]);
    for (file, code) in [("leaky.yaml", 78), ("fine.yaml", 0), ("broken.yaml", 78)] {
        for args in [&["check"][..], &["check", "--json"], &["explain"], &["explain", "--json"]] {
            let ended = at(dir.path(), &[args, &[file]].concat()).with(code);
            let shown = format!("{}{}", ended.text(), ended.err);
            assert!(shown.len() > 2 || file == "fine.yaml", "{args:?} {file} says nothing");
            assert!(!shown.contains("CANARY"), "{args:?} {file}: {shown}");
        }
    }
    let shown = at(dir.path(), &["check", "leaky.yaml"]).err;
    assert!(shown.contains("mqtt://***@pi:99999") && shown.contains("pasword: ***"), "{shown}");
}

/// Checks a file with no more than this much address space.
fn in_little_memory(file: &Path) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 500000; exec \"$0\" check \"$1\"", env!("CARGO_BIN_EXE_pinpost")]).arg(file);
    run(&mut command, b"")
}

#[test]
fn monsters_end_soon_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut bomb = String::from("version: 1\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..40 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
    }
    let mut seed = 7u64;
    let rubbish: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    })
    .take(900_000)
    .collect();
    let big = "  door: { kind: digital_in, pin: 17 }\n".repeat(300_000);
    for (name, bytes, part) in [
        ("bomb.yaml", bomb.into_bytes(), "aliases"),
        ("big.yaml", format!("version: 1\ndevices:\n{big}").into_bytes(), "the limit is"),
        ("almost_big.yaml", format!("version: 1\ndevices:\n{}", &big[..1_000_000]).into_bytes(), "is given twice"),
        ("rubbish.yaml", rubbish, "UTF-8"),
        ("elf.yaml", std::fs::read("/bin/sh").unwrap(), "binary"),
        ("deep.yaml", b"[".repeat(500_000), "nested"),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let start = Instant::now();
        let ended = in_little_memory(&file).with(78);
        assert!(ended.err.contains(part), "{name}: {:.500}", ended.err);
        assert!(start.elapsed() < SOON, "{name} took {:?}", start.elapsed());
        assert!(ended.err.len() < 200_000, "{name}: {} bytes of report", ended.err.len());
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_wrong_configuration_for_every_command() {
    let dir = folder(&[("empty.yaml", ""), ("two.yaml", "version: 1\n---\nversion: 1\n")]);
    for (file, part) in [
        ("nowhere.yaml", "there is no such file"),
        (".", "is a directory"),
        ("/dev/null", "is a device or a pipe"),
        ("empty.yaml", "empty"),
        ("two.yaml", "document"),
    ] {
        for args in [&["check"][..], &["explain"], &["run", "--simulate", "-c"], &["safe-state", "-c"]] {
            let ended = at(dir.path(), &[args, &[file]].concat()).with(78);
            assert!(ended.err.contains(part), "{args:?} {file}: {}", ended.err);
        }
    }
}

#[test]
fn warnings_alone_do_not_make_a_file_wrong() {
    let text = "version: 1\nmqtt: { username: x, password_file: nowhere }\nports: { m: { path: /dev/ttyUSB0 } }\n";
    let dir = folder(&[("warned.yaml", text)]);
    let ended = at(dir.path(), &["check", "warned.yaml"]).with(0);
    assert!(ended.err.contains("warned.yaml:2:37: warning: `password_file`"), "{}", ended.err);
    assert!(ended.err.contains("0 errors, 2 warnings"), "{}", ended.err);
}

#[test]
fn the_file_may_be_judged_without_any_environment() {
    let root = env!("CARGO_MANIFEST_DIR");
    for file in ["config.example.yaml", "packaging/config.yaml"] {
        let ended = run(pinpost(["check", file]).current_dir(root).env_clear(), b"").with(0);
        assert!(ended.err.ends_with("0 errors, 0 warnings\n"), "{}", ended.err);
    }
}

const PINS: &str = "version: 1
ports: { meter: { path: /dev/ttyAMA0 } }
devices:
  id: { kind: digital_in, pin: 1 }
  door: { kind: digital_in, pin: header:10 }
  lamp: { kind: digital_out, pin: 17 }
  meter: { kind: serial, port: meter, points: { t: {} } }
";

#[test]
fn pins_are_judged_as_those_of_the_board_that_is_named() {
    let dir = folder(&[("my.yaml", PINS)]);
    let ended = at(dir.path(), &["check", "--board", "pi5", "my.yaml"]).with(0);
    assert!(ended.err.contains("my.yaml:4:32: warning: GPIO1 belongs to the identification EEPROM"), "{}", ended.err);
    assert!(ended.err.contains("my.yaml:5:34: warning: GPIO15 is the line of port `meter`"), "{}", ended.err);
    assert!(ended.err.contains("0 errors, 2 warnings"), "{}", ended.err);
    let ended = at(dir.path(), &["check", "--board", "pi7", "my.yaml"]).with(2);
    assert!(ended.err.contains("zero2w") && ended.err.contains("pi5"), "{}", ended.err);
}

#[test]
fn the_header_is_shown_for_every_board_with_the_devices_of_a_file() {
    let dir = folder(&[("my.yaml", PINS)]);
    let shown = |board: &str| at(dir.path(), &["pins", "--board", board, "-c", "my.yaml"]).with(0).text();
    let five = shown("pi5");
    assert!(five.contains("Raspberry Pi 5") && five.contains("pinctrl-rp1"), "{five}");
    assert!(five.contains("   11  GPIO17  SPI1 CE1   <- device `lamp`\n"), "{five}");
    assert!(five.contains("    7  GPIO4   GPCLK0, 1-Wire, UART2 TX, I2C2 SDA, SPI3 CE0\n"), "{five}");
    assert!(shown("3B+").contains("    7  GPIO4   GPCLK0, 1-Wire\n"));
    assert!(shown("zero 2 w").contains("pinctrl-bcm2835"));
    let json = at(dir.path(), &["pins", "--board", "pi4", "-c", "my.yaml", "--json"]).with(0);
    let json: Value = serde_json::from_slice(&json.out).unwrap();
    assert_eq!((json["family"].as_str(), json["chip"].as_str()), (Some("pi4"), Some("pinctrl-bcm2711")));
    let lamp = &json["pins"][10];
    assert_eq!((lamp["bcm"].as_u64(), lamp["device"].as_str()), (Some(17), Some("lamp")));
    assert_eq!(json["pins"][11]["pwm_channel"].as_u64(), Some(0));
}
