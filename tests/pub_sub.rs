//! `pinpost pub` and `pinpost sub` against a real mosquitto and its own clients.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use support::mosquitto::{Mosquitto, free_port};
use support::program::{Ended, Program, pinpost, run};
use support::websocket::door_to;

const VERSIONS: [(&str, &str); 2] = [("5", "mqttv5"), ("3.1.1", "mqttv311")];

/// `pinpost pub|sub` at this broker.
fn ours(broker: &Mosquitto, command: &str, args: &[&str]) -> Command {
    let port = broker.port().to_string();
    pinpost([&[command, "-h", "127.0.0.1", "-p", &port], args].concat())
}

fn theirs(broker: &Mosquitto, command: &str, args: &[&str]) -> Command {
    let mut line = Command::new(command);
    line.args(["-h", "127.0.0.1", "-p", &broker.port().to_string()]).args(args);
    line
}

/// A subscriber that the broker has answered.
fn subscribed(broker: &mut Mosquitto, mut line: Command, id: &str) -> Program {
    let program = Program::start(line.args(["-i", id]));
    broker.wait_log(&format!("Sending SUBACK to {id}"));
    program
}

#[test]
fn pub_reaches_mosquitto_sub_at_every_quality_in_both_versions() {
    let mut broker = Mosquitto::start();
    for (version, their_version) in VERSIONS {
        for qos in ["0", "1", "2"] {
            let id = format!("s{qos}{their_version}");
            let line = theirs(
                &broker,
                "mosquitto_sub",
                &["-t", "a/b", "-q", qos, "-C", "1", "-V", their_version, "-F", "%t %q %p"],
            );
            let mut sub = subscribed(&mut broker, line, &id);
            run(&mut ours(&broker, "pub", &["-t", "a/b", "-m", "hello", "-q", qos, "-V", version]), b"").with(0);
            assert_eq!(sub.end().with(0).text(), format!("a/b {qos} hello\n"));
        }
    }
}

#[test]
fn mosquitto_pub_reaches_sub_at_every_quality_in_both_versions() {
    let mut broker = Mosquitto::start();
    for (version, their_version) in VERSIONS {
        for qos in ["0", "1", "2"] {
            let id = format!("s{qos}{version}");
            let line = ours(&broker, "sub", &["-t", "a/+", "-q", qos, "-C", "2", "-V", version, "-v"]);
            let mut sub = subscribed(&mut broker, line, &id);
            for message in ["one", "two"] {
                let args = ["-t", "a/b", "-m", message, "-q", qos, "-V", their_version];
                run(&mut theirs(&broker, "mosquitto_pub", &args), b"").with(0);
            }
            assert_eq!(sub.end().with(0).text(), "a/b one\na/b two\n", "QoS {qos}, MQTT {version}");
        }
    }
}

#[test]
fn ten_megabytes_of_any_bytes_arrive_unchanged_in_both_versions() {
    let mut broker = Mosquitto::start();
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let file = broker.dir().join("payload");
    fs::write(&file, &bytes).unwrap();
    for (version, _) in VERSIONS {
        let line = ours(&broker, "sub", &["-t", "bin", "-N", "-C", "1", "-V", version]);
        let mut sub = subscribed(&mut broker, line, &format!("s{version}"));
        let args = ["-t", "bin", "-q", "1", "-V", version, "-f", file.to_str().unwrap()];
        run(&mut ours(&broker, "pub", &args), b"").with(0);
        assert!(sub.end().with(0).out == bytes, "MQTT {version}: the bytes differ");
    }
}

#[test]
fn a_retained_message_is_kept_left_out_on_demand_and_deleted() {
    let broker = Mosquitto::start();
    run(&mut ours(&broker, "pub", &["-t", "r", "-m", "kept", "-r", "-q", "1"]), b"").with(0);
    let kept = run(&mut ours(&broker, "sub", &["-t", "r", "-C", "1"]), b"").with(0);
    assert_eq!(kept.text(), "kept\n");
    let live = |mut sub: Program| {
        run(&mut ours(&broker, "pub", &["-t", "r", "-m", "live", "-q", "1"]), b"").with(0);
        assert_eq!(sub.end().with(0).text(), "live\n");
    };
    live(ask_first(&broker, &["-R", "-C", "1"]));
    run(&mut ours(&broker, "pub", &["-t", "r", "-n", "-r", "-q", "1"]), b"").with(0);
    live(ask_first(&broker, &["-C", "1"]));
}

/// `sub` that was asked for the topic `r` by stdin; its second question says that the subscription stands.
fn ask_first(broker: &Mosquitto, args: &[&str]) -> Program {
    let mut sub = Program::start(&mut ours(broker, "sub", args));
    sub.err.wait_for("topic");
    sub.say("r");
    sub.err.wait_for("topic");
    sub
}

#[test]
fn every_line_of_stdin_is_a_message_in_order_and_empty_ones_are_left_out() {
    let mut broker = Mosquitto::start();
    for (version, _) in VERSIONS {
        for qos in ["0", "1", "2"] {
            let id = format!("s{qos}{version}");
            let line = theirs(&broker, "mosquitto_sub", &["-t", "l", "-q", qos, "-C", "1000"]);
            let mut sub = subscribed(&mut broker, line, &id);
            let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
            let input = expected.replace("line 5\n", "line 5\n\n");
            run(&mut ours(&broker, "pub", &["-t", "l", "-l", "-q", qos, "-V", version]), input.as_bytes()).with(0);
            assert_eq!(sub.end().with(0).text(), expected, "QoS {qos}, MQTT {version}");
        }
    }
}

#[test]
fn all_of_stdin_can_be_one_message() {
    let mut broker = Mosquitto::start();
    let line = ours(&broker, "sub", &["-t", "s", "-C", "1", "-N"]);
    let mut sub = subscribed(&mut broker, line, "s");
    run(&mut ours(&broker, "pub", &["-t", "s", "-s"]), b"two\nlines\n").with(0);
    assert_eq!(sub.end().with(0).text(), "two\nlines\n");
}

#[test]
fn pub_asks_for_topic_and_data_until_exit() {
    let mut broker = Mosquitto::start();
    let line = ours(&broker, "sub", &["-t", "#", "-v", "-C", "2"]);
    let mut sub = subscribed(&mut broker, line, "s");
    let asked = run(&mut ours(&broker, "pub", &["-q", "1"]), b"a/b\nfirst data\r\nc\nsecond\nexit_\n").with(0);
    assert_eq!(sub.end().with(0).text(), "a/b first data\nc second\n");
    assert_eq!(asked.text(), "", "questions go to stderr");
    for word in ["topic", "data", "exit_"] {
        assert!(asked.err.contains(word), "{word} in {:?}", asked.err);
    }
}

#[test]
fn exit_at_either_question_and_the_end_of_input_end_with_0() {
    let broker = Mosquitto::start();
    for command in ["pub", "sub"] {
        for input in ["exit_\n", "exit_", "", "a/b\nexit_\n", "a/b\n", "a/b\nx\n", "+\nexit_\n"] {
            let ended = run(&mut ours(&broker, command, &[]), input.as_bytes());
            assert_eq!(ended.code, Some(0), "{command} with {input:?}: {}", ended.err);
            for word in ["topic", "data", "exit_"] {
                let asks_for_data = command == "sub" || input.starts_with("a/b");
                assert!(ended.err.contains(word) || (word == "data" && !asks_for_data), "{word} in {:?}", ended.err);
            }
        }
    }
}

#[test]
fn sub_asks_for_topics_and_prints_their_data_until_exit() {
    let broker = Mosquitto::start();
    let publish =
        |topic: &str, data: &str| run(&mut ours(&broker, "pub", &["-t", topic, "-m", data, "-q", "1"]), b"").with(0);
    let mut sub = Program::start(&mut ours(&broker, "sub", &["-v"]));
    sub.err.wait_for("topic");
    sub.say("a");
    // The second question says that the first subscription stands.
    sub.err.wait_for("topic");
    publish("a", "1");
    assert_eq!(sub.out.line(), "a 1");
    sub.say("b/+");
    sub.err.wait_for("topic");
    publish("a", "2");
    publish("b/c", "3");
    assert_eq!(sub.out.line(), "a 2");
    assert_eq!(sub.out.line(), "b/c 3");
    sub.say("exit_");
    sub.end().with(0);
}

#[test]
fn sub_with_piped_topics_prints_what_is_retained_and_ends() {
    let broker = Mosquitto::start();
    run(&mut ours(&broker, "pub", &["-t", "r", "-m", "kept", "-r", "-q", "1"]), b"").with(0);
    assert_eq!(run(&mut ours(&broker, "sub", &[]), b"r\n").with(0).text(), "kept\n");
    assert_eq!(run(&mut ours(&broker, "sub", &["-C", "1"]), b"r\n").with(0).text(), "kept\n");
    assert_eq!(run(&mut ours(&broker, "sub", &["-W", "2"]), b"r\n").with(27).text(), "kept\n");
}

#[test]
fn a_reader_that_leaves_ends_sub_quietly() {
    let mut broker = Mosquitto::start();
    let port = broker.port();
    let exe = env!("CARGO_BIN_EXE_pinpost");
    let script = format!("set -o pipefail; {exe} sub -h 127.0.0.1 -p {port} -t t -i s | head -1");
    let mut pipe = Program::start(Command::new("bash").args(["-c", &script]));
    broker.wait_log("Sending SUBACK to s");
    let mut publisher = Program::start(&mut ours(&broker, "pub", &["-t", "t", "-l", "-q", "1"]));
    publisher.say("first");
    assert_eq!(pipe.out.line(), "first");
    // sub learns that nobody reads only when it writes.
    while !broker.log().contains("Client s ") {
        publisher.say("further");
        broker.wait_log("Sending PUBACK");
    }
    let ended = pipe.end().with(0);
    assert_eq!((ended.text().as_str(), ended.err.as_str()), ("first\n", ""));
}

#[test]
fn sub_ends_with_0_when_it_is_interrupted() {
    let mut broker = Mosquitto::start();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let id = format!("{signal}");
        let line = ours(&broker, "sub", &["-t", "x"]);
        let mut sub = subscribed(&mut broker, line, &id);
        sub.signal(signal);
        sub.end().with(0);
        broker.wait_log(&format!("Received DISCONNECT from {id}"));
    }
}

#[test]
fn sub_comes_back_with_its_subscriptions_when_the_broker_does() {
    let mut broker = Mosquitto::start();
    let line = ours(&broker, "sub", &["-t", "x", "-C", "1"]);
    let mut sub = subscribed(&mut broker, line, "s");
    broker.kill();
    sub.err.wait_for("trying again");
    broker.restart();
    broker.wait_log("Sending SUBACK to s");
    run(&mut ours(&broker, "pub", &["-t", "x", "-m", "again", "-q", "1"]), b"").with(0);
    assert_eq!(sub.end().with(0).text(), "again\n");
}

#[test]
fn lines_are_not_lost_when_the_broker_is_killed_in_between() {
    let mut broker = Mosquitto::start();
    for qos in ["1", "2"] {
        let mut publisher = Program::start(&mut ours(&broker, "pub", &["-t", "k", "-l", "-q", qos]));
        publisher.say("before");
        broker.wait_log(if qos == "1" { "Sending PUBACK" } else { "Sending PUBCOMP" });
        broker.kill();
        publisher.err.wait_for("trying again");
        publisher.say("while away");
        broker.restart();
        publisher.say("after");
        publisher.hush();
        publisher.end().with(0);
        for text in ["while away", "after"] {
            let bytes = text.len();
            assert!(broker.log().contains(&format!("'k', ... ({bytes} bytes)")), "{text}: {}", broker.log());
        }
    }
}

#[test]
fn trouble_is_one_line_and_exit_code_1() {
    let closed = free_port().to_string();
    let one_line = |ended: Ended, words: &[&str]| {
        let ended = ended.with(1);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        for word in words {
            assert!(ended.err.contains(word), "{word} in {}", ended.err);
        }
    };
    for command in [&["pub", "-t", "a", "-m", "x"][..], &["sub", "-t", "a"], &["pub", "-t", "a", "-l"]] {
        let at = |args: &[&str]| run(&mut pinpost([command, args].concat()), b"");
        one_line(at(&["-h", "127.0.0.1", "-p", &closed]), &["refused", &closed]);
        one_line(at(&["-h", "no such host"]), &["no such host", "not known"]);
        one_line(at(&["--cafile", "/no/such/file"]), &["/no/such/file"]);
    }
}

#[test]
fn a_wrong_password_is_told_without_showing_it() {
    let broker = Mosquitto::with(|port, dir| {
        let file = dir.join("passwords");
        let made = Command::new("mosquitto_passwd").arg("-b").arg("-c").arg(&file).args(["joe", "right"]).status();
        assert!(made.unwrap().success());
        format!("listener {port} 127.0.0.1\npassword_file {}\n", file.display())
    });
    for (version, _) in VERSIONS {
        for command in [&["pub", "-t", "a", "-m", "x"][..], &["sub", "-t", "a", "-W", "5"]] {
            let ended =
                run(ours(&broker, command[0], &command[1..]).args(["-u", "joe", "-P", "wr0ng", "-V", version]), b"");
            let ended = ended.with(1);
            assert!(ended.err.contains("password") && !ended.err.contains("wr0ng"), "{}", ended.err);
            assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        }
        let args = ["-t", "a", "-m", "x", "-q", "1", "-u", "joe", "-P", "right", "-V", version];
        run(&mut ours(&broker, "pub", &args), b"").with(0);
        let url = format!("mqtt://joe:right@127.0.0.1:{}/topic", broker.port());
        run(&mut pinpost(["pub", "-L", &url, "-m", "x", "-V", version]), b"").with(0);
        run(pinpost(["pub", "-t", "a", "-m", "x", "-V", version]).env("MQTT_URL", &url[..url.len() - 6]), b"").with(0);
    }
}

#[test]
fn a_publish_that_is_not_allowed_is_a_failure_in_mqtt_5() {
    let broker = Mosquitto::with(|port, dir| {
        let file = dir.join("acl");
        fs::write(&file, "topic read #\ntopic write ok\n").unwrap();
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {}\n", file.display())
    });
    for qos in ["1", "2"] {
        let ended = run(&mut ours(&broker, "pub", &["-t", "secret", "-m", "x", "-q", qos]), b"").with(1);
        assert!(ended.err.contains("`secret`: not authorised"), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        run(&mut ours(&broker, "pub", &["-t", "ok", "-m", "x", "-q", qos]), b"").with(0);
        // Asked, the next one gets its chance; the failure is not forgotten.
        let asked = run(&mut ours(&broker, "pub", &["-q", qos]), b"secret\nx\nok\ny\nexit_\n").with(1);
        assert!(asked.err.contains("not authorised") && asked.err.matches("topic").count() >= 3, "{}", asked.err);
    }
}

#[test]
fn tls_is_verified_against_the_authority_and_the_name() {
    let broker = Mosquitto::with(|port, dir| {
        authority(dir, "ca");
        authority(dir, "other");
        certificate(dir);
        let d = dir.display();
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\ncafile {d}/ca.pem\ncertfile {d}/server.pem\nkeyfile {d}/server.key\n"
        )
    });
    let ca = broker.dir().join("ca.pem").display().to_string();
    let other = broker.dir().join("other.pem").display().to_string();
    let port = broker.port().to_string();
    let at = |host: &str, args: &[&str]| {
        run(&mut pinpost([&["pub", "-h", host, "-p", &port, "-t", "a", "-m", "x", "-q", "1"], args].concat()), b"")
    };
    for (version, _) in VERSIONS {
        at("localhost", &["--cafile", &ca, "-V", version]).with(0);
        let wrong_name = at("127.0.0.1", &["--cafile", &ca, "-V", version]).with(1);
        assert!(wrong_name.err.contains("not for the name `127.0.0.1`"), "{}", wrong_name.err);
        let wrong_ca = at("localhost", &["--cafile", &other, "-V", version]).with(1);
        assert!(wrong_ca.err.contains("not signed by an authority known here"), "{}", wrong_ca.err);
        let plain = at("localhost", &["-V", version]).with(1);
        assert!(plain.err.contains("TLS?"), "{}", plain.err);
    }
    let url = format!("mqtts://localhost:{port}");
    run(&mut pinpost(["pub", "-L", &url, "--cafile", &ca, "-t", "a", "-m", "x"]), b"").with(0);
    let plain_broker = Mosquitto::start();
    let port = plain_broker.port().to_string();
    let no_tls = run(&mut pinpost(["pub", "-h", "localhost", "-p", &port, "--cafile", &ca, "-t", "a", "-m", "x"]), b"");
    let no_tls = no_tls.with(1);
    assert!(no_tls.err.contains("does that port speak TLS?"), "{}", no_tls.err);
}

#[test]
fn websockets_carry_both_versions() {
    let broker = Mosquitto::start();
    let url = format!("ws://127.0.0.1:{}", door_to(broker.port()));
    for (version, _) in VERSIONS {
        run(&mut pinpost(["pub", "-L", &url, "-t", "w", "-m", version, "-r", "-q", "1", "-V", version]), b"").with(0);
        let got = run(&mut pinpost(["sub", "-L", &url, "-t", "w", "-C", "1", "-V", version]), b"").with(0);
        assert_eq!(got.text(), format!("{version}\n"));
    }
}

fn openssl(args: &[&str]) {
    let made = Command::new("openssl").args(args).output().expect("these tests need the openssl program");
    assert!(made.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&made.stderr));
}

fn path(dir: &Path, name: &str) -> String {
    PathBuf::from(dir).join(name).display().to_string()
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

fn authority(dir: &Path, name: &str) {
    let (key, pem) = (path(dir, &format!("{name}.key")), path(dir, &format!("{name}.pem")));
    let subject = format!("/CN=test authority {name}");
    openssl(&[&["req", "-x509"][..], &KEY, &["-keyout", &key, "-out", &pem, "-subj", &subject, "-days", "2"]].concat());
}

/// `server.pem` for `localhost` only, signed by `ca`.
fn certificate(dir: &Path) {
    let at = |name: &str| path(dir, name);
    let (key, csr, ext) = (at("server.key"), at("server.csr"), at("server.ext"));
    openssl(&[&["req"][..], &KEY, &["-keyout", &key, "-out", &csr, "-subj", "/CN=localhost"]].concat());
    fs::write(&ext, "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let (ca, ca_key, pem) = (at("ca.pem"), at("ca.key"), at("server.pem"));
    openssl(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-out",
        &pem,
        "-days",
        "2",
        "-extfile",
        &ext,
    ]);
}
