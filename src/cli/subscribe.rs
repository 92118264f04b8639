//! `pinpost sub`: subscribe and print like mosquitto_sub, or ask for topics.
//!
//! Payloads are printed as they are, any bytes. A lost connection is made again with its subscriptions.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use clap::Args;
use log::LevelFilter;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::mqtt::BrokerOptions;
use super::out::{ask, say, written};
use super::{Failure, Outcome, ask as stdin, block_on, exit};
use crate::link::simple::{self, Client, Event, Message, Options, Qos};
use crate::logging;

/// After the last question: how long it must be quiet before it ends, so that what is on its way is still printed.
const QUIET: Duration = Duration::from_millis(300);
/// And how long it takes at most, where messages never cease.
const FAREWELL: Duration = Duration::from_secs(2);

/// Arguments of `pinpost sub`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  pinpost sub -h pi -t 'greenhouse/#' -v            every message with its topic
  pinpost sub -t greenhouse/weather/temperature -C 1 -W 10
                                                    one message; exit code 27 if none comes in 10 s
  pinpost sub -t camera/still -C 1 -N > still.jpg   payloads are printed as they are
  pinpost sub                                       asks for topics, until exit_"
)]
pub struct SubArgs {
    /// Topic to subscribe to, + and # allowed; may be given several times. Without it topics are asked for
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Print the topic before each payload
    #[arg(short, long)]
    verbose: bool,
    /// End after this many messages
    #[arg(short = 'C', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, with exit code 27
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,
    /// Leave out messages that the broker kept from before
    #[arg(short = 'R', long)]
    no_retained: bool,
    /// Print no line end after a payload
    #[arg(short = 'N', long)]
    no_newline: bool,
    /// Highest quality of delivery: 0, 1 or 2
    #[arg(short, long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    #[command(flatten)]
    broker: BrokerOptions,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number of seconds above 0".to_string();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if !d.is_zero() => Ok(d.min(Duration::from_secs(u64::from(u32::MAX)))),
        _ => Err(wrong()),
    }
}

/// Subscribes and prints.
pub fn run(args: &SubArgs) -> Outcome {
    logging::init(if args.broker.debug { LevelFilter::Debug } else { LevelFilter::Error });
    let target = args.broker.target()?;
    let qos = Qos::try_from(args.qos).map_err(Failure::usage)?;
    let mut topics = args.topics.clone();
    if topics.is_empty() {
        topics.extend(target.topic);
    }
    for topic in &topics {
        simple::check_filter(topic).map_err(Failure::usage)?;
    }
    let deadline = args.wait.and_then(|wait| Instant::now().checked_add(wait));
    block_on(async {
        let stop = || signal_of(SignalKind::terminate()).and_then(|t| Ok((t, signal_of(SignalKind::interrupt())?)));
        let (mut terminate, mut interrupt) = stop()?;
        let mut subscriber = Subscriber {
            printer: Printer { args, out: BufWriter::new(io::stdout().lock()), left: args.count },
            options: target.options,
            qos,
            client: None,
            given: !topics.is_empty(),
        };
        let outcome = tokio::select! {
            outcome = async {
                if topics.is_empty() { subscriber.asked().await } else { subscriber.given(&topics).await }
            } => outcome,
            () = at(deadline) => {
                say("pinpost: timed out");
                Err(Failure::silent(exit::TIMED_OUT))
            }
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        if let Some(client) = subscriber.client {
            client.disconnect().await;
        }
        outcome
    })
}

pub(super) fn signal_of(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|e| Failure::failed(format!("cannot watch for signals: {e}")))
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Subscriber<'a> {
    printer: Printer<'a>,
    options: Options,
    qos: Qos,
    client: Option<Client>,
    /// Topics came with the command line: if all are refused there is nothing to wait for.
    given: bool,
}

impl Subscriber<'_> {
    /// The topics of the command line, until the count is reached.
    async fn given(&mut self, topics: &[String]) -> Outcome {
        self.connect()?;
        self.subscribe(topics)?;
        loop {
            if self.step().await?.is_end() {
                return Ok(());
            }
        }
    }

    /// Topics from stdin, until `exit_` or its end.
    async fn asked(&mut self) -> Outcome {
        let mut answers = stdin::lines();
        if io::stdin().is_terminal() {
            self.connect()?;
            self.until(|s| matches!(s, Step::Connected)).await?;
        }
        loop {
            ask("topic whose data to print (exit_ ends): ");
            let topic = loop {
                tokio::select! {
                    line = answers.recv() => break line,
                    step = self.step() => {
                        if step?.is_end() {
                            return Ok(());
                        }
                    }
                }
            };
            let topic = match topic {
                Some(Ok(line)) => String::from_utf8_lossy(&stdin::answer(line)).into_owned(),
                Some(Err(e)) => return Err(Failure::failed(format!("cannot read stdin: {e}"))),
                None => return self.no_more_answers().await,
            };
            if topic == stdin::EXIT {
                return self.farewell().await;
            }
            if let Err(e) = simple::check_filter(&topic) {
                say(&format!("pinpost: {e}"));
                continue;
            }
            if self.client.is_none() {
                self.connect()?;
            }
            self.subscribe(std::slice::from_ref(&topic))?;
            // The next question says that this subscription stands.
            if self.until(|s| matches!(s, Step::Subscribed)).await?.is_end() {
                return Ok(());
            }
        }
    }

    /// Stdin has ended. With a count or a time given that is no reason to end.
    async fn no_more_answers(&mut self) -> Outcome {
        let goes_on = self.printer.args.count.is_some() || self.printer.args.wait.is_some();
        if goes_on && self.client.is_some() {
            while !self.step().await?.is_end() {}
            return Ok(());
        }
        self.farewell().await
    }

    /// Prints what is on its way, then ends.
    async fn farewell(&mut self) -> Outcome {
        if self.client.is_none() {
            return Ok(());
        }
        let last = Instant::now() + FAREWELL;
        loop {
            let quiet = (Instant::now() + QUIET).min(last);
            tokio::select! {
                step = self.step() => {
                    if step?.is_end() {
                        return Ok(());
                    }
                }
                () = sleep_until(quiet) => return Ok(()),
            }
        }
    }

    fn connect(&mut self) -> Outcome {
        self.client = Some(Client::connect(self.options.clone()).map_err(Failure::failed)?);
        Ok(())
    }

    fn subscribe(&mut self, topics: &[String]) -> Outcome {
        let Some(client) = &self.client else { return Ok(()) };
        let filters: Vec<_> = topics.iter().map(|t| (t.clone(), self.qos)).collect();
        client.subscribe(&filters).map_err(Failure::failed)?;
        Ok(())
    }

    /// Steps until one of this kind, or the end.
    async fn until(&mut self, wanted: impl Fn(&Step) -> bool) -> Result<Step, Failure> {
        loop {
            let step = self.step().await?;
            if step.is_end() || wanted(&step) {
                return Ok(step);
            }
        }
    }

    /// The next event, printed where it is a message. Safe to cancel; waits for ever without a client.
    async fn step(&mut self) -> Result<Step, Failure> {
        let event = match &mut self.client {
            Some(client) => match client.try_next() {
                Some(event) => Some(event),
                None => {
                    self.printer.flush()?;
                    client.next().await
                }
            },
            None => std::future::pending().await,
        };
        match event {
            Some(Event::Message(message)) => self.printer.print(&message),
            Some(Event::Connected) => Ok(Step::Connected),
            Some(Event::Subscribed(answers)) => self.subscribed(answers),
            Some(Event::Lost(trouble)) => {
                say(&format!("pinpost: {trouble}; trying again"));
                Ok(Step::Other)
            }
            Some(Event::Failed(trouble)) => Err(Failure::failed(trouble.text)),
            Some(Event::Delivered { .. }) => Ok(Step::Other),
            None => Err(Failure::failed("the connection has ended")),
        }
    }

    fn subscribed(&mut self, answers: Vec<(String, Option<String>)>) -> Result<Step, Failure> {
        let refusals: Vec<_> = answers
            .iter()
            .filter_map(|(topic, why)| Some((topic, why.as_ref()?)))
            .map(|(topic, why)| format!("the broker refused the subscription to `{}`: {why}", topic.escape_debug()))
            .collect();
        if !refusals.is_empty() && refusals.len() == answers.len() && self.given {
            return Err(Failure::failed(refusals.join("; ")));
        }
        for refusal in refusals {
            say(&format!("pinpost: {refusal}"));
        }
        log::debug!("the broker has answered the subscription");
        Ok(Step::Subscribed)
    }
}

enum Step {
    Connected,
    Subscribed,
    /// The last message that was asked for is printed.
    End,
    Other,
}

impl Step {
    fn is_end(&self) -> bool {
        matches!(self, Step::End)
    }
}

struct Printer<'a> {
    args: &'a SubArgs,
    out: BufWriter<StdoutLock<'static>>,
    /// Messages still wanted.
    left: Option<u64>,
}

impl Printer<'_> {
    fn print(&mut self, message: &Message) -> Result<Step, Failure> {
        if message.retain && self.args.no_retained {
            return Ok(Step::Other);
        }
        written(self.write(message))?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.flush()?;
                return Ok(Step::End);
            }
        }
        Ok(Step::Other)
    }

    fn write(&mut self, message: &Message) -> io::Result<()> {
        if self.args.verbose {
            self.out.write_all(message.topic.as_bytes())?;
            self.out.write_all(b" ")?;
        }
        self.out.write_all(&message.payload)?;
        if !self.args.no_newline {
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Outcome {
        written(self.out.flush())
    }
}
