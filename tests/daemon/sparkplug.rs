//! The gateway as a Sparkplug node at a real mosquitto, by its topics and with a command of fixed bytes; what is in the
//! payloads a foreign implementation judges (`tests/sparkplug/host.py`, a stage of CI).

use std::process::Command;

use crate::support::gateway::{Home, Watch};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::run;

const FILE: &str = "sparkplug: { group: plant }
devices:
  door: { kind: digital_in, pin: 17 }
  pump: { kind: digital_out, pin: 27 }
";

fn send(broker: &Mosquitto, home: &Home, topic: &str, bytes: &[u8]) {
    let file = home.path("payload");
    std::fs::write(&file, bytes).unwrap();
    let port = broker.port().to_string();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-f"]).arg(&file);
    run(&mut command, b"").with(0);
}

#[test]
fn a_node_is_born_is_commanded_and_dies_in_both_dialects() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, FILE);
    let mut plain = Watch::on(&mut broker, "gw/#");
    let mut node = Watch::on(&mut broker, "spBv1.0/#");
    let gateway = home.start();
    let birth = node.next("spBv1.0/plant/NBIRTH/gw");
    assert_eq!((birth.qos, birth.retain), (0, false));
    for device in ["door", "pump"] {
        node.next(&format!("spBv1.0/plant/DBIRTH/gw/{device}"));
    }
    // a host's write: one metric, `state`, boolean, true
    send(&broker, &home, "spBv1.0/plant/DCMD/gw/pump", b"\x12\x09\x0a\x05state\x70\x01");
    plain.until_payload("gw/sim/pin/27", "1");
    plain.until_payload("gw/pump", "ON");
    let event = plain.until("gw/bridge/event", |e| e.json()["event"] == "command").json();
    assert_eq!((&event["by"], &event["outcome"]), (&"sparkplug".into(), &"done".into()));
    node.next("spBv1.0/plant/DDATA/gw/pump");
    // and what is none
    send(&broker, &home, "spBv1.0/plant/DCMD/gw/pump", b"ON");
    let event = plain.until("gw/bridge/event", |e| e.json()["event"] == "problem").json();
    assert!(event["text"].as_str().unwrap().contains("no Sparkplug B payload"), "{event}");

    // cut off without a word: the broker says it in both dialects
    gateway.kill();
    let death = node.next("spBv1.0/plant/NDEATH/gw");
    assert_eq!((death.qos, death.retain), (1, false));
    plain.until_payload("gw/bridge/state", "offline");

    // the next run is born again, and an orderly stop says goodbye by itself
    node.forget();
    let gateway = home.start();
    node.next("spBv1.0/plant/NBIRTH/gw");
    plain.until_payload("gw/bridge/state", "online");
    gateway.stop();
    node.next("spBv1.0/plant/NDEATH/gw");
    plain.until_payload("gw/bridge/state", "offline");
}
