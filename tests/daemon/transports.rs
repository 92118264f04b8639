//! The daemon on a hard way to its broker: through an HTTP proxy that wants a password, by TLS with a protocol to be
//! named, to an address that does not stand in the certificate.

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use crate::fronts::{http_proxy, tls_to};
use crate::support::gateway::{Home, Watch};
use crate::support::mosquitto::Mosquitto;
use crate::support::program::run;

#[test]
fn a_proxy_a_server_name_and_a_protocol_are_used_and_the_proxys_password_is_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // its own authority
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "30"])
        .args(["-subj", "/CN=broker", "-addext", "subjectAltName=DNS:broker.example", "-addext"])
        .args(["basicConstraints=critical,CA:FALSE", "-keyout"])
        .args([at("key.pem"), "-out".into(), at("cert.pem")])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut broker = Mosquitto::start();
    let (port, cert, key) = (broker.port(), at("cert.pem"), at("key.pem"));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let front = tls_to(port, &cert, &key, &["mqtt"]).await;
            // `joe:CANARY` in base64
            tell.send((front, http_proxy(Some("Basic am9lOkNBTkFSWQ==")).await)).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let ((front, spoken), (proxy, asked)) = told.recv().unwrap();
    let home = Home::new(
        &format!("mqtts://127.0.0.1:{front}"),
        &format!(
            "proxy: 'http://joe:CANARY@127.0.0.1:{proxy}', tls: {{ ca_file: {}, server_name: broker.example, alpn: [mqtt] }}",
            at("cert.pem").display()
        ),
        "",
        "devices:\n  door: { kind: digital_in, pin: 17 }\n",
    );
    let mut all = Watch::on(&mut broker, "gw/#");
    let gateway = home.online(&mut all);
    all.expect("gw/door", "OFF");
    assert!(!gateway.stop().err.contains("CANARY"));
    assert_eq!(asked.lock().unwrap()[0], format!("CONNECT 127.0.0.1:{front} HTTP/1.1"));
    assert_eq!(spoken.lock().unwrap()[0].as_deref(), Some("mqtt"));
    let file = home.file().display().to_string();
    for command in ["explain", "check"] {
        let said = run(&mut home.pinpost(&[command, &file]), b"").with(0);
        assert!(!said.text().contains("CANARY") && !said.err.contains("CANARY"), "{}{}", said.text(), said.err);
    }
    // A wrong name is told as such, by the daemon too.
    let text = std::fs::read_to_string(home.file()).unwrap().replace("broker.example", "other.example");
    home.write(&text);
    let mut gateway = home.start();
    gateway.log("not made out for other.example");
    gateway.stop();
}
