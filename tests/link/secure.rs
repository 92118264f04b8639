//! The link over TLS and over IPv6, against a real mosquitto; certificates are made by openssl for the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use pinpost::link::tls::TlsFiles;
use pinpost::link::{LinkConfig, Protocol};

use super::link_outbox::{Memory, Running, config, message};
use super::mosquitto::{Mosquitto, free_port};

const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V311];

pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Two authorities (`ca`, `stranger`), a broker's certificate for `localhost`, one that expired yesterday, a client's.
    pub fn new() -> Certificates {
        let made = Certificates(tempfile::tempdir().unwrap());
        for authority in ["ca", "stranger"] {
            let (key, cert) = (made.text(&format!("{authority}.key")), made.text(&format!("{authority}.pem")));
            let subject = format!("/CN={authority}");
            openssl(
                &["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout"],
                &[&key, "-out", &cert, "-subj", &subject, "-days", "30"],
            );
        }
        std::fs::write(made.file("san"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
        for (name, days) in [("server", "30"), ("client", "30"), ("expired", "-1")] {
            let (key, request) = (made.text(&format!("{name}.key")), made.text("request"));
            openssl(
                &["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout"],
                &[&key, "-out", &request, "-subj", &format!("/CN={name}")],
            );
            openssl(
                &["x509", "-req", "-CAcreateserial", "-days", days, "-in"],
                &[
                    &request,
                    "-CA",
                    &made.text("ca.pem"),
                    "-CAkey",
                    &made.text("ca.key"),
                    "-extfile",
                    &made.text("san"),
                    "-out",
                    &made.text(&format!("{name}.pem")),
                ],
            );
        }
        made
    }
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
    fn broker(&self, more: &str) -> Mosquitto {
        self.broker_with("server", more)
    }
    fn broker_with(&self, name: &str, more: &str) -> Mosquitto {
        let [ca, cert, key] = ["ca.pem".into(), format!("{name}.pem"), format!("{name}.key")].map(|n| self.text(&n));
        Mosquitto::started(&format!("cafile {ca}\ncertfile {cert}\nkeyfile {key}\n{more}"), None)
    }
}

fn openssl(args: &[&str], more: &[&str]) {
    let output = Command::new("openssl").args(args).args(more).output().expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn secure(url: &str, protocol: Protocol, ca: &Path) -> LinkConfig {
    LinkConfig { tls: TlsFiles { ca: Some(ca.into()), ..TlsFiles::default() }, ..config(url, protocol) }
}

pub async fn delivers(config: LinkConfig) {
    let outbox = Memory::new();
    for n in 0..100 {
        outbox.add(message("t", n.to_string()));
    }
    let mut link = Running::start(config, outbox.clone());
    link.drained().await;
    assert_eq!(outbox.done_payloads().len(), 100);
    link.stop(vec![]).await;
}

pub async fn fails(config: LinkConfig) -> String {
    let mut link = Running::start(config, Memory::new());
    let reason = link.down().await;
    link.stop(vec![]).await;
    reason
}

#[tokio::test]
async fn tls_delivers_and_each_failed_check_is_named() {
    let certificates = Certificates::new();
    let broker = certificates.broker("");
    let (ca, stranger) = (certificates.file("ca.pem"), certificates.file("stranger.pem"));
    let (right, by_number) =
        (format!("mqtts://localhost:{}", broker.port), format!("mqtts://127.0.0.1:{}", broker.port));
    for protocol in BOTH {
        delivers(secure(&right, protocol, &ca)).await;
        let reason = fails(secure(&right, protocol, &stranger)).await;
        assert!(reason.contains("ca_file"), "{reason}");
        let reason = fails(secure(&by_number, protocol, &ca)).await;
        assert!(reason.contains("not made out for 127.0.0.1"), "{reason}");
        let reason = fails(secure(&right, protocol, &certificates.file("absent.pem"))).await;
        assert!(reason.contains("absent.pem"), "{reason}");
        // Plain bytes to a port that speaks TLS.
        assert!(!fails(config(&right.replace("mqtts", "mqtt"), protocol)).await.is_empty());
    }
    let plain = Mosquitto::started("", None);
    let reason = fails(secure(&format!("mqtts://localhost:{}", plain.port), Protocol::V5, &ca)).await;
    assert!(!reason.is_empty());
}

#[tokio::test]
async fn an_expired_certificate_is_named_as_such() {
    let certificates = Certificates::new();
    let broker = certificates.broker_with("expired", "");
    let url = format!("mqtts://localhost:{}", broker.port);
    for protocol in BOTH {
        let reason = fails(secure(&url, protocol, &certificates.file("ca.pem"))).await;
        assert!(reason.contains("has expired"), "{reason}");
    }
}

#[tokio::test]
async fn a_url_with_tls_never_sends_a_plain_byte() {
    let certificates = Certificates::new();
    for scheme in ["mqtts", "wss"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let mut config = secure(&url, Protocol::V5, &certificates.file("ca.pem"));
        config.login = Some(("joe".into(), "CANARY".into()));
        config.patience.retry = std::time::Duration::from_millis(1);
        let outbox = Memory::new();
        outbox.add(message("t", "CANARY"));
        let link = Running::start(config, outbox);
        for _ in 0..4 {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut sent = vec![0; 4096];
            let n = tokio::io::AsyncReadExt::read(&mut socket, &mut sent).await.unwrap();
            // 0x16 is a TLS handshake
            assert_eq!(sent[0], 0x16, "{:?}", &sent[..n]);
            assert!(!sent.windows(6).any(|w| w == b"CANARY"));
        }
        link.abort().await;
    }
}

#[tokio::test]
async fn a_broker_that_wants_a_client_certificate_says_so_and_takes_it() {
    let certificates = Certificates::new();
    let broker = certificates.broker("require_certificate true\n");
    let url = format!("mqtts://localhost:{}", broker.port);
    for protocol in BOTH {
        let without = secure(&url, protocol, &certificates.file("ca.pem"));
        let reason = fails(without.clone()).await;
        assert!(reason.contains("client certificate"), "{reason}");
        let tls = TlsFiles {
            cert: Some(certificates.file("client.pem")),
            key: Some(certificates.file("client.key")),
            ..without.tls.clone()
        };
        delivers(LinkConfig { tls, ..without }).await;
    }
}

#[tokio::test]
async fn an_ipv6_address_works() {
    let port = free_port();
    let _broker = Mosquitto::started(&format!("listener {port} ::1\n"), None);
    for protocol in BOTH {
        delivers(config(&format!("mqtt://[::1]:{port}"), protocol)).await;
    }
}

#[tokio::test]
async fn an_unknown_name_is_explained() {
    for protocol in BOTH {
        let reason = fails(config("mqtt://no-such-host.invalid:1883", protocol)).await;
        assert!(reason.contains("no-such-host.invalid") || reason.contains("no answer within"), "{reason}");
    }
}
