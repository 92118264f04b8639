//! A list of brokers: fail-over, and the way back to the first.

use std::time::Duration;

use super::link_outbox::{Memory, Running, config, message};
use super::mosquitto::Mosquitto;
use super::observer::Observer;
use super::scripted_broker::{Broker, Script};
use pinpost::link::{LinkEvent, Protocol};

const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V311];

async fn up_at(link: &mut Running) -> String {
    link.wait(|e| match e {
        LinkEvent::Up { url, .. } => Some(url.clone()),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn the_first_broker_is_returned_to_when_it_answers_again_and_nothing_is_lost() {
    for protocol in BOTH {
        let mut first = Mosquitto::prepared("", None);
        let second = Mosquitto::started("", None);
        let observer = Observer::new();
        let _reader = observer.attach(second.port);
        let mut config = config(&first.url(), protocol);
        config.urls.push(second.url().parse().unwrap());
        config.patience.preferred = Duration::from_millis(50);
        config.will = Some(message("t", "offline"));
        let outbox = Memory::new();
        let mut link = Running::start(config, outbox.clone());
        assert_eq!(up_at(&mut link).await, second.url());
        // Looks that find nobody change nothing.
        for n in 0..500 {
            outbox.add(message("t", n.to_string()));
        }
        observer.reached(500).await;
        first.start();
        for n in 500..1000 {
            outbox.add(message("t", n.to_string()));
        }
        let reason = link.down().await;
        assert!(reason.contains("first broker"), "{reason}");
        assert_eq!(up_at(&mut link).await, first.url());
        for n in 1000..1100 {
            outbox.add(message("t", n.to_string()));
        }
        link.drained().await;
        let mut done: Vec<usize> = outbox.done_payloads().iter().map(|n| n.parse().unwrap()).collect();
        done.sort();
        assert_eq!(done, (0..1100).collect::<Vec<_>>());
        // The broker that was left tells its clients.
        observer.saw("offline").await;
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_first_broker_that_lets_only_strangers_in_costs_a_moment_and_ever_more_seldom() {
    for protocol in BOTH {
        // It is away at first; then it lets each look in, and refuses us.
        let refuses = || Script { code: Some(if protocol == Protocol::V5 { 0x87 } else { 5 }), ..Script::default() };
        let scripts = vec![refuses(), Script::default(), refuses(), Script::default(), refuses(), Script::default()];
        let first = Broker::start(protocol, scripts).await;
        let second = Broker::start(protocol, vec![]).await;
        let mut config = config(&first.url(), protocol);
        config.urls.push(second.url().parse().unwrap());
        config.patience.preferred = Duration::from_millis(50);
        let outbox = Memory::new();
        let mut link = Running::start(config, outbox.clone());
        for round in 0..3 {
            assert_eq!(up_at(&mut link).await, second.url());
            for n in 0..50 {
                outbox.add(message("t", (round * 50 + n).to_string()));
            }
        }
        link.drained().await;
        assert_eq!(outbox.done_payloads().len(), 150);
        assert_eq!(second.first_arrivals(), (0..150).map(|n| n.to_string()).collect::<Vec<_>>());
        assert!(first.log.lock().unwrap().published.is_empty());
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_broker_that_is_only_busy_is_not_returned_to() {
    for protocol in BOTH {
        let busy = || Script { code: Some(if protocol == Protocol::V5 { 0x89 } else { 3 }), ..Script::default() };
        let first = Broker::start(protocol, (0..1000).map(|_| busy()).collect()).await;
        let second = Broker::start(protocol, vec![]).await;
        let mut config = config(&first.url(), protocol);
        config.urls.push(second.url().parse().unwrap());
        config.patience.preferred = Duration::from_millis(10);
        let mut link = Running::start(config, Memory::new());
        assert_eq!(up_at(&mut link).await, second.url());
        first.until(|log| log.connections >= 10).await;
        assert_eq!(second.log.lock().unwrap().connections, 1);
        link.stop(vec![]).await;
    }
}
