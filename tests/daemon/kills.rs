//! Random commands against outputs with limits, the real daemon killed (SIGKILL) again and again, sometimes stopped in
//! order. The simulated board's trace is the judge.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::time::{ClockId, clock_gettime};

use crate::support::gateway::{Home, Watch};
use crate::support::mosquitto::Mosquitto;

const MS: u64 = 1_000_000;
/// What an order may take on a busy machine until it is on the pin.
const WAY: u64 = 400 * MS;

struct Limits {
    group: bool,
    dead: u64,
    min_off: u64,
    max_on: u64,
}

fn limits() -> BTreeMap<u8, Limits> {
    let l =
        |group, dead, min_off, max_on| Limits { group, dead: dead * MS, min_off: min_off * MS, max_on: max_on * MS };
    [
        (5, l(true, 60, 0, 500)),
        (6, l(true, 60, 40, 500)),
        (7, l(true, 30, 0, 500)),
        (8, l(false, 0, 80, 600)),
        (18, l(false, 0, 0, 700)),
    ]
    .into()
}

/// One line of the trace, or the time in which there was no daemon.
#[derive(Debug, Clone, Copy)]
struct Line {
    at: u64,
    pin: u8,
    on: bool,
}

fn judge(trace: &[Line], dead: &[(u64, u64)]) -> Result<usize, String> {
    let limits = limits();
    let (mut on, mut off): (BTreeMap<u8, u64>, BTreeMap<u8, u64>) = Default::default();
    let mut moves = 0;
    for line in trace {
        let Line { at, pin, on: goes_on } = *line;
        let l = &limits[&pin];
        match (goes_on, on.get(&pin).copied()) {
            (true, None) => {
                moves += 1;
                for (other, o) in limits.iter().filter(|(p, o)| **p != pin && o.group && l.group) {
                    if on.contains_key(other) {
                        return Err(format!("GPIO{pin} and GPIO{other} are on at {at}"));
                    }
                    if off.get(other).is_some_and(|t| at - t < l.dead.max(o.dead)) {
                        return Err(format!("GPIO{pin} goes on at {at}, GPIO{other} off at {}", off[other]));
                    }
                }
                if off.get(&pin).is_some_and(|t| at - t < l.min_off) {
                    return Err(format!("GPIO{pin} goes on at {at}, off at {}", off[&pin]));
                }
                on.insert(pin, at);
            }
            (false, Some(from)) => {
                let mut last = from + l.max_on + WAY;
                // nobody was there at the end of its time: whoever came next must have ended it
                while let Some((_, until)) = dead.iter().find(|(a, b)| (*a..*b).contains(&last)) {
                    last = until.saturating_add(WAY);
                }
                if at > last {
                    return Err(format!("GPIO{pin} is on from {from} to {at}: {} ms", (at - from) / MS));
                }
                on.remove(&pin);
                off.insert(pin, at);
            }
            _ => {}
        }
    }
    Ok(moves)
}

fn now() -> u64 {
    std::time::Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos() as u64
}

#[test]
fn no_kill_breaks_a_limit_at_the_pins() {
    let kills: usize = std::env::var("PINPOST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  up: { kind: digital_out, pin: 5, interlock: blind, dead_time: 60ms, max_on: 500ms }
  down: { kind: digital_out, pin: 6, interlock: blind, dead_time: 60ms, max_on: 500ms, min_off: 40ms }
  vent: { kind: digital_out, pin: 7, interlock: blind, dead_time: 30ms, max_on: 500ms, initial: restore }
  heat: { kind: digital_out, pin: 8, max_on: 600ms, min_off: 80ms, initial: restore, on_stop: keep }
  fan: { kind: pwm, pin: 18, max_on: 700ms, initial: restore }
",
    );
    let file = home.path("trace");
    let home = home.with_env("PINPOST_SIM_TRACE", file.to_str().unwrap());
    let mut answers = Watch::on(&mut broker, "gw/bridge/response/command");
    let mut states = Watch::on(&mut broker, "gw/bridge/state");
    let mut wishes = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1", "-l", "-t", "gw/bridge/request/command"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = wishes.stdin.take().unwrap();
    let mut random = fastrand::Rng::with_seed(kills as u64);
    let mut dead = Vec::new();
    let mut done = 0;
    let mut sent = 0;
    for _ in 0..kills {
        let gateway = home.start();
        // it says so when it is subscribed; what is published earlier nobody hears
        states.until_payload("gw/bridge/state", "online");
        for _ in 0..random.usize(5..60) {
            let device = ["up", "down", "vent", "heat", "fan"][random.usize(..5)];
            let (verb, value) = match random.u8(..8) {
                0..=2 => ("set", "\"ON\""),
                3 | 4 => ("set", "\"OFF\""),
                5 => ("set", "\"TOGGLE\""),
                _ if device == "fan" => ("fade", "{\"to\":60,\"over\":\"200ms\"}"),
                6 => ("pulse", "\"120ms\""),
                _ => ("blink", "{\"on\":\"50ms\",\"off\":\"90ms\",\"times\":3}"),
            };
            writeln!(pipe, "{{\"device\":\"{device}\",\"verb\":\"{verb}\",\"value\":{value},\"id\":\"{sent}\"}}")
                .unwrap();
            sent += 1;
            // one in three is not waited for, so that some are killed on their way
            if random.u8(..3) > 0 {
                let answer = answers.any().json();
                done += usize::from(answer["outcome"] == "done");
            }
        }
        let before = now();
        if random.u8(..5) == 0 {
            gateway.stop();
        } else {
            gateway.kill();
        }
        dead.push((before, u64::MAX));
        let lines = fs::read_to_string(&file).unwrap();
        let first = lines.lines().filter_map(|l| l.split(' ').next()?.parse::<u64>().ok());
        if let Some((from, until)) = dead.len().checked_sub(2).and_then(|i| dead.get_mut(i)) {
            let from = *from;
            *until = first.clone().find(|t| *t > from).unwrap();
        }
        answers.forget();
    }
    drop(pipe);
    wishes.wait().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let trace: Vec<Line> = text
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            Line { at: word().parse().unwrap(), pin: word().parse().unwrap(), on: word() != "0" }
        })
        .collect();
    let moves = judge(&trace, &dead).unwrap_or_else(|why| panic!("{why}\n{text}"));
    eprintln!("{kills} ends, {done} commands done, {moves} times on");
    // on a busy machine many a command is on its way when the end comes
    assert!(moves > kills / 2 && done > kills / 2, "{moves} times on, {done} done: that proves nothing");
}

#[test]
fn the_judge_of_the_kills_sees_what_is_wrong() {
    let line = |ms: u64, pin, on| Line { at: ms * MS, pin, on };
    for (trace, why) in [
        (vec![line(0, 5, true), line(1, 6, true)], "are on"),
        (vec![line(0, 5, true), line(10, 5, false), line(40, 6, true)], "goes on"),
        (vec![line(0, 8, true), line(10, 8, false), line(50, 8, true)], "goes on"),
        (vec![line(0, 5, true), line(2000, 5, false)], "is on from"),
    ] {
        assert!(judge(&trace, &[]).unwrap_err().contains(why), "{why}");
    }
    let late = [line(0, 5, true), line(2000, 5, false)];
    assert!(judge(&late, &[(700 * MS, 1900 * MS)]).is_ok(), "nobody was there");
}
