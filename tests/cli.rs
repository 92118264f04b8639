//! The command line itself: help, exit codes, what goes where.

mod support;

use std::process::Command;

use support::program::{pinpost, run};

const COMMANDS: [&str; 12] =
    ["run", "demo", "check", "explain", "schema", "pub", "sub", "broker", "ports", "pins", "serial", "safe-state"];

#[test]
fn every_command_has_help_with_examples_on_stdout() {
    for command in COMMANDS {
        let help = run(&mut pinpost([command, "--help"]), b"").with(0);
        assert!(help.text().contains(&format!("Usage: pinpost {command}")), "{}", help.text());
        assert!(help.text().contains("Examples:"), "{command}");
        assert_eq!(help.err, "", "{command}");
    }
}

#[test]
fn the_first_help_shows_where_to_start_and_every_command() {
    let help = run(&mut pinpost(["--help"]), b"").with(0).text();
    for text in ["pinpost demo", "pinpost check", "pinpost run"].iter().chain(&COMMANDS) {
        assert!(help.contains(text), "{text}: {help}");
    }
    let version = run(&mut pinpost(["--version"]), b"").with(0).text();
    assert_eq!(version, format!("pinpost {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_exit_code_2_on_stderr() {
    for args in [
        &[][..],
        &["no-such-command"],
        &["run", "--no-such-option"],
        &["demo", "--for", "10"],
        &["pub", "-q", "3"],
        &["pub", "-t", "a"],
        &["pub", "-m", "x"],
        &["pub", "-t", "a/#", "-m", "x"],
        &["pub", "-t", "a", "-m", "x", "-n"],
        &["pub", "-t", "a", "-m", "x", "-P", "alone"],
        &["pub", "-t", "a", "-m", "x", "-V", "mqttv31"],
        &["pub", "-t", "a", "-m", "x", "-L", "http://pi"],
        &["sub", "-t", "a#"],
        &["sub", "-t", "a", "-C", "0"],
        &["sub", "-t", "a", "-W", "0"],
        &["sub", "-t", "a", "--cert", "x"],
        &["broker", "--listen", "1.2.3.4:99999"],
    ] {
        let ended = run(&mut pinpost(args), b"");
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.err);
        assert_eq!(ended.text(), "", "{args:?}");
        assert!(!ended.err.is_empty(), "{args:?}");
    }
}

#[test]
fn a_bad_url_in_the_environment_is_named_but_not_shown() {
    let ended = run(pinpost(["sub", "-t", "a"]).env("MQTT_URL", "joe:hush@pi"), b"").with(2);
    assert!(ended.err.contains("MQTT_URL") && !ended.err.contains("hush"), "{}", ended.err);
}

#[test]
fn nothing_is_coloured_where_nobody_sees_it() {
    for args in
        [&["--help"][..], &["pub", "--help"], &["no-such-command"], &["pub", "-p", "1", "-t", "a", "-m", "x", "-d"]]
    {
        let ended = run(&mut pinpost(args), b"");
        assert!(!ended.out.contains(&0x1b) && !ended.err.contains('\x1b'), "{args:?}");
    }
}

/// `script` runs a command on a terminal of its own.
fn on_a_terminal(arg: &str, no_color: bool) -> String {
    let line = format!("{} {arg}", env!("CARGO_BIN_EXE_pinpost"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR").env_remove("MQTT_URL");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    run(&mut command, b"").text()
}

#[test]
fn a_terminal_gets_colours_unless_no_color_is_set() {
    for arg in ["--help", "no-such-command", "pub -h 127.0.0.1 -p 1 -t a -m x"] {
        let plain = on_a_terminal(arg, true);
        assert!(plain.contains("pinpost") && !plain.contains('\x1b'), "{arg}: {plain:?}");
    }
    let coloured = on_a_terminal("no-such-command", false);
    assert!(coloured.contains("\x1b["), "{coloured:?}");
}

#[test]
fn a_closed_stdout_makes_no_noise() {
    let exe = env!("CARGO_BIN_EXE_pinpost");
    for arg in ["--help", "pub --help", "--version"] {
        let line = format!("{exe} {arg} >&-; echo code $?");
        let ended = run(Command::new("sh").args(["-c", &line]), b"").with(0);
        assert_eq!((ended.text().as_str(), ended.err.as_str()), ("code 0\n", ""), "{arg}");
    }
}
