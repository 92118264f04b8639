//! `pinpost pub`: publish like mosquitto_pub, or ask for topics and data.
//!
//! It ends with 0 only when the broker has taken everything (QoS 0: when it was written to the socket).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use log::LevelFilter;
use tokio::sync::mpsc;

use super::mqtt::BrokerOptions;
use super::out::{ask, say};
use super::{Failure, Outcome, ask as stdin, block_on, exit};
use crate::link::simple::{self, Client, Event, MAX_PACKET, Options, Qos};
use crate::logging;

/// Arguments of `pinpost pub`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  pinpost pub -h pi -t greenhouse/pump/set -m ON
  pinpost pub -t greenhouse/pump/set -m ON -q 1 -u shed -P secret
  sensor | pinpost pub -t sensor/raw -l             one message a line
  pinpost pub -t camera/still -f still.jpg -r       a file, retained
  pinpost pub -t camera/still -n -r                 delete a retained message
  pinpost pub                                       asks: topic, data, until exit_"
)]
pub struct PubArgs {
    /// Topic to publish to; without it topics and data are asked for
    #[arg(short, long, value_name = "TOPIC")]
    topic: Option<String>,
    /// The message
    #[arg(short, long, value_name = "MESSAGE", group = "source", allow_hyphen_values = true)]
    message: Option<OsString>,
    /// An empty message
    #[arg(short, long = "null-message", group = "source")]
    null: bool,
    /// The content of a file as one message
    #[arg(short, long, value_name = "FILE", group = "source")]
    file: Option<PathBuf>,
    /// All of stdin as one message
    #[arg(short, long = "stdin-file", group = "source")]
    stdin: bool,
    /// Each line of stdin as a message; empty lines are left out
    #[arg(short, long = "stdin-line", group = "source")]
    lines: bool,
    /// Quality: 0 at most once, 1 at least once, 2 exactly once
    #[arg(short, long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Let the broker keep the message for later subscribers
    #[arg(short, long)]
    retain: bool,
    #[command(flatten)]
    broker: BrokerOptions,
}

/// Publishes.
pub fn run(args: &PubArgs) -> Outcome {
    logging::init(if args.broker.debug { LevelFilter::Debug } else { LevelFilter::Error });
    let target = args.broker.target()?;
    let qos = Qos::try_from(args.qos).map_err(Failure::usage)?;
    let publish = Publish { options: target.options, qos, retain: args.retain };
    let one = args.message.is_some() || args.null || args.file.is_some() || args.stdin;
    match args.topic.as_deref().or(target.topic.as_deref()) {
        Some(topic) => {
            simple::check_topic(topic).map_err(Failure::usage)?;
            if args.lines {
                block_on(publish.lines(topic))
            } else if one {
                let payload = payload(args)?;
                block_on(publish.one(topic, payload))
            } else {
                Err(Failure::usage("no message: give -m MESSAGE, -n, -f FILE, -s or -l"))
            }
        }
        None if one || args.lines => Err(Failure::usage("no topic: give -t TOPIC")),
        None => block_on(publish.asked()),
    }
}

/// The one message of `-m`, `-n`, `-f` or `-s`.
fn payload(args: &PubArgs) -> Result<Bytes, Failure> {
    if let Some(message) = &args.message {
        return Ok(Bytes::copy_from_slice(message.as_bytes()));
    }
    let read = |input: &mut dyn Read, name: &str| {
        let mut bytes = Vec::new();
        // One byte more than can be sent, so that too much is refused rather than cut.
        let limit = MAX_PACKET as u64 + 1;
        input.take(limit).read_to_end(&mut bytes).map_err(|e| Failure::failed(format!("cannot read {name}: {e}")))?;
        Ok(Bytes::from(bytes))
    };
    match &args.file {
        Some(path) => {
            let name = path.display().to_string();
            let mut file = File::open(path).map_err(|e| Failure::failed(format!("cannot read {name}: {e}")))?;
            read(&mut file, &name)
        }
        None if args.stdin => read(&mut io::stdin().lock(), "stdin"),
        None => Ok(Bytes::new()),
    }
}

struct Publish {
    options: Options,
    qos: Qos,
    retain: bool,
}

impl Publish {
    fn connect(&self, reconnect: bool) -> Result<Client, Failure> {
        let mut options = self.options.clone();
        options.reconnect = reconnect;
        Client::connect(options).map_err(Failure::failed)
    }

    async fn one(&self, topic: &str, payload: Bytes) -> Outcome {
        let mut client = self.connect(false)?;
        client.publish(topic, payload, self.qos, self.retain).await.map_err(Failure::failed)?;
        answered(&mut client).await?.map_err(Failure::failed)?;
        client.disconnect().await;
        Ok(())
    }

    /// `-l`: the window is kept full, the connection is made again when it breaks.
    async fn lines(&self, topic: &str) -> Outcome {
        let mut client = self.greeted().await?;
        let mut lines = stdin::lines();
        let mut waiting = 0_usize;
        let mut more = true;
        while more || waiting > 0 {
            tokio::select! {
                event = client.next() => {
                    if let Some(answer) = delivered(event)? {
                        waiting = waiting.saturating_sub(1);
                        answer.map_err(Failure::failed)?;
                    }
                }
                line = lines.recv(), if more && client.has_room() => match line {
                    Some(Ok(line)) if line.is_empty() => {}
                    Some(Ok(line)) => {
                        client.publish(topic, line.into(), self.qos, self.retain).await.map_err(Failure::failed)?;
                        waiting += 1;
                    }
                    Some(Err(e)) => return Err(Failure::failed(format!("cannot read stdin: {e}"))),
                    None => more = false,
                }
            }
        }
        client.disconnect().await;
        Ok(())
    }

    /// Topic, data, topic, data, until `exit_` or the end of input.
    async fn asked(&self) -> Outcome {
        // At a terminal trouble with the broker is told before anything is typed; piped answers may be `exit_` alone.
        let mut client = if io::stdin().is_terminal() { Some(self.greeted().await?) } else { None };
        let mut answers = stdin::lines();
        let mut failed = false;
        loop {
            let Some(topic) = question("topic (exit_ ends): ", &mut answers, &mut client).await? else { break };
            let topic = String::from_utf8_lossy(&topic).into_owned();
            if let Err(e) = simple::check_topic(&topic) {
                say(&format!("pinpost: {e}"));
                continue;
            }
            let Some(data) = question("data (exit_ ends): ", &mut answers, &mut client).await? else { break };
            if client.is_none() {
                client = Some(self.greeted().await?);
            }
            let Some(client) = &mut client else { continue };
            let answer = match client.publish(&topic, data.into(), self.qos, self.retain).await {
                Ok(()) => answered(client).await?,
                Err(e) => Err(e),
            };
            // The next one may be fine.
            if let Err(why) = answer {
                say(&format!("pinpost: {why}"));
                failed = true;
            }
        }
        if let Some(client) = client {
            client.disconnect().await;
        }
        if failed { Err(Failure::silent(exit::FAILED)) } else { Ok(()) }
    }

    /// A connection that stands.
    async fn greeted(&self) -> Result<Client, Failure> {
        let mut client = self.connect(true)?;
        loop {
            match client.next().await {
                Some(Event::Connected) => return Ok(client),
                Some(Event::Failed(trouble)) => return Err(Failure::failed(trouble.text)),
                Some(_) => {}
                None => return Err(Failure::failed("the connection has ended")),
            }
        }
    }
}

/// Asks, and keeps an eye on the connection while the answer is awaited. `None`: `exit_`, or stdin has ended.
async fn question(
    text: &str,
    answers: &mut mpsc::Receiver<io::Result<Vec<u8>>>,
    client: &mut Option<Client>,
) -> Result<Option<Vec<u8>>, Failure> {
    ask(text);
    loop {
        let event = async {
            match client {
                Some(client) => client.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = answers.recv() => return match line {
                Some(Ok(line)) => {
                    let line = stdin::answer(line);
                    Ok((line != stdin::EXIT.as_bytes()).then_some(line))
                }
                Some(Err(e)) => Err(Failure::failed(format!("cannot read stdin: {e}"))),
                None => Ok(None),
            },
            event = event => {
                delivered(event)?;
            }
        }
    }
}

/// What became of a publish: the error is the broker's refusal, for a person.
type Answer = Result<(), String>;

/// Waits for the answer to the one publish that is on its way. The outer error is the end of the connection.
async fn answered(client: &mut Client) -> Result<Answer, Failure> {
    loop {
        let event = client.next().await;
        if let Some(answer) = delivered(event)? {
            return Ok(answer);
        }
    }
}

/// The answer to a publish, where the event is one. The outer error is the end of the connection.
fn delivered(event: Option<Event>) -> Result<Option<Answer>, Failure> {
    match event {
        Some(Event::Delivered { topic, refused: None }) => {
            log::debug!("delivered to `{}`", topic.escape_debug());
            Ok(Some(Ok(())))
        }
        Some(Event::Delivered { topic, refused: Some(why) }) => {
            Ok(Some(Err(format!("the broker refused the message to `{}`: {why}", topic.escape_debug()))))
        }
        Some(Event::Lost(trouble)) => {
            say(&format!("pinpost: {trouble}; trying again"));
            Ok(None)
        }
        Some(Event::Failed(trouble)) => Err(Failure::failed(trouble.text)),
        Some(Event::Connected | Event::Subscribed(_) | Event::Message(_)) => Ok(None),
        None => Err(Failure::failed("the connection has ended")),
    }
}
