//! The backend over the GPIO character device, with the genuine gpiocdev, on the fake Pi's chip: lines, edges, refusals, a
//! chip that vanishes, and the whole daemon on a board that is no Raspberry Pi.

#[path = "support/fake_pi.rs"]
mod fake_pi;
mod support;

use std::time::Duration;

use fake_pi::{CLR, FSEL, FakePi, SET, inside};
use pinpost::hal::chardev::Chardev;
use pinpost::hal::{Board, Bounce, Edge, EdgeReceiver, HalErrorKind, Level, Pull, Start, edges};
use serde_json::json;
use support::gateway::{Home, Watch, publish};
use support::mosquitto::Mosquitto;
use support::program::run;
use tokio::time::Instant;

fn board() -> Chardev {
    Chardev::open(None).unwrap()
}

/// Why a chip is not had.
fn refusal(chip: Option<&str>) -> (HalErrorKind, String) {
    let e = Chardev::open(chip.map(str::to_owned)).unwrap().output(5, Start::Keep).err().expect("the pin was had");
    (e.kind, e.text)
}

/// The next edge; a test that waits in vain has failed.
fn next(edges: &mut EdgeReceiver) -> Option<Edge> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), edges.next()).await.expect("no edge comes") })
}

#[test]
fn an_output_gets_its_level_before_its_direction_and_keeps_it_when_it_is_dropped() {
    inside("an_output_gets_its_level_before_its_direction_and_keeps_it_when_it_is_dropped", |pi| {
        let board = board();
        assert_eq!(board.describe(), "Raspberry Pi 4 Model B Rev 1.1 (gpiochip0, pinctrl-bcm2711)");
        let mut out = board.output(17, Start::At(Level::High)).unwrap();
        let trace: Vec<_> = pi.trace().iter().map(|s| (s.register, s.value)).collect();
        assert_eq!(trace, [(SET, 1 << 17), (FSEL + 1, 1 << 21)]);
        out.write(Level::Low).unwrap();
        assert_eq!((out.read().unwrap(), pi.level(17)), (Level::Low, false));
        out.write(Level::High).unwrap();
        let refused = board.output(17, Start::Keep).err().unwrap();
        assert_eq!(refused.kind, HalErrorKind::Busy);
        assert!(refused.text.contains("GPIO17"), "{refused}");

        // nobody can reset the line: it is still ours
        let before = pi.trace().len();
        drop(out);
        assert!(pi.armed(17) && pi.level(17) && pi.mode(17) == 1);
        let out = board.output(17, Start::Keep).unwrap();
        assert_eq!((out.read().unwrap(), pi.trace().len()), (Level::High, before), "it was touched");
        drop(out);
        // as an input it is another request
        let input = board.input(17, Pull::Down, edges().0).unwrap();
        assert_eq!((input.read().unwrap(), pi.mode(17), pi.pull(17)), (Level::Low, 0, 2));
        drop(input);
        assert!(!pi.armed(17));
    });
}

#[test]
fn an_output_that_is_kept_is_read_first() {
    inside("an_output_that_is_kept_is_read_first", |pi| {
        pi.drive(5, Some(true));
        let out = board().output(5, Start::Keep).unwrap();
        assert_eq!((out.read().unwrap(), pi.level(5), pi.mode(5)), (Level::High, true, 1));
        assert!(pi.trace().iter().all(|s| s.register != CLR), "{:?}", pi.trace());
    });
}

#[test]
fn edges_carry_the_kernel_s_time_and_gaps_are_counted() {
    inside("edges_carry_the_kernel_s_time_and_gaps_are_counted", |pi| {
        let board = board();
        let (tx, mut rx) = edges();
        let input = board.input(17, Pull::Up, tx).unwrap();
        assert_eq!((input.read().unwrap(), pi.pull(17)), (Level::High, 1));
        for n in 0..500u32 {
            let before = Instant::now();
            pi.edge(17, n % 2 == 1);
            let edge = next(&mut rx).unwrap();
            assert_eq!(edge.level == Level::High, n % 2 == 1);
            assert!(edge.at >= before && edge.at <= Instant::now());
        }
        assert_eq!(rx.take_lost(), 0);
        pi.lose(17, 3);
        pi.edge(17, false);
        assert_eq!((next(&mut rx).unwrap().level, rx.take_lost()), (Level::Low, 3));
        // another line is watched while the thread waits, and given up again
        let (tx, mut other) = edges();
        let second = board.input(22, Pull::Off, tx).unwrap();
        pi.edge(22, true);
        assert_eq!(next(&mut other).unwrap().level, Level::High);
        drop(second);
        assert!(next(&mut other).is_none() && !pi.armed(22) && pi.armed(17));
    });
}

#[test]
fn the_kernel_debounces_a_contact_and_its_edges_are_dated_back() {
    inside("the_kernel_debounces_a_contact_and_its_edges_are_dated_back", |pi| {
        let board = board();
        let hold = Duration::from_millis(30);
        let (tx, mut rx) = edges();
        let contact = board.contact(17, Pull::Up, Bounce { hold, limit: 2000 }, tx).unwrap();
        assert_eq!((pi.debounce(17), contact.lag()), (hold, hold));
        let before = Instant::now();
        pi.edge(17, false);
        let edge = next(&mut rx).unwrap();
        assert!(edge.at + hold >= before && edge.at + hold <= Instant::now());
        drop(contact);
        let input = board.input(17, Pull::Up, edges().0).unwrap();
        assert_eq!((pi.debounce(17), input.lag()), (Duration::ZERO, Duration::ZERO));
    });
}

#[test]
fn a_chip_that_vanishes_ends_the_edges_and_can_be_had_again() {
    inside("a_chip_that_vanishes_ends_the_edges_and_can_be_had_again", |pi| {
        let board = board();
        let (tx, mut rx) = edges();
        let input = board.input(17, Pull::Off, tx).unwrap();
        let mut out = board.output(5, Start::At(Level::Low)).unwrap();
        std::fs::remove_file(pi.dir().join("gpiochip0")).unwrap();
        pi.fail(17);
        assert!(next(&mut rx).is_none());
        for e in [input.read().err(), out.read().err(), out.write(Level::High).err()] {
            let e = e.expect("a chip that is not there answers");
            assert!(e.kind == HalErrorKind::NotFound && e.text.contains("vanished"), "{e}");
        }
        drop((input, out));
        assert_eq!(board.input(17, Pull::Off, edges().0).err().unwrap().kind, HalErrorKind::NotFound);
        assert_eq!(board.output(5, Start::Keep).err().unwrap().kind, HalErrorKind::NotFound);
        std::fs::write(pi.dir().join("gpiochip0"), "").unwrap();
        let (tx, mut rx) = edges();
        let _input = board.input(17, Pull::Off, tx).unwrap();
        pi.edge(17, true);
        assert_eq!(next(&mut rx).unwrap().level, Level::High);
        board.output(5, Start::At(Level::High)).unwrap();
        assert!(pi.level(5));
    });
}

#[test]
fn a_chip_is_found_by_label_name_or_path_and_what_is_wrong_is_said() {
    inside("a_chip_is_found_by_label_name_or_path_and_what_is_wrong_is_said", |pi| {
        for chip in ["pinctrl-bcm2711", "gpiochip0", "/dev/gpiochip0"] {
            drop(Chardev::open(Some(chip.into())).unwrap().output(5, Start::Keep).unwrap());
        }
        let (kind, text) = refusal(Some("pinctrl-rp1"));
        assert_eq!(kind, HalErrorKind::NotFound);
        assert!(text.contains("`pinctrl-rp1`") && text.contains("gpiochip0 (pinctrl-bcm2711)"), "{text}");
        assert_eq!(refusal(Some("gpiochip7")).0, HalErrorKind::NotFound);

        let none = board().output(60, Start::Keep).err().unwrap();
        assert_eq!(none.kind, HalErrorKind::Unsupported);
        assert!(none.text.contains("no line 60: it has 58"), "{none}");
        pi.hold(5, true);
        let (kind, text) = refusal(None);
        assert_eq!(kind, HalErrorKind::Busy);
        assert!(text.contains("`other-program` holds GPIO5 of gpiochip0"), "{text}");
        assert_eq!(pi.mode(5), 1, "the other program's pin was touched");
        pi.hold(5, false);

        // of a board that is not known the only chip is taken
        std::fs::write(pi.dir().join("model"), "Pine64 Rock64\0").unwrap();
        drop(board().output(5, Start::Keep).unwrap());
        std::fs::write(pi.dir().join("gpiochip3"), "").unwrap();
        let (kind, text) = refusal(None);
        assert_eq!(kind, HalErrorKind::Unsupported);
        assert!(text.contains("which GPIO chip is meant?") && text.contains("gpiochip3"), "{text}");
        std::fs::remove_file(pi.dir().join("gpiochip3")).unwrap();

        std::fs::write(pi.dir().join("gpiochip0.forbidden"), "").unwrap();
        for chip in [None, Some("gpiochip0")] {
            let (kind, text) = refusal(chip);
            assert_eq!(kind, HalErrorKind::Permission);
            assert!(text.contains("may not open /dev/gpiochip0"), "{text}");
        }
    });
}

const DEVICES: &str = "gpio: { backend: auto }
devices:
  door: { kind: digital_in, pin: 17, pull: up, inverted: true, debounce: 5ms }
  pump: { kind: digital_out, pin: 27 }
  lamp: { kind: digital_out, pin: 5, inverted: true, safe: on, initial: off }
  fan: { kind: pwm, pin: 12 }
";

/// A board that is no Raspberry Pi.
fn rock() -> FakePi {
    let pi = FakePi::new();
    std::fs::write(pi.dir().join("cpuinfo"), "model name\t: Some PC\n").unwrap();
    std::fs::write(pi.dir().join("model"), "Pine64 Rock64\0").unwrap();
    pi
}

#[test]
fn the_daemon_runs_on_a_board_that_is_no_raspberry_pi() {
    let pi = rock();
    pi.hold(27, true);
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    assert_eq!(all.next("gw/bridge/info").json()["board"], "Pine64 Rock64 (gpiochip0, pinctrl-bcm2711)");
    all.expect("gw/pump/availability", "offline");
    gateway.log("`other-program` holds GPIO27 of gpiochip0");
    all.expect("gw/door", "OFF");
    all.expect("gw/lamp", "OFF");
    assert_eq!((pi.mode(27), pi.mode(5), pi.level(5), pi.mode(17), pi.pull(17)), (0, 1, true, 0, 1));
    let trace = pi.trace();
    let first = |register, bit: u32| trace.iter().position(|s| s.register == register && s.value & bit != 0).unwrap();
    assert!(first(SET, 1 << 5) < first(FSEL, 1 << 15), "{trace:?}");

    // a contact that bounces
    for high in [false, true, false, true, false] {
        pi.edge(17, high);
    }
    all.expect("gw/door", "ON");
    publish(&broker, "gw/lamp/set", "ON", &[]);
    assert_eq!(all.next("gw/lamp/result").json()["outcome"], "done");
    assert!(!pi.level(5));
    publish(&broker, "gw/fan/set", "100", &[]);
    assert_eq!(all.next("gw/fan/result").json()["outcome"], "done");
    assert!(pi.mode(12) == 1 && pi.level(12));
    // the other program ends
    pi.hold(27, false);
    all.expect("gw/pump/availability", "online");
    publish(&broker, "gw/pump/set", "ON", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
    assert!(pi.level(27));

    // the chip vanishes and comes back
    std::fs::remove_file(pi.dir().join("gpiochip0")).unwrap();
    pi.fail(17);
    all.until_payload("gw/door/availability", "offline");
    std::fs::write(pi.dir().join("gpiochip0"), "").unwrap();
    all.until_payload("gw/door/availability", "online");
    pi.edge(17, true);
    all.until_payload("gw/door", "OFF");
    assert!(pi.level(27), "an output was moved");

    gateway.stop();
    assert_eq!((pi.level(27), pi.level(5)), (false, false));
}

/// What `bridge/health` says of a device now.
fn health(broker: &Mosquitto, all: &mut Watch, device: &str) -> serde_json::Value {
    publish(broker, "gw/bridge/request/health", "", &[]);
    let health = all.next("gw/bridge/response/health").json();
    assert!(health["devices"][device].is_object(), "{health}");
    health["devices"][device].clone()
}

#[test]
fn a_storm_that_the_kernel_keeps_back_is_seen_and_a_missed_edge_is_counted() {
    let pi = rock();
    pi.interrupts(&[(7, "other"), (40, "pinpost-17"), (1, "pinpost-7")]);
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "gpio: { backend: chardev }
devices:
  door: { kind: digital_in, pin: 17, debounce: { on: 20ms, off: 40ms } }
  bell: { kind: digital_in, pin: 22 }
  water: { kind: counter, pin: 7, debounce: 5ms, every: 100ms }
",
    )
    .on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    all.expect("gw/door", "OFF");
    all.expect("gw/water/total", "0");
    let ms = Duration::from_millis;
    assert_eq!((pi.debounce(17), pi.debounce(22), pi.debounce(7)), (ms(20), ms(0), ms(5)));
    pi.edge(17, true);
    all.until_payload("gw/door", "ON");
    pi.edge(7, true);
    all.until_payload("gw/water/total", "1");

    // far more interrupts than a contact makes, and not one edge
    pi.interrupts(&[(7, "other"), (9_000_000, "pinpost-17"), (500, "pinpost-7")]);
    gateway.log("more than 2000 edges a second");
    let door = health(&broker, &mut all, "door");
    assert_eq!((&door["storms"], &door["flooding"]), (&json!(1), &json!(true)), "{door}");
    // taken again its edges are counted here, and it goes on
    gateway.log("the pin is quiet again");
    assert_eq!((pi.debounce(17), pi.debounce(7)), (ms(0), ms(5)));
    pi.edge(17, false);
    all.until_payload("gw/door", "OFF");

    pi.lose(22, 3);
    pi.edge(22, true);
    all.until_payload("gw/bell", "ON");
    let bell = health(&broker, &mut all, "bell");
    assert_eq!((&bell["lost_edges"], &bell["edges"]), (&json!(3), &json!(1)), "{bell}");
    gateway.stop();
}

#[test]
fn a_reload_leaves_an_output_alone_and_can_change_the_backend() {
    let pi = FakePi::new();
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, &DEVICES.replace("auto", "chardev")).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    publish(&broker, "gw/pump/set", "ON", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
    let reload = |all: &mut Watch, from: &str, to: &str| {
        let text = std::fs::read_to_string(home.file()).unwrap();
        home.write(&text.replace(from, to));
        gateway.program.signal(nix::sys::signal::Signal::SIGHUP);
        let done = all.until("gw/bridge/event", |g| g.json()["event"] == "reload").json();
        assert_eq!(done["outcome"], "done", "{done}");
    };
    let before = pi.trace().len();
    reload(&mut all, "pump:", "well:");
    all.until_payload("gw/well", "ON");
    let trace = pi.trace();
    let of_the_pump = |s: &&fake_pi::Store| matches!(s.register, SET | CLR) && s.value & 1 << 27 != 0;
    assert_eq!(trace[before..].iter().find(of_the_pump), None, "the pump clicked");
    assert!(pi.armed(27) && pi.level(27));

    reload(&mut all, "chardev", "rppal");
    all.until("gw/bridge/info", |g| g.json()["board"] == "Raspberry Pi 4 B (rppal)");
    all.until_payload("gw/well", "OFF");
    assert!(!pi.armed(27) && !pi.level(27));
    gateway.stop();
}

#[test]
fn after_a_crash_safe_state_drives_the_lines_of_the_chip() {
    let pi = rock();
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    publish(&broker, "gw/pump/set", "ON", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
    gateway.kill();
    assert!(pi.level(27) && pi.level(5));
    let mut command = home.pinpost(&["safe-state"]);
    command.env("STATE_DIRECTORY", home.path("state")).env("SERVICE_RESULT", "signal");
    run(&mut command, b"").with(0);
    assert_eq!((pi.mode(27), pi.level(27), pi.mode(5), pi.level(5)), (1, false, 1, false));
}

#[test]
fn an_expander_s_lines_are_pins_beside_the_header_s() {
    // the same chip under another number: what is set there is seen in its registers
    let pi = FakePi::new();
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "gpio: { expanders: [ { chip: gpiochip0, first: 100 }, { chip: mcp23017, first: 120, lines: 8 } ] }
devices:
  pump: { kind: digital_out, pin: 27 }
  valve: { kind: digital_out, pin: 105, inverted: true }
  level: { kind: digital_in, pin: 108, pull: up, debounce: 20ms }
  away: { kind: digital_out, pin: 121 }
",
    )
    .on_pins(pi.environment());
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    let board = all.next("gw/bridge/info").json()["board"].clone();
    assert_eq!(board, "Raspberry Pi 4 B (rppal) + gpiochip0 from 100 + mcp23017 from 120");
    all.expect("gw/valve", "OFF");
    assert_eq!((pi.mode(5), pi.level(5), pi.mode(8), pi.pull(8)), (1, true, 0, 1));
    assert_eq!(pi.debounce(8), Duration::from_millis(20));
    publish(&broker, "gw/valve/set", "ON", &[]);
    assert_eq!(all.next("gw/valve/result").json()["outcome"], "done");
    publish(&broker, "gw/pump/set", "ON", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
    assert!(!pi.level(5) && pi.level(27));
    all.expect("gw/level", "ON");
    pi.edge(8, false);
    all.until_payload("gw/level", "OFF");
    all.expect("gw/away/availability", "offline");
    gateway.log("pin 121 of mcp23017: no GPIO chip `mcp23017`");
    gateway.kill();
    let mut command = home.pinpost(&["safe-state"]);
    command.env("STATE_DIRECTORY", home.path("state")).env("SERVICE_RESULT", "signal");
    run(&mut command, b"").with(1);
    assert_eq!((pi.level(5), pi.level(27)), (true, false));
}

#[test]
fn pins_shows_the_chips_of_a_board_without_a_header() {
    let pi = rock();
    pi.hold(4, true);
    let broker = Mosquitto::start();
    let home = Home::simple(&broker, DEVICES).on_pins(pi.environment());
    let shown = run(&mut home.pinpost(&["pins", "-c", home.file().to_str().unwrap()]), b"").with(0).text();
    for line in
        ["gpiochip0 (pinctrl-bcm2711)", "    4  GPIO4   <- in use by other-program", "   17  GPIO17   <- device `door`"]
    {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
}
