//! The link, against a real mosquitto and against a broker that misbehaves on command.

#[path = "link/behaviours.rs"]
mod behaviours;
#[path = "link/cuts.rs"]
mod cuts;
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[path = "link/faults.rs"]
mod faults;
#[path = "support/fronts.rs"]
mod fronts;
#[path = "support/link_outbox.rs"]
mod link_outbox;
#[path = "support/mosquitto_link.rs"]
mod mosquitto;
#[path = "support/observer.rs"]
mod observer;
#[path = "link/real_broker.rs"]
mod real_broker;
#[path = "support/scripted_broker.rs"]
mod scripted_broker;
#[path = "link/secure.rs"]
mod secure;
#[path = "link/several.rs"]
mod several;
#[path = "link/transports.rs"]
mod transports;
#[path = "support/websocket.rs"]
mod websocket;
#[path = "link/witness.rs"]
mod witness;
