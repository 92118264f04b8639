//! The link against a broker that misbehaves on command, in MQTT 5 and 3.1.1: nothing is lost, nothing is taken for
//! delivered that was not, the link always comes back, and it says what is wrong.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::link_outbox::{Memory, Running, config, message};
use super::scripted_broker::{Act, Broker, Script, framed, publish};
use pinpost::link::{LinkEvent, Protocol, Subscription};
use pinpost::model::{Message, Qos};

const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V311];

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}
fn filled(count: usize) -> std::sync::Arc<Memory> {
    let outbox = Memory::new();
    for n in numbers(0..count) {
        outbox.add(message("t", n));
    }
    outbox
}
fn subscription(filter: &str, qos: Qos) -> Vec<Subscription> {
    vec![Subscription { filter: filter.into(), qos }]
}
fn was_down(events: &[LinkEvent]) -> bool {
    events.iter().any(|e| matches!(e, LinkEvent::Down { .. }))
}

/// All of `count` records are done, first arrivals are in order, the client kept the protocol.
async fn all_arrive(
    protocol: Protocol,
    scripts: Vec<Script>,
    count: usize,
    in_flight: u16,
) -> (Broker, Vec<LinkEvent>) {
    let broker = Broker::start(protocol, scripts).await;
    let outbox = filled(count);
    let mut config = config(&broker.url(), protocol);
    config.in_flight = in_flight;
    config.patience.answers = Duration::from_millis(500);
    let mut link = Running::start(config, outbox.clone());
    link.drained().await;
    assert_eq!(broker.first_arrivals(), numbers(0..count));
    let mut done = outbox.done_payloads();
    done.sort_by_key(|n| n.parse::<usize>().unwrap());
    assert_eq!(done, numbers(0..count), "each is done once");
    assert_eq!(outbox.dead(), []);
    assert_eq!(broker.log.lock().unwrap().breaches, Vec::<String>::new());
    let seen = link.stop(vec![]).await;
    (broker, seen)
}

#[tokio::test]
async fn refusals_are_explained_and_cost_nothing() {
    let mut cases = JoinSet::new();
    for (protocol, code, word) in [
        (Protocol::V5, 0x86, "wrong user name or password"),
        (Protocol::V5, 0x87, "not authorised"),
        (Protocol::V5, 0x85, "client id"),
        (Protocol::V5, 0x88, "not available"),
        (Protocol::V5, 0x8A, "banned"),
        (Protocol::V5, 0xEE, "0xEE"),
        (Protocol::V311, 4, "wrong user name or password"),
        (Protocol::V311, 5, "not authorised"),
        (Protocol::V311, 2, "client id"),
        (Protocol::V311, 3, "not available"),
    ] {
        cases.spawn(async move {
            let (_, seen) = all_arrive(protocol, vec![Script { code: Some(code), ..Script::default() }], 5, 8).await;
            let LinkEvent::Down { reason, was_up: false, .. } = &seen[0] else { panic!("{seen:?}") };
            assert!(reason.contains(word), "{reason}");
        });
    }
    cases.join_all().await;
}

#[tokio::test]
async fn a_broker_that_never_answers_the_connect_is_left() {
    for protocol in BOTH {
        let broker = Broker::start(protocol, vec![Script { code: None, ..Script::default() }]).await;
        let mut config = config(&broker.url(), protocol);
        config.patience.connect = Duration::from_millis(200);
        let mut link = Running::start(config, Memory::new());
        assert!(link.down().await.contains("no answer within"));
        link.up().await;
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn an_old_broker_is_recognised_as_such() {
    // A 3.1.1 broker answers an MQTT 5 client with code 1 and hangs up.
    let broker = Broker::start(Protocol::V311, vec![Script { code: Some(1), ..Script::default() }]).await;
    let mut link = Running::start(config(&broker.url(), Protocol::V5), Memory::new());
    let reason = link.down().await;
    assert!(reason.contains("3.1.1"), "{reason}");
    link.stop(vec![]).await;
}

#[tokio::test]
async fn a_broker_that_acknowledges_nothing_is_left_and_gets_everything_again() {
    for protocol in BOTH {
        let (broker, seen) = all_arrive(protocol, vec![Script::publish(|_, _| vec![])], 20, 8).await;
        assert!(
            seen.iter().any(|e| matches!(e, LinkEvent::Down { reason, .. } if reason.contains("acknowledged nothing")))
        );
        assert_eq!(broker.payloads(1), numbers(0..8), "no more than the window");
        assert_eq!(broker.payloads(2), numbers(0..20));
    }
}

#[tokio::test]
async fn a_slow_broker_is_not_left() {
    for protocol in BOTH {
        let slow = Script::publish(|_, seen| vec![Act::Wait(Duration::from_millis(60)), Act::Ack(seen.id, 0)]);
        let (_, seen) = all_arrive(protocol, vec![slow], 20, 8).await;
        assert!(!was_down(&seen), "{seen:?}");
    }
}

#[tokio::test]
async fn answers_in_any_order_count_for_the_right_record() {
    for protocol in BOTH {
        let mut held = Vec::new();
        let backwards = Script::publish(move |_, seen| {
            held.push(seen.id);
            match held.len() {
                8 => held.drain(..).rev().map(|id| Act::Ack(id, 0)).collect(),
                _ => vec![],
            }
        });
        let (_, seen) = all_arrive(protocol, vec![backwards], 400, 8).await;
        assert!(!was_down(&seen), "{seen:?}");
    }
}

#[tokio::test]
async fn an_id_that_is_never_answered_holds_the_window_and_not_the_link() {
    for protocol in BOTH {
        // All but the first are answered: ids would come round to it.
        let script = Script::publish(|n, seen| if n == 1 { vec![] } else { vec![Act::Ack(seen.id, 0)] });
        let (broker, _) = all_arrive(protocol, vec![script], 100, 4).await;
        assert_eq!(broker.payloads(1), numbers(0..8), "twice the window from the oldest, then it waits");
        assert_eq!(broker.payloads(2).first().unwrap(), "0");
        assert!(!broker.payloads(2).contains(&"3".to_string()), "what was answered is not sent again");
    }
}

#[tokio::test]
async fn answers_right_before_the_end_are_believed_and_the_others_sent_again() {
    for protocol in BOTH {
        let mut ids = Vec::new();
        let script = Script::publish(move |n, seen| {
            ids.push(seen.id);
            match n {
                8 => ids[..5].iter().map(|id| Act::Ack(*id, 0)).chain([Act::Close]).collect(),
                _ => vec![],
            }
        });
        let (broker, _) = all_arrive(protocol, vec![script], 30, 8).await;
        assert_eq!(broker.payloads(2), numbers(5..30));
    }
}

#[tokio::test]
async fn a_broker_that_closes_after_every_tenth_message_still_gets_all_in_order() {
    for protocol in BOTH {
        let script = || Script::publish(|n, seen| if n == 10 { vec![Act::Close] } else { vec![Act::Ack(seen.id, 0)] });
        let (broker, _) = all_arrive(protocol, vec![script(), script()], 60, 16).await;
        assert_eq!(broker.log.lock().unwrap().connections, 3);
    }
}

#[tokio::test]
async fn an_answer_given_twice_or_to_nothing_is_no_delivery() {
    for protocol in BOTH {
        let twice = Script::publish(|n, seen| {
            let again = if n == 5 { vec![Act::Ack(seen.id, 0); 2] } else { vec![Act::Ack(seen.id, 0)] };
            again.into_iter().collect()
        });
        let nothing =
            Script::publish(|n, seen| if n == 5 { vec![Act::Ack(15, 0)] } else { vec![Act::Ack(seen.id, 0)] });
        let (broker, _) = all_arrive(protocol, vec![twice, nothing], 40, 8).await;
        assert_eq!(broker.log.lock().unwrap().connections, 3);
    }
}

#[tokio::test]
async fn garbage_ends_the_connection_and_not_the_link() {
    let mut cases = JoinSet::new();
    for protocol in BOTH {
        for garbage in [
            vec![0xFF; 64],
            vec![0x00; 8],
            vec![0x40, 0x01, 0x00],
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            vec![0x32, 2, 0, 9],
        ] {
            cases.spawn(async move {
                let script = Script::then(vec![Act::Bytes(garbage), Act::Close]);
                let (_, seen) = all_arrive(protocol, vec![script], 10, 8).await;
                assert!(was_down(&seen));
            });
        }
    }
    cases.join_all().await;
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_within_one_and_a_half_keep_alives() {
    let mut cases = JoinSet::new();
    for (protocol, keep_alive) in [(Protocol::V311, 2), (Protocol::V5, 5)] {
        cases.spawn(async move {
            let broker = Broker::start(protocol, vec![Script::then(vec![Act::Freeze])]).await;
            let mut config = config(&broker.url(), protocol);
            config.keep_alive = Duration::from_secs(keep_alive);
            let outbox = Memory::new();
            let mut link = Running::start(config, outbox.clone());
            link.up().await;
            let begun = Instant::now();
            // QoS 0 until the socket is full: no answer is due, and the library hangs in its write.
            for _ in 0..100 {
                outbox.add(Message { qos: Qos::AtMostOnce, ..message("t", vec![b'x'; 200_000]) });
            }
            let reason = link.down().await;
            assert!(reason.contains("nothing was heard"), "{reason}");
            assert!(begun.elapsed().as_secs_f64() < keep_alive as f64 * 1.5 + 0.5);
            link.drained().await;
            link.stop(vec![]).await;
        });
    }
    cases.join_all().await;
}

#[tokio::test]
async fn a_takeover_is_named_and_given_way_to() {
    let broker = Broker::start(Protocol::V5, vec![Script::then(vec![Act::Disconnect(0x8E)])]).await;
    let mut config = config(&broker.url(), Protocol::V5);
    config.client_id = "twin".into();
    let mut link = Running::start(config, Memory::new());
    let down = |e: &LinkEvent| match e {
        LinkEvent::Down { reason, retry_in, .. } => Some((reason.clone(), *retry_in)),
        _ => None,
    };
    let (reason, wait) = link.wait(down).await;
    assert!(reason.contains("; another client uses the id twin"), "{reason}");
    assert!(wait >= Duration::from_secs(4));
    link.stop(vec![]).await;
}

#[tokio::test]
async fn a_disconnect_is_told_in_the_brokers_words() {
    let broker = Broker::start(Protocol::V5, vec![Script::then(vec![Act::Disconnect(0x98)])]).await;
    let mut link = Running::start(config(&broker.url(), Protocol::V5), Memory::new());
    assert!(link.down().await.contains("administrator"));
    link.up().await;
    link.stop(vec![]).await;
}

#[tokio::test]
async fn not_now_is_tried_again_before_the_rest_and_after_a_pause() {
    let script = Script::publish(|n, seen| vec![Act::Ack(seen.id, if n == 3 { 0x97 } else { 0 })]);
    let broker = Broker::start(Protocol::V5, vec![script]).await;
    let outbox = filled(3);
    let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox.clone());
    broker.until(|log| log.published.len() == 3).await;
    link.wait(|e| matches!(e, LinkEvent::Refused { reason_code: 0x97, fatal: false, .. }).then_some(())).await;
    let begun = Instant::now();
    for n in ["3", "4"] {
        outbox.add(message("t", n));
    }
    link.drained().await;
    assert!(begun.elapsed() > Duration::from_millis(800), "a pause first");
    assert_eq!(broker.payloads(1), ["0", "1", "2", "2", "3", "4"]);
    assert_eq!((outbox.retried(), outbox.dead().len(), outbox.done_payloads().len()), (1, 0, 5));
    assert!(!was_down(&link.stop(vec![]).await));
}

#[tokio::test]
async fn refused_for_good_is_put_aside_with_its_reason_at_every_qos() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let codes = [0x87, 0x90, 0x99, 0x00, 0x10];
        let script = Script::publish(move |n, seen| vec![Act::Ack(seen.id, codes[(n - 1) % 5])]);
        let broker = Broker::start(Protocol::V5, vec![script]).await;
        let outbox = Memory::new();
        for n in numbers(0..5) {
            outbox.add(Message { qos, ..message("t", n) });
        }
        let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox.clone());
        link.drained().await;
        let dead: Vec<_> = outbox.dead().into_iter().map(|(p, code, _)| (p, code)).collect();
        assert_eq!(dead, [("0".into(), 0x87), ("1".into(), 0x90), ("2".into(), 0x99)]);
        assert_eq!(outbox.done_payloads(), ["3", "4"]);
        assert!(!was_down(&link.stop(vec![]).await));
    }
}

#[tokio::test]
async fn many_refusals_of_qos_2_do_not_stall_the_link() {
    // The library never takes these off its own count.
    let always = || Script::publish(|_, seen| vec![Act::Ack(seen.id, if seen.qos == 2 { 0x87 } else { 0 })]);
    let broker = Broker::start(Protocol::V5, (0..4).map(|_| always()).collect()).await;
    let outbox = Memory::new();
    for n in 0..24 {
        let qos = if n % 2 == 0 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        outbox.add(Message { qos, ..message("t", n.to_string()) });
    }
    let mut config = config(&broker.url(), Protocol::V5);
    config.in_flight = 8;
    let mut link = Running::start(config, outbox.clone());
    link.drained().await;
    assert_eq!((outbox.dead().len(), outbox.done_payloads().len()), (12, 12));
    link.stop(vec![]).await;
}

#[tokio::test]
async fn an_unreadable_answer_costs_one_record_and_not_the_rest() {
    let script = || Script::publish(|_, seen| vec![Act::Ack(seen.id, if seen.payload == "4" { 0xC3 } else { 0 })]);
    let broker = Broker::start(Protocol::V5, (0..4).map(|_| script()).collect()).await;
    let outbox = filled(10);
    let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox.clone());
    link.drained().await;
    let dead = outbox.dead();
    assert_eq!((dead.len(), dead[0].0.as_str(), dead[0].1), (1, "4", 0xC3));
    assert_eq!(outbox.done_payloads().len(), 9);
    assert_eq!(broker.log.lock().unwrap().connections, 4);
    link.stop(vec![]).await;
}

#[tokio::test]
async fn the_brokers_limits_are_kept() {
    // Receive Maximum 3, Maximum QoS 1, Retain Available 0, Maximum Packet Size 60.
    let properties = vec![0x21, 0, 3, 0x24, 1, 0x25, 0, 0x27, 0, 0, 0, 60];
    let lazy = {
        let mut held = Vec::new();
        Script {
            properties,
            ..Script::publish(move |_, seen| {
                held.push(seen.id);
                match held.len() {
                    2 => held.drain(..).map(|id| Act::Ack(id, 0)).collect(),
                    _ => vec![],
                }
            })
        }
    };
    let broker = Broker::start(Protocol::V5, vec![lazy]).await;
    let outbox = Memory::new();
    for n in numbers(0..20) {
        outbox.add(Message { qos: Qos::ExactlyOnce, retain: true, ..message("t", n) });
    }
    outbox.add(message("t", "x".repeat(61)));
    let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox.clone());
    link.drained().await;
    assert_eq!((outbox.done_payloads().len(), outbox.dead().len()), (20, 1));
    assert!(!was_down(&link.stop(vec![]).await));
    let log = broker.log.lock().unwrap();
    assert!(log.published.iter().all(|p| p.qos == 1 && !p.retain));
    assert!(log.most_unanswered <= 3, "{}", log.most_unanswered);
    assert_eq!(log.breaches, Vec::<String>::new());
}

#[tokio::test]
async fn a_broker_that_takes_one_message_at_a_time_gets_hello_subscriptions_and_records() {
    let script = Script { properties: vec![0x21, 0, 1], ..Script::default() };
    let broker = Broker::start(Protocol::V5, vec![script]).await;
    let mut config = config(&broker.url(), Protocol::V5);
    config.hello = vec![message("t", "hello")];
    config.subscriptions = (0..100).map(|n| Subscription { filter: format!("f/{n}"), qos: Qos::AtLeastOnce }).collect();
    let outbox = filled(50);
    let mut link = Running::start(config, outbox.clone());
    link.drained().await;
    link.stop(vec![]).await;
    let log = broker.log.lock().unwrap();
    assert_eq!((log.subscribed.len(), log.published.len(), log.most_unanswered), (100, 51, 1));
    assert_eq!(log.published[0].payload, "hello");
    assert_eq!(log.breaches, Vec::<String>::new());
}

#[tokio::test]
async fn a_broker_that_wants_no_keep_alive_is_not_flooded_with_pings() {
    let script = Script { properties: vec![0x13, 0, 0], ..Script::default() };
    let broker = Broker::start(Protocol::V5, vec![script]).await;
    let outbox = filled(2000);
    let mut link = Running::start(config(&broker.url(), Protocol::V5), outbox);
    link.drained().await;
    assert!(broker.log.lock().unwrap().pings <= 1);
    assert!(!was_down(&link.stop(vec![]).await));
}

#[tokio::test]
async fn a_refused_subscription_is_named() {
    for (protocol, code) in [(Protocol::V5, 0x87), (Protocol::V311, 0x80)] {
        let broker = Broker::start(protocol, vec![Script { suback: code, ..Script::default() }]).await;
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("house/+/set", Qos::AtLeastOnce);
        config.subscriptions.push(Subscription { filter: "bad#filter".into(), qos: Qos::AtLeastOnce });
        let mut link = Running::start(config, Memory::new());
        let bad = link.problem().await;
        assert!(bad.contains("bad#filter"), "{bad}");
        let problem = link.problem().await;
        assert!(problem.contains("house/+/set") && problem.contains(&format!("0x{code:02X}")), "{problem}");
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_message_too_large_to_come_in_cannot_end_every_connection() {
    for protocol in BOTH {
        let large = || {
            let bytes = publish(protocol, "cmd/big", 7, false, &vec![b'x'; 1_500_000]);
            Script::then(vec![Act::Bytes(bytes)])
        };
        let broker = Broker::start(protocol, vec![large(), large()]).await;
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("cmd/#", Qos::AtLeastOnce);
        let mut link = Running::start(config, Memory::new());
        let problem = link.problem().await;
        assert!(problem.contains("1500") && problem.contains("retained"), "{problem}");
        let second = link.problem().await;
        if protocol == Protocol::V311 {
            // A broker that cannot be told the limit is followed: read, thrown away, acknowledged.
            assert!(second.contains("cmd/big"), "{second}");
            broker.until(|log| log.acked == [7]).await;
            assert_eq!(broker.log.lock().unwrap().connections, 2);
        }
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn acknowledgements_go_out_when_the_owner_says_so_and_not_to_another_connection() {
    for protocol in BOTH {
        let come = |id, close: bool| {
            let mut acts = vec![Act::Bytes(publish(protocol, "cmd/x", id, id == 8, b"ON"))];
            if close {
                acts.push(Act::Close);
            }
            Script::then(acts)
        };
        let broker = Broker::start(protocol, vec![come(7, true), come(8, false)]).await;
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("cmd/#", Qos::ExactlyOnce);
        let mut link = Running::start(config, Memory::new());
        let first = link.incoming().await;
        let second = link.incoming().await;
        assert_ne!(first.ack, second.ack);
        link.handle.ack(first.ack);
        link.handle.ack(0);
        link.handle.ack(second.ack);
        broker.until(|log| log.acked == [8]).await;
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_release_of_an_earlier_connection_is_completed_in_a_kept_session() {
    for protocol in BOTH {
        let script = Script { session_present: true, ..Script::then(vec![Act::Bytes(framed(0x62, &[0, 99]))]) };
        let broker = Broker::start(protocol, vec![script]).await;
        let mut config = config(&broker.url(), protocol);
        config.session_expiry = Duration::from_secs(60);
        config.subscriptions = subscription("cmd/#", Qos::ExactlyOnce);
        let mut link = Running::start(config, Memory::new());
        assert!(link.up().await);
        broker.until(|log| log.acked == [99]).await;
        assert!(!was_down(&link.stop(vec![]).await));
    }
}

#[tokio::test]
async fn hello_and_subscriptions_come_again_at_every_connection_before_any_record() {
    for protocol in BOTH {
        let script = Script::publish(|n, seen| if n == 3 { vec![Act::Close] } else { vec![Act::Ack(seen.id, 0)] });
        let broker = Broker::start(protocol, vec![script]).await;
        let mut config = config(&broker.url(), protocol);
        config.hello = vec![message("t", "hello")];
        config.subscriptions = subscription("cmd/#", Qos::AtLeastOnce);
        let mut link = Running::start(config, filled(4));
        link.drained().await;
        assert_eq!(broker.payloads(1)[..3], ["hello", "0", "1"]);
        assert_eq!(broker.payloads(2)[0], "hello");
        assert_eq!(broker.log.lock().unwrap().subscribed, [(1, "cmd/#".to_string()), (2, "cmd/#".to_string())]);
        link.stop(vec![]).await;
    }
}

#[tokio::test]
async fn a_stop_waits_for_the_farewell_but_no_longer_than_it_may() {
    for protocol in BOTH {
        let deaf = Script::publish(|_, _| vec![]);
        let broker = Broker::start(protocol, vec![deaf]).await;
        let mut link = Running::start(config(&broker.url(), protocol), filled(3));
        link.up().await;
        broker.until(|log| log.published.len() == 3).await;
        let begun = Instant::now();
        link.handle.stop(vec![message("t", "farewell")], Duration::from_millis(300));
        broker.until(|log| log.published.len() == 4).await;
        link.ended().await;
        assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn an_owner_that_does_not_listen_can_still_stop_it() {
    for protocol in BOTH {
        let flood = (0..2000).map(|_| Act::Bytes(publish(protocol, "cmd/x", 0, false, b"ON"))).collect();
        let broker = Broker::start(protocol, vec![Script::then(flood)]).await;
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("cmd/#", Qos::AtLeastOnce);
        let mut link = Running::start(config, Memory::new());
        link.up().await;
        link.incoming().await;
        let begun = Instant::now();
        link.handle.stop(vec![message("t", "farewell")], Duration::from_secs(2));
        link.ended_unheard().await;
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(broker.payloads(1), ["farewell"]);
    }
}

#[tokio::test]
async fn messages_are_acknowledged_in_the_order_in_which_they_came() {
    for protocol in BOTH {
        let sent = (1..=3).map(|id| Act::Bytes(publish(protocol, "cmd/x", id, false, b"x"))).collect();
        let broker = Broker::start(protocol, vec![Script::then(sent)]).await;
        let mut config = config(&broker.url(), protocol);
        config.subscriptions = subscription("cmd/#", Qos::AtLeastOnce);
        let mut link = Running::start(config, Memory::new());
        let mut acks = Vec::new();
        for _ in 0..3 {
            acks.push(link.incoming().await.ack);
        }
        for ack in acks.into_iter().rev() {
            link.handle.ack(ack);
        }
        broker.until(|log| log.acked.len() == 3).await;
        assert_eq!(broker.log.lock().unwrap().acked, [1, 2, 3]);
        link.stop(vec![]).await;
    }
}
