//! `mqtt://host:port`, `mqtts`, `ws`, `wss`: where a broker is and how to reach it.

use std::fmt;
use std::str::FromStr;

/// How bytes reach the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain TCP, port 1883.
    Mqtt,
    /// TLS, port 8883.
    Mqtts,
    /// Websocket, port 80.
    Ws,
    /// Websocket over TLS, port 443.
    Wss,
}

impl Scheme {
    /// Whether certificates are used.
    pub fn tls(self) -> bool {
        matches!(self, Scheme::Mqtts | Scheme::Wss)
    }
    fn word(self) -> &'static str {
        match self {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        }
    }
}

/// A broker's address. Credentials in the URL are taken apart from it and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// How.
    pub scheme: Scheme,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of a websocket, with its slash; default `/mqtt`.
    pub path: String,
    /// User and password, where the URL carries them.
    pub login: Option<(String, String)>,
}

impl FromStr for BrokerUrl {
    type Err = String;
    /// Errors never repeat the text: it may hold a password.
    fn from_str(s: &str) -> Result<BrokerUrl, String> {
        let (scheme, rest) = s.trim().split_once("://").ok_or("a broker is written mqtt://HOST:PORT")?;
        let scheme = match scheme {
            "mqtt" | "tcp" => Scheme::Mqtt,
            "mqtts" | "ssl" | "tls" => Scheme::Mqtts,
            "ws" => Scheme::Ws,
            "wss" => Scheme::Wss,
            _ => return Err("a broker's URL begins with mqtt://, mqtts://, ws:// or wss://".into()),
        };
        let (authority, path) = match rest.find('/') {
            Some(i) => (&rest[..i], &rest[i..]),
            None => (rest, ""),
        };
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some((percent_decode(user)?, percent_decode(password)?)), address)
            }
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']').ok_or("an IPv6 address is written [::1]")?;
                (host, rest.strip_prefix(':'))
            }
            None => match address.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err("an IPv6 address is written [::1]".into()),
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = match port {
            Some(p) => p.parse::<u16>().ok().filter(|p| *p > 0).ok_or("a port is a number from 1 to 65535")?,
            None => match scheme {
                Scheme::Mqtt => 1883,
                Scheme::Mqtts => 8883,
                Scheme::Ws => 80,
                Scheme::Wss => 443,
            },
        };
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("the URL names no host; write mqtt://HOST:PORT".into());
        }
        let websocket = matches!(scheme, Scheme::Ws | Scheme::Wss);
        let path = match path {
            "" | "/" if websocket => "/mqtt",
            "" | "/" => "",
            _ if websocket => path,
            _ => return Err("only ws:// and wss:// have a path after the port".into()),
        };
        Ok(BrokerUrl { scheme, host: host.into(), port, path: path.into(), login })
    }
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(h), Some(l)) => out.push((h * 16 + l) as u8),
            _ => return Err("a % in a URL's user or password is written %25".into()),
        }
    }
    String::from_utf8(out).map_err(|_| "a URL's user or password is not UTF-8".into())
}

impl fmt::Display for BrokerUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BrokerUrl { host, port, path, .. } = self;
        let scheme = self.scheme.word();
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}{path}")
        } else {
            write!(f, "{scheme}://{host}:{port}{path}")
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An HTTP proxy: `http://[USER:PASSWORD@]HOST:PORT`. Shown without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    /// Name or address.
    pub host: String,
    /// Default 3128.
    pub port: u16,
    /// User and password.
    pub login: Option<(String, String)>,
}

impl FromStr for ProxyUrl {
    type Err = String;
    fn from_str(s: &str) -> Result<ProxyUrl, String> {
        let rest = s.trim().strip_prefix("http://").ok_or("a proxy's URL begins with http://")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The rest has the form of a broker's.
        let named = format!("mqtt://{rest}").parse::<BrokerUrl>().map_err(|e| e.replace("mqtt://", "http://"))?;
        let no_port = format!("mqtt://{rest}:3128").parse::<BrokerUrl>().is_ok_and(|u| u.port == 3128);
        let port = if named.port == 1883 && no_port { 3128 } else { named.port };
        Ok(ProxyUrl { host: named.host, port, login: named.login })
    }
}

impl fmt::Display for ProxyUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_their_usual_ports() {
        for (url, shown) in [
            ("mqtt://pi", "mqtt://pi:1883"),
            ("mqtts://pi", "mqtts://pi:8883"),
            ("ws://pi:9001", "ws://pi:9001/mqtt"),
            ("wss://pi/broker", "wss://pi:443/broker"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
        ] {
            assert_eq!(url.parse::<BrokerUrl>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_password_is_understood_and_never_shown() {
        let url: BrokerUrl = "mqtt://joe:p%40ss@pi".parse().unwrap();
        assert_eq!(url.login, Some(("joe".into(), "p@ss".into())));
        assert_eq!(format!("{url} {url:?}"), "mqtt://pi:1883 mqtt://pi:1883");
    }

    #[test]
    fn a_proxy_has_its_own_usual_port_and_hides_its_password() {
        let proxy: ProxyUrl = "http://joe:p%40ss@proxy.lan".parse().unwrap();
        assert_eq!((proxy.port, &proxy.login), (3128, &Some(("joe".into(), "p@ss".into()))));
        assert_eq!(format!("{proxy} {proxy:?}"), "http://proxy.lan:3128 http://proxy.lan:3128");
        for (url, shown) in [
            ("http://p:8080", "http://p:8080"),
            ("http://p:1883/", "http://p:1883"),
            ("http://[::1]", "http://[::1]:3128"),
        ] {
            assert_eq!(url.parse::<ProxyUrl>().unwrap().to_string(), shown);
        }
        for bad in ["p:8080", "https://p", "socks5://p:1080", "http://p/x", "http://"] {
            assert!(bad.parse::<ProxyUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wrong_urls_are_refused() {
        for bad in
            ["pi", "http://pi", "mqtt://", "mqtt://pi:0", "mqtt://pi:x", "mqtt://::1", "mqtt://pi/x", "mqtt://a%zz@pi"]
        {
            assert!(bad.parse::<BrokerUrl>().is_err(), "{bad}");
        }
    }
}
