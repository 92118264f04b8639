//! The whole daemon, `pinpost run --simulate`, against a real mosquitto, real ptys and foreign clients.

#[path = "daemon/asking.rs"]
mod asking;
#[path = "daemon/batches.rs"]
mod batches;
#[path = "daemon/camera.rs"]
mod camera;
#[path = "daemon/counters.rs"]
mod counters;
#[path = "support/fronts.rs"]
mod fronts;
#[path = "daemon/home_assistant.rs"]
mod home_assistant;
#[path = "daemon/homie.rs"]
mod homie;
#[path = "daemon/inputs.rs"]
mod inputs;
#[path = "daemon/kills.rs"]
mod kills;
#[path = "daemon/link.rs"]
mod link;
#[path = "daemon/many_ports.rs"]
mod many_ports;
#[path = "daemon/modbus.rs"]
mod modbus;
#[path = "daemon/outputs.rs"]
mod outputs;
#[path = "daemon/queue.rs"]
mod queue;
#[path = "daemon/relays.rs"]
mod relays;
#[path = "daemon/reload.rs"]
mod reload;
#[path = "daemon/requests.rs"]
mod requests;
#[path = "daemon/rules.rs"]
mod rules;
#[path = "daemon/sensors.rs"]
mod sensors;
#[path = "daemon/serial.rs"]
mod serial;
#[path = "daemon/sniff.rs"]
mod sniff;
#[path = "daemon/sparkplug.rs"]
mod sparkplug;
#[path = "daemon/storm.rs"]
mod storm;
mod support;
#[path = "daemon/transports.rs"]
mod transports;
