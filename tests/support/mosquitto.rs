//! A real mosquitto on a free port of the loopback interface, for one test; it is killed when the test ends.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::program::{Ended, Program};

type Config = Box<dyn Fn(u16, &Path) -> String>;

/// A broker.
pub struct Mosquitto {
    program: Option<Program>,
    port: u16,
    dir: TempDir,
    config: Config,
}

impl Mosquitto {
    /// One that lets everyone in.
    pub fn start() -> Mosquitto {
        Mosquitto::with(|port, _| format!("listener {port} 127.0.0.1\nallow_anonymous true\n"))
    }

    /// One with the configuration that this makes from a port and a directory of its own.
    pub fn with(config: impl Fn(u16, &Path) -> String + 'static) -> Mosquitto {
        let dir = tempfile::tempdir().unwrap();
        let mut mosquitto = Mosquitto { program: None, port: 0, dir, config: Box::new(config) };
        // Between finding a port and mosquitto's use of it another test may take it.
        for _ in 0..10 {
            mosquitto.port = free_port();
            if mosquitto.try_run() {
                return mosquitto;
            }
        }
        panic!("mosquitto found no free port");
    }

    fn try_run(&mut self) -> bool {
        let file = self.dir.path().join("mosquitto.conf");
        let text = (self.config)(self.port, self.dir.path());
        // As root it would give up its rights and no longer read this directory.
        fs::write(&file, format!("user root\nlog_dest stderr\nlog_type all\nconnection_messages true\n{text}"))
            .unwrap();
        let mut program = Program::start(Command::new(binary()).arg("-c").arg(&file));
        // Either it runs or it ends; both end the wait for a line.
        loop {
            let line = program.err.line();
            if line.ends_with(" running") {
                self.program = Some(program);
                return true;
            }
            if line.contains("Address already in use") {
                return false;
            }
            assert!(!line.contains("Error"), "mosquitto: {line}\n{text}");
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("mosquitto runs")
    }

    pub fn pid(&mut self) -> u32 {
        self.program().pid()
    }

    /// Waits for a line in its log that has this text, behind what was awaited before.
    pub fn wait_log(&mut self, text: &str) {
        self.program().err.wait_for(text);
    }

    /// Its log up to now.
    pub fn log(&mut self) -> String {
        self.program().err.so_far()
    }

    /// Stops it in order.
    pub fn stop(&mut self) -> Ended {
        let mut program = self.program.take().expect("mosquitto runs");
        program.signal(Signal::SIGTERM);
        program.end()
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        self.program = None;
    }

    /// Starts it again after `stop` or `kill`, on the same port with the same configuration.
    pub fn restart(&mut self) {
        assert!(self.program.is_none(), "mosquitto still runs");
        assert!(self.try_run(), "port {} was taken meanwhile", self.port);
    }

    /// Freezes it: connections stay, nothing answers.
    pub fn pause(&mut self) {
        self.program().signal(Signal::SIGSTOP);
    }

    /// Thaws it.
    pub fn resume(&mut self) {
        self.program().signal(Signal::SIGCONT);
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn binary() -> PathBuf {
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/bin/mosquitto"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .expect("these tests need mosquitto: apt install mosquitto mosquitto-clients")
}
