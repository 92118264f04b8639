//! SPARKPLUG B'S BYTES (Eclipse Sparkplug 3.0, chapter 6 "Payloads"; protobuf package `org.eclipse.tahu.protobuf`):
//! only the fields that pinpost writes or reads. What it does not know of a foreign payload is passed over.

use prost::{Message as _, Oneof};

use crate::model::{Quality, Value, Wall};

/// Longest payload of a command that is looked at: what is decoded takes many times as much memory.
const MAX_COMMAND: usize = 16 * 1024;

/// What a metric's values are (6.4.16; the numbers are the specification's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// `Int64`
    Int64 = 4,
    /// `UInt64`
    UInt64 = 8,
    /// `Double`
    Double = 10,
    /// `Boolean`
    Boolean = 11,
    /// `String`
    String = 12,
    /// `Bytes`
    Bytes = 17,
}

impl DataType {
    /// The type of a value.
    pub fn of(value: &Value) -> DataType {
        match value {
            Value::Bool(_) => DataType::Boolean,
            Value::Number(_) => DataType::Double,
            Value::Text(_) => DataType::String,
            Value::Bytes(_) => DataType::Bytes,
        }
    }

    /// The type that holds values of both.
    pub fn wider(self, other: DataType) -> DataType {
        match (self, other) {
            _ if self == other => self,
            (DataType::Bytes, _) | (_, DataType::Bytes) => DataType::Bytes,
            _ => DataType::String,
        }
    }
}

/// One metric as it is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name within the node or device.
    pub name: String,
    /// Its number within the node and all its devices; `None`: only the name is used.
    pub alias: Option<u64>,
    /// What its values are.
    pub datatype: DataType,
    /// `None`: not known.
    pub value: Option<Value>,
    /// When it was so.
    pub time: Wall,
    /// Whether to believe it.
    pub quality: Quality,
    /// Unit, for people.
    pub unit: Option<String>,
}

impl Metric {
    /// A metric that is told by its name alone, good and of this moment.
    pub fn named(name: &str, datatype: DataType, value: Value, time: Wall) -> Metric {
        let value = Some(value);
        Metric { name: name.into(), alias: None, datatype, value, time, quality: Quality::Good, unit: None }
    }
}

/// How a metric is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// With everything, as births need it.
    Birth,
    /// The value under its alias.
    Data {
        /// It waited for the host, or was sent before.
        historical: bool,
        /// Whether the quality is said though it is good.
        quality: bool,
    },
}

/// Writes a payload; `seq` is left out of NDEATH.
pub fn encode(time: Wall, seq: Option<u8>, metrics: impl IntoIterator<Item = (Metric, Style)>) -> Vec<u8> {
    let metrics = metrics.into_iter().map(|(metric, style)| wire_metric(metric, style)).collect();
    Payload { timestamp: Some(millis(time)), metrics, seq: seq.map(u64::from) }.encode_to_vec()
}

fn wire_metric(metric: Metric, style: Style) -> WireMetric {
    let value = metric.value.as_ref().and_then(|value| fit(value, metric.datatype));
    let mut properties = PropertySet::default();
    let (birth, historical, quality) = match style {
        Style::Birth => (true, false, metric.alias.is_some()),
        Style::Data { historical, quality } => (false, historical, quality || metric.quality != Quality::Good),
    };
    if quality {
        properties.add("Quality", INT32, PropertyField::Int(quality_code(metric.quality)));
    }
    if let Some(unit) = metric.unit.filter(|_| birth) {
        properties.add("engUnit", DataType::String as u32, PropertyField::String(unit));
    }
    WireMetric {
        name: (birth || metric.alias.is_none()).then_some(metric.name),
        alias: metric.alias,
        timestamp: Some(millis(metric.time)),
        datatype: birth.then_some(metric.datatype as u32),
        is_historical: historical.then_some(true),
        is_null: value.is_none().then_some(true),
        properties: Some(properties).filter(|p| !p.keys.is_empty()),
        value,
    }
}

/// A value as its metric's type has it; `None` where it cannot be.
fn fit(value: &Value, datatype: DataType) -> Option<Field> {
    Some(match (datatype, value) {
        (DataType::Boolean, Value::Bool(b)) => Field::Boolean(*b),
        (DataType::Double, Value::Number(n)) => Field::Double(*n),
        (DataType::Double, Value::Bool(b)) => Field::Double(f64::from(u8::from(*b))),
        (DataType::Int64, Value::Number(n)) => Field::Long(*n as i64 as u64),
        (DataType::UInt64, Value::Number(n)) => Field::Long(*n as u64),
        (DataType::Bytes, Value::Bytes(bytes)) => Field::Bytes(bytes.clone()),
        (DataType::Bytes, other) => Field::Bytes(other.to_string().into_bytes()),
        (DataType::String, Value::Bytes(bytes)) => Field::String(String::from_utf8(bytes.clone()).ok()?),
        (DataType::String, other) => Field::String(other.to_string()),
        _ => return None,
    })
}

/// The quality codes of the specification (6.4.8, "Quality").
fn quality_code(quality: Quality) -> u32 {
    match quality {
        Quality::Good => 192,
        Quality::Bad => 0,
        Quality::Stale => 500,
    }
}

/// Times before 1970 are a clock gone mad.
fn millis(time: Wall) -> u64 {
    time.0.max(0) as u64
}

/// A metric of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Wished {
    /// Its name, where the host says it.
    pub name: Option<String>,
    /// Its alias, where the host says it.
    pub alias: Option<u64>,
    /// What is wished; `None`: null, or of a type that no output has.
    pub value: Option<Value>,
    /// It is of the past: no command.
    pub historical: bool,
}

/// Reads an NCMD or DCMD: when it was sent, and what is wished. The error is for people.
pub fn command(bytes: &[u8]) -> Result<(Option<Wall>, Vec<Wished>), String> {
    if bytes.len() > MAX_COMMAND {
        return Err(format!("a command of {} bytes; at most {MAX_COMMAND} are looked at", bytes.len()));
    }
    let payload = Payload::decode(bytes).map_err(|e| format!("it is no Sparkplug B payload: {e}"))?;
    let time = payload.timestamp.and_then(|t| i64::try_from(t).ok()).map(Wall);
    let wished = |metric: WireMetric| Wished {
        value: metric.value.filter(|_| metric.is_null != Some(true)).and_then(|v| meant(v, metric.datatype)),
        name: metric.name,
        alias: metric.alias,
        historical: metric.is_historical == Some(true),
    };
    Ok((time, payload.metrics.into_iter().map(wished).collect()))
}

fn meant(field: Field, datatype: Option<u32>) -> Option<Value> {
    Some(match field {
        Field::Boolean(b) => Value::Bool(b),
        // the signed types are written as two's complement (6.4.17)
        Field::Int(n) if matches!(datatype, Some(1..=3)) => Value::Number(f64::from(n as i32)),
        Field::Int(n) => Value::Number(f64::from(n)),
        Field::Long(n) if datatype == Some(8) => Value::Number(n as f64),
        Field::Long(n) => Value::Number(n as i64 as f64),
        Field::Float(n) if n.is_finite() => Value::Number(crate::model::value::tidy(f64::from(n))),
        Field::Double(n) if n.is_finite() => Value::Number(n),
        Field::Float(_) | Field::Double(_) => return None,
        Field::String(text) => Value::Text(text),
        Field::Bytes(bytes) => Value::Bytes(bytes),
    })
}

const INT32: u32 = 3;

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(uint64, optional, tag = "1")]
    timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<WireMetric>,
    #[prost(uint64, optional, tag = "3")]
    seq: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMetric {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    alias: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    datatype: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    is_historical: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    is_null: Option<bool>,
    #[prost(message, optional, tag = "9")]
    properties: Option<PropertySet>,
    #[prost(oneof = "Field", tags = "10, 11, 12, 13, 14, 15, 16")]
    value: Option<Field>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Field {
    #[prost(uint32, tag = "10")]
    Int(u32),
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    String(String),
    #[prost(bytes = "vec", tag = "16")]
    Bytes(Vec<u8>),
}

#[derive(Clone, PartialEq, prost::Message)]
struct PropertySet {
    #[prost(string, repeated, tag = "1")]
    keys: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    values: Vec<PropertyValue>,
}

impl PropertySet {
    fn add(&mut self, key: &str, kind: u32, value: PropertyField) {
        self.keys.push(key.to_owned());
        self.values.push(PropertyValue { kind: Some(kind), value: Some(value) });
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PropertyValue {
    #[prost(uint32, optional, tag = "1")]
    kind: Option<u32>,
    #[prost(oneof = "PropertyField", tags = "3, 8")]
    value: Option<PropertyField>,
}

#[derive(Clone, PartialEq, Oneof)]
enum PropertyField {
    #[prost(uint32, tag = "3")]
    Int(u32),
    #[prost(string, tag = "8")]
    String(String),
}

/// A payload as text, for histories and tests: `seq 3 door=true bdSeq=0`.
#[cfg(test)]
pub fn shown(bytes: &[u8]) -> String {
    let payload = Payload::decode(bytes).unwrap();
    let mut words: Vec<String> = payload.seq.map(|n| format!("seq {n}")).into_iter().collect();
    for metric in payload.metrics {
        let name = metric.name.unwrap_or_else(|| format!("#{}", metric.alias.unwrap()));
        let value = match metric.value {
            Some(Field::Double(n)) => n.to_string(),
            Some(Field::Long(n)) => n.to_string(),
            Some(Field::Boolean(b)) => b.to_string(),
            Some(Field::String(text)) => format!("{text:?}"),
            None => "null".into(),
            other => format!("{other:?}"),
        };
        let mut word = format!("{name}={value}");
        let properties = metric.properties.unwrap_or_default();
        for (key, value) in properties.keys.iter().zip(&properties.values) {
            match &value.value {
                Some(PropertyField::Int(192)) | None => {}
                Some(PropertyField::Int(n)) => word += &format!(" {key} {n}"),
                Some(PropertyField::String(text)) => word += &format!(" {text}"),
            }
        }
        if metric.is_historical == Some(true) {
            word += " historical";
        }
        words.push(word);
    }
    words.join(", ")
}

/// A command as a host writes it, for tests.
#[cfg(test)]
pub fn write_command(time: Option<u64>, metrics: &[(Option<String>, Option<u64>, Value)]) -> Vec<u8> {
    let metric = |(name, alias, value): &(Option<String>, Option<u64>, Value)| WireMetric {
        name: name.clone(),
        alias: *alias,
        value: fit(value, DataType::of(value)),
        ..WireMetric::default()
    };
    Payload { timestamp: time, metrics: metrics.iter().map(metric).collect(), seq: None }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        // by hand after the .proto: timestamp 1000, one metric {name "a", timestamp 1000, datatype 11, boolean true}, seq 7
        let metric = Metric::named("a", DataType::Boolean, Value::Bool(true), Wall(1000));
        let bytes = encode(Wall(1000), Some(7), [(metric, Style::Birth)]);
        let want =
            [0x08, 0xe8, 0x07, 0x12, 0x0a, 0x0a, 0x01, b'a', 0x18, 0xe8, 0x07, 0x20, 0x0b, 0x70, 0x01, 0x18, 0x07];
        assert_eq!(bytes, want);
    }

    #[test]
    fn data_say_the_alias_only_and_what_is_not_as_ever() {
        let metric = Metric {
            alias: Some(4),
            unit: Some("°C".into()),
            ..Metric::named("t", DataType::Double, Value::Number(21.5), Wall(5))
        };
        let data = |historical, quality, metric: &Metric| {
            shown(&encode(Wall(9), Some(1), [(metric.clone(), Style::Data { historical, quality })]))
        };
        assert_eq!(data(false, false, &metric), "seq 1, #4=21.5");
        assert_eq!(data(true, false, &metric), "seq 1, #4=21.5 historical");
        let bad = Metric { quality: Quality::Bad, value: Some(Value::Text("?".into())), ..metric.clone() };
        assert_eq!(data(false, false, &bad), "seq 1, #4=null Quality 0");
        assert_eq!(shown(&encode(Wall(9), None, [(metric, Style::Birth)])), "t=21.5 °C");
    }

    #[test]
    fn signed_numbers_of_hosts_are_read_by_their_type() {
        for (field, datatype, want) in [
            (Field::Int(u32::MAX), Some(3), Some(-1.0)),
            (Field::Int(u32::MAX), Some(7), Some(4_294_967_295.0)),
            (Field::Long(u64::MAX), Some(4), Some(-1.0)),
            (Field::Long(u64::MAX), Some(8), Some(u64::MAX as f64)),
            (Field::Float(0.1), Some(9), Some(0.100_000_001)),
            (Field::Double(f64::NAN), Some(10), None),
        ] {
            assert_eq!(meant(field.clone(), datatype).and_then(|v| v.as_number()), want, "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = command(&bytes);
        }
        #[test]
        fn broken_commands_never_panic(at in 0usize..60, byte: u8, cut in 0usize..60) {
            let mut bytes = write_command(Some(5), &[
                (Some("Node Control/Rebirth".into()), None, Value::Bool(true)),
                (None, Some(7), Value::Number(21.5)),
                (Some("x".into()), Some(9), Value::Text("longer".into())),
            ]);
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok((_, wished)) = command(&bytes) {
                prop_assert!(wished.iter().all(|w| w.value.as_ref().and_then(Value::as_number).is_none_or(f64::is_finite)));
            }
        }
    }
}
