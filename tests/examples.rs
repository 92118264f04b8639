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
