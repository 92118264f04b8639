//! The link against a real mosquitto: nothing acknowledged is lost, nothing acknowledged twice by mistake, whatever
//! happens to the broker.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::link_outbox::{Memory, PATIENCE, Running, config, message};
use super::mosquitto::{Mosquitto, free_port};
use super::observer::{Gate, Observer};
use pinpost::link::{LinkEvent, Protocol, Subscription};
use pinpost::model::{Message, Properties, Qos};

const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V311];

fn subscription(filter: &str) -> Vec<Subscription> {
    vec![Subscription { filter: filter.into(), qos: Qos::AtLeastOnce }]
}

async fn ten_thousand_while_the_broker_dies(protocol: Protocol) {
    const COUNT: usize = 10_000;
    let mut broker = Mosquitto::started("", None);
    let observer = Observer::new();
    let mut reader = observer.attach(broker.port);
    let gate = Gate::new(broker.port).await;
    gate.open.send_replace(true);
    let outbox = Memory::new();
    let mut link = Running::start(config(&format!("mqtt://127.0.0.1:{}", gate.port), protocol), outbox.clone());
    for n in 0..COUNT {
        outbox.add(message(&format!("t/{}", n % 7), n.to_string()));
    }
    for part in 1..=4 {
        let reached = observer.reached(part * COUNT / 6);
        tokio::pin!(reached);
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                () = &mut reached => break,
                event = link.events.recv() => link.seen.push(event.unwrap()),
                () = tokio::time::sleep_until(until) => panic!("stalled; seen: {:#?}", link.seen),
            }
        }
        gate.open.send_replace(false);
        broker.kill();
        reader.join().unwrap();
        broker.start();
        reader = observer.attach(broker.port);
        gate.open.send_replace(true);
    }
    link.drained().await;
    link.stop(vec![]).await;
    broker.kill();
    reader.join().unwrap();

    let arrived: Vec<usize> = observer.seen.lock().unwrap().iter().map(|p| p.parse().unwrap()).collect();
    let mut known = HashSet::new();
    let first: Vec<usize> = arrived.iter().copied().filter(|n| known.insert(*n)).collect();
    assert_eq!(first, (0..COUNT).collect::<Vec<_>>(), "each arrives, and first arrivals are in order");
    assert_eq!(outbox.done_payloads().len(), COUNT);
    assert!(outbox.dead().is_empty());
    // Twice is only what was on its way when the broker died.
    assert!(arrived.len() - COUNT <= 4 * 64, "{} duplicates", arrived.len() - COUNT);
}

#[tokio::test]
async fn ten_thousand_messages_arrive_in_order_while_the_broker_is_killed_four_times() {
    ten_thousand_while_the_broker_dies(Protocol::V5).await;
}

#[tokio::test]
async fn the_same_with_mqtt_3_1_1() {
    ten_thousand_while_the_broker_dies(Protocol::V311).await;
}

#[tokio::test]
async fn a_broker_that_comes_later_gets_everything() {
    for protocol in BOTH {
        let mut broker = Mosquitto::prepared("", None);
        let outbox = Memory::new();
        outbox.add(message("t", "waiting"));
        let mut link = Running::start(config(&broker.url(), protocol), outbox.clone());
        let reason = link.down().await;
        assert!(reason.contains("nothing listens"), "{reason}");
        broker.start();
        assert!(!link.up().await);
        link.drained().await;
        assert_eq!(outbox.done_payloads(), ["waiting"]);
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn the_second_url_serves_while_the_first_is_dead() {
    let broker = Mosquitto::started("", None);
    let mut config = config(&format!("mqtt://127.0.0.1:{}", free_port()), Protocol::V5);
    config.urls.push(broker.url().parse().unwrap());
    let mut link = Running::start(config, Memory::new());
    let pause = link
        .wait(|e| match e {
            LinkEvent::Down { retry_in, .. } => Some(*retry_in),
            _ => None,
        })
        .await;
    assert!(pause.is_zero(), "the second is tried without a pause");
    let url = link
        .wait(|e| match e {
            LinkEvent::Up { url, .. } => Some(url.clone()),
            _ => None,
        })
        .await;
    assert_eq!(url, broker.url());
    link.stop(vec![]).await;
}

#[tokio::test]
async fn a_frozen_broker_is_noticed_by_its_silence() {
    let mut cases = JoinSet::new();
    for (protocol, keep_alive) in [(Protocol::V311, 2), (Protocol::V5, 5)] {
        cases.spawn(async move {
            let broker = Mosquitto::started("", None);
            let mut config = config(&broker.url(), protocol);
            config.keep_alive = Duration::from_secs(keep_alive);
            let mut link = Running::start(config, Memory::new());
            link.up().await;
            broker.signal("-STOP");
            let frozen = Instant::now();
            let reason = link.down().await;
            let took = frozen.elapsed().as_secs_f64();
            broker.signal("-CONT");
            assert!(reason.contains("nothing was heard"), "{reason}");
            assert!(took <= keep_alive as f64 * 1.5 + 5.0, "{took}");
            link.up().await;
            link.stop(vec![]).await;
        });
    }
    cases.join_all().await;
}

#[tokio::test]
async fn records_on_their_way_to_a_frozen_broker_are_sent_again() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let outbox = Memory::new();
        let mut config = config(&broker.url(), protocol);
        config.patience.answers = Duration::from_secs(1);
        let mut link = Running::start(config, outbox.clone());
        link.up().await;
        broker.signal("-STOP");
        // More than sockets take, so that the library blocks in the middle of a write.
        for n in 0..100 {
            outbox.add(message("t", format!("{n} {}", "x".repeat(200_000))));
        }
        let reason = link.down().await;
        assert!(reason.contains("acknowledged nothing"), "{reason}");
        broker.signal("-CONT");
        link.drained().await;
        let done = outbox.done_payloads();
        let order: Vec<u32> = done.iter().map(|p| p.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_restarted_broker_is_subscribed_again() {
    for protocol in BOTH {
        let mut broker = Mosquitto::started("", None);
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("cmd/#");
        let mut link = Running::start(config, Memory::new());
        for round in ["one", "two"] {
            assert!(!link.up().await);
            broker.publish(&["-t", "cmd/x", "-m", round, "-q", "1", "-r"]).await;
            let incoming = link.incoming().await;
            assert_eq!((incoming.topic.as_str(), incoming.payload.as_slice()), ("cmd/x", round.as_bytes()));
            assert!(incoming.ack != 0 && !incoming.backlog);
            link.handle.ack(incoming.ack);
            if round == "one" {
                broker.kill();
                link.down().await;
                broker.start();
            }
        }
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn retained_messages_are_seen_as_retained_and_properties_come_through() {
    let broker = Mosquitto::started("", None);
    broker.publish(&["-t", "cmd/old", "-m", "ON", "-q", "1", "-r"]).await;
    let mut config = config(&broker.url(), Protocol::V5);
    config.subscriptions = subscription("cmd/#");
    let outbox = Memory::new();
    let mut link = Running::start(config, outbox.clone());
    let old = link.incoming().await;
    assert!(old.retain && !old.backlog);
    let properties = Properties {
        response_topic: Some("answer/here".into()),
        correlation: Some(vec![0, 255, 7]),
        content_type: Some("text/plain".into()),
        expiry: Some(Duration::from_secs(60)),
        user: vec![("time".into(), "now".into()), ("time".into(), "again".into())],
    };
    // Retain as published: a live message keeps its flag.
    outbox.add(Message { properties: properties.clone(), retain: true, ..message("cmd/new", "x") });
    let new = link.incoming().await;
    assert!(new.retain);
    assert_eq!(new.properties, properties);
    link.stop(vec![]).await;
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_and_what_was_does_not() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("cmd/#");
        config.session_expiry = Duration::from_secs(60);
        let mut link = Running::start(config.clone(), Memory::new());
        assert!(!link.up().await);
        for payload in ["a", "b", "c"] {
            broker.publish(&["-t", "cmd/x", "-m", payload, "-q", "1"]).await;
        }
        let mut stale = Vec::new();
        for expected in ["a", "b", "c"] {
            let incoming = link.incoming().await;
            assert_eq!(incoming.payload, expected.as_bytes());
            match expected {
                "a" => link.handle.ack(incoming.ack),
                _ => stale.push(incoming.ack),
            }
        }
        link.stop(vec![]).await;
        let mut link = Running::start(config, Memory::new());
        assert!(link.up().await, "the session was kept");
        for expected in ["b", "c"] {
            let incoming = link.incoming().await;
            assert_eq!(incoming.payload, expected.as_bytes());
            assert!(incoming.dup && incoming.backlog);
            link.handle.ack(incoming.ack);
        }
        broker.publish(&["-t", "cmd/x", "-m", "d", "-q", "1"]).await;
        assert_eq!(link.incoming().await.payload, b"d");
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn what_the_broker_stored_while_we_were_away_is_marked_to_the_last_and_live_messages_are_not() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("cmd/#");
        config.session_expiry = Duration::from_secs(60);
        let mut link = Running::start(config.clone(), Memory::new());
        link.up().await;
        link.stop(vec![]).await;
        // More than the broker sends before it wants an acknowledgement.
        let lines = (0..100).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        broker.publish_lines("cmd/x", &lines).await;
        let mut link = Running::start(config, Memory::new());
        for n in 0..100 {
            let incoming = link.incoming().await;
            assert_eq!(incoming.payload, n.to_string().as_bytes());
            assert!(incoming.backlog, "{n}");
            link.handle.ack(incoming.ack);
        }
        // The store is empty when the link has asked and nothing came; from then on messages are live.
        let mut live = None;
        for n in 0..200 {
            broker.publish(&["-t", "cmd/live", "-m", &n.to_string(), "-q", "1"]).await;
            let incoming = link.incoming().await;
            link.handle.ack(incoming.ack);
            if !incoming.backlog {
                live = Some(n);
                break;
            }
        }
        assert!(live.is_some_and(|n| n < 3), "{live:?}");
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_publish_that_the_access_list_denies_is_put_aside_and_the_rest_goes_on() {
    let broker = Mosquitto::started("", Some("topic readwrite allowed/#\n"));
    let outbox = Memory::new();
    for n in 0..50 {
        let topic = if n % 10 == 3 { "denied/x" } else { "allowed/x" };
        outbox.add(message(topic, n.to_string()));
    }
    let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox.clone());
    link.drained().await;
    let dead: Vec<_> = outbox.dead().into_iter().map(|(payload, code, _)| (payload, code)).collect();
    assert_eq!(dead, ["3", "13", "23", "33", "43"].map(|p| (p.to_string(), 0x87)));
    assert_eq!(outbox.done_payloads().len(), 45);
    let seen = link.stop(vec![]).await;
    let refused = seen.iter().filter(
        |e| matches!(e, LinkEvent::Refused { reason_code: 0x87, fatal: true, text, .. } if text.contains("authorised")),
    );
    assert_eq!(refused.count(), 5);
}

#[tokio::test]
async fn a_message_larger_than_the_broker_announced_is_put_aside_before_it_is_sent() {
    let broker = Mosquitto::started("max_packet_size 2000\n", None);
    let outbox = Memory::new();
    outbox.add(message("t", "first"));
    outbox.add(message("t", vec![b'x'; 3000]));
    outbox.add(message("t", "last"));
    let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox.clone());
    link.drained().await;
    assert_eq!(outbox.done_payloads(), ["first", "last"]);
    let (_, code, why) = outbox.dead().remove(0);
    assert_eq!(code, 0x95);
    assert!(why.contains("at most 2000"), "{why}");
    let seen = link.stop(vec![]).await;
    assert!(!seen.iter().any(|e| matches!(e, LinkEvent::Down { .. })), "{seen:#?}");
}

#[tokio::test]
async fn a_message_that_ends_every_connection_is_found_and_put_aside() {
    // mosquitto does not announce this limit; it answers 0x95, which the library cannot read.
    let broker = Mosquitto::started("message_size_limit 2000\n", None);
    let outbox = Memory::new();
    for n in 0..20 {
        outbox.add(message("t", if n == 7 { "x".repeat(3000) } else { n.to_string() }));
    }
    let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox.clone());
    link.drained().await;
    assert_eq!(outbox.done_payloads().len(), 19);
    let dead = outbox.dead();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].0.as_str(), dead[0].1), ("xxxxxxxxxxxxxxxxxxxx", 0x95));
    link.stop(vec![]).await;
}

#[tokio::test]
async fn hello_comes_first_at_every_connection_and_the_will_only_without_a_goodbye() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let observer = Observer::new();
        let reader = observer.attach(broker.port);
        let mut config = config(&broker.url(), protocol);
        let state = |text: &str| Message { retain: true, ..message("p/bridge/state", text) };
        config.will = Some(state("will"));
        config.hello = vec![state("online")];
        let outbox = Memory::new();
        outbox.add(message("p/x", "1"));
        let mut link = Running::start(config.clone(), outbox.clone());
        link.drained().await;
        link.stop(vec![state("offline")]).await;
        observer.reached(3).await;
        assert_eq!(*observer.seen.lock().unwrap(), ["online", "1", "offline"]);

        let mut link = Running::start(config, Memory::new());
        link.up().await;
        observer.reached(4).await;
        link.abort().await;
        observer.reached(5).await;
        assert_eq!(observer.seen.lock().unwrap()[3..], ["online", "will"]);
        drop(broker);
        reader.join().unwrap();
    }
}

#[tokio::test]
async fn every_qos_is_delivered_and_done() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let observer = Observer::new();
        let reader = observer.attach(broker.port);
        let outbox = Memory::new();
        for n in 0..300 {
            let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][n % 3];
            outbox.add(Message { qos, ..message("t", n.to_string()) });
        }
        let mut link = Running::start(config(&broker.url(), protocol), outbox.clone());
        link.drained().await;
        observer.reached(300).await;
        // At QoS 2 mosquitto passes a message on when it is released, later than its neighbours.
        let mut all: Vec<usize> = observer.seen.lock().unwrap().iter().map(|p| p.parse().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>());
        assert_eq!(outbox.done_payloads().len(), 300);
        link.stop(vec![]).await;
        drop(broker);
        reader.join().unwrap();
    }
}

#[tokio::test]
async fn messages_of_qos_2_come_in_once_and_are_acknowledged() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = vec![Subscription { filter: "cmd/#".into(), qos: Qos::ExactlyOnce }];
        config.session_expiry = Duration::from_secs(60);
        let mut link = Running::start(config.clone(), Memory::new());
        link.up().await;
        for n in 0..5 {
            broker.publish(&["-t", "cmd/x", "-m", &n.to_string(), "-q", "2"]).await;
            let incoming = link.incoming().await;
            assert_eq!(incoming.payload, n.to_string().as_bytes());
            link.handle.ack(incoming.ack);
        }
        // The last PUBREC may be answered in the next connection only: that must not end it.
        link.stop(vec![]).await;
        let mut link = Running::start(config, Memory::new());
        assert!(link.up().await);
        broker.publish(&["-t", "cmd/x", "-m", "new", "-q", "2"]).await;
        assert_eq!(link.incoming().await.payload, b"new");
        let seen = link.stop(vec![]).await;
        assert!(!seen.iter().any(|e| matches!(e, LinkEvent::Down { .. })));
    }
}

#[tokio::test]
async fn a_second_client_with_our_id_is_named_and_given_way_to() {
    let broker = Mosquitto::started("", None);
    let mut config = config(&broker.url(), Protocol::V5);
    config.client_id = "twin".into();
    let mut first = Running::start(config.clone(), Memory::new());
    first.up().await;
    let mut second = Running::start(config, Memory::new());
    second.up().await;
    // mosquitto says why it closes in the short form that rumqttc does not understand; so the two fight until one sees
    // the pattern.
    let wait = loop {
        let down = |e: &LinkEvent| match e {
            LinkEvent::Down { reason, retry_in, .. } => Some((reason.clone(), *retry_in)),
            _ => None,
        };
        let (reason, wait) = tokio::select! {
            down = first.wait(down) => down,
            down = second.wait(down) => down,
        };
        if reason.contains("another client uses the id twin") {
            break wait;
        }
    };
    assert!(wait >= Duration::from_secs(4), "{wait:?}");
    second.stop(vec![]).await;
    first.stop(vec![]).await;
}

#[tokio::test]
async fn a_refused_login_is_explained_without_the_password() {
    for protocol in BOTH {
        let broker = Mosquitto::started("allow_anonymous false\n", None);
        let mut config = config(&broker.url(), protocol);
        config.login = Some(("joe".into(), "CANARY".into()));
        assert!(!format!("{config:?}").contains("CANARY"));
        let mut link = Running::start(config, Memory::new());
        let reason = link.down().await;
        assert!(reason.contains("not authorised") || reason.contains("password"), "{reason}");
        let seen = link.stop(vec![]).await;
        assert!(!format!("{seen:?}").contains("CANARY"));
    }
}

#[tokio::test]
async fn a_stop_while_nobody_answers_ends_at_once() {
    let mut link = Running::start(config(&format!("mqtt://127.0.0.1:{}", free_port()), Protocol::V5), Memory::new());
    link.down().await;
    let begun = Instant::now();
    link.stop(vec![message("t", "farewell")]).await;
    assert!(begun.elapsed() < Duration::from_secs(4));
}
