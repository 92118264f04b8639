//! One scalar against one leaf of the schema: what it becomes, or what is wrong with it.

use serde_json::Value;
use serde_yaml::{Number, Value as Yaml};

use super::hint;
use super::scalar::check_format;
use super::schema::types;
use super::tree::{Scalar, cut};
use crate::model::is_name;

/// What a schema shows as examples.
fn examples(leaf: &Value) -> Vec<String> {
    let list = leaf.get("examples").and_then(Value::as_array).into_iter().flatten();
    list.map(|e| e.as_str().map_or_else(|| e.to_string(), str::to_owned)).collect()
}

/// What is wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub text: String,
    /// What to write.
    pub help: Option<String>,
}

impl Wrong {
    fn new(text: String, help: Option<String>) -> Wrong {
        Wrong { text, help }
    }
    /// `A; B` becomes text A and help B.
    fn split(message: &str) -> Wrong {
        match message.split_once("; ") {
            Some((text, help)) => Wrong::new(text.to_owned(), Some(help.to_owned())),
            None => Wrong::new(message.to_owned(), None),
        }
    }
}

/// Judges `scalar` by `leaf`. With `secret` no message repeats the text.
pub fn judge(scalar: &Scalar, leaf: &Value, secret: bool) -> Result<Yaml, Wrong> {
    let text = scalar.text.as_str();
    let shown = show(scalar, secret);
    let choices = hint::choices_of(leaf);
    if !choices.is_empty() {
        return choose(scalar, leaf, &shown, &choices);
    }
    if text.len() > 256 && leaf.get("format").is_some_and(|f| f == "duration" || f == "size" || f == "pin") {
        return Err(Wrong::new(format!("{} is wanted, not a long text", hint::wanted(&[leaf])), None));
    }
    match leaf.get("format").and_then(Value::as_str) {
        Some("name") if !is_name(text) => return Err(not_a_name(text, &shown)),
        Some("topic") => topic(text, &shown)?,
        Some(format) => match check_format(format, text) {
            Some(Ok(())) => return Ok(Yaml::String(text.to_owned())),
            Some(Err(_)) if shown != format!("`{}`", cut(text)) => {
                return Err(Wrong::new(format!("{} is wanted, {shown} is not that", hint::wanted(&[leaf])), None));
            }
            Some(Err(message)) => return Err(Wrong::split(&message)),
            None => {}
        },
        None => {}
    }
    let types = types(leaf);
    let wants = |t: &str| types.contains(&t);
    if types.is_empty() {
        return Ok(natural(scalar));
    }
    // between braces `${NAME}` needs quotes, which then say nothing about its type
    let bare = Scalar { plain: scalar.plain || scalar.typed.is_some(), ..scalar.clone() };
    let number = Some(natural(&bare)).filter(Yaml::is_number);
    if wants("string") {
        return match natural(scalar) {
            Yaml::Number(n) if wants("number") || wants("integer") => Ok(Yaml::Number(n)),
            Yaml::Bool(b) if wants("boolean") => Ok(Yaml::Bool(b)),
            _ => string(text, leaf, &shown),
        };
    }
    if wants("integer") || wants("number") {
        return match number {
            Some(n) if wants("number") || n.is_i64() || n.is_u64() => in_range(n, leaf, &shown),
            Some(_) => {
                let help = format!("write a whole number {}", range(leaf));
                Err(Wrong::new(format!("a whole number is wanted, not {shown}"), Some(help.trim_end().to_owned())))
            }
            None => {
                let bare = Scalar { plain: true, ..scalar.clone() };
                let whole = |n: &serde_yaml::Value| wants("number") || n.is_i64() || n.is_u64();
                let bare = natural(&bare);
                let quoted = !scalar.plain && bare.is_number() && whole(&bare);
                let help = match quoted && !secret {
                    true => format!("write {} without quotes", cut(text)),
                    false => format!("write {} {}", hint::wanted(&[leaf]), range(leaf)).trim_end().to_owned(),
                };
                Err(Wrong::new(
                    format!("{} is wanted, not {}", hint::wanted(&[leaf]), called(scalar, &shown)),
                    Some(help),
                ))
            }
        };
    }
    if wants("boolean") {
        return match check_format("on-off", text) {
            Some(Ok(())) => Ok(Yaml::Bool(matches!(text.trim().to_ascii_lowercase().as_str(), "true" | "yes" | "on"))),
            _ => Err(Wrong::new(format!("true or false is wanted, not {}", called(scalar, &shown)), None)),
        };
    }
    Err(Wrong::new(format!("{} is wanted, not {}", hint::wanted(&[leaf]), called(scalar, &shown)), None))
}

fn called(scalar: &Scalar, shown: &str) -> String {
    match natural(scalar) {
        _ if shown.starts_with("the value") => shown.to_owned(),
        Yaml::Number(_) => format!("the number {shown}"),
        Yaml::String(_) if scalar.text.contains(['\n', '\r']) => "a text of several lines".to_owned(),
        Yaml::String(_) => format!("the text {shown}"),
        _ => shown.to_owned(),
    }
}

/// How a message calls the value.
pub fn show(scalar: &Scalar, secret: bool) -> String {
    if secret || super::mask::tells_a_secret(&scalar.text) {
        return "`***`".to_owned();
    }
    match &scalar.typed {
        // the name of a variable may say that its value is a secret
        Some(typed) if names_a_secret(typed) => format!("the value of `{}`", cut(typed)),
        _ => format!("`{}`", cut(&scalar.text)),
    }
}

fn names_a_secret(typed: &str) -> bool {
    typed.split("${").skip(1).any(|part| {
        let name = part.split(['}', ':']).next().unwrap_or_default();
        super::mask::is_secret_key(name)
    })
}

/// A scalar as YAML 1.2 reads it; a number must be finite.
pub fn natural(scalar: &Scalar) -> Yaml {
    let text = scalar.text.as_str();
    if !scalar.plain {
        return Yaml::String(text.to_owned());
    }
    if scalar.is_null() {
        return Yaml::Null;
    }
    match text {
        "true" | "True" | "TRUE" => return Yaml::Bool(true),
        "false" | "False" | "FALSE" => return Yaml::Bool(false),
        _ => {}
    }
    if text.len() > 64 {
        return Yaml::String(text.to_owned());
    }
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'));
    let based = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(hex), _) => radix(hex, 16),
        (_, Some(octal)) => radix(octal, 8),
        _ => None,
    };
    if let Some(n) = based {
        return Yaml::Number(n.into());
    }
    if let Ok(n) = text.parse::<i64>() {
        return Yaml::Number(n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Yaml::Number(n.into());
    }
    match crate::model::value::parse_number(text) {
        Some(n) => Yaml::Number(Number::from(n)),
        None => Yaml::String(text.to_owned()),
    }
}

fn choose(scalar: &Scalar, leaf: &Value, shown: &str, choices: &[String]) -> Result<Yaml, Wrong> {
    let list = leaf.get("enum").and_then(Value::as_array).into_iter().flatten().chain(leaf.get("const"));
    let wish = natural(scalar);
    for value in list {
        match value {
            Value::String(s) if *s == scalar.text => return Ok(Yaml::String(s.clone())),
            Value::Number(n) if wish.as_f64().is_some() && wish.as_f64() == n.as_f64() => return Ok(wish),
            Value::Bool(b) if wish.as_bool() == Some(*b) => return Ok(wish),
            _ => {}
        }
    }
    // the caller, who knows all choices, words it anew
    Err(unknown_word(&scalar.text, shown, choices, None))
}

/// A word that is not in the list.
pub fn unknown_word(text: &str, shown: &str, choices: &[String], besides: Option<&str>) -> Wrong {
    let words = || choices.iter().map(String::as_str);
    let besides = besides.map(|b| format!(", or {b}")).unwrap_or_default();
    let help = match hint::near(text, words()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if choices.len() == 1 => format!("write {}{besides}", hint::list(words())),
        None => format!("write one of {}{besides}", hint::list(words())),
    };
    Wrong::new(format!("{shown} is not one of {}{besides}", hint::list(words())), Some(help))
}

/// Lowest and highest number that a leaf takes.
fn limits(leaf: &Value) -> (Option<f64>, Option<f64>) {
    let get = |key: &str| leaf.get(key).and_then(Value::as_f64);
    let widest = match leaf.get("format").and_then(Value::as_str) {
        Some("uint32") => Some(u32::MAX.into()),
        Some("uint64" | "uint" | "int64") => None,
        Some("int32") => Some(i32::MAX.into()),
        _ => None,
    };
    (get("minimum"), get("maximum").or(widest))
}

fn in_range(number: Yaml, leaf: &Value, shown: &str) -> Result<Yaml, Wrong> {
    let get = |key: &str| leaf.get(key).and_then(Value::as_f64);
    let (low, high) = limits(leaf);
    let n = number.as_f64().unwrap_or_default();
    let fits = low.is_none_or(|l| n >= l)
        && high.is_none_or(|h| n <= h)
        && get("exclusiveMinimum").is_none_or(|l| n > l)
        && get("exclusiveMaximum").is_none_or(|h| n < h);
    if fits {
        return Ok(number);
    }
    Err(Wrong::new(format!("{shown} is out of range"), Some(format!("write a number {}", range(leaf)))))
}

/// The limits of a leaf in words; empty where it has none.
fn range(leaf: &Value) -> String {
    let get = |key: &str| leaf.get(key).and_then(Value::as_f64);
    match limits(leaf) {
        (Some(l), Some(h)) if l == h => format!("equal to {l}"),
        (Some(l), Some(h)) => format!("from {l} to {h}"),
        (Some(l), None) => format!("not less than {l}"),
        (None, Some(h)) => format!("not more than {h}"),
        (None, None) => match (get("exclusiveMinimum"), get("exclusiveMaximum")) {
            (Some(l), Some(h)) => format!("between {l} and {h}"),
            (Some(l), None) => format!("more than {l}"),
            (None, Some(h)) => format!("less than {h}"),
            (None, None) => String::new(),
        },
    }
}

fn string(text: &str, leaf: &Value, shown: &str) -> Result<Yaml, Wrong> {
    let length = text.chars().count() as u64;
    if leaf.get("minLength").and_then(Value::as_u64).is_some_and(|min| length < min) {
        return Err(Wrong::new("the text is empty or too short".into(), None));
    }
    if let Some(max) = leaf.get("maxLength").and_then(Value::as_u64).filter(|max| length > *max) {
        return Err(Wrong::new(format!("the text is longer than {max} characters"), None));
    }
    if let Some(pattern) = leaf.get("pattern").and_then(Value::as_str)
        && regex::Regex::new(pattern).is_ok_and(|r| !r.is_match(text))
    {
        return Err(Wrong::new(
            format!("{shown} has not the form that is wanted"),
            Some(match examples(leaf) {
                examples if examples.is_empty() => format!("it must fit {pattern}"),
                examples => format!("write it like {}", examples.join(" or ")),
            }),
        ));
    }
    Ok(Yaml::String(text.to_owned()))
}

/// The message for a name that is none.
pub fn not_a_name(text: &str, shown: &str) -> Wrong {
    if text.is_empty() {
        return Wrong::new("the name is empty".into(), Some("write something like `boiler-2`".into()));
    }
    let lower: String = text
        .trim()
        .to_lowercase()
        .replace('ä', "ae")
        .replace('ö', "oe")
        .replace('ü', "ue")
        .replace('ß', "ss")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .take(64)
        .collect();
    let lower = lower.trim_matches('_');
    let help = match is_name(lower) && lower != text {
        true => format!("write `{lower}`"),
        false => "write something like `boiler-2`".to_owned(),
    };
    Wrong::new(format!("{shown} is not a name; names are made of a-z, 0-9, _ and -, at most 64"), Some(help))
}

/// A topic to publish on, or the first levels of one.
fn topic(text: &str, shown: &str) -> Result<(), Wrong> {
    let wrong = |text: String, help: &str| Err(Wrong::new(text, Some(help.to_owned())));
    if text.is_empty() {
        return wrong("the topic is empty".into(), "write its levels, apart by `/`: garden/door");
    }
    if text.contains(['+', '#']) {
        return wrong(format!("{shown} has a wildcard (`+` or `#`)"), "a topic to publish on names each level");
    }
    if text.split('/').any(str::is_empty) {
        return wrong(
            format!("{shown} has an empty level"),
            "write the levels apart by single `/`, none at either end",
        );
    }
    if text.starts_with('$') {
        return wrong(format!("{shown} begins with `$`"), "such topics belong to the broker; begin with a letter");
    }
    if text.chars().any(char::is_control) || text.len() > 1024 {
        return wrong("the topic is too long or has control characters".into(), "write its levels, apart by `/`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.into(), plain: true, typed: None }
    }

    #[test]
    fn text_stays_as_typed_where_text_is_wanted() {
        for text in ["off", "017", "5", "true", "1e3"] {
            assert_eq!(judge(&plain(text), &json!({"type": "string"}), false), Ok(Yaml::String(text.into())));
        }
        assert_eq!(judge(&plain("off"), &json!({"enum": ["off", "on"]}), false), Ok(Yaml::String("off".into())));
        assert_eq!(judge(&plain("5"), &json!({"enum": [5, "3.1.1"]}), false), Ok(Yaml::Number(5.into())));
    }

    #[test]
    fn numbers_are_whole_finite_and_in_range() {
        let byte = json!({"type": "integer", "minimum": 0, "maximum": 255, "format": "uint8"});
        assert_eq!(judge(&plain("0x1f"), &byte, false), Ok(Yaml::Number(31.into())));
        for (bad, part) in [("256", "range"), ("-1", "range"), ("1.5", "whole"), ("x", "text `x`"), (".inf", "text")] {
            assert!(judge(&plain(bad), &byte, false).unwrap_err().text.contains(part), "{bad}");
        }
        let quoted = Scalar { plain: false, ..plain("1") };
        assert!(judge(&quoted, &byte, false).unwrap_err().help.unwrap().contains("without quotes"));
        assert_eq!(judge(&plain("-0.4"), &json!({"type": "number"}), false), Ok(Yaml::Number((-0.4).into())));
    }

    #[test]
    fn a_secret_is_not_repeated() {
        for leaf in [json!({"type": "integer"}), json!({"enum": ["a"]}), json!({"format": "duration"})] {
            let wrong = judge(&plain("CANARY"), &leaf, true).unwrap_err();
            assert!(!format!("{wrong:?}").contains("CANARY"), "{wrong:?}");
            let named = Scalar { typed: Some("${MY_TOKEN}".into()), ..plain("CANARY") };
            let wrong = judge(&named, &leaf, false).unwrap_err();
            assert!(!format!("{wrong:?}").contains("CANARY"), "{wrong:?}");
        }
    }

    #[test]
    fn topics_have_no_wildcards_and_no_empty_levels() {
        let leaf = json!({"type": "string", "format": "topic"});
        assert!(judge(&plain("a/b c/ü"), &leaf, false).is_ok());
        for bad in ["a/+", "#", "/a", "a/", "a//b", "$SYS/x", ""] {
            let quoted = Scalar { plain: false, ..plain(bad) };
            assert!(judge(&quoted, &leaf, false).is_err(), "{bad}");
        }
    }
}
