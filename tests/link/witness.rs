//! Several wills: one of each connection's own, others kept by witnesses; and connections that the owner leaves.

use std::sync::Arc;
use std::time::Duration;

use super::link_outbox::{Memory, PATIENCE, Running, config, message};
use super::mosquitto::Mosquitto;
use super::observer::Observer;
use super::scripted_broker::{Broker, Script};
use pinpost::link::{LinkConfig, Protocol};

const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V311];

async fn saw(observer: &Observer, payload: &str) {
    let seen = tokio::time::timeout(PATIENCE, observer.saw(payload)).await;
    assert!(seen.is_ok(), "{payload} never came; there was {:?}", observer.seen.lock().unwrap());
}

fn with_wills(url: &str, protocol: Protocol) -> LinkConfig {
    LinkConfig {
        will_of: Some(Arc::new(|n| message("t", format!("death {n}")))),
        beside: vec![message("t", "offline"), message("t", "lost")],
        ..config(url, protocol)
    }
}

#[tokio::test]
async fn every_will_is_kept_and_an_orderly_end_says_only_the_connections_own() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let observer = Observer::new();
        let _reader = observer.attach(broker.port);
        let mut link = Running::start(with_wills(&broker.url(), protocol), Memory::new());
        link.up().await;
        link.abort().await;
        for will in ["death 1", "offline", "lost"] {
            saw(&observer, will).await;
        }
        observer.seen.lock().unwrap().clear();
        let mut link = Running::start(with_wills(&broker.url(), protocol), Memory::new());
        link.up().await;
        link.stop(vec![message("t", "bye")]).await;
        saw(&observer, "bye").await;
        // whatever a will would have said is said before a later client is heard
        let outbox = Memory::new();
        outbox.add(message("t", "later"));
        let mut later = Running::start(config(&broker.url(), protocol), outbox);
        later.drained().await;
        saw(&observer, "later").await;
        assert_eq!(*observer.seen.lock().unwrap(), ["death 1", "bye", "later"]);
        later.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_left_says_its_own_word_and_the_next_has_the_next_number() {
    for protocol in BOTH {
        let broker = Mosquitto::started("", None);
        let observer = Observer::new();
        let _reader = observer.attach(broker.port);
        let mut link = Running::start(with_wills(&broker.url(), protocol), Memory::new());
        link.up().await;
        link.handle.leave(1, "the owner wants it so".into());
        assert_eq!(link.down().await, "the owner wants it so");
        link.up().await;
        // one that is gone is not left again
        link.handle.leave(1, "late".into());
        link.handle.leave(2, "once more".into());
        assert_eq!(link.down().await, "once more");
        link.up().await;
        link.stop(vec![]).await;
        saw(&observer, "death 3").await;
        assert_eq!(*observer.seen.lock().unwrap(), ["death 1", "death 2", "death 3"]);
    }
}

#[tokio::test]
async fn a_witness_that_is_refused_costs_its_will_and_one_that_is_lost_the_connection() {
    for protocol in BOTH {
        let refuses = Script { code: Some(if protocol == Protocol::V5 { 0x85 } else { 2 }), ..Script::default() };
        let broker = Broker::start(protocol, vec![refuses]).await;
        let mut link = Running::start(with_wills(&broker.url(), protocol), Memory::new());
        let problem = link.problem().await;
        assert!(problem.contains("-w1 not in") && problem.contains("on t"), "{problem}");
        link.up().await;
        link.stop(vec![]).await;

        // the witness's connection is cut while the first lives
        let cut = Script {
            then: vec![
                super::scripted_broker::Act::Wait(Duration::from_millis(300)),
                super::scripted_broker::Act::Close,
            ],
            ..Script::default()
        };
        let broker = Broker::start(protocol, vec![cut]).await;
        let mut link = Running::start(with_wills(&broker.url(), protocol), Memory::new());
        link.up().await;
        let reason = link.down().await;
        assert!(reason.contains("the connection of a second will"), "{reason}");
        link.up().await;
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_stop_while_a_broker_keeps_a_witness_waiting_ends_at_once() {
    let broker = Broker::start(Protocol::V5, vec![Script { code: None, ..Script::default() }]).await;
    let link = Running::start(with_wills(&broker.url(), Protocol::V5), Memory::new());
    broker.until(|log| log.connections == 1).await;
    let begun = std::time::Instant::now();
    link.stop(vec![]).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
