//! The text as a tree in which every node knows its place.
//!
//! Promises: never panics, memory and time bounded whatever the text (depth, nodes and copied bytes have limits, so an
//! alias bomb ends at once), and what YAML would pass over in silence (a duplicate key, a second document, a tag, a
//! merge key) is a problem with a place. Scalars keep their text as written: what they mean is for the schema to say.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::model::{Place, Problem};

/// Most nodes of a file, aliases counted as often as they are used.
pub const MAX_NODES: usize = 50_000;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 32;
/// Most bytes of text that aliases may repeat.
const MAX_COPIED: usize = 4 << 20;

/// A value with its place.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it begins; the length is that of its first line.
    pub place: Place,
    /// Line and column just behind it.
    pub end: (usize, usize),
    /// What it is.
    pub kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Already reported; nothing more is said about it.
    Bad,
    /// One value.
    Scalar(Scalar),
    /// `[a, b]` or lines with `-`.
    List(Vec<Node>),
    /// Keys and values, in order.
    Map(Vec<Entry>),
}

/// A scalar as text.
#[derive(Debug, Clone, Default)]
pub struct Scalar {
    /// Its text, escapes resolved.
    pub text: String,
    /// Written without quotes.
    pub plain: bool,
    /// As typed, where the text came from the environment.
    pub typed: Option<String>,
}

impl Scalar {
    /// Whether YAML reads it as nothing.
    pub fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key as the schema calls it.
    pub key: String,
    /// The key as it was typed.
    pub typed: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// The entries of a mapping.
    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }
    /// The entry of a mapping by its key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }
    /// Nodes and bytes of text in it.
    fn weight(&self) -> (usize, usize) {
        let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        match &self.kind {
            Kind::Bad => (1, 0),
            Kind::Scalar(s) => (1, s.text.len()),
            Kind::List(items) => items.iter().fold((1, 0), |sum, n| add(sum, n.weight())),
            Kind::Map(entries) => {
                entries.iter().fold((1, 0), |sum, e| add(add(sum, e.value.weight()), (1, 2 * e.key.len())))
            }
        }
    }
}

/// A text taken apart.
pub struct Parsed {
    /// The document; `None` where nothing of it can be used.
    pub root: Option<Node>,
    /// What is wrong with the text as YAML.
    pub problems: Vec<Problem>,
}

/// Takes a text apart. A syntax error ends it; everything else is collected.
pub fn parse(text: &str) -> Parsed {
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        lines: lines(text).collect(),
        anchors: HashMap::new(),
        problems: Vec::new(),
        nodes: 0,
        copied: 0,
    };
    let root = reader.document().unwrap_or(None);
    Parsed { root, problems: reader.problems }
}

/// The lines of a text as YAML counts them: ended by LF, CR LF or a lone CR.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match text.find(['\n', '\r']) {
            Some(end) => {
                let tail = text.get(end..).unwrap_or_default();
                rest = Some(tail.strip_prefix("\r\n").or_else(|| tail.get(1..)).unwrap_or_default());
                text.get(..end)
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
}

/// The entries of a mapping, the place behind them, and whether they are all there is to it.
type Entries = (Vec<Entry>, (usize, usize), bool);

/// The rest cannot be read; the reason is among the problems.
struct Stop;

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    lines: Vec<&'a str>,
    /// Finished anchored nodes with their weight.
    anchors: HashMap<usize, (Node, (usize, usize))>,
    problems: Vec<Problem>,
    nodes: usize,
    copied: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let problem = self.syntax(&error);
                self.stop(problem)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn stop<T>(&mut self, problem: Problem) -> Result<T, Stop> {
        self.problems.push(problem);
        Err(Stop)
    }

    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    let problem = Problem::error(Some(self.place(span)), "a second document begins here").help(
                        "keep one document in the file: remove the line `---`, and what follows if it is not meant",
                    );
                    self.problems.push(problem);
                    break;
                }
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, span, 1)?),
            }
        }
        let empty = match &root {
            None => true,
            Some(node) => matches!(&node.kind, Kind::Scalar(s) if s.is_null()),
        };
        if empty {
            return self.stop(
                Problem::error(Some(Place { line: 1, col: 1, len: 1 }), "the file is empty")
                    .help("begin with `version: 1`, `mqtt:` and `devices:`; config.example.yaml shows every key"),
            );
        }
        Ok(root)
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Stop> {
        let place = self.place(span);
        let end = (span.end.line(), span.end.col() + 1);
        if depth > MAX_DEPTH {
            return self.stop(
                Problem::error(Some(place), format!("nested more than {MAX_DEPTH} levels deep"))
                    .help("no key of pinpost lies that deep; close a bracket or take indentation back"),
            );
        }
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return self.too_big(place, "the file has");
        }
        let (anchor, tag, mut node) = match event {
            Event::Alias(id) => return self.alias(id, place, end),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text: text.into_owned(), plain, typed: None };
                (anchor, tag, Node { place, end, kind: Kind::Scalar(scalar) })
            }
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                let end = loop {
                    match self.next()? {
                        (Event::SequenceEnd, span) => break (span.end.line(), span.end.col() + 1),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                };
                (anchor, tag, Node { place, end, kind: Kind::List(items) })
            }
            Event::MappingStart(anchor, tag) => {
                let before = self.problems.len();
                let (entries, end, whole) = self.entries(depth)?;
                // what is wrong in it has been said; that keys are missing is no news then
                let bad = !whole || (entries.is_empty() && self.problems.len() > before);
                (anchor, tag, Node { place, end, kind: if bad { Kind::Bad } else { Kind::Map(entries) } })
            }
            _ => return self.stop(Problem::error(Some(place), "a value is missing here")),
        };
        if let Some(tag) = tag {
            self.problems.push(
                Problem::error(Some(node.place), format!("tags such as `!{}` are not supported", cut(&tag.suffix)))
                    .help("remove the tag; a secret is written `${NAME}`, or with a `…_file` key beside it"),
            );
            node.kind = Kind::Bad;
        }
        if anchor != 0 {
            let weight = node.weight();
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Entries, Stop> {
        let mut whole = true;
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok((entries, (span.end.line(), span.end.col() + 1), whole));
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let place = key.place;
            let text = match key.kind {
                Kind::Scalar(s) => s.text,
                Kind::Bad => continue,
                Kind::List(_) | Kind::Map(_) => {
                    self.problems.push(
                        Problem::error(Some(place), "a key must be a word, not a list or a mapping")
                            .help("text that begins with `{` or `[` needs quotes: \"{{ value }}\""),
                    );
                    continue;
                }
            };
            let problem = if text.is_empty() {
                Problem::error(Some(place), "there is no key before the colon").help("write `key: value`")
            } else if text == "<<" {
                whole = false;
                Problem::error(Some(place), "merge keys (`<<`) are not supported")
                    .help("write the keys out; what every point shares goes under `defaults:`")
            } else if let Some(first) = seen.get(&text) {
                Problem::error(Some(place), format!("{} is given twice", show_key(&text)))
                    .related(Some(*first), "first given here")
                    .help("keep one of the two")
            } else {
                seen.insert(text.clone(), place);
                entries.push(Entry { key: text.clone(), typed: text, place, value });
                continue;
            };
            self.problems.push(problem);
        }
    }

    fn alias(&mut self, id: usize, place: Place, end: (usize, usize)) -> Result<Node, Stop> {
        let Some((_, (nodes, bytes))) = self.anchors.get(&id) else {
            // the parser refuses unknown names, so the anchor is one that is still open
            return self.stop(
                Problem::error(Some(place), "this alias stands inside the value it names")
                    .help("write the value out instead of `*`"),
            );
        };
        self.nodes += nodes;
        self.copied += bytes;
        if self.nodes > MAX_NODES || self.copied > MAX_COPIED {
            return self.too_big(place, "with its aliases (`*`) the file has");
        }
        match self.anchors.get(&id) {
            Some((node, _)) => Ok(Node { place, end, kind: node.kind.clone() }),
            None => Err(Stop),
        }
    }

    fn too_big<T>(&mut self, place: Place, what: &str) -> Result<T, Stop> {
        self.stop(
            Problem::error(Some(place), format!("{what} more than {MAX_NODES} values, or too much repeated text"))
                .help("split the devices over several gateways, or take aliases out"),
        )
    }

    fn place(&self, span: Span) -> Place {
        let (line, col) = (span.start.line().max(1), span.start.col() + 1);
        let len = if span.end.line() == span.start.line() {
            span.end.col().saturating_sub(span.start.col())
        } else {
            let line = self.lines.get(line - 1).copied().unwrap_or_default();
            line.trim_end().chars().count().saturating_sub(span.start.col())
        };
        Place { line, col, len: len.max(1) }
    }

    /// A syntax error in words for people who do not know the YAML standard.
    fn syntax(&self, error: &ScanError) -> Problem {
        let at = |line: usize| self.lines.get(line.wrapping_sub(1)).copied();
        let here = error.marker().line().clamp(1, self.lines.len().max(1));
        // the scanner often notices a tab a line late
        for line in [here, here.saturating_sub(1), here + 1] {
            let indent = at(line).map(|l| l.len() - l.trim_start_matches([' ', '\t']).len());
            let tab = at(line).zip(indent).and_then(|(l, i)| l.get(..i)).and_then(|i| i.find('\t'));
            if let Some(tab) = tab {
                return Problem::error(Some(Place { line, col: tab + 1, len: 1 }), "a tab in the indentation")
                    .help("YAML is indented with spaces: replace each tab by two spaces");
            }
        }
        for line in [here, here.saturating_sub(1)] {
            let Some(text) = at(line) else { continue };
            if let Some(byte) = bare_variable(text) {
                let col = text.get(..byte).map_or(0, |s| s.chars().count()) + 1;
                return Problem::error(
                    Some(Place { line, col, len: 2 }),
                    "`${` between braces or brackets needs quotes",
                )
                .help("write \"${NAME}\" there");
            }
            if let Some(key) = glued(text) {
                let col = text.chars().count() - text.trim_start().chars().count() + 1;
                let place = Place { line, col, len: key.chars().count() + 1 };
                return Problem::error(Some(place), format!("no space after the colon of `{}:`", cut(key)))
                    .help(format!("write `{}: …`", cut(key)));
            }
        }
        let (text, help) = plain_words(error.info());
        let mark: &Marker = error.marker();
        let width = at(here).map(|l| l.chars().count()).unwrap_or(0);
        let col = if mark.line() == here { mark.col().min(width) + 1 } else { width.max(1) };
        Problem::error(Some(Place { line: here, col, len: 1 }), text).help(help)
    }
}

/// `pin:17`, where a space is missing.
fn glued(line: &str) -> Option<&str> {
    let (key, value) = line.trim().split_once(':')?;
    let word = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    (word && value.chars().next().is_some_and(|c| !c.is_whitespace())).then_some(key)
}

/// Where `${` stands without quotes behind a `{` or `[`, in bytes.
fn bare_variable(line: &str) -> Option<usize> {
    let at = line.match_indices("${").map(|(at, _)| at).find(|at| {
        let before = line.get(..*at).unwrap_or_default();
        before.ends_with(|c: char| c.is_whitespace() || c == '[' || c == ',')
    })?;
    line.get(..at)?.contains(['{', '[']).then_some(at)
}

/// A key for messages. What is glued to it (`password:x`) is its value, and not shown.
pub fn show_key(key: &str) -> String {
    match key.split_once(':') {
        Some((key, _)) => format!("`{}:…`", cut(key)),
        None => format!("`{}`", cut(key)),
    }
}

/// At most 60 characters of a text, for messages.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What the scanner says, and what to do about it.
fn plain_words(info: &str) -> (String, &'static str) {
    let table: &[(&str, &str, &str)] = &[
        ("recursion limit", "nested too deep", "close a bracket or take indentation back"),
        ("tab", "a tab where YAML wants spaces", "replace each tab by two spaces"),
        ("quoted scalar, found unexpected end", "a quote is opened and never closed", "add the closing quote"),
        ("indentation in quoted", "a quote is opened and not closed on its line", "add the closing quote"),
        (
            "unknown escape",
            "an unknown escape in a text with double quotes",
            "use single quotes around patterns ('\\d+'), or double the backslash",
        ),
        (
            "hexadecimal number",
            "an incomplete escape in a text with double quotes",
            "write \\x0a or \\u00b0, or use single quotes",
        ),
        ("trailing content after double-quoted", "text behind a closing quote", "put the whole value into the quotes"),
        (
            "flow mapping",
            "a `{` without its `}`, or a comma is missing",
            "write `{ key: value, key: value }`; text that begins with { needs quotes",
        ),
        ("flow sequence", "a `[` without its `]`, or a comma is missing", "write `[a, b]`"),
        ("misplaced bracket", "a closing bracket without an opening one", "remove it, or put quotes around the text"),
        (
            "mapping values are not allowed",
            "a colon that makes no sense here",
            "write `key: value`, each on its own line; put quotes around a text with `: ` in it",
        ),
        (
            "simple key",
            "this line is no `key: value`",
            "write `key: value`, indented like the lines beside it; a longer text needs quotes",
        ),
        (
            "did not find expected key",
            "the indentation does not fit the lines above",
            "indent keys of the same level by the same number of spaces",
        ),
        (
            "block sequence entries",
            "a `-` that makes no sense here",
            "put the list on the lines below its key, each with `- `",
        ),
        ("'-' indicator", "a list and keys are mixed here", "begin each item of the list with `- `"),
        ("indentation", "the indentation does not fit the lines above", "indent by two spaces a level"),
        (
            "unknown anchor",
            "an alias (`*`) whose name is not defined above",
            "put quotes around text that begins with *",
        ),
        ("anchor", "an anchor (`&`) is not written correctly", "put quotes around text that begins with & or *"),
        ("the handle wasn't declared", "an unknown tag", "put quotes around text that begins with !"),
        ("tag", "a tag (`!`) is not written correctly", "put quotes around text that begins with !"),
        ("unprintable", "a control character, as in a binary file", "remove it; in text write it as \\x.."),
        ("unexpected character", "a character that cannot begin a value", "put quotes around the value"),
        (
            "illegal placement of ':'",
            "a colon that makes no sense here",
            "close the `[` or `{` above it, or put quotes around the text",
        ),
        ("directive", "a line with `%` is not a directive", "put quotes around text that begins with %"),
        ("document start", "something stands behind the end of the document", "remove it, or the line `...` or `---`"),
        ("document end", "something stands behind the end of the document", "remove it, or the line `...`"),
        ("byte order mark", "a byte order mark in the middle of the file", "save the file as UTF-8 without it"),
        ("node content", "a value is missing here", "write a value, or put quotes around it"),
    ];
    let known = table.iter().find(|(part, ..)| info.to_ascii_lowercase().contains(part));
    match known {
        Some((_, text, help)) => ((*text).to_owned(), help),
        None => (format!("this is not YAML ({})", cut(info)), "write `key: value`, indented by spaces"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(yaml: &str) -> Vec<String> {
        parse(yaml).problems.into_iter().map(|p| p.text).collect()
    }

    #[test]
    fn every_node_knows_its_place() {
        let root = parse("a: 1\nb:\n  ü: 'xy'\n  l: [p, q]\n").root.unwrap();
        let b = root.get("b").unwrap();
        assert_eq!(b.place, Place { line: 2, col: 1, len: 1 });
        assert_eq!(b.value.get("ü").unwrap().value.place, Place { line: 3, col: 6, len: 4 });
        let Kind::List(items) = &b.value.get("l").unwrap().value.kind else { panic!() };
        assert_eq!(items[1].place, Place { line: 4, col: 10, len: 1 });
    }

    #[test]
    fn lines_end_as_yaml_ends_them() {
        assert_eq!(lines("a\r\nb\rc\n\nd").collect::<Vec<_>>(), ["a", "b", "c", "", "d"]);
    }

    #[test]
    fn a_duplicate_key_names_both_places() {
        let parsed = parse("a: 1\nb: 2\na: 3\n");
        assert_eq!(parsed.problems[0].place.unwrap().line, 3);
        assert_eq!(parsed.problems[0].related.as_ref().unwrap().0.line, 1);
        assert_eq!(parsed.root.unwrap().entries().len(), 2);
    }

    #[test]
    fn an_alias_bomb_ends_at_once() {
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
        for (from, to) in ["a", "b", "c", "d", "e", "f", "g"].iter().zip(["b", "c", "d", "e", "f", "g", "h"]) {
            bomb += &format!("{to}: &{to} [*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from}]\n");
        }
        assert!(texts(&bomb)[0].contains("aliases"), "{:?}", texts(&bomb));
        let long = format!("a: &a '{}'\nb: [{}]\n", "x".repeat(500_000), vec!["*a"; 2000].join(","));
        assert!(texts(&long)[0].contains("aliases"));
        assert!(texts("a: &a [*a]\n")[0].contains("inside the value"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(texts(&"[".repeat(1000))[0].contains("nested"));
        assert!(texts(&"{a: ".repeat(1000))[0].contains("nested"));
        assert!(texts(&"- ".repeat(1000))[0].contains("nested"));
    }

    #[test]
    fn what_yaml_would_pass_over_is_said() {
        assert!(texts("a: 1\n---\nb: 2\n")[0].contains("second document"));
        assert!(texts("")[0].contains("empty"));
        assert!(texts("# nothing\n")[0].contains("empty"));
        assert!(texts("a: !secret x\n")[0].contains("!secret"));
        assert!(texts("a: {b: 1}\nc:\n  <<: {d: 1}\n")[0].contains("merge"));
        assert!(texts("{{ a }}: 1\n")[0].contains("must be a word"));
    }

    #[test]
    fn syntax_errors_are_said_in_plain_words() {
        assert!(texts("a:\n\tb: 1\n")[0].contains("tab"));
        assert!(texts("a:\n  b:1\n  c: 2\n")[0].contains("no space after the colon"));
        assert!(texts("a: \"x\n")[0].contains("quote"));
        assert!(texts("a: \"\\d\"\n")[0].contains("escape"));
        assert!(parse("a: [1, 2\nb: 3\n").problems[0].help.as_ref().unwrap().contains("close the `[`"));
    }
}
