//! WHAT WAS WRITTEN: the YAML file, as serde types in the order of `config.example.yaml`, with the place of every
//! node kept so that each problem can be shown where it stands.
//!
//! The only room that names `serde_yaml`. It knows no device kind and no filter: those words come from above as a
//! [`Vocabulary`], so that a kind or filter stays one file and one word in its own list.
//!
//! The way of a file: [`read`] bytes · [`tree`] text to nodes with places · [`env`] `${NAME}` · [`alias`] other tools'
//! words · [`walk`] by the [`schema`] · serde to [`raw::Raw`]. [`load`] does all but the reading and never fails: what
//! is wrong is among its problems, and the rest is there for those who judge the meaning. [`report`] shows problems.

pub mod alias;
pub mod env;
pub mod flows;
mod hint;
pub mod logic;
pub mod mask;
mod places;
pub mod raw;
pub mod report;
pub mod scalar;
pub mod schema;
mod source;
pub mod tree;
mod value;
mod walk;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use crate::model::{Place, Problem};
pub use places::Places;
pub use source::{MAX_FILE, When, read, read_secret};

/// The beginning of the file.
const START: Place = Place { line: 1, col: 1, len: 1 };

/// The word of `words` that was probably meant by `typed`.
pub fn near<'a>(typed: &str, words: &'a [String]) -> Option<&'a str> {
    hint::near(typed, words.iter().map(String::as_str))
}

/// A word of an open list (a device kind, a filter) with the schema of what may follow it.
#[derive(Clone, Copy)]
pub struct Word {
    /// As written in the YAML.
    pub name: &'static str,
    /// One line for `schema` and hover texts.
    pub summary: &'static str,
    /// Schema of a kind's own keys, or of a filter's value.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

/// The open lists, as the rooms above know them.
#[derive(Clone, Default)]
pub struct Vocabulary {
    /// Device kinds (`kind: …`).
    pub kinds: Vec<Word>,
    /// Filters (`filters: [{NAME: …}]`).
    pub filters: Vec<Word>,
}

/// A file, as far as it could be understood.
#[derive(Debug, Default)]
pub struct Loaded {
    /// All that is right in it; the default where nothing is.
    pub raw: raw::Raw,
    /// Everything found wrong, in the order of the file. No secret is in them.
    pub problems: Vec<Problem>,
    /// Where everything stands.
    pub places: Places,
    /// The text, for [`report`].
    pub text: String,
    /// False where `raw` is only the default, because the text could not be read at all: then there is nothing
    /// to judge further.
    pub readable: bool,
}

/// The schema of the file for editors, JSON Schema draft 2020-12.
pub fn schema(words: &Vocabulary) -> serde_json::Value {
    schema::for_editors(words)
}

/// A file of another shape than the gateway's own, as far as it could be understood.
#[derive(Debug)]
pub struct LoadedAs<T> {
    /// What is in it; `None` where anything is wrong.
    pub value: Option<T>,
    /// Everything found wrong.
    pub problems: Vec<Problem>,
    /// Where everything stands.
    pub places: Places,
    /// The text, for [`report`].
    pub text: String,
}

/// Understands a file of another shape, by the shape's own schema. `env` reads the environment.
pub fn load_as<T: JsonSchema + DeserializeOwned>(bytes: &[u8], env: env::Env) -> LoadedAs<T> {
    let mut value = None;
    let loaded = understand(bytes, env, &schema::plain_of::<T>(), |found, _, problems| {
        match serde_path_to_error::deserialize(found) {
            Ok(read) => value = Some(read),
            Err(e) => problems.push(Problem::error(None, e.to_string())),
        }
    });
    let Loaded { problems, places, text, .. } = loaded;
    LoadedAs { value: value.filter(|_| problems.is_empty()), problems, places, text }
}

/// Understands a file. `env` reads the environment.
pub fn load(bytes: &[u8], env: env::Env, words: &Vocabulary) -> Loaded {
    let mut raw = None;
    let loaded = understand(bytes, env, &schema::plain(words), |found, places, problems| {
        raw = Some(deserialise(found, places, problems));
    });
    Loaded { raw: raw.unwrap_or_default(), ..loaded }
}

/// The way of a file up to the types, which `read` knows.
fn understand(
    bytes: &[u8],
    env: env::Env,
    schema: &serde_json::Value,
    read: impl FnOnce(serde_yaml::Value, &mut Places, &mut Vec<Problem>),
) -> Loaded {
    let mut loaded = Loaded::default();
    match source::decode(bytes) {
        Ok(text) => loaded.text = text,
        Err((text, problem)) => {
            return Loaded { text, problems: vec![*problem], ..loaded };
        }
    }
    let parsed = tree::parse(&loaded.text);
    loaded.problems = parsed.problems;
    let Some(mut root) = parsed.root else { return loaded.tidy() };
    let lines: Vec<&str> = tree::lines(&loaded.text).collect();
    env::substitute(&mut root, env, &lines, &mut loaded.problems);
    alias::rename(&mut root, &mut loaded.problems);
    let walked = walk::walk(&root, schema);
    loaded.problems.extend(walked.problems);
    loaded.readable = walked.value.is_some();
    loaded.places = Places::new(root, walked.dropped);
    if let Some(value) = walked.value {
        read(value, &mut loaded.places, &mut loaded.problems);
    }
    loaded.tidy()
}

impl Loaded {
    /// Puts the problems in the order of the file, once each and without secrets.
    fn tidy(mut self) -> Loaded {
        self.problems.sort_by_key(|p| p.place);
        self.problems.dedup();
        let found = self.problems.len();
        self.problems.truncate(walk::MAX_PROBLEMS);
        let masks = mask::Masks::of(&self.text);
        for problem in &mut self.problems {
            problem.text = masks.clean(&problem.text);
            problem.help = problem.help.take().map(|help| masks.clean(&help));
        }
        if found > walk::MAX_PROBLEMS {
            let text = format!("too many problems; these are the first {} of {found} or more", walk::MAX_PROBLEMS);
            self.problems.push(Problem::error(None, text));
        }
        self
    }
}

/// Reads the types from what the schema has passed. What serde still refuses is reported and left out.
fn deserialise(mut value: serde_yaml::Value, places: &mut Places, problems: &mut Vec<Problem>) -> raw::Raw {
    // each round leaves out one more part, so this ends; a file with more such errors than rounds is refused whole
    for _ in 0..32 {
        let error = match serde_path_to_error::deserialize::<_, raw::Raw>(value.clone()) {
            Ok(raw) => return raw,
            Err(error) => error,
        };
        let steps = steps(error.path());
        let path: Vec<&str> = steps.iter().map(String::as_str).collect();
        problems.push(Problem::error(places.value(&path), error.inner().to_string()));
        let cut: Vec<String> = match path.as_slice() {
            [list @ ("devices" | "ports" | "computed" | "rules" | "relays" | "sessions"), name, ..] => {
                vec![(*list).into(), (*name).into()]
            }
            [section, ..] => vec![(*section).into()],
            [] => break,
        };
        let mut inner = Some(&mut value);
        let (last, above) = match cut.split_last() {
            Some(split) => split,
            None => break,
        };
        for key in above {
            inner = inner.and_then(|v| v.get_mut(key.as_str()));
        }
        if let Some(map) = inner.and_then(|v| v.as_mapping_mut()) {
            map.remove(last.as_str());
        }
        places.drop(cut);
    }
    raw::Raw::default()
}

/// The keys and numbers of a path of serde's.
fn steps(path: &serde_path_to_error::Path) -> Vec<String> {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        })
        .collect()
}

#[cfg(test)]
#[expect(dead_code, reason = "its types are read for their shape and shown by Debug")]
mod tests;
