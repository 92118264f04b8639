//! The schema of the whole file, assembled from the types in [`super::raw`] and the open lists of a [`Vocabulary`].
//!
//! Two forms of the same thing: [`plain`] for [`super::walk`], brought to few and simple shapes, and [`for_editors`],
//! JSON Schema draft 2020-12, which accepts every file that `check` accepts.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::raw::{Batch, Raw};
use super::{Vocabulary, Word, alias};

/// Alternatives that one object may have; more are not told apart.
const MAX_BRANCHES: usize = 64;

/// The schema that the walker follows.
///
/// Every schema in it is one of: `{$ref}`, `{oneOf: […]}`, or a leaf with its types; objects with known keys are
/// closed; `x-kinds`, `x-one` and `x-names` mark devices, one-word mappings and maps whose keys are names.
pub fn plain(words: &Vocabulary) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let kinds: Vec<(Word, Value)> = words.kinds.iter().map(|w| (*w, (w.schema)(&mut generator).to_value())).collect();
    let filters: Vec<(Word, Value)> =
        words.filters.iter().map(|w| (*w, (w.schema)(&mut generator).to_value())).collect();
    let batch = generator.subschema_for::<Batch>().to_value();
    let mut root = generator.into_root_schema_for::<Raw>().to_value();
    let mut defs = take_map(&mut root, "$defs");

    let mut branches = Vec::new();
    for (word, schema) in kinds {
        let name = format!("kind_{}", word.name);
        let tag = json!({
            "type": "object",
            "description": word.summary,
            "properties": { "kind": { "type": "string", "const": word.name, "description": word.summary } },
            "required": ["kind"],
        });
        let any = json!({ "properties": { "batch": batch } });
        defs.insert(name.clone(), merge(merge(tag, follow(schema, &defs)), any));
        branches.push(json!({ "$ref": format!("#/$defs/{name}") }));
    }
    if branches.is_empty() {
        branches.push(json!({ "type": "object" }));
    }
    let device =
        json!({ "description": "A device: its kind and that kind's keys.", "x-kinds": true, "oneOf": branches });
    let one: Map<String, Value> = filters
        .into_iter()
        .map(|(word, mut schema)| {
            if let Some(map) = schema.as_object_mut() {
                map.insert("description".into(), word.summary.into());
            }
            (word.name.to_owned(), schema)
        })
        .collect();
    let filter = json!({
        "type": "object", "description": "One filter.", "x-one": true, "properties": one,
        "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
    });
    defs.insert("Device".into(), device);
    defs.insert("Filter".into(), filter);

    let mut plain = simplify(root, &defs);
    let simple: Map<String, Value> = defs.iter().map(|(k, v)| (k.clone(), simplify(v.clone(), &defs))).collect();
    if let Some(map) = plain.as_object_mut() {
        map.shift_remove("$schema");
        map.insert("title".into(), "pinpost configuration".into());
        map.insert("$defs".into(), Value::Object(used(map, &simple)));
    }
    plain
}

/// The schema that the walker follows of another shape than the gateway's own file.
pub fn plain_of<T: JsonSchema>() -> Value {
    let mut root = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    let defs = take_map(&mut root, "$defs");
    let mut plain = simplify(root, &defs);
    let simple: Map<String, Value> = defs.iter().map(|(k, v)| (k.clone(), simplify(v.clone(), &defs))).collect();
    if let Some(map) = plain.as_object_mut() {
        map.insert("$defs".into(), Value::Object(used(map, &simple)));
    }
    plain
}

/// JSON Schema draft 2020-12 for editors. It accepts the aliases and `${NAME}` too.
pub fn for_editors(words: &Vocabulary) -> Value {
    let mut schema = plain(words);
    open_up(&mut schema);
    let mut first = Map::new();
    first.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    if let Value::Object(map) = schema {
        first.extend(map);
    }
    Value::Object(first)
}

/// Follows `$ref`, a few times at most.
pub fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    for _ in 0..16 {
        let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/")) else {
            break;
        };
        match root.get("$defs").and_then(|d| d.get(name)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// The leaves among which a value may choose.
pub fn leaves<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let mut found = Vec::new();
    let mut open = vec![schema];
    while let Some(schema) = open.pop() {
        let schema = resolve(root, schema);
        match schema.get("oneOf").and_then(Value::as_array) {
            Some(branches) => open.extend(branches.iter().rev()),
            None if found.len() < 4 * MAX_BRANCHES => found.push(schema),
            None => break,
        }
    }
    found
}

/// The type words of a leaf; an empty list accepts anything.
pub fn types(leaf: &Value) -> Vec<&str> {
    match leaf.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ if leaf.get("properties").is_some() => vec!["object"],
        _ if leaf.get("const").is_some() || leaf.get("enum").is_some() => vec!["string", "number", "boolean"],
        _ => Vec::new(),
    }
}

fn take_map(value: &mut Value, key: &str) -> Map<String, Value> {
    match value.as_object_mut().and_then(|m| m.shift_remove(key)) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The definition behind a `$ref`, with what stands beside the `$ref`.
fn follow(schema: Value, defs: &Map<String, Value>) -> Value {
    let Value::Object(mut map) = schema else { return schema };
    for _ in 0..16 {
        let Some(name) = map.get("$ref").and_then(Value::as_str) else { break };
        let target = name.strip_prefix("#/$defs/").and_then(|n| defs.get(n)).cloned().unwrap_or(json!({}));
        map.shift_remove("$ref");
        match merge(Value::Object(map), target) {
            Value::Object(merged) => map = merged,
            other => return other,
        }
    }
    Value::Object(map)
}

/// Both at once; what only one may say (`description`), `a` says.
fn merge(a: Value, b: Value) -> Value {
    let (Value::Object(mut a), Value::Object(b)) = (a, b) else { return Value::Bool(true) };
    for (key, theirs) in b {
        match (key.as_str(), a.get_mut(&key)) {
            (_, None) => {
                a.insert(key, theirs);
            }
            ("properties", Some(Value::Object(ours))) => {
                if let Value::Object(theirs) = theirs {
                    for (k, v) in theirs {
                        ours.entry(k).or_insert(v);
                    }
                }
            }
            ("required" | "allOf", Some(Value::Array(ours))) => {
                if let Value::Array(theirs) = theirs {
                    ours.extend(theirs);
                }
            }
            ("oneOf" | "anyOf", Some(_)) => {
                let more = json!({ key: theirs });
                match a.get_mut("allOf") {
                    Some(Value::Array(all)) => all.push(more),
                    _ => {
                        a.insert("allOf".into(), json!([more]));
                    }
                }
            }
            _ => {}
        }
    }
    Value::Object(a)
}

/// Brings a schema to the shapes that [`plain`] promises.
fn simplify(schema: Value, defs: &Map<String, Value>) -> Value {
    let Value::Object(mut map) = schema else { return schema };
    match map.get("x-words").and_then(Value::as_str) {
        Some("filters") => return json!({ "$ref": "#/$defs/Filter" }),
        Some("kinds") => return json!({ "$ref": "#/$defs/Device" }),
        _ => {}
    }
    let composed = ["properties", "required", "oneOf", "anyOf", "allOf"].iter().any(|k| map.contains_key(*k));
    if map.contains_key("$ref") && composed {
        match follow(Value::Object(map), defs) {
            Value::Object(merged) => map = merged,
            other => return other,
        }
    }
    if let Some(Value::Array(all)) = map.shift_remove("allOf") {
        let merged = all.into_iter().fold(Value::Object(map), |sum, part| merge(sum, follow(part, defs)));
        return simplify(merged, defs);
    }
    for word in ["oneOf", "anyOf"] {
        let Some(Value::Array(branches)) = map.shift_remove(word) else { continue };
        let object = map.contains_key("properties") || map.contains_key("oneOf") || map.contains_key("anyOf");
        let mut simple: Vec<Value> = Vec::new();
        for branch in branches {
            if branch.get("type").and_then(Value::as_str) == Some("null") {
                continue;
            }
            let branch = match object {
                true => simplify(merge(follow(branch, defs), Value::Object(map.clone())), defs),
                false => simplify(branch, defs),
            };
            match branch.get("oneOf").and_then(Value::as_array) {
                // a flattened list in a list
                Some(inner) if branch.get("x-kinds").is_none() => simple.extend(inner.iter().cloned()),
                _ => simple.push(branch),
            }
        }
        simple.truncate(MAX_BRANCHES);
        let mut rest: Map<String, Value> =
            map.into_iter().filter(|(k, _)| k == "description" || k.starts_with("x-")).collect();
        if simple.len() == 1
            && let Some(Value::Object(only)) = simple.pop()
        {
            for (key, value) in only {
                rest.entry(key).or_insert(value);
            }
            return Value::Object(rest);
        }
        rest.insert("oneOf".into(), Value::Array(simple));
        return Value::Object(rest);
    }
    map.shift_remove("unevaluatedProperties");
    map.shift_remove("default");
    for key in ["type", "enum"] {
        let Some(Value::Array(list)) = map.get_mut(key) else { continue };
        list.retain(|t| !t.is_null() && t.as_str() != Some("null"));
        if key == "type" && list.len() == 1 {
            let only = list.pop();
            map.insert(key.into(), only.unwrap_or_default());
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for value in properties.values_mut() {
            *value = simplify(value.take(), defs);
        }
        if !map.contains_key("additionalProperties") {
            map.insert("additionalProperties".into(), false.into());
        }
    }
    for key in ["additionalProperties", "items"] {
        if let Some(value) = map.get_mut(key) {
            *value = simplify(value.take(), defs);
        }
    }
    if let Some(Value::Array(list)) = map.get_mut("prefixItems") {
        for value in list {
            *value = simplify(value.take(), defs);
        }
    }
    if let Some(Value::Array(required)) = map.get_mut("required") {
        let mut seen: Vec<Value> = Vec::new();
        for word in required.drain(..) {
            if !seen.contains(&word) {
                seen.push(word);
            }
        }
        *required = seen;
    }
    Value::Object(map)
}

/// The definitions that are reached from `root`.
fn used(root: &Map<String, Value>, defs: &Map<String, Value>) -> Map<String, Value> {
    fn refs<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
                        Some(name) if key == "$ref" => found.push(name),
                        _ => refs(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| refs(v, found)),
            _ => {}
        }
    }
    let mut open = Vec::new();
    root.values().for_each(|v| refs(v, &mut open));
    let mut reached = Map::new();
    while let Some(name) = open.pop() {
        if let Some(def) = defs.get(name)
            && !reached.contains_key(name)
        {
            reached.insert(name.to_owned(), def.clone());
            refs(def, &mut open);
        }
    }
    reached.sort_keys();
    reached
}

/// From the walker's form to the editors': no words of our own, and all that the tool accepts besides.
fn open_up(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let branches: Vec<Value> = match (map.shift_remove("x-kinds"), map.get("oneOf")) {
        (Some(_), Some(Value::Array(list))) => list.clone(),
        _ => Vec::new(),
    };
    if map.contains_key("properties") {
        alias::add_to_schema(map);
    }
    map.shift_remove("x-one");
    if let Some(names) = map.shift_remove("x-names") {
        let mut rule = json!({ "pattern": "^[a-z0-9_-]{1,64}$" });
        if names == "device" {
            rule["not"] = json!({ "enum": ["bridge", "sim"] });
        }
        map.insert("propertyNames".into(), rule);
    }
    widen(map);
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs", Value::Object(inner)) => inner.values_mut().for_each(open_up),
            ("oneOf" | "prefixItems", Value::Array(inner)) => inner.iter_mut().for_each(open_up),
            ("additionalProperties" | "items", inner) => open_up(inner),
            _ => {}
        }
    }
    if !branches.is_empty() {
        // editors report an error of the chosen kind, instead of "matches none"
        map.shift_remove("oneOf");
        let name = |b: &Value| b["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/kind_")).map(str::to_owned);
        let names: Vec<String> = branches.iter().filter_map(name).collect();
        let rules: Vec<Value> = branches
            .iter()
            .filter_map(|b| {
                let when = json!({ "properties": { "kind": { "const": name(b)? } }, "required": ["kind"] });
                Some(json!({ "if": when, "then": b }))
            })
            .collect();
        map.insert("type".into(), "object".into());
        map.insert("properties".into(), json!({ "kind": { "enum": names } }));
        map.insert("required".into(), json!(["kind"]));
        map.insert("allOf".into(), rules.into());
    } else if let Some(list) = map.shift_remove("oneOf") {
        // a word may fit two branches, text and a duration say
        map.insert("anyOf".into(), list);
    }
}

/// Accepts what the tool accepts: any scalar as text, `${NAME}` as anything, nothing as an empty section.
fn widen(map: &mut Map<String, Value>) {
    const ENV: &str = r"^\$\{.+\}$";
    let format = map.get("format").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (types, pattern) = match format.as_str() {
        "duration" => (json!(["string"]), r"\$\{|^\s*([0-9.]+\s*[a-zµ]+\s*)+$"),
        "rate" => (json!(["string"]), r"\$\{|^\s*(unlimited|[0-9.]+\s*/s)\s*$"),
        "sync" => (json!(["string"]), r"\$\{|^\s*(always|([0-9.]+\s*[a-zµ]+\s*)+)$"),
        "template" => (json!(["string"]), r"\{\{|\{%|\$\{"),
        "size" => (json!(["string"]), r"\$\{|^\s*[0-9.]+\s*([kKMG]|[kKMG]?i?B)\s*$"),
        "on-off" => (
            json!(["boolean", "string"]),
            r"\$\{|^\s*([tT][rR][uU][eE]|[fF][aA][lL][sS][eE]|[yY][eE][sS]|[oO][nN]|[nN][oO]|[oO][fF][fF])\s*$",
        ),
        "pin" => (json!(["integer", "string"]), r"\$\{|^\s*(GPIO|gpio|header:\s*)?[0-9]{1,2}\s*$"),
        _ => (Value::Null, ""),
    };
    if !types.is_null() {
        map.shift_remove("format");
        map.insert("type".into(), types);
        map.insert("pattern".into(), pattern.into());
        return;
    }
    let plain = !map.contains_key("enum") && !map.contains_key("const");
    let wider = match map.get("type").and_then(Value::as_str) {
        Some("string") if plain => json!(["string", "number", "boolean"]),
        Some(number @ ("integer" | "number" | "boolean")) if plain => {
            let number = number.to_owned();
            map.insert("pattern".into(), ENV.into());
            json!([number, "string"])
        }
        Some("array") => json!(["array", "null"]),
        Some("object") if !map.contains_key("required") && !map.contains_key("minProperties") => {
            json!(["object", "null"])
        }
        _ => return,
    };
    map.insert("type".into(), wider);
}
