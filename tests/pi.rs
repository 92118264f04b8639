//! The whole daemon, without `--simulate`, on a fake Pi: the genuine rppal on registers and lines of a directory.

#[path = "support/fake_pi.rs"]
mod fake_pi;
mod support;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use fake_pi::{CLR, FSEL, FakePi, SET};
use support::gateway::{Gateway, Home, Watch, publish};
use support::mosquitto::Mosquitto;
use support::program::{Program, run};

const DEVICES: &str = "devices:
  door: { kind: digital_in, pin: 17, pull: up, inverted: true, debounce: 5ms }
  pump: { kind: digital_out, pin: 27 }
  lamp: { kind: digital_out, pin: 5, inverted: true, safe: on, initial: off }
";

#[test]
fn edges_become_messages_and_commands_move_registers() {
    let pi = FakePi::new();
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    assert_eq!(all.next("gw/bridge/info").json()["board"], "Raspberry Pi 4 B (rppal)");
    all.expect("gw/door", "OFF");
    all.expect("gw/pump", "OFF");
    all.expect("gw/lamp", "OFF");
    assert_eq!((pi.mode(27), pi.level(27), pi.mode(5), pi.level(5)), (1, false, 1, true));
    assert_eq!((pi.mode(17), pi.pull(17)), (0, 1));

    // the level was there before the direction: nothing clicked
    let trace = pi.trace();
    let first = |register, bit: u32| trace.iter().position(|s| s.register == register && s.value & bit != 0).unwrap();
    assert!(first(SET, 1 << 5) < first(FSEL, 1 << 15), "{trace:?}");
    assert!(first(CLR, 1 << 27) < first(FSEL + 2, 1 << 21), "{trace:?}");

    // a contact that bounces
    for high in [false, true, false, true, false] {
        pi.edge(17, high);
    }
    all.expect("gw/door", "ON");
    pi.edge(17, true);
    all.expect("gw/door", "OFF");

    publish(&broker, "gw/pump/set", "ON", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
    assert!(pi.level(27));
    all.expect("gw/pump", "ON");
    publish(&broker, "gw/lamp/set", "ON", &[]);
    assert_eq!(all.next("gw/lamp/result").json()["value"], "ON");
    assert!(!pi.level(5));
    publish(&broker, "gw/lamp/set", "OFF", &[]);
    all.next("gw/lamp/result");

    // at an orderly stop every output takes its safe state, and says so
    gateway.stop();
    assert_eq!((pi.mode(27), pi.level(27), pi.mode(5), pi.level(5)), (1, false, 1, false));
    all.expect("gw/bridge/state", "offline");
    // no pin topics without --simulate
    assert!(all.lines.iter().all(|l| !l.contains("gw/sim/")));
}

#[test]
fn a_fan_on_its_own_pwm_follows_commands_and_is_safe_after_a_crash() {
    let pi = FakePi::new();
    pi.load_pwm(&[0, 1]);
    let mut broker = Mosquitto::start();
    let devices = "devices:\n  fan: { kind: pwm, pin: 18, frequency: 25000 }\n  flap: { kind: servo, pin: 13 }\n";
    let home = Home::simple(&broker, devices).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    publish(&broker, "gw/fan/set", "40", &[]);
    assert_eq!(all.next("gw/fan/result").json()["value"], 40);
    assert_eq!((pi.pwm(0), pi.mode(18)), ((40_000, 16_000, true), 2));
    publish(&broker, "gw/flap/set", "90", &[]);
    assert_eq!(all.next("gw/flap/result").json()["outcome"], "done");
    assert_eq!((pi.pwm(1), pi.mode(13)), ((20_000_000, 1_500_000, true), 4));
    gateway.kill();
    // the hardware goes on by itself
    assert_eq!((pi.pwm(0), pi.mode(18)), ((40_000, 16_000, true), 2));
    let mut command = home.pinpost(&["safe-state"]);
    command.env("STATE_DIRECTORY", home.path("state")).env("SERVICE_RESULT", "signal");
    run(&mut command, b"").with(0);
    assert_eq!((pi.mode(18), pi.level(18)), (1, false));
}

#[test]
fn a_pin_that_another_program_holds_is_that_device_s_trouble_alone() {
    let pi = FakePi::new();
    pi.hold(27, true);
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    all.expect("gw/pump/availability", "offline");
    all.expect("gw/door/availability", "online");
    all.expect("gw/lamp/availability", "online");
    gateway.log("`other-program` holds GPIO27");
    publish(&broker, "gw/pump/set", "ON", &[]);
    let refused = all.next("gw/pump/result").json();
    assert_eq!(refused["outcome"], "failed", "{refused}");
    publish(&broker, "gw/lamp/set", "ON", &[]);
    assert_eq!(all.next("gw/lamp/result").json()["outcome"], "done");
    assert_eq!(pi.mode(27), 0, "the other program's pin was touched");
    // it comes by itself when the other one has gone
    pi.hold(27, false);
    all.expect("gw/pump/availability", "online");
    publish(&broker, "gw/pump/set", "ON", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
    assert!(pi.level(27));
    gateway.stop();
}

#[test]
fn a_reload_leaves_the_registers_of_an_output_alone_that_both_files_have() {
    let pi = FakePi::new();
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    for (device, value) in [("pump", "ON"), ("lamp", "ON")] {
        publish(&broker, &format!("gw/{device}/set"), value, &[]);
        all.next(&format!("gw/{device}/result"));
    }
    assert!(pi.level(27) && !pi.level(5));
    let before = pi.trace().len();

    // pump stays; lamp is no longer inverted, which is another output: it takes its safe state and begins anew
    let text = std::fs::read_to_string(home.file()).unwrap();
    home.write(&text.replace("inverted: true, safe: on", "safe: on").replace("pump:", "well:"));
    gateway.program.signal(nix::sys::signal::Signal::SIGHUP);
    let done = all.until("gw/bridge/event", |g| g.json()["event"] == "reload").json();
    assert_eq!(done["outcome"], "done", "{done}");
    all.until_payload("gw/well", "ON");
    all.until_payload("gw/lamp", "OFF");
    let trace = pi.trace();
    let since = &trace[before..];
    assert!(since.iter().all(|s| s.register != CLR || s.value & 1 << 27 == 0), "the pump clicked: {since:?}");
    let modes = since.iter().filter(|s| s.register == FSEL + 2).map(|s| s.value >> 21 & 7);
    assert!(modes.clone().all(|m| m == 1), "the pump's pin was no output for a moment: {since:?}");
    assert!(pi.level(27) && !pi.level(5));
    publish(&broker, "gw/well/set", "OFF", &[]);
    assert_eq!(all.next("gw/well/result").json()["outcome"], "done");
    assert!(!pi.level(27));
    gateway.stop();
}

#[test]
fn safe_state_finds_the_way_to_a_queue_that_lies_elsewhere() {
    let pi = FakePi::new();
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    std::fs::create_dir_all(home.path("systemd")).unwrap();
    let state = home.path("systemd").display().to_string();
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut command = home.command();
    let mut gateway = Gateway { program: Program::start(command.env("STATE_DIRECTORY", &state)) };
    all.online(&mut gateway);
    publish(&broker, "gw/pump/set", "ON", &[]);
    all.next("gw/pump/result");
    gateway.kill();
    assert!(pi.level(27));
    let mut command = home.pinpost(&["safe-state"]);
    run(command.env("STATE_DIRECTORY", &state).env("SERVICE_RESULT", "watchdog"), b"").with(0);
    assert!(!pi.level(27));
}

#[test]
fn after_a_crash_safe_state_drives_the_outputs_that_were_last_applied() {
    let pi = FakePi::new();
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let leave_on = |all: &mut Watch| {
        let gateway = home.online(all);
        publish(&broker, "gw/pump/set", "ON", &[]);
        all.next("gw/pump/result");
        publish(&broker, "gw/lamp/set", "OFF", &[]);
        all.next("gw/lamp/result");
        gateway.kill();
        all.until_payload("gw/bridge/state", "offline");
        all.forget();
        assert_eq!((pi.mode(27), pi.level(27), pi.level(5)), (1, true, true), "a killed program leaves its pins");
    };
    let safe = || assert_eq!((pi.mode(27), pi.level(27), pi.mode(5), pi.level(5)), (1, false, 1, false));

    // as systemd calls it, with a file that has meanwhile been broken
    leave_on(&mut all);
    let text = std::fs::read_to_string(home.file()).unwrap();
    home.write("version: 1\nnonsense: [\n");
    let mut command = home.pinpost(&["safe-state"]);
    command.env("STATE_DIRECTORY", home.path("state")).env("SERVICE_RESULT", "signal");
    run(&mut command, b"").with(0);
    safe();
    home.write(&text);

    // by a file
    leave_on(&mut all);
    run(&mut home.pinpost(&["safe-state", "-c", home.file().to_str().unwrap()]), b"").with(0);
    safe();

    // after an orderly stop systemd's call moves nothing
    leave_on(&mut all);
    let mut command = home.pinpost(&["safe-state"]);
    command.env("STATE_DIRECTORY", home.path("state")).env("SERVICE_RESULT", "success");
    run(&mut command, b"").with(0);
    assert!(pi.level(27));

    // and the next daemon begins safe, whatever `initial` says
    let gateway = home.online(&mut all);
    safe();
    gateway.stop();
}

/// Outputs of every kind, all of them on.
const ALL_KINDS: &str = "devices:
  pump: { kind: digital_out, pin: 27 }
  fan: { kind: pwm, pin: 22, frequency: 200 }
  heat: { kind: pwm, pin: 23, inverted: true, safe: 30 }
  flap: { kind: servo, pin: 24, safe: 45 }
";

#[test]
fn after_a_hang_a_panic_or_a_kill_every_kind_of_output_is_safe_in_an_instant() {
    let pi = FakePi::new();
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, ALL_KINDS).on_pins(pi.environment()).with_env("PINPOST_PLANT", "1");
    let socket = UnixDatagram::bind(home.path("notify")).unwrap();
    let mut all = Watch::on(&mut broker, "gw/#");
    for end in ["hang", "panic", "kill"] {
        let mut command = home.command();
        // as systemd does it for WatchdogSec=1s
        command.env("NOTIFY_SOCKET", home.path("notify")).env("WATCHDOG_USEC", "1000000");
        let mut gateway = Gateway { program: Program::start(&mut command) };
        all.online(&mut gateway);
        for (device, value) in [("pump", "ON"), ("fan", "50"), ("heat", "70"), ("flap", "90")] {
            publish(&broker, &format!("gw/{device}/set"), value, &[]);
            assert_eq!(all.next(&format!("gw/{device}/result")).json()["outcome"], "done", "{device}");
        }
        let mut text = [0; 4096];
        let mut said = |wait: Duration| {
            socket.set_read_timeout(Some(wait)).unwrap();
            socket.recv(&mut text).ok().map(|n| String::from_utf8_lossy(&text[..n]).into_owned())
        };
        match end {
            "hang" => {
                while !said(Duration::from_secs(20)).expect("no word").contains("WATCHDOG=1") {}
                publish(&broker, "gw/pump/set", "hang the hub", &[]);
                // within its period nobody feeds the watchdog any more
                let hung = Instant::now();
                let mut fed = hung;
                while let Some(word) = said(Duration::from_secs(1)) {
                    if word.contains("WATCHDOG=1") {
                        fed = Instant::now();
                    }
                    assert!(hung.elapsed() < Duration::from_secs(20), "it is fed though the hub hangs");
                }
                assert!(fed.elapsed() >= Duration::from_secs(1));
                gateway.program.signal(nix::sys::signal::Signal::SIGABRT);
                gateway.program.end();
            }
            "panic" => {
                publish(&broker, "gw/pump/set", "panic in the hub", &[]);
                gateway.program.end().with(70);
            }
            _ => drop(gateway.kill()),
        }
        all.until_payload("gw/bridge/state", "offline");
        all.forget();
        assert!(pi.level(27), "a program that has ended leaves its pins");
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let mut command = home.pinpost(&["safe-state"]);
            command.env("STATE_DIRECTORY", home.path("state")).env("SERVICE_RESULT", "watchdog");
            let begun = Instant::now();
            run(&mut command, b"").with(0);
            best = best.min(begun.elapsed());
        }
        // pulses have nobody left to make them: off, whatever the duty of `safe`
        assert_eq!(
            [27, 22, 23, 24].map(|pin| (pi.mode(pin), pi.level(pin))),
            [(1, false), (1, false), (1, true), (1, false)]
        );
        eprintln!("after {end}: safe-state took {best:?}");
        assert!(best < Duration::from_millis(50), "safe-state took {best:?}");
        while said(Duration::from_millis(1)).is_some() {}
    }
}
