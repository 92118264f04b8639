//! Checks the tree against the schema and turns what is right into values for serde.
//!
//! Promises: all problems are found, each at its place; what is wrong is left out of the result, with the smallest
//! mapping around it that cannot be without it, so that the rest can be judged further.

use serde_json::{Map, Value};
use serde_yaml::{Mapping, Value as Yaml};

use super::hint::{self, Level};
use super::mask::is_secret_key;
use super::schema::{leaves, resolve, types};
use super::tree::{Entry, Kind, Node, Scalar, cut, show_key};
use super::value::{self, Wrong};
use crate::model::{Place, Problem, is_name};

/// More problems than anybody reads are not collected.
pub const MAX_PROBLEMS: usize = 200;

/// What came of a walk.
#[derive(Default)]
pub struct Walked {
    /// What was right.
    pub value: Option<Yaml>,
    /// All problems.
    pub problems: Vec<Problem>,
    /// Paths that were written and are not in `value`.
    pub dropped: Vec<Vec<String>>,
}

/// Walks the whole file by the schema made by [`super::schema::plain`].
pub fn walk(root: &Node, schema: &Value) -> Walked {
    let mut walker = Walker { schema, out: Walked::default() };
    let top = At { parent: None, key: "", typed: "", place: root.place, secret: false };
    walker.out.value = walker.value(root, schema, &top);
    walker.out
}

/// Where the walker is: the chain of keys down from the top.
#[derive(Clone, Copy)]
struct At<'p> {
    parent: Option<&'p At<'p>>,
    key: &'p str,
    /// The key as it was typed.
    typed: &'p str,
    /// Of the key.
    place: Place,
    secret: bool,
}

impl<'p> At<'p> {
    fn path(&self) -> Vec<&'p str> {
        let mut path = Vec::new();
        let mut at = Some(self);
        while let Some(here) = at {
            if here.parent.is_some() {
                path.push(here.key);
            }
            at = here.parent;
        }
        path.reverse();
        path
    }
    fn down<'q>(&'q self, entry: &'q Entry, named: bool) -> At<'q> {
        // a device may be called `token`, but then it is a mapping
        let named = named && matches!(entry.value.kind, Kind::Map(_));
        let secret = self.secret || (!named && is_secret_key(&entry.key));
        At { parent: Some(self), key: &entry.key, typed: &entry.typed, place: entry.place, secret }
    }
    /// The key as messages call it; an item has none of its own.
    fn called(&self) -> String {
        let item = self.key != self.typed && self.key.parse::<usize>().is_ok();
        match (self.parent, item) {
            (None, _) => "the file".to_owned(),
            (_, true) => format!("an item of `{}`", cut(self.typed)),
            _ => format!("`{}`", cut(self.typed)),
        }
    }
    /// As messages call the mapping here.
    fn name(&self) -> String {
        match self.path().as_slice() {
            [] => "the file".into(),
            ["devices", device] => format!("device `{device}`"),
            ["ports", port] => format!("port `{port}`"),
            ["devices", device, "points", point] => format!("point `{point}` of device `{device}`"),
            ["devices", device, "commands", command] => format!("command `{command}` of device `{device}`"),
            ["devices", device, keys @ ..] => {
                // the number of an item says nothing to people, who see the line
                let words: Vec<&str> = keys.iter().copied().filter(|k| k.parse::<usize>().is_err()).collect();
                format!("`{}` of device `{device}`", words.join("."))
            }
            keys => format!("`{}`", keys.join(".")),
        }
    }
    /// Whether the keys here are names that the user gives.
    fn names(&self) -> bool {
        matches!(self.path().as_slice(), ["devices" | "ports"] | ["devices", _, "points" | "commands"])
    }
    fn level(&self) -> Option<Level> {
        match self.path().as_slice() {
            [] => Some(Level::File),
            ["queue"] => Some(Level::Section("queue")),
            ["mqtt"] => Some(Level::Section("mqtt")),
            ["broker"] => Some(Level::Section("broker")),
            ["devices", _] => Some(Level::Device),
            ["devices", _, "points", _] => Some(Level::Point),
            _ => None,
        }
    }
}

struct Walker<'s> {
    schema: &'s Value,
    out: Walked,
}

impl<'s> Walker<'s> {
    fn report(&mut self, problem: Problem) {
        if self.out.problems.len() < MAX_PROBLEMS {
            self.out.problems.push(problem);
        }
    }

    fn wrong(&mut self, place: Place, wrong: Wrong) {
        let mut problem = Problem::error(Some(place), wrong.text);
        problem.help = wrong.help;
        self.report(problem);
    }

    fn value(&mut self, node: &Node, schema: &'s Value, at: &At) -> Option<Yaml> {
        let all = leaves(self.schema, schema);
        let found = match &node.kind {
            Kind::Bad => None,
            Kind::Scalar(s) if s.is_null() => self.nothing(node, &all, at),
            Kind::Scalar(s) => self.scalar(node, s, &all, at),
            Kind::List(items) => self.list(node, items, &all, at),
            Kind::Map(entries) => self.map(node, entries, &all, at),
        };
        if found.is_none() {
            self.out.dropped.push(at.path().into_iter().map(str::to_owned).collect());
        }
        found
    }

    /// `key:` with nothing behind it.
    fn nothing(&mut self, node: &Node, all: &[&'s Value], at: &At) -> Option<Yaml> {
        let only = |what: &str| !all.is_empty() && all.iter().all(|leaf| types(leaf).contains(&what));
        if only("object") {
            return self.map(node, &[], all, at);
        }
        if only("array") {
            return Some(Yaml::Sequence(Vec::new()));
        }
        let text = match &node.kind {
            Kind::Scalar(Scalar { typed: Some(typed), .. }) => {
                format!("{} is empty", hint::list([cut(typed).as_str()]))
            }
            _ => format!("{} has no value", at.called()),
        };
        let help = format!("write {}, or remove the key", hint::wanted(all));
        self.report(Problem::error(Some(at.place), text).help(help));
        None
    }

    fn scalar(&mut self, node: &Node, scalar: &Scalar, all: &[&'s Value], at: &At) -> Option<Yaml> {
        let fitting: Vec<&Value> =
            all.iter().copied().filter(|leaf| types(leaf).iter().all(|t| !matches!(*t, "object" | "array"))).collect();
        if fitting.is_empty() {
            self.unfitting(node, &format!("the text {}", value::show(scalar, at.secret)), all, at);
            return None;
        }
        let mut first = None;
        for leaf in &fitting {
            match value::judge(scalar, leaf, at.secret) {
                Ok(value) => return Some(value),
                Err(wrong) => {
                    // a rule says more than "not one of these words"
                    let word = leaf.get("enum").is_some() || leaf.get("const").is_some();
                    if !word && first.is_none() {
                        first = Some(wrong);
                    }
                }
            }
        }
        let words: Vec<String> = fitting.iter().flat_map(|leaf| hint::choices_of(leaf)).collect();
        let shown = value::show(scalar, at.secret);
        let others: Vec<&Value> =
            all.iter().copied().filter(|l| l.get("enum").is_none() && l.get("const").is_none()).collect();
        let besides = (!others.is_empty()).then(|| self.forms(&others));
        let near = hint::near(&scalar.text, words.iter().map(String::as_str)).is_some();
        let wrong = match first {
            Some(wrong) if words.is_empty() => wrong,
            Some(wrong) if !near => {
                let help = format!("write {} or {}", hint::list(words.iter().map(String::as_str)), self.forms(&others));
                Wrong { help: wrong.help.or(Some(help)), ..wrong }
            }
            _ => value::unknown_word(&scalar.text, &shown, &words, besides.as_deref()),
        };
        let wrong = Wrong { text: format!("{}: {}", at.called(), wrong.text), ..wrong };
        self.wrong(node.place, wrong);
        None
    }

    /// What else may stand there: "a mapping with `delimiter` or `length`".
    fn forms(&self, others: &[&Value]) -> String {
        let objects: Vec<&Value> = others.iter().copied().filter(|l| types(l).contains(&"object")).collect();
        let mut keys: Vec<&str> = Vec::new();
        for object in &objects {
            for key in required(object) {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        match (objects.len() == others.len(), keys.is_empty()) {
            (true, false) => format!("a mapping with {}", hint::list(keys)),
            _ => hint::wanted(others),
        }
    }

    fn unfitting(&mut self, node: &Node, given: &str, all: &[&Value], at: &At) {
        let what = at.called();
        let only = all.iter().all(|leaf| types(leaf).contains(&"object"));
        let mapping = all.iter().any(|leaf| types(leaf).contains(&"object"));
        let help = match &node.kind {
            Kind::List(_) if mapping && at.names() => "give each a name instead of the `-`: `name: { … }`".to_owned(),
            Kind::List(_) if only => "write `key: value` lines without `-`".to_owned(),
            Kind::Scalar(s) if mapping && !at.secret && s.text.contains(':') => {
                "write a space after the colon".to_owned()
            }
            _ if only => match all.iter().flat_map(|l| properties(l)).map(|(key, _)| key.as_str()).next() {
                Some(_) => {
                    format!("write its keys on lines below, indented; keys here: {}", hint::list(self.keys(all)))
                }
                None => "write `key: value` lines below it, indented".to_owned(),
            },
            _ => format!("write {}", hint::wanted(all).replace("a list", "a list: [a, b]")),
        };
        if all.iter().any(|leaf| leaf.get("x-one").is_some()) {
            let text = format!("a filter is one key and its value, not {given}");
            let help = format!("write `- name: value`; filters here: {}", hint::list(self.keys(all)));
            return self.report(Problem::error(Some(node.place), text).help(help));
        }
        let text = format!("{what} must be {}, not {given}", hint::wanted(all));
        self.report(Problem::error(Some(node.place), text).help(help));
    }

    fn keys<'a>(&self, all: &[&'a Value]) -> Vec<&'a str> {
        let mut keys: Vec<&str> = Vec::new();
        for (key, _) in all.iter().flat_map(|l| properties(l)) {
            if !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        keys
    }

    fn list(&mut self, node: &Node, items: &[Node], all: &[&'s Value], at: &At) -> Option<Yaml> {
        let free = |leaf: &Value| types(leaf).is_empty();
        let Some(leaf) = all.iter().copied().find(|leaf| types(leaf).contains(&"array") || free(leaf)) else {
            self.unfitting(node, "a list", all, at);
            return None;
        };
        let count = |key: &str| leaf.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let (least, most) = (count("minItems").unwrap_or(0), count("maxItems").unwrap_or(usize::MAX));
        if items.len() < least || items.len() > most {
            let rule = match (least, most) {
                (l, m) if l == m => format!("exactly {l} items"),
                (l, usize::MAX) => format!("at least {l} items"),
                (0, m) => format!("at most {m} items"),
                (l, m) => format!("{l} to {m} items"),
            };
            let s = if items.len() == 1 { "" } else { "s" };
            let text = format!("{} has {} item{s}", at.called(), items.len());
            self.report(Problem::error(Some(node.place), text).help(format!("write {rule}")));
            return None;
        }
        static ANY: Value = Value::Bool(true);
        let tuple = leaf.get("prefixItems").and_then(Value::as_array);
        let mut values = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let schema = tuple.and_then(|t| t.get(i)).or(leaf.get("items")).unwrap_or(&ANY);
            let number = i.to_string();
            // a message about an item speaks of the list
            let below = At { parent: Some(at), key: &number, typed: at.typed, place: item.place, secret: at.secret };
            match self.value(item, schema, &below) {
                Some(value) => values.push(value),
                None if tuple.is_some() || least > 0 => return None,
                None => {}
            }
        }
        Some(Yaml::Sequence(values))
    }

    fn map(&mut self, node: &Node, entries: &[Entry], all: &[&'s Value], at: &At) -> Option<Yaml> {
        let objects: Vec<&'s Value> = all
            .iter()
            .copied()
            .filter(|leaf| {
                let types = types(leaf);
                types.is_empty() || types.contains(&"object")
            })
            .collect();
        if objects.is_empty() {
            self.unfitting(node, "a mapping", all, at);
            return None;
        }
        if let ([only], false) = (objects.as_slice(), device(at)) {
            return self.object(entries, only, &objects, at);
        }
        let every = objects.clone();
        let objects = match tag(&objects) {
            Some(tag) => self.by_tag(entries, &objects, tag, at)?,
            None => objects,
        };
        // as many known keys and as few missing ones as may be
        let score = |leaf: &Value| {
            let known = entries.iter().filter(|e| property(leaf, &e.key).is_some()).count();
            let missing = required(leaf).filter(|key| !entries.iter().any(|e| e.key == *key)).count();
            // of two keys that exclude each other the first counts
            let which: Vec<bool> = entries.iter().map(|e| property(leaf, &e.key).is_some()).collect();
            (known, usize::MAX - missing, which)
        };
        let best = objects.iter().map(|leaf| score(leaf)).max()?;
        let tied: Vec<&'s Value> = objects.iter().copied().filter(|leaf| score(leaf) == best).collect();
        if best.0 == 0 && tied.len() > 1 && !entries.is_empty() && !objects.iter().any(|l| required(l).count() == 0) {
            return self.none_of(entries, &objects, at);
        }
        let mut least: Option<(Walked, Option<Yaml>)> = None;
        for leaf in tied {
            let outer = std::mem::take(&mut self.out);
            let value = self.object(entries, leaf, &every, at);
            let inner = std::mem::replace(&mut self.out, outer);
            let clean = inner.problems.is_empty();
            if least.as_ref().is_none_or(|(l, _)| inner.problems.len() < l.problems.len()) {
                least = Some((inner, value));
            }
            if clean {
                break;
            }
        }
        let (inner, value) = least?;
        inner.problems.into_iter().for_each(|p| self.report(p));
        self.out.dropped.extend(inner.dropped);
        value
    }

    /// A mapping whose keys fit no alternative.
    fn none_of(&mut self, entries: &[Entry], objects: &[&Value], at: &At) -> Option<Yaml> {
        let keys = self.keys(objects);
        for entry in entries {
            let help = match hint::near(&entry.key, keys.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("keys here: {}", hint::list(keys.iter().copied())),
            };
            let text = format!("unknown key {} in {}", show_key(&entry.typed), at.name());
            self.report(Problem::error(Some(entry.place), text).help(help));
        }
        None
    }

    /// The alternatives that the tag (`kind:`, `type:`) leaves.
    fn by_tag(&mut self, entries: &[Entry], objects: &[&'s Value], tag: &str, at: &At) -> Option<Vec<&'s Value>> {
        let mut words: Vec<String> = Vec::new();
        for word in objects.iter().filter_map(|l| tag_word(l, tag)) {
            if !words.iter().any(|w| w == word) {
                words.push(word.to_owned());
            }
        }
        let all = || hint::list(words.iter().map(String::as_str));
        let Some(entry) = entries.iter().find(|e| e.key == tag) else {
            let others: Vec<&str> = entries.iter().map(|e| e.key.as_str()).collect();
            let text = format!("`{tag}` is missing in {}", at.name());
            let mut problem = Problem::error(Some(at.place), text).help(format!("write one of {}", all()));
            if let Some(near) = hint::near(tag, others).and_then(|k| entries.iter().find(|e| e.key == k)) {
                let text = format!("unknown key {} in {}", show_key(&near.typed), at.name());
                problem = Problem::error(Some(near.place), text).help(format!("did you mean `{tag}`?"));
            }
            self.report(problem);
            return None;
        };
        let Kind::Scalar(scalar) = &entry.value.kind else {
            if !matches!(entry.value.kind, Kind::Bad) {
                let text = format!("`{tag}` must be one of {}", all());
                self.report(Problem::error(Some(entry.value.place), text));
            }
            return None;
        };
        let fitting: Vec<&'s Value> =
            objects.iter().copied().filter(|l| tag_word(l, tag) == Some(scalar.text.as_str())).collect();
        if !fitting.is_empty() {
            return Some(fitting);
        }
        let shown = value::show(scalar, at.secret);
        let place = if scalar.is_null() { entry.place } else { entry.value.place };
        let wrong = if scalar.is_null() {
            Wrong { text: format!("`{tag}` has no value"), help: Some(format!("write one of {}", all())) }
        } else if device(at) && hint::later(Level::Kind, &scalar.text) {
            Wrong { text: hint::not_yet(&format!("kind: {}", scalar.text)), help: Some(format!("kinds: {}", all())) }
        } else if device(at) {
            let help = match hint::near(&scalar.text, words.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("kinds: {}", all()),
            };
            let text = match shown.starts_with('`') {
                true => format!("unknown kind {shown} of {}", at.name()),
                false => format!("{shown} is no kind of device"),
            };
            Wrong { text, help: Some(help) }
        } else {
            let wrong = value::unknown_word(&scalar.text, &shown, &words, None);
            Wrong { text: format!("`{tag}`: {}", wrong.text), ..wrong }
        };
        self.wrong(place, wrong);
        None
    }

    fn object(&mut self, entries: &[Entry], leaf: &'s Value, others: &[&'s Value], at: &At) -> Option<Yaml> {
        static ANY: Value = Value::Bool(true);
        let closed = leaf.get("properties").is_some();
        let rest = match leaf.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            Some(schema) => Some(schema),
            None if closed => None,
            None => Some(&ANY),
        };
        let named = at.names() || leaf.get("x-names").is_some();
        let mut whole = true;
        let mut map = Mapping::new();
        let mut known = 0usize;
        for entry in entries {
            let schema = match (property(leaf, &entry.key), rest) {
                (Some(schema), _) => schema,
                (None, Some(schema)) => schema,
                (None, None) => {
                    self.unknown(entry, leaf, others, at);
                    continue;
                }
            };
            known += 1;
            let right = !named || self.name(entry, at);
            let value = self.value(&entry.value, schema, &at.down(entry, named));
            match value {
                Some(value) if right => {
                    map.insert(Yaml::String(entry.key.clone()), value);
                }
                _ => whole &= !required(leaf).any(|key| key == entry.key),
            }
        }
        let missing: Vec<&str> = required(leaf).filter(|key| !entries.iter().any(|e| e.key == *key)).collect();
        for key in &missing {
            // a misspelt key has been reported already
            let misspelt =
                entries.iter().any(|e| property(leaf, &e.key).is_none() && hint::near(&e.key, [*key]).is_some());
            whole = false;
            if misspelt {
                continue;
            }
            let schema = property(leaf, key).map(|s| resolve(self.schema, s));
            let example = schema.and_then(|s| s.get("examples")).and_then(|e| e.get(0)).map(|e| match e {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            });
            let wanted = property(leaf, key).map(|s| hint::wanted(&leaves(self.schema, s))).unwrap_or_default();
            let help = match example {
                Some(example) => format!("add `{key}: {example}`"),
                None => format!("add `{key}:` with {wanted}"),
            };
            self.report(Problem::error(Some(at.place), format!("`{key}` is missing in {}", at.name())).help(help));
        }
        let least = leaf.get("minProperties").and_then(Value::as_u64).unwrap_or(0) as usize;
        let most = leaf.get("maxProperties").and_then(Value::as_u64).map_or(usize::MAX, |n| n as usize);
        if known > most || entries.len() < least {
            let text = match leaf.get("x-one").is_some() {
                true => "a filter is one key and its value".to_owned(),
                false => format!("{} has {} keys", at.name(), entries.len()),
            };
            let help = match leaf.get("x-one").is_some() {
                true => "write each filter as its own item: `- offset: 1`".to_owned(),
                false => format!("write at least {least}, at most {most}"),
            };
            self.report(Problem::error(Some(at.place), text).help(help));
            return None;
        }
        (whole && map.len() >= least).then_some(Yaml::Mapping(map))
    }

    /// Whether the name that a user gave may be one.
    fn name(&mut self, entry: &Entry, at: &At) -> bool {
        let shown = show_key(&entry.key);
        if !is_name(&entry.key) {
            let wrong = match entry.key.contains(':') {
                true => {
                    Wrong { text: format!("{shown} is not a name"), help: Some("write a space after the colon".into()) }
                }
                false => value::not_a_name(&entry.key, &shown),
            };
            self.wrong(entry.place, wrong);
            return false;
        }
        if matches!(at.path().as_slice(), ["devices"] | ["computed"]) && matches!(entry.key.as_str(), "bridge" | "sim")
        {
            let text = format!("a device cannot be called {shown}: those topics are pinpost's own");
            self.report(Problem::error(Some(entry.place), text).help("choose another name"));
            return false;
        }
        true
    }

    fn unknown(&mut self, entry: &Entry, leaf: &'s Value, others: &[&'s Value], at: &At) {
        self.out.dropped.push(at.down(entry, false).path().into_iter().map(str::to_owned).collect());
        if self.out.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let typed = entry.typed.as_str();
        let filter = leaf.get("x-one").is_some();
        let what = if filter { "filter" } else { "key" };
        let level = if filter { Some(Level::Filter) } else { at.level() };
        let problem = |text: String, help: String| Problem::error(Some(entry.place), text).help(help);
        let here = || hint::list(self.keys(&[leaf]));
        let elsewhere = device(at) && others.iter().any(|other| property(other, typed).is_some());
        if !elsewhere && level.is_some_and(|level| hint::later(level, typed)) {
            self.report(problem(hint::not_yet(typed), "remove it".to_owned()));
            return;
        }
        let kind = tag_word(leaf, "kind").filter(|_| device(at));
        let place = match (kind, filter) {
            (Some(kind), _) => format!("{} ({kind})", at.name()),
            (_, true) => "`filters`".to_owned(),
            _ => at.name(),
        };
        let text = match at.path().is_empty() {
            true => format!("unknown {what} {}", show_key(typed)),
            false => format!("unknown {what} {} in {place}", show_key(typed)),
        };
        let glued = typed.split_once(':').map(|(key, _)| key.trim()).filter(|key| !key.is_empty());
        let help = if let Some(key) = glued {
            format!("write a space after the colon: `{}: …`", cut(key))
        } else if let Some(near) = hint::near(typed, self.keys(&[leaf])) {
            format!("did you mean `{near}`?")
        } else if let Some(other) = others.iter().find(|o| property(o, typed).is_some()) {
            let mine = required(leaf).find(|k| *k != "kind" && property(other, k).is_none());
            match (tag_word(other, "kind").or(tag_word(other, "type")), mine) {
                (Some(word), _) => format!("it belongs to `{word}`; keys here: {}", here()),
                (None, Some(mine)) => format!("it does not go together with `{mine}`; keep one of the two"),
                _ => format!("keys here: {}", here()),
            }
        } else if let Some(section) = self.elsewhere(typed, at) {
            format!("{section}; keys here: {}", here())
        } else {
            match self.keys(&[leaf]).is_empty() {
                true => "nothing can stand here".to_owned(),
                false => format!("{what}s here: {}", here()),
            }
        };
        self.report(problem(text, help));
    }

    /// The section to which a key belongs that stands in the wrong one.
    fn elsewhere(&self, key: &str, at: &At) -> Option<String> {
        if property(self.schema, key).is_some() {
            return Some(format!("`{key}` belongs to the top level of the file"));
        }
        let path = at.path();
        for (section, schema) in properties(self.schema) {
            let inside = leaves(self.schema, schema).iter().any(|leaf| property(leaf, key).is_some());
            if inside && path != [section.as_str()] {
                return Some(format!("`{key}` belongs under `{section}:`"));
            }
            let named = leaves(self.schema, schema)
                .into_iter()
                .filter(|leaf| leaf.get("x-names").is_some())
                .filter_map(|leaf| leaf.get("additionalProperties"))
                .any(|entry| leaves(self.schema, entry).iter().any(|leaf| property(leaf, key).is_some()));
            if named && path.first() != Some(&section.as_str()) {
                return Some(format!("`{key}` belongs to one of `{section}:`"));
            }
        }
        None
    }
}

/// Whether this is a device, whose alternatives are the kinds.
fn device(at: &At) -> bool {
    matches!(at.path().as_slice(), ["devices", _])
}

fn properties(leaf: &Value) -> impl Iterator<Item = (&String, &Value)> {
    leaf.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn property<'a>(leaf: &'a Value, key: &str) -> Option<&'a Value> {
    leaf.get("properties").and_then(|p| p.get(key))
}

fn required(leaf: &Value) -> impl Iterator<Item = &str> {
    leaf.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The one word that `tag` has in this leaf.
fn tag_word<'a>(leaf: &'a Value, tag: &str) -> Option<&'a str> {
    property(leaf, tag).and_then(|p| p.get("const")).and_then(Value::as_str)
}

/// The key by whose word the alternatives are told apart, if there is one.
fn tag<'a>(objects: &[&'a Value]) -> Option<&'a str> {
    let first = objects.first()?;
    required(first).find(|key| objects.iter().all(|leaf| tag_word(leaf, key).is_some()))
}
