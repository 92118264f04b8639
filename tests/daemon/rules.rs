//! What the gateway does by itself: rules without a broker, computed points and alarms from real frames.

use serde_json::Value as Json;

use crate::support::gateway::{Home, Pty, Watch, publish};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::run;

#[test]
fn rules_move_outputs_with_the_broker_stopped_from_the_start() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let home = Home::simple(
        &broker,
        "devices:
  door: { kind: digital_in, pin: 17 }
  lamp: { kind: digital_out, pin: 5 }
  pump: { kind: digital_out, pin: 27, min_off: 1s }
rules:
  light: { when: not door, then: { set: lamp, to: ON } }
  pump: { when: lamp, for: 100ms, then: [ { set: pump, to: ON }, { publish: 'gw/note/{{ lamp }}', payload: 'pump {{ pump }}', retain: true } ] }
",
    );
    let mut gateway = home.start();
    // all of it happens before anybody could hear of it
    gateway.log("not connected");
    broker.restart();
    let mut all = Watch::on(&mut broker, "gw/#");
    all.until_payload("gw/sim/pin/5", "1");
    all.until_payload("gw/sim/pin/27", "1");
    all.until_payload("gw/pump", "ON");
    gateway.stop();
    let mut late = Watch::on(&mut broker, "gw/note/ON");
    late.expect("gw/note/ON", "pump OFF");
}

#[test]
fn what_a_rule_did_and_why_is_told_and_a_refusal_too() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  door: { kind: digital_in, pin: 17 }
  up: { kind: digital_out, pin: 5, interlock: blind }
  down: { kind: digital_out, pin: 6, interlock: blind }
rules:
  shut: { when: door, then: [ { set: up, to: ON }, { delay: 50ms }, { set: down, to: ON } ], otherwise: { pulse: down, to: 100ms } }
",
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    let event = |all: &mut Watch, wanted: &str, what: &str| -> Json {
        all.until("gw/bridge/event", |got| {
            let json = got.json();
            json["event"] == wanted && [&json["did"], &json["outcome"]].contains(&&Json::from(what))
        })
        .json()
    };
    event(&mut all, "rule", "otherwise");
    all.until_payload("gw/sim/pin/6", "0");
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    let fired = event(&mut all, "rule", "then");
    assert_eq!(
        (&fired["rule"], &fired["because"], &fired["with"]["door"]),
        (&"shut".into(), &"door".into(), &"ON".into())
    );
    let done = event(&mut all, "command", "done");
    assert_eq!((&done["by"], &done["device"]), (&"rule shut".into(), &"up".into()));
    let refused = event(&mut all, "command", "rejected");
    assert!(refused["reason"].as_str().unwrap().contains("up is on"), "{refused}");
    // somebody switches the other off: the rule is tried again
    publish(&broker, "gw/up/set", "OFF", &[]);
    all.until_payload("gw/down", "ON");
    gateway.stop();
}

#[test]
fn frames_become_alarms_computed_points_and_expressions_over_their_fields() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut pty = Pty::new(home.path("line"));
    let home = Home::simple(
        &broker,
        &format!(
            "ports: {{ line: {{ path: {} }} }}
devices:
  patient:
    kind: serial
    port: line
    decode: {{ type: keyvalue }}
    points:
      temperature: {{ field: T, qos: 0, alarm: {{ when: value > 38, qos: 1, retain: true }} }}
      pressure: {{ field: P, filters: [ {{ expression: value - fields.offset }}, {{ timeout: 1s }} ] }}
computed:
  sum: {{ expression: patient.temperature + patient.pressure, payload: json }}
",
            pty.name().display()
        ),
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.start();
    all.until_payload("gw/patient/availability", "online");
    pty.write(b"the end of a line\n");
    pty.write(b"T=36.5;P=120;offset=20\n");
    let calm = all.next("gw/patient/temperature");
    assert_eq!((calm.payload.as_str(), calm.qos), ("36.5", 0));
    all.expect("gw/patient/pressure", "100");
    assert_eq!(all.next("gw/sum").json()["value"], 136.5);

    pty.write(b"T=38.5;P=130;offset=20\n");
    let high = all.next("gw/patient/temperature");
    assert_eq!((high.payload.as_str(), high.qos), ("38.5", 1));
    let alarm = all.until("gw/bridge/event", |got| got.json()["event"] == "alarm").json();
    assert_eq!((&alarm["state"], &alarm["point"]), (&"ON".into(), &"patient/temperature".into()));
    // once for the frame, not with halves of two
    assert_eq!(all.next("gw/sum").json()["value"], 148.5);
    let mut late = Watch::on(&mut broker, "gw/patient/temperature");
    late.expect("gw/patient/temperature", "38.5");

    // silence makes it stale, and what is computed from it unknown
    let stale = all.until("gw/patient/pressure", |got| got.user.get("quality").is_some_and(|q| q == "stale"));
    assert_eq!(stale.payload, "110");
    all.until_payload("gw/sum/availability", "offline");
    pty.write(b"T=37;P=130;offset=20\n");
    let calm = all.until_payload("gw/patient/temperature", "37");
    assert_eq!(calm.qos, 0);
    all.until_payload("gw/sum/availability", "online");
    gateway.stop();
}

#[test]
fn explain_tells_rules_alarms_and_computed_points() {
    let home = Home::new(
        "mqtt://127.0.0.1:1",
        "",
        "",
        "devices:
  door: { kind: digital_in, pin: 17, alarm: { when: value, qos: 2 } }
  pump: { kind: digital_out, pin: 27 }
computed: { shut: { expression: not door } }
rules:
  r: { when: door and not pump, for: 3s, then: [ { set: pump, to: ON }, { delay: 5s }, { publish: a/b, payload: x } ] }
  t: { at: [ 'mon-fri 07:30' ], then: { pulse: pump, to: 2s } }
",
    );
    let ended = run(&mut home.pinpost(&["explain", home.file().to_str().unwrap()]), b"");
    let text = ended.text();
    for line in [
        "    alarm while value: qos 2, priority alarm",
        "shut (computed): not door",
        "rule r: when door and not pump for 3s",
        "  then      pump set ON; wait 5s; publish on a/b `x` (qos 1)",
        "rule t: at mon-fri 07:30",
        "  then      pump pulse 2s",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn an_output_is_on_only_while_what_it_requires_holds() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  hood: { kind: digital_in, pin: 17 }
  saw: { kind: digital_out, pin: 27, requires: hood }
",
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.until_payload("gw/saw", "OFF");
    all.until_payload("gw/hood", "OFF");
    publish(&broker, "gw/saw/set", "ON", &[]);
    let result = all.next("gw/saw/result").json();
    assert_eq!(result["outcome"], "rejected");
    assert!(result["reason"].as_str().unwrap().contains("requires `hood`"), "{result}");
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    all.until_payload("gw/hood", "ON");
    publish(&broker, "gw/saw/set", "ON", &[]);
    all.until_payload("gw/sim/pin/27", "1");
    publish(&broker, "gw/sim/pin/17/set", "0", &[]);
    all.until_payload("gw/sim/pin/27", "0");
    all.until_payload("gw/saw", "OFF");
    gateway.stop();
}
