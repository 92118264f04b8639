//! Which parts of a text nobody may see: what stands under `password`, `token`, `secret` or a key, also misspelt, and
//! the credentials of any URL.
//!
//! Promise: works on text that is not even YAML; there it rather hides too much.

use std::collections::HashSet;

use super::tree::{self, Kind, Node};

/// What is shown instead.
pub const STARS: &str = "***";

/// Whether the value under this key is a secret. Names of files are not: `key_file`, `password_file`.
pub fn is_secret_key(key: &str) -> bool {
    if key.len() > 64 || key.len() < 3 {
        return false;
    }
    let lower = key.to_ascii_lowercase();
    let words: Vec<&str> = lower.split(['_', '-', '.', ' ']).filter(|w| !w.is_empty()).collect();
    if matches!(words.last(), Some(&("file" | "path" | "dir"))) {
        return false;
    }
    if matches!(words.last(), Some(&("key" | "apikey"))) {
        return true;
    }
    words.iter().any(|w| secret_word(w)) || secret_word(&words.concat())
}

fn secret_word(word: &str) -> bool {
    // words of this file's own language and plain English that lie near `token`
    const INNOCENT: [&str; 5] = ["then", "open", "tone", "often", "taken"];
    if matches!(word, "pass" | "pwd" | "psk" | "credential" | "credentials" | "auth") {
        return true;
    }
    if ["passw", "secret", "token"].iter().any(|part| word.contains(part)) {
        return true;
    }
    let length = word.chars().count();
    !INNOCENT.contains(&word)
        && ["password", "passphrase", "secret", "token"]
            .iter()
            .any(|secret| length + 2 >= secret.len() && length >= 4 && strsim::osa_distance(word, secret) <= 2)
}

/// Whether a text looks like `password hunter2` or `token=x`, a key and its secret in one.
pub fn tells_a_secret(text: &str) -> bool {
    text.len() < 10_000 && !secrets_in(text, true).is_empty()
}

/// A place in the text: line from 1, column from 1, in characters.
type At = (usize, usize);

/// The hidden parts of one text.
#[derive(Debug, Default)]
pub struct Masks {
    /// Hidden from the first place to just before the second.
    spans: Vec<(At, At)>,
    /// Keys that the tree has understood; their values are in `spans`.
    keys: HashSet<At>,
    /// Hidden values long enough to be looked for elsewhere.
    values: Vec<String>,
    /// Lines hidden as a whole, because nobody knows where the value ends.
    lines: HashSet<usize>,
    /// The text could not be taken apart.
    blind: bool,
    /// A secret key has no value; it may stand on the next line all the same.
    doubt: bool,
}

impl Masks {
    /// Of a file's text.
    pub fn of(text: &str) -> Masks {
        let mut masks = Masks::default();
        let parsed = tree::parse(text);
        masks.blind = parsed.root.is_none();
        if let Some(root) = &parsed.root {
            masks.collect(root, &mut Vec::new(), false);
        }
        // what YAML made of a broken text need not be what was meant
        if masks.doubt || !parsed.problems.is_empty() {
            masks.by_lines(text);
        }
        masks.glued(text);
        masks
    }

    /// Finds what hides below `node`. `path` holds the keys above it.
    fn collect<'a>(&mut self, node: &'a Node, path: &mut Vec<&'a str>, secret: bool) {
        match &node.kind {
            Kind::Bad if secret => self.hide(node),
            Kind::Bad => {}
            Kind::Scalar(s) => {
                self.doubt |= secret && s.is_null();
                if (secret || tells_a_secret(&s.text)) && !s.is_null() {
                    self.hide(node);
                    // the name of a variable is no secret
                    if s.text.len() >= 6 && !s.text.starts_with("${") && self.values.len() < 100 {
                        self.values.push(s.text.clone());
                    }
                }
            }
            Kind::List(items) => items.iter().for_each(|item| self.collect(item, path, secret)),
            Kind::Map(entries) => {
                // a device may be called `token`
                let names = matches!(path.last(), Some(&("devices" | "ports" | "points" | "commands")));
                for entry in entries {
                    // `password:x` without a space is one key to YAML; `password: #x` has its value in a comment
                    let nothing = matches!(&entry.value.kind, Kind::Scalar(s) if s.is_null());
                    if !entry.key.contains(':') && !nothing {
                        self.keys.insert((entry.place.line, entry.place.col));
                    }
                    let named = names && matches!(entry.value.kind, Kind::Map(_));
                    path.push(&entry.key);
                    // marks may have slipped in beside the word
                    let secret = secret || (!named && entry.key.split(':').any(is_secret_key));
                    self.collect(&entry.value, path, secret);
                    path.pop();
                }
            }
        }
    }

    fn hide(&mut self, node: &Node) {
        self.spans.push(((node.place.line, node.place.col), node.end));
    }

    /// Values behind a secret key that YAML did not see as one: `password:x`, `&password: x`.
    fn glued(&mut self, text: &str) {
        for (i, line) in tree::lines(text).enumerate() {
            for (key, value) in secrets_in(line, false) {
                if self.keys.contains(&(i + 1, key + 1)) || self.values.len() >= 100 {
                    continue;
                }
                // `key:` in a comment is more likely a plain word
                let word: String = line.chars().skip(key).take(4).collect();
                let value: String = line.chars().skip(value).collect();
                let end = value.find(|c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']' | '"' | '\''));
                let value = value.get(..end.unwrap_or(value.len())).unwrap_or_default();
                if value.len() >= 6 && !value.starts_with("${") && word != "key:" {
                    self.values.push(value.to_owned());
                }
            }
        }
    }

    /// For a text that is no YAML: what belongs to a secret key by the look of it.
    fn by_lines(&mut self, text: &str) {
        // indentation of the key, and the quote its value has opened
        let mut open: Option<(usize, Option<char>)> = None;
        let mut just_opened = false;
        for (i, line) in tree::lines(text).enumerate() {
            let indent = line.chars().take_while(|c| c.is_whitespace()).count();
            if let Some((of_key, quote)) = open {
                let inside = quote.is_some() || just_opened || indent > of_key || !begins_with_key(line);
                if inside || line.trim().is_empty() {
                    self.lines.insert(i + 1);
                    self.words_of(line);
                    just_opened &= line.trim().is_empty();
                    if quote.is_some_and(|q| line.contains(q)) {
                        open = Some((of_key, None));
                    }
                } else {
                    open = None;
                }
            }
            // also in a line that is hidden: its value may go on
            if let Some((key, value)) = secrets_in(line, self.blind).into_iter().next_back() {
                let key = key.min(indent);
                let value: String = line.chars().skip(value).collect();
                let value = value.trim();
                let quote = value.chars().next().filter(|q| matches!(q, '"' | '\'') && value.matches(*q).count() == 1);
                open = Some((key, quote));
                let brackets = |of: [char; 2]| value.matches(of).count();
                let open_bracket = value.starts_with(['{', '[']) && brackets(['{', '[']) > brackets(['}', ']']);
                just_opened = value.is_empty() || value.starts_with(['|', '>']) || open_bracket;
            }
        }
    }

    /// What YAML makes of a hidden line may be named in a message: all of it, or what looks like its key.
    fn words_of(&mut self, line: &str) {
        let whole = line.trim();
        let key = whole.split_once(": ").map_or(whole, |(key, _)| key);
        // `x:{` has no space, and is told with the name before the colon
        let word = whole.split(':').next().unwrap_or_default();
        for text in [whole, whole.trim_end_matches(':'), key.trim_end_matches(':'), word] {
            if text.len() >= 6 && self.values.len() < 100 && !self.values.iter().any(|v| v == text) {
                self.values.push(text.to_owned());
            }
        }
    }

    /// The hidden ranges of a line (from 1), in characters from 0, in order and apart from each other.
    pub fn ranges(&self, number: usize, line: &str) -> Vec<(usize, usize)> {
        let length = line.chars().count();
        let mut found: Vec<(usize, usize)> = urls_in(line);
        if self.lines.contains(&number) {
            found.push((line.chars().take_while(|c| c.is_whitespace()).count(), length));
        }
        for (from, to) in &self.spans {
            if from.0 <= number && number <= to.0 {
                let start = if from.0 == number { from.1 - 1 } else { 0 };
                let end = if to.0 == number { to.1.saturating_sub(1) } else { length };
                // a block of text ends where the next key begins
                let blank = from.0 < number && line.chars().take(end).all(char::is_whitespace);
                if !blank {
                    found.push((start, end.min(length)));
                }
            }
        }
        for (key, value) in secrets_in(line, self.blind) {
            let known = self.keys.contains(&(number, key + 1)) || found.iter().any(|(a, b)| *a <= key && key < *b);
            if !known {
                found.push((value, length));
            }
        }
        for value in &self.values {
            for (byte, _) in line.match_indices(value.as_str()) {
                let start = line.get(..byte).map_or(0, |s| s.chars().count());
                found.push((start, start + value.chars().count()));
            }
        }
        found.retain(|(a, b)| a < b);
        found.sort_unstable();
        let mut apart: Vec<(usize, usize)> = Vec::new();
        for (a, b) in found {
            match apart.last_mut() {
                Some(last) if a <= last.1 => last.1 = last.1.max(b),
                _ => apart.push((a, b)),
            }
        }
        apart
    }

    /// A message with everything hidden that this text hides.
    pub fn clean(&self, message: &str) -> String {
        let mut out = clean(message);
        for value in &self.values {
            if out.contains(value.as_str()) {
                out = out.replace(value.as_str(), STARS);
            }
        }
        out
    }
}

/// A message without the credentials of URLs and without what follows `password:` and the like.
pub fn clean(message: &str) -> String {
    let mut ranges = urls_in(message);
    for (key, value) in secrets_in(message, false) {
        // our own messages say "write `key: value`"
        let word: String = message.chars().skip(key).take(4).collect();
        if word == "key:" {
            continue;
        }
        let glued = message.chars().skip(value).take_while(|c| !c.is_whitespace() && *c != '`').count();
        ranges.push((value, value + glued));
    }
    ranges.sort_unstable();
    let mut out = String::with_capacity(message.len());
    let mut at = 0;
    let chars: Vec<char> = message.chars().collect();
    for (a, b) in ranges {
        if a < at || a >= b {
            continue;
        }
        out.extend(chars.get(at..a).unwrap_or_default());
        out.push_str(STARS);
        at = b;
    }
    out.extend(chars.get(at..).unwrap_or_default());
    out
}

/// Secret keys in a line by the look of them: where the key begins and where its value begins, from 0.
/// `loose`: a space is enough between the two.
fn secrets_in(line: &str, loose: bool) -> Vec<(usize, usize)> {
    let chars: Vec<char> = line.chars().collect();
    let word = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = chars.iter().skip(at).position(word).map(|p| p + at) {
        let length = chars.iter().skip(start).take_while(|c| word(c)).count();
        let mut end = start + length;
        at = end;
        if length < 3 {
            continue;
        }
        let quoted = start.checked_sub(1).and_then(|i| chars.get(i)).filter(|c| matches!(c, '"' | '\''));
        if quoted.is_some() && chars.get(end) == quoted {
            end += 1;
        }
        let blanks = |from: usize| from + chars.iter().skip(from).take_while(|c| c.is_whitespace()).count();
        let sign = blanks(end);
        let signed = matches!(chars.get(sign), Some(':' | '='));
        // the dear question last: a megabyte of words is asked quickly
        let apart = loose && sign > end && sign < chars.len();
        if !(signed || apart) {
            continue;
        }
        let key: String = chars.iter().skip(start).take(length.min(80)).collect();
        if is_secret_key(&key) {
            let start = if signed && quoted.is_some() { start - 1 } else { start };
            found.push((start, if signed { blanks(sign + 1) } else { sign }));
        }
    }
    found
}

/// `key: …`, the only sign that the value before it has ended.
fn begins_with_key(line: &str) -> bool {
    let Some((key, rest)) = line.trim_start().split_once(':') else { return false };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(word)
        && (rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// The credentials of URLs in a line: from behind `://` to the `@`, from 0.
fn urls_in(line: &str) -> Vec<(usize, usize)> {
    let chars: Vec<char> = line.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(sign) = chars.get(at..).and_then(|rest| rest.windows(3).position(|w| w == [':', '/', '/'])) {
        let begin = at + sign + 3;
        let scheme = chars.iter().take(at + sign).rev().take_while(|c| c.is_ascii_alphanumeric() || **c == '+').count();
        let before = (at + sign).checked_sub(scheme + 1).and_then(|i| chars.get(i)).copied();
        let quote = before.filter(|c| matches!(c, '"' | '\'' | '`'));
        let length = chars
            .iter()
            .skip(begin)
            .take_while(|c| match quote {
                Some(q) => **c != q,
                None => !c.is_whitespace(),
            })
            .count();
        if let Some(end) = chars.iter().skip(begin).take(length).rposition(|c| *c == '@') {
            found.push((begin, begin + end));
        }
        at = begin + length;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_keys_are_known_also_misspelt() {
        for key in [
            "password",
            "Password",
            "pasword",
            "passwort",
            "paswrd",
            "passwd",
            "pass_word",
            "mqtt_password",
            "token",
            "tokn",
            "tokne",
            "access_token",
            "secret",
            "secrt",
            "client-secret",
            "api_key",
            "key",
            "passphrase",
            "pwd",
        ] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in [
            "key_file",
            "password_file",
            "keep_alive",
            "then",
            "topic",
            "open",
            "username",
            "pin",
            "kind",
            "points",
            "timeout",
            "keyvalue",
            "send",
            "path",
            "select",
            "serial",
        ] {
            assert!(!is_secret_key(key), "{key}");
        }
    }

    fn shown(text: &str) -> String {
        let masks = Masks::of(text);
        let mut out = Vec::new();
        for (i, line) in tree::lines(text).enumerate() {
            let chars: Vec<char> = line.chars().collect();
            let mut at = 0;
            let mut s = String::new();
            for (a, b) in masks.ranges(i + 1, line) {
                s.extend(&chars[at..a]);
                s.push_str(STARS);
                at = b;
            }
            s.extend(&chars[at..]);
            out.push(s);
        }
        out.join("\n")
    }

    #[test]
    fn values_of_secret_keys_are_hidden_in_every_form() {
        for (text, safe) in [
            ("mqtt: { password: CANARY1, foo: 1 }", "mqtt: { password: ***, foo: 1 }"),
            ("mqtt: { \"pasword\": 'CANARY1', foo: 1 }", "mqtt: { \"pasword\": ***, foo: 1 }"),
            ("a:\n  token: |\n    CANARY1\n    CANARY2\n  b: 1", "a:\n  token: |\n    ***\n***\n  b: 1"),
            ("secret: \"CANARY1\n  CANARY2\"\nb: 1", "secret: ***\n***\nb: 1"),
            ("url: mqtt://joe:CAN@ARY@pi:1883", "url: mqtt://***@pi:1883"),
            ("url: 'mqtt://joe:CAN ARY@pi'", "url: 'mqtt://***@pi'"),
            ("urls: [mqtt://a:CANARY@pi, mqtt://b]", "urls: [mqtt://***@pi, mqtt://b]"),
            ("tokens: [CANARY1, CANARY2]", "tokens: [***, ***]"),
            ("a: 1 # password: CANARY", "a: 1 # password: ***"),
            ("password: # CANARY", "password: ***"),
            ("a: {password:CANARY}", "a: {password:***"),
            ("mqtt: password CANARY", "mqtt: ***"),
            ("command: [x, '--token=CANARY', y]", "command: [x, ***, y]"),
            ("a: &x CANARY1\npassword: *x", "a: &x ***\npassword: ***"),
            ("devices: {token: {pin: 17}}", "devices: {token: {pin: 17}}"),
        ] {
            let got = shown(text);
            assert!(!got.contains("CAN") && !got.contains("ARY"), "{got}");
            assert_eq!(got, safe);
        }
    }

    #[test]
    fn a_text_that_is_no_yaml_hides_its_secrets_too() {
        for text in [
            "mqtt:\n\tpassword: CANARY\n",
            "password CANARY\nfoo: [",
            "password: \"CANARY\nCANARY\n",
            "password:\n  CANARY\nfoo: [",
            "{ password:\nCANARY, foo: [",
            "a:\n  password: |\n    CANARY\n    CANARY\n  b: [",
            "password: >\nCANARY\n a: ]",
        ] {
            assert!(!shown(text).contains("CANARY"), "{}", shown(text));
        }
    }

    #[test]
    fn messages_are_cleaned() {
        assert_eq!(clean("cannot reach `mqtt://joe:CANARY@pi`"), "cannot reach `mqtt://***@pi`");
        assert_eq!(clean("unknown key `password:CANARY`"), "unknown key `password:***`");
        assert_eq!(clean("`password` is given twice"), "`password` is given twice");
    }
}
