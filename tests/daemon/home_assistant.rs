//! Home Assistant's discovery at a real mosquitto: what is retained for one that comes later, what is told again when it
//! says that it is there, and what is taken back after a device was renamed.

use crate::support::gateway::{Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;

const FILE: &str = "homeassistant: {}
devices:
  door: { kind: digital_in, pin: 17, device_class: door }
  pump: { kind: digital_out, pin: 27 }
";

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
