//! A broker that flaps: hundreds of connections that end at once leave no task, no descriptor, no thread and no memory
//! behind. In a test program of its own, for what is counted is the process.

#[path = "support/link_outbox.rs"]
#[allow(dead_code, reason = "shared with the link's tests")]
mod link_outbox;
#[path = "support/scripted_broker.rs"]
#[allow(dead_code, reason = "shared with the link's tests")]
mod scripted_broker;

use std::fs;
use std::time::Duration;

use link_outbox::{Memory, Running, config, message};
use pinpost::link::{LinkEvent, Protocol, Subscription};
use pinpost::model::Qos;
use scripted_broker::{Act, Broker, Script};

/// Connections before the first count, so that what is made once is there; and behind it.
const BEFORE: usize = 100;
const BEHIND: usize = 400;

#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    memory_kb: usize,
}

fn held() -> Held {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let figure = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Held {
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        threads: figure("Threads:"),
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        memory_kb: figure("VmRSS:"),
    }
}

/// The n-th connection ends in the n-th way.
fn ends(n: usize) -> Script {
    match n % 6 {
        0 => Script::then(vec![Act::Close]),
        1 => Script { code: None, ..Script::in_place_of(1, |_| vec![Act::Close]) },
        2 => Script { code: Some(if n.is_multiple_of(12) { 0x88 } else { 3 }), ..Script::default() },
        3 => Script::publish(|n, seen| if n == 4 { vec![Act::Close] } else { vec![Act::Ack(seen.id, 0)] }),
        4 => Script::then(vec![Act::Bytes(vec![0xFF; 40]), Act::Close]),
        _ => Script::publish(|n, seen| if n == 3 { vec![Act::Disconnect(0x8B)] } else { vec![Act::Ack(seen.id, 0)] }),
    }
}

#[tokio::test]
async fn five_hundred_connections_that_end_leave_nothing_behind() {
    for protocol in [Protocol::V5, Protocol::V311] {
        let broker = Broker::start(protocol, (0..BEFORE + BEHIND).map(ends).collect()).await;
        let mut config = config(&broker.url(), protocol);
        config.patience.retry = Duration::from_micros(100);
        config.hello = vec![message("t", "hello")];
        config.subscriptions = vec![Subscription { filter: "cmd/#".into(), qos: Qos::AtLeastOnce }];
        let outbox = Memory::new();
        for n in 0..4000 {
            outbox.add(message("t", n.to_string()));
        }
        let mut link = Running::start(config, outbox.clone());
        let mut downs = 0;
        let mut first = None;
        let next = async |link: &mut Running| {
            link.wait(|e| matches!(e, LinkEvent::Down { .. }).then_some(())).await;
            link.seen.clear();
        };
        while downs < BEFORE + BEHIND {
            next(&mut link).await;
            downs += 1;
            if downs == BEFORE {
                first = Some(held());
            }
        }
        let (before, after) = (first.unwrap(), held());
        link.drained().await;
        assert_eq!(outbox.dead(), []);
        assert_eq!(outbox.done_payloads().len(), 4000);
        println!("{protocol:?}: {before:?} behind {BEFORE} connections, {after:?} behind {} more", BEHIND);
        // Two sockets and their tasks of the present connection may be there or not.
        assert!(after.descriptors <= before.descriptors + 4, "{before:?} {after:?}");
        assert!(after.tasks <= before.tasks + 4, "{before:?} {after:?}");
        assert!(after.threads <= before.threads, "{before:?} {after:?}");
        assert!(after.memory_kb <= before.memory_kb + 1500, "{before:?} {after:?}");
        link.stop(vec![]).await;
    }
}
