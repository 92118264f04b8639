//! pinpost: GPIO pins and serial frames to MQTT and back. The map of the house comes with the rooms.
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod device;
pub mod engine;
pub mod hal;
pub mod link;
pub mod logging;
pub mod model;
pub mod plan;
pub mod queue;
pub mod runtime;
pub mod wire;
