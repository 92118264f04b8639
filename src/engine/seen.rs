//! Ids of commands, so that one that is delivered twice is executed once: the last 1024, and of those that must not be
//! executed again after a restart either (a toggle, a pulse) as many in the durable memory.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value as Json, json};

use crate::model::{Outcome, OutcomeKind, Value};
use crate::wire::{command::from_json, payload::to_json};

use super::Effect;

/// How many ids are remembered.
const REMEMBERED: usize = 1024;

struct Entry {
    key: String,
    /// `None` while it is being carried out.
    outcome: Option<Outcome>,
    /// Its number among those that last.
    lasts: Option<u64>,
}

/// The ids.
#[derive(Default)]
pub(super) struct Seen {
    list: VecDeque<Entry>,
    next: u64,
}

impl Seen {
    /// Those that an earlier run has left.
    pub(super) fn recall(memory: &BTreeMap<String, Json>) -> Seen {
        let kept = memory.iter().filter(|(key, _)| key.starts_with("id/"));
        let mut list: Vec<_> = kept.filter_map(|(_, json)| entry(json)).collect();
        list.sort_by_key(|e| e.lasts);
        let next = list.last().and_then(|e| e.lasts).map_or(0, |n| n.wrapping_add(1));
        Seen { list: list.into(), next }
    }

    /// What became of a command; `Some(None)`: it is being carried out.
    pub(super) fn get(&self, key: &str) -> Option<&Option<Outcome>> {
        self.list.iter().find(|e| e.key == key).map(|e| &e.outcome)
    }

    /// Remembers it; gives what is to be written, where it `lasts`.
    pub(super) fn remember(&mut self, key: &str, outcome: Option<Outcome>, lasts: bool) -> Option<Effect> {
        let at = self.list.iter().position(|e| e.key == key);
        let at = at.unwrap_or_else(|| {
            if self.list.len() >= REMEMBERED {
                self.list.pop_front();
            }
            self.list.push_back(Entry { key: key.to_owned(), outcome: None, lasts: None });
            self.list.len() - 1
        });
        let entry = self.list.get_mut(at)?;
        entry.outcome = outcome;
        if lasts && entry.lasts.is_none() {
            entry.lasts = Some(self.next);
            self.next = self.next.wrapping_add(1);
        }
        let n = entry.lasts?;
        let became = entry.outcome.as_ref().map(|o| {
            let value = o.value.as_ref().map(|v| to_json(v, "ON", "OFF"));
            json!({ "outcome": o.kind.as_str(), "value": value, "reason": o.reason })
        });
        let value = json!({ "n": n, "key": entry.key, "became": became });
        Some(Effect::Remember { key: format!("id/{}", n % REMEMBERED as u64), value: Some(value), urgent: true })
    }
}

fn entry(json: &Json) -> Option<Entry> {
    let became = &json["became"];
    let outcome = match became["outcome"].as_str() {
        Some(word) => Outcome {
            kind: OutcomeKind::ALL.into_iter().find(|k| k.as_str() == word)?,
            value: Some(&became["value"]).filter(|v| !v.is_null()).map(|v| match from_json(v) {
                Value::Text(t) if t == "ON" || t == "OFF" => Value::Bool(t == "ON"),
                other => other,
            }),
            reason: became["reason"].as_str().map(str::to_owned),
        },
        None => Outcome::because(OutcomeKind::Failed, "the gateway ended while it was being carried out"),
    };
    Some(Entry { key: json["key"].as_str()?.to_owned(), outcome: Some(outcome), lasts: Some(json["n"].as_u64()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(memory: &mut BTreeMap<String, Json>, effect: Option<Effect>) -> bool {
        let Some(Effect::Remember { key, value: Some(value), urgent: true }) = effect else { return false };
        memory.insert(key, value);
        true
    }

    #[test]
    fn what_lasts_is_known_to_the_next_run_and_no_more_than_the_last_thousand() {
        let (mut seen, mut memory) = (Seen::default(), BTreeMap::new());
        let done = Some(Outcome::done(Some(Value::Bool(true))));
        for i in 0..2000 {
            let key = format!("pump//toggle/{i}");
            assert!(kept(&mut memory, seen.remember(&key, None, true)));
            assert!(i % 2 == 1 || kept(&mut memory, seen.remember(&key, done.clone(), false)));
        }
        assert!(!kept(&mut memory, seen.remember("pump//set/x", done.clone(), false)));
        assert_eq!(memory.len(), REMEMBERED);
        let mut next = Seen::recall(&memory);
        assert_eq!(next.get("pump//toggle/975"), None);
        assert_eq!(next.get("pump//toggle/1998"), Some(&done));
        let cut = next.get("pump//toggle/1999").unwrap().as_ref().unwrap();
        assert_eq!(cut.kind, OutcomeKind::Failed);
        assert_eq!(next.get("pump//set/x"), None);
        next.remember("new", None, true);
        assert!(next.list.len() <= REMEMBERED && next.get("pump//toggle/976").is_none());
    }
}
