//! Where everything stands, by its path of keys.

use std::collections::HashSet;

use super::hint;
use super::tree::{Kind, Node};
use crate::model::Place;

/// Places of all keys and values of a file. Keys are asked for by their real name, also where an alias was typed;
/// an item of a list by its number from 0.
#[derive(Debug, Default)]
pub struct Places {
    root: Option<Node>,
    dropped: HashSet<Vec<String>>,
}

impl Places {
    pub(super) fn new(root: Node, dropped: Vec<Vec<String>>) -> Places {
        Places { root: Some(root), dropped: dropped.into_iter().collect() }
    }

    pub(super) fn drop(&mut self, path: Vec<String>) {
        self.dropped.insert(path);
    }

    /// Where the value at `path` stands, or else its nearest ancestor's key. A mapping or list is shown by its key:
    /// its first line says nothing of the whole.
    pub fn value(&self, path: &[&str]) -> Option<Place> {
        self.find(path, true)
    }

    /// Where the key at `path` stands, or else its nearest ancestor's.
    pub fn key(&self, path: &[&str]) -> Option<Place> {
        self.find(path, false)
    }

    /// Whether something was written at `path`, right or wrong.
    pub fn has(&self, path: &[&str]) -> bool {
        let mut node = self.root.as_ref();
        for step in path {
            node = match node.map(|n| &n.kind) {
                Some(Kind::Map(entries)) => entries.iter().find(|e| e.key == *step).map(|e| &e.value),
                Some(Kind::List(items)) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => None,
            };
        }
        node.is_some()
    }

    /// Whether something was written at `path`, above or below it and left out, because it is wrong. A problem that only
    /// follows from its absence need not be told.
    pub fn dropped(&self, path: &[&str]) -> bool {
        self.dropped.iter().any(|d| d.iter().zip(path).all(|(a, b)| a == b))
    }

    /// The keys written in the mapping at `path`, right or wrong.
    pub fn keys(&self, path: &[&str]) -> Vec<&str> {
        let mut node = self.root.as_ref();
        for step in path {
            node = match node.map(|n| &n.kind) {
                Some(Kind::Map(entries)) => entries.iter().find(|e| e.key == *step).map(|e| &e.value),
                _ => None,
            };
        }
        match node.map(|n| &n.kind) {
            Some(Kind::Map(entries)) => entries.iter().map(|e| e.key.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether `key` of the mapping at `section` was written wrongly: left out itself, or under a name that lies near.
    pub fn misspelt(&self, section: &[&str], key: &str) -> bool {
        self.dropped.iter().any(|path| match path.split_last() {
            Some((last, above)) => above == section && (last == key || hint::near(last, [key]).is_some()),
            None => false,
        })
    }

    fn find(&self, path: &[&str], value: bool) -> Option<Place> {
        let mut node = self.root.as_ref()?;
        let mut place = node.place;
        for (i, step) in path.iter().enumerate() {
            let last = i + 1 == path.len();
            match &node.kind {
                Kind::Map(entries) => {
                    let Some(entry) = entries.iter().find(|e| e.key == *step) else { break };
                    node = &entry.value;
                    let shown = matches!(&node.kind, Kind::Scalar(s) if !s.is_null());
                    place = if last && value && shown { node.place } else { entry.place };
                }
                Kind::List(items) => {
                    let Some(item) = step.parse::<usize>().ok().and_then(|i| items.get(i)) else { break };
                    node = item;
                    place = item.place;
                }
                _ => break,
            }
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;

    #[test]
    fn places_fall_back_to_the_nearest_ancestor() {
        let root = tree::parse("a:\n  b: [x, y]\n  c:\n").root.unwrap();
        let places = Places::new(root, vec![vec!["a".into(), "b".into(), "1".into()]]);
        let at = |line, col| Some(Place { line, col, len: 1 });
        assert_eq!(places.value(&["a", "b", "1"]), at(2, 10));
        assert_eq!(places.value(&["a", "b"]), at(2, 3), "a list is shown by its key");
        assert_eq!(places.keys(&["a"]), ["b", "c"]);
        assert!(places.misspelt(&["a", "b"], "1") && !places.misspelt(&["a"], "1"));
        assert_eq!(places.key(&["a", "b"]), at(2, 3));
        assert_eq!(places.value(&["a", "c"]), at(3, 3));
        assert_eq!(places.value(&["a", "nope", "x"]), at(1, 1));
        assert!(places.has(&["a", "b", "0"]) && !places.has(&["a", "x"]));
        assert!(places.dropped(&["a", "b"]) && places.dropped(&["a", "b", "1", "x"]));
        assert!(!places.dropped(&["a", "c"]) && !places.dropped(&["a", "b", "0"]));
        assert_eq!(Places::default().key(&["a"]), None);
    }
}
