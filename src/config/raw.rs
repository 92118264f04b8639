//! The file's shape, in the order of `config.example.yaml`. Nothing here is resolved: what was not written is `None`.
//!
//! Doc comments become the descriptions in `pinpost schema`.

use std::borrow::Cow;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};

use super::flows::{Relays, Sessions};
use super::logic::{Alarm, ComputedPoints, Rules};
use super::scalar::{OnOff, Rate, Secret, Size, Span, SyncKey, TemplateText, UsbId};

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Raw {
    /// Version of the file format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Who this gateway is.
    pub gateway: Gateway,
    /// The broker to talk to.
    pub mqtt: Mqtt,
    /// What waits while the broker is away.
    pub queue: Queue,
    /// The embedded broker; only when it is wanted.
    pub broker: Option<Broker>,
    /// Who drives the pins.
    pub gpio: Gpio,
    /// What Home Assistant is told; only when it is wanted.
    pub homeassistant: Option<HomeAssistant>,
    /// The Sparkplug B edge node that the gateway is; only when it is wanted.
    pub sparkplug: Option<Sparkplug>,
    /// The Homie device that the gateway is; only when it is wanted.
    pub homie: Option<Homie>,
    /// What every point takes unless it says otherwise.
    pub defaults: Defaults,
    /// Byte streams by name: serial lines, TCP, a process's output.
    #[schemars(extend("x-names" = "port"))]
    pub ports: IndexMap<String, Port>,
    /// Devices by name.
    #[schemars(extend("x-names" = "device"))]
    pub devices: IndexMap<String, Device>,
    /// Points that are computed from others, by name.
    #[schemars(extend("x-names" = "device"))]
    pub computed: ComputedPoints,
    /// What is done by itself, with or without a broker, by name.
    #[schemars(extend("x-names" = "rule"))]
    pub rules: Rules,
    /// Messages that are passed on, by name.
    #[schemars(extend("x-names" = "relay"))]
    pub relays: Relays,
    /// Enrolments, by name: the end of a client or of a server.
    #[schemars(extend("x-names" = "session"))]
    pub sessions: Sessions,
}

/// Who this gateway is.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gateway {
    /// Name in topics; default: the host's name.
    #[schemars(extend("format" = "name"))]
    pub id: Option<String>,
    /// Name for people.
    pub name: Option<String>,
    /// Where it stands.
    pub area: Option<String>,
}

/// The broker to talk to.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mqtt {
    /// `mqtt://HOST:PORT`, `mqtts`, `ws` or `wss`; or a list, tried in order. Default mqtt://localhost:1883.
    pub url: Option<OneOrMany>,
    /// 5 (default) or 3.1.1.
    pub protocol: Option<Protocol>,
    /// Default: pinpost-ID-MACHINE.
    pub client_id: Option<String>,
    /// User name at the broker.
    pub username: Option<Secret>,
    /// A file that holds the user name.
    pub username_file: Option<String>,
    /// Password at the broker; better `password_file` or `${NAME}`.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<String>,
    /// Certificates.
    pub tls: Option<Tls>,
    /// `http://[USER:PASSWORD@]HOST:PORT`: an HTTP proxy that lets CONNECT through to the broker; default: none.
    pub proxy: Option<String>,
    /// First levels of every topic; default: `gateway.id`.
    #[schemars(extend("format" = "topic"))]
    pub topic_prefix: Option<String>,
    /// Longest silence before a ping; default 30s, at least 5s.
    pub keep_alive: Option<Span>,
    /// Unacknowledged publishes at a time, 1 to 1000; default 64.
    #[schemars(range(min = 1, max = 1000))]
    pub in_flight: Option<u16>,
    /// How long the broker keeps our commands while we are away; default 0s: not at all.
    pub session_expiry: Option<Span>,
}

/// MQTT's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// MQTT 5.
    #[default]
    V5,
    /// MQTT 3.1.1.
    V311,
}

/// Certificates.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tls {
    /// Certificate authorities in PEM; default: the system's.
    pub ca_file: Option<String>,
    /// Our certificate in PEM.
    pub cert_file: Option<String>,
    /// Our key in PEM.
    pub key_file: Option<String>,
    /// Protocols to offer in the handshake (ALPN), such as `mqtt`; default: none.
    pub alpn: Vec<String>,
    /// The name that must stand in the broker's certificate; default: the host of the url.
    pub server_name: Option<String>,
}

/// What waits while the broker is away.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Queue {
    /// Default: $STATE_DIRECTORY/queue, else /var/lib/pinpost/queue.
    pub dir: Option<String>,
    /// Default 64MiB, at least 1MiB.
    pub max_size: Option<Size>,
    /// Default 7d.
    pub max_age: Option<Span>,
    /// Default drop_oldest.
    pub when_full: Option<WhenFull>,
    /// A reading not acknowledged within this time is on disk; default 1s. `always`: on disk before it is sent.
    pub sync: Option<SyncKey>,
    /// How what has waited is sent.
    pub replay: Replay,
}

/// How what has waited is sent.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Replay {
    /// Who goes first when the broker is back; default live_first.
    pub order: Option<ReplayOrder>,
    /// `unlimited` (default), or readings a second: 500/s.
    pub rate: Option<Rate>,
}

/// Who goes first when the broker is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayOrder {
    /// What comes now.
    #[default]
    LiveFirst,
    /// What has waited.
    BacklogFirst,
}

/// What goes when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest reading.
    #[default]
    DropOldest,
    /// The one that just came.
    DropNewest,
}

/// The embedded broker.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Broker {
    /// Address to listen on; default 127.0.0.1:1883.
    pub listen: Option<String>,
    /// Its certificate and key; without them it speaks in the clear.
    pub tls: Option<BrokerTls>,
    /// Who may come in, by name; default: everybody, to everything.
    pub users: Option<IndexMap<String, BrokerUser>>,
}

/// The embedded broker's certificate.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BrokerTls {
    /// Its certificate chain in PEM.
    pub cert_file: Option<String>,
    /// Its key in PEM.
    pub key_file: Option<String>,
}

/// A user of the embedded broker.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BrokerUser {
    /// `$7$…`, as `pinpost broker --hash-password` or mosquitto_passwd makes it.
    pub password_hash: Option<Secret>,
    /// A file that holds the hash.
    pub password_hash_file: Option<String>,
    /// Topics to which it may publish, `+` and `#` allowed; default: all.
    pub publish: Option<Vec<String>>,
    /// Topics to which it may subscribe, `+` and `#` allowed; default: all.
    pub subscribe: Option<Vec<String>>,
}

/// Who drives the pins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gpio {
    /// Default rppal.
    pub backend: Backend,
    /// For chardev: the chip's label (`pinctrl-rp1`), name (`gpiochip0`) or path; default: the header's chip of a
    /// Raspberry Pi, or the only one.
    pub chip: Option<String>,
    /// Port expanders with a kernel driver, an MCP23017 say: their lines are pins beside those of the header.
    pub expanders: Vec<Expander>,
}

impl Gpio {
    /// The chip of a pin, and its number there. Without a chip it is the header's.
    pub fn place(&self, pin: u8) -> (Option<&str>, u8) {
        match self.expanders.iter().find(|e| e.pins().contains(&u16::from(pin))) {
            Some(expander) => (Some(&expander.chip), pin - expander.first),
            None => (self.chip.as_deref(), pin),
        }
    }
}

/// A GPIO chip beside the header's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Expander {
    /// Its label (`mcp23017`), name (`gpiochip2`) or path.
    pub chip: String,
    /// The number of its line 0 in this file, from 28: with 100 its lines are the pins 100, 101 and so on.
    pub first: u8,
    /// How many lines it has; default 16.
    pub lines: Option<u8>,
}

impl Expander {
    /// Its pins in this file.
    pub fn pins(&self) -> std::ops::Range<u16> {
        let first = u16::from(self.first);
        first..first + u16::from(self.lines.unwrap_or(16))
    }
}

/// How the pins are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The registers of a Raspberry Pi.
    #[default]
    Rppal,
    /// The kernel's GPIO character device, on any board; a pin is a line's number on the chip.
    Chardev,
    /// rppal where it knows the board, else chardev.
    Auto,
}

/// What Home Assistant is told of the devices (MQTT discovery).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HomeAssistant {
    /// Default yes; with no, what was announced before is taken back.
    pub enabled: Option<OnOff>,
    /// As Home Assistant's `discovery_prefix`; default homeassistant.
    #[schemars(extend("format" = "topic"))]
    pub discovery_prefix: Option<String>,
    /// Where Home Assistant says that it is online; default PREFIX/status.
    #[schemars(extend("format" = "topic"))]
    pub status_topic: Option<String>,
}

/// The Sparkplug B edge node that the gateway is.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Sparkplug {
    /// The group, as the host calls it.
    pub group: String,
    /// The edge node's name; default: `gateway.id`.
    pub node: Option<String>,
    /// The host that must listen; without it everything waits. Default: none.
    pub primary_host: Option<String>,
}

/// The Homie device that the gateway is.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Homie {
    /// The first level of its topics; default homie.
    pub domain: Option<String>,
}

/// What every point takes unless it says otherwise.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Defaults {
    /// 0, 1 (default) or 2.
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
    /// Whether the broker keeps the last reading; default no.
    pub retain: Option<OnOff>,
    /// What is kept while offline; default all.
    pub deliver: Option<Deliver>,
    /// Default plain; also json, cbor, or a template.
    pub payload: Option<Payload>,
    /// Age after which a waiting reading is worth nothing.
    pub expiry: Option<Span>,
}

/// What is kept of a point while the broker is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deliver {
    /// Every reading.
    All,
    /// The latest reading.
    Latest,
    /// Nothing.
    None,
}

/// How a reading is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The bare value.
    Plain,
    /// `{"value":…,"time":…,"seq":…,"quality":…}`.
    Json,
    /// The same map in CBOR.
    Cbor,
    /// A template of the user's own; still a text.
    Template(String),
}

/// Importance of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Sent first, dropped last.
    Alarm,
    /// The default.
    Normal,
    /// Sent last, dropped first.
    Bulk,
}

/// Keys of any point.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PointKeys {
    /// Unit, for people: °C, %, m³.
    pub unit: Option<String>,
    /// Home Assistant's device class.
    pub device_class: Option<String>,
    /// Home Assistant's state class.
    pub state_class: Option<String>,
    /// Home Assistant's icon.
    pub icon: Option<String>,
    /// 0, 1 or 2.
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
    /// Whether the broker keeps the last reading.
    pub retain: Option<OnOff>,
    /// What is kept while offline.
    pub deliver: Option<Deliver>,
    /// Importance.
    pub priority: Option<Priority>,
    /// Age after which a waiting reading is worth nothing.
    pub expiry: Option<Span>,
    /// How it is written: plain, json, cbor, or a template.
    pub payload: Option<Payload>,
    /// Word for ON.
    pub payload_on: Option<String>,
    /// Word for OFF.
    pub payload_off: Option<String>,
    /// Full topic instead of PREFIX/DEVICE[/POINT].
    #[schemars(extend("format" = "topic"))]
    pub topic: Option<String>,
    /// How readings go while something holds.
    pub alarm: Option<Alarm>,
    /// Applied in order.
    #[schemars(extend("items" = {"x-words": "filters"}))]
    pub filters: Vec<Params>,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl OneOrMany {
    /// How many.
    pub fn count(&self) -> usize {
        match self {
            OneOrMany::One(_) => 1,
            OneOrMany::Many(list) => list.len(),
        }
    }
}

/// A byte stream: exactly one of `path`, `usb`, `tcp`, `command`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Port {
    /// Device node; best one of /dev/serial/by-id/.
    pub path: Option<String>,
    /// USB adapter by its ids.
    pub usb: Option<Usb>,
    /// `HOST:PORT` of ser2net and friends.
    pub tcp: Option<String>,
    /// Program and arguments whose output is read.
    pub command: Option<Vec<String>>,
    /// Bits a second; default 9600.
    pub baud_rate: Option<u32>,
    /// 5 to 8; default 8.
    #[schemars(range(min = 5, max = 8))]
    pub data_bits: Option<u8>,
    /// Default none.
    pub parity: Option<Parity>,
    /// 1 (default) or 2.
    #[schemars(range(min = 1, max = 2))]
    pub stop_bits: Option<u8>,
    /// Default none.
    pub flow_control: Option<FlowControl>,
    /// The driver switches an RS-485 transmitter by RTS; default: it is not asked to.
    pub rs485: Option<Rs485>,
}

/// How the driver switches an RS-485 transmitter.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rs485 {
    /// RTS while sending: on (default) or off; in between it is the other.
    pub rts: Option<OnOff>,
    /// From RTS to the first bit, at most 100ms; default 0ms.
    pub delay_before: Option<Span>,
    /// From the last bit to RTS, at most 100ms; default 0ms.
    pub delay_after: Option<Span>,
    /// Whether what is sent is received too; default no.
    pub echo: Option<OnOff>,
}

/// USB adapter by its ids.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Usb {
    /// Vendor, four hex digits.
    pub vid: UsbId,
    /// Product, four hex digits.
    pub pid: UsbId,
    /// Serial number, where several are alike.
    pub serial: Option<String>,
}

/// Parity bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Parity {
    /// No parity bit.
    #[default]
    None,
    /// Odd.
    Odd,
    /// Even.
    Even,
}

/// Who stops whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowControl {
    /// Nobody.
    #[default]
    None,
    /// XON/XOFF.
    Software,
    /// RTS/CTS.
    Hardware,
}

/// A device: its kind and that kind's keys.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// One of the kinds.
    pub kind: String,
    /// Several readings in one message.
    #[serde(default)]
    pub batch: Option<Batch>,
    /// All other keys, read by the kind.
    #[serde(flatten)]
    pub params: Params,
}

/// Several readings of a device in one message, a list of the maps of `payload: json`.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Batch {
    /// How long the first reading waits for others; 100ms to 1h, default 10s.
    pub every: Option<Span>,
    /// With how many the message goes before that; 2 to 1000, default 100.
    #[schemars(range(min = 2, max = 1000))]
    pub max: Option<u16>,
}

/// Keys that a word of an open list reads by itself, once the schema has passed them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Params(serde_yaml::Value);

impl Params {
    /// Reads them as `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_value(json(&self.0)).map_err(|e| e.to_string())
    }
    /// Reads them as `T`; the error names the key it stands under, from these keys down.
    pub fn read_at<T: DeserializeOwned>(&self) -> Result<T, (Vec<String>, String)> {
        serde_path_to_error::deserialize(json(&self.0)).map_err(|e| (super::steps(e.path()), e.inner().to_string()))
    }
    /// As a person would write it on one line.
    pub fn shown(&self) -> String {
        match json(&self.0) {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        }
    }
    /// For `{name: value}`: the name and the value.
    pub fn word(&self) -> Option<(&str, Params)> {
        let map = self.0.as_mapping().filter(|m| m.len() == 1)?;
        let (name, value) = map.iter().next()?;
        Some((name.as_str()?, Params(value.clone())))
    }
}

/// The same value for serde_json, which reads `{word: value}` as an enum; serde_yaml wants a tag (`!word`) there.
fn json(value: &serde_yaml::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    use serde_yaml::Value as Yaml;
    match value {
        Yaml::Null | Yaml::Tagged(_) => Json::Null,
        Yaml::Bool(b) => Json::Bool(*b),
        Yaml::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => n.into(),
            (_, Some(n)) => n.into(),
            _ => n.as_f64().into(),
        },
        Yaml::String(s) => Json::String(s.clone()),
        Yaml::Sequence(list) => list.iter().map(json).collect(),
        Yaml::Mapping(map) => {
            let key = |k: &Yaml| match k {
                Yaml::String(s) => Some(s.clone()),
                Yaml::Number(n) => Some(n.to_string()),
                Yaml::Bool(b) => Some(b.to_string()),
                _ => None,
            };
            Json::Object(map.iter().filter_map(|(k, v)| Some((key(k)?, json(v)))).collect())
        }
    }
}

impl JsonSchema for Params {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Params".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }
    /// The kinds are an open list: `x-words` tells the reader which.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-words": "kinds" })
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match serde_yaml::Value::deserialize(d)? {
            serde_yaml::Value::Number(n) if n.as_f64() == Some(5.0) => Ok(Protocol::V5),
            serde_yaml::Value::String(s) if s == "5" || s == "5.0" => Ok(Protocol::V5),
            serde_yaml::Value::String(s) if s == "3.1.1" => Ok(Protocol::V311),
            _ => Err(D::Error::custom("write 5 or 3.1.1")),
        }
    }
}

impl JsonSchema for Protocol {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": [5, "5", "3.1.1"] })
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match String::deserialize(d)?.as_str() {
            "plain" => Ok(Payload::Plain),
            "json" => Ok(Payload::Json),
            "cbor" => Ok(Payload::Cbor),
            text => match text.parse::<TemplateText>() {
                Ok(TemplateText(text)) => Ok(Payload::Template(text)),
                Err(_) => Err(D::Error::custom("write plain, json, cbor or a template with {{ value }} in it")),
            },
        }
    }
}

impl JsonSchema for Payload {
    fn schema_name() -> Cow<'static, str> {
        "Payload".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let template = generator.subschema_for::<TemplateText>();
        json_schema!({ "anyOf": [{ "enum": ["plain", "json", "cbor"] }, template] })
    }
}

/// A list of [`Params`] from YAML text, for the tests of the rooms that read them.
#[cfg(test)]
pub fn params_list(yaml: &str) -> Vec<Params> {
    serde_yaml::from_str(yaml).expect("YAML of a test")
}
