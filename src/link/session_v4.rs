//! MQTT 3.1.1 by rumqttc: options, one polling task, and its events in the loop's words.
//!
//! 3.1.1 has no properties and no way to say that a publish was refused: an acknowledgement is all there is.

use std::collections::VecDeque;

use rumqttc::{
    AsyncClient, ConnAck, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions,
    Outgoing, Packet, Publish, QoS, StateError, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Subscription;
use super::reason::{Cause, Ended, clean, transport_text};
use super::session::{Client, Greeting, Heard, Opening, Report, address, login, proxy, proxy_ended, transport};
use super::url::ProxyUrl;
use crate::model::{Incoming, Message, Properties, Qos};

/// rumqttc's bound on connecting and on each flush; the loop's own are shorter or the same.
const NETWORK_SECONDS: u64 = 20;
/// rumqttc's default of 10 kB for outgoing packets would break the connection; ours is checked before.
const MAX_OUTGOING: usize = 268_435_455;

pub(super) fn open(opening: Opening, tell: mpsc::Sender<Report>) -> Result<(Client, JoinHandle<()>), Ended> {
    if opening.client_id.is_empty() && !opening.session_expiry.is_zero() {
        return Err(Ended::new(Cause::Refused, "MQTT 3.1.1 keeps no session for an empty client id; set client_id"));
    }
    let mut options = MqttOptions::new(&opening.client_id, address(&opening.url), opening.url.port);
    options.set_transport(transport(&opening)?);
    if let Some(url) = &opening.proxy {
        options.set_proxy(proxy(url));
    }
    options.set_keep_alive(opening.keep_alive);
    options.set_manual_acks(true);
    options.set_inflight(opening.span.max(1));
    options.set_max_packet_size(opening.max_incoming as usize, MAX_OUTGOING);
    options.set_clean_session(opening.session_expiry.is_zero());
    if let Some((user, password)) = login(&opening) {
        options.set_credentials(user, password);
    }
    if let Some(will) = opening.will {
        options.set_last_will(LastWill::new(will.topic, will.payload, qos(will.qos), will.retain));
    }
    let (client, mut events) = AsyncClient::new(options, opening.channel);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(NETWORK_SECONDS);
    // Two small packets in a row would wait for the peer's delayed acknowledgement.
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    let known = Known {
        client_id: opening.client_id,
        host: opening.url.host,
        proxy: opening.proxy,
        kept_qos2: opening.kept_qos2,
    };
    Ok((Client::V4(client), tokio::spawn(drive(events, tell, known))))
}

struct Known {
    client_id: String,
    host: String,
    proxy: Option<ProxyUrl>,
    kept_qos2: bool,
}

async fn drive(mut events: EventLoop, tell: mpsc::Sender<Report>, known: Known) {
    loop {
        match events.poll().await {
            Ok(first) => {
                let resumed = matches!(&first, Event::Incoming(Packet::ConnAck(ack)) if ack.session_present);
                let mut heard = Vec::new();
                translate(first, &mut heard);
                drain(&mut events.state.events, &mut heard);
                if resumed && known.kept_qos2 {
                    expect_any_pubrel(&mut events);
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

/// The broker may send PUBREL for messages that an earlier connection took. A fresh state knows none of them and
/// would end every connection; so it is told of all ids.
fn expect_any_pubrel(events: &mut EventLoop) {
    for id in 1..=u16::MAX {
        let publish = Publish { pkid: id, ..Publish::new("known", QoS::ExactlyOnce, Vec::new()) };
        let _ = events.state.handle_incoming_packet(Packet::Publish(publish));
        events.state.events.clear();
    }
}

fn translate(event: Event, heard: &mut Vec<Heard>) {
    let done = |id| Heard::Answered { id, code: 0, text: None, shrinks: false };
    heard.push(match event {
        Event::Outgoing(Outgoing::Publish(id) | Outgoing::Subscribe(id) | Outgoing::Unsubscribe(id)) => {
            Heard::Written(id)
        }
        Event::Outgoing(Outgoing::Disconnect) => Heard::Goodbye,
        Event::Outgoing(_) => return,
        Event::Incoming(Packet::ConnAck(ack)) => Heard::Up(greeting(&ack)),
        Event::Incoming(Packet::PubAck(ack)) => done(ack.pkid),
        Event::Incoming(Packet::PubComp(comp)) => done(comp.pkid),
        Event::Incoming(Packet::PubRec(_)) => Heard::Progress,
        Event::Incoming(Packet::SubAck(ack)) => {
            let results = ack.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                SubscribeReasonCode::Failure => Err(0x80),
            });
            Heard::Subscribed { id: ack.pkid, results: results.collect() }
        }
        Event::Incoming(Packet::Publish(publish)) => {
            let (id, qos2) = (publish.pkid, publish.qos == QoS::ExactlyOnce);
            let incoming = Incoming {
                topic: publish.topic,
                payload: publish.payload.to_vec(),
                retain: publish.retain,
                dup: publish.dup,
                backlog: false,
                properties: Properties::default(),
                ack: 0,
            };
            Heard::Message { incoming, id, qos2 }
        }
        Event::Incoming(Packet::UnsubAck(ack)) => Heard::Answered { id: ack.pkid, code: 0, text: None, shrinks: false },
        Event::Incoming(_) => Heard::Pulse,
    });
}

fn greeting(ack: &ConnAck) -> Greeting {
    Greeting {
        session_present: ack.session_present,
        receive_max: u16::MAX,
        max_qos: Qos::ExactlyOnce,
        retain: true,
        max_packet: None,
        keep_alive: None,
    }
}

fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

pub(super) fn send(client: &AsyncClient, message: Message) -> bool {
    client.try_publish(message.topic, qos(message.qos), message.retain, message.payload).is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[Subscription]) -> bool {
    let filters = filters.iter().map(|s| SubscribeFilter::new(s.filter.clone(), qos(s.qos)));
    client.try_subscribe_many(filters).is_ok()
}

pub(super) fn ack(client: &AsyncClient, id: u16, qos2: bool) -> bool {
    let qos = if qos2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    client.try_ack(&Publish { pkid: id, ..Publish::new("", qos, Vec::new()) }).is_ok()
}

fn ended(error: &ConnectionError, known: &Known) -> Ended {
    match error {
        ConnectionError::ConnectionRefused(code) => Ended::refused(connect_code(*code), &known.client_id),
        ConnectionError::NotConnAck(_) => {
            Ended::new(Cause::Refused, "the broker answered CONNECT with something else than CONNACK")
        }
        ConnectionError::NetworkTimeout => Ended::new(Cause::Unreachable, "no answer in time"),
        ConnectionError::FlushTimeout => Ended::new(Cause::GaveUp, "the broker takes no more bytes"),
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

fn connect_code(code: ConnectReturnCode) -> u8 {
    match code {
        ConnectReturnCode::Success => 0,
        ConnectReturnCode::RefusedProtocolVersion => 1,
        ConnectReturnCode::BadClientId => 2,
        ConnectReturnCode::ServiceUnavailable => 3,
        ConnectReturnCode::BadUserNamePassword => 4,
        ConnectReturnCode::NotAuthorized => 5,
    }
}

fn state_ended(state: &StateError, known: &Known) -> Ended {
    use rumqttc::mqttbytes::Error as BytesError;
    match state {
        StateError::AwaitPingResp => Ended::new(Cause::GaveUp, "the broker does not answer pings"),
        StateError::ConnectionAborted => Ended::new(Cause::Broken, "the broker closed the connection"),
        StateError::Deserialization(BytesError::InvalidConnectReturnCode(code)) => {
            Ended::refused(*code, &known.client_id)
        }
        StateError::Deserialization(BytesError::PayloadSizeLimitExceeded(size)) => {
            Ended::new(Cause::TooBig(*size), format!("the broker sent a message of {size} bytes"))
        }
        StateError::WrongPacket => Ended::new(Cause::Broken, "the broker sent a packet that only clients send"),
        StateError::Unsolicited(id) => {
            Ended::new(Cause::Broken, format!("the broker answered packet {id}, which was not waiting for an answer"))
        }
        other => {
            let text = clean(&other.to_string());
            let text = text.strip_prefix("Mqtt serialization/deserialization error: ").unwrap_or(&text);
            Ended::new(
                Cause::Broken,
                transport_text(other, &known.host)
                    .unwrap_or_else(|| format!("what the broker sent is not MQTT 3.1.1: {text}")),
            )
        }
    }
}
