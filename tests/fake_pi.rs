//! The Raspberry Pi backend, with the genuine rppal, on a fake Pi: registers, interrupts and refusals.

#[path = "support/fake_pi.rs"]
mod fake_pi;

use std::time::Duration;

use fake_pi::{CLR, FSEL, FakePi, SET, inside};
use pinpost::hal::list::pin_users;
use pinpost::hal::raspberry_pi::RaspberryPi;
use pinpost::hal::{Board, Edge, EdgeReceiver, HalErrorKind, Level, Pull, Start, edges};
use tokio::time::Instant;

fn board() -> RaspberryPi {
    RaspberryPi::open().unwrap()
}

/// The next edge; a test that waits in vain has failed.
fn next(edges: &mut EdgeReceiver) -> Option<Edge> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), edges.next()).await.expect("no edge comes") })
}

fn level(edges: &mut EdgeReceiver) -> Level {
    next(edges).expect("the edges ended").level
}

#[test]
fn the_board_says_what_it_is() {
    inside("the_board_says_what_it_is", |_| {
        assert_eq!(board().describe(), "Raspberry Pi 4 B (rppal)");
        // a second one shares the pins
        let (first, second) = (board(), board());
        let held = first.output(5, Start::At(Level::Low)).unwrap();
        let refused = second.output(5, Start::Keep).err().unwrap();
        assert_eq!(refused.kind, HalErrorKind::Busy);
        assert!(refused.text.contains("GPIO5 is already in use"), "{refused}");
        assert_eq!(first.input(58, Pull::Off, edges().0).err().unwrap().kind, HalErrorKind::Unsupported);
        drop(held);
        assert!(second.output(5, Start::Keep).is_ok());
    });
}

#[test]
fn an_output_gets_its_level_before_its_direction() {
    inside("an_output_gets_its_level_before_its_direction", |pi| {
        let board = board();
        let mut out = board.output(17, Start::At(Level::High)).unwrap();
        let trace = pi.trace();
        assert_eq!(trace.len(), 2, "{trace:?}");
        assert_eq!((trace[0].register, trace[0].value), (SET, 1 << 17));
        assert_eq!((trace[1].register, trace[1].value), (FSEL + 1, 1 << 21));
        assert!(pi.level(17) && pi.mode(17) == 1);

        out.write(Level::Low).unwrap();
        assert_eq!(out.read().unwrap(), Level::Low);
        assert!(!pi.level(17));
        out.write(Level::High).unwrap();
        assert_eq!(out.read().unwrap(), Level::High);

        // somebody else sets it behind our back: what is read is what is there
        let low = board.output(27, Start::At(Level::Low)).unwrap();
        assert_eq!(pi.trace().iter().filter(|s| s.register == CLR).count(), 2);
        assert_eq!(low.read().unwrap(), Level::Low);
    });
}

#[test]
fn an_output_that_is_dropped_stays_as_it_is() {
    inside("an_output_that_is_dropped_stays_as_it_is", |pi| {
        let board = board();
        drop(board.output(22, Start::At(Level::High)).unwrap());
        drop(board);
        assert_eq!((pi.mode(22), pi.level(22)), (1, true));
        // the next owner may keep it, without a single wrong level in between
        let before = pi.trace().len();
        let again = self::board().output(22, Start::Keep).unwrap();
        assert_eq!(again.read().unwrap(), Level::High);
        assert!(pi.trace()[before..].iter().all(|s| s.levels >> 22 & 1 == 1));
    });
}

#[test]
fn keeping_an_input_s_level_takes_what_drives_it() {
    inside("keeping_an_input_s_level_takes_what_drives_it", |pi| {
        pi.drive(5, Some(true));
        pi.drive(6, Some(false));
        let board = board();
        let (high, low) = (board.output(5, Start::Keep).unwrap(), board.output(6, Start::Keep).unwrap());
        assert_eq!((high.read().unwrap(), low.read().unwrap()), (Level::High, Level::Low));
        assert!(pi.trace().iter().all(|s| s.levels >> 5 & 3 == 1), "{:?}", pi.trace());
    });
}

#[test]
fn a_pin_s_own_pwm_makes_the_pulses_and_goes_on_when_it_is_dropped() {
    inside("a_pin_s_own_pwm_makes_the_pulses_and_goes_on_when_it_is_dropped", |pi| {
        pi.load_pwm(&[0, 1]);
        let board = board();
        let mut fan = board.pwm(18, 25_000.0, 0.25, Level::Low).unwrap();
        assert_eq!((fan.how(), pi.pwm(0), pi.mode(18)), ("hardware", (40_000, 10_000, true), 2));
        fan.set(0.4).unwrap();
        assert!((fan.high().unwrap() - 0.4).abs() < 1e-9);
        assert_eq!(pi.pwm(0), (40_000, 16_000, true));
        fan.set(0.0).unwrap();
        assert_eq!(pi.pwm(0), (40_000, 0, true));
        // the pulses were there before the pin was given to them, and no other store touched it
        let trace = pi.trace();
        assert!(matches!(trace[..], [fake_pi::Store { register, .. }] if register == FSEL + 1), "{trace:?}");
        assert_eq!(board.output(18, Start::Keep).err().unwrap().kind, HalErrorKind::Busy);

        // the other channel, and a pin that would share the first one
        let lamp = board.pwm(13, 100.0, 1.0, Level::Low).unwrap();
        assert_eq!((lamp.how(), pi.pwm(1), pi.mode(13)), ("hardware", (10_000_000, 10_000_000, true), 4));
        let twin = board.pwm(12, 100.0, 0.0, Level::Low).unwrap();
        assert_eq!((twin.how(), pi.mode(12)), ("software", 1));

        fan.set(0.7).unwrap();
        drop((fan, twin));
        assert_eq!((pi.pwm(0), pi.mode(18)), ((40_000, 28_000, true), 2));
        let again = board.pwm(12, 50.0, 0.5, Level::Low).unwrap();
        assert_eq!((again.how(), pi.pwm(0)), ("hardware", (20_000_000, 10_000_000, true)));
        // taken as a plain output it hears the PWM no more: so does `safe-state`
        let plain = board.output(18, Start::At(Level::Low)).unwrap();
        assert_eq!((pi.mode(18), plain.read().unwrap()), (1, Level::Low));
    });
}

#[test]
fn without_its_overlay_a_pwm_is_made_by_software() {
    inside("without_its_overlay_a_pwm_is_made_by_software", |pi| {
        let mut fan = board().pwm(18, 100.0, 0.0, Level::Low).unwrap();
        assert_eq!((fan.how(), pi.mode(18), pi.level(18)), ("software", 1, false));
        fan.set(1.0).unwrap();
        pi.wait_output(18, true);
    });
}

#[test]
fn pulls_reach_the_registers() {
    inside("pulls_reach_the_registers", |pi| {
        let board = board();
        for (pin, pull, register, level) in
            [(17, Pull::Up, 1, Level::High), (27, Pull::Down, 2, Level::Low), (4, Pull::Off, 0, Level::Low)]
        {
            let input = board.input(pin, pull, edges().0).unwrap();
            assert_eq!((pi.mode(pin), pi.pull(pin)), (0, register));
            assert_eq!(input.read().unwrap(), level);
        }
    });
}

#[test]
fn edges_arrive_with_their_level_and_the_kernel_s_time() {
    inside("edges_arrive_with_their_level_and_the_kernel_s_time", |pi| {
        let board = board();
        let (tx, mut door) = edges();
        let input = board.input(17, Pull::Up, tx).unwrap();
        let (tx, mut meter) = edges();
        let _meter = board.input(22, Pull::Up, tx).unwrap();
        let mut last = Instant::now();
        for n in 0..200 {
            let high = n % 2 == 1;
            pi.edge(17, high);
            pi.edge(22, !high);
            let sent = Instant::now();
            let edge = next(&mut door).unwrap();
            assert_eq!(edge.level == Level::High, high);
            assert!(last <= edge.at && edge.at <= sent, "the time is that of the arrival");
            last = edge.at;
            assert_eq!(level(&mut meter) == Level::High, !high);
            assert_eq!(input.read().unwrap() == Level::High, high);
        }
        assert_eq!((door.take_lost(), meter.take_lost()), (0, 0));
    });
}

#[test]
fn a_line_that_another_program_holds_is_named_and_free_afterwards() {
    inside("a_line_that_another_program_holds_is_named_and_free_afterwards", |pi| {
        let board = board();
        pi.hold(22, true);
        let refused = board.input(22, Pull::Up, edges().0).err().unwrap();
        assert_eq!(refused.kind, HalErrorKind::Busy);
        assert!(refused.text.contains("`other-program` holds GPIO22"), "{refused}");
        let refused = board.output(22, Start::At(Level::High)).err().unwrap();
        assert_eq!(refused.kind, HalErrorKind::Busy);
        assert_eq!(pi.trace(), [], "the other program's pin was touched");
        pi.hold(22, false);
        let (tx, mut rx) = edges();
        let _input = board.input(22, Pull::Up, tx).unwrap();
        pi.edge(22, false);
        assert_eq!(level(&mut rx), Level::Low);
        pi.hold(4, true);
        let users: Vec<(u8, String)> = pin_users().into_iter().map(|u| (u.bcm, u.consumer)).collect();
        assert_eq!(users, [(4, "other-program".into()), (22, "RPPAL".into())]);
    });
}

#[test]
fn edges_that_the_kernel_lost_are_counted() {
    inside("edges_that_the_kernel_lost_are_counted", |pi| {
        let board = board();
        let (tx, mut rx) = edges();
        let _input = board.input(17, Pull::Up, tx).unwrap();
        pi.edge(17, false);
        level(&mut rx);
        assert_eq!(rx.take_lost(), 0);
        pi.lose(17, 7);
        pi.edge(17, true);
        level(&mut rx);
        assert_eq!(rx.take_lost(), 7);
    });
}

#[test]
fn a_flood_is_bounded_and_every_edge_is_either_there_or_counted() {
    inside("a_flood_is_bounded_and_every_edge_is_either_there_or_counted", |pi| {
        const EDGES: u64 = 6000;
        let board = board();
        let (tx, mut flood) = edges();
        let flooded = board.input(17, Pull::Up, tx).unwrap();
        let (tx, mut quiet) = edges();
        let _quiet = board.input(4, Pull::Up, tx).unwrap();
        for n in 0..EDGES {
            pi.edge(17, n % 2 == 1);
        }
        // the neighbour is heard behind the flood
        pi.edge(4, false);
        assert_eq!(level(&mut quiet), Level::Low);
        // giving the pin up ends its edges; those read before are still there
        drop(flooded);
        let mut got = 0;
        while next(&mut flood).is_some() {
            got += 1;
        }
        let lost = flood.take_lost();
        assert!(lost > 0 && got < EDGES, "{got} arrived, {lost} lost");
        // what still waited in the kernel when the pin was given up is nobody's
        assert!(got + lost <= EDGES && EDGES - got - lost <= 1365, "{got} arrived, {lost} lost");
    });
}

#[test]
fn a_dropped_input_is_disarmed_and_can_be_taken_again() {
    inside("a_dropped_input_is_disarmed_and_can_be_taken_again", |pi| {
        let board = board();
        let (tx, mut rest) = edges();
        let _rest = board.input(4, Pull::Up, tx).unwrap();
        for _ in 0..50 {
            let (tx, mut rx) = edges();
            let input = board.input(17, Pull::Up, tx).unwrap();
            assert!(pi.armed(17));
            pi.edge(17, false);
            assert_eq!(level(&mut rx), Level::Low);
            assert_eq!(rx.take_lost(), 0, "the new count was taken for a loss");
            drop(input);
            assert!(!pi.armed(17));
            assert_eq!(next(&mut rx), None);
            pi.edge(17, true);
        }
        pi.edge(4, false);
        assert_eq!(level(&mut rest), Level::Low);
    });
}

#[test]
fn an_input_can_outlive_its_board() {
    inside("an_input_can_outlive_its_board", |pi| {
        let (tx, mut rx) = edges();
        let board = board();
        let input = board.input(17, Pull::Up, tx).unwrap();
        drop(board);
        pi.edge(17, false);
        assert_eq!(level(&mut rx), Level::Low);
        drop(input);
        assert_eq!(edge_threads(), 0, "the edge thread stays behind");
    });
}

#[test]
fn a_failing_chip_ends_all_edges_and_is_tried_again_when_all_pins_are_free() {
    inside("a_failing_chip_ends_all_edges_and_is_tried_again_when_all_pins_are_free", |pi| {
        let board = board();
        let ((tx17, mut rx17), (tx4, mut rx4)) = (edges(), edges());
        let (door, meter) = (board.input(17, Pull::Up, tx17).unwrap(), board.input(4, Pull::Up, tx4).unwrap());
        pi.fail(17);
        assert_eq!((next(&mut rx17), next(&mut rx4)), (None, None));
        drop(door);
        assert!(board.input(17, Pull::Up, edges().0).is_err());
        drop(meter);
        let (tx, mut rx) = edges();
        let _door = board.input(17, Pull::Up, tx).unwrap();
        pi.edge(17, false);
        assert_eq!(level(&mut rx), Level::Low);
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a stretch of time is what is tested")]
fn a_quiet_pin_costs_no_wake_up() {
    inside("a_quiet_pin_costs_no_wake_up", |pi| {
        let board = board();
        let (tx, mut rx) = edges();
        let _input = board.input(17, Pull::Up, tx).unwrap();
        pi.edge(17, false);
        level(&mut rx);
        let before = wake_ups();
        std::thread::sleep(Duration::from_millis(2500));
        let after = wake_ups();
        assert!(after - before <= 1, "{} wake-ups in 2.5 s", after - before);
    });
}

#[test]
fn stores_of_many_threads_are_all_seen() {
    inside("stores_of_many_threads_are_all_seen", |pi| {
        let board = board();
        std::thread::scope(|scope| {
            for pin in 4..12 {
                let mut out = board.output(pin, Start::At(Level::Low)).unwrap();
                scope.spawn(move || {
                    for _ in 0..500 {
                        out.write(Level::High).unwrap();
                        assert_eq!(out.read().unwrap(), Level::High);
                        out.write(Level::Low).unwrap();
                        assert_eq!(out.read().unwrap(), Level::Low);
                    }
                });
            }
        });
        assert_eq!(pi.trace().len(), 8 * 2 + 8 * 1000);
    });
}

#[test]
fn a_machine_that_is_no_pi_is_told_to_simulate() {
    inside("a_machine_that_is_no_pi_is_told_to_simulate", |pi| {
        std::fs::write(pi.dir().join("cpuinfo"), "model name\t: Some PC\n").unwrap();
        std::fs::write(pi.dir().join("model"), "Pine64 Rock64\0").unwrap();
        let e = RaspberryPi::open().err().unwrap();
        assert_eq!(e.kind, HalErrorKind::Unsupported);
        assert_eq!(
            e.text,
            "this is not a Raspberry Pi (Pine64 Rock64); write gpio: { backend: chardev }, or use --simulate"
        );
        std::fs::write(pi.dir().join("model"), "Raspberry Pi 6 Model B\0").unwrap();
        assert!(RaspberryPi::open().err().unwrap().text.contains("Raspberry Pi 6 Model B, which rppal"));
        for file in ["cpuinfo", "model"] {
            std::fs::remove_file(pi.dir().join(file)).unwrap();
        }
        assert!(RaspberryPi::open().err().unwrap().text.contains("ProcSubset"));
    });
}

#[test]
fn missing_and_forbidden_devices_are_named() {
    inside("missing_and_forbidden_devices_are_named", |pi| {
        let forbid = |name: &str| std::fs::write(pi.dir().join(format!("{name}.forbidden")), "").unwrap();
        let refusal = |kind: HalErrorKind, word: &str| {
            let e = RaspberryPi::open().err().unwrap();
            assert_eq!(e.kind, kind, "{e}");
            assert!(e.text.contains(word), "{e}");
        };
        std::fs::remove_file(pi.dir().join("gpiochip0")).unwrap();
        refusal(HalErrorKind::NotFound, "/dev/gpiochip");
        forbid("gpiochip0");
        refusal(HalErrorKind::Permission, "may not open /dev/gpiochip0");
        forbid("gpiomem");
        forbid("mem");
        refusal(HalErrorKind::Permission, "may not open /dev/gpiomem");
        for file in ["gpiomem.forbidden", "mem.forbidden", "gpiomem"] {
            std::fs::remove_file(pi.dir().join(file)).unwrap();
        }
        refusal(HalErrorKind::NotFound, "/dev/gpiomem is missing");
    });
}

#[test]
fn the_test_outside_can_wait_for_what_a_program_does() {
    if std::env::var_os("FAKEPI_DIR").is_some() {
        // the program: copies its input to its output, twice
        let board = board();
        let (tx, mut rx) = edges();
        let _input = board.input(17, Pull::Up, tx).unwrap();
        let mut out = board.output(27, Start::At(Level::High)).unwrap();
        for _ in 0..2 {
            out.write(level(&mut rx)).unwrap();
        }
        return;
    }
    let pi = FakePi::new();
    let mut program = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["the_test_outside_can_wait_for_what_a_program_does", "--exact"])
        .envs(pi.environment())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    pi.wait_armed(17);
    pi.wait_output(27, true);
    pi.edge(17, false);
    pi.wait_output(27, false);
    pi.edge(17, true);
    pi.wait_output(27, true);
    assert!(program.wait().unwrap().success());
    assert!(pi.level(27) && !pi.armed(17));
}

/// The threads of this process that wait for edges.
fn edge_threads() -> usize {
    threads().count()
}

fn threads() -> impl Iterator<Item = std::path::PathBuf> {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path())
        .filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "edges"))
}

/// How often the edge thread has gone to sleep so far.
fn wake_ups() -> u64 {
    let task = threads().next().expect("there is no edge thread");
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}
