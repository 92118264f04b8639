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

    /// Where byte `offset` of the text at `path` stands, with the word that begins there; where it cannot be told (a
    /// text over several lines, one with escapes or from the environment): where the text stands.
    pub fn inside(&self, path: &[&str], offset: usize) -> Option<Place> {
        let whole = self.value(path)?;
        let Some((node, Kind::Scalar(scalar))) = self.node(path).map(|n| (n, &n.kind)) else { return Some(whole) };
        let Some((before, after)) = scalar.text.split_at_checked(offset) else { return Some(whole) };
        let width = node.end.1.saturating_sub(node.place.col);
        let quotes = width.saturating_sub(scalar.text.chars().count());
        // the end may lie behind a blank; an escape would make more difference than that
        let as_it_is = !scalar.text.contains(|c: char| matches!(c, '"' | '\'' | '\\') || c.is_control());
        let told = match scalar.plain {
            true => quotes == 0,
            false => quotes == 2 || (as_it_is && (2..=4).contains(&quotes)),
        };
        if !told || node.end.0 != node.place.line || scalar.typed.is_some() {
            return Some(whole);
        }
        let quotes = if scalar.plain { 0 } else { 2 };
        let word = after.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.')).count();
        Some(Place { line: whole.line, col: whole.col + quotes / 2 + before.chars().count(), len: word.max(1) })
    }

    fn node(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self.root.as_ref()?, |node, step| match &node.kind {
            Kind::Map(entries) => entries.iter().find(|e| e.key == *step).map(|e| &e.value),
            Kind::List(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => None,
        })
    }

    /// Where the key at `path` stands, or else its nearest ancestor's.
    pub fn key(&self, path: &[&str]) -> Option<Place> {
        self.find(path, false)
    }

    /// Whether something was written at `path`, right or wrong.
    pub fn has(&self, path: &[&str]) -> bool {
        self.node(path).is_some()
    }

    /// Whether something was written at `path`, above or below it and left out, because it is wrong. A problem that only
    /// follows from its absence need not be told.
    pub fn dropped(&self, path: &[&str]) -> bool {
        self.dropped.iter().any(|d| d.iter().zip(path).all(|(a, b)| a == b))
    }

    /// Whether what was written at `path` was left out whole.
    pub fn gone(&self, path: &[&str]) -> bool {
        (0..=path.len()).any(|n| {
            let above: Vec<String> = path.iter().take(n).map(|s| (*s).to_owned()).collect();
            self.dropped.contains(&above)
        })
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
    fn a_place_inside_a_text_is_told_where_it_stands_as_it_is() {
        let root =
            tree::parse("a: door and dör or x\nb: \"dör and x\"\nc: \"a\\tb\"\nd: |\n  x y\ne: { f: \"x y\" }\n")
                .root
                .unwrap();
        let places = Places::new(root, Vec::new());
        let at = |line, col, len| Some(Place { line, col, len });
        assert_eq!(places.inside(&["a"], 5), at(1, 9, 3));
        assert_eq!(places.inside(&["a"], 17), at(1, 20, 1), "columns are characters");
        assert_eq!(places.inside(&["b"], 5), at(2, 9, 3));
        assert_eq!(places.inside(&["b"], 99), places.value(&["b"]));
        assert_eq!(places.inside(&["c"], 2), places.value(&["c"]));
        assert_eq!(places.inside(&["d"], 2), places.value(&["d"]));
        assert_eq!(places.inside(&["e", "f"], 2), at(6, 12, 1));
    }

    #[test]
    fn places_fall_back_to_the_nearest_ancestor() {
        let root = tree::parse("a:\n  b: [x, y]\n  c:\n").root.unwrap();
        let places = Places::new(root, vec![vec!["a".into(), "b".into(), "1".into()]]);
        let at = |line, col| Some(Place { line, col, len: 1 });
        assert_eq!(places.value(&["a", "b", "1"]), at(2, 10));
        assert_eq!(places.value(&["a", "b"]), at(2, 3), "a list is shown by its key");
        assert_eq!(places.keys(&["a"]), ["b", "c"]);
        assert!(places.gone(&["a", "b", "1"]) && places.gone(&["a", "b", "1", "x"]) && !places.gone(&["a", "b"]));
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
