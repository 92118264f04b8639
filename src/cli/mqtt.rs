//! The options that `pub` and `sub` share: where the broker is and who we are, in mosquitto's words.

use std::env;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::Failure;
use crate::link::simple::{Options, Version};
use crate::link::tls::TlsFiles;
use crate::link::url::{BrokerUrl, Scheme};

/// Used where no broker is named on the command line.
pub const URL_VARIABLE: &str = "MQTT_URL";

/// How to reach the broker.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Broker")]
pub struct BrokerOptions {
    /// Broker's name or address [default: $MQTT_URL, else localhost]
    #[arg(short = 'h', long, value_name = "HOST")]
    pub host: Option<String>,
    /// Broker's port [default: 1883, with TLS 8883]
    #[arg(short = 'p', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// The broker in one piece: mqtt://, mqtts://, ws:// or wss://[USER:PASSWORD@]HOST[:PORT]; after
    /// mqtt:// and mqtts:// a /TOPIC may follow
    #[arg(short = 'L', long, value_name = "URL", conflicts_with_all = ["host", "port"])]
    pub url: Option<String>,
    /// User name
    #[arg(short = 'u', long = "username", value_name = "USER")]
    pub user: Option<String>,
    /// Password
    #[arg(short = 'P', long = "pw", visible_alias = "password", value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Client id [default: a random one]
    #[arg(short = 'i', long = "id", value_name = "ID")]
    pub id: Option<String>,
    /// MQTT version: 5 or 3.1.1 (also 311, mqttv5, mqttv311)
    #[arg(short = 'V', long = "protocol", visible_alias = "protocol-version", value_name = "VERSION",
        value_parser = version, default_value = "5")]
    pub version: Version,
    /// Use TLS with the authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    pub cafile: Option<PathBuf>,
    /// Our certificate in PEM, where the broker asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The key of our certificate in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Use TLS with this system's authorities
    #[arg(long, visible_alias = "tls-use-os-certs")]
    pub tls: bool,
    /// Say on stderr what happens with the connection
    #[arg(short = 'd', long)]
    pub debug: bool,
    /// Print help (-h is the host, as in mosquitto's tools)
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

fn version(text: &str) -> Result<Version, String> {
    match text.to_ascii_lowercase().trim_start_matches("mqtt").trim_start_matches('v') {
        "5" | "5.0" => Ok(Version::V5),
        "311" | "3.1.1" | "4" => Ok(Version::V311),
        _ => Err("write 5 or 3.1.1".into()),
    }
}

/// A broker, and the topic where the URL carried one.
pub struct Target {
    pub options: Options,
    pub topic: Option<String>,
}

impl BrokerOptions {
    /// Errors are wrong usage; they never repeat a URL, which may hold a password.
    pub fn target(&self) -> Result<Target, Failure> {
        self.target_with(env::var(URL_VARIABLE).ok().filter(|v| !v.is_empty()))
    }

    fn target_with(&self, variable: Option<String>) -> Result<Target, Failure> {
        let wants_tls = self.tls || self.cafile.is_some() || self.cert.is_some();
        let here = self.host.is_some() || self.port.is_some();
        let (url, topic) = match (&self.url, variable) {
            (Some(url), _) => split_url(url).map_err(|e| Failure::usage(format!("--url: {e}")))?,
            (None, Some(url)) if !here => {
                split_url(&url).map_err(|e| Failure::usage(format!("{URL_VARIABLE}: {e}")))?
            }
            _ => (self.plain_url(wants_tls), None),
        };
        if wants_tls && !url.scheme.tls() {
            return Err(Failure::usage("TLS options need a URL that begins with mqtts:// or wss://"));
        }
        let login = match (&self.user, &self.password) {
            (Some(user), password) => Some((user.clone(), password.clone().unwrap_or_default())),
            (None, None) => None,
            (None, Some(password)) => match &url.login {
                Some((user, _)) => Some((user.clone(), password.clone())),
                None => return Err(Failure::usage("-P PASSWORD needs -u USER")),
            },
        };
        let mut options = Options::new(url);
        options.version = self.version;
        options.client_id = self.id.clone();
        options.login = login;
        options.tls =
            TlsFiles { ca: self.cafile.clone(), cert: self.cert.clone(), key: self.key.clone(), ..TlsFiles::default() };
        Ok(Target { options, topic })
    }

    fn plain_url(&self, tls: bool) -> BrokerUrl {
        let host = self.host.as_deref().unwrap_or("localhost");
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        BrokerUrl {
            scheme: if tls { Scheme::Mqtts } else { Scheme::Mqtt },
            host: host.to_string(),
            port: self.port.unwrap_or(if tls { 8883 } else { 1883 }),
            path: String::new(),
            login: None,
        }
    }
}

/// mosquitto's tools take the topic behind the port.
fn split_url(text: &str) -> Result<(BrokerUrl, Option<String>), String> {
    let after = text.find("://").map_or(0, |i| i + 3);
    if text.starts_with("mqtt")
        && let Some(slash) = text.get(after..).and_then(|rest| rest.find('/'))
    {
        let (broker, topic) = text.split_at(after + slash);
        let topic = topic.trim_start_matches('/');
        return Ok((broker.parse()?, (!topic.is_empty()).then(|| topic.to_string())));
    }
    Ok((text.parse()?, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        broker: BrokerOptions,
    }

    fn target(args: &[&str], variable: Option<&str>) -> Result<Target, Failure> {
        let line = Line::try_parse_from(std::iter::once("x").chain(args.iter().copied())).unwrap();
        line.broker.target_with(variable.map(str::to_string))
    }

    #[test]
    fn the_broker_is_found_from_options_url_and_environment() {
        for (args, variable, url) in [
            (&[][..], None, "mqtt://localhost:1883"),
            (&["-h", "pi", "-p", "1884"], Some("mqtt://elsewhere"), "mqtt://pi:1884"),
            (&[], Some("mqtts://elsewhere"), "mqtts://elsewhere:8883"),
            (&["-L", "ws://pi:9001"], Some("mqtt://elsewhere"), "ws://pi:9001/mqtt"),
            (&["--cafile", "ca.pem"], None, "mqtts://localhost:8883"),
            (&["-h", "[::1]", "--tls"], None, "mqtts://[::1]:8883"),
        ] {
            assert_eq!(target(args, variable).unwrap().options.url.to_string(), url, "{args:?}");
        }
    }

    #[test]
    fn a_topic_may_follow_in_the_url() {
        let target = target(&["-L", "mqtt://joe:pw@pi:1884/garden/door"], None).unwrap();
        assert_eq!(target.topic.as_deref(), Some("garden/door"));
        assert_eq!(target.options.url.login, Some(("joe".into(), "pw".into())));
    }

    #[test]
    fn wrong_combinations_are_wrong_usage() {
        for (args, variable) in [
            (&["-P", "secret"][..], None),
            (&["--cafile", "x", "-L", "mqtt://pi"], None),
            (&[], Some("secret-nonsense")),
        ] {
            let failure = target(args, variable).err().unwrap_or_else(|| panic!("{args:?} was taken"));
            assert_eq!(failure.code, super::super::exit::USAGE);
            assert!(!failure.text.contains("secret"), "{}", failure.text);
        }
    }

    #[test]
    fn versions_are_known_by_mosquittos_words_too() {
        for (text, want) in [
            ("5", Version::V5),
            ("mqttv5", Version::V5),
            ("311", Version::V311),
            ("3.1.1", Version::V311),
            ("mqttv311", Version::V311),
        ] {
            assert_eq!(version(text), Ok(want), "{text}");
        }
        assert!(version("mqttv31").is_err());
    }
}
