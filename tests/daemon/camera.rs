//! A camera as a program that writes MJPEG, the way rpicam-vid does: pictures are cut from `ff d8` to `ff d9` and
//! published as they are; a slow consumer is spared by `throttle`, a broker that was away by `deliver: latest`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::gateway::{Door, Home, Watch};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::{PATIENCE, Program, run};

/// A picture as far as framing knows: its number, bytes of all kinds, none of them an end.
fn picture(n: u32) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xe0];
    bytes.extend_from_slice(&n.to_be_bytes().map(|b| b & 0x7f));
    bytes.extend((0..20_000u32).map(|i| (i.wrapping_mul(31).wrapping_add(n) >> 3) as u8 & 0x7f));
    bytes.extend_from_slice(&[0xff, 0x00, 0xff, 0xd9]);
    bytes
}

/// The program of the port copies this pipe, so the test is the camera.
fn camera(home: &Home) -> File {
    let pipe = home.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // both ends: it never ends
    OpenOptions::new().read(true).write(true).open(&pipe).unwrap()
}

fn config(home: &Home, rest: &str) -> String {
    format!(
        "ports: {{ cam: {{ command: [cat, {}] }} }}
devices:
  camera: {{ kind: serial, port: cam, frame: {{ start: \"ff d8\", end: \"ff d9\", max: 2000000 }}, decode: {{ type: raw }}, points: {{ picture: {{ deliver: latest }} }} }}
{rest}",
        home.path("pipe").display()
    )
}

/// Everything on a topic as hex.
struct Pictures(Program);

impl Pictures {
    fn on(broker: &mut Mosquitto, topic: &str, id: &str) -> Pictures {
        let port = broker.port().to_string();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-i", id, "-t", topic, "-q", "1", "-F", "%x"]);
        let program = Program::start(&mut command);
        broker.wait_log(&format!("Sending SUBACK to {id}"));
        Pictures(program)
    }
    fn next(&mut self) -> String {
        self.0.out.line()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn pictures_are_published_as_they_are_and_throttle_lets_few_pass() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut camera = camera(&home);
    let slow = "  slow: { kind: serial, port: cam, frame: { start: \"ff d8\", end: \"ff d9\", max: 2000000 }, decode: { type: raw }, points: { picture: { deliver: latest, filters: [ { throttle: 500ms } ] } } }\n";
    let home = {
        home.write(&format!(
            "version: 1\ngateway: {{ id: gw }}\nmqtt: {{ url: \"${{GW_URL}}\" }}\nqueue: {{ dir: {} }}\n{}",
            home.path("state/queue").display(),
            config(&home, slow)
        ));
        home
    };
    let mut states = Watch::on(&mut broker, "gw/+/availability");
    let mut all = Pictures::on(&mut broker, "gw/camera", "allx");
    let mut few = Pictures::on(&mut broker, "gw/slow", "fewx");
    let gateway = home.start();
    for _ in 0..2 {
        assert_eq!(states.any().payload, "online");
    }
    let begun = Instant::now();
    let mut sent = 0u32;
    let mut send = |all: &mut Pictures, sent: &mut u32| {
        camera.write_all(&picture(*sent)).unwrap();
        assert_eq!(all.next(), hex(&picture(*sent)), "picture {sent}");
        *sent += 1;
    };
    send(&mut all, &mut sent);
    assert_eq!(few.next(), hex(&picture(0)));
    // until three have passed, and plainly more have not
    let mut passed = 0;
    while passed < 3 || sent as usize <= 2 * passed {
        send(&mut all, &mut sent);
        passed = few.0.out.so_far().matches('\n').count();
        assert!(begun.elapsed() < PATIENCE, "{passed} of {sent}");
    }
    let took = begun.elapsed();
    gateway.stop();
    assert!(took >= Duration::from_millis(990), "three passed in {took:?}");
    assert!(passed <= 1 + took.as_millis() as usize / 490, "{passed} of {sent} in {took:?}");
    let known: Vec<String> = (0..sent).map(|n| hex(&picture(n))).collect();
    let seen = few.0.out.so_far();
    let whole = seen.rsplit_once('\n').map_or("", |(whole, _)| whole);
    assert!(whole.lines().all(|line| known.iter().any(|k| k == line)), "another picture");
}

#[test]
fn a_broker_that_was_away_gets_the_latest_picture_only() {
    let mut broker = Mosquitto::start();
    let door = Door::to(broker.port());
    door.open();
    let home = Home::new(&door.url(), "", "", "");
    let mut camera = camera(&home);
    home.write(&format!(
        "version: 1\ngateway: {{ id: gw }}\nmqtt: {{ url: \"${{GW_URL}}\" }}\nqueue: {{ dir: {} }}\n{}",
        home.path("state/queue").display(),
        config(&home, "")
    ));
    let mut pictures = Pictures::on(&mut broker, "gw/camera", "camx");
    let mut states = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.online(&mut states);
    states.expect("gw/camera/availability", "online");
    camera.write_all(&picture(0)).unwrap();
    assert_eq!(pictures.next(), hex(&picture(0)));
    door.close();
    gateway.log("not connected");
    for n in 1..=60 {
        camera.write_all(&picture(n)).unwrap();
    }
    // until the daemon has read them all: 60 came, 59 were replaced by their successors
    let file = home.file().display().to_string();
    let begun = Instant::now();
    loop {
        let status = run(&mut home.pinpost(&["queue", "status", "--json", "-c", &file]), b"").with(0).text();
        let figures: serde_json::Value = serde_json::from_str(&status).unwrap();
        if figures["replaced"].as_u64().unwrap_or(0) >= 59 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
    }
    door.open();
    assert_eq!(pictures.next(), hex(&picture(60)), "the latest comes first");
    camera.write_all(&picture(61)).unwrap();
    assert_eq!(pictures.next(), hex(&picture(61)), "and nothing between");
    gateway.stop();
}
