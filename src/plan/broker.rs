//! The embedded broker, resolved: its address, certificate and users.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::raw::{Broker as Raw, BrokerUser};
use crate::config::scalar::Secret;
use crate::config::{When, read_secret};
use crate::link::LinkConfig;
use crate::link::guard::{Broker, Hash, User, Users};
use crate::link::tls::server_config;
use crate::model::Problem;
use crate::wire::topics::check_filter;

use super::Resolver;

/// The longest name of a user, in bytes: it becomes a part of its clients' ids.
const LONGEST_NAME: usize = 64;

impl Resolver<'_> {
    pub(super) fn broker(&mut self, raw: &Raw) -> Option<Broker> {
        let listen = raw.listen.as_deref().unwrap_or("127.0.0.1:1883");
        let listen = listen.replace("localhost", "127.0.0.1");
        let with_port = if listen.contains(':') { listen.clone() } else { format!("{listen}:1883") };
        let Ok(listen) = with_port.parse::<SocketAddr>() else {
            let text = format!("`{listen}` is not an address to listen on");
            self.error(&["broker", "listen"], text, "write ADDRESS:PORT, such as 127.0.0.1:1883");
            return None;
        };
        let tls = self.certificate(raw);
        let users = raw.users.as_ref().map(|users| {
            if users.is_empty() {
                self.error(&["broker", "users"], "nobody may come in", "name a user, or remove `users`");
            }
            let users: Vec<_> =
                users.iter().filter_map(|(name, user)| Some((name.clone(), self.user(name, user)?))).collect();
            Arc::new(Users::new(users))
        });
        if !listen.ip().is_loopback() {
            let place = self.places.value(&["broker", "listen"]);
            let mut warn = |text: String, help: &str| self.problems.push(Problem::warning(place, text).help(help));
            if users.is_none() {
                let text = format!("the embedded broker will listen on {listen}, for everybody who reaches it");
                warn(text, "give it `users`, or keep 127.0.0.1:1883");
            } else if tls.is_none() && !self.places.has(&["broker", "tls"]) {
                let text = format!("passwords and messages go to {listen} in the clear");
                warn(text, "give it `tls: { cert_file: …, key_file: … }`, or keep 127.0.0.1:1883");
            }
        }
        Some(Broker { listen, tls, users })
    }

    fn certificate(&mut self, raw: &Raw) -> Option<(PathBuf, PathBuf)> {
        let tls = raw.tls.as_ref()?;
        let place = self.places.value(&["broker", "tls"]);
        let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) else {
            let missing = if tls.cert_file.is_some() { "key_file" } else { "cert_file" };
            if !self.places.misspelt(&["broker", "tls"], missing) {
                let text = format!("`tls` has no `{missing}`: the certificate and its key belong together");
                self.problems.push(Problem::error(place, text).help(format!("add `{missing}:`")));
            }
            return None;
        };
        let (cert, key) = (self.ask.base.join(cert), self.ask.base.join(key));
        if let Err(text) = server_config(&cert, &key) {
            let help = "the file must be there, and readable, where the daemon runs";
            let mut problem = Problem::error(place, text).help(help);
            problem.warning = self.ask.when == When::Check;
            self.problems.push(problem);
        }
        Some((cert, key))
    }

    fn user(&mut self, name: &str, raw: &BrokerUser) -> Option<User> {
        let path = ["broker", "users", name];
        if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.contains(['+', '$', '#', '/'])
            || name.contains(char::is_control)
        {
            let place = self.places.key(&path);
            let text = "the name of a user has 1 to 64 bytes and none of `+ $ # /`";
            self.problems.push(Problem::error(place, text).help("write a name such as panel"));
        }
        let filters = |resolver: &mut Self, key: &'static str, list: &Option<Vec<String>>| {
            let Some(list) = list else { return vec!["#".to_owned()] };
            for (i, filter) in list.iter().enumerate() {
                if let Err(text) = check_filter(filter) {
                    let index = i.to_string();
                    resolver.error(&["broker", "users", name, key, &index], text, "write a topic such as house/#");
                }
            }
            list.clone()
        };
        let publish = filters(self, "publish", &raw.publish);
        let subscribe = filters(self, "subscribe", &raw.subscribe);
        let (inline, file): (Option<&Secret>, Option<&str>) =
            (raw.password_hash.as_ref(), raw.password_hash_file.as_deref());
        let secret =
            match read_secret(self.places, &path, "password_hash", (inline, file), self.ask.base, self.ask.when) {
                Ok(secret) => secret,
                Err(problem) => {
                    self.problems.push(*problem);
                    return None;
                }
            };
        let Some(secret) = secret else {
            if !self.places.misspelt(&path, "password_hash") {
                let place = self.places.key(&path);
                let text = format!("user `{name}` has no password");
                let help = "add `password_hash:`, which `pinpost broker --hash-password` makes";
                self.problems.push(Problem::error(place, text).help(help));
            }
            return None;
        };
        match secret.reveal().parse::<Hash>() {
            Ok(hash) => Some(User { hash, publish, subscribe }),
            Err(text) => {
                let key = if inline.is_some() { "password_hash" } else { "password_hash_file" };
                let (text, help) = text.split_once("; ").unwrap_or((&text, ""));
                self.error(&["broker", "users", name, key], text, help);
                None
            }
        }
    }

    /// The gateway is a client of its own broker like any other.
    pub(super) fn own_login(&mut self, broker: &Broker, link: &LinkConfig) {
        let Some(users) = &broker.users else { return };
        let ours = |url: &crate::link::url::BrokerUrl| {
            let local = url.host == "localhost" || url.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
            url.port == broker.listen.port() && (local || url.host == broker.listen.ip().to_string())
        };
        let Some(url) = link.urls.iter().find(|url| ours(url)) else { return };
        let login = url.login.as_ref().or(link.login.as_ref());
        let named = |name: &str| self.raw.broker.iter().flat_map(|b| &b.users).any(|users| users.contains_key(name));
        let known = match login {
            Some((name, _)) => users.knows(name) || named(name),
            // it stands in a file that cannot be read here
            None => self.raw.mqtt.username_file.is_some(),
        };
        if !known {
            let text = "the gateway itself may not come in to its own broker";
            let help = "give `mqtt` the `username` and `password` of one of `broker: { users: … }`";
            let place = self.places.value(&["broker", "users"]);
            self.problems.push(Problem::error(place, text).help(help));
        }
    }
}
