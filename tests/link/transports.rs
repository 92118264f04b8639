//! Every way to a broker: websockets, TLS around them, ALPN, a certificate for another name, an HTTP proxy.

use super::fronts::{http_proxy, tls_to};
use super::link_outbox::config;
use super::mosquitto::{Mosquitto, free_port};
use super::secure::{Certificates, delivers, fails, secure};
use super::websocket::door_to;
use pinpost::link::{LinkConfig, Protocol};

const BOTH: [Protocol; 2] = [Protocol::V5, Protocol::V311];

#[tokio::test]
async fn websockets_deliver_with_and_without_tls() {
    let certificates = Certificates::new();
    let broker = Mosquitto::started("", None);
    let door = door_to(broker.port);
    let (front, _) = tls_to(door, &certificates.file("server.pem"), &certificates.file("server.key"), &[]).await;
    for protocol in BOTH {
        delivers(config(&format!("ws://127.0.0.1:{door}/mqtt"), protocol)).await;
        let url = format!("wss://localhost:{front}/mqtt");
        delivers(secure(&url, protocol, &certificates.file("ca.pem"))).await;
        let reason = fails(secure(&url, protocol, &certificates.file("stranger.pem"))).await;
        assert!(reason.contains("ca_file"), "{reason}");
        let by_number = url.replace("localhost", "127.0.0.1");
        let reason = fails(secure(&by_number, protocol, &certificates.file("ca.pem"))).await;
        assert!(reason.contains("not made out for 127.0.0.1"), "{reason}");
    }
}

#[tokio::test]
async fn a_protocol_is_offered_in_the_handshake_and_a_refusal_of_it_is_named() {
    let certificates = Certificates::new();
    let broker = Mosquitto::started("", None);
    let (cert, key) = (certificates.file("server.pem"), certificates.file("server.key"));
    let (mqtt, spoken) = tls_to(broker.port, &cert, &key, &["mqtt"]).await;
    let (web, _) = tls_to(broker.port, &cert, &key, &["http/1.1"]).await;
    for protocol in BOTH {
        let mut config = secure(&format!("mqtts://localhost:{mqtt}"), protocol, &certificates.file("ca.pem"));
        config.tls.alpn = vec!["x-amzn-mqtt-ca".into(), "mqtt".into()];
        delivers(config.clone()).await;
        config.urls = vec![format!("mqtts://localhost:{web}").parse().unwrap()];
        let reason = fails(config).await;
        assert!(reason.contains("alpn"), "{reason}");
    }
    assert_eq!(*spoken.lock().unwrap(), [Some("mqtt".into()), Some("mqtt".into())]);
}

#[tokio::test]
async fn a_server_name_is_checked_in_place_of_the_urls_host() {
    let certificates = Certificates::new();
    let broker = Mosquitto::started("", None);
    let (cert, key) = (certificates.file("server.pem"), certificates.file("server.key"));
    let (front, _) = tls_to(broker.port, &cert, &key, &[]).await;
    for protocol in BOTH {
        let mut config = secure(&format!("mqtts://127.0.0.1:{front}"), protocol, &certificates.file("ca.pem"));
        config.tls.server_name = Some("localhost".into());
        delivers(config.clone()).await;
        config.tls.server_name = Some("broker.example".into());
        let reason = fails(config.clone()).await;
        assert!(reason.contains("not made out for broker.example") && reason.contains("server_name"), "{reason}");
        // the other checks are as strict as ever
        config.tls.server_name = Some("localhost".into());
        config.tls.ca = Some(certificates.file("stranger.pem"));
        let reason = fails(config).await;
        assert!(reason.contains("ca_file"), "{reason}");
    }
}

#[tokio::test]
async fn a_proxy_lets_every_transport_through_and_its_refusals_are_named() {
    let certificates = Certificates::new();
    let broker = Mosquitto::started("", None);
    let (cert, key) = (certificates.file("server.pem"), certificates.file("server.key"));
    let (front, _) = tls_to(broker.port, &cert, &key, &[]).await;
    let door = door_to(broker.port);
    let (open, asked) = http_proxy(None).await;
    // `joe:p@ss` in base64
    let (closed, _) = http_proxy(Some("Basic am9lOnBAc3M=")).await;
    for protocol in BOTH {
        let through = |proxy: &str, config: LinkConfig| LinkConfig { proxy: Some(proxy.parse().unwrap()), ..config };
        let open = format!("http://127.0.0.1:{open}");
        delivers(through(&open, config(&broker.url(), protocol))).await;
        delivers(through(&open, config(&format!("ws://127.0.0.1:{door}/mqtt"), protocol))).await;
        let ca = certificates.file("ca.pem");
        delivers(through(&open, secure(&format!("mqtts://localhost:{front}"), protocol, &ca))).await;
        let secret = format!("http://joe:p%40ss@127.0.0.1:{closed}");
        delivers(through(&secret, config(&broker.url(), protocol))).await;

        let wrong = format!("http://joe:CANARY@127.0.0.1:{closed}");
        let reason = fails(through(&wrong, config(&broker.url(), protocol))).await;
        assert!(reason.contains("the proxy") && reason.contains("407") && !reason.contains("CANARY"), "{reason}");
        let absent = format!("http://127.0.0.1:{}", free_port());
        let reason = fails(through(&absent, config(&broker.url(), protocol))).await;
        assert!(reason.contains(&absent) && reason.contains("nothing listens"), "{reason}");
        let reason = fails(through(&open, config(&format!("mqtt://127.0.0.1:{}", free_port()), protocol))).await;
        assert!(reason.contains("502"), "{reason}");
    }
    assert_eq!(asked.lock().unwrap()[0], format!("CONNECT 127.0.0.1:{} HTTP/1.1", broker.port));
}
