//! Relays through a real mosquitto: bytes unchanged, wildcards, outputs, kept while the broker is away, loops cut.

use crate::support::gateway::{Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;

#[test]
fn messages_are_passed_on_by_their_filter_and_an_output_is_set_within_its_limits() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  door: { kind: digital_in, pin: 17 }
  pump: { kind: digital_out, pin: 27 }
relays:
  plain: { from: a/+/c, to: 'out/{{ topic }}', qos: 2 }
  high: { from: t, to: high, when: value > 30, payload: '{{ payload }} is high' }
  bell: { from: { point: door }, to: house/bell, payload: 'door {{ payload }}', retain: true }
  wish: { from: wall, to: { set: pump } }
",
    );
    let mut all = Watch::on(&mut broker, "#");
    let gateway = home.online(&mut all);
    publish(&broker, "a/b/c", "hello", &["-q", "2"]);
    all.expect("out/a/b/c", "hello");
    publish(&broker, "t", "30", &[]);
    publish(&broker, "t", "31", &[]);
    all.expect("high", "31 is high");
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    all.until_payload("house/bell", "door ON");
    publish(&broker, "wall", "ON", &[]);
    all.until_payload("gw/pump", "ON");
    publish(&broker, "wall", "OFF", &["-r"]);
    let refused = all.until("gw/bridge/event", |got| got.json()["outcome"] == "rejected").json();
    assert_eq!((&refused["by"], &refused["device"]), (&"relay wish".into(), &"pump".into()), "{refused}");
    gateway.stop();
}

#[test]
fn a_ring_that_check_cannot_see_is_cut_after_one_round() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "relays:
  there: { from: ring/a, to: \"{{ 'ring/b' }}\" }
  back: { from: ring/b, to: \"{{ 'ring/a' }}\" }
",
    );
    let mut all = Watch::on(&mut broker, "#");
    let gateway = home.online(&mut all);
    publish(&broker, "ring/a", "x", &[]);
    let told = all.until("gw/bridge/event", |got| got.json()["event"] == "problem").json();
    assert!(told.to_string().contains("goes round in a loop"), "{told}");
    publish(&broker, "end", "x", &[]);
    all.expect("end", "x");
    assert_eq!(all.left("ring/b").len(), 1, "it went round more than once");
    gateway.stop();
}

#[test]
fn what_is_passed_on_waits_for_the_broker() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices: { door: { kind: digital_in, pin: 17 } }
relays: { bell: { from: { point: door }, to: house/bell } }
",
    );
    broker.kill();
    let mut gateway = home.start();
    gateway.log("not connected");
    broker.restart();
    let mut all = Watch::on(&mut broker, "#");
    all.until_payload("house/bell", "OFF");
    gateway.stop();
}
