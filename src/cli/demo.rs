//! `pinpost demo`: the main job with no hardware and no broker.
//!
//! An embedded broker, the real gateway on simulated pins, and a simulated sensor that writes frames into a real
//! pseudo terminal. A little story runs, and an ordinary MQTT client prints what passes through the broker. Everything
//! lives on loopback and in a temporary directory, which is removed at the end.

use clap::Args;

use super::Outcome;
use crate::config::scalar::Span;

/// Arguments of `pinpost demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost demo                     until Ctrl-C
  pinpost demo --for 10s           ten seconds, then a summary")]
pub struct DemoArgs {
    /// End after this time, with a summary
    #[arg(long = "for", value_name = "DURATION")]
    pub time: Option<Span>,
}

/// Runs the demo.
#[cfg(feature = "broker")]
pub fn run(args: &DemoArgs) -> Outcome {
    crate::logging::init(log::LevelFilter::Warn);
    super::block_on(story::tell(args.time.map(|t| t.0)))
}

/// Says that this build has no broker to show it with.
#[cfg(not(feature = "broker"))]
pub fn run(_args: &DemoArgs) -> Outcome {
    Err(super::Failure::failed("this build of pinpost has no embedded broker (cargo feature `broker`)"))
}

#[cfg(feature = "broker")]
mod story {
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use tokio::signal::unix::{SignalKind, signal};
    use tokio::time::{interval, sleep_until};

    use super::super::out::{data, say};
    use super::super::{Failure, Outcome};
    use crate::config::{When, report};
    use crate::hal::Level;
    use crate::hal::port::pty;
    use crate::link::embedded;
    use crate::link::simple::{Client, Event, Message, Options, Qos};
    use crate::link::url::BrokerUrl;
    use crate::plan::{self, Ask};
    use crate::runtime::{Daemon, Pins};
    use crate::wire::payload::time_text;

    const FILE: &str = include_str!("demo.yaml");
    /// Time between two steps of the story.
    const STEP: Duration = Duration::from_millis(700);
    const DOOR: u8 = 17;

    /// A temporary directory, gone with its owner.
    struct Scratch(PathBuf);
    impl Scratch {
        fn make() -> Result<Scratch, Failure> {
            let dir = std::env::temp_dir().join(format!("pinpost-demo-{}", std::process::id()));
            std::fs::create_dir_all(&dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
            Ok(Scratch(dir))
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// What passed, for the summary.
    #[derive(Default)]
    struct Sums {
        readings: u64,
        commands: u64,
        outcomes: u64,
        other: u64,
    }

    pub(super) async fn tell(time: Option<Duration>) -> Outcome {
        let watch = |kind| signal(kind).map_err(|e| Failure::failed(format!("cannot watch for signals: {e}")));
        let (mut terminate, mut interrupt) = (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
        let end = time.map(|t| Instant::now() + t);

        let scratch = Scratch::make()?;
        let broker = embedded::start(([127, 0, 0, 1], 0).into()).map_err(Failure::failed)?;
        let mut sensor = pty::Pair::open().map_err(|e| Failure::failed(format!("no pseudo terminal: {e}")))?;
        let pins = Pins::simulated();
        let Some(sim) = pins.sim.clone() else { return Err(Failure::failed("no simulated pins")) };
        // a closed door pulls its pin to ground
        sim.drive(DOOR, Level::Low).map_err(|e| Failure::failed(e.text))?;
        let plan = plan(&broker.url(), &scratch.0, sensor.path())?;

        say(&format!("broker    {}   (embedded; try: pinpost sub -L {} -v -t '#')", broker.url(), broker.url()));
        say(&format!("sensor    {}   (a pseudo terminal that a simulated sensor writes to)", sensor.path().display()));
        say("pins      17 door, 27 pump   (simulated)");
        say("\ntime          topic                        payload");

        let mut watcher = client(&broker.url())?;
        watcher.subscribe(&[("#".into(), Qos::AtLeastOnce)]).map_err(Failure::failed)?;
        let speaker = client(&broker.url())?;
        let daemon = Daemon::start(plan, pins).map_err(|e| Failure::failed(e.to_string()))?;

        let mut sums = Sums::default();
        let mut steps = interval(STEP);
        steps.tick().await;
        let mut step = 0u32;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = async { sleep_until(end.unwrap_or_else(Instant::now).into()).await }, if end.is_some() => break,
                event = watcher.next() => match event {
                    Some(Event::Message(message)) => show(&message, &mut sums)?,
                    Some(Event::Failed(e)) => return Err(Failure::failed(e.to_string())),
                    Some(_) => {}
                    None => return Err(Failure::failed("the demo's own client has ended")),
                },
                _ = steps.tick() => {
                    play(step, &sim, &mut sensor, &speaker).await?;
                    step += 1;
                }
            }
        }
        say("\nstopping: outputs take their safe state, the gateway says offline");
        // the last words are shown too
        let stop = daemon.stop();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                Some(event) = watcher.next() => if let Event::Message(message) = event {
                    show(&message, &mut sums)?;
                },
                () = &mut stop => break,
            }
        }
        speaker.disconnect().await;
        say(&format!(
            "\n{} readings, {} commands, {} outcomes, {} messages about the gateway itself",
            sums.readings, sums.commands, sums.outcomes, sums.other
        ));
        say("next: pinpost check config.example.yaml, pinpost run -c YOUR.yaml --simulate");
        if sums.readings == 0 { Err(Failure::failed("nothing was read")) } else { Ok(()) }
    }

    fn client(url: &str) -> Result<Client, Failure> {
        let url: BrokerUrl = url.parse().map_err(Failure::failed)?;
        Client::connect(Options::new(url)).map_err(Failure::failed)
    }

    fn plan(broker: &str, dir: &Path, pty: &Path) -> Result<plan::Plan, Failure> {
        let env = |name: &str| match name {
            "DEMO_BROKER" => Some(broker.to_owned()),
            "DEMO_DIR" => Some(dir.display().to_string()),
            "DEMO_PTY" => Some(pty.display().to_string()),
            _ => None,
        };
        let ask = Ask { env: &env, base: dir, when: When::Run, simulate: true, host: "demo", machine: "demo" };
        let checked = plan::check(FILE.as_bytes(), &ask);
        let report = report::render(&checked.problems, "demo.yaml", &checked.text, false);
        checked.plan.ok_or(Failure { code: super::super::exit::INTERNAL, text: report })
    }

    /// One step of the story: a door opens, a sensor warms up, a pump is switched and answers.
    async fn play(
        step: u32,
        sim: &crate::hal::sim::SimBoard,
        sensor: &mut pty::Pair,
        speaker: &Client,
    ) -> Result<(), Failure> {
        let warmth = f64::from(step % 24);
        let frame = format!("T={:.2};H={}\n", 20.0 + warmth * 0.23, 40 + step / 6 % 5);
        // a sensor that is in the middle of a line when it is switched on
        let bytes = if step == 0 { format!("H=4\n{frame}") } else { frame };
        sensor.write_all(bytes.as_bytes()).await.map_err(|e| Failure::failed(format!("the sensor's line: {e}")))?;
        let drive = |level| sim.drive(DOOR, level).map_err(|e| Failure::failed(e.text));
        let command = match step % 10 {
            1 => {
                say("              -- the door opens");
                drive(Level::High)?;
                None
            }
            3 => Some(("demo/pump/set", "ON")),
            5 => {
                say("              -- the door closes");
                drive(Level::Low)?;
                None
            }
            6 => Some(("demo/pump/set", r#"{"value":"OFF","id":"demo-1"}"#)),
            8 => Some(("demo/pump/pulse", "300ms")),
            _ => None,
        };
        if let Some((topic, payload)) = command {
            let sent = speaker.publish(topic, payload.into(), Qos::AtLeastOnce, false).await;
            sent.map_err(Failure::failed)?;
        }
        Ok(())
    }

    /// One line a message.
    fn show(message: &Message, sums: &mut Sums) -> Result<(), Failure> {
        let topic = message.topic.as_str();
        let last = topic.rsplit('/').next().unwrap_or_default();
        let (count, sign) = match last {
            "set" | "pulse" => (&mut sums.commands, "->"),
            "result" => (&mut sums.outcomes, "<-"),
            _ if topic.contains("/bridge/") || topic.contains("/sim/") || last == "availability" => {
                (&mut sums.other, "  ")
            }
            _ => (&mut sums.readings, "  "),
        };
        *count += 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let text = time_text(crate::model::Wall(now as i64));
        let clock = text.get(11..23).unwrap_or_default();
        let payload: String = String::from_utf8_lossy(&message.payload).chars().take(100).collect();
        let cut = if message.payload.len() > payload.len() { " …" } else { "" };
        let payload = payload.escape_debug().to_string().replace("\\\"", "\"");
        data(format!("{clock} {sign} {topic:<26}  {payload}{cut}\n").as_bytes())
    }
}
