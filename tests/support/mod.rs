//! What the tests of the program share: a program whose output is awaited, and a mosquitto of one's own.

// Each test program uses its own part of this.
#![allow(dead_code)]

pub mod gateway;
pub mod modbus_unit;
pub mod mosquitto;
pub mod program;
pub mod websocket;
