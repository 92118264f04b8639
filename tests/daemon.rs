//! The whole daemon, `pinpost run --simulate`, against a real mosquitto, real ptys and foreign clients.

#[path = "daemon/inputs.rs"]
mod inputs;
#[path = "daemon/link.rs"]
mod link;
#[path = "daemon/modbus.rs"]
mod modbus;
#[path = "daemon/outputs.rs"]
mod outputs;
#[path = "daemon/queue.rs"]
mod queue;
#[path = "daemon/reload.rs"]
mod reload;
#[path = "daemon/serial.rs"]
mod serial;
mod support;
