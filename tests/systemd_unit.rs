//! Holds what `systemd/` promises: the unit's sandbox (`systemd-analyze security`), that systemd accepts every line of
//! it and of the drop-in examples, that the user and groups it asks for are made, and the few lines that are a contract.
//! Needs systemd's own tools (Debian: the package `systemd`); without them it fails and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What systemd 252 gives the unit as it is shipped. Lower is better; mosquitto's own unit has 9.6.
const SCORE: f32 = 1.3;
/// With the drop-in that allows only the local network.
const SCORE_LOCAL: f32 = 1.2;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit() -> String {
    fs::read_to_string(folder().join("pinpost.service")).unwrap()
}

/// Every value of a key, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool).args(args).env("SYSTEMD_COLORS", "0").env("LC_ALL", "C.UTF-8").output().unwrap_or_else(|e| {
        panic!("{tool} did not start ({e}). The unit is judged by systemd's own tools: apt-get install systemd")
    })
}

/// The unit, as it would lie on a machine, in a folder of its own; its program is the one that was just built.
fn installed(text: &str, drop_ins: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = text.replace("/usr/bin/pinpost", env!("CARGO_BIN_EXE_pinpost"));
    fs::write(dir.path().join("pinpost.service"), text).unwrap();
    let into = dir.path().join("pinpost.service.d");
    fs::create_dir(&into).unwrap();
    for name in drop_ins {
        fs::copy(folder().join(format!("pinpost.service.d/{name}.example")), into.join(name)).unwrap();
    }
    dir
}

/// The overall exposure, 0.0 to 10.0.
fn score(text: &str, drop_ins: &[&str]) -> f32 {
    let dir = installed(text, drop_ins);
    let path = dir.path().join("pinpost.service");
    let out = run("systemd-analyze", &["security", "--offline=yes", "--no-pager", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = said.lines().find(|line| line.contains("Overall exposure level"));
    let figure = line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next()?.parse().ok());
    figure.unwrap_or_else(|| panic!("no score in:\n{said}{}", String::from_utf8_lossy(&out.stderr)))
}

/// What `systemd-analyze verify` says; nothing is what it should say.
fn verify(text: &str, drop_ins: &[&str]) -> String {
    let dir = installed(text, drop_ins);
    let path = dir.path().join("pinpost.service");
    let out = run("systemd-analyze", &["verify", "--man=no", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    if out.status.success() { said } else { format!("{}: {said}", out.status) }
}

fn drop_ins() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder().join("pinpost.service.d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(".example").expect("drop-ins are examples: NAME.conf.example").to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn the_unit_is_as_closed_as_it_was_measured() {
    let found = score(&unit(), &[]);
    assert!(found <= SCORE, "systemd-analyze security gives {found}, it was {SCORE}");
}

#[test]
fn the_local_network_drop_in_closes_it_further() {
    let found = score(&unit(), &["10-local-network.conf"]);
    assert!(found <= SCORE_LOCAL, "systemd-analyze security gives {found}, it was {SCORE_LOCAL}");
}

#[test]
fn a_hole_in_the_sandbox_shows_in_the_score() {
    for hole in ["NoNewPrivileges=yes", "ProtectSystem=strict", "User=pinpost", "CapabilityBoundingSet="] {
        let holed = unit().replace(&format!("\n{hole}\n"), "\n");
        assert_ne!(holed, unit(), "{hole} is not in the unit");
        let found = score(&holed, &[]);
        assert!(found > SCORE, "without {hole} the score is still {found}");
    }
}

#[test]
fn systemd_accepts_every_line_of_the_unit() {
    assert_eq!(verify(&unit(), &[]), "");
}

#[test]
fn systemd_accepts_every_line_of_the_drop_ins() {
    let names = drop_ins();
    assert!(!names.is_empty());
    for name in &names {
        assert_eq!(verify(&unit(), &[name]), "", "{name}");
    }
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(verify(&unit(), &all), "");
}

#[test]
fn a_line_that_systemd_does_not_know_is_seen() {
    let said = verify(&unit().replace("\nWatchdogSec=20s\n", "\nWatchdogSeconds=20s\n"), &[]);
    assert!(said.contains("WatchdogSeconds"), "{said}");
}

#[test]
fn the_user_and_every_group_of_the_unit_are_made() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let conf = folder().join("sysusers.d/pinpost.conf");
    let out = run("systemd-sysusers", &[&format!("--root={}", root.path().display()), conf.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
    let unit = unit();
    let user = values(&unit, "User")[0];
    let entry = passwd.lines().find(|line| line.starts_with(&format!("{user}:")));
    assert!(entry.is_some_and(|line| line.ends_with("/nologin")), "{passwd}");
    assert!(groups.lines().any(|line| line.starts_with(&format!("{}:", values(&unit, "Group")[0]))), "{groups}");
    let wanted: Vec<&str> = values(&unit, "SupplementaryGroups").iter().flat_map(|v| v.split(' ')).collect();
    assert_eq!(wanted, ["gpio", "dialout", "i2c", "spi"]);
    for group in wanted {
        let line = groups.lines().find(|line| line.starts_with(&format!("{group}:")));
        assert!(line.is_some_and(|line| line.ends_with(&format!(":{user}"))), "{group} without {user}: {groups}");
    }
}

#[test]
fn the_lines_that_are_a_contract_are_there() {
    let unit = unit();
    assert_eq!(values(&unit, "ExecStart"), ["/usr/bin/pinpost run -c /etc/pinpost/config.yaml"]);
    let reload = ["/usr/bin/pinpost check /etc/pinpost/config.yaml", "/bin/kill -HUP $MAINPID"];
    assert_eq!(values(&unit, "ExecReload"), reload, "a wrong file makes the reload fail");
    assert_eq!(values(&unit, "ExecStopPost"), ["-/usr/bin/pinpost safe-state"]);
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "Restart"), ["always"]);
    assert_eq!(values(&unit, "RestartPreventExitStatus"), ["78"], "a wrong file must not restart for ever");
    assert_eq!(values(&unit, "StartLimitIntervalSec"), ["0"], "nothing else may end the restarts");
    assert_eq!(values(&unit, "StateDirectory"), ["pinpost"]);
    assert_eq!(values(&unit, "ProcSubset"), ["all"], "rppal finds the board in /proc/cpuinfo");
    assert!(!values(&unit, "WatchdogSec").is_empty());
    assert!(values(&unit, "IPAddressDeny").is_empty(), "brokers may be anywhere; the drop-in is for those at home");
    assert!(values(&unit, "LoadCredential").is_empty(), "a missing credential would stop the unit");
}
