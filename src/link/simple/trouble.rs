//! Why a broker cannot be reached, in words for a person: what is wrong, and what to look at.

use std::fmt;
use std::io;

use rumqttc::v5;
use tokio_rustls::rustls;

use crate::link::url::BrokerUrl;

/// What went wrong with a connection: one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// For a person. Names the broker, never a password.
    pub text: String,
    /// Trying again cannot help.
    pub lasting: bool,
    /// What to look at if this was the first attempt.
    hint: &'static str,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Trouble {
    fn new(text: String) -> Trouble {
        Trouble { text, lasting: false, hint: "" }
    }

    /// Nothing came back in time.
    pub(super) fn silent(url: &BrokerUrl) -> Trouble {
        Trouble::new(format!("{url} does not answer"))
    }

    /// The same, told of a connection that has never stood.
    pub(super) fn at_first(mut self) -> Trouble {
        self.text.push_str(std::mem::take(&mut self.hint));
        self
    }

    fn closed(url: &BrokerUrl) -> Trouble {
        let hint = if url.scheme.tls() { " (does that port speak TLS?)" } else { " (does that port want TLS?)" };
        Trouble { hint, ..Trouble::new(format!("{url} closed the connection")) }
    }

    fn too_large(size: usize, max: usize, url: &BrokerUrl) -> Trouble {
        let text = format!("{url} takes packets of {max} bytes at most; this one has {size}");
        Trouble { lasting: true, ..Trouble::new(text) }
    }

    fn refused(code: &str, url: &BrokerUrl) -> Trouble {
        let why = match code {
            "BadUserNamePassword" => "wrong user name or password".into(),
            "NotAuthorized" => "not authorised; check the user name and the password".into(),
            "BadClientId" | "ClientIdentifierNotValid" => "it does not accept the client id".into(),
            "RefusedProtocolVersion" | "UnsupportedProtocolVersion" => {
                "it does not speak this version of MQTT; try the other one, 5 or 3.1.1".into()
            }
            "ServiceUnavailable" | "ServerUnavailable" => "the service is not available".into(),
            "ServerBusy" => "it is busy".into(),
            "Banned" => "this client is banned".into(),
            other => spaced(other),
        };
        Trouble::new(format!("{url} refused the connection: {why}"))
    }

    pub(super) fn from_v5(error: &v5::ConnectionError, url: &BrokerUrl) -> Trouble {
        use v5::ConnectionError as E;
        match error {
            E::Io(e) => io_trouble(e, url),
            E::Tls(e) => tls_trouble(e, url),
            E::Timeout(_) => Trouble::silent(url),
            E::ConnectionRefused(code) => Trouble::refused(&format!("{code:?}"), url),
            E::MqttState(state) => state5(state, url),
            E::Websocket(e) => websocket(&e.to_string(), url),
            other => Trouble::new(format!("{url}: {other}")),
        }
    }

    pub(super) fn from_v4(error: &rumqttc::ConnectionError, url: &BrokerUrl) -> Trouble {
        use rumqttc::{ConnectionError as E, StateError as S, mqttbytes::Error as P};
        match error {
            E::Io(e) => io_trouble(e, url),
            E::Tls(e) => tls_trouble(e, url),
            E::NetworkTimeout | E::FlushTimeout => Trouble::silent(url),
            E::ConnectionRefused(code) => Trouble::refused(&format!("{code:?}"), url),
            E::MqttState(S::Io(e)) => io_trouble(e, url),
            E::MqttState(S::Deserialization(P::Io(e))) => io_trouble(e, url),
            E::MqttState(S::Deserialization(P::OutgoingPacketTooLarge { pkt_size, max })) => {
                Trouble::too_large(*pkt_size, *max, url)
            }
            E::MqttState(S::ConnectionAborted) => Trouble::closed(url),
            E::MqttState(S::AwaitPingResp) => Trouble::silent(url),
            E::MqttState(S::Deserialization(e)) => no_mqtt(&e.to_string(), url),
            E::Websocket(e) => websocket(&e.to_string(), url),
            other => Trouble::new(format!("{url}: {other}")),
        }
    }
}

fn state5(error: &v5::StateError, url: &BrokerUrl) -> Trouble {
    use v5::{StateError as S, mqttbytes::Error as P};
    match error {
        S::Io(e) | S::Deserialization(P::Io(e)) => io_trouble(e, url),
        S::ConnectionAborted => Trouble::closed(url),
        S::AwaitPingResp => Trouble::silent(url),
        S::OutgoingPacketTooLarge { pkt_size, max }
        | S::Deserialization(P::OutgoingPacketTooLarge { pkt_size, max }) => {
            Trouble::too_large(*pkt_size as usize, *max as usize, url)
        }
        S::ServerDisconnect { reason_code, reason_string } => {
            let why = reason_string.clone().unwrap_or_else(|| spaced(&format!("{reason_code:?}")));
            Trouble::new(format!("{url} ended the connection: {}", why.escape_debug()))
        }
        S::Deserialization(e) => no_mqtt(&e.to_string(), url),
        other => Trouble::new(format!("{url}: {other}")),
    }
}

fn no_mqtt(error: &str, url: &BrokerUrl) -> Trouble {
    Trouble::new(format!("{url} answered with something that is not MQTT ({error})"))
}

fn websocket(error: &str, url: &BrokerUrl) -> Trouble {
    Trouble::new(format!("{url}: websocket: {error}"))
}

fn io_trouble(error: &io::Error, url: &BrokerUrl) -> Trouble {
    use io::ErrorKind as K;
    if let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        return rustls_trouble(tls, url);
    }
    let text = error.to_string();
    if text.contains("failed to lookup address") || text.contains("could not resolve") {
        return Trouble::new(format!("the host `{}` is not known", url.host.escape_debug()));
    }
    match error.kind() {
        K::ConnectionRefused => Trouble::new(format!("{url}: connection refused; no broker listens there")),
        K::ConnectionReset | K::ConnectionAborted | K::UnexpectedEof | K::BrokenPipe => Trouble::closed(url),
        K::TimedOut => Trouble::silent(url),
        K::HostUnreachable | K::NetworkUnreachable => Trouble::new(format!("{url} cannot be reached: {text}")),
        _ => Trouble::new(format!("{url}: {text}")),
    }
}

fn tls_trouble(error: &rumqttc::TlsError, url: &BrokerUrl) -> Trouble {
    match error {
        rumqttc::TlsError::Io(e) => io_trouble(e, url),
        rumqttc::TlsError::TLS(e) => rustls_trouble(e, url),
        rumqttc::TlsError::DNSName(_) => {
            Trouble::new(format!("`{}` is no name that a certificate can carry", url.host.escape_debug()))
        }
        other => Trouble::new(format!("{url}: TLS: {other}")),
    }
}

fn rustls_trouble(error: &rustls::Error, url: &BrokerUrl) -> Trouble {
    use rustls::{CertificateError as C, Error as E};
    let why = match error {
        E::InvalidCertificate(C::UnknownIssuer) => {
            "its certificate is not signed by an authority known here; give the right CA file".into()
        }
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            format!("its certificate is not for the name `{}`", url.host.escape_debug())
        }
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => "its certificate has expired".into(),
        E::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; is the clock right?".into()
        }
        E::InvalidMessage(_) => "it does not speak TLS on this port".into(),
        E::AlertReceived(alert) => format!("it refused the handshake ({alert:?}); does it want a client certificate?"),
        other => other.to_string(),
    };
    Trouble::new(format!("{url}: TLS: {why}"))
}

/// A reason code of a PUBACK or PUBREC; `None` if it says that the message was taken.
pub(super) fn publish_refusal(code: &str) -> Option<String> {
    match code {
        "Success" | "NoMatchingSubscribers" => None,
        "NotAuthorized" => Some("not authorised".into()),
        other => Some(spaced(other)),
    }
}

/// A reason code of a SUBACK; `None` if the subscription was granted.
pub(super) fn subscribe_refusal(code: &str) -> Option<String> {
    match code {
        granted if granted.starts_with("Success") => None,
        "NotAuthorized" => Some("not authorised".into()),
        "Failure" => Some("refused".into()),
        other => Some(spaced(other)),
    }
}

/// `QuotaExceeded` as `quota exceeded`.
fn spaced(code: &str) -> String {
    let mut out = String::with_capacity(code.len() + 4);
    for c in code.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_words() {
        assert_eq!(spaced("QuotaExceeded"), "quota exceeded");
        assert_eq!(publish_refusal("NoMatchingSubscribers"), None);
        assert_eq!(publish_refusal("NotAuthorized"), Some("not authorised".into()));
        assert_eq!(subscribe_refusal("Success(AtLeastOnce)"), None);
        assert_eq!(subscribe_refusal("QuotaExceeded"), Some("quota exceeded".into()));
    }

    #[test]
    fn trouble_never_shows_the_password() {
        let url: BrokerUrl = "mqtt://joe:secret@pi".parse().unwrap();
        let trouble = Trouble::refused("NotAuthorized", &url);
        assert_eq!(
            trouble.text,
            "mqtt://pi:1883 refused the connection: not authorised; check the user name and the password"
        );
    }
}
