//! `json`: one object or array a frame; fields by dotted path, array elements by number (`sensors.0.temp`, also
//! `sensors[0].temp`). A key that itself holds dots is found too.
//!
//! null is no reading. What is not text before the first brace (noise of a starting line) is passed over; anything else
//! around the value makes the frame bad, because it may be two halves of two.

use serde_json::Value as Json;

use super::{DecodeKeys, Found, Kind, Want, trim_noise};
use crate::codec::{Frame, KeyError, Reason};
use crate::model::Value;

struct ByPath {
    paths: Vec<String>,
    root: Json,
}

pub(super) fn build(_: &DecodeKeys, wants: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    // a[0].b and a.0.b are the same path
    let paths = wants.iter().map(|want| want.field.replace('[', ".").replace(']', "")).collect();
    Ok(Box::new(ByPath { paths, root: Json::Null }))
}

fn walk<'a>(node: &'a Json, path: &str) -> Option<&'a Json> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() {
        return Some(node);
    }
    if let Json::Object(map) = node
        && let Some(value) = map.get(path)
    {
        return Some(value);
    }
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    match node {
        Json::Object(map) => walk(map.get(head)?, rest),
        Json::Array(list) => walk(list.get(head.parse::<usize>().ok()?)?, rest),
        _ => None,
    }
}

fn found(node: &Json) -> Option<Found<'_>> {
    match node {
        Json::Null => None,
        Json::Bool(b) => Some(Found::Bool(*b)),
        Json::Number(n) => Some(match n.as_f64().filter(|n| n.is_finite()) {
            Some(n) => Found::Number(n),
            None => Found::Wrong(n.to_string()),
        }),
        Json::String(text) => Some(Found::Text(text.as_bytes())),
        Json::Array(_) | Json::Object(_) => Some(Found::Owned(node.to_string())),
    }
}

fn leaves(node: &Json, path: &mut String, visit: &mut dyn FnMut(&str, Value)) {
    let mut inside = |name: &str, child: &Json| {
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        path.push_str(name);
        leaves(child, path, visit);
        path.truncate(length);
    };
    match node {
        Json::Object(map) => map.iter().for_each(|(name, child)| inside(name, child)),
        Json::Array(list) => list.iter().enumerate().for_each(|(i, child)| inside(&i.to_string(), child)),
        leaf => {
            if let Some(found) = found(leaf) {
                visit(path, super::coerce(found, None).0);
            }
        }
    }
}

impl Kind for ByPath {
    fn parse(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let text = trim_noise(frame.json());
        // a broken byte inside a string is no reason to lose the numbers beside it
        let root = match std::str::from_utf8(text) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_str(&String::from_utf8_lossy(text)),
        };
        self.root = Json::Null;
        match root {
            Ok(root @ (Json::Object(_) | Json::Array(_))) => {
                self.root = root;
                Ok(())
            }
            _ => Err(Reason::Syntax),
        }
    }

    fn get<'a>(&'a self, _: &Frame<'a>, slot: usize) -> Option<Found<'a>> {
        found(walk(&self.root, self.paths.get(slot)?)?)
    }

    fn each(&self, _: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        leaves(&self.root, &mut String::new(), visit);
    }
}
