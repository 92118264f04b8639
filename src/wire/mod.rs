//! MQTT WORDS, pure: topics, payloads and records. No clock, no socket.

pub mod batch;
pub mod command;
pub mod home_assistant;
mod home_assistant_words;
pub mod homie;
pub mod payload;
pub mod record;
pub mod sparkplug;
mod sparkplug_payload;
pub mod topics;

pub use record::{ReadingRecord, Record};
pub use topics::{Route, Topics};
