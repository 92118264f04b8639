//! `pinpost broker`: only the embedded broker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use clap::Args;

use super::Outcome;

const PORT: u16 = 1883;

/// Arguments of `pinpost broker`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost broker                             on this machine only, port 1883
  pinpost broker --listen 0.0.0.0:1883       for the whole network, without any password
  pinpost broker --listen 127.0.0.1:0        on a free port, which it names

  pinpost broker --hash-password             asks for a password, prints its hash for `broker: { users: … }`

It keeps nothing on disk and asks for no password: for trying things out and for small trusted networks.
Users, rights and TLS are for the broker of the file (`broker:`). For more, install mosquitto.")]
pub struct BrokerArgs {
    /// Address to listen on: ADDRESS:PORT, ADDRESS or PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1883", value_parser = address)]
    listen: SocketAddr,
    /// Read a password from stdin and print what stands in its place in the file: `password_hash`
    #[arg(long, conflicts_with = "listen")]
    hash_password: bool,
}

/// An address as people write it.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((ip, PORT).into());
    }
    let text = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let wrong = || "write ADDRESS:PORT, for example 0.0.0.0:1883".to_string();
    // The resolver would take 99999 for the address 0.1.134.159.
    if !text.split(':').next().unwrap_or_default().contains(|c: char| c.is_ascii_alphabetic()) {
        return Err(wrong());
    }
    let named = if text.contains(':') { text.to_socket_addrs() } else { (text, PORT).to_socket_addrs() };
    let mut found: Vec<_> = named.map_err(|_| wrong())?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(|| "that name has no address".into())
}

/// Hashes the first line of stdin.
fn hash_password() -> Outcome {
    use super::Failure;
    use super::out::{ask, data};
    use std::io::{BufRead, IsTerminal, Read};

    if std::io::stdin().is_terminal() {
        ask("password (it is shown as you type): ");
    }
    let mut line = Vec::new();
    let mut input = std::io::stdin().lock().take(1024);
    input.read_until(b'\n', &mut line).map_err(|e| Failure::failed(format!("cannot read the password: {e}")))?;
    let password = line.strip_suffix(b"\n").unwrap_or(&line);
    let password = password.strip_suffix(b"\r").unwrap_or(password);
    if password.is_empty() {
        return Err(Failure::failed("the password is empty"));
    }
    let hash = crate::link::guard::Hash::new(password).map_err(Failure::failed)?;
    data(format!("{}\n", hash.written()).as_bytes())
}

/// Runs until Ctrl-C or SIGTERM.
#[cfg(feature = "broker")]
pub fn run(args: &BrokerArgs) -> Outcome {
    if args.hash_password {
        return hash_password();
    }
    use super::out::say;
    use super::{Failure, block_on};
    use crate::{link::embedded, logging};
    use tokio::signal::unix::{SignalKind, signal};

    logging::init(log::LevelFilter::Info);
    block_on(async {
        let watch = |kind| signal(kind).map_err(|e| Failure::failed(format!("cannot watch for signals: {e}")));
        let (mut terminate, mut interrupt) = (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
        let mut broker = embedded::start(args.listen).map_err(Failure::failed)?;
        say(&format!("broker ready at {}", broker.url()));
        if !args.listen.ip().is_loopback() {
            say("warning: everyone who reaches this address can read and write every topic; there is no password");
        }
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = broker.ended() => Err(Failure::failed("the broker has ended by itself")),
        }
    })
}

/// Says that this build has none.
#[cfg(not(feature = "broker"))]
pub fn run(args: &BrokerArgs) -> Outcome {
    if args.hash_password {
        return hash_password();
    }
    let why = "this build of pinpost has no embedded broker (cargo feature `broker`)";
    Err(super::Failure::failed(format!("cannot listen on {}: {why}", args.listen)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_short() {
        for (text, want) in [
            ("0.0.0.0:1884", "0.0.0.0:1884"),
            ("0.0.0.0", "0.0.0.0:1883"),
            ("1884", "127.0.0.1:1884"),
            (":1884", "127.0.0.1:1884"),
            ("::1", "[::1]:1883"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), want, "{text}");
        }
        assert!(address("99999").is_err());
        assert!(address("1.2.3.4:x").is_err());
    }
}
