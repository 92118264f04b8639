//! The real daemon with a file of the test's own, and what a foreign client sees of it.
//!
//! [`Home`] is a directory with a configuration and a state; [`Gateway`] is one run of `pinpost run` on it; [`Watch`] is a
//! mosquitto_sub whose messages are awaited topic by topic.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::termios;
use serde_json::Value as Json;

use super::mosquitto::Mosquitto;
use super::program::{Ended, PATIENCE, Program, pinpost, run};

/// A directory with a configuration file and, below it, the state of the daemons that run with it.
pub struct Home {
    dir: tempfile::TempDir,
    environment: Vec<(String, std::ffi::OsString)>,
    simulate: bool,
}

impl Home {
    /// For the broker at `url`. `mqtt`, `queue`: further keys of these tables in flow style; `rest`: everything else.
    pub fn new(url: &str, mqtt: &str, queue: &str, rest: &str) -> Home {
        let home = Home {
            dir: tempfile::tempdir().unwrap(),
            environment: vec![("GW_URL".into(), url.into())],
            simulate: true,
        };
        home.write(&format!(
            "version: 1\ngateway: {{ id: gw }}\nmqtt: {{ url: \"${{GW_URL}}\", {mqtt} }}\nqueue: {{ dir: {}, {queue} }}\n{rest}",
            home.path("state/queue").display()
        ));
        home
    }

    /// The same with nothing beside the broker and the devices.
    pub fn simple(broker: &Mosquitto, rest: &str) -> Home {
        Home::new(&broker.url(), "", "", rest)
    }

    /// With the machine's own pins, as this environment shows them.
    pub fn on_pins<V: Into<std::ffi::OsString>>(
        mut self,
        environment: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Home {
        self.simulate = false;
        self.environment.extend(environment.into_iter().map(|(k, v)| (k.to_owned(), v.into())));
        self
    }

    /// With a variable in its environment.
    pub fn with_env(mut self, name: &str, value: &str) -> Home {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Another file.
    pub fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    pub fn file(&self) -> PathBuf {
        self.path("gateway.yaml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command line of the program in this environment.
    pub fn pinpost(&self, args: &[&str]) -> Command {
        let mut command = pinpost(args);
        command.envs(self.environment.iter().cloned()).env_remove("STATE_DIRECTORY");
        command
    }

    /// `pinpost run` on it.
    pub fn command(&self) -> Command {
        let file = self.file().display().to_string();
        let mut args = vec!["run", "-c", &file];
        if self.simulate {
            args.push("--simulate");
        }
        self.pinpost(&args)
    }

    /// A daemon; that it is connected is for the test to await.
    pub fn start(&self) -> Gateway {
        Gateway { program: Program::start(&mut self.command()) }
    }

    /// A daemon that has said `online` to a watcher of everything.
    pub fn online(&self, watch: &mut Watch) -> Gateway {
        let mut gateway = self.start();
        watch.online(&mut gateway);
        gateway
    }
}

/// A running daemon.
pub struct Gateway {
    pub program: Program,
}

impl Gateway {
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Waits for a text in its log, behind what was awaited before.
    pub fn log(&mut self, text: &str) {
        self.program.err.wait_for(text);
    }

    /// Stops it in order; it must end with 0.
    #[track_caller]
    pub fn stop(mut self) -> Ended {
        self.program.signal(Signal::SIGTERM);
        self.program.end().with(0)
    }

    /// Kills it (SIGKILL); gives what it said.
    pub fn kill(mut self) -> String {
        self.program.signal(Signal::SIGKILL);
        self.program.end().err
    }

    /// A figure of `/proc/PID/FILE`, such as `VmRSS` of `status` or `write_bytes` of `io`.
    pub fn figure(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap();
        let line = text.lines().find(|l| l.starts_with(&format!("{name}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// A message as a foreign client got it.
#[derive(Debug, Clone)]
pub struct Got {
    pub topic: String,
    pub payload: String,
    pub qos: u64,
    pub retain: bool,
    pub user: BTreeMap<String, String>,
    pub properties: Json,
}

impl Got {
    fn of(line: &str) -> Got {
        let json: Json = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let user = json["properties"]["user-properties"].as_object();
        let text = |v: &Json| v.as_str().unwrap_or_default().to_owned();
        Got {
            topic: text(&json["topic"]),
            payload: text(&json["payload"]),
            qos: json["qos"].as_u64().unwrap(),
            retain: json["retain"] == 1,
            user: user.into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect(),
            properties: json["properties"].clone(),
        }
    }

    #[track_caller]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.payload).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub fn seq(&self) -> u64 {
        self.user.get("seq").unwrap_or_else(|| panic!("no seq: {self:?}")).parse().unwrap()
    }
}

/// Ids of clients that the broker's log can tell apart.
fn fresh(word: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{word}{}x", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A mosquitto_sub: every message is kept until it is asked for by its topic.
pub struct Watch {
    program: Program,
    waiting: VecDeque<Got>,
    /// Every line that came.
    pub lines: Vec<String>,
}

impl Watch {
    /// Subscribed when it returns.
    pub fn on(broker: &mut Mosquitto, filter: &str) -> Watch {
        Watch::with(broker, filter, &["-V", "mqttv5"])
    }

    /// The same with further arguments.
    pub fn with(broker: &mut Mosquitto, filter: &str, args: &[&str]) -> Watch {
        let id = fresh("watch");
        let program = Program::start(
            Command::new("mosquitto_sub")
                .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-i", &id])
                .args(["-t", filter, "-q", "1", "-F", "%j"])
                .args(args),
        );
        broker.wait_log(&format!("Sending SUBACK to {id}"));
        Watch { program, waiting: VecDeque::new(), lines: Vec::new() }
    }

    /// The same at any broker on this machine: it listens when this is called.
    pub fn at(port: u16, filter: &str) -> Watch {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", &port.to_string(), "-V", "mqttv5"]);
        let mut program = Program::start(command.args(["-t", filter, "-q", "2", "-F", "%j"]));
        program.out.wait_for("Subscribed (mid");
        Watch { program, waiting: VecDeque::new(), lines: Vec::new() }
    }

    fn pull(&mut self) -> Got {
        // its debug lines are no messages
        let line = loop {
            let line = self.program.out.line();
            if line.starts_with('{') {
                break line;
            }
        };
        let got = Got::of(&line);
        self.lines.push(line);
        got
    }

    /// The next message of any topic.
    pub fn any(&mut self) -> Got {
        self.waiting.pop_front().unwrap_or_else(|| self.pull())
    }

    /// The next message on a topic.
    pub fn next(&mut self, topic: &str) -> Got {
        if let Some(at) = self.waiting.iter().position(|g| g.topic == topic) {
            return self.waiting.remove(at).unwrap();
        }
        let begun = Instant::now();
        loop {
            let got = self.pull();
            if got.topic == topic {
                return got;
            }
            self.waiting.push_back(got);
            assert!(begun.elapsed() < PATIENCE, "nothing on {topic}; there was {:#?}", self.waiting);
        }
    }

    /// The next message on a topic must be this.
    #[track_caller]
    pub fn expect(&mut self, topic: &str, payload: &str) -> Got {
        let got = self.next(topic);
        assert_eq!(got.payload, payload, "{got:?}");
        got
    }

    /// The next message on a topic for which this holds; those before it are passed over.
    pub fn until(&mut self, topic: &str, found: impl Fn(&Got) -> bool) -> Got {
        loop {
            let got = self.next(topic);
            if found(&got) {
                return got;
            }
        }
    }

    /// The next message on a topic with this payload; those before it are passed over.
    pub fn until_payload(&mut self, topic: &str, payload: &str) -> Got {
        self.until(topic, |g| g.payload == payload)
    }

    /// What came on a topic and was not asked for.
    pub fn left(&self, topic: &str) -> Vec<&Got> {
        self.waiting.iter().filter(|g| g.topic == topic).collect()
    }

    /// Forgets what came so far.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Until the daemon has said `online`, and has told everything that it tells at once (health comes last).
    pub fn online(&mut self, gateway: &mut Gateway) {
        let begun = Instant::now();
        while self.waiting.iter().all(|g| g.payload != "online" || !g.topic.ends_with("/bridge/state")) {
            let ended = nix::sys::wait::waitpid(
                nix::unistd::Pid::from_raw(gateway.pid() as i32),
                Some(nix::sys::wait::WaitPidFlag::WNOHANG),
            );
            assert!(
                matches!(ended, Ok(nix::sys::wait::WaitStatus::StillAlive)) && begun.elapsed() < PATIENCE,
                "it did not get online: {}",
                gateway.program.err.so_far()
            );
            let got = self.pull();
            self.waiting.push_back(got);
        }
        self.until_payload("gw/bridge/state", "online");
        self.next("gw/bridge/health");
    }
}

/// Publishes by mosquitto_pub at QoS 1 with MQTT 5; it has been acknowledged when this returns.
pub fn publish(broker: &Mosquitto, topic: &str, payload: &str, args: &[&str]) {
    publish_at(broker.port(), topic, payload, args);
}

/// The same at any broker on this machine.
pub fn publish_at(port: u16, topic: &str, payload: &str, args: &[&str]) {
    let port = port.to_string();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-V", "mqttv5", "-t", topic]);
    match payload {
        "" => command.arg("-n"),
        _ => command.args(["-m", payload]),
    };
    run(command.args(args), b"").with(0);
}

/// A pty whose end for the daemon has a stable name.
pub struct Pty {
    master: Option<fs::File>,
    link: PathBuf,
}

impl Pty {
    /// `link` will point to it.
    pub fn new(link: PathBuf) -> Pty {
        let mut pty = Pty { master: None, link };
        pty.plug();
        pty
    }

    /// A new pty takes the name.
    pub fn plug(&mut self) {
        // no other program of the tests may inherit an end of it: it would keep the line alive
        let how = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = nix::pty::posix_openpt(how).unwrap();
        nix::pty::grantpt(&master).unwrap();
        nix::pty::unlockpt(&master).unwrap();
        let node = nix::pty::ptsname_r(&master).unwrap();
        let slave = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&node).unwrap();
        let mut raw = termios::tcgetattr(&slave).unwrap();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&slave, termios::SetArg::TCSANOW, &raw).unwrap();
        let new = self.link.with_extension("new");
        std::os::unix::fs::symlink(node, &new).unwrap();
        fs::rename(new, &self.link).unwrap();
        self.master = Some(OwnedFd::from(master).into());
    }

    /// The adapter is pulled: the name is gone, and the line ends.
    pub fn unplug(&mut self) {
        fs::remove_file(&self.link).unwrap();
        self.master = None;
    }

    /// The far end, for an instrument that runs by itself.
    pub fn master(&self) -> fs::File {
        self.master.as_ref().unwrap().try_clone().unwrap()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.master.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Whether there is room for a few hundred bytes: whoever reads the other end has kept up. Waits at most so long.
    pub fn has_room(&self, at_most: Duration) -> bool {
        let master = self.master.as_ref().unwrap();
        let mut fds = [nix::poll::PollFd::new(master.as_fd(), nix::poll::PollFlags::POLLOUT)];
        let timeout = nix::poll::PollTimeout::try_from(at_most).unwrap();
        nix::poll::poll(&mut fds, timeout).unwrap() == 1
    }

    /// So many bytes that the daemon has written.
    pub fn read(&mut self, n: usize) -> Vec<u8> {
        let mut from = self.master.as_ref().unwrap().try_clone().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut bytes = vec![0; n];
            let result = from.read_exact(&mut bytes).map(|()| bytes);
            let _ = tell.send(result);
        });
        told.recv_timeout(PATIENCE).expect("the daemon writes nothing").unwrap()
    }

    pub fn name(&self) -> &Path {
        &self.link
    }
}

/// A door in front of a broker: closed, it refuses and cuts what goes through.
pub struct Door {
    pub port: u16,
    state: Arc<Mutex<(bool, Vec<TcpStream>)>>,
}

impl Door {
    /// Closed.
    pub fn to(broker: u16) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new((false, Vec::new())));
        let shared: Arc<Mutex<(bool, Vec<TcpStream>)>> = state.clone();
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let mut state = shared.lock().unwrap();
                let Some(to) = state.0.then(|| TcpStream::connect(("127.0.0.1", broker)).ok()).flatten() else {
                    continue;
                };
                for (mut a, mut b) in
                    [(&from, &to), (&to, &from)].map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
                {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut a, &mut b);
                        let _ = (a.shutdown(Shutdown::Both), b.shutdown(Shutdown::Both));
                    });
                }
                state.1.extend([from, to]);
            }
        });
        Door { port, state }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub fn open(&self) {
        self.state.lock().unwrap().0 = true;
    }

    pub fn close(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = false;
        for stream in state.1.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// How long something took, for promises about time.
#[track_caller]
pub fn within(limit: Duration, what: &str, body: impl FnOnce()) {
    let begun = Instant::now();
    body();
    assert!(begun.elapsed() < limit, "{what} took {:?}", begun.elapsed());
}
