//! Plays a scenario: real gateways on the stage, time that jumps from one event to the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::report;
use super::script::{Act, Restart, Script, Standing, Wanted, What};
use crate::clock::Clock;
use crate::config::{self, When};
use crate::hal::Level;
use crate::hal::machine::Machine;
use crate::hal::port::sim::SimPort;
use crate::hal::sim::SimBoard;
use crate::link::stand_in::{Broker, Seen};
use crate::model::Problem;
use crate::plan::{self, Ask, Checked};
use crate::runtime::Pins;
use crate::runtime::stage::{Ended, Stage, Staged};
use crate::wire::topics::matches;

/// What happens at once is over by then: time only goes on when nobody has anything to do.
const BREATH: Duration = Duration::from_millis(1);

/// Why a scenario did not pass.
pub enum Trouble {
    /// A gateway's file is wrong.
    Wrong { file: PathBuf, text: String, problems: Vec<Problem> },
    /// A step failed: its number, and why, in lines.
    Failed { step: usize, at: Duration, lines: Vec<String> },
    /// It could not be begun.
    Broken(String),
}

/// A gateway of the scenario.
struct Gateway {
    file: PathBuf,
    bytes: Vec<u8>,
    dir: PathBuf,
    pins: Pins,
    board: SimBoard,
    ports: BTreeMap<String, SimPort>,
    staged: Option<Staged>,
}

/// A scenario that is being played.
pub struct Play<'a> {
    script: &'a Script,
    stage: Stage,
    began: Instant,
    gateways: Vec<Gateway>,
    /// Messages before this one were before the last step that did something.
    mark: u64,
    /// Topics of which messages up to here have been expected, until the next mark.
    met: BTreeMap<String, u64>,
}

/// Plays it to its end. How long it took, in the gateways' time.
pub async fn play(script: &Script, home: &Path) -> Result<Duration, Trouble> {
    let clock = Arc::new(Clock::set_to(script.start, script.zone.clone()));
    let stage = Stage { clock, broker: Broker::new(script.broker == Standing::Up) };
    let mut play = Play { script, stage, began: Instant::now(), gateways: Vec::new(), mark: 0, met: BTreeMap::new() };
    for (i, (_, file)) in script.gateways.iter().enumerate() {
        let bytes = config::read(file).map_err(|problem| Trouble::Wrong {
            file: file.clone(),
            text: String::new(),
            problems: vec![*problem],
        })?;
        let dir = home.join(i.to_string());
        let board = SimBoard::new();
        let machine = Machine::at(dir.join("root")).simulate().prompt();
        let pins = Pins { board: Arc::new(board.clone()), sim: Some(board.clone()), machine };
        let gateway = Gateway { file: file.clone(), bytes, dir, pins, board, ports: BTreeMap::new(), staged: None };
        play.gateways.push(gateway);
        play.start(i)?;
    }
    tokio::time::sleep(BREATH).await;
    for (i, act) in script.steps.iter().enumerate() {
        play.step(act).await.map_err(|lines| Trouble::Failed { step: i, at: play.began.elapsed(), lines })?;
    }
    let took = play.began.elapsed();
    for staged in play.gateways.iter_mut().filter_map(|g| g.staged.as_mut()) {
        staged.stop(Ended::Done).await;
    }
    Ok(took)
}

impl Play<'_> {
    fn start(&mut self, which: usize) -> Result<(), Trouble> {
        let Some(gateway) = self.gateways.get_mut(which) else { return Ok(()) };
        let env = |name: &str| self.script.env.get(name).cloned().or_else(|| std::env::var(name).ok());
        let ask = Ask {
            env: &env,
            base: gateway.file.parent().unwrap_or(Path::new("")),
            when: When::Check,
            simulate: true,
            host: "scenario",
            machine: "test",
        };
        let Checked { plan, problems, text } = plan::check(&gateway.bytes, &ask);
        let Some(mut plan) = plan else {
            return Err(Trouble::Wrong { file: gateway.file.clone(), text, problems });
        };
        plan.queue.dir = gateway.dir.join("queue");
        plan.broker = None;
        for port in &mut plan.ports {
            let far = gateway.ports.entry(port.name().to_owned()).or_default();
            port.simulate(far.clone());
        }
        let staged = self.stage.start(plan, gateway.pins.clone());
        gateway.staged = Some(staged.map_err(|e| Trouble::Broken(e.to_string()))?);
        Ok(())
    }

    /// One step; why it failed, in lines.
    async fn step(&mut self, act: &Act) -> Result<(), Vec<String>> {
        if let Some(at) = act.at {
            let due = self.began + at;
            if Instant::now() > due {
                let late = report::time(self.began.elapsed());
                return Err(vec![format!("its time is over: what stands above took until {late}")]);
            }
            tokio::time::sleep_until(due).await;
        }
        if act.what.does() {
            self.mark = self.stage.broker.count();
            self.met.clear();
        }
        let broker = self.stage.broker.clone();
        let Some(gateway) = self.gateways.get_mut(act.gateway) else { return Ok(()) };
        match &act.what {
            What::Pin(pin, high) => {
                let level = if *high { Level::High } else { Level::Low };
                gateway.board.drive(*pin, level).map_err(|e| vec![e.text])
            }
            What::File(below, text) => {
                let path = gateway.dir.join("root").join(below);
                let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
                made.and_then(|()| std::fs::write(&path, text)).map_err(|e| vec![format!("{}: {e}", below.display())])
            }
            What::Write(port, bytes) => match gateway.port(port)?.say(bytes) {
                true => Ok(()),
                false => Err(vec![format!("`{port}` is unplugged")]),
            },
            What::Plug(port, there) => {
                gateway.port(port)?.plug(*there);
                Ok(())
            }
            What::Publish(message, twice) => match broker.publish(message.clone(), *twice) {
                true => Ok(()),
                false => Err(vec!["there is no broker now: nobody can publish".into()]),
            },
            What::Broker(standing) => {
                broker.put(*standing == Standing::Up);
                tokio::time::sleep(BREATH).await;
                Ok(())
            }
            What::Wait(time) => {
                tokio::time::sleep(*time).await;
                Ok(())
            }
            What::Restart(how) => {
                let how = if *how == Restart::Kill { Ended::Killed } else { Ended::Done };
                if let Some(mut staged) = gateway.staged.take() {
                    staged.stop(how).await;
                }
                self.start(act.gateway).map_err(|trouble| vec![trouble.short()])?;
                tokio::time::sleep(BREATH).await;
                Ok(())
            }
            What::Expect(wanted, within) => self.expect(wanted, *within).await,
            What::Never(wanted, lasts) => {
                tokio::time::sleep(*lasts).await;
                let seen = broker.seen(self.mark);
                let wrong = seen.iter().filter(|s| s.ours && matches(&wanted.topic, &s.message.topic));
                let wrong: Vec<&Seen> = wrong.filter(|s| wanted.fits(&s.message)).collect();
                if wrong.is_empty() {
                    return Ok(());
                }
                let mut lines = vec![format!("came, and should never: {}", report::wanted(wanted))];
                lines.extend(wrong.iter().take(report::MOST).map(|s| report::came("+", s, self.began)));
                Err(lines)
            }
            What::Level(pin, wanted, within) => level(&gateway.board, *pin, *wanted, *within).await,
            What::Heard(port, bytes, within) => heard(gateway.port(port)?, bytes, *within).await,
            What::Exits(code, within) => {
                let Some(staged) = &mut gateway.staged else { return Err(vec!["it does not run".into()]) };
                let found = match tokio::time::timeout(*within, staged.end()).await {
                    Err(_) => return Err(vec![format!("it still runs after {}", report::time(*within))]),
                    Ok(Ended::Done) => 0,
                    Ok(Ended::Failed) => super::exit::INTERNAL,
                    Ok(Ended::Killed) => super::exit::FAILED,
                };
                match found == *code {
                    true => Ok(()),
                    false => Err(vec![format!("- exit code {code}"), format!("+ exit code {found}")]),
                }
            }
        }
    }

    /// The first message since the last deed that fits and was not expected before.
    async fn expect(&mut self, wanted: &Wanted, within: Duration) -> Result<(), Vec<String>> {
        let until = Instant::now() + within;
        let broker = self.stage.broker.clone();
        loop {
            let news = broker.news();
            let from = self.met.get(&wanted.topic).copied().unwrap_or(self.mark);
            let seen: Vec<Seen> = broker.seen(from).into_iter().filter(|s| s.ours).collect();
            let on_topic = |s: &&Seen| matches(&wanted.topic, &s.message.topic);
            if let Some(found) = seen.iter().filter(on_topic).find(|s| wanted.fits(&s.message)) {
                self.met.insert(wanted.topic.clone(), found.number + 1);
                return Ok(());
            }
            if tokio::time::timeout_at(until, news).await.is_ok() {
                continue;
            }
            let mut lines = vec![format!("did not come within {}", report::time(within))];
            lines.push(format!("- {}", report::wanted(wanted)));
            lines.extend(seen.iter().filter(on_topic).take(report::MOST).map(|s| report::came("+", s, self.began)));
            let others: Vec<&Seen> = seen.iter().filter(|s| !on_topic(s)).collect();
            if seen.iter().filter(on_topic).count() == 0 {
                lines.push(if others.is_empty() { "nothing came at all" } else { "what came instead:" }.to_owned());
                lines.extend(others.iter().take(report::MOST).map(|s| report::came(" ", s, self.began)));
            }
            return Err(lines);
        }
    }
}

impl Gateway {
    fn port(&self, name: &str) -> Result<&SimPort, Vec<String>> {
        self.ports.get(name).ok_or_else(|| {
            let all: Vec<&str> = self.ports.keys().map(String::as_str).collect();
            let all =
                if all.is_empty() { "it has none in use".to_owned() } else { format!("it has {}", all.join(", ")) };
            vec![format!("the gateway has no port `{name}`; {all}")]
        })
    }
}

async fn level(board: &SimBoard, pin: u8, wanted: f64, within: Duration) -> Result<(), Vec<String>> {
    let until = Instant::now() + within;
    loop {
        let changed = board.changed();
        let share = board.share(pin);
        if share.is_some_and(|share| (share - wanted).abs() < 0.0005) {
            return Ok(());
        }
        if tokio::time::timeout_at(until, changed).await.is_err() {
            let found = share.map_or("no output".to_owned(), |share| share.to_string());
            let late = report::time(within);
            return Err(vec![
                format!("was not so within {late}"),
                format!("- GPIO{pin}  {wanted}"),
                format!("+ GPIO{pin}  {found}"),
            ]);
        }
    }
}

/// The bytes, wherever they stand in what was written; all before their end is taken.
async fn heard(port: &SimPort, bytes: &[u8], within: Duration) -> Result<(), Vec<String>> {
    let until = Instant::now() + within;
    loop {
        let written = port.written();
        let heard = port.heard();
        if let Some(at) = memchr::memmem::find(&heard, bytes) {
            port.take(at + bytes.len());
            return Ok(());
        }
        if tokio::time::timeout_at(until, written).await.is_err() {
            return Err(vec![
                format!("was not written within {}", report::time(within)),
                format!("- {}", report::bytes(bytes)),
                format!("+ {}", if heard.is_empty() { "nothing".to_owned() } else { report::bytes(&heard) }),
            ]);
        }
    }
}

impl Trouble {
    fn short(&self) -> String {
        match self {
            Trouble::Wrong { file, .. } => format!("{} is wrong", file.display()),
            Trouble::Failed { lines, .. } => lines.join("; "),
            Trouble::Broken(text) => text.clone(),
        }
    }
}
