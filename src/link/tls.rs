//! TLS for the link: rustls with ring, TLS 1.2 and newer, certificates always verified.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Where the certificates are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities in PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate chain in PEM, with `key`.
    pub cert: Option<PathBuf>,
    /// Our key in PEM.
    pub key: Option<PathBuf>,
}

/// Reads the files into a client configuration. Errors name the file and what is wrong with it.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            let pem = fs::read(path).map_err(|e| format!("cannot read ca_file {}: {e}", path.display()))?;
            let mut found = 0;
            for cert in CertificateDer::pem_slice_iter(&pem) {
                let cert = cert.map_err(|e| format!("ca_file {}: {e}", path.display()))?;
                roots.add(cert).map_err(|e| format!("ca_file {}: {e}", path.display()))?;
                found += 1;
            }
            if found == 0 {
                return Err(format!("ca_file {} holds no certificate in PEM", path.display()));
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
            if roots.is_empty() {
                return Err(
                    "this system has no certificate authorities; install ca-certificates or give tls: { ca_file: … }"
                        .into(),
                );
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots);
    let config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let pem = fs::read(cert).map_err(|e| format!("cannot read cert_file {}: {e}", cert.display()))?;
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|e| format!("cert_file {}: {e}", cert.display()))?;
            let pem = fs::read(key).map_err(|e| format!("cannot read key_file {}: {e}", key.display()))?;
            let key_der =
                PrivateKeyDer::from_pem_slice(&pem).map_err(|e| format!("key_file {}: {e}", key.display()))?;
            builder.with_client_auth_cert(chain, key_der).map_err(|e| format!("cert_file and key_file: {e}"))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("cert_file and key_file are given together or not at all".into()),
    };
    Ok(Arc::new(config))
}
