//! Other tools' words for the same things. They are renamed in the tree; each node keeps the place of what was typed.

use serde_json::{Map, Value, json};

use super::tree::{Entry, Kind, Node, Scalar};
use crate::model::Problem;

/// Plain renamings: the section (`*` is any name), the other word, ours.
const WORDS: &[(&[&str], &str, &str)] = &[
    (&["mqtt"], "base_topic", "topic_prefix"),
    (&["mqtt"], "user", "username"),
    (&["ports", "*"], "baud", "baud_rate"),
    (&["ports", "*"], "baudrate", "baud_rate"),
    (&["devices", "*"], "unit_of_measurement", "unit"),
    (&["devices", "*", "points", "*"], "unit_of_measurement", "unit"),
    (&["devices", "*", "commands", "*"], "unit_of_measurement", "unit"),
];

/// Renames all aliases below the root.
pub fn rename(root: &mut Node, problems: &mut Vec<Problem>) {
    for (section, other, ours) in WORDS {
        each(root, section, &mut |node| {
            let Kind::Map(entries) = &mut node.kind else { return };
            swap(entries, other, ours, problems, |_| true);
        });
    }
    each(root, &["devices", "*"], &mut |node| {
        let Kind::Map(entries) = &mut node.kind else { return };
        swap(entries, "bouncetime", "debounce", problems, |value| {
            if let Kind::Scalar(s) = &mut value.kind
                && crate::model::value::parse_number(&s.text).is_some()
            {
                s.text = format!("{}ms", s.text.trim());
            }
            true
        });
        for (other, word) in [("pullup", "up"), ("pulldown", "down")] {
            swap(entries, other, "pull", problems, |value| {
                let Kind::Scalar(s) = &value.kind else { return true };
                match s.text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" => {
                        value.kind = scalar(word.to_owned());
                        true
                    }
                    "false" | "no" | "off" => false,
                    _ => true,
                }
            });
        }
    });
    each(root, &["mqtt"], &mut |node| {
        let Kind::Map(entries) = &mut node.kind else { return };
        host_and_port(entries, problems);
    });
}

fn scalar(text: String) -> Kind {
    Kind::Scalar(Scalar { text, plain: true, typed: None })
}

/// Calls `f` with each node at `path`.
fn each(node: &mut Node, path: &[&str], f: &mut dyn FnMut(&mut Node)) {
    let Some((first, rest)) = path.split_first() else { return f(node) };
    let Kind::Map(entries) = &mut node.kind else { return };
    for entry in entries.iter_mut().filter(|e| *first == "*" || e.key == *first) {
        each(&mut entry.value, rest, f);
    }
}

/// Renames `other` to `ours`. `turn` brings the value over; false: it says nothing, and the entry goes.
fn swap(
    entries: &mut Vec<Entry>,
    other: &str,
    ours: &str,
    problems: &mut Vec<Problem>,
    turn: impl Fn(&mut Node) -> bool,
) {
    let Some(at) = entries.iter().position(|e| e.key == other) else { return };
    let first = entries.iter().find(|e| e.key == ours).map(|e| (e.place, e.typed.clone()));
    let Some(entry) = entries.get_mut(at) else { return };
    if let Some((place, typed)) = first {
        problems.push(
            Problem::error(Some(entry.place), format!("`{other}` says the same as `{typed}`, which is given too"))
                .related(Some(place), "also given here")
                .help(format!("keep `{ours}` and remove the other")),
        );
        entries.remove(at);
    } else if turn(&mut entry.value) {
        entry.key = ours.to_owned();
    } else {
        entries.remove(at);
    }
}

/// `host: pi` and `port: 1883` become `url: mqtt://pi:1883`.
fn host_and_port(entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    let find = |entries: &[Entry], key: &str| entries.iter().position(|e| e.key == key);
    let port = find(entries, "port").map(|at| entries.remove(at));
    let port_text = match port.as_ref().map(|p| &p.value.kind) {
        Some(Kind::Scalar(s)) => Some(s.text.trim().to_owned()),
        _ => None,
    };
    if find(entries, "host").is_none() {
        if let Some(port) = port {
            problems
                .push(Problem::error(Some(port.place), "`port` without `host`").help("write `url: mqtt://HOST:PORT`"));
        }
        return;
    }
    if let (Some(text), Some(port)) = (&port_text, &port)
        && text.parse::<u16>().is_err()
    {
        problems.push(
            Problem::error(Some(port.value.place), "a port is a number from 1 to 65535")
                .help("write `url: mqtt://HOST:PORT`"),
        );
    }
    swap(entries, "host", "url", problems, |value| {
        if let Kind::Scalar(s) = &mut value.kind {
            let host = match s.text.trim() {
                v6 if v6.matches(':').count() > 1 && !v6.contains("//") => format!("[{v6}]"),
                host => host.to_owned(),
            };
            let scheme = if host.contains("://") { "" } else { "mqtt://" };
            let port = port_text.as_ref().filter(|p| p.parse::<u16>().is_ok());
            s.text = format!("{scheme}{host}{}", port.map(|p| format!(":{p}")).unwrap_or_default());
        }
        true
    });
}

/// Lets editors accept the aliases beside the keys they stand for.
pub fn add_to_schema(object: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = object.get_mut("properties") else { return };
    let has = |key: &str| properties.contains_key(key);
    let mut more: Vec<(&str, Value)> = Vec::new();
    let port = has("baud_rate");
    let mqtt = has("topic_prefix");
    for (section, other, ours) in WORDS {
        let here = match section.first() {
            Some(&"mqtt") => mqtt,
            Some(&"ports") => port,
            _ => !mqtt && !port,
        };
        if here && let Some(schema) = properties.get(*ours) {
            more.push((other, schema.clone()));
        }
    }
    if mqtt {
        more.push(("host", json!({ "type": "string", "description": "Same as in `url`." })));
        more.push(("port", json!({ "type": "integer", "minimum": 1, "maximum": 65535 })));
    }
    if has("kind") && has("debounce") {
        let text = "Same as `debounce`, a bare number counts milliseconds.";
        more.push(("bouncetime", json!({ "type": ["number", "string"], "description": text })));
    }
    if has("kind") && has("pull") {
        for (other, word) in [("pullup", "up"), ("pulldown", "down")] {
            let text = format!("Same as `pull: {word}`.");
            more.push((other, json!({ "type": ["boolean", "string"], "format": "on-off", "description": text })));
        }
    }
    for (key, schema) in more {
        properties.entry(key).or_insert(schema);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;

    fn renamed(yaml: &str) -> (Node, Vec<String>) {
        let mut root = tree::parse(yaml).root.unwrap();
        let mut problems = Vec::new();
        rename(&mut root, &mut problems);
        (root, problems.into_iter().map(|p| p.text).collect())
    }

    fn text(node: &Node, path: &[&str]) -> String {
        let last = path.iter().fold(node, |n, key| &n.get(key).unwrap_or_else(|| panic!("no {key}")).value);
        let Kind::Scalar(s) = &last.kind else { panic!() };
        s.text.clone()
    }

    #[test]
    fn other_tools_words_mean_the_same() {
        let (root, problems) = renamed(
            "mqtt: {host: pi, port: 1884, base_topic: x, user: joe}\nports: {a: {baud: 9600}, b: {baudrate: 1}}\n\
             devices: {d: {bouncetime: 50, pullup: yes}, e: {pulldown: true, pullup: false, points: {t: {unit_of_measurement: C}}}}",
        );
        assert_eq!(problems, Vec::<String>::new());
        for (path, want) in [
            (vec!["mqtt", "url"], "mqtt://pi:1884"),
            (vec!["mqtt", "topic_prefix"], "x"),
            (vec!["mqtt", "username"], "joe"),
            (vec!["ports", "a", "baud_rate"], "9600"),
            (vec!["ports", "b", "baud_rate"], "1"),
            (vec!["devices", "d", "debounce"], "50ms"),
            (vec!["devices", "d", "pull"], "up"),
            (vec!["devices", "e", "pull"], "down"),
            (vec!["devices", "e", "points", "t", "unit"], "C"),
        ] {
            assert_eq!(text(&root, &path), want, "{path:?}");
        }
        assert_eq!(root.get("mqtt").unwrap().value.get("url").unwrap().typed, "host");
    }

    #[test]
    fn an_alias_beside_its_key_is_a_problem() {
        for (yaml, part) in [
            ("ports: {a: {baud: 1, baud_rate: 2}}", "`baud` says the same as `baud_rate`"),
            ("ports: {a: {baud: 1, baudrate: 2}}", "`baudrate` says the same as `baud`"),
            ("mqtt: {url: mqtt://a, host: b}", "`host` says the same as `url`"),
            ("mqtt: {port: 1883}", "without `host`"),
            ("devices: {a: {pullup: true, pulldown: true}}", "`pulldown` says the same as `pullup`"),
        ] {
            assert!(renamed(yaml).1.iter().any(|p| p.contains(part)), "{:?}", renamed(yaml).1);
        }
    }
}
