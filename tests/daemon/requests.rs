//! Ten thousand MQTT 5 requests while readings flow: each answered exactly once, to whom it asked for, with its
//! correlation.

use std::collections::HashMap;
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

use crate::support::gateway::{Home, Pty, Watch, publish};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::PATIENCE;

const REQUESTS: usize = 10_000;
/// Unanswered at a time.
const AHEAD: usize = 32;
const READINGS_A_SECOND: u32 = 1000;

/// Sends the requests, `AHEAD` unanswered at a time; gives the answers by their correlation.
async fn ask(port: u16) -> HashMap<usize, Vec<String>> {
    let mut options = MqttOptions::new("asker", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 2 * AHEAD);
    client.subscribe("me/answers", QoS::AtLeastOnce).await.unwrap();
    let mut answers: HashMap<usize, Vec<String>> = HashMap::new();
    let (mut asked, mut answered) = (0, 0);
    let until = tokio::time::Instant::now() + 2 * PATIENCE;
    let mut subscribed = false;
    // Behind the last one: a moment in which a second answer to one of them would come.
    let mut closing = None;
    while closing.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(500)) {
        while subscribed && asked < REQUESTS && asked - answered < AHEAD {
            let properties = PublishProperties {
                response_topic: Some("me/answers".into()),
                correlation_data: Some(asked.to_string().into()),
                ..PublishProperties::default()
            };
            client
                .try_publish_with_properties("gw/pump/set", QoS::AtLeastOnce, false, "TOGGLE", properties)
                .expect("the channel holds twice as many");
            asked += 1;
        }
        let wait = if closing.is_some() { Duration::from_millis(100) } else { 2 * PATIENCE };
        let event = match tokio::time::timeout(wait, events.poll()).await {
            Ok(event) => event.unwrap(),
            Err(_) if closing.is_some() => continue,
            Err(_) => panic!("{answered} of {asked} answered"),
        };
        match event {
            Event::Incoming(Packet::SubAck(_)) => subscribed = true,
            Event::Incoming(Packet::Publish(answer)) => {
                let correlation = answer.properties.and_then(|p| p.correlation_data).expect("the correlation");
                let n: usize = String::from_utf8_lossy(&correlation).parse().unwrap();
                answers.entry(n).or_default().push(String::from_utf8_lossy(&answer.payload).into_owned());
                answered = answers.len();
            }
            _ => {}
        }
        assert!(tokio::time::Instant::now() < until, "{answered} of {asked} answered");
        if answered == REQUESTS && closing.is_none() {
            closing = Some(Instant::now());
        }
    }
    answers
}

#[test]
fn ten_thousand_requests_are_each_answered_once_while_readings_flow() {
    let mut broker = Mosquitto::with(|port, _| {
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n")
    });
    let home = Home::simple(&broker, "");
    let mut pty = Pty::new(home.path("port"));
    let rest = format!(
        "ports: {{ p: {{ path: {} }} }}
devices:
  probe: {{ kind: serial, port: p, decode: {{ type: keyvalue }}, points: {{ n: {{ field: N }} }} }}
  pump: {{ kind: digital_out, pin: 27 }}
",
        pty.name().display()
    );
    home.write(&(std::fs::read_to_string(home.file()).unwrap() + &rest));
    let mut all = Watch::on(&mut broker, "gw/+/availability");
    let mut probe = Watch::on(&mut broker, "gw/probe");
    let gateway = home.start();
    all.until_payload("gw/probe/availability", "online");
    all.until_payload("gw/pump/availability", "online");

    let (stop, stopped) = mpsc::channel::<()>();
    let readings = thread::spawn(move || {
        let began = Instant::now();
        let mut count = 0;
        pty.write(b"\n");
        while stopped.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let mut lines = Vec::new();
            // as many as are due by now
            while began.elapsed() >= count * Duration::from_secs(1) / READINGS_A_SECOND {
                writeln!(lines, "N={count}").unwrap();
                count += 1;
            }
            pty.write(&lines);
        }
        (count, pty)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers = runtime.block_on(ask(broker.port()));
    drop(stop);
    let (count, _pty) = readings.join().unwrap();

    assert_eq!(answers.len(), REQUESTS);
    for (n, answers) in &answers {
        assert_eq!(answers.len(), 1, "request {n}: {answers:?}");
        assert!(answers[0].contains("\"done\""), "request {n}: {answers:?}");
    }
    for n in 0..count {
        probe.expect("gw/probe", &n.to_string());
    }
    println!("{REQUESTS} requests, {count} readings meanwhile");
    gateway.stop();
}

#[test]
fn a_request_that_nobody_knows_is_told_what_there_is_and_health_says_its_type() {
    let mut broker = Mosquitto::start();
    let home = Home::simple(&broker, "");
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.start();
    all.until_payload("gw/bridge/state", "online");
    let health = all.next("gw/bridge/health");
    assert_eq!(health.properties["content-type"], "application/json", "{health:?}");
    gateway.log("connected");
    publish(&broker, "gw/bridge/request/reboot", "{\"transaction\":7}", &[]);
    let answer = all.next("gw/bridge/response/reboot").json();
    assert_eq!((&answer["outcome"], &answer["transaction"]), (&"rejected".into(), &7.into()));
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.contains("reboot") && reason.contains("health") && reason.contains("reload"), "{reason}");
    gateway.stop();
}
