//! Advice: words that lie near, words that a later version will know, and how to call what a schema wants.

use serde_json::Value;

use super::schema::types;

/// Where a word of [`LATER`] may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Top level of the file.
    File,
    /// A section, by name.
    Section(&'static str),
    /// A device's kind.
    Kind,
    /// A device's key.
    Device,
    /// A point's key.
    Point,
    /// A filter.
    Filter,
}

/// What pinpost will know and this version does not. Only consulted for words that the schema refuses, so a word that
/// has been built may stand here without harm; it should go all the same.
const LATER: &[(Level, &[&str])] = &[
    (Level::File, &["web", "metrics"]),
    (Level::Section("mqtt"), &["will", "birth", "properties"]),
    (Level::Section("broker"), &["persistence", "websockets", "bridge"]),
];

/// Whether a later version knows `word` there.
pub fn later(level: Level, word: &str) -> bool {
    LATER.iter().any(|(l, words)| *l == level && words.contains(&word))
}

/// The message for such a word.
pub fn not_yet(word: &str) -> String {
    format!("`{word}` is not supported by this version of pinpost")
}

/// The word that was probably meant.
pub fn near<'a>(typed: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.is_empty() || typed.len() > 64 {
        return None;
    }
    let norm = |s: &str| s.to_ascii_lowercase().replace(['-', ' '], "_");
    let typed = norm(typed);
    let mut best: Option<(usize, &str)> = None;
    for word in words {
        let other = norm(word);
        let length = typed.chars().count().min(other.chars().count());
        let distance = match strsim::osa_distance(&typed, &other) {
            // `retained` for retain, `temp` for temperature
            far if length >= 3 && far > 1 && (typed.starts_with(&other) || other.starts_with(&typed)) => 2,
            distance => distance,
        };
        let begins = typed.starts_with(&other) || other.starts_with(&typed);
        let allowed = match length {
            0..=1 => 0,
            // `of` for off, `upp` for up, `hx` for hex
            2 => usize::from(begins || typed.chars().next() == other.chars().next()),
            3..=5 => 1,
            6..=8 => 2,
            _ => 3,
        };
        let allowed = if distance == 2 && length >= 3 && typed.contains(other.as_str()) { 2 } else { allowed };
        let prefix = length >= 3 && other.starts_with(&typed);
        if (distance <= allowed || prefix) && best.is_none_or(|(d, _)| distance < d) {
            best = Some((distance, word));
        }
    }
    best.map(|(_, word)| word)
}

/// `a, b, c`, each in backticks; a long list is cut.
pub fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for (i, word) in words.into_iter().enumerate() {
        if i == 24 {
            out.push_str(", …");
            break;
        }
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&format!("`{word}`"));
    }
    out
}

/// What the leaves accept, in words: "a duration (such as 250ms), or a list".
pub fn wanted(leaves: &[&Value]) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut choices: Vec<String> = Vec::new();
    for leaf in leaves {
        choices.extend(choices_of(leaf));
        if leaf.get("enum").is_some() || leaf.get("const").is_some() {
            continue;
        }
        let word = match leaf.get("format").and_then(Value::as_str) {
            Some("duration") => "a duration with a unit (such as 250ms)".to_owned(),
            Some("size") => "a size with a unit (such as 64MiB)".to_owned(),
            Some("on-off") => "true or false".to_owned(),
            Some("pin") => "a pin (such as 17)".to_owned(),
            Some("template") => "a template with {{ value }} in it".to_owned(),
            Some("usb-id") => "a USB id (such as 0403)".to_owned(),
            Some("name") => "a name".to_owned(),
            Some("topic") => "a topic".to_owned(),
            _ => match types(leaf).first() {
                Some(&"integer") => "a whole number".to_owned(),
                Some(&"number") => "a number".to_owned(),
                Some(&"boolean") => "true or false".to_owned(),
                Some(&"array") => "a list".to_owned(),
                Some(&"object") => "a mapping".to_owned(),
                Some(&"string") => "text".to_owned(),
                _ => "a value".to_owned(),
            },
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if !choices.is_empty() {
        words.insert(0, list(choices.iter().map(String::as_str)));
    }
    words.join(" or ")
}

/// The words among which a leaf lets choose.
pub fn choices_of(leaf: &Value) -> Vec<String> {
    let word = |v: &Value| match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let mut words: Vec<String> = Vec::new();
    let list = leaf.get("enum").and_then(Value::as_array).into_iter().flatten();
    for value in list.chain(leaf.get("const")) {
        let word = word(value);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["debounce", "pin", "pull", "inverted", "kind", "retain", "unit", "qos", "temperature"];
        for (typed, want) in [
            ("debounc", Some("debounce")),
            ("debonuce", Some("debounce")),
            ("Debounce", Some("debounce")),
            ("pi", Some("pin")),
            ("xi", None),
            ("pins", Some("pin")),
            ("retained", Some("retain")),
            ("invert", Some("inverted")),
            ("temp", Some("temperature")),
            ("units", Some("unit")),
            ("frequency", None),
            ("q", None),
            ("", None),
        ] {
            assert_eq!(near(typed, words), want, "{typed}");
        }
    }
}
