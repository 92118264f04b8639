//! A network that fails at every single byte, between the link and a real mosquitto: cut, reset, half-open, garbage,
//! slow. Everything arrives, first arrivals are in order, and the link recovers by itself each time.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::fault_proxy::{Fault, FaultProxy, Harm};
use super::link_outbox::{Memory, PATIENCE, Running, config, message};
use super::mosquitto::Mosquitto;
use super::observer::Observer;
use pinpost::link::{LinkEvent, Protocol, Subscription};
use pinpost::model::{Message, Qos};

const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V311];
/// Bytes from the client: CONNECT (at most 70), SUBSCRIBE, hello and the first five publishes.
const UP: usize = 170;
/// Bytes from the broker: CONNACK (at most 13), SUBACK and the first five PUBACKs.
const DOWN: usize = 40;
/// A connection in which at least four records are answered before it is cut: what the broker took is taken, and no
/// record is suspected to end connections.
const GOOD: Fault = Fault { up: None, down: Some((60, Harm::Close)), delay: Duration::ZERO, piece: 0 };

/// Plays the faults, one connection each, while records flow.
async fn survives(protocol: Protocol, qos: Qos, faults: Vec<Fault>) {
    let broker = Mosquitto::started("", None);
    let observer = Observer::new();
    let _reader = observer.attach(broker.port);
    let connections = faults.len();
    let mut proxy = FaultProxy::to(broker.port, faults).await;
    let mut config = config(&format!("mqtt://127.0.0.1:{}", proxy.port), protocol);
    config.in_flight = 8;
    config.patience.connect = Duration::from_millis(400);
    config.patience.answers = Duration::from_millis(400);
    config.patience.retry = Duration::from_micros(200);
    config.hello = vec![message("hello", "hello")];
    config.subscriptions = vec![Subscription { filter: "cmd/#".into(), qos: Qos::AtLeastOnce }];
    let outbox = Memory::new();
    // Enough for each to have something to harm.
    let count = 20 * connections + 100;
    for n in 0..count {
        outbox.add(Message { qos, ..message("t", n.to_string()) });
    }
    let mut link = Running::start(config, outbox.clone());
    let played = tokio::time::timeout(4 * PATIENCE, async {
        while *proxy.connections.borrow() <= connections {
            tokio::select! {
                event = link.events.recv() => link.seen.push(event.expect("the link ended")),
                _ = proxy.connections.changed() => {}
            }
        }
    });
    if played.await.is_err() {
        panic!("stuck at connection {}; seen: {:#?}", *proxy.connections.borrow(), link.seen);
    }
    link.drained().await;
    let said = link.stop(vec![]).await;
    let panicked = |e: &LinkEvent| matches!(e, LinkEvent::Down { reason, .. } if reason.contains("unexpectedly"));
    assert!(!said.iter().any(panicked), "{said:#?}");
    assert_eq!(outbox.dead(), []);
    let seen = observer.seen.lock().unwrap().clone();
    let mut known = HashSet::new();
    let first: Vec<usize> = seen.iter().filter_map(|p| p.parse().ok()).filter(|n| known.insert(*n)).collect();
    assert_eq!(first, (0..count).collect::<Vec<_>>(), "each arrives, and first arrivals are in order");
    let mut done: Vec<usize> = outbox.done_payloads().iter().map(|n| n.parse().unwrap()).collect();
    done.sort();
    assert_eq!(done, (0..count).collect::<Vec<_>>(), "each is done once");
}

/// A fault at every byte of each direction, and a good connection behind each.
fn everywhere(harm: Harm, up: impl Iterator<Item = usize>, down: impl Iterator<Item = usize>) -> Vec<Fault> {
    let up = up.map(|at| Fault { up: Some((at, harm)), ..Fault::default() });
    let down = down.map(|at| Fault { down: Some((at, harm)), ..Fault::default() });
    up.chain(down).flat_map(|fault| [fault, GOOD]).collect()
}

async fn all(cases: Vec<(Qos, Vec<Fault>)>) {
    let mut running = JoinSet::new();
    for protocol in BOTH {
        for (qos, faults) in cases.clone() {
            running.spawn(survives(protocol, qos, faults));
        }
    }
    running.join_all().await;
}

#[tokio::test]
async fn a_connection_closed_at_every_byte_loses_nothing() {
    all(vec![(Qos::AtLeastOnce, everywhere(Harm::Close, 0..UP, 0..DOWN))]).await;
}

#[tokio::test]
async fn a_connection_reset_at_every_byte_loses_nothing() {
    all(vec![(Qos::AtLeastOnce, everywhere(Harm::Reset, 0..UP, 0..DOWN))]).await;
}

#[tokio::test]
async fn a_connection_closed_at_every_byte_loses_nothing_at_qos_2() {
    all(vec![(Qos::ExactlyOnce, everywhere(Harm::Close, (0..UP).step_by(3), 0..DOWN))]).await;
}

#[tokio::test]
async fn a_connection_that_goes_dead_at_any_byte_is_left_and_nothing_is_lost() {
    // Each takes its 400 ms: so not every byte.
    all(vec![(Qos::AtLeastOnce, everywhere(Harm::Swallow, (0..UP).step_by(9), (0..DOWN).step_by(3)))]).await;
}

#[tokio::test]
async fn garbage_from_the_broker_at_every_byte_loses_nothing() {
    all(vec![(Qos::AtLeastOnce, everywhere(Harm::Garble, 0..0, 0..DOWN))]).await;
}

#[tokio::test]
async fn delays_and_a_slow_drip_of_bytes_lose_nothing() {
    let slow = Fault { delay: Duration::from_millis(20), down: GOOD.down, ..Fault::default() };
    let drip = Fault { delay: Duration::from_micros(300), piece: 1, down: GOOD.down, ..Fault::default() };
    all(vec![(Qos::AtLeastOnce, vec![slow, drip, slow, drip]), (Qos::ExactlyOnce, vec![slow, drip, slow, drip])]).await;
}
