//! THE BROKER. The only room that names rumqttc and rumqttd.

pub mod tls;
pub mod url;
