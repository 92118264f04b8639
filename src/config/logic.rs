//! The shapes of what the gateway does by itself: `rules`, `computed`, `alarm`. Expressions are still texts here.

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::raw::{OneOrMany, Params, PointKeys, Priority};
use super::scalar::{OnOff, Plain, Span};

/// `rules`, by name.
pub type Rules = IndexMap<String, Rule>;
/// `computed`, by name.
pub type ComputedPoints = IndexMap<String, Computed>;

/// Something that is done by itself, with or without a broker.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rule {
    /// What must hold: an expression, `door and not pump`. Without a clock the rule begins when it comes true.
    pub when: Option<String>,
    /// What ends it, where that is not just the opposite of `when`: `when: t > 25`, `until: t < 23`.
    pub until: Option<String>,
    /// How long `when` must hold before the rule begins; default 0s.
    #[serde(rename = "for")]
    pub hold: Option<Span>,
    /// Fires again and again, this far apart; `when` is asked each time.
    pub every: Option<Span>,
    /// Fires at times of day: 07:30, `mon-fri 07:30`, or as cron has it: `*/5 6-22 * * 1-5`; or a list.
    pub at: Option<OneOrMany>,
    /// What is done when it begins.
    pub then: Option<Steps>,
    /// What is done when it ends.
    pub otherwise: Option<Steps>,
}

/// One step, or a list.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Steps {
    /// One.
    One(Box<Step>),
    /// Several, in order.
    Many(Vec<Step>),
}

/// One step of a rule: a command, a message, or a pause.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Step {
    /// Sets an output: its name; the value stands under `to`.
    pub set: Option<String>,
    /// Switches an output on for the time under `to`.
    pub pulse: Option<String>,
    /// Makes an output blink; how stands under `to`.
    pub blink: Option<String>,
    /// Fades an output; how stands under `to`.
    pub fade: Option<String>,
    /// Writes the text under `to` to a device.
    pub send: Option<String>,
    /// Another command of a device, `weather.heater`; its value stands under `to`.
    pub command: Option<String>,
    /// The value; `{{ … }}` is filled in.
    #[schemars(schema_with = "loose")]
    pub to: Option<Params>,
    /// Publishes on this topic.
    pub publish: Option<String>,
    /// What is published; `{{ … }}` is filled in.
    pub payload: Option<Plain>,
    /// Delivery of what is published, 0 to 2; default 1.
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
    /// Whether the broker keeps what is published; default no.
    pub retain: Option<OnOff>,
    /// The next step waits.
    pub delay: Option<Span>,
}

/// A point that is computed from others.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct Computed {
    /// How: an expression over other points.
    pub expression: String,
    /// The keys of any point.
    #[serde(flatten)]
    pub keys: PointKeys,
}

/// How readings go while something holds.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Alarm {
    /// What must hold: an expression; `value` is the reading.
    pub when: String,
    /// 0, 1 or 2 while it holds; default: the point's.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
    /// Whether the broker keeps the last reading while it holds; default: the point's.
    #[serde(default)]
    pub retain: Option<OnOff>,
    /// Importance while it holds; default alarm.
    #[serde(default)]
    pub priority: Option<Priority>,
}

fn loose(generator: &mut SchemaGenerator) -> Schema {
    let plain = generator.subschema_for::<Plain>();
    json_schema!({ "anyOf": [plain, { "type": "object" }] })
}
