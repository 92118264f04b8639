//! Verbs of a kind's own: which one is meant, and whether what was wished is of the form it takes. What is refused
//! says what is allowed.

use crate::model::{DeviceSpec, PointId, Takes, Value, VerbSpec};
use crate::wire::command::{self, Switch};

/// The verb that is meant; one of the device goes before those of its points. A point need not be named where only
/// one knows the verb. `Ok(None)`: it is none of the device's own.
pub(super) fn find<'a>(
    device: &'a DeviceSpec,
    point: Option<PointId>,
    verb: &str,
) -> Result<Option<&'a VerbSpec>, String> {
    let mut named = device.own.iter().filter(|own| own.verb == verb);
    if let Some(own) = named.clone().find(|own| own.point.is_none()) {
        return Ok(Some(own));
    }
    match point {
        Some(point) => {
            let index = device.points.iter().position(|p| *p == point);
            match (named.clone().find(|own| own.point == index), named.next()) {
                (None, Some(_)) => Err(format!("that point of {} does not know `{verb}`", device.name)),
                (own, _) => Ok(own),
            }
        }
        None => match (named.next(), named.next()) {
            (Some(_), Some(_)) => Err(format!("several points of {} know `{verb}`; say which `point`", device.name)),
            (one, _) => Ok(one),
        },
    }
}

/// The value as the device gets it, or what is allowed.
pub(super) fn accept(takes: &Takes, value: &Value, (on, off): (&str, &str)) -> Result<Value, String> {
    match takes {
        Takes::Anything => Ok(value.clone()),
        Takes::Nothing => Ok(Value::Text(String::new())),
        Takes::Number { min, max } => {
            let number = match value {
                Value::Text(text) => Value::parse(text).as_number(),
                other => other.as_number(),
            };
            let within = |n: &f64| min.is_none_or(|min| *n >= min) && max.is_none_or(|max| *n <= max);
            match number.filter(within) {
                Some(number) => Ok(Value::Number(number)),
                None => Err(format!("{} is not {takes}", shown(value))),
            }
        }
        Takes::Text { min, max } => {
            let text = match value {
                Value::Bytes(_) => return Err("it is not text (UTF-8)".into()),
                other => other.to_string(),
            };
            if text.chars().any(char::is_control) {
                return Err("the text holds control characters (a line feed, say); write it without".into());
            }
            let length = text.chars().count();
            if length < *min || length > *max {
                return Err(format!("{length} characters are not {takes}"));
            }
            Ok(Value::Text(text))
        }
        Takes::Bool => match command::switch(value, on, off) {
            Some(Switch::On) => Ok(Value::Bool(true)),
            Some(Switch::Off) => Ok(Value::Bool(false)),
            _ => Err(format!("{} is not {on} or {off}", shown(value))),
        },
        Takes::Choice(words) => {
            let text = match value {
                Value::Bytes(_) => None,
                other => Some(other.to_string()),
            };
            match text.and_then(|text| words.iter().find(|word| **word == text.trim())) {
                Some(word) => Ok(Value::Text(word.clone())),
                None => Err(format!("{} is not {takes}", shown(value))),
            }
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bytes(_) | Value::Number(_) => value.to_string(),
        other => format!("`{}`", other.to_string().chars().take(40).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceId;
    use proptest::prelude::*;
    use std::time::Duration;

    const ON_OFF: (&str, &str) = ("ON", "OFF");

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }
    fn own(verb: &str, point: Option<usize>) -> VerbSpec {
        VerbSpec { verb: verb.into(), point, takes: Takes::Anything, time: Duration::ZERO }
    }

    #[test]
    fn what_is_refused_says_what_is_allowed() {
        let number = Takes::Number { min: Some(5.0), max: Some(30.0) };
        assert_eq!(accept(&number, &text(" 21.5\n"), ON_OFF), Ok(Value::Number(21.5)));
        assert_eq!(accept(&number, &Value::Number(30.0), ON_OFF), Ok(Value::Number(30.0)));
        for bad in [text("4"), text("nan"), text("warm"), Value::Number(30.5), Value::Bool(true)] {
            assert!(accept(&number, &bad, ON_OFF).unwrap_err().ends_with("is not a number from 5 to 30"), "{bad:?}");
        }
        let choice = Takes::Choice(vec!["auto".into(), "3".into()]);
        assert_eq!(accept(&choice, &Value::Number(3.0), ON_OFF), Ok(text("3")));
        assert_eq!(accept(&choice, &text("Auto"), ON_OFF), Err("`Auto` is not one of auto, 3".into()));
        assert_eq!(accept(&Takes::Bool, &text("auf"), ("auf", "zu")), Ok(Value::Bool(true)));
        assert_eq!(accept(&Takes::Bool, &text("TOGGLE"), ON_OFF), Err("`TOGGLE` is not ON or OFF".into()));
        assert_eq!(accept(&Takes::Nothing, &text("PRESS"), ON_OFF), Ok(text("")));
    }

    #[test]
    fn a_text_cannot_smuggle_a_second_line_to_the_instrument() {
        let takes = Takes::Text { min: 1, max: 8 };
        assert_eq!(accept(&takes, &text("Küche"), ON_OFF), Ok(text("Küche")));
        for bad in ["", "a\r\nRESET", "a\0", "much too long"] {
            assert!(accept(&takes, &text(bad), ON_OFF).is_err(), "{bad:?}");
        }
        assert!(accept(&takes, &Value::Bytes(vec![0xff]), ON_OFF).is_err());
    }

    #[test]
    fn a_point_need_only_be_named_where_several_know_the_verb() {
        let device = |own: Vec<VerbSpec>| DeviceSpec {
            id: DeviceId(0),
            name: "meter".into(),
            kind: "modbus",
            points: vec![PointId(7), PointId(8)],
            verbs: vec![],
            own,
            output: None,
        };
        let both = device(vec![own("set", Some(0)), own("set", Some(1)), own("reset", None)]);
        assert_eq!(find(&both, Some(PointId(8)), "set").unwrap().unwrap().point, Some(1));
        assert!(find(&both, None, "set").unwrap_err().contains("say which `point`"));
        assert_eq!(find(&both, Some(PointId(7)), "reset").unwrap().unwrap().point, None);
        assert_eq!(find(&both, None, "get"), Ok(None));
        let one = device(vec![own("set", Some(1))]);
        assert_eq!(find(&one, None, "set").unwrap().unwrap().point, Some(1));
        assert!(find(&one, Some(PointId(7)), "set").unwrap_err().contains("does not know `set`"));
    }

    proptest! {
        #[test]
        fn a_number_that_is_accepted_lies_within_its_bounds(text in ".{0,12}", min in -9.0..0.0, max in 0.0..9.0) {
            let takes = Takes::Number { min: Some(min), max: Some(max) };
            if let Ok(value) = accept(&takes, &Value::Text(text), ON_OFF) {
                prop_assert!(value.as_number().is_some_and(|n| n >= min && n <= max));
            }
        }
    }
}
