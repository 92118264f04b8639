//! The daemon and a broker that flaps: what it holds is counted, and what it read meanwhile arrives.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::support::gateway::{Gateway, Home, Pty, Watch};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::PATIENCE;

/// A door that lets everyone in and throws everyone out, until it is opened.
struct Flapping {
    port: u16,
    thrown: Arc<(Mutex<usize>, Condvar)>,
    open: Arc<AtomicBool>,
}

impl Flapping {
    fn to(broker: u16) -> Flapping {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (thrown, open) = (Arc::<(Mutex<usize>, Condvar)>::default(), Arc::<AtomicBool>::default());
        let (tell, is_open) = (thrown.clone(), open.clone());
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                if is_open.load(Ordering::SeqCst) {
                    let to = TcpStream::connect(("127.0.0.1", broker)).unwrap();
                    for (mut a, mut b) in
                        [(&from, &to), (&to, &from)].map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
                    {
                        thread::spawn(move || std::io::copy(&mut a, &mut b));
                    }
                    continue;
                }
                drop(from);
                *tell.0.lock().unwrap() += 1;
                tell.1.notify_all();
            }
        });
        Flapping { port, thrown, open }
    }

    /// Until so many were thrown out.
    fn until(&self, n: usize) {
        let (count, changed) = &*self.thrown;
        let (count, late) = changed.wait_timeout_while(count.lock().unwrap(), PATIENCE, |c| *c < n).unwrap();
        assert!(!late.timed_out(), "only {count} connections");
    }
}

/// Descriptors, threads, kB of memory.
fn held(gateway: &Gateway) -> (usize, u64, u64) {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    (descriptors, gateway.figure("status", "Threads"), gateway.figure("status", "VmRSS"))
}

#[test]
fn a_broker_that_flaps_hundreds_of_times_costs_the_daemon_nothing() {
    let mut broker = Mosquitto::start();
    let door = Flapping::to(broker.port());
    let home = Home::new("unused", "", "", "");
    let mut pty = Pty::new(home.path("port"));
    // All urls are tried before a pause: so the door is named often.
    let urls = vec![format!("mqtt://127.0.0.1:{}", door.port); 70].join(", ");
    home.write(&format!(
        "version: 1
gateway: {{ id: gw }}
mqtt: {{ url: [{urls}] }}
queue: {{ dir: {}, sync: 100ms }}
ports: {{ p: {{ path: {} }} }}
devices:
  probe: {{ kind: serial, port: p, decode: {{ type: keyvalue }}, points: {{ n: {{ field: N }} }} }}
",
        home.path("state/queue").display(),
        pty.name().display()
    ));
    let mut all = Watch::on(&mut broker, "gw/#");
    let mut gateway = home.start();
    door.until(60);
    let before = held(&gateway);
    pty.write(b"\n");
    let mut count = 0;
    for thrown in (80..=260).step_by(20) {
        for _ in 0..10 {
            pty.write(format!("N={count}\n").as_bytes());
            count += 1;
        }
        door.until(thrown);
    }
    let after = held(&gateway);
    println!("descriptors, threads, kB: {before:?} behind 60 connections, {after:?} behind 260");
    assert!(after.0 <= before.0 + 3 && after.1 <= before.1 + 1 && after.2 <= before.2 + 1024, "{before:?} {after:?}");
    door.open.store(true, Ordering::SeqCst);
    all.online(&mut gateway);
    for n in 0..count {
        all.expect("gw/probe", &n.to_string());
    }
    gateway.stop();
}
