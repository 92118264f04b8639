//! MQTT 5 by rumqttc: options, one polling task, and its events in the loop's words.

use std::collections::VecDeque;
use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::Error as BytesError;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Filter, LastWill, Packet, PubAckReason, PubCompReason, PubRecReason, Publish,
    PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Subscription;
use super::reason::{Cause, Ended, clean, code_text, transport_text};
use super::session::{
    Client, Greeting, Heard, Opening, RECEIVE_MAXIMUM, Report, address, login, proxy, proxy_ended, transport,
};
use super::url::ProxyUrl;
use crate::model::{Incoming, Message, Properties, Qos};

/// rumqttc's own bound; the loop's, which is shorter, is the one that counts.
const CONNECT_SECONDS: u64 = 60;

pub(super) fn open(opening: Opening, tell: mpsc::Sender<Report>) -> Result<(Client, JoinHandle<()>), Ended> {
    let mut options = MqttOptions::new(&opening.client_id, address(&opening.url), opening.url.port);
    options.set_transport(transport(&opening)?);
    if let Some(url) = &opening.proxy {
        options.set_proxy(proxy(url));
    }
    options.set_keep_alive(opening.keep_alive);
    options.set_connection_timeout(CONNECT_SECONDS);
    // Two small packets in a row would wait for the peer's delayed acknowledgement.
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_manual_acks(true);
    options.set_outgoing_inflight_upper_limit(opening.span);
    options.set_max_packet_size(Some(opening.max_incoming));
    options.set_receive_maximum(Some(RECEIVE_MAXIMUM));
    let expiry = u32::try_from(opening.session_expiry.as_secs()).unwrap_or(u32::MAX);
    options.set_clean_start(expiry == 0);
    options.set_session_expiry_interval(Some(expiry));
    if let Some((user, password)) = login(&opening) {
        options.set_credentials(user, password);
    }
    if let Some(will) = opening.will {
        options.set_last_will(LastWill::new(will.topic, will.payload, qos(will.qos), will.retain, None));
    }
    let (client, events) = AsyncClient::new(options, opening.channel);
    let task = tokio::spawn(drive(
        events,
        tell,
        Known {
            client_id: opening.client_id,
            host: opening.url.host,
            proxy: opening.proxy,
            keep_alive: opening.keep_alive,
            kept_qos2: opening.kept_qos2,
        },
    ));
    Ok((Client::V5(client), task))
}

struct Known {
    client_id: String,
    host: String,
    proxy: Option<ProxyUrl>,
    keep_alive: Duration,
    kept_qos2: bool,
}

async fn drive(mut events: EventLoop, tell: mpsc::Sender<Report>, known: Known) {
    loop {
        match events.poll().await {
            Ok(first) => {
                let greeted = matches!(first, Event::Incoming(Packet::ConnAck(_)));
                let mut heard = Vec::new();
                translate(first, &mut heard);
                drain(&mut events.state.events, &mut heard);
                if greeted {
                    prepare(&mut events, &heard, &known);
                }
                if !heard.is_empty() && tell.send(Report::Heard(heard)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Answers that were read before the end are true. What was "written" may not have left.
                let mut heard = Vec::new();
                drain(&mut events.state.events, &mut heard);
                heard.retain(|h| !matches!(h, Heard::Written(0) | Heard::Goodbye));
                let _ = tell.send(Report::Heard(heard)).await;
                let _ = tell.send(Report::Ended(ended(&error, &known))).await;
                return;
            }
        }
    }
}

fn drain(queue: &mut VecDeque<Event>, heard: &mut Vec<Heard>) {
    for event in queue.drain(..) {
        translate(event, heard);
    }
}

/// Once, right after CONNACK.
fn prepare(events: &mut EventLoop, heard: &[Heard], known: &Known) {
    // A broker that wants no keep-alive says 0, which the library takes for "ping without a pause".
    if events.options.keep_alive().is_zero() {
        events.options.set_keep_alive(known.keep_alive);
    }
    let resumed = heard.iter().any(|h| matches!(h, Heard::Up(g) if g.session_present));
    if resumed && known.kept_qos2 {
        // The broker may send PUBREL for messages that an earlier connection took. A fresh state knows none of them
        // and would end every connection; so it is told of all ids.
        for id in 1..=u16::MAX {
            let publish = Publish { pkid: id, ..Publish::new("known", QoS::ExactlyOnce, Vec::new(), None) };
            let _ = events.state.handle_incoming_packet(Packet::Publish(publish));
            events.state.events.clear();
        }
    }
}

fn translate(event: Event, heard: &mut Vec<Heard>) {
    heard.push(match event {
        Event::Outgoing(Outgoing::Publish(id) | Outgoing::Subscribe(id) | Outgoing::Unsubscribe(id)) => {
            Heard::Written(id)
        }
        Event::Outgoing(Outgoing::Disconnect) => Heard::Goodbye,
        Event::Outgoing(_) => return,
        Event::Incoming(Packet::ConnAck(ack)) => Heard::Up(greeting(&ack)),
        Event::Incoming(Packet::PubAck(ack)) => Heard::Answered {
            id: ack.pkid,
            code: puback_code(ack.reason),
            text: ack.properties.and_then(|p| p.reason_string),
            shrinks: false,
        },
        Event::Incoming(Packet::PubRec(rec)) => match pubrec_code(rec.reason) {
            0x00 | 0x10 => Heard::Progress,
            code => Heard::Answered {
                id: rec.pkid,
                code,
                text: rec.properties.and_then(|p| p.reason_string),
                shrinks: true,
            },
        },
        Event::Incoming(Packet::PubComp(comp)) => {
            let unknown = comp.reason == PubCompReason::PacketIdentifierNotFound;
            Heard::Answered { id: comp.pkid, code: if unknown { 0x92 } else { 0 }, text: None, shrinks: unknown }
        }
        Event::Incoming(Packet::SubAck(ack)) => {
            Heard::Subscribed { id: ack.pkid, results: ack.return_codes.into_iter().map(suback).collect() }
        }
        Event::Incoming(Packet::Publish(publish)) => {
            let (id, qos2) = (publish.pkid, publish.qos == QoS::ExactlyOnce);
            Heard::Message { incoming: incoming(publish), id, qos2 }
        }
        Event::Incoming(Packet::UnsubAck(ack)) => Heard::Answered { id: ack.pkid, code: 0, text: None, shrinks: false },
        Event::Incoming(_) => Heard::Pulse,
    });
}

fn greeting(ack: &ConnAck) -> Greeting {
    let p = ack.properties.as_ref();
    Greeting {
        session_present: ack.session_present,
        receive_max: p.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        max_qos: p.and_then(|p| p.max_qos).and_then(Qos::from_number).unwrap_or(Qos::ExactlyOnce),
        retain: p.and_then(|p| p.retain_available) != Some(0),
        max_packet: p.and_then(|p| p.max_packet_size),
        keep_alive: p.and_then(|p| p.server_keep_alive).filter(|s| *s > 0).map(|s| Duration::from_secs(u64::from(s))),
    }
}

fn puback_code(reason: PubAckReason) -> u8 {
    match reason {
        PubAckReason::Success => 0x00,
        PubAckReason::NoMatchingSubscribers => 0x10,
        PubAckReason::UnspecifiedError => 0x80,
        PubAckReason::ImplementationSpecificError => 0x83,
        PubAckReason::NotAuthorized => 0x87,
        PubAckReason::TopicNameInvalid => 0x90,
        PubAckReason::PacketIdentifierInUse => 0x91,
        PubAckReason::QuotaExceeded => 0x97,
        PubAckReason::PayloadFormatInvalid => 0x99,
    }
}

fn pubrec_code(reason: PubRecReason) -> u8 {
    match reason {
        PubRecReason::Success => 0x00,
        PubRecReason::NoMatchingSubscribers => 0x10,
        PubRecReason::UnspecifiedError => 0x80,
        PubRecReason::ImplementationSpecificError => 0x83,
        PubRecReason::NotAuthorized => 0x87,
        PubRecReason::TopicNameInvalid => 0x90,
        PubRecReason::PacketIdentifierInUse => 0x91,
        PubRecReason::QuotaExceeded => 0x97,
        PubRecReason::PayloadFormatInvalid => 0x99,
    }
}

fn suback(reason: SubscribeReasonCode) -> Result<u8, u8> {
    match reason {
        SubscribeReasonCode::Success(qos) => Ok(qos as u8),
        SubscribeReasonCode::Failure | SubscribeReasonCode::Unspecified => Err(0x80),
        SubscribeReasonCode::ImplementationSpecific => Err(0x83),
        SubscribeReasonCode::NotAuthorized => Err(0x87),
        SubscribeReasonCode::TopicFilterInvalid => Err(0x8F),
        SubscribeReasonCode::PkidInUse => Err(0x91),
        SubscribeReasonCode::QuotaExceeded => Err(0x97),
        SubscribeReasonCode::SharedSubscriptionsNotSupported => Err(0x9E),
        SubscribeReasonCode::SubscriptionIdNotSupported => Err(0xA1),
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => Err(0xA2),
    }
}

/// A refused CONNECT as MQTT 5 numbers it, 3.1.1 codes included.
fn connect_code(code: ConnectReturnCode) -> u8 {
    use ConnectReturnCode as C;
    match code {
        C::Success => 0x00,
        C::RefusedProtocolVersion => 1,
        C::BadClientId => 2,
        C::ServiceUnavailable => 3,
        C::UnspecifiedError => 0x80,
        C::MalformedPacket => 0x81,
        C::ProtocolError => 0x82,
        C::ImplementationSpecificError => 0x83,
        C::UnsupportedProtocolVersion => 0x84,
        C::ClientIdentifierNotValid => 0x85,
        C::BadUserNamePassword => 0x86,
        C::NotAuthorized => 0x87,
        C::ServerUnavailable => 0x88,
        C::ServerBusy => 0x89,
        C::Banned => 0x8A,
        C::BadAuthenticationMethod => 0x8C,
        C::TopicNameInvalid => 0x90,
        C::PacketTooLarge => 0x95,
        C::QuotaExceeded => 0x97,
        C::PayloadFormatInvalid => 0x99,
        C::RetainNotSupported => 0x9A,
        C::QoSNotSupported => 0x9B,
        C::UseAnotherServer => 0x9C,
        C::ServerMoved => 0x9D,
        C::ConnectionRateExceeded => 0x9F,
    }
}

fn incoming(publish: Publish) -> Incoming {
    let properties = publish.properties.map_or_else(Properties::default, |p| Properties {
        response_topic: p.response_topic,
        correlation: p.correlation_data.map(|c| c.to_vec()),
        content_type: p.content_type,
        expiry: p.message_expiry_interval.map(|s| Duration::from_secs(u64::from(s))),
        user: p.user_properties,
    });
    Incoming {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload.to_vec(),
        retain: publish.retain,
        dup: publish.dup,
        backlog: false,
        properties,
        ack: 0,
    }
}

fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

/// The packet of a message; its id comes from the library.
pub(super) fn publish(message: Message) -> Publish {
    let p = message.properties;
    let empty = p == Properties::default();
    let properties = (!empty).then(|| PublishProperties {
        message_expiry_interval: p.expiry.map(|e| u32::try_from(e.as_secs()).unwrap_or(u32::MAX)),
        response_topic: p.response_topic,
        correlation_data: p.correlation.map(Into::into),
        user_properties: p.user,
        content_type: p.content_type,
        ..PublishProperties::default()
    });
    let mut publish = Publish::new(message.topic, qos(message.qos), message.payload, properties);
    publish.retain = message.retain;
    publish
}

pub(super) fn send(client: &AsyncClient, message: Message) -> bool {
    let topic = message.topic.clone();
    let Publish { qos, retain, payload, properties, .. } = publish(message);
    match properties {
        Some(p) => client.try_publish_with_properties(topic, qos, retain, payload, p),
        None => client.try_publish(topic, qos, retain, payload),
    }
    .is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[Subscription]) -> bool {
    let filters = filters.iter().map(|s| {
        let mut filter = Filter::new(s.filter.clone(), qos(s.qos));
        // A retained command must be seen as retained, so that it can be refused with an answer.
        filter.preserve_retain = true;
        filter.retain_forward_rule = RetainForwardRule::OnEverySubscribe;
        filter
    });
    client.try_subscribe_many(filters).is_ok()
}

pub(super) fn ack(client: &AsyncClient, id: u16, qos2: bool) -> bool {
    let qos = if qos2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    client.try_ack(&Publish { pkid: id, qos, ..Publish::default() }).is_ok()
}

fn ended(error: &ConnectionError, known: &Known) -> Ended {
    match error {
        ConnectionError::ConnectionRefused(code) => Ended::refused(connect_code(*code), &known.client_id),
        ConnectionError::NotConnAck(_) => {
            Ended::new(Cause::Refused, "the broker answered CONNECT with something else than CONNACK")
        }
        ConnectionError::Timeout(_) => Ended::new(Cause::Unreachable, "no answer in time"),
        ConnectionError::Proxy(e) => proxy_ended(e, known.proxy.as_ref()),
        ConnectionError::MqttState(state) => state_ended(state, known),
        ConnectionError::ResponseValidation(e) => Ended::new(
            Cause::Unreachable,
            format!("there is a web server, but no MQTT behind this path: {}", clean(&e.to_string())),
        ),
        other => Ended::new(
            Cause::Unreachable,
            transport_text(other, &known.host).unwrap_or_else(|| clean(&other.to_string())),
        ),
    }
}

fn state_ended(state: &StateError, known: &Known) -> Ended {
    match state {
        StateError::ServerDisconnect { reason_code, reason_string } => {
            let code = *reason_code as u8;
            let said = reason_string.as_deref().map_or_else(String::new, |t| format!(": {}", clean(t)));
            let cause = if code == 0x8E { Cause::TakenOver } else { Cause::Broken };
            Ended::new(cause, format!("the broker ended the connection: {}{said}", code_text(code)))
        }
        StateError::ConnFail { reason } => Ended::refused(connect_code(*reason), &known.client_id),
        StateError::AwaitPingResp => Ended::new(Cause::GaveUp, "the broker does not answer pings"),
        StateError::ConnectionAborted => Ended::new(Cause::Broken, "the broker closed the connection"),
        StateError::Io(e) => {
            Ended::new(Cause::Broken, transport_text(e, &known.host).unwrap_or_else(|| clean(&e.to_string())))
        }
        StateError::Deserialization(BytesError::InvalidConnectReturnCode(code) | BytesError::InvalidReason(code)) => {
            Ended::new(Cause::StrangeAnswer(*code), format!("the broker answered with {}", code_text(*code)))
        }
        StateError::Deserialization(BytesError::PayloadSizeLimitExceeded { pkt_size, .. }) => {
            Ended::new(Cause::TooBig(*pkt_size), format!("the broker sent a message of {pkt_size} bytes"))
        }
        StateError::Deserialization(e) => Ended::new(
            Cause::Broken,
            transport_text(e, &known.host)
                .unwrap_or_else(|| format!("what the broker sent is not MQTT 5: {}", clean(&e.to_string()))),
        ),
        StateError::WrongPacket => Ended::new(Cause::Broken, "the broker sent a packet that only clients send"),
        StateError::Unsolicited(id) => {
            Ended::new(Cause::Broken, format!("the broker answered packet {id}, which was not waiting for an answer"))
        }
        other => Ended::new(Cause::Broken, clean(&other.to_string())),
    }
}
