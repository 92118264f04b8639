//! What may stand between a client and a broker: TLS, an HTTP proxy.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// TLS in front of a port of this machine: gives its own port, and the ALPN protocol of each connection.
pub async fn tls_to(to: u16, cert: &Path, key: &Path, alpn: &[&str]) -> (u16, Arc<Mutex<Vec<Option<String>>>>) {
    let chain = CertificateDer::pem_file_iter(cert).unwrap().map(|c| c.unwrap()).collect();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let spoken = Arc::<Mutex<Vec<Option<String>>>>::default();
    let tell = spoken.clone();
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            tokio::spawn(async move {
                let Ok(mut from) = acceptor.accept(from).await else { return };
                let protocol = from.get_ref().1.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
                tell.lock().unwrap().push(protocol);
                let Ok(mut to) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                let _ = copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (port, spoken)
}

/// An HTTP proxy that asks for this `Proxy-Authorization`, if for any: its port, and what was asked of it.
pub async fn http_proxy(authorization: Option<&'static str>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let tell = asked.clone();
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut from = BufReader::new(from);
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    if from.read_line(&mut line).await.unwrap_or(0) == 0 {
                        return;
                    }
                    match line.trim() {
                        "" => break,
                        line => lines.push(line.to_string()),
                    }
                }
                tell.lock().unwrap().push(lines[0].clone());
                let wanted = authorization.map(|a| format!("Proxy-Authorization: {a}"));
                if wanted.is_some_and(|w| !lines.contains(&w)) {
                    let _ = from.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                    return;
                }
                let target = lines[0].split(' ').nth(1).unwrap();
                let Ok(mut to) = TcpStream::connect(target).await else {
                    let _ = from.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
                    return;
                };
                from.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (port, asked)
}
