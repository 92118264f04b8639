//! `pinpost queue`: the same queue seen with the daemon running and stopped, and the control socket.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::gateway::{Door, Gateway, Home, Watch, publish, within};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::{Ended, run};

const DEVICES: &str = "defaults: { deliver: all }
devices:
  door: { kind: digital_in, pin: 17, retain: true }
  alarm: { kind: digital_in, pin: 22, priority: alarm }
  meter: { kind: serial, port: m, points: { text: {} } }
ports:
  m: { command: [sh, -c, 'i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo \"line $i\"; done; exec sleep 1000'] }
";

fn queue(home: &Home, args: &[&str]) -> Ended {
    let file = home.file().display().to_string();
    run(&mut home.pinpost(&[&["queue"], args, &["-c", &file]].concat()), b"")
}

fn status(home: &Home) -> Json {
    serde_json::from_slice(&queue(home, &["status", "--json"]).with(0).out).unwrap()
}

fn exported(home: &Home) -> Vec<Json> {
    queue(home, &["export"]).with(0).text().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A daemon without a broker that has 502 readings on disk.
fn filled(home: &Home) -> Gateway {
    let gateway = home.start();
    let mut figures = status_when(home, |s| s["waiting"] == 502 && s["unsynced"] == 0);
    assert_eq!(figures["running"].take(), true);
    gateway
}

/// The figures, once they are so.
fn status_when(home: &Home, found: impl Fn(&Json) -> bool) -> Json {
    let begun = std::time::Instant::now();
    loop {
        let ended = queue(home, &["status", "--json"]);
        if let Ok(status) = serde_json::from_slice::<Json>(&ended.out)
            && found(&status)
        {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{ended:?}");
    }
}

#[test]
fn the_queue_is_seen_exported_and_purged_with_the_daemon_running_and_stopped() {
    let mut broker = Mosquitto::start();
    let door = Door::to(broker.port());
    let home = Home::new(&door.url(), "", "sync: 100ms", DEVICES);
    queue(&home, &["status"]).with(1);

    let gateway = filled(&home);
    let figures = status(&home);
    assert_eq!(figures["priority"], json!({ "normal": 501, "alarm": 1 }));
    assert!(figures["lasts_s"].as_u64().is_some() && figures["bytes"].as_u64().unwrap() > 10_000, "{figures}");
    assert_eq!((&figures["max_bytes"], &figures["dead"]), (&json!(64 << 20), &json!(0)));
    let text = queue(&home, &["status"]).with(0).text();
    assert!(text.contains("pinpost runs") && text.contains("502 records") && text.contains("present rate"), "{text}");

    let list = queue(&home, &["list", "--limit", "3"]).with(0).text();
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].contains("alarm") && lines[0].contains("gw/alarm") && lines[0].contains("OFF"), "{list}");
    let mut live = exported(&home);
    assert_eq!(live.len(), 502);
    let meter: Vec<_> = live.iter().filter(|r| r["topic"] == "gw/meter").collect();
    assert_eq!(meter[9]["payload"], "line 10");
    assert_eq!(status(&home)["waiting"], 502, "an export takes nothing");

    // stopped, the files say the same
    gateway.stop();
    let figures = status(&home);
    assert_eq!((&figures["running"], &figures["waiting"]), (&json!(false), &json!(502)), "{figures}");
    assert_eq!(figures["priority"], json!({ "normal": 501, "alarm": 1 }));
    let mut rest = exported(&home);
    for list in [&mut live, &mut rest] {
        list.sort_by_key(|r| r["seq"].as_u64());
    }
    assert_eq!(live, rest);

    // a purge asks; it takes what it is told to, stopped and running, and the gap is told when the broker is there
    let asked = run(&mut home.pinpost(&["queue", "purge", "-c", home.file().to_str().unwrap()]), b"n\n").with(1);
    assert!(asked.err.contains("502 records") && asked.err.contains("[y/N]"), "{}", asked.err);
    let purged = queue(&home, &["purge", "--yes", "--priority", "alarm"]).with(0);
    assert!(purged.err.contains("1 record thrown away"), "{}", purged.err);
    assert_eq!(status(&home)["waiting"], 501);
    queue(&home, &["purge", "--yes", "--priority", "loud"]).with(2);

    let gateway = home.start();
    status_when(&home, |s| s["running"] == true && s["waiting"].as_u64() > Some(501));
    let purged: Json = serde_json::from_slice(&queue(&home, &["purge", "-y", "--json"]).with(0).out).unwrap();
    assert!(purged["purged"].as_u64().unwrap() >= 501, "{purged}");
    let left = exported(&home);
    assert!(left.iter().all(|r| r["priority"] == "control"), "reports of loss stay: {left:?}");

    let mut all = Watch::on(&mut broker, "gw/#");
    door.open();
    let gap = |all: &mut Watch| {
        let event = all.until("gw/bridge/event", |g| g.json()["event"] == "gap").json();
        assert_eq!(event["reason"], "purged");
        event["count"].as_u64().unwrap()
    };
    let mut told = 0;
    while told < 1 + purged["purged"].as_u64().unwrap() {
        told += gap(&mut all);
    }
    // the same figures by MQTT
    publish(&broker, "gw/bridge/request/queue", "{\"transaction\":7}", &[]);
    let figures = all.next("gw/bridge/response/queue").json();
    assert_eq!((&figures["transaction"], &figures["dropped_ever"]["purged"]), (&json!(7), &json!(told)), "{figures}");
    let health = all.until("gw/bridge/health", |g| g.json()["queue"]["dropped_ever"]["purged"] == told).json();
    assert_eq!(health["queue"]["next_seq"], figures["next_seq"]);
    gateway.stop();
}

#[test]
fn without_a_file_the_queue_of_the_state_directory_is_meant() {
    let home = Home::new("mqtt://127.0.0.1:1", "", "", "devices: { door: { kind: digital_in, pin: 17 } }\n");
    let here = |args: &[&str]| {
        let mut command = home.pinpost(&[&["queue"], args].concat());
        run(command.env("STATE_DIRECTORY", home.path("state")), b"")
    };
    let gateway = home.start();
    status_when(&home, |s| s["waiting"] == 1);
    let running: Json = serde_json::from_slice(&here(&["status", "--json"]).with(0).out).unwrap();
    assert_eq!((&running["running"], &running["waiting"]), (&json!(true), &json!(1)));
    gateway.stop();
    let text = here(&["status"]).with(0).text();
    assert!(text.contains("pinpost does not run") && text.contains("1 record"), "{text}");
    assert_eq!(here(&["list"]).with(0).text().lines().count(), 1);
    assert!(here(&["purge"]).with(0).err.contains("1 record thrown away"));
    let nowhere = run(home.pinpost(&["queue", "status"]).env("STATE_DIRECTORY", home.path("nowhere")), b"").with(1);
    assert!(nowhere.err.contains("with -c"), "{}", nowhere.err);
}

fn socket(home: &Home) -> std::path::PathBuf {
    home.path("state/queue.state/control.sock")
}

fn call(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// What the daemon says until it hangs up.
fn heard(mut stream: &UnixStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn whoever_hangs_or_floods_at_the_control_socket_hurts_nobody() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "devices: { pump: { kind: digital_out, pin: 27 } }\n");
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    let path = socket(&home);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    // no question, an endless one, one that is none: cut off
    for nonsense in ["{\"ask\":\"everything\"}\n".to_owned(), "[]\n".into(), "\n".into()] {
        let mut stream = call(&path);
        stream.write_all(nonsense.as_bytes()).unwrap();
        assert!(heard(&stream).contains("error"), "{nonsense:?}");
    }
    let mut endless = call(&path);
    let _ = endless.write_all(&vec![b'x'; 1 << 20]);
    assert_eq!(heard(&endless), "");

    // asking without end and never reading: commands are answered all the same
    let mut floods: Vec<_> = (0..3).map(|_| call(&path)).collect();
    for flood in &mut floods {
        flood.set_nonblocking(true).unwrap();
        let questions = "{\"ask\":\"status\"}\n".repeat(20_000);
        let _ = flood.write(questions.as_bytes());
    }
    for i in 0..10 {
        within(Duration::from_secs(2), "a command during a flood", || {
            publish(&broker, "gw/pump/set", if i % 2 == 0 { "ON" } else { "OFF" }, &[]);
            assert_eq!(all.next("gw/pump/result").json()["outcome"], "done");
        });
    }
    assert_eq!(status(&home)["running"], true);
    drop(floods);
    gateway.stop();
    assert!(!path.exists());
}

#[test]
fn a_queue_at_a_long_path_has_its_socket_too() {
    let home = Home::new("mqtt://127.0.0.1:1", "", "", "");
    let long = home.path(&format!("state/{}/{}", "a".repeat(90), "b".repeat(90)));
    std::fs::create_dir_all(&long).unwrap();
    let text = std::fs::read_to_string(home.file()).unwrap();
    home.write(&text.replace(home.path("state/queue").to_str().unwrap(), long.join("queue").to_str().unwrap()));
    let gateway = home.start();
    status_when(&home, |s| s["running"] == true);
    gateway.stop();
}

#[test]
fn a_sibling_is_another_daemon_and_the_same_directory_by_another_name_is_not() {
    let home = Home::new("mqtt://127.0.0.1:1", "", "", "");
    let text = std::fs::read_to_string(home.file()).unwrap();
    let mut first = home.start();
    status_when(&home, |s| s["running"] == true);
    first.log("runs");
    home.write(&text.replace("state/queue", "state/other"));
    let second = home.start();
    status_when(&home, |s| s["running"] == true);
    symlink(home.path("state"), home.path("way")).unwrap();
    home.write(&text.replace("state/queue", "way/queue"));
    let third = run(&mut home.command(), b"").with(1);
    assert!(third.err.contains(&first.pid().to_string()), "{}", third.err);
    second.kill();
    first.stop();
    // the crash of one is not the other's
    home.write(&text);
    let mut first = home.start();
    first.log("not connected");
    assert!(!first.stop().err.contains("ended abnormally"));
    home.write(&text.replace("state/queue", "state/other"));
    let mut second = home.start();
    second.log("ended abnormally");
    second.stop();
}

#[test]
fn a_disk_that_fails_is_told_and_so_is_its_recovery() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let home = Home::new(&broker.url(), "", "sync: 50ms", "devices: { door: { kind: digital_in, pin: 17 } }\n");
    // the directory is there and cannot be written into
    let (dir, aside) = (home.path("state/queue"), home.path("aside"));
    let mut gateway = home.start();
    gateway.log("not connected");
    std::fs::rename(&dir, &aside).unwrap();
    std::fs::write(&dir, "").unwrap();
    gateway.log("kept in memory only");
    std::fs::remove_file(&dir).unwrap();
    std::fs::rename(&aside, &dir).unwrap();
    gateway.log("the disk works again");
    broker.restart();
    let mut all = Watch::on(&mut broker, "gw/#");
    all.until("gw/bridge/event", |got| {
        let json = got.json();
        json["event"] == "problem" && json["text"].as_str().unwrap().contains("kept in memory only")
    });
    gateway.stop();
}
