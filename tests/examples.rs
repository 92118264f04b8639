//! The examples, as they lie in `examples/`, run and asked by mosquitto's own clients; each with mosquitto as its broker
//! and with the embedded one.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use support::gateway::{Home, Pty, Watch, publish_at};
use support::mosquitto::{Mosquitto, free_port};
use support::program::{Program, pinpost, run};

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap()
}

/// Where an example's broker is.
struct Place {
    port: u16,
    /// It lives as long as the place.
    _broker: Option<Broker>,
}

enum Broker {
    Theirs { _mosquitto: Mosquitto },
    Ours { _program: Program },
}

impl Place {
    fn mosquitto() -> Place {
        let broker = Mosquitto::start();
        Place { port: broker.port(), _broker: Some(Broker::Theirs { _mosquitto: broker }) }
    }

    /// `pinpost broker`.
    fn embedded() -> Place {
        let port = free_port();
        let mut program = Program::start(&mut pinpost(["broker", "--listen", &format!("127.0.0.1:{port}")]));
        program.err.wait_for(&port.to_string());
        Place { port, _broker: Some(Broker::Ours { _program: program }) }
    }

    /// In the example's own gateway.
    fn inside() -> Place {
        Place { port: free_port(), _broker: None }
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    fn watch(&self, filter: &str) -> Watch {
        Watch::at(self.port, filter)
    }

    /// `pinpost pub`, `sub` or `view` here.
    fn ours(&self, command: &str, args: &[&str]) -> Command {
        pinpost([&[command, "-h", "127.0.0.1", "-p", &self.port.to_string()], args].concat())
    }

    fn publish(&self, topic: &str, payload: &str) {
        publish_at(self.port, topic, payload, &["-q", "2"]);
    }

    /// A directory of its own with that example as its file; the broker in it is begun only if it is the place's.
    fn home(&self, name: &str) -> Home {
        let home = Home::new(&self.url(), "", "", "").with_env("MQTT_URL", &self.url());
        let text = example(name);
        home.write(&match &self._broker {
            Some(_) => text.lines().filter(|line| !line.starts_with("broker:")).map(|l| format!("{l}\n")).collect(),
            None => text.replace("127.0.0.1:1883", &format!("127.0.0.1:{}", self.port)),
        });
        home
    }
}

/// The same with a broker beside the gateways, theirs and ours.
fn beside(test: fn(&Place)) {
    [Place::mosquitto(), Place::embedded()].iter().for_each(test);
}

/// The same with mosquitto, and with the broker in the gateway.
fn inside(test: fn(&Place)) {
    [Place::mosquitto(), Place::inside()].iter().for_each(test);
}

#[test]
fn a_message_goes_round_the_hospital_once_and_fever_is_retained() {
    beside(|broker| {
        let central = broker.home("hospital/central.yaml");
        let line = central.path("thermometer");
        let mut thermometer = Pty::new(line.clone());
        let patient = broker.home("hospital/patient.yaml").with_env("THERMOMETER", line.to_str().unwrap());
        let doctor = broker.home("hospital/doctor.yaml");
        let mut all = broker.watch("hospital/#");
        let mut running = Vec::new();
        for (home, name) in [(&central, "central"), (&patient, "patient"), (&doctor, "doctor")] {
            running.push(home.start());
            // health comes when it has subscribed
            all.until(&format!("hospital/{name}/bridge/health"), |_| true);
        }
        broker.publish("hospital/central/outbox", "visit at 5");
        all.until_payload("hospital/central/inbox", "visit at 5");
        thermometer.write(b"\nT=36.6\n");
        let healthy = all.until_payload("hospital/patient/body/temperature", "36.6");
        thermometer.write(b"T=39.5\n");
        let fever = all.until_payload("hospital/patient/body/temperature", "39.5");
        assert!(fever.seq() > healthy.seq());
        broker.publish("hospital/central/sim/pin/17/set", "0");
        all.until_payload("hospital/central/nurse_call", "ON");
        running.into_iter().for_each(|gateway| drop(gateway.stop()));
        let mut late = broker.watch("hospital/patient/body/temperature");
        late.expect("hospital/patient/body/temperature", "39.5");
    });
}

#[test]
fn the_command_server_refuses_a_wrong_device_command_and_value_with_a_reason() {
    inside(|broker| {
        let home = broker.home("command-server/server.yaml");
        let mut gateway = home.start();
        gateway.log("connected");
        let mut all = broker.watch("home/#");
        all.until("home/bridge/health", |_| true);
        broker.publish("home/lamp/set", "ON");
        all.until_payload("home/lamp", "ON");
        for (device, verb, value, said) in
            [("lump", "set", "ON", "lump"), ("lamp", "jump", "ON", "jump"), ("lamp", "set", "bright", "bright")]
        {
            let wish = format!("{{\"device\":\"{device}\",\"verb\":\"{verb}\",\"value\":\"{value}\"}}");
            broker.publish("home/bridge/request/command", &wish);
            let answer = all.until("home/bridge/response/command", |_| true).json();
            assert_eq!(answer["outcome"], "rejected", "{answer}");
            assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains(said)), "{answer}");
        }
        gateway.stop();
    });
}

#[test]
fn a_contact_and_a_picture_of_the_home_server_reach_a_second_subscriber_and_a_viewer() {
    inside(|broker| {
        let home = broker.home("home-server/home.yaml");
        let text = fs::read_to_string(home.file()).unwrap();
        home.write(&text.replace(
            "[rpicam-vid, -t, \"0\", --codec, mjpeg, -o, \"-\"]",
            "[sh, -c, \"while printf 'x\\\\377\\\\330\\\\377\\\\340picture\\\\377\\\\331'; do sleep 0.2; done\"]",
        ));
        let mut gateway = home.start();
        gateway.log("connected");
        let mut all = broker.watch("home/#");
        all.until("home/bridge/health", |_| true);
        all.until("home/camera", |_| true);
        broker.publish("home/sim/pin/17/set", "0");
        all.until_payload("home/server", "ON");
        // the live pictures, as a browser gets them
        let mut view = Program::start(&mut broker.ours("view", &["-t", "home/camera", "--listen", "127.0.0.1:0"]));
        view.err.wait_for("http://");
        let address = view.err.line().trim_end_matches('/').to_owned();
        let mut browser = TcpStream::connect(&address).unwrap();
        browser.set_read_timeout(Some(support::program::PATIENCE)).unwrap();
        write!(browser, "GET /stream HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        while seen.windows(13).filter(|w| *w == b"\xff\xd8\xff\xe0picture\xff\xd9").count() < 2 {
            let mut piece = [0; 4096];
            let n = browser.read(&mut piece).unwrap();
            assert!(n > 0, "it ended in {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&piece[..n]);
        }
        gateway.stop();
    });
}

#[test]
fn the_news_go_from_one_terminal_to_the_other_as_their_questions_are_answered() {
    beside(|broker| {
        let mut reader = Program::start(&mut broker.ours("sub", &[]));
        for topic in ["news", "weather"] {
            reader.err.wait_for("topic");
            reader.say(topic);
        }
        // the next question says that the subscription stands
        reader.err.wait_for("topic");
        let told = run(&mut broker.ours("pub", &[]), b"news\nHello, World!\nweather\nrain\nexit_\n").with(0);
        assert!(["topic", "data", "exit_"].iter().all(|word| told.err.contains(word)), "{}", told.err);
        assert_eq!([reader.out.line(), reader.out.line()], ["Hello, World!", "rain"]);
        reader.say("exit_");
        reader.end().with(0);
    });
}

/// Commands and their answers.
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

fn word(command: &str) -> &'static str {
    TABLE.iter().find(|(known, _)| *known == command).unwrap_or_else(|| panic!("{command}")).1
}

#[test]
fn server_and_client_of_the_enrolment_find_each_other_and_the_client_ends_with_0() {
    beside(|broker| {
        let (server, client) = (broker.home("enrolment/server.yaml"), broker.home("enrolment/client.yaml"));
        let mut all = broker.watch("#");
        let serving = server.start();
        all.until("enrolment/bridge/health", |_| true);
        let mut enrolled = client.start();
        let id = all.until("12345/UUID", |_| true).payload;
        assert_eq!(id.len(), 36, "{id}");
        let mut asked = BTreeSet::new();
        loop {
            let said = all.until(&id, |_| true);
            assert_eq!(said.qos, 2, "{said:?}");
            if said.payload == DONE {
                break;
            }
            all.until_payload(&format!("{id}/{}", said.payload), word(&said.payload));
            if said.payload == "CMD4" {
                broker.watch("iot-12345/sim/pin/5").expect("iot-12345/sim/pin/5", "1");
            }
            asked.insert(said.payload);
        }
        assert_eq!(asked.len(), TABLE.len(), "everything was asked: {asked:?}");
        all.until_payload("iot-12345/bridge/state", "offline");
        enrolled.program.end().with(0);
        serving.stop();
    });
}

#[test]
fn an_independent_server_enrols_the_client_asks_again_and_repeats_itself() {
    beside(|broker| {
        let client = broker.home("enrolment/client.yaml");
        let mut all = broker.watch("#");
        let mut enrolled = client.start();
        all.until_payload("login", "12345");
        broker.publish("12345/UUID", "f00d");
        all.until("iot-12345/bridge/event", |m| m.payload.contains("granted"));
        for (command, word) in TABLE.iter().rev().chain(&TABLE[..2]) {
            broker.publish("f00d", command);
            all.until_payload(&format!("f00d/{command}"), word);
        }
        broker.publish("f00d", "CMD8");
        all.until("iot-12345/bridge/event", |m| m.payload.contains("CMD8"));
        broker.publish("f00d", DONE);
        enrolled.program.end().with(0);
        all.until_payload("iot-12345/bridge/state", "offline");
    });
}

#[test]
fn an_independent_client_is_enrolled_beside_one_that_is_killed_in_the_middle() {
    beside(|broker| {
        let (server, client) = (broker.home("enrolment/server.yaml"), broker.home("enrolment/client.yaml"));
        let mut all = broker.watch("#");
        let serving = server.start();
        all.until("enrolment/bridge/health", |_| true);
        let ours = client.start();
        let first = all.until("12345/UUID", |_| true).payload;
        ours.kill();
        broker.publish("login", "visitor");
        let id = all.until("visitor/UUID", |_| true).payload;
        assert_ne!(first, id);
        let mut again = client.start();
        loop {
            let said = all.until(&id, |_| true).payload;
            if said == DONE {
                break;
            }
            broker.publish(&format!("{id}/{said}"), word(&said));
        }
        // the killed one has begun anew, and is done as well
        again.program.end().with(0);
        serving.stop();
    });
}

#[test]
fn a_session_goes_on_with_its_id_after_a_broker_that_was_started_anew() {
    let mut mosquitto = Mosquitto::start();
    let port = mosquitto.port();
    let home = Home::new(&mosquitto.url(), "", "", "").with_env("MQTT_URL", &mosquitto.url());
    home.write(&example("enrolment/client.yaml"));
    let mut all = Watch::at(port, "#");
    let mut enrolled = home.start();
    all.until_payload("login", "12345");
    publish_at(port, "12345/UUID", "f00d", &["-q", "2"]);
    all.until("iot-12345/bridge/event", |m| m.payload.contains("granted"));
    drop(all);
    mosquitto.kill();
    mosquitto.restart();
    let mut all = Watch::at(port, "#");
    all.until("iot-12345/bridge/health", |_| true);
    publish_at(port, "f00d", "CMD1", &["-q", "2"]);
    all.until_payload("f00d/CMD1", "Apple");
    publish_at(port, "f00d", DONE, &["-q", "2"]);
    enrolled.program.end().with(0);
}
