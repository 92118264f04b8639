//! Runs a device for ever: when its driver fails or panics it says `offline`, waits until trying again may help, and
//! runs it again. Meanwhile commands are answered with the reason.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::device::{Context, Counters, DeviceError, Driver, Report};
use crate::hal::bus;
use crate::model::DeviceStatus;

/// First and longest wait between two tries. A node that comes back ends the wait at once.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(4);
/// A driver that ran this long was well; its next failure begins with a short wait again.
const WELL: Duration = Duration::from_secs(10);

/// Runs until the hub closes the device's channel.
pub(super) async fn supervise(driver: Box<dyn Driver>, mut context: Context) {
    let mut backoff = Backoff::new(FIRST, LONGEST);
    let mut said: Option<String> = None;
    loop {
        let begun = Instant::now();
        let result = caught(driver.run(&mut context)).await;
        let reason = match result {
            Ok(Ok(())) => return,
            Ok(Err(DeviceError(text))) => text,
            Err(text) => format!("internal fault: {text}"),
        };
        if begun.elapsed() > WELL {
            backoff.held();
            said = None;
        }
        Counters::add(&context.counters.errors, 1);
        if said.as_ref() != Some(&reason) {
            log::warn!(device = context.name.as_str(); "offline: {reason}");
            said = Some(reason.clone());
        }
        let _ = context.up.send(Report::Status(context.id, DeviceStatus::Offline(reason.clone()))).await;
        let longest = backoff.failed();
        let mut wait = pin!(caught(driver.wait(longest)));
        loop {
            tokio::select! {
                waited = &mut wait => {
                    if waited.is_err() {
                        tokio::time::sleep(longest).await;
                    }
                    break;
                }
                order = context.orders.recv() => match order {
                    Some(order) => context.acted(order.ticket, Err(format!("offline: {reason}").into())).await,
                    None => return,
                },
            }
        }
    }
}

/// Runs a port that devices share, until no device holds it any more; again, if it panics.
pub(super) async fn keep(mut port: bus::Task) {
    while let Err(text) = caught(port.run()).await {
        log::error!("internal fault of a port: {text}");
        tokio::time::sleep(FIRST).await;
    }
}

/// Polls a future; a panic in it becomes an error.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            Poll::Ready(Err(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())))
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Task;
    use crate::device::testing::Bench;
    use crate::hal::sim::SimBoard;

    #[tokio::test]
    async fn a_panic_becomes_an_error() {
        let result: Result<(), String> = caught(async { panic!("on purpose") }).await;
        assert_eq!(result, Err("on purpose".into()));
    }

    /// Panics wherever it can.
    struct Rotten;
    impl Driver for Rotten {
        fn run<'a>(&'a self, _: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
            Box::pin(async { panic!("on purpose") })
        }
        fn wait(&self, _: Duration) -> Task<'_, ()> {
            Box::pin(async { panic!("again") })
        }
    }

    #[tokio::test]
    async fn a_driver_that_panics_is_offline_and_run_again() {
        let bench = Bench::new(std::sync::Arc::new(SimBoard::new()));
        let (context, orders, mut reports) = bench.taken_apart();
        let counters = context.counters.clone();
        let supervisor = tokio::spawn(supervise(Box::new(Rotten), context));
        for _ in 0..2 {
            match reports.recv().await {
                Some(Report::Status(_, DeviceStatus::Offline(why))) => assert!(why.contains("on purpose"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(counters.read().errors >= 2);
        drop(orders);
        supervisor.await.unwrap();
    }
}
