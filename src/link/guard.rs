//! Who may come in to the embedded broker, and what they may say and hear.
//!
//! Passwords are kept as mosquitto 2 keeps them (`$7$ITERATIONS$SALT$KEY`, the lines of its password file): PBKDF2 with
//! HMAC-SHA-512 (RFC 8018) over a salt of its own, both in base64 (RFC 4648). So `mosquitto_passwd` makes them too, and
//! they go along when a site grows. A password, a hash or a name that was typed never stands in a message.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ring::pbkdf2::{self, PBKDF2_HMAC_SHA512};
use ring::rand::{SecureRandom, SystemRandom};

use crate::wire::topics::{covers, matches};

/// Rounds of a hash that is made here: tens of milliseconds on a Raspberry Pi.
const ROUNDS: NonZeroU32 = NonZeroU32::new(20_000).unwrap();
/// More are not computed: whoever may write the file could stop the broker with them.
const MOST_ROUNDS: u32 = 1_000_000;
/// Bytes of a SHA-512.
const KEY: usize = 64;
/// Bytes of a salt that is made here.
const SALT: usize = 16;

/// How the embedded broker is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Where it listens; port 0: any free one.
    pub listen: SocketAddr,
    /// Its certificate chain and key in PEM; without them it speaks in the clear.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Who may come in; `None`: everybody, to everything.
    pub users: Option<Arc<Users>>,
}

impl Broker {
    /// In the clear, for everybody who reaches the address.
    pub fn open(listen: SocketAddr) -> Broker {
        Broker { listen, tls: None, users: None }
    }
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Of the password.
    pub hash: Hash,
    /// Filters of the topics to which it may publish.
    pub publish: Vec<String>,
    /// Filters of what it may subscribe to.
    pub subscribe: Vec<String>,
}

impl User {
    /// Whether it may publish there.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.publish.iter().any(|filter| matches(filter, topic))
    }

    /// Whether it may subscribe so: all that the filter meets must lie within one of its own. The group of a shared
    /// subscription (MQTT 5, section 4.8.2) does not count.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let filter = shared.map_or(filter, |(_, filter)| filter);
        self.subscribe.iter().any(|own| covers(own, filter))
    }
}

/// All users, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(BTreeMap<String, Arc<User>>);

impl Users {
    /// These.
    pub fn new(users: impl IntoIterator<Item = (String, User)>) -> Users {
        Users(users.into_iter().map(|(name, user)| (name, Arc::new(user))).collect())
    }

    /// The user of this name and password. It takes as long for a name that is not there. Blocks for tens of
    /// milliseconds.
    pub fn login(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        let user = self.0.get(name);
        let hash = match user.or_else(|| self.0.values().next()) {
            Some(user) => &user.hash,
            None => return None,
        };
        let right = hash.is_of(password);
        user.filter(|_| right).cloned()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.0.iter().map(|(name, user)| (name.as_str(), &**user))
    }

    /// Whether there is a user of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// A password that only shows whether another is the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    rounds: NonZeroU32,
    salt: Vec<u8>,
    key: Vec<u8>,
}

impl Hash {
    /// Of a password, with a new salt. The error is the system's, which has no random numbers.
    pub fn new(password: &[u8]) -> Result<Hash, String> {
        let mut salt = vec![0; SALT];
        SystemRandom::new().fill(&mut salt).map_err(|_| "the system gives no random numbers".to_owned())?;
        let mut key = vec![0; KEY];
        pbkdf2::derive(PBKDF2_HMAC_SHA512, ROUNDS, &salt, password, &mut key);
        Ok(Hash { rounds: ROUNDS, salt, key })
    }

    /// Whether it is of this password.
    pub fn is_of(&self, password: &[u8]) -> bool {
        pbkdf2::verify(PBKDF2_HMAC_SHA512, self.rounds, &self.salt, password, &self.key).is_ok()
    }

    /// As it stands in a file.
    pub fn written(&self) -> String {
        format!("$7${}${}${}", self.rounds, encode(&self.salt), encode(&self.key))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Hash {
    type Err = String;
    /// Reads `$7$ITERATIONS$SALT$KEY`. Errors say what to do and nothing of what was read.
    fn from_str(text: &str) -> Result<Hash, String> {
        let make = "make one with `pinpost broker --hash-password`";
        let no = |what: &str| Err(format!("{what}; {make}"));
        let parts: Vec<&str> = text.trim().split('$').collect();
        let ["", "7", rounds, salt, key] = parts.as_slice() else {
            return match parts.as_slice() {
                ["", "6", ..] => no("this is the hash of an old mosquitto_passwd, which is too quick to try out"),
                _ => no("this is not a hash of a password ($7$…)"),
            };
        };
        let rounds = rounds.parse().ok().filter(|n: &NonZeroU32| n.get() <= MOST_ROUNDS);
        let (Some(rounds), Some(salt), Some(key)) = (rounds, decode(salt), decode(key)) else {
            return no("this hash of a password is damaged");
        };
        if key.len() != KEY || salt.is_empty() || salt.len() > 256 {
            return no("this hash of a password is damaged");
        }
        Ok(Hash { rounds, salt, key })
    }
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let letter = LETTERS.get((bits >> (18 - 6 * i) & 63) as usize).copied().unwrap_or(b'=');
            text.push(char::from(if i <= chunk.len() { letter } else { b'=' }));
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - bare.len() > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut have) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0u32);
    for letter in bare.bytes() {
        let value = LETTERS.iter().position(|l| *l == letter)?;
        bits = (bits << 6 | value as u32) & 0xFFFF;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by `mosquitto_passwd` 2.0.11 of the password `secret`.
    const OF_MOSQUITTO: &str = "$7$101$G9VjmQVLeErbWFPM$AXFvf3fB1f1knH74poNlfqjNVVd56yPeaxdfls6fLZUUksVwjFav+qK1lQb6bByUBV//TE4JilDoHFi9VpefDw==";

    #[test]
    fn a_hash_of_mosquitto_knows_its_password() {
        let hash: Hash = OF_MOSQUITTO.parse().unwrap();
        assert!(hash.is_of(b"secret") && !hash.is_of(b"Secret") && !hash.is_of(b""));
        assert_eq!(hash.written(), OF_MOSQUITTO);
        assert_eq!(format!("{hash:?}"), "***");
    }

    #[test]
    fn two_hashes_of_one_password_differ_and_both_know_it() {
        let (a, b) = (Hash::new(b"x").unwrap(), Hash::new(b"x").unwrap());
        assert_ne!(a.written(), b.written());
        let read: Hash = a.written().parse().unwrap();
        assert!(read.is_of(b"x") && b.is_of(b"x") && !b.is_of(b"y"));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_repeated() {
        for bad in
            ["hunter2hunter2", "$6$a$b", "$7$0$YQ==$YQ==", "$7$9999999999$YQ==$YQ==", "$7$101$YQ==$YQ==", "$7$101$$"]
        {
            let why = bad.parse::<Hash>().unwrap_err();
            assert!(why.contains("--hash-password") && !why.contains("hunter2"), "{bad}: {why}");
        }
    }

    #[test]
    fn rights_are_filters_and_a_wider_subscription_is_refused() {
        let of = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let hash = OF_MOSQUITTO.parse().unwrap();
        let user = User { hash, publish: of(&["house/+/set"]), subscribe: of(&["house/#", "news"]) };
        assert!(user.may_publish("house/pump/set") && !user.may_publish("house/pump") && !user.may_publish("$SYS/x"));
        assert!(user.may_subscribe("house/#") && user.may_subscribe("house/+/state") && user.may_subscribe("news"));
        assert!(user.may_subscribe("$share/group/house/a") && !user.may_subscribe("$share/group/#"));
        assert!(!user.may_subscribe("#") && !user.may_subscribe("+/x") && !user.may_subscribe("other"));
    }

    #[test]
    fn a_login_needs_the_name_and_its_password() {
        let hash: Hash = OF_MOSQUITTO.parse().unwrap();
        let user = User { hash, publish: Vec::new(), subscribe: Vec::new() };
        let users = Users::new([("joe".to_owned(), user)]);
        assert!(users.login("joe", b"secret").is_some() && users.knows("joe"));
        assert!(users.login("joe", b"wrong").is_none() && users.login("ann", b"secret").is_none());
        assert!(Users::default().login("joe", b"secret").is_none());
    }

    proptest! {
        #[test]
        fn base64_reads_back_equal(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
        #[test]
        fn no_text_panics(text in "\\$7\\$[0-9]{0,12}\\$[A-Za-z0-9+/=]{0,12}\\$.{0,12}") {
            let _ = text.parse::<Hash>();
        }
    }
}
