//! The task of a computed point: there is none. The engine computes; here is only somebody who hears that the daemon
//! ends, and who says so if anything is ever asked.

use super::{Context, DeviceError, Driver, Task};

pub(super) struct Computed;

impl Driver for Computed {
    fn run<'a>(&'a self, cx: &'a mut Context) -> Task<'a, Result<(), DeviceError>> {
        Box::pin(async move {
            while let Some(order) = cx.orders.recv().await {
                cx.acted(order.ticket, Err("it is computed and cannot be set".into())).await;
            }
            Ok(())
        })
    }
}
