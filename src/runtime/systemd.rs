//! What systemd is told: READY when the plan runs, STATUS with the link's state, WATCHDOG only when the hub has
//! answered. Without systemd nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};

use super::Ask;

fn tell(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        log::debug!("systemd was not told: {e}");
    }
}

/// A line for `systemctl status`.
pub(super) fn status(text: &str) {
    tell(NotifyState::Status(text));
}

/// The daemon takes another plan; [`start`] says when it runs.
pub(super) fn reloading() {
    tell(NotifyState::Reloading);
}

/// The daemon stops.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// The plan runs: READY, and from now on the watchdog is fed as long as the hub answers.
pub(super) fn start(control: mpsc::Sender<Ask>) {
    tell(NotifyState::Ready);
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut beat = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
        loop {
            beat.tick().await;
            let (answer, alive) = oneshot::channel();
            if control.send(Ask::Ping(answer)).await.is_err() {
                return;
            }
            if alive.await.is_ok() {
                tell(NotifyState::Watchdog);
            }
        }
    });
}
