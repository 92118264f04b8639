//! The embedded broker, alone and as `pinpost broker`, with mosquitto's clients and our own.
#![cfg(feature = "broker")]

#[path = "broker/guarded.rs"]
mod guarded;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use nix::sys::signal::Signal;
use pinpost::link::embedded::{self, Embedded};
use support::program::{PATIENCE, Program, pinpost, run};

fn broker() -> Embedded {
    embedded::start("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn client(broker: &Embedded, program: &str, args: &[&str]) -> Command {
    let mut line = Command::new(program);
    line.args(args).args(["-h", "127.0.0.1", "-p", &broker.addr().port().to_string()]);
    line
}

fn ours(broker: &Embedded, command: &str, args: &[&str]) -> Command {
    let port = broker.addr().port().to_string();
    pinpost([&[command, "-h", "127.0.0.1", "-p", &port], args].concat())
}

/// mosquitto_sub that has been answered; what follows on its stdout is data and its debug lines.
fn mosquitto_sub(broker: &Embedded, args: &[&str]) -> Program {
    // Into a pipe it would keep its lines back.
    let line = [&["-oL", "mosquitto_sub", "-d"], args].concat();
    let mut sub = Program::start(&mut client(broker, "stdbuf", &line));
    sub.out.wait_for("Subscribed (mid");
    sub
}

fn connect(broker: &Embedded) -> TcpStream {
    let stream = TcpStream::connect(broker.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn answer(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut answer = vec![0; bytes];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// A CONNECT of MQTT 3.1.1, clean session.
fn connect_packet(id: &str, keep_alive: u8) -> Vec<u8> {
    let mut packet =
        vec![0x10, 12 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, keep_alive, 0, id.len() as u8];
    packet.extend_from_slice(id.as_bytes());
    packet
}

#[test]
fn mosquitto_clients_of_both_versions_talk_to_each_other_at_every_quality() {
    let broker = broker();
    for from in ["mqttv5", "mqttv311"] {
        for to in ["mqttv5", "mqttv311"] {
            for qos in ["0", "1", "2"] {
                let mut sub = mosquitto_sub(&broker, &["-t", "a/+", "-q", qos, "-V", to, "-C", "1"]);
                let args = ["-t", "a/b", "-q", qos, "-V", from, "-m", "hello from the other side"];
                run(&mut client(&broker, "mosquitto_pub", &args), b"").with(0);
                sub.out.wait_for("\nhello from the other side\n");
                sub.end().with(0);
            }
        }
    }
}

#[test]
fn our_own_clients_work_with_it_too_and_retained_messages_are_kept() {
    let broker = broker();
    for version in ["5", "3.1.1"] {
        for qos in ["0", "1", "2"] {
            run(&mut ours(&broker, "pub", &["-t", "r", "-m", qos, "-q", qos, "-r", "-V", version]), b"").with(0);
            // QoS 0 is written when pub ends, not yet stored; so the reader waits for this very message.
            let args = ["-t", "r", "-q", qos, "-V", version, "-W", "20"];
            let mut sub = Program::start(&mut ours(&broker, "sub", &args));
            while sub.out.line() != qos {}
        }
    }
}

#[test]
fn lines_arrive_complete_and_in_order() {
    let broker = broker();
    let mut sub = mosquitto_sub(&broker, &["-t", "l", "-q", "1", "-F", "got %p"]);
    let input: String = (0..2000).map(|n| format!("{n}\n")).collect();
    run(&mut ours(&broker, "pub", &["-t", "l", "-l", "-q", "1"]), input.as_bytes()).with(0);
    for n in 0..2000 {
        sub.out.wait_for(&format!("got {n}\n"));
    }
    let got: Vec<_> = sub.out.so_far().lines().filter_map(|l| l.strip_prefix("got ")?.parse::<u32>().ok()).collect();
    assert_eq!(got, (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_payload_of_a_mebibyte_passes_and_a_larger_one_does_not() {
    let broker = broker();
    let big = vec![b'x'; embedded::MAX_PAYLOAD];
    for version in ["5", "3.1.1"] {
        let mut sub = Program::start(&mut ours(&broker, "sub", &["-t", "big", "-N", "-C", "1", "-V", version]));
        run(&mut ours(&broker, "pub", &["-t", "big", "-s", "-q", "1", "-r", "-V", version]), &big).with(0);
        assert!(sub.end().with(0).out == big, "MQTT {version}");
        let too_big = vec![b'x'; embedded::MAX_PAYLOAD * 2];
        run(&mut ours(&broker, "pub", &["-t", "big", "-s", "-q", "1", "-V", version]), &too_big).with(1);
    }
}

#[test]
fn a_hundred_clients_at_a_time_are_served() {
    let broker = broker();
    let mut clients: Vec<_> = (0..100).map(|_| connect(&broker)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&connect_packet(&format!("c{n}"), 60)).unwrap();
    }
    for client in &mut clients {
        assert_eq!(answer(client, 4), [0x20, 2, 0, 0]);
    }
    for client in &mut clients {
        client.write_all(&[0xc0, 0]).unwrap();
    }
    for client in &mut clients {
        assert_eq!(answer(client, 2), [0xd0, 0]);
    }
}

#[test]
fn a_client_without_keep_alive_and_with_slashes_in_its_id_may_come_again_and_again() {
    let broker = broker();
    for _ in 0..5 {
        let mut client = connect(&broker);
        client.write_all(&connect_packet("a/b+#$", 0)).unwrap();
        assert_eq!(answer(&mut client, 4), [0x20, 2, 0, 0]);
        client.write_all(&[0xc0, 0]).unwrap();
        assert_eq!(answer(&mut client, 2), [0xd0, 0]);
    }
}

#[test]
fn clients_that_leave_at_once_or_talk_nonsense_harm_nobody() {
    let broker = broker();
    for n in 0..300 {
        let mut client = connect(&broker);
        let packet = connect_packet("same", 60);
        match n % 3 {
            0 => client.write_all(&packet).unwrap(),
            1 => client.write_all(&packet[..n % packet.len()]).unwrap(),
            _ => client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap(),
        }
        drop(client);
    }
    let mut old = connect(&broker);
    old.write_all(&[0x10, 16, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, 2, 0, 60, 0, 2, b'a', b'b']).unwrap();
    assert_eq!(answer(&mut old, 4), [0x20, 2, 0, 1], "MQTT 3.1 is refused in its own words");
    for version in ["5", "3.1.1"] {
        run(&mut ours(&broker, "pub", &["-t", "a", "-m", "x", "-q", "2", "-i", "other", "-V", version]), b"").with(0);
    }
}

#[test]
fn the_will_of_a_client_that_dies_is_published() {
    let broker = broker();
    let mut sub = mosquitto_sub(&broker, &["-t", "will", "-q", "1", "-C", "1"]);
    let will = ["-t", "x", "--will-topic", "will", "--will-payload", "gone without a word", "--will-qos", "1"];
    let dying = mosquitto_sub(&broker, &will);
    dying.signal(Signal::SIGKILL);
    sub.out.wait_for("\ngone without a word\n");
}

#[test]
fn a_reader_of_3_1_1_gets_what_came_with_properties_of_mqtt_5() {
    let broker = broker();
    let with = ["-V", "mqttv5", "-t", "p", "-m", "x", "-q", "1", "-r"];
    let more = ["-D", "publish", "user-property", "k", "v", "-D", "publish", "content-type", "text/plain"];
    run(&mut client(&broker, "mosquitto_pub", &[&with[..], &more].concat()), b"").with(0);
    for (version, says) in [("mqttv311", "x"), ("mqttv5", "x k:v text/plain")] {
        let format = if version == "mqttv5" { "%p %P %C" } else { "%p" };
        let args = ["-V", version, "-t", "p", "-q", "1", "-C", "1", "-F", format];
        let ended = run(&mut client(&broker, "mosquitto_sub", &args), b"").with(0);
        assert_eq!(ended.text().trim(), says);
    }
}

#[test]
fn a_taken_address_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr: SocketAddr = taken.local_addr().unwrap();
    let error = embedded::start(addr).unwrap_err();
    assert!(error.contains(&addr.to_string()) && error.contains("taken"), "{error}");
    let ended = run(&mut pinpost(["broker", "--listen", &addr.to_string()]), b"").with(1);
    assert!(ended.err.contains(&addr.to_string()), "{}", ended.err);
    let elsewhere = embedded::start("203.0.113.1:1883".parse().unwrap()).unwrap_err();
    assert!(elsewhere.contains("203.0.113.1:1883"), "{elsewhere}");
}

#[test]
fn it_ends_when_it_is_dropped_and_its_address_is_free_again() {
    let broker = broker();
    let addr = broker.addr();
    let mut client = connect(&broker);
    client.write_all(&connect_packet("c", 60)).unwrap();
    answer(&mut client, 4);
    drop(broker);
    assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)), "the connection is closed");
    drop(client);
    let again = embedded::start(addr).unwrap();
    run(&mut ours(&again, "pub", &["-t", "a", "-m", "x", "-q", "1"]), b"").with(0);
}

#[test]
fn the_command_says_where_it_listens_and_ends_with_0_when_told_to() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut program = Program::start(&mut pinpost(["broker", "--listen", "127.0.0.1:0"]));
        let line = program.err.line();
        let url = line.strip_prefix("broker ready at ").unwrap_or_else(|| panic!("{line}"));
        run(&mut pinpost(["pub", "-L", url, "-t", "a", "-m", "x", "-q", "1"]), b"").with(0);
        program.signal(signal);
        let ended = program.end().with(0);
        assert_eq!(ended.err.lines().count(), 1, "no warning, no talk: {}", ended.err);
        assert_eq!(ended.text(), "");
    }
}

#[test]
fn listening_for_everyone_is_warned_about() {
    let mut program = Program::start(&mut pinpost(["broker", "--listen", "0.0.0.0:0"]));
    program.err.wait_for("no password");
    program.signal(Signal::SIGTERM);
    program.end().with(0);
}
