//! What is wished of an output, and how it is read from a command's value.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::config::scalar::Span;
use crate::model::{OutputLimits, Scale, Setting, Value, value::parse_number};
use crate::wire::command::{self, Switch};

use super::text;

/// Shortest phase of a blink: an engine that is woken more often would do nothing else.
const SHORTEST: Duration = Duration::from_millis(20);
/// Longest fade.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What is wished of an output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wish {
    /// This state.
    Be(Setting),
    /// On: as it last was on.
    On,
    /// On if it is off, and the other way round.
    Toggle,
    /// On, and off again after this time.
    Pulse(Duration),
    /// There, in so much time.
    Fade {
        /// Where.
        to: Setting,
        /// In what time.
        over: Duration,
    },
    /// On and off in turns.
    Blink(Blink),
}

/// On and off in turns, off at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blink {
    /// How long it is on.
    pub on: Duration,
    /// How long it is off.
    pub off: Duration,
    /// How often it goes on; `None`: until another command.
    pub times: Option<u32>,
}

impl Blink {
    /// What is left when it has gone on.
    pub(super) fn begun(self) -> Blink {
        Blink { times: self.times.map(|n| n.saturating_sub(1)), ..self }
    }
    /// Whether it goes on again.
    pub(super) fn goes_on(self) -> bool {
        self.times != Some(0)
    }
}

impl Wish {
    /// Why its times can never agree with the limits.
    pub(super) fn breaks(self, limits: &OutputLimits) -> Option<String> {
        let (on, off, what) = match self {
            Wish::Pulse(d) => (d, None, "the pulse"),
            Wish::Blink(b) => (b.on, Some(b.off), "on"),
            _ => return None,
        };
        if let Some(max) = limits.max_on.filter(|max| on > *max) {
            return Some(format!("{} is longer than max_on ({})", text(on), text(max)));
        }
        if on < limits.min_on {
            return Some(format!("{what} is shorter than min_on ({})", text(limits.min_on)));
        }
        match off {
            Some(off) if off < limits.min_off => {
                Some(format!("off is shorter than min_off ({})", text(limits.min_off)))
            }
            _ => None,
        }
    }
}

/// Reads what an output is told by a verb. `words`: the point's own for ON and OFF. The error is for the sender.
pub fn read(verb: &str, value: &Value, scale: Scale, words: (&str, &str)) -> Result<Wish, String> {
    match verb {
        "pulse" => match value.to_string().trim().parse::<Span>()? {
            Span(d) if d.is_zero() => Err("a pulse of no time".into()),
            Span(d) => Ok(Wish::Pulse(d)),
        },
        "fade" => {
            let map = object(value, "{\"to\":80,\"over\":\"2s\"}")?;
            let to = map.get("to").ok_or("`to` is missing: {\"to\":80,\"over\":\"2s\"}")?;
            let over = time(&map, "over")?;
            if over > LONGEST {
                return Err("`over` is at most 24h".into());
            }
            match set(&command::from_json(to), scale, words)? {
                Wish::Be(to) => Ok(Wish::Fade { to, over }),
                Wish::On => Ok(Wish::Fade { to: scale.full(), over }),
                _ => Err("`to` is a duty in percent, ON or OFF".into()),
            }
        }
        "blink" => {
            let map = object(value, "{\"on\":\"500ms\",\"off\":\"500ms\",\"times\":3}")?;
            let (on, off) = (time(&map, "on")?, time(&map, "off")?);
            if on < SHORTEST || off < SHORTEST {
                return Err(format!("`on` and `off` are at least {}", Span(SHORTEST)));
            }
            let times = match map.get("times") {
                None | Some(Json::Null) => None,
                Some(n) => match n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0) {
                    Some(n) => Some(n),
                    None => return Err("`times` is a number from 1".into()),
                },
            };
            Ok(Wish::Blink(Blink { on, off, times }))
        }
        _ => set(value, scale, words),
    }
}

/// The value of a `set`.
fn set(value: &Value, scale: Scale, (on, off): (&str, &str)) -> Result<Wish, String> {
    let number = match value {
        Value::Text(text) => parse_number(text),
        other => other.as_number(),
    };
    if let (Some(n), true) = (number, scale != Scale::Switch) {
        let low = matches!(scale, Scale::Duty { .. }) && n < 0.0;
        return match scale.setting(&Value::Number(n)) {
            Some(to) if !low => Ok(Wish::Be(to)),
            _ => Err(format!("a duty of {n} % cannot be")),
        };
    }
    match command::switch(value, on, off) {
        Some(Switch::On) => Ok(Wish::On),
        Some(Switch::Off) => Ok(Wish::Be(Setting::Off)),
        Some(Switch::Toggle) if scale == Scale::Switch || matches!(scale, Scale::Duty { .. }) => Ok(Wish::Toggle),
        _ => {
            let shown: String = value.to_string().chars().take(40).collect();
            Err(match scale {
                Scale::Switch => format!("`{shown}` is not {on}, {off} or TOGGLE"),
                Scale::Duty { .. } => format!("`{shown}` is not a duty from 0 to 100, {on}, {off} or TOGGLE"),
                Scale::Angle { from, to } => format!("`{shown}` is not an angle from {from} to {to}, or {off}"),
            })
        }
    }
}

fn object(value: &Value, example: &str) -> Result<Map<String, Json>, String> {
    match serde_json::from_str(&value.to_string()) {
        Ok(Json::Object(map)) => Ok(map),
        _ => Err(format!("write a JSON object: {example}")),
    }
}

fn time(map: &Map<String, Json>, key: &str) -> Result<Duration, String> {
    match map.get(key) {
        Some(Json::String(text)) => Ok(text.parse::<Span>().map_err(|e| format!("`{key}`: {e}"))?.0),
        Some(_) => Err(format!("`{key}` is a duration with a unit: \"2s\"")),
        None => Err(format!("`{key}` is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DUTY: Scale = Scale::Duty { min: 0.0, max: 100.0 };
    const ANGLE: Scale = Scale::Angle { from: 0.0, to: 180.0 };

    fn said(verb: &str, value: &str, scale: Scale) -> Result<Wish, String> {
        read(verb, &Value::Text(value.into()), scale, ("ON", "OFF"))
    }

    #[test]
    fn a_duty_of_one_is_not_the_word_on() {
        assert_eq!(said("set", "1", DUTY), Ok(Wish::Be(Setting::On(1.0))));
        assert_eq!(said("set", "0", DUTY), Ok(Wish::Be(Setting::Off)));
        assert_eq!(said("set", "1", Scale::Switch), Ok(Wish::On));
        assert_eq!(said("set", "on", DUTY), Ok(Wish::On));
        assert_eq!(said("set", "0", ANGLE), Ok(Wish::Be(Setting::On(0.0))));
        assert_eq!(said("set", "OFF", ANGLE), Ok(Wish::Be(Setting::Off)));
        assert!(said("set", "-1", DUTY).is_err() && said("set", "TOGGLE", ANGLE).is_err());
    }

    #[test]
    fn a_fade_and_a_blink_say_what_they_lack() {
        let s = Duration::from_secs;
        let fade = Wish::Fade { to: Setting::On(80.0), over: s(2) };
        assert_eq!(said("fade", "{\"to\":80,\"over\":\"2s\"}", DUTY), Ok(fade));
        let off = Wish::Fade { to: Setting::Off, over: s(2) };
        assert_eq!(said("fade", "{\"to\":\"OFF\",\"over\":\"2s\"}", DUTY), Ok(off));
        let blink = |times| Wish::Blink(Blink { on: s(1), off: s(2), times });
        assert_eq!(said("blink", "{\"on\":\"1s\",\"off\":\"2s\",\"times\":3}", Scale::Switch), Ok(blink(Some(3))));
        assert_eq!(said("blink", "{\"on\":\"1s\",\"off\":\"2s\"}", Scale::Switch), Ok(blink(None)));
        for (verb, bad, why) in [
            ("fade", "80", "JSON object"),
            ("fade", "{\"over\":\"2s\"}", "`to` is missing"),
            ("fade", "{\"to\":80}", "`over` is missing"),
            ("fade", "{\"to\":80,\"over\":2}", "with a unit"),
            ("fade", "{\"to\":80,\"over\":\"48h\"}", "at most 24h"),
            ("blink", "{\"on\":\"1s\"}", "`off` is missing"),
            ("blink", "{\"on\":\"1ms\",\"off\":\"1s\"}", "at least 20ms"),
            ("blink", "{\"on\":\"1s\",\"off\":\"1s\",\"times\":0}", "from 1"),
        ] {
            assert!(said(verb, bad, DUTY).unwrap_err().contains(why), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_words_panic(verb in "set|pulse|fade|blink", value in ".{0,60}") {
            let _ = said(&verb, &value, DUTY);
            let _ = said(&verb, &value, ANGLE);
        }
    }
}
