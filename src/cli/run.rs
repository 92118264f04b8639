//! `pinpost run`: the daemon.

use clap::Args;

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigOption, Failure, Outcome, block_on, exit, file};
use crate::config::When;
use crate::hal::NoBoard;
use crate::hal::raspberry_pi::RaspberryPi;
use crate::plan::Plan;
use crate::runtime::{Daemon, Pins};

/// Arguments of `pinpost run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost run                                 the daemon, with /etc/pinpost/config.yaml
  pinpost run -c my.yaml --simulate           the same on any machine: the pins are simulated

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
    let plan = file::plan(&args.config.file, When::Run, args.simulate)?;
    block_on(serve(plan, args.simulate))
}

async fn serve(plan: Plan, simulate: bool) -> Outcome {
    let watch = |kind| signal(kind).map_err(|e| Failure::failed(format!("cannot watch for signals: {e}")));
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut hangup = watch(SignalKind::hangup())?;
    let pins = if simulate { Pins::simulated() } else { raspberry_pi() };
    let (id, devices) = (plan.id.clone(), plan.devices.len());
    log::info!(gateway = id.as_str(), devices, board = pins.board.describe().as_str(); "pinpost {} runs", env!("CARGO_PKG_VERSION"));
    let mut daemon = Daemon::start(plan, pins).map_err(|e| Failure::failed(e.to_string()))?;
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => log::warn!("SIGHUP does nothing; restart to read the file anew"),
            () = daemon.failed() => {
                daemon.abandon();
                return Err(Failure { code: exit::INTERNAL, text: "a vital part has failed".into() });
            }
        }
    };
    log::info!("stopping");
    daemon.stop().await;
    log::info!("stopped");
    outcome
}

/// The pins of this Pi. Where there are none, devices on pins are offline and say why, and the rest runs.
fn raspberry_pi() -> Pins {
    match RaspberryPi::open() {
        Ok(board) => Pins { board: Arc::new(board), sim: None },
        Err(e) => {
            log::warn!("no pins: {e}");
            Pins { board: Arc::new(NoBoard::because(e)), sim: None }
        }
    }
}
