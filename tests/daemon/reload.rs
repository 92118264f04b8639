//! A new file in the running daemon, and the other requests to the gateway itself.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

use crate::support::gateway::{Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;

const SECRET: &str = "hunter2secret";

fn file(broker: &Mosquitto, home: &Home, rest: &str) -> String {
    format!(
        "version: 1\ngateway: {{ id: gw }}\nmqtt: {{ url: \"{}\" }}\nqueue: {{ dir: {} }}\n{rest}",
        broker.url(),
        home.path("state/queue").display()
    )
}

/// The answer to a request, by its transaction.
#[track_caller]
fn answer(all: &mut Watch, verb: &str, transaction: Json) -> Json {
    let topic = format!("gw/bridge/response/{verb}");
    all.until(&topic, |g| g.json()["transaction"] == transaction).json()
}

fn event(all: &mut Watch, word: &str) -> Json {
    all.until("gw/bridge/event", |g| g.json()["event"] == word).json()
}

#[test]
fn a_new_file_runs_in_the_same_process_and_what_both_have_does_not_click() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  pump: { kind: digital_out, pin: 27 }
  lamp: { kind: digital_out, pin: 5 }
  gone: { kind: digital_out, pin: 6 }
  pulsed: { kind: digital_out, pin: 12 }
",
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    for (device, verb, value) in
        [("pump", "set", "ON"), ("lamp", "set", "ON"), ("gone", "set", "ON"), ("pulsed", "pulse", "1h")]
    {
        publish(&broker, &format!("gw/{device}/{verb}"), value, &[]);
        assert_eq!(all.next(&format!("gw/{device}/result")).json()["outcome"], "done");
    }
    all.until_payload("gw/sim/pin/12", "1");
    let first = all.lines.len();

    // pump has another name, lamp other limits, gone is gone, heat is new
    let devices = "devices:
  well: { kind: digital_out, pin: 27 }
  lamp: { kind: digital_out, pin: 5, min_on: 10ms, on_stop: off }
  pulsed: { kind: digital_out, pin: 12 }
  heat: { kind: digital_out, pin: 13, initial: on }
";
    home.write(&file(&broker, &home, devices));
    publish(&broker, "gw/bridge/request/reload", "{\"transaction\":\"t1\"}", &[]);
    let said = answer(&mut all, "reload", json!("t1"));
    assert_eq!((&said["outcome"], &said["devices"]), (&json!("done"), &json!(4)), "{said}");
    all.until_payload("gw/bridge/state", "offline");
    all.until_payload("gw/bridge/state", "online");
    let done = event(&mut all, "reload");
    assert_eq!((&done["outcome"], &done["config"]), (&json!("done"), &said["config"]));
    all.until_payload("gw/well", "ON");
    all.until_payload("gw/lamp", "ON");
    all.until_payload("gw/heat", "ON");
    all.until_payload("gw/pulsed", "OFF");
    all.until_payload("gw/sim/pin/13", "1");
    gateway.log("the new file runs");

    // what the pins did from the reload on
    let levels = |pin: u8| -> Vec<String> {
        let lines = all.lines[first..].iter().map(|l| serde_json::from_str::<Json>(l).unwrap());
        let mine = lines.filter(|j| j["topic"] == format!("gw/sim/pin/{pin}"));
        mine.map(|j| j["payload"].as_str().unwrap().to_owned()).collect()
    };
    assert!(levels(27).iter().all(|l| l == "1"), "{:?}", levels(27));
    assert!(levels(5).iter().all(|l| l == "1"), "{:?}", levels(5));
    assert_eq!(levels(6), ["0"], "an output that is gone takes its on_stop");
    assert_eq!(levels(12).first().map(String::as_str), Some("0"), "nobody would end the pulse");
    assert_eq!(levels(13), ["1"]);

    // and they are driven
    publish(&broker, "gw/well/set", "OFF", &[]);
    assert_eq!(all.next("gw/well/result").json()["outcome"], "done");
    all.until_payload("gw/sim/pin/27", "0");
    gateway.stop();
}

#[test]
fn a_wrong_file_is_answered_with_its_problems_and_the_old_one_goes_on() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "devices: { pump: { kind: digital_out, pin: 27 } }\n");
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    let good = fs::read_to_string(home.file()).unwrap();

    let wrong = "devices: { pump: { kind: digital_out, pni: 27 } }\n";
    home.write(&file(&broker, &home, wrong).replace("mqtt: {", &format!("mqtt: {{ pasword: {SECRET},")));
    let asks = ["-D", "publish", "response-topic", "gw/me", "-D", "publish", "correlation-data", "c9"];
    publish(&broker, "gw/bridge/request/reload", "{\"transaction\":{\"n\":2}}", &asks);
    let said = all.next("gw/me");
    assert_eq!(said.properties["correlation-data"], "c9");
    let said = said.json();
    assert_eq!((&said["outcome"], &said["transaction"]), (&json!("rejected"), &json!({"n": 2})), "{said}");
    let text = said["problems"].to_string();
    assert!(text.contains("pni") && text.contains("did you mean `pin`"), "{said}");
    assert!(said["problems"].as_array().unwrap().iter().any(|p| p["line"] == 5), "{said}");
    assert_eq!(event(&mut all, "reload")["outcome"], "rejected");

    // the same by a signal; nobody is answered, the event says it
    gateway.program.signal(Signal::SIGHUP);
    assert_eq!(event(&mut all, "reload")["outcome"], "rejected");
    publish(&broker, "gw/pump/set", "ON", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
    assert!(all.left("gw/bridge/state").is_empty(), "it never went away");

    // a file that is right and cannot be started: the queue belongs to another
    let other = Home::new(&broker.url(), "client_id: other, topic_prefix: other", "", "");
    let mut others = Watch::on(&mut broker, "other/#");
    let holder = other.start();
    others.until_payload("other/bridge/state", "online");
    let dir = |home: &Home| home.path("state/queue").display().to_string();
    home.write(&good.replace(&dir(&home), &dir(&other)));
    publish(&broker, "gw/bridge/request/reload", "", &[]);
    let failed = event(&mut all, "reload");
    assert_eq!(failed["outcome"], "failed", "{failed}");
    assert!(failed["reason"].as_str().unwrap().contains(&holder.pid().to_string()), "{failed}");
    publish(&broker, "gw/pump/set", "OFF", &[]);
    assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");

    home.write(&good);
    gateway.program.signal(Signal::SIGHUP);
    assert_eq!(event(&mut all, "reload")["outcome"], "done");
    holder.stop();
    let ended = gateway.stop();
    assert!(!ended.err.contains(SECRET) && !all.lines.iter().any(|l| l.contains(SECRET)), "{}", ended.err);
}

#[test]
fn the_level_of_logging_is_set_for_a_while_and_told() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut all);
    let ask = |all: &mut Watch, n: u32, body: &str| {
        publish(&broker, "gw/bridge/request/log_level", &format!("{{{body}\"transaction\":{n}}}"), &[]);
        answer(all, "log_level", json!(n))
    };
    assert_eq!(ask(&mut all, 1, "")["level"], "info");
    let set = ask(&mut all, 2, "\"level\":\"debug\",\"for\":\"300ms\",");
    assert_eq!((&set["outcome"], &set["level"], &set["for"]), (&json!("done"), &json!("debug"), &json!("300ms")));
    gateway.log("the level of logging is info again");
    assert_eq!(ask(&mut all, 3, "")["level"], "info");
    assert_eq!(ask(&mut all, 4, "\"level\":\"warn\",")["level"], "warn");
    let refused = ask(&mut all, 5, "\"level\":\"loud\",");
    assert_eq!(refused["outcome"], "rejected");
    assert!(refused["reason"].as_str().unwrap().contains("debug"), "{refused}");
    assert_eq!(ask(&mut all, 6, "")["level"], "warn");
    gateway.stop();
}

#[test]
fn rediscover_tells_everything_again() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "devices: { door: { kind: digital_in, pin: 17, retain: true } }\n");
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/door", "OFF");
    for topic in ["gw/door", "gw/bridge/info", "gw/door/availability"] {
        publish(&broker, topic, "", &["-r"]);
        all.until_payload(topic, "");
    }
    publish(&broker, "gw/bridge/request/rediscover", "{\"transaction\":1}", &[]);
    assert_eq!(answer(&mut all, "rediscover", json!(1))["outcome"], "done");
    all.until_payload("gw/door/availability", "online");
    all.until_payload("gw/door", "OFF");
    assert!(all.next("gw/bridge/info").json()["devices"]["door"].is_object());
    gateway.stop();
}

#[test]
fn a_limit_counts_on_over_a_reload() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "devices: { pump: { kind: digital_out, pin: 27, max_on: 12s } }\n");
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    publish(&broker, "gw/pump/set", "ON", &[]);
    let on: jiff::Timestamp = all.next("gw/pump/result").json()["time"].as_str().unwrap().parse().unwrap();
    gateway.program.signal(Signal::SIGHUP);
    assert_eq!(event(&mut all, "reload")["outcome"], "done");
    let limit = event(&mut all, "limit");
    assert_eq!((&limit["device"], &limit["to"]), (&json!("pump"), &json!("OFF")));
    let off: jiff::Timestamp = limit["time"].as_str().unwrap().parse().unwrap();
    let took = off.as_millisecond() - on.as_millisecond();
    assert!((11_000..13_000).contains(&took), "it was on for {took} ms");
    all.until_payload("gw/sim/pin/27", "0");
    gateway.stop();
}

#[test]
fn a_knob_keeps_its_position_over_a_reload_and_begins_anew_after_a_restart() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "devices:\n  knob: { kind: encoder, pins: [20, 21], pull: up }\n");
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/knob", "0");
    for (pin, level) in [(20, "0"), (21, "0"), (20, "1"), (21, "1")] {
        publish(&broker, &format!("gw/sim/pin/{pin}/set"), level, &[]);
    }
    all.expect("gw/knob", "1");
    for _ in 0..2 {
        gateway.program.signal(Signal::SIGHUP);
        assert_eq!(event(&mut all, "reload")["outcome"], "done");
        all.expect("gw/knob", "1");
    }
    gateway.stop();
    all.forget();
    let gateway = home.online(&mut all);
    all.expect("gw/knob", "0");
    gateway.program.signal(Signal::SIGHUP);
    assert_eq!(event(&mut all, "reload")["outcome"], "done");
    all.expect("gw/knob", "0");
    gateway.stop();
}

#[test]
fn a_duty_and_an_angle_stay_over_a_reload() {
    let mut broker = Mosquitto::start();
    let devices = "devices:\n  fan: { kind: pwm, pin: 18 }\n  flap: { kind: servo, pin: 13 }\n";
    let home = Home::simple(&broker, devices);
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    publish(&broker, "gw/fan/set", "40", &[]);
    all.until_payload("gw/fan", "40");
    all.until_payload("gw/sim/pin/18", "0.4");
    publish(&broker, "gw/flap/set", "90", &[]);
    all.until_payload("gw/flap", "90");
    gateway.program.signal(Signal::SIGHUP);
    assert_eq!(event(&mut all, "reload")["outcome"], "done");
    all.expect("gw/fan", "40");
    all.expect("gw/flap", "90");
    all.expect("gw/sim/pin/18", "0.4");
    gateway.stop();
}
