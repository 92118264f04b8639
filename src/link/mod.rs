//! THE BROKER. The only room that names rumqttc and rumqttd.

#[cfg(feature = "broker")]
pub mod embedded;
pub mod simple;
pub mod tls;
pub mod url;
