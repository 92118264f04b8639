//! MQTT 5 and 3.1.1 of the library behind one face: the same steps, the same requests.

use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport, v5};

use super::trouble::{Trouble, publish_refusal, subscribe_refusal};
use super::{MAX_PACKET, Message, Options, Outgoing, Qos, Version};
use crate::link::tls;
use crate::link::url::{BrokerUrl, Scheme};

/// Packet ids in use at a time: more than the window, so that an id is free again before it comes round.
const IDS: u16 = 100;
/// Requests between a caller and the loop: the window, the subscriptions of a person, a goodbye.
const CHANNEL: usize = 256;

/// What one poll has brought.
pub(super) enum Step {
    Connected,
    /// A publish went out under this id (0: QoS 0, and it is done).
    Sent(u16),
    /// The broker took this id, or refused it.
    Acked(u16, Option<String>),
    /// One answer for each filter; `Some` is a refusal.
    Subscribed(Vec<Option<String>>),
    Message(Message),
    /// Our DISCONNECT is written.
    Goodbye,
    Other,
}

pub(super) enum Api {
    V5(v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

pub(super) enum Loop {
    V5(Box<v5::EventLoop>),
    V4(Box<rumqttc::EventLoop>),
}

/// Both halves of a connection, not connected yet.
pub(super) fn open(options: &Options, id: &str, keep_alive: Duration) -> Result<(Api, Loop), String> {
    let url = &options.url;
    let transport = match url.scheme {
        Scheme::Mqtt => Transport::Tcp,
        Scheme::Ws => Transport::Ws,
        Scheme::Mqtts => Transport::Tls(TlsConfiguration::Rustls(tls::client_config(&options.tls)?)),
        Scheme::Wss => Transport::Wss(TlsConfiguration::Rustls(tls::client_config(&options.tls)?)),
    };
    let host = match url.scheme {
        Scheme::Ws | Scheme::Wss => url.to_string(),
        Scheme::Mqtt | Scheme::Mqtts => url.host.clone(),
    };
    Ok(match options.version {
        Version::V5 => {
            let mut o = v5::MqttOptions::new(id, host, url.port);
            o.set_transport(transport).set_keep_alive(keep_alive).set_clean_start(true);
            o.set_outgoing_inflight_upper_limit(IDS);
            // The time limit is ours, see `Driver::poll`.
            o.set_connection_timeout(3600);
            let mut properties = v5::mqttbytes::v5::ConnectProperties::new();
            properties.max_packet_size = u32::try_from(MAX_PACKET + 5).ok();
            o.set_connect_properties(properties);
            if let Some((user, password)) = &options.login {
                o.set_credentials(user, password);
            }
            let (client, link) = v5::AsyncClient::new(o, CHANNEL);
            (Api::V5(client), Loop::V5(Box::new(link)))
        }
        Version::V311 => {
            let mut o = rumqttc::MqttOptions::new(id, host, url.port);
            o.set_transport(transport).set_keep_alive(keep_alive).set_clean_session(true);
            o.set_inflight(IDS);
            o.set_max_packet_size(MAX_PACKET + 5, MAX_PACKET + 5);
            if let Some((user, password)) = &options.login {
                o.set_credentials(user, password);
            }
            let (client, mut link) = rumqttc::AsyncClient::new(o, CHANNEL);
            let mut network = link.network_options();
            // Also the limit of one flush, which a large message on a slow line needs.
            network.set_connection_timeout(3600);
            link.set_network_options(network);
            (Api::V4(client), Loop::V4(Box::new(link)))
        }
    })
}

impl Api {
    pub(super) fn publish(&self, m: &Outgoing) {
        let sent = match self {
            Api::V5(c) => c.try_publish(&m.topic, qos5(m.qos), m.retain, m.payload.clone()).is_ok(),
            Api::V4(c) => c.try_publish(&m.topic, qos4(m.qos), m.retain, m.payload.to_vec()).is_ok(),
        };
        if !sent {
            log::debug!("the connection has ended");
        }
    }

    pub(super) fn subscribe(&self, filters: &[(String, Qos)]) {
        let sent = match self {
            Api::V5(c) => c.try_subscribe_many(filters5(filters)).is_ok(),
            Api::V4(c) => c.try_subscribe_many(filters4(filters)).is_ok(),
        };
        if !sent {
            log::debug!("the connection has ended");
        }
    }

    pub(super) fn disconnect(&self) {
        let _ = match self {
            Api::V5(c) => c.try_disconnect().is_ok(),
            Api::V4(c) => c.try_disconnect().is_ok(),
        };
    }
}

impl Loop {
    pub(super) async fn poll(&mut self, url: &BrokerUrl) -> Result<Step, Trouble> {
        match self {
            Loop::V5(link) => match link.poll().await {
                Ok(event) => Ok(step5(event)),
                Err(e) => Err(Trouble::from_v5(&e, url)),
            },
            Loop::V4(link) => match link.poll().await {
                Ok(event) => Ok(step4(event)),
                Err(e) => Err(Trouble::from_v4(&e, url)),
            },
        }
    }

    /// Drops the connection and all that the library remembers of it: acknowledgements read before an error would
    /// otherwise be yielded on the next connection, for other messages.
    pub(super) fn forget(&mut self) {
        match self {
            Loop::V5(link) => {
                link.clean();
                link.pending.clear();
                link.state.events.clear();
                link.state.collision = None;
            }
            Loop::V4(link) => {
                link.clean();
                link.pending.clear();
                link.state.events.clear();
                link.state.collision = None;
            }
        }
    }

    pub(super) fn push_subscribe(&mut self, filters: &[(String, Qos)]) {
        match self {
            Loop::V5(link) => {
                let packet = v5::mqttbytes::v5::Subscribe::new_many(filters5(filters), None);
                link.pending.push_back(v5::Request::Subscribe(packet));
            }
            Loop::V4(link) => {
                let packet = rumqttc::Subscribe::new_many(filters4(filters));
                link.pending.push_back(rumqttc::Request::Subscribe(packet));
            }
        }
    }

    pub(super) fn push_publish(&mut self, m: &Outgoing) {
        match self {
            Loop::V5(link) => {
                let mut packet = v5::mqttbytes::v5::Publish::new(&m.topic, qos5(m.qos), m.payload.clone(), None);
                packet.retain = m.retain;
                link.pending.push_back(v5::Request::Publish(packet));
            }
            Loop::V4(link) => {
                let mut packet = rumqttc::Publish::new(&m.topic, qos4(m.qos), m.payload.to_vec());
                packet.retain = m.retain;
                link.pending.push_back(rumqttc::Request::Publish(packet));
            }
        }
    }
}

fn step5(event: v5::Event) -> Step {
    use v5::mqttbytes::v5::{Packet, PubCompReason};
    match event {
        v5::Event::Outgoing(rumqttc::Outgoing::Publish(id)) => Step::Sent(id),
        v5::Event::Outgoing(rumqttc::Outgoing::Disconnect) => Step::Goodbye,
        v5::Event::Outgoing(_) => Step::Other,
        v5::Event::Incoming(packet) => match packet {
            Packet::ConnAck(_) => Step::Connected,
            Packet::PubAck(a) => Step::Acked(a.pkid, publish_refusal(&format!("{:?}", a.reason))),
            Packet::PubRec(a) => match publish_refusal(&format!("{:?}", a.reason)) {
                Some(refused) => Step::Acked(a.pkid, Some(refused)),
                None => Step::Other,
            },
            // "Identifier not found" is the answer to a PUBREL that came twice: it was taken.
            Packet::PubComp(a) => match a.reason {
                PubCompReason::Success | PubCompReason::PacketIdentifierNotFound => Step::Acked(a.pkid, None),
            },
            Packet::SubAck(a) => {
                Step::Subscribed(a.return_codes.iter().map(|c| subscribe_refusal(&format!("{c:?}"))).collect())
            }
            Packet::Publish(p) => Step::Message(Message {
                topic: String::from_utf8_lossy(&p.topic).into_owned(),
                payload: p.payload,
                retain: p.retain,
                qos: Qos::try_from(p.qos as u8).unwrap_or_default(),
            }),
            _ => Step::Other,
        },
    }
}

fn step4(event: rumqttc::Event) -> Step {
    use rumqttc::Packet;
    match event {
        rumqttc::Event::Outgoing(rumqttc::Outgoing::Publish(id)) => Step::Sent(id),
        rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect) => Step::Goodbye,
        rumqttc::Event::Outgoing(_) => Step::Other,
        rumqttc::Event::Incoming(packet) => match packet {
            Packet::ConnAck(_) => Step::Connected,
            Packet::PubAck(a) => Step::Acked(a.pkid, None),
            Packet::PubComp(a) => Step::Acked(a.pkid, None),
            Packet::SubAck(a) => {
                Step::Subscribed(a.return_codes.iter().map(|c| subscribe_refusal(&format!("{c:?}"))).collect())
            }
            Packet::Publish(p) => Step::Message(Message {
                topic: p.topic,
                payload: p.payload,
                retain: p.retain,
                qos: Qos::try_from(p.qos as u8).unwrap_or_default(),
            }),
            _ => Step::Other,
        },
    }
}

fn qos5(qos: Qos) -> v5::mqttbytes::QoS {
    match qos {
        Qos::AtMostOnce => v5::mqttbytes::QoS::AtMostOnce,
        Qos::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v5::mqttbytes::QoS::ExactlyOnce,
    }
}

fn qos4(qos: Qos) -> rumqttc::QoS {
    match qos {
        Qos::AtMostOnce => rumqttc::QoS::AtMostOnce,
        Qos::AtLeastOnce => rumqttc::QoS::AtLeastOnce,
        Qos::ExactlyOnce => rumqttc::QoS::ExactlyOnce,
    }
}

fn filters5(filters: &[(String, Qos)]) -> Vec<v5::mqttbytes::v5::Filter> {
    filters.iter().map(|(f, q)| v5::mqttbytes::v5::Filter::new(f, qos5(*q))).collect()
}

fn filters4(filters: &[(String, Qos)]) -> Vec<rumqttc::SubscribeFilter> {
    filters.iter().map(|(f, q)| rumqttc::SubscribeFilter::new(f.clone(), qos4(*q))).collect()
}
