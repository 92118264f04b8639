//! `digital_in`: debounce, inversion, retention, what is told of it.

use crate::support::gateway::{Home, Watch, publish};
use crate::support::mosquitto::Mosquitto;

#[test]
fn an_input_publishes_its_state_and_a_bounce_only_its_final_level() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  door: { kind: digital_in, pin: 17, pull: up, inverted: true, debounce: 200ms, retain: true }
  slow: { kind: digital_in, pin: 4, debounce: { on: 10ms, off: 400ms } }
  bell: { kind: digital_in, pin: 22 }
  motion: { kind: digital_in, pin: 23, payload: json, payload_on: moved, payload_off: quiet, topic: house/hall, qos: 2 }
",
    );
    let mut all = Watch::on(&mut broker, "#");
    let gateway = home.online(&mut all);

    // pulled up and inverted: open circuit is OFF
    let first = all.expect("gw/door", "OFF");
    assert_eq!((first.qos, first.properties["content-type"].as_str()), (1, Some("text/plain")));
    assert!(first.user["time"].ends_with('Z') && first.seq() > 0, "{first:?}");
    all.expect("gw/door/availability", "online");
    all.expect("gw/bell", "OFF");

    // a burst that ends where it began, then one that does not: the bell marks that the first was seen
    let burst: String = "0\n1\n".repeat(20);
    lines(&broker, "gw/sim/pin/17/set", &burst);
    publish(&broker, "gw/sim/pin/22/set", "1", &[]);
    all.expect("gw/bell", "ON");
    lines(&broker, "gw/sim/pin/17/set", &format!("{burst}0\n"));
    let door = all.expect("gw/door", "ON");
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    let next = all.expect("gw/door", "OFF");
    assert!(next.seq() > door.seq());

    // two windows
    all.expect("gw/slow", "OFF");
    publish(&broker, "gw/sim/pin/4/set", "1", &[]);
    all.expect("gw/slow", "ON");
    lines(&broker, "gw/sim/pin/4/set", "0\n1\n");
    publish(&broker, "gw/sim/pin/4/set", "0", &[]);
    all.expect("gw/slow", "OFF");

    // its own topic, words and form
    assert_eq!(all.next("house/hall").json()["value"], "quiet");
    publish(&broker, "gw/sim/pin/23/set", "1", &[]);
    let moved = all.next("house/hall");
    let json = moved.json();
    assert_eq!((json["value"].as_str(), json["quality"].as_str()), (Some("moved"), Some("good")));
    assert_eq!(json["seq"].as_u64(), Some(moved.seq()));
    assert_eq!(json["time"].as_str(), Some(moved.user["time"].as_str()));
    assert_eq!(moved.properties["content-type"], "application/json");

    // an asked-for value
    publish(&broker, "gw/bell/get", "", &[]);
    all.expect("gw/bell", "ON");
    assert_eq!(all.next("gw/bell/result").json()["outcome"], "done");

    // what a newcomer finds
    let mut later = Watch::on(&mut broker, "gw/#");
    assert!(later.expect("gw/door", "OFF").retain);
    assert!(later.expect("gw/door/availability", "online").retain);
    assert!(later.expect("gw/bridge/state", "online").retain);
    let info = later.next("gw/bridge/info");
    assert!(info.retain && info.json()["devices"]["door"]["kind"] == "digital_in", "{info:?}");
    assert!(later.next("gw/bridge/health").retain);
    assert!(later.left("gw/bell").is_empty());

    gateway.stop();
    all.expect("gw/bridge/state", "offline");
}

#[test]
fn an_output_cannot_be_driven_and_rubbish_drives_nothing() {
    let mut broker = Mosquitto::start();
    let devices = "devices:\n  lamp: { kind: digital_out, pin: 5 }\n  door: { kind: digital_in, pin: 17 }\n";
    let home = Home::simple(&broker, devices);
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/door", "OFF");
    publish(&broker, "gw/sim/pin/5/set", "1", &[]);
    assert!(all.next("gw/bridge/event").payload.contains("GPIO5 is an output"));
    publish(&broker, "gw/sim/pin/17/set", "maybe", &[]);
    assert!(all.next("gw/bridge/event").payload.contains("write 1 or 0"));
    // an input obeys no /set: the topic is nobody's, and the next level is the next message
    publish(&broker, "gw/door/set", "ON", &[]);
    publish(&broker, "gw/sim/pin/17/set", "1", &[]);
    all.expect("gw/door", "ON");
    gateway.stop();
}

#[test]
fn a_button_tells_gestures_and_a_group_is_one_word() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(
        &broker,
        "devices:
  button: { kind: digital_in, pin: 23, pull: up, inverted: true, debounce: { on: 10ms, off: 20ms }, gestures: [click, long], retain: true }
  word: { kind: digital_in, group: [5, 6, 12], debounce: 300ms }
",
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    assert!(!all.expect("gw/button/state", "OFF").retain);
    all.expect("gw/word", "0");
    publish(&broker, "gw/sim/pin/23/set", "0", &[]);
    all.expect("gw/button/state", "ON");
    publish(&broker, "gw/sim/pin/23/set", "1", &[]);
    all.expect("gw/button/state", "OFF");
    all.expect("gw/button/gesture", "click");
    publish(&broker, "gw/sim/pin/23/set", "0", &[]);
    all.expect("gw/button/gesture", "long");

    // the pins come one by one; no word between is seen
    for (pin, level) in [(5, "1"), (6, "1"), (12, "1"), (6, "0")] {
        publish(&broker, &format!("gw/sim/pin/{pin}/set"), level, &[]);
    }
    all.expect("gw/word", "5");

    // a gesture is an event: nobody finds one that is over
    let mut later = Watch::on(&mut broker, "gw/#");
    later.expect("gw/button/state", "ON");
    later.next("gw/bridge/health");
    assert!(later.left("gw/button/gesture").is_empty());
    gateway.stop();
}

/// Each line is a message.
pub fn lines(broker: &Mosquitto, topic: &str, text: &str) {
    let mut command = std::process::Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1", "-t", topic, "-l"]);
    crate::support::program::run(&mut command, text.as_bytes()).with(0);
}
