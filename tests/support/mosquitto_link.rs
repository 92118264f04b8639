//! A real mosquitto for the link's tests: on a free port of the loopback, with its files in a directory of its own,
//! killed by its pid when dropped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

pub struct Mosquitto {
    pub port: u16,
    dir: TempDir,
    child: Option<Child>,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Mosquitto {
    /// Prepared, not started. `more` is appended to the configuration; `acl` is an access list.
    pub fn prepared(more: &str, acl: Option<&str>) -> Mosquitto {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name).display().to_string();
        // As root it would become another user and could not read the files of the test.
        let mut config = format!(
            "user root\nlistener {port} 127.0.0.1\nlog_dest stderr\nallow_anonymous true\nmax_queued_messages 100000\n{more}\n"
        );
        if let Some(acl) = acl {
            fs::write(at("acl"), acl).unwrap();
            config += &format!("acl_file {}\n", at("acl"));
        }
        fs::write(at("mosquitto.conf"), config).unwrap();
        Mosquitto { port, dir, child: None }
    }

    /// Started, and it answers.
    pub fn started(more: &str, acl: Option<&str>) -> Mosquitto {
        let mut broker = Mosquitto::prepared(more, acl);
        broker.start();
        broker
    }

    /// Starts it and waits until it says that it runs.
    pub fn start(&mut self) {
        let mut child = Command::new("mosquitto")
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mosquitto is installed");
        let log = BufReader::new(child.stderr.take().unwrap());
        self.child = Some(child);
        let (tell, told) = mpsc::channel();
        // Read to the end, or mosquitto would block on a full pipe.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut said = Vec::new();
        loop {
            match told.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.ends_with(" running") => return,
                Ok(line) => said.push(line),
                Err(_) => panic!("mosquitto does not start: {said:#?}"),
            }
        }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Publishes with mosquitto_pub; the link goes on meanwhile.
    pub async fn publish(&self, args: &[&str]) {
        let port = self.port.to_string();
        let mut publisher = tokio::process::Command::new("mosquitto_pub");
        publisher.args(["-h", "127.0.0.1", "-p", &port]).args(args);
        assert!(publisher.status().await.unwrap().success());
    }

    /// One message a line, by one mosquitto_pub, at QoS 1.
    pub async fn publish_lines(&self, topic: &str, lines: &str) {
        let port = self.port.to_string();
        let mut publisher = tokio::process::Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-q", "1", "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        publisher.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
        assert!(publisher.wait().await.unwrap().success());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}
