//! The examples, as they lie in `examples/`, run and asked by mosquitto's own clients.

mod support;

use std::fs;
use std::path::Path;

use support::gateway::{Home, Pty, Watch, publish};
use support::mosquitto::Mosquitto;

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap()
}

/// A directory of its own with that example as its file.
fn home(broker: &Mosquitto, name: &str) -> Home {
    let home = Home::simple(broker, "").with_env("MQTT_URL", &broker.url());
    home.write(&example(name));
    home
}

#[test]
fn a_message_goes_round_the_hospital_once_and_fever_is_retained() {
    let mut broker = Mosquitto::start();
    let central = home(&broker, "hospital/central.yaml");
    let line = central.path("thermometer");
    let mut thermometer = Pty::new(line.clone());
    let patient = home(&broker, "hospital/patient.yaml").with_env("THERMOMETER", line.to_str().unwrap());
    let doctor = home(&broker, "hospital/doctor.yaml");
    let mut all = Watch::on(&mut broker, "hospital/#");
    let mut running = Vec::new();
    for (home, name) in [(&central, "central"), (&patient, "patient"), (&doctor, "doctor")] {
        running.push(home.start());
        // health comes when it has subscribed
        all.until(&format!("hospital/{name}/bridge/health"), |_| true);
    }
    publish(&broker, "hospital/central/outbox", "visit at 5", &[]);
    all.until_payload("hospital/central/inbox", "visit at 5");
    thermometer.write(b"\nT=36.6\n");
    let healthy = all.until_payload("hospital/patient/body/temperature", "36.6");
    thermometer.write(b"T=39.5\n");
    let fever = all.until_payload("hospital/patient/body/temperature", "39.5");
    assert!(fever.seq() > healthy.seq());
    publish(&broker, "hospital/central/sim/pin/17/set", "0", &[]);
    all.until_payload("hospital/central/nurse_call", "ON");
    running.into_iter().for_each(|gateway| drop(gateway.stop()));
    let mut late = Watch::on(&mut broker, "hospital/patient/body/temperature");
    late.expect("hospital/patient/body/temperature", "39.5");
}

#[test]
fn the_command_server_refuses_a_wrong_device_command_and_value_with_a_reason() {
    let mut broker = Mosquitto::start();
    let home = home(&broker, "command-server/server.yaml");
    // its own broker is another test's matter, and its port may be taken
    let text = example("command-server/server.yaml");
    home.write(&text.lines().filter(|line| !line.starts_with("broker:")).map(|l| format!("{l}\n")).collect::<String>());
    let mut all = Watch::on(&mut broker, "home/#");
    let gateway = home.start();
    all.until("home/bridge/health", |_| true);
    publish(&broker, "home/lamp/set", "ON", &[]);
    all.until_payload("home/lamp", "ON");
    for (device, verb, value, said) in
        [("lump", "set", "ON", "lump"), ("lamp", "jump", "ON", "jump"), ("lamp", "set", "bright", "bright")]
    {
        let wish = format!("{{\"device\":\"{device}\",\"verb\":\"{verb}\",\"value\":\"{value}\"}}");
        publish(&broker, "home/bridge/request/command", &wish, &[]);
        let answer = all.until("home/bridge/response/command", |_| true).json();
        assert_eq!(answer["outcome"], "rejected", "{answer}");
        assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains(said)), "{answer}");
    }
    gateway.stop();
}

#[test]
fn a_contact_and_a_picture_of_the_home_server_reach_a_second_subscriber() {
    let mut broker = Mosquitto::start();
    let home = home(&broker, "home-server/home.yaml");
    let text = example("home-server/home.yaml").replace(
        "[rpicam-vid, -t, \"0\", --codec, mjpeg, -o, \"-\"]",
        "[sh, -c, \"while printf 'x\\\\377\\\\330picture\\\\377\\\\331'; do sleep 0.2; done\"]",
    );
    home.write(&text.lines().filter(|line| !line.starts_with("broker:")).map(|l| format!("{l}\n")).collect::<String>());
    let mut all = Watch::on(&mut broker, "home/#");
    let gateway = home.start();
    all.until("home/bridge/health", |_| true);
    all.until("home/camera", |_| true);
    publish(&broker, "home/sim/pin/17/set", "0", &[]);
    all.until_payload("home/server", "ON");
    gateway.stop();
}

/// Answers of the client, and what the server asked for them.
const TABLE: [(&str, &str); 7] = [
    ("CMD1", "Apple"),
    ("CMD2", "Cat"),
    ("CMD3", "Dog"),
    ("CMD4", "Rat"),
    ("CMD5", "Boy"),
    ("CMD6", "Girl"),
    ("CMD7", "Toy"),
];
const DONE: &str = "Well done my IoT!";

#[test]
fn server_and_client_of_the_enrolment_find_each_other_and_the_client_ends_with_0() {
    let mut broker = Mosquitto::start();
    let server = home(&broker, "enrolment/server.yaml");
    let client = home(&broker, "enrolment/client.yaml");
    let mut all = Watch::on(&mut broker, "#");
    let serving = server.start();
    all.until("enrolment/bridge/health", |_| true);
    let mut enrolled = client.start();
    let id = all.until("12345/UUID", |_| true).payload;
    assert_eq!(id.len(), 36, "{id}");
    let mut asked = std::collections::BTreeSet::new();
    loop {
        let said = all.until(&id, |_| true).payload;
        if said == DONE {
            break;
        }
        let (command, word) = TABLE.iter().find(|(command, _)| *command == said).unwrap_or_else(|| panic!("{said}"));
        all.until_payload(&format!("{id}/{command}"), word);
        if *command == "CMD4" {
            let mut late = Watch::on(&mut broker, "iot-12345/sim/pin/5");
            late.expect("iot-12345/sim/pin/5", "1");
        }
        asked.insert(said);
    }
    assert_eq!(asked.len(), TABLE.len(), "everything was asked: {asked:?}");
    all.until_payload("iot-12345/bridge/state", "offline");
    enrolled.program.end().with(0);
    serving.stop();
}

#[test]
fn an_independent_server_enrols_the_client_asks_again_and_repeats_itself() {
    let mut broker = Mosquitto::start();
    let client = home(&broker, "enrolment/client.yaml");
    let mut all = Watch::on(&mut broker, "#");
    let mut enrolled = client.start();
    all.until_payload("login", "12345");
    let qos2: &[&str] = &["-q", "2"];
    publish(&broker, "12345/UUID", "f00d", qos2);
    // the id's own topic is subscribed as soon as the grant is heard, and said to be
    all.until("iot-12345/bridge/event", |m| m.payload.contains("granted"));
    for (command, word) in TABLE.iter().rev().chain(&TABLE[..2]) {
        publish(&broker, "f00d", command, qos2);
        all.until_payload(&format!("f00d/{command}"), word);
    }
    publish(&broker, "f00d", "CMD8", qos2);
    all.until("iot-12345/bridge/event", |m| m.payload.contains("CMD8"));
    publish(&broker, "f00d", DONE, qos2);
    enrolled.program.end().with(0);
    all.until_payload("iot-12345/bridge/state", "offline");
}

#[test]
fn an_independent_client_is_enrolled_beside_one_that_is_killed_in_the_middle() {
    let mut broker = Mosquitto::start();
    let server = home(&broker, "enrolment/server.yaml");
    let client = home(&broker, "enrolment/client.yaml");
    let mut all = Watch::on(&mut broker, "#");
    let serving = server.start();
    all.until("enrolment/bridge/health", |_| true);
    let ours = client.start();
    let first = all.until("12345/UUID", |_| true).payload;
    ours.kill();
    publish(&broker, "login", "visitor", &["-q", "2"]);
    let id = all.until("visitor/UUID", |_| true).payload;
    assert_ne!(first, id);
    let mut again = client.start();
    loop {
        let said = all.until(&id, |_| true).payload;
        if said == DONE {
            break;
        }
        let (command, word) = TABLE.iter().find(|(command, _)| *command == said).unwrap_or_else(|| panic!("{said}"));
        publish(&broker, &format!("{id}/{command}"), word, &["-q", "2"]);
    }
    // the killed one has begun anew, and is done as well
    again.program.end().with(0);
    serving.stop();
}
