//! What every proof has: a daemon with a sensor on a pty and a pump, a mosquitto behind a door that can be shut, a
//! listener, the books, and dice.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastrand::Rng;
use pinpost::queue::Kept;
use serde_json::Value as Json;

use crate::books::{Books, Heard, Listener, on_disk};
use crate::lab::QueueThread;
use crate::support::gateway::{Door, Gateway, Home, Pty};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::PATIENCE;

/// Between two looks at what gives no sign of itself: a disk, a thread.
const LOOK: Duration = Duration::from_millis(2);

/// A number from the environment.
pub fn wish(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

pub struct Rig {
    pub home: Home,
    pub pty: Pty,
    pub broker: Mosquitto,
    ear: Option<std::thread::JoinHandle<()>>,
    pub listener: Listener,
    pub door: Door,
    pub open: bool,
    pub books: Books,
    pub rng: Rng,
    /// What was heard and is not a reading, until it is asked for.
    pub talk: Vec<Heard>,
    pub gateway: Option<Gateway>,
    /// Nothing is fed that the broker refuses: so much of it that the dead-letter file, which is bounded, is no record.
    pub all_welcome: bool,
    /// What is being done, for the one who reads of a failure.
    pub name: String,
}

impl Rig {
    /// `queue`: keys of the queue.
    pub fn new(seed: u64, queue: &str) -> Rig {
        // Nobody may publish on probe/c: the broker refuses it for good. (With max_queued_messages 0, no limit,
        // mosquitto 2.0.11 would end the connection with every refusal.)
        let broker = Mosquitto::with(|port, dir| {
            std::fs::write(dir.join("acl"), "topic readwrite #\ntopic deny gw/probe/c\n").unwrap();
            let acl = dir.join("acl");
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 1000000\nacl_file {}\n",
                acl.display()
            )
        });
        let listener = Listener::default();
        let ear = Some(listener.attach(broker.port()));
        let door = Door::to(broker.port());
        let home = Home::new(&door.url(), "", "", "");
        let pty = Pty::new(home.path("port"));
        let rig = Rig {
            home,
            pty,
            broker,
            ear,
            listener,
            door,
            open: false,
            books: Books::default(),
            rng: Rng::with_seed(seed),
            talk: Vec::new(),
            gateway: None,
            all_welcome: false,
            name: String::new(),
        };
        rig.configure("", queue);
        rig
    }

    /// Writes the daemon's file.
    pub fn configure(&self, mqtt: &str, queue: &str) {
        self.home.write(&format!(
            "version: 1
gateway: {{ id: gw }}
mqtt: {{ url: \"${{GW_URL}}\", {mqtt} }}
queue: {{ dir: {}, {queue} }}
ports: {{ p: {{ path: {} }} }}
devices:
  probe:
    kind: serial
    port: p
    frame: {{ delimiter: \"\\n\", max: 2048 }}
    decode: {{ type: keyvalue }}
    points: {{ a: {{ field: A }}, b: {{ field: B }}, c: {{ field: C }} }}
  pump: {{ kind: digital_out, pin: 27 }}
",
            self.dir().display(),
            self.pty.name().display()
        ));
    }

    /// The queue's directory.
    pub fn dir(&self) -> PathBuf {
        self.home.path("state/queue")
    }

    pub fn set_door(&mut self, open: bool) {
        self.open = open;
        if open { self.door.open() } else { self.door.close() }
    }

    /// Starts a daemon on a new pty; it listens when this returns, if it lives.
    pub fn start(&mut self) {
        let command = self.home.command();
        self.start_with(command);
    }

    /// The same with a command of one's own.
    pub fn start_with(&mut self, mut command: std::process::Command) {
        self.pty.plug();
        let program = crate::support::program::Program::start(&mut command);
        self.gateway = Some(Gateway { program });
        let pts = std::fs::read_link(self.pty.name()).unwrap();
        let fds = format!("/proc/{}/fd", self.pid());
        let opened = || {
            let dir = std::fs::read_dir(&fds).ok()?;
            let mut fds = dir.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
            fds.any(|to| to == pts).then_some(())
        };
        let begun = Instant::now();
        while self.lives() && opened().is_none() {
            let said = || self.gateway.as_ref().unwrap().program.err.so_far();
            assert!(begun.elapsed() < PATIENCE, "the daemon does not open its port: {}", said());
            self.listen(LOOK);
        }
        // What is in the line at the opening is thrown away, and a line that has begun.
        self.pty.write(b"\n");
    }

    pub fn pid(&self) -> u32 {
        self.gateway.as_ref().unwrap().pid()
    }

    pub fn lives(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// So many readings are written into the port, each with a number of its own; `pad`: further bytes of some.
    /// One in sixteen is a reading that the broker will refuse. False if nobody reads them any more.
    pub fn feed(&mut self, count: u64, pad: usize) -> bool {
        for _ in 0..count {
            let n = self.books.written;
            let line = match n % 16 {
                15 if !self.all_welcome => format!("C={n}\n"),
                even if even % 2 == 0 => format!("A={n}\n"),
                _ if pad > 0 => format!("B={n}_{}\n", "x".repeat(pad)),
                _ => format!("B={n}\n"),
            };
            for part in line.as_bytes().chunks(128) {
                while !self.pty.has_room(LOOK * 10) {
                    if !self.lives() {
                        return false;
                    }
                }
                self.pty.write(part);
            }
            self.books.written = n + 1;
        }
        true
    }

    /// The last number that was written and that the broker does not refuse.
    pub fn last(&self) -> u64 {
        let last = self.books.written - 1;
        if last % 16 == 15 { last - 1 } else { last }
    }

    /// Takes in what was heard; waits for something, at most so long.
    pub fn listen(&mut self, at_most: Duration) {
        self.listener.wait(at_most);
        for heard in self.listener.take() {
            self.books.arrived(&heard);
            self.talk.push(heard);
        }
        // Only the latest talk is of interest.
        if self.talk.len() > 4096 {
            self.talk.drain(..2048);
        }
    }

    /// Waits until something is there that gives no sign of itself.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut there: impl FnMut(&mut Rig) -> bool) {
        let begun = Instant::now();
        while !there(self) {
            if begun.elapsed() >= PATIENCE {
                let said = self.gateway.as_ref().map(|g| g.program.err.so_far()).unwrap_or_default();
                panic!("{}: in vain: {what}; {}; the daemon said: {said}", self.name, self.books);
            }
            self.listen(LOOK);
        }
    }

    /// Whether this number is on disk or has come.
    pub fn is_kept(&self, n: u64) -> bool {
        let is = |k: &Kept| crate::books::name_of(k).1 == n;
        self.books.has_come(n) || on_disk(&self.dir()).iter().any(is)
    }

    /// Waits until this number is on disk or has come.
    #[track_caller]
    pub fn until_kept(&mut self, n: u64) {
        self.until(&format!("{n} is kept"), |rig| rig.is_kept(n));
    }

    /// Writes readings until the last of them is on disk or has come: the first may fall into the opening of the port.
    pub fn keep_one(&mut self) {
        let begun = Instant::now();
        loop {
            let (n, fed) = (self.last(), Instant::now());
            while fed.elapsed() < Duration::from_millis(100) {
                if self.is_kept(n) {
                    return;
                }
                self.listen(LOOK);
            }
            assert!(begun.elapsed() < PATIENCE, "{}: it keeps nothing; {}", self.name, self.books);
            self.feed(1, 0);
        }
    }

    /// With the door open: writes readings until one comes. From its number on, which is returned, none may get lost:
    /// what is written earlier may fall into the opening of the port. `None`: the daemon has ended.
    pub fn hello(&mut self) -> Option<u64> {
        let begun = Instant::now();
        let mut said = Vec::new();
        loop {
            let refused = u64::from(self.books.written % 16 == 15);
            self.feed(1 + refused, 0);
            said.push(self.last());
            let fed = Instant::now();
            while fed.elapsed() < Duration::from_millis(50) {
                self.listen(LOOK);
                if let Some(n) = said.iter().find(|n| self.books.has_come(**n)) {
                    return Some(*n);
                }
            }
            if !self.lives() {
                return None;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{}: it reads nothing; {}; {}",
                self.name,
                self.books,
                self.gateway.as_ref().unwrap().program.err.so_far()
            );
        }
    }

    /// Waits until this number has come.
    #[track_caller]
    pub fn until_come(&mut self, n: u64) {
        self.until(&format!("{n} comes"), |rig| rig.books.has_come(n));
    }

    /// A look at the disk; what is there is accepted once the queue's thread rests. Without a thread that rests at
    /// once nothing is accepted.
    pub fn look(&mut self, wait: Duration) {
        let seen = on_disk(&self.dir());
        let Some(thread) = QueueThread::of(self.pid()) else { return };
        let begun = Instant::now();
        loop {
            if thread.rests() {
                return self.books.accept(&seen);
            }
            if begun.elapsed() > wait {
                return;
            }
            self.listen(Duration::from_micros(200));
        }
    }

    /// Hears everything that the broker had from a daemon that has ended: what is published now comes behind it.
    pub fn hear_out(&mut self) {
        self.talk.retain(|h| h.topic != "fence");
        crate::support::gateway::publish(&self.broker, "fence", "here", &[]);
        self.until("the fence", |rig| rig.talk.iter().any(|h| h.topic == "fence"));
    }

    /// Kills the daemon (SIGKILL) and hears what is still on its way.
    pub fn kill(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            let said = gateway.kill();
            assert!(!said.contains("panicked"), "{said}");
        }
        match self.ear {
            Some(_) => self.hear_out(),
            // there is no broker: all that it said was heard when it ended
            None => self.listen(Duration::ZERO),
        }
    }

    /// The broker dies (SIGKILL); everything that it has said is heard.
    pub fn kill_broker(&mut self) {
        self.set_door(false);
        self.broker.kill();
        self.ear.take().unwrap().join().unwrap();
        self.listen(Duration::ZERO);
    }

    pub fn restart_broker(&mut self) {
        self.broker.restart();
        self.ear = Some(self.listener.attach(self.broker.port()));
    }

    /// The present health, asked for as a user would.
    pub fn health(&mut self) -> Json {
        self.talk.retain(|h| h.topic != "gw/bridge/response/health");
        crate::support::gateway::publish(&self.broker, "gw/bridge/request/health", "{}", &[]);
        let mut answer = Json::Null;
        self.until("the health", |rig| {
            let at = rig.talk.iter().position(|h| h.topic == "gw/bridge/response/health");
            at.map(|at| answer = rig.talk.remove(at).json()).is_some()
        });
        crate::books::balanced(&answer);
        answer
    }

    /// Opens the door, waits until everything has left, and stops the daemon in order: the disk must be empty.
    pub fn finish(&mut self) {
        if self.gateway.is_none() {
            self.start();
        }
        self.set_door(true);
        assert!(self.hello().is_some(), "{}: the daemon has ended", self.name);
        // What still stands in the port when the daemon is stopped was never read, so it is not lost.
        self.until_come(self.last());
        self.until("everything has left", |rig| {
            let health = rig.health();
            health["queue"]["waiting"] == 0
        });
        self.stop();
        let left = on_disk(&self.dir());
        assert!(left.is_empty(), "{} readings are left, such as {:?}", left.len(), left.first());
        let dir = self.dir();
        self.books.audit("at the end", &dir, usize::MAX);
        self.books.settled();
    }

    /// Waits until everything has left, and stops a daemon whose disk is sick.
    pub fn finish_sick(&mut self) {
        self.until("everything has left", |rig| rig.health()["queue"]["waiting"] == 0);
        self.stop();
    }

    /// Stops the daemon in order.
    pub fn stop(&mut self) {
        let ended = self.gateway.take().unwrap().stop();
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        // The last word: everything before it is heard too.
        self.until("offline", |rig| rig.talk.iter().any(|h| h.topic == "gw/bridge/state" && h.payload == b"offline"));
        self.talk.clear();
    }
}
