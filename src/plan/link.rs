//! The broker: addresses, credentials, certificates, will and birth.

use std::time::Duration;

use crate::config::raw::{OneOrMany, Protocol as RawProtocol};
use crate::config::scalar::Secret;
use crate::config::{When, read_secret};
use crate::link::tls::{TlsFiles, client_config, is_server_name};
use crate::link::url::{BrokerUrl, ProxyUrl};
use crate::link::{LinkConfig, Patience, Protocol};
use crate::model::{Message, Problem, Qos};
use crate::wire::Topics;

use super::Resolver;

/// MQTT 5 with rumqttc refuses less.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

impl Resolver<'_> {
    /// Everything but the subscriptions.
    pub(super) fn link(&mut self, id: &str, prefix: &str) -> Option<LinkConfig> {
        let mqtt = &self.raw.mqtt;
        let urls = match &mqtt.url {
            None => vec!["mqtt://localhost:1883".to_owned()],
            Some(OneOrMany::One(url)) => vec![url.clone()],
            Some(OneOrMany::Many(urls)) => urls.clone(),
        };
        if urls.is_empty() {
            self.error(&["mqtt", "url"], "the list of brokers is empty", "write mqtt://HOST:1883");
        }
        let mut parsed = Vec::new();
        for (i, url) in urls.iter().enumerate() {
            match url.parse::<BrokerUrl>() {
                Ok(url) => parsed.push(url),
                Err(text) => {
                    let index = i.to_string();
                    let path: &[&str] = if matches!(mqtt.url, Some(OneOrMany::Many(_))) {
                        &["mqtt", "url", &index]
                    } else {
                        &["mqtt", "url"]
                    };
                    self.error(path, text, "write mqtt://HOST:1883, mqtts://HOST:8883, ws:// or wss://");
                }
            }
        }
        let keep_alive = mqtt.keep_alive.map_or(Duration::from_secs(30), |s| s.0);
        if !(MIN_KEEP_ALIVE..=Duration::from_secs(65_535)).contains(&keep_alive) {
            self.error(&["mqtt", "keep_alive"], "`keep_alive` is from 5s to 65535s", "write `keep_alive: 30s`");
        }
        let in_flight = mqtt.in_flight.unwrap_or(64);
        let client_id = mqtt.client_id.clone().unwrap_or_else(|| format!("pinpost-{id}-{}", self.ask.machine));
        if client_id.is_empty() || client_id.chars().any(char::is_control) || client_id.len() > 256 {
            self.error(
                &["mqtt", "client_id"],
                "a client id has 1 to 256 printable characters",
                "write one, or leave it out",
            );
        }
        let username = self.secret("username", mqtt.username.as_ref(), mqtt.username_file.as_deref());
        let password = self.secret("password", mqtt.password.as_ref(), mqtt.password_file.as_deref());
        let login = match (username, password) {
            (Some(user), password) => {
                Some((user.reveal().to_owned(), password.map_or(String::new(), |p| p.reveal().to_owned())))
            }
            (None, Some(_)) if mqtt.username.is_none() && mqtt.username_file.is_none() => {
                let near = |key| self.places.misspelt(&["mqtt"], key);
                if !near("username") && !near("username_file") {
                    let key = if mqtt.password.is_some() { "password" } else { "password_file" };
                    let place = self.places.key(&["mqtt", key]);
                    let text = "there is a password and no user name";
                    self.problems.push(Problem::error(place, text).help("add `username:`, or remove the password"));
                }
                None
            }
            (None, _) => None,
        };
        self.warn_if_open(&parsed, login.is_some());
        let tls = self.tls(&parsed);
        let proxy = self.proxy();
        let bridge = Topics::new(prefix);
        let state = |word: &str| Message {
            topic: bridge.bridge("state"),
            payload: word.as_bytes().to_vec(),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Default::default(),
        };
        Some(LinkConfig {
            urls: parsed,
            protocol: match mqtt.protocol.unwrap_or_default() {
                RawProtocol::V5 => Protocol::V5,
                RawProtocol::V311 => Protocol::V311,
            },
            client_id,
            login,
            tls,
            proxy,
            keep_alive,
            in_flight,
            session_expiry: mqtt.session_expiry.map_or(Duration::ZERO, |s| s.0),
            will: Some(state("offline")),
            will_of: None,
            beside: Vec::new(),
            stay: false,
            hello: vec![state("online")],
            subscriptions: Vec::new(),
            patience: Patience::default(),
        })
    }

    fn secret(&mut self, key: &str, inline: Option<&Secret>, file: Option<&str>) -> Option<Secret> {
        match read_secret(self.places, &["mqtt"], key, (inline, file), self.ask.base, self.ask.when) {
            Ok(secret) => secret,
            Err(problem) => {
                self.problems.push(*problem);
                None
            }
        }
    }

    /// A password in the clear over somebody else's network.
    fn warn_if_open(&mut self, urls: &[BrokerUrl], login: bool) {
        for url in urls.iter().filter(|u| !u.scheme.tls()) {
            let local = url.host == "localhost"
                || url.host.ends_with(".local")
                || !url.host.contains('.')
                || url.host.parse().is_ok_and(|ip: std::net::IpAddr| match ip {
                    std::net::IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
                    std::net::IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
                });
            if !local && (login || url.login.is_some()) {
                let text = format!("the password goes to {} without TLS", url.host);
                let help = "write mqtts:// if the broker can";
                self.problems.push(Problem::warning(self.places.value(&["mqtt", "url"]), text).help(help));
            }
        }
    }

    fn proxy(&mut self) -> Option<ProxyUrl> {
        match self.raw.mqtt.proxy.as_deref()?.parse() {
            Ok(proxy) => Some(proxy),
            Err(text) => {
                let text: String = text;
                self.error(&["mqtt", "proxy"], text, "write http://HOST:3128");
                None
            }
        }
    }

    fn tls(&mut self, urls: &[BrokerUrl]) -> TlsFiles {
        let Some(raw) = &self.raw.mqtt.tls else { return TlsFiles::default() };
        let path = |file: &Option<String>| file.as_ref().map(|f| self.ask.base.join(f));
        let files = TlsFiles {
            ca: path(&raw.ca_file),
            cert: path(&raw.cert_file),
            key: path(&raw.key_file),
            alpn: raw.alpn.clone(),
            server_name: raw.server_name.clone(),
        };
        let place = self.places.value(&["mqtt", "tls"]);
        let paired = files.cert.is_some() == files.key.is_some();
        let missing = if files.cert.is_some() { "key_file" } else { "cert_file" };
        if !paired && !self.places.misspelt(&["mqtt", "tls"], missing) {
            let text = format!("`tls` has no `{missing}`: the certificate and its key belong together");
            self.problems.push(Problem::error(place, text).help(format!("add `{missing}:`")));
        }
        let urls_known = !urls.is_empty() && !self.places.misspelt(&["mqtt"], "url");
        if urls_known && !urls.iter().any(|u| u.scheme.tls()) {
            let text = "`tls` is given and no url uses it: nothing is encrypted";
            self.problems.push(Problem::warning(place, text).help("write mqtts://HOST:8883 or wss://, or remove it"));
        } else if let Some(name) = files.server_name.as_deref().filter(|n| !is_server_name(n)) {
            let text = format!("`{name}` is neither a host name nor an address");
            self.error(&["mqtt", "tls", "server_name"], text, "write the name that stands in the broker's certificate");
        } else if paired && let Err(text) = client_config(&files) {
            let mut problem =
                Problem::error(place, text).help("the file must be there, and readable, where the daemon runs");
            problem.warning = self.ask.when == When::Check;
            self.problems.push(problem);
        }
        files
    }
}
