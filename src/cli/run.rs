//! `pinpost run`: the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Map, Value as Json, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigOption, Failure, Outcome, block_on, exit, file};
use crate::config::raw::Gpio;
use crate::config::{self, When, report};
use crate::engine::commands::Reply;
use crate::hal::machine::Machine;
use crate::hal::{NoBoard, backend};
use crate::model::Problem;
use crate::plan::{Checked, Plan};
use crate::runtime::{Daemon, Happened, Pins};

/// Problems that the answer to a reload names.
const PROBLEMS: usize = 20;

/// Arguments of `pinpost run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost run                                 the daemon, with /etc/pinpost/config.yaml
  pinpost run -c my.yaml --simulate           the same on any machine: the pins are simulated

SIGHUP (systemctl reload pinpost) reads the file anew: a wrong one changes nothing, a good one runs at once, and
outputs that it has on the same pin are left as they are.

Exit code 78 says that the file is wrong; `pinpost check FILE` shows where.")]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigOption,
    /// Use a simulated board; everything above it is the same
    #[arg(long)]
    pub simulate: bool,
}

/// Runs until it is told to stop.
pub fn run(args: &RunArgs) -> Outcome {
    crate::logging::init(log::LevelFilter::Info);
    let bytes = file::read(&args.config.file)?;
    let plan = file::plan_of(&bytes, &args.config.file, When::Run, args.simulate)?;
    let gpio = plan.gpio.clone();
    let house = House { file: args.config.file.clone(), simulate: args.simulate, gpio, running: bytes };
    block_on(serve(house, plan))
}

async fn serve(mut house: House, plan: Plan) -> Outcome {
    let watch = |kind| signal(kind).map_err(|e| Failure::failed(format!("cannot watch for signals: {e}")));
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut hangup = watch(SignalKind::hangup())?;
    let pins = if house.simulate { simulated()? } else { pins_of(&plan.gpio) };
    let (id, devices) = (plan.id.clone(), plan.devices.len());
    log::info!(gateway = id.as_str(), devices, board = pins.board.describe().as_str(); "pinpost {} runs", env!("CARGO_PKG_VERSION"));
    let mut daemon = Daemon::start(plan, pins).map_err(|e| Failure::failed(e.to_string()))?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => daemon = house.reload(daemon, None).await?,
            happened = daemon.happens() => match happened {
                Happened::Reload(reply) => daemon = house.reload(daemon, Some(*reply)).await?,
                Happened::Exit(why) => {
                    log::info!("stopping: {why}");
                    daemon.finish().await;
                    log::info!("stopped");
                    return Ok(());
                }
                Happened::Failed => {
                    daemon.abandon();
                    return Err(Failure { code: exit::INTERNAL, text: "a vital part has failed".into() });
                }
            }
        }
    }
    log::info!("stopping");
    daemon.stop().await;
    log::info!("stopped");
    Ok(())
}

/// The file, and what of it runs.
struct House {
    file: PathBuf,
    simulate: bool,
    /// Who drives the pins.
    gpio: Gpio,
    /// The text that runs: what is left if a new one cannot be started.
    running: Vec<u8>,
}

impl House {
    /// Reads the file anew and runs it. A wrong one changes nothing.
    async fn reload(&mut self, daemon: Daemon, reply: Option<Reply>) -> Result<Daemon, Failure> {
        log::info!("reading {} anew", self.file.display());
        let told = |outcome: &str, more: &[(&str, Json)]| {
            let mut map = Map::from_iter([("outcome".to_owned(), json!(outcome))]);
            map.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
            map
        };
        let event = |told: &Map<String, Json>| {
            let mut event = Map::from_iter([("event".to_owned(), json!("reload"))]);
            event.extend(told.iter().filter(|(k, _)| *k != "problems").map(|(k, v)| (k.clone(), v.clone())));
            Json::Object(event)
        };
        let (bytes, checked) = self.look().await;
        let Some(plan) = checked.plan else {
            let errors = checked.problems.iter().filter(|p| !p.warning).count();
            let path = self.file.display().to_string();
            let shown = report::render(&checked.problems, &path, &checked.text, false);
            let reason =
                format!("{errors} {} in {path}; the old one goes on", if errors == 1 { "error" } else { "errors" });
            log::error!("{reason}\n{}", shown.trim_end());
            let mut problems = report::render_json(&checked.problems, &path, &checked.text);
            if let Json::Array(list) = &mut problems {
                list.truncate(PROBLEMS);
            }
            let told = told("rejected", &[("reason", json!(reason)), ("problems", problems)]);
            daemon.say(event(&told)).await;
            if let Some(reply) = reply {
                daemon.answer(reply, told).await;
            }
            return Ok(daemon);
        };
        let (digest, devices) = (plan.digest.clone(), plan.devices.len());
        let done = told("done", &[("config", json!(digest)), ("devices", json!(devices))]);
        if let Some(reply) = reply {
            daemon.answer(reply, done.clone()).await;
        }
        let gpio = plan.gpio.clone();
        let other = !self.simulate && gpio != self.gpio;
        let mut heritage = daemon.hand_over(&plan).await;
        if other {
            heritage.give_pins(pins_of(&gpio));
        }
        let why = match Daemon::resume(plan, &mut heritage) {
            Ok(daemon) => {
                log::info!(config = digest.as_str(), devices; "the new file runs");
                self.running = bytes;
                self.gpio = gpio;
                daemon.say(event(&done)).await;
                return Ok(daemon);
            }
            Err(e) => e.to_string(),
        };
        log::error!("the new file cannot be started: {why}; back to the old one");
        let old = file::check_of(&self.running, &self.file, When::Run, self.simulate).plan;
        let old = old.ok_or_else(|| Failure::failed(format!("{why}; and the old one cannot be read any more")))?;
        if other {
            heritage.give_pins(pins_of(&self.gpio));
        }
        let daemon = Daemon::resume(old, &mut heritage).map_err(|e| Failure::failed(e.to_string()))?;
        let failed = told("failed", &[("reason", json!(format!("{why}; the old one goes on")))]);
        daemon.say(event(&failed)).await;
        Ok(daemon)
    }

    /// Reads and judges the file, beside the loop: the daemon goes on meanwhile.
    async fn look(&self) -> (Vec<u8>, Checked) {
        let (path, simulate) = (self.file.clone(), self.simulate);
        let wrong = |problem| Checked { plan: None, problems: vec![problem], text: String::new() };
        let look = move || match config::read(&path) {
            Ok(bytes) => {
                let checked = file::check_of(&bytes, &path, When::Run, simulate);
                (bytes, checked)
            }
            Err(problem) => (Vec::new(), wrong(*problem)),
        };
        let fault = |e| wrong(Problem::error(None, format!("internal fault: the file could not be judged: {e}")));
        tokio::task::spawn_blocking(look).await.unwrap_or_else(|e| (Vec::new(), fault(e)))
    }
}

/// Simulated pins, with the trace that `PINPOST_SIM_TRACE` asks for.
fn simulated() -> Result<Pins, Failure> {
    let pins = Pins::simulated();
    if let (Some(path), Some(sim)) = (std::env::var_os("PINPOST_SIM_TRACE"), &pins.sim) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        sim.trace(file.map_err(|e| Failure::failed(format!("PINPOST_SIM_TRACE: {}: {e}", path.display())))?);
    }
    Ok(pins)
}

/// The pins of this machine. Where there are none, devices on pins are offline and say why, and the rest runs.
fn pins_of(gpio: &Gpio) -> Pins {
    match backend::open(gpio) {
        Ok(board) => Pins { board, sim: None, machine: Machine::here() },
        Err(e) => {
            log::warn!("no pins: {e}");
            Pins { board: Arc::new(NoBoard::because(e)), sim: None, machine: Machine::here() }
        }
    }
}
