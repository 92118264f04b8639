//! The embedded broker with users, rights and TLS, judged by mosquitto's clients of both versions and by the daemon.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::signal::Signal;
use pinpost::link::embedded::{self, Embedded};
use pinpost::link::guard::{Broker, Hash, User, Users};

use crate::support::program::{Ended, PATIENCE, Program, pinpost, run};

const VERSIONS: [&str; 2] = ["mqttv5", "mqttv311"];

fn user(password: &str, publish: &[&str], subscribe: &[&str]) -> User {
    let of = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    User { hash: Hash::new(password.as_bytes()).unwrap(), publish: of(publish), subscribe: of(subscribe) }
}

fn guarded(tls: Option<&Certificate>) -> Embedded {
    let users = Users::new([
        ("boss".to_owned(), user("b0ss", &["#"], &["#"])),
        ("panel".to_owned(), user("p4nel", &["house/+/set"], &["house/#", "news"])),
    ]);
    embedded::start_with(Broker {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: tls.map(|c| (c.file("cert.pem"), c.file("key.pem"))),
        users: Some(Arc::new(users)),
    })
    .unwrap()
}

fn client(broker: &Embedded, program: &str, (name, password): (&str, &str), args: &[&str]) -> Command {
    let port = broker.addr().port().to_string();
    let mut line = Command::new("stdbuf");
    line.args(["-oL", program, "-h", "127.0.0.1", "-p", &port, "-u", name, "-P", password]).args(args);
    line
}

const BOSS: (&str, &str) = ("boss", "b0ss");
const PANEL: (&str, &str) = ("panel", "p4nel");

fn publish(broker: &Embedded, who: (&str, &str), args: &[&str]) -> Ended {
    run(&mut client(broker, "mosquitto_pub", who, args), b"")
}

/// mosquitto_sub, answered.
fn subscribe(broker: &Embedded, who: (&str, &str), args: &[&str]) -> Program {
    let mut sub = Program::start(&mut client(broker, "mosquitto_sub", who, &[&["-d"], args].concat()));
    sub.out.wait_for("Subscribed (mid");
    sub
}

struct Certificate(tempfile::TempDir);

impl Certificate {
    fn new() -> Certificate {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| dir.path().join(name).display().to_string();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "30",
            ])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-keyout", &of("key.pem"), "-out", &of("cert.pem")])
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
        Certificate(dir)
    }
    fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn only_who_knows_a_password_comes_in_and_is_told_why_not() {
    let broker = guarded(None);
    let port = broker.addr().port().to_string();
    for version in VERSIONS {
        publish(&broker, BOSS, &["-t", "a", "-m", "x", "-q", "2", "-V", version]).with(0);
        for who in [("boss", "wrong"), ("nobody", "b0ss"), ("boss", "")] {
            let begun = Instant::now();
            let ended = publish(&broker, who, &["-t", "a", "-m", "x", "-q", "1", "-V", version]);
            assert_ne!(ended.code, Some(0));
            assert!(ended.err.to_lowercase().contains("bad user name or password"), "{version}: {}", ended.err);
            assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "trying out takes long");
        }
        let line = ["-h", "127.0.0.1", "-p", &port, "-t", "a", "-m", "x", "-V", version];
        let ended = run(Command::new("mosquitto_pub").args(line), b"");
        assert!(ended.code != Some(0) && ended.err.to_lowercase().contains("not authori"), "{version}: {}", ended.err);
    }
}

#[test]
fn a_user_publishes_only_where_it_may_and_its_will_too() {
    let broker = guarded(None);
    let mut sub = subscribe(&broker, BOSS, &["-t", "#", "-F", "got %t %p"]);
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let args = |topic| ["-t", topic, "-m", qos, "-q", qos, "-V", version, "-d"];
            let denied = publish(&broker, PANEL, &args("house/pump/state"));
            let said = denied.text() + &denied.err;
            assert!(version == "mqttv311" || qos == "0" || said.contains("ot authorized"), "{version} {qos}: {said}");
            assert!(version == "mqttv5" || denied.code == Some(0), "{said}");
            publish(&broker, PANEL, &args("house/pump/set")).with(0);
            sub.out.wait_for(&format!("got house/pump/set {qos}\n"));
        }
        let will = ["-t", "house/x/set", "-m", "x", "--will-topic", "elsewhere", "--will-payload", "x", "-V", version];
        let ended = publish(&broker, PANEL, &will);
        assert!(ended.code != Some(0) && ended.err.to_lowercase().contains("not authori"), "{}", ended.err);
    }
    let heard = sub.out.so_far();
    assert!(!heard.contains("house/pump/state") && !heard.contains("elsewhere"), "{heard}");
}

#[test]
fn a_user_hears_only_what_it_may_and_its_other_subscriptions_stand() {
    let broker = guarded(None);
    for version in VERSIONS {
        let wide =
            client(&broker, "mosquitto_sub", PANEL, &["-t", "#", "-t", "other", "-V", version]).output().unwrap();
        let said = String::from_utf8_lossy(&wide.stderr).into_owned();
        assert!(said.contains("denied"), "{version}: {said}");
        let args = ["-t", "other", "-t", "house/a", "-t", "#", "-t", "news", "-V", version, "-F", "got %t %p"];
        let mut sub = subscribe(&broker, PANEL, &args);
        for topic in ["other", "house/a", "house/b", "news"] {
            publish(&broker, BOSS, &["-t", topic, "-m", "x", "-q", "1"]).with(0);
        }
        sub.out.wait_for("got news x\n");
        let heard: Vec<String> =
            sub.out.so_far().lines().filter(|l| l.starts_with("got ")).map(str::to_owned).collect();
        assert_eq!(heard, ["got house/a x", "got news x"], "{version}");
        // the answer told of each, in order
        let answer = sub.out.so_far().lines().find(|l| l.starts_with("Subscribed")).unwrap().to_owned();
        let refused = if version == "mqttv5" { "135" } else { "128" };
        let codes: Vec<&str> = answer.rsplit(": ").next().unwrap().split(", ").collect();
        assert_eq!(codes, [refused, "0", refused, "0"], "{answer}");
    }
}

#[test]
fn retained_messages_and_a_kept_session_work_behind_the_gate_and_no_other_user_takes_the_session() {
    let broker = guarded(None);
    for version in VERSIONS {
        let kept = ["-t", "house/q", "-q", "1", "-i", version, "-c", "-V", version, "-x", "60"];
        let kept = if version == "mqttv5" { &kept[..] } else { &kept[..9] };
        subscribe(&broker, PANEL, kept).signal(Signal::SIGKILL);
        // the same id of another user is another client
        let other = ["-t", "house/other", "-q", "1", "-i", version, "-V", version];
        let _other = subscribe(&broker, BOSS, &other);
        for n in ["1", "2"] {
            publish(&broker, BOSS, &["-t", "house/q", "-m", n, "-q", "1", "-V", version]).with(0);
        }
        let mut again = Program::start(&mut client(&broker, "mosquitto_sub", PANEL, &[kept, &["-C", "2"]].concat()));
        assert_eq!(again.end().with(0).text(), "1\n2\n", "{version}");
        publish(&broker, BOSS, &["-t", "house/r", "-m", version, "-q", "1", "-r"]).with(0);
        let mut sub = subscribe(&broker, PANEL, &["-t", "house/r", "-V", version]);
        sub.out.wait_for(version);
    }
}

#[test]
fn large_messages_pass_the_gate_both_ways_while_others_are_refused() {
    let broker = guarded(None);
    let big = "x".repeat(600_000);
    let mut sub = Program::start(&mut client(
        &broker,
        "mosquitto_sub",
        BOSS,
        &["-t", "house/+/set", "-q", "1", "-C", "20", "-N"],
    ));
    let begun = Instant::now();
    // it is subscribed once a small one arrives; that one counts
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &big).unwrap();
    let path = file.path().display().to_string();
    let publisher = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            while begun.elapsed() < PATIENCE {
                for _ in 0..5 {
                    publish(&broker, PANEL, &["-t", "house/a/set", "-f", &path, "-q", "1"]).with(0);
                    publish(&broker, PANEL, &["-t", "no", "-m", "x", "-q", "1", "-V", "mqttv311"]).with(0);
                }
                if broker_done(&file) {
                    return;
                }
            }
        });
        let ended = sub.end().with(0);
        assert_eq!(ended.out.len(), 20 * big.len());
        std::fs::write(file.path(), "").unwrap();
        sender.join()
    });
    publisher.unwrap();
}

/// The reader has said that it is enough.
fn broker_done(file: &tempfile::NamedTempFile) -> bool {
    file.path().metadata().unwrap().len() == 0
}

#[test]
fn with_tls_everything_is_as_before_and_nobody_comes_in_the_clear() {
    let certificate = Certificate::new();
    let broker = guarded(Some(&certificate));
    assert!(broker.url().starts_with("mqtts://"));
    let ca = certificate.file("cert.pem").display().to_string();
    for version in VERSIONS {
        let tls = ["--cafile", &ca, "-V", version];
        let mut sub = subscribe(&broker, PANEL, &[&["-t", "house/#", "-F", "got %p"], &tls[..]].concat());
        publish(&broker, PANEL, &[&["-t", "house/a/set", "-m", "safe", "-q", "2"], &tls[..]].concat()).with(0);
        sub.out.wait_for("got safe\n");
    }
    let clear = publish(&broker, BOSS, &["-t", "a", "-m", "x", "-q", "1"]);
    assert_ne!(clear.code, Some(0));
    let missing =
        Broker { tls: Some(("/none".into(), "/none".into())), ..Broker::open("127.0.0.1:0".parse().unwrap()) };
    assert!(embedded::start_with(missing).unwrap_err().contains("/none"));
}

fn file(dir: &Path, text: &str) -> String {
    let file = dir.join("p.yaml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn the_daemon_is_a_user_of_its_own_broker_and_the_hash_comes_from_the_command() {
    let ended = run(&mut pinpost(["broker", "--hash-password"]), b"s3cret pass\n").with(0);
    let hash = ended.text().trim().to_owned();
    assert!(hash.starts_with("$7$"), "{hash}");
    run(&mut pinpost(["broker", "--hash-password"]), b"\n").with(1);
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = |login: &str| {
        format!(
            "version: 1
gateway: {{ id: gw }}
mqtt: {{ url: mqtt://127.0.0.1:{port}{login} }}
queue: {{ dir: queue }}
broker:
  listen: 127.0.0.1:{port}
  users:
    gw: {{ password_hash: \"{hash}\" }}
    guest: {{ password_hash: \"{hash}\", publish: [], subscribe: [gw/door] }}
devices: {{ door: {{ kind: digital_in, pin: 17, retain: true }} }}
"
        )
    };
    let path = file(dir.path(), &text(""));
    let wrong = run(&mut pinpost(["check", &path]), b"").with(78);
    let said = wrong.text() + &wrong.err;
    assert!(said.contains("may not come in") && !said.contains(&hash), "{said}");
    let path = file(dir.path(), &text(", username: gw, password: s3cret pass"));
    let ended = run(&mut pinpost(["check", &path]), b"").with(0);
    assert!(!(ended.text() + &ended.err).contains("$7$"));
    let ended = run(&mut pinpost(["explain", &path]), b"").with(0);
    assert!(ended.text().contains("user guest") && !ended.text().contains("$7$") && !ended.text().contains("s3cret"));
    let mut daemon = Program::start(&mut pinpost(["run", "--simulate", "-c", &path]));
    daemon.err.wait_for("connected");
    let port = port.to_string();
    let mut line = Command::new("mosquitto_sub");
    line.args(["-h", "127.0.0.1", "-p", &port, "-u", "guest", "-P", "s3cret pass", "-t", "gw/door", "-C", "1"]);
    assert_eq!(run(&mut line, b"").with(0).text(), "OFF\n");
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.end().with(0);
    assert!(!ended.err.contains("s3cret") && !ended.err.contains("$7$"), "{}", ended.err);
}
