//! Home Assistant's discovery at a real mosquitto: what is retained for one that comes later, what is told again when it
//! says that it is there, and what is taken back after a device was renamed.

use std::process::Command;

use serde_json::Value as Json;

use crate::support::gateway::{Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::run;

const FILE: &str = "homeassistant: {}
devices:
  door: { kind: digital_in, pin: 17, device_class: door }
  pump: { kind: digital_out, pin: 27 }
";

#[test]
fn a_reading_in_cbor_is_the_map_of_the_json() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "devices: { bell: { kind: digital_in, pin: 22, retain: true, payload: cbor } }\n");
    let mut all = Watch::on(&mut broker, "gw/+/availability");
    let gateway = home.start();
    all.until_payload("gw/bell/availability", "online");
    let port = broker.port().to_string();
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-t", "gw/bell", "-C", "1", "-W", "20", "-F", "%x"]);
    let hex = run(&mut command, b"").with(0).text();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.trim().len()).step_by(2).map(byte).collect();
    let map: Json = ciborium::from_reader(bytes.as_slice()).unwrap();
    assert_eq!((&map["value"], &map["quality"]), (&"OFF".into(), &"good".into()));
    assert!(map["seq"].is_u64() && map["time"].as_str().unwrap().ends_with('Z'), "{map}");
    gateway.stop();
}

#[test]
fn devices_are_announced_and_a_renamed_one_leaves_no_ghost() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, FILE);
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);

    // whoever comes later finds it at the broker, and it says how the pump is switched
    let mut later = Watch::on(&mut broker, "homeassistant/#");
    let pump = later.next("homeassistant/device/gw/pump/config").json();
    let switch = &pump["components"]["switch_pump"];
    assert_eq!(pump["device"]["via_device"], "pinpost.gw");
    assert_eq!(later.next("homeassistant/device/gw/config").json()["device"]["identifiers"][0], "pinpost.gw");
    later.next("homeassistant/device/gw/door/config");
    let text = |key: &str| switch[key].as_str().unwrap().to_owned();
    for availability in switch["availability"].as_array().unwrap() {
        let topic = availability["topic"].as_str().unwrap().to_owned();
        Watch::on(&mut broker, "gw/#").until_payload(&topic, "online");
    }
    publish(&broker, &text("command_topic"), &text("payload_on"), &[]);
    all.until_payload(&text("state_topic"), &text("state_on"));
    all.until_payload("gw/sim/pin/27", "1");

    // told again, with the states, when Home Assistant has started
    all.forget();
    publish(&broker, "homeassistant/status", "online", &[]);
    assert_eq!(later.next("homeassistant/device/gw/pump/config").json(), pump);
    all.until_payload("gw/pump", "ON");
    later.forget();
    publish(&broker, "gw/bridge/request/rediscover", "{}", &[]);
    assert_eq!(later.next("homeassistant/device/gw/pump/config").json(), pump);

    // under another name it is another device, and the old one is gone
    gateway.stop();
    let renamed = std::fs::read_to_string(home.file()).unwrap().replace("pump:", "well:");
    home.write(&renamed);
    later.forget();
    let gateway = home.start();
    later.until_payload("homeassistant/device/gw/pump/config", "");
    later.next("homeassistant/device/gw/well/config");
    gateway.stop();
    home.write(&renamed.replace("homeassistant: {}", "homeassistant: { enabled: no }"));
    let gateway = home.start();
    for topic in ["config", "door/config", "well/config"] {
        later.until_payload(&format!("homeassistant/device/gw/{topic}"), "");
    }
    gateway.stop();
}
