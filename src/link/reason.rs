//! Why something did not go, in words for people, and what happens next. Pure.
//!
//! Promise: no text here ever holds a user name, password or key; what a broker or peer wrote is cut short and
//! freed of control characters first.

use std::error::Error;
use std::io;

use tokio_rustls::rustls;

use rustls::{AlertDescription, CertificateError};

/// How a connection ended, classed by what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No connection came about: no route, refused, name unknown, TLS.
    Unreachable,
    /// The broker answered CONNECT with a refusal.
    Refused,
    /// The same for a reason that passes by itself: busy, not available, too often.
    Busy,
    /// We left a lower broker because the preferred one answers again.
    GoBack,
    /// The owner wanted another connection.
    Left,
    /// Another client connected with our client id.
    TakenOver,
    /// The broker answered a publish with a code that the library cannot read.
    StrangeAnswer(u8),
    /// A message of this many bytes came, more than was allowed.
    TooBig(usize),
    /// We gave up: silence, no answers, the library's books out of step.
    GaveUp,
    /// The connection broke or was closed.
    Broken,
}

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What happens next.
    pub cause: Cause,
    /// For people.
    pub text: String,
}

impl Ended {
    /// Both.
    pub fn new(cause: Cause, text: impl Into<String>) -> Ended {
        Ended { cause, text: text.into() }
    }

    /// A refused CONNECT, by the reason code of MQTT 5 or the return code (1 to 5) of 3.1.1.
    pub fn refused(code: u8, client_id: &str) -> Ended {
        let cause = if matches!(code, 3 | 0x88 | 0x89 | 0x97 | 0x9F) { Cause::Busy } else { Cause::Refused };
        Ended::new(cause, refusal_text(code, client_id))
    }
}

/// What a broker's answer to a publish means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has it.
    Done,
    /// It may take it later.
    Retry,
    /// It never will.
    Never,
}

/// Classes the reason codes of PUBACK, PUBREC and PUBCOMP (MQTT 5, 3.4.2.1). Unknown ones are `Never`: a record that
/// is refused must not hold up the rest for ever.
pub fn verdict(code: u8) -> Verdict {
    match code {
        0x00 | 0x10 | 0x92 => Verdict::Done,
        0x80 | 0x83 | 0x91 | 0x97 => Verdict::Retry,
        _ => Verdict::Never,
    }
}

/// A reason code of MQTT 5 in words, as far as they matter for publishing and subscribing.
pub fn code_text(code: u8) -> String {
    let words = match code {
        0x80 => "an error that the broker does not name",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "the broker's own reasons",
        0x87 => "not authorised: allow this client to use the topic in the broker's access list",
        0x89 => "the broker is busy",
        0x8B => "the broker is shutting down",
        0x8D => "the broker heard nothing from us in time",
        0x8E => "another client connected with the same client id",
        0x8F => "the topic filter is not valid there",
        0x90 => "the topic name is not accepted there",
        0x91 => "packet identifier in use",
        0x93 => "too many messages at a time; lower in_flight",
        0x95 => "the message is larger than the broker takes",
        0x96 => "messages come too fast for the broker",
        0x97 => "a quota of the broker is exceeded",
        0x98 => "closed by the broker's administrator",
        0x99 => "the payload's format is not accepted",
        0x9A => "the broker keeps no retained messages",
        0x9B => "the broker does not support this QoS",
        0x9C | 0x9D => "the broker has moved; change the url",
        0x9E => "the broker has no shared subscriptions",
        0x9F => "connecting too often",
        0xA0 => "the broker's longest connection time is over",
        0xA1 => "the broker has no subscription identifiers",
        0xA2 => "the broker allows no wildcards in subscriptions",
        _ => return format!("reason code 0x{code:02X}"),
    };
    format!("{words} (0x{code:02X})")
}

/// A refused CONNECT in words, by the reason code of MQTT 5 or the return code (1 to 5) of 3.1.1.
pub fn refusal_text(code: u8, client_id: &str) -> String {
    let id = clean(client_id);
    match code {
        1 | 0x84 => "the broker does not speak this protocol version; set mqtt: { protocol: 3.1.1 } or 5".into(),
        2 | 0x85 => format!("the broker does not accept the client id {id}; set mqtt: {{ client_id: … }}"),
        3 | 0x88 => "the broker is not available now".into(),
        4 | 0x86 => "wrong user name or password".into(),
        5 | 0x87 => {
            "the broker does not let this client in: not authorised; check username, password and its access list"
                .into()
        }
        0x89 => "the broker is busy".into(),
        0x8A => format!("the broker has banned this client ({id})"),
        0x8C => "the broker wants another way of authentication than user name and password".into(),
        0x90 => "the broker does not accept the topic of the will (topic_prefix)".into(),
        0x97 => "a quota of the broker is exceeded".into(),
        0x9A => "the broker keeps no retained messages and refuses the will".into(),
        0x9B => "the broker does not support the QoS of the will".into(),
        0x9C | 0x9D => "the broker has moved; change the url".into(),
        0x9F => "the broker says that we connect too often".into(),
        _ => format!("the broker refused the connection: {}", code_text(code)),
    }
}

/// Foreign text for a log line: one line, at most 200 characters.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// Something that went wrong below MQTT: sockets, names, TLS. `None`: nothing known in its chain of causes.
pub fn transport_text(error: &(dyn Error + 'static), host: &str) -> Option<String> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return Some(tls_text(tls, host));
        }
        if let Some(io) = e.downcast_ref::<io::Error>() {
            if let Some(inner) = io.get_ref() {
                if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                    return Some(tls_text(tls, host));
                }
                if let Some(text) = transport_text(inner, host) {
                    return Some(text);
                }
            }
            found = Some(io_text(io, host));
        }
        next = e.source();
    }
    found
}

fn io_text(e: &io::Error, host: &str) -> String {
    use io::ErrorKind as K;
    let host = clean(host);
    match e.kind() {
        K::ConnectionRefused => "nothing listens there (connection refused)".into(),
        K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown | K::AddrNotAvailable => {
            format!("no way to the host ({})", e.kind())
        }
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => "the connection was cut off".into(),
        K::UnexpectedEof => "the broker closed the connection".into(),
        K::TimedOut => "no answer (timed out)".into(),
        _ => {
            let text = clean(&e.to_string());
            if text.contains("bytes remaining on stream") {
                "the broker closed the connection in the middle of a packet".into()
            } else if text.contains("lookup address") || text.contains("resolve") || text.contains("Name or service") {
                format!("the name {host} cannot be resolved ({text}); check the name and the network's DNS")
            } else {
                text
            }
        }
    }
}

fn tls_text(e: &rustls::Error, host: &str) -> String {
    let host = clean(host);
    let why = match e {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => {
                "the broker's certificate comes from an authority that is not known here; give its authority in tls: { ca_file: … }".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the broker's certificate has expired (or this machine's clock is wrong); renew it".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the broker's certificate is not valid yet: is this machine's clock set?".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let wanted = match certificate {
                    CertificateError::NotValidForNameContext { expected, .. } => clean(&expected.to_str()),
                    _ => host,
                };
                format!(
                    "the broker's certificate is not made out for {wanted}; use a name that stands in it (subjectAltName; a common name alone does not count) in the url, or in tls: {{ server_name: … }}"
                )
            }
            CertificateError::Revoked => "the broker's certificate was revoked".into(),
            CertificateError::BadSignature => "the broker's certificate has a wrong signature; is ca_file the right authority?".into(),
            other => format!("the broker's certificate is not accepted: {}", clean(&format!("{other:?}"))),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the broker wants a client certificate; give tls: { cert_file: …, key_file: … }".into()
            }
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => {
                format!("the broker does not accept our client certificate ({alert:?}); check cert_file and key_file")
            }
            AlertDescription::NoApplicationProtocol => {
                "the broker speaks none of the protocols of tls: { alpn: … }".into()
            }
            AlertDescription::ProtocolVersion => "the broker offers only TLS versions older than 1.2".into(),
            AlertDescription::HandshakeFailure => {
                "the broker ended the handshake; it may want a client certificate (cert_file, key_file)".into()
            }
            other => format!("the broker ended TLS with {other:?}"),
        },
        rustls::Error::InvalidMessage(_) => "the answer is not TLS; is this the port for mqtts?".into(),
        rustls::Error::PeerIncompatible(_) => "the broker and pinpost share no TLS version or cipher (1.2 or newer)".into(),
        other => clean(&other.to_string()),
    };
    format!("TLS: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_class() {
        for (codes, class) in [
            (&[0x00, 0x10, 0x92][..], Verdict::Done),
            (&[0x97, 0x80, 0x83, 0x91][..], Verdict::Retry),
            (&[0x87, 0x90, 0x95, 0x99, 0x42, 0xFF][..], Verdict::Never),
        ] {
            for &code in codes {
                assert_eq!(verdict(code), class, "0x{code:02X}");
            }
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (v4, v5, word) in
            [(4, 0x86, "password"), (5, 0x87, "authorised"), (2, 0x85, "client_id"), (3, 0x88, "not available")]
        {
            assert!(refusal_text(v4, "me").contains(word));
            assert_eq!(refusal_text(v4, "me"), refusal_text(v5, "me"));
        }
        assert!(refusal_text(0x8A, "me").contains("banned"));
        assert!(refusal_text(0xEE, "me").contains("0xEE"));
    }

    #[test]
    fn foreign_text_is_one_short_line() {
        let text = clean(&format!("a\nb\x1b[31m{}", "x".repeat(500)));
        assert!(text.starts_with("a b [31mx") && text.chars().count() == 200);
    }

    #[test]
    fn tls_failures_say_which_check_failed() {
        for (certificate, word) in [
            (CertificateError::UnknownIssuer, "ca_file"),
            (CertificateError::Expired, "expired"),
            (CertificateError::NotValidYet, "clock"),
            (CertificateError::NotValidForName, "broker.example"),
        ] {
            let tls = rustls::Error::InvalidCertificate(certificate);
            let io = io::Error::new(io::ErrorKind::InvalidData, tls);
            let text = transport_text(&io, "broker.example").unwrap();
            assert!(text.starts_with("TLS: ") && text.contains(word), "{text}");
        }
    }

    #[test]
    fn socket_errors_are_plain_words() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(transport_text(&refused, "h").unwrap().contains("nothing listens"));
        let half = io::Error::other("bytes remaining on stream");
        assert!(transport_text(&half, "h").unwrap().contains("middle of a packet"));
        let dns = io::Error::other("failed to lookup address information: Name or service not known");
        assert!(transport_text(&dns, "pi.lan").unwrap().contains("pi.lan"));
    }
}
