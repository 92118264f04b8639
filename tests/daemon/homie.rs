//! The gateway as a Homie device at a real mosquitto: what a controller finds there, sets, and loses.

use crate::support::gateway::{Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;

const FILE: &str = "homie: {}
devices:
  door: { kind: digital_in, pin: 17 }
  pump: { kind: digital_out, pin: 27 }
";

#[test]
fn a_controller_finds_sets_and_loses_the_devices() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, FILE);
    let mut watch = Watch::on(&mut broker, "homie/#");
    let mut plain = Watch::on(&mut broker, "gw/#");
    let gateway = home.start();
    // told in this order, so that a controller never sees half a device
    watch.expect("homie/5/gw/$state", "init");
    let root = watch.next("homie/5/gw/$description").json();
    assert_eq!(root["children"], serde_json::json!(["gw-door", "gw-pump"]));
    watch.until_payload("homie/5/gw/$state", "ready");
    watch.until_payload("homie/5/gw-pump/$state", "ready");
    watch.until_payload("homie/5/gw-pump/points/state", "false");

    // whoever comes later finds it
    let mut later = Watch::on(&mut broker, "homie/5/gw-pump/#");
    let pump = later.next("homie/5/gw-pump/$description").json();
    let property = &pump["nodes"]["points"]["properties"]["state"];
    assert_eq!((&property["datatype"], &property["settable"]), (&"boolean".into(), &true.into()));
    publish(&broker, "homie/5/gw-pump/points/state/set", "true", &[]);
    plain.until_payload("gw/sim/pin/27", "1");
    watch.until_payload("homie/5/gw-pump/points/state/$target", "true");
    watch.until_payload("homie/5/gw-pump/points/state", "true");
    publish(&broker, "homie/5/gw-pump/points/state/set", "ON", &[]);
    let event = plain.until("gw/bridge/event", |e| e.json()["event"] == "problem").json();
    assert!(event["text"].as_str().unwrap().contains("`true` or `false`"), "{event}");
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    watch.until_payload("homie/5/gw-door/points/state", "true");

    // cut off without a word: lost, and offline on the plain topics
    gateway.kill();
    watch.until_payload("homie/5/gw/$state", "lost");
    plain.until_payload("gw/bridge/state", "offline");
    // stopped in order
    let gateway = home.start();
    watch.until_payload("homie/5/gw/$state", "ready");
    gateway.stop();
    watch.until_payload("homie/5/gw/$state", "disconnected");
    plain.until_payload("gw/bridge/state", "offline");

    // what is no more is taken off the broker, with the state first; the description of what stays has risen
    watch.forget();
    let file = std::fs::read_to_string(home.file()).unwrap();
    home.write(&file.replace("  door:", "  gate:"));
    let gateway = home.start();
    watch.until_payload("homie/5/gw-door/$state", "");
    watch.until_payload("homie/5/gw-door/$description", "");
    watch.until_payload("homie/5/gw-door/points/state", "");
    let changed = watch.next("homie/5/gw/$description").json();
    assert_eq!((&changed["version"], &changed["children"][0]), (&2.into(), &"gw-gate".into()));
    gateway.stop();

    // all three dialects beside each other: each has its own will
    home.write(&file.replace("homie: {}", "homie: {}\nsparkplug: { group: plant }"));
    let mut node = Watch::on(&mut broker, "spBv1.0/#");
    watch.forget();
    let gateway = home.start();
    node.next("spBv1.0/plant/NBIRTH/gw");
    watch.until_payload("homie/5/gw/$state", "ready");
    gateway.kill();
    node.next("spBv1.0/plant/NDEATH/gw");
    watch.until_payload("homie/5/gw/$state", "lost");
    plain.until_payload("gw/bridge/state", "offline");
}
