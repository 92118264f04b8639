//! The whole daemon, `pinpost run --simulate`, against a real mosquitto, real ptys and foreign clients.

#[path = "daemon/counters.rs"]
mod counters;
#[path = "daemon/inputs.rs"]
mod inputs;
#[path = "daemon/link.rs"]
mod link;
#[path = "daemon/outputs.rs"]
mod outputs;
#[path = "daemon/serial.rs"]
mod serial;
mod support;
