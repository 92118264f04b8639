//! `${NAME}` and `${NAME:-default}` in values; `$${` is a literal `${`.
//!
//! Promises: keys are left alone; an unset name is a problem at its place; the environment comes in as a function.

use super::tree::{Kind, Node, Scalar, cut};
use crate::model::{Place, Problem};

/// Reads the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces the variables in all values below `node`; a value with a problem becomes [`Kind::Bad`].
pub fn substitute(node: &mut Node, env: Env, lines: &[&str], problems: &mut Vec<Problem>) {
    match &mut node.kind {
        Kind::Bad => {}
        Kind::List(items) => items.iter_mut().for_each(|item| substitute(item, env, lines, problems)),
        Kind::Map(entries) => entries.iter_mut().for_each(|e| substitute(&mut e.value, env, lines, problems)),
        Kind::Scalar(scalar) => {
            if !scalar.text.contains("${") {
                return;
            }
            match expand(&scalar.text, env) {
                Ok(text) => {
                    let typed = std::mem::replace(&mut scalar.text, text);
                    *scalar = Scalar { typed: Some(typed), ..std::mem::take(scalar) };
                }
                Err((part, text, help)) => {
                    problems.push(Problem::error(Some(find(&part, node.place, lines)), text).help(help));
                    node.kind = Kind::Bad;
                }
            }
        }
    }
}

/// The place of `part` in the value at `place`, where it stands on the same line.
fn find(part: &str, place: Place, lines: &[&str]) -> Place {
    let before = place.col - 1;
    let rest: String = lines.get(place.line - 1).map(|l| l.chars().skip(before).collect()).unwrap_or_default();
    match rest.find(part) {
        Some(byte) => Place {
            col: place.col + rest.get(..byte).map_or(0, |s| s.chars().count()),
            len: part.chars().count().max(1),
            ..place
        },
        None => place,
    }
}

/// The offending part of the text, what is wrong with it, what to write.
type Wrong = (String, String, String);

fn expand(text: &str, env: Env) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, tail) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = tail.get(2..).unwrap_or_default();
            continue;
        }
        out.push_str(before);
        let Some(end) = tail.find('}') else {
            return Err((
                "${".into(),
                "`${` without its `}`".into(),
                "write `${NAME}`; where `${` itself is meant, write `$${`".into(),
            ));
        };
        let inner = tail.get(2..end).unwrap_or_default();
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err((
                format!("${{{inner}}}"),
                "this is no name of an environment variable".into(),
                "write `${NAME}` or `${NAME:-default}`; where `${` itself is meant, write `$${`".into(),
            ));
        }
        match (env(name), default) {
            // as in a shell, `:-` is for empty ones too
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                let name = cut(name);
                return Err((
                    format!("${{{name}}}"),
                    format!("the environment variable `{name}` is not set"),
                    format!("set it before the start, or write `${{{name}:-default}}`"),
                ));
            }
        }
        rest = tail.get(end + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;

    fn env(name: &str) -> Option<String> {
        match name {
            "QOS" => Some("1".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (text, want) in [
            ("${QOS}", "1"),
            ("a${QOS}b${QOS}", "a1b1"),
            ("${NOPE:-x y}", "x y"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("$${QOS}", "${QOS}"),
            ("$5 and $ {}", "$5 and $ {}"),
            ("ü$${${QOS}", "ü${1"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), want, "{text}");
        }
        for bad in ["${NOPE}", "${", "${}", "${1A}", "${A-b}"] {
            assert!(expand(bad, &env).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unset_variable_is_found_in_its_line() {
        let text = "a: {b: \"mqtt://${HOST}:1\"}\n";
        let mut root = tree::parse(text).root.unwrap();
        let mut problems = Vec::new();
        substitute(&mut root, &env, &tree::lines(text).collect::<Vec<_>>(), &mut problems);
        assert_eq!(problems[0].place, Some(Place { line: 1, col: 16, len: 7 }));
        assert!(problems[0].text.contains("`HOST` is not set"));
    }
}
