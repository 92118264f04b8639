//! Problems as a person or a program reads them.
//!
//! Promises: nothing that [`super::mask`] hides is shown; control characters of the file never reach the terminal;
//! the caret stands under its place whatever the width of the characters before it.

use std::fmt::Write;

use serde_json::{Value, json};

use super::mask::{Masks, STARS};
use super::tree;
use crate::model::{Place, Problem};

/// Widest part of a source line that is shown, in columns.
const WIDTH: usize = 110;

/// All problems in the order of the file, each with its line and a caret. `file` as it was typed.
pub fn render(problems: &[Problem], file: &str, text: &str, color: bool) -> String {
    let masks = Masks::of(text);
    let mut source = Source { lines: tree::lines(text).collect(), masks: &masks, last: (0, Vec::new(), Vec::new()) };
    let paint = |code: &'static str| if color { (code, "\x1b[0m") } else { ("", "") };
    let file = harmless(file);
    let mut out = String::new();
    for problem in sorted(problems) {
        if !out.is_empty() {
            out.push('\n');
        }
        let (on, off) = if problem.warning { paint("\x1b[1;33m") } else { paint("\x1b[1;31m") };
        let word = if problem.warning { "warning" } else { "error" };
        let (bold, plain) = paint("\x1b[1m");
        let text = harmless(&masks.clean(&problem.text));
        let _ = writeln!(out, "{bold}{}{plain} {on}{word}:{off} {bold}{text}{plain}", location(&file, problem.place));
        if let Some(place) = problem.place {
            source.excerpt(&mut out, place, (on, off));
        }
        if let Some(help) = &problem.help {
            let (on, off) = paint("\x1b[36m");
            let _ = writeln!(out, "  {on}help:{off} {}", harmless(&masks.clean(help)));
        }
        if let Some((place, text)) = &problem.related {
            let (on, off) = paint("\x1b[32m");
            let text = harmless(&masks.clean(text));
            let _ = writeln!(out, "{} {on}note:{off} {text}", location(&file, Some(*place)));
            source.excerpt(&mut out, *place, (on, off));
        }
    }
    out
}

/// The same for programs: a list of objects.
pub fn render_json(problems: &[Problem], file: &str, text: &str) -> Value {
    let masks = Masks::of(text);
    let place = |place: Option<Place>| match place {
        Some(p) => (json!(p.line), json!(p.col), json!(p.len)),
        None => (Value::Null, Value::Null, Value::Null),
    };
    let list = sorted(problems).into_iter().map(|problem| {
        let (line, column, length) = place(problem.place);
        let related = problem.related.as_ref().map(|(at, text)| {
            json!({ "file": file, "line": at.line, "column": at.col, "length": at.len, "message": masks.clean(text) })
        });
        json!({
            "file": file,
            "line": line,
            "column": column,
            "length": length,
            "severity": if problem.warning { "warning" } else { "error" },
            "message": masks.clean(&problem.text),
            "help": problem.help.as_ref().map(|h| masks.clean(h)),
            "related": related,
        })
    });
    Value::Array(list.collect())
}

fn sorted(problems: &[Problem]) -> Vec<&Problem> {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by_key(|p| p.place);
    sorted
}

fn location(file: &str, place: Option<Place>) -> String {
    match place {
        Some(p) => format!("{file}:{}:{}:", p.line, p.col),
        None => format!("{file}:"),
    }
}

/// A piece of a line as it is shown.
struct Glyph {
    shown: String,
    width: usize,
    marked: bool,
}

/// The source, with the line that was shown last: many problems of a file without line breaks stand in one.
struct Source<'a> {
    lines: Vec<&'a str>,
    masks: &'a Masks,
    /// Its number, its characters, its hidden ranges.
    last: (usize, Vec<char>, Vec<(usize, usize)>),
}

impl Source<'_> {
    /// The line of a place with a caret under it.
    fn excerpt(&mut self, out: &mut String, place: Place, (on, off): (&str, &str)) {
        let Some(line) = self.lines.get(place.line.wrapping_sub(1)) else { return };
        if line.trim().is_empty() && place.len <= 1 {
            return;
        }
        if self.last.0 != place.line {
            self.last = (place.line, line.chars().collect(), self.masks.ranges(place.line, line));
        }
        let (_, chars, hidden) = &self.last;
        let marks = place.col.saturating_sub(1)..place.col.saturating_sub(1).saturating_add(place.len.max(1));
        // nothing farther away than this is shown
        let near = marks.start.saturating_sub(2 * WIDTH)..marks.start.saturating_add(2 * WIDTH).min(chars.len());
        let mut glyphs: Vec<Glyph> = Vec::new();
        let mut stars = None;
        for i in near.clone() {
            let Some(c) = chars.get(i) else { continue };
            match hidden.iter().find(|(a, b)| *a <= i && i < *b) {
                Some((a, _)) if stars != Some(*a) => {
                    stars = Some(*a);
                    glyphs.push(Glyph { shown: STARS.into(), width: 3, marked: marks.contains(&i) });
                }
                Some(_) => {
                    if let Some(stars) = glyphs.last_mut() {
                        stars.marked |= marks.contains(&i);
                    }
                }
                None => {
                    let (shown, width) = glyph(*c);
                    glyphs.push(Glyph { shown, width, marked: marks.contains(&i) });
                }
            }
        }
        if !glyphs.iter().any(|g| g.marked) {
            glyphs.push(Glyph { shown: " ".into(), width: 1, marked: true });
        }
        let (from, to) = window(&glyphs);
        let left = from > 0 || near.start > 0;
        let mut text = String::from(if left { "…" } else { "" });
        let mut carets = String::from(if left { " " } else { "" });
        for glyph in glyphs.iter().skip(from).take(to - from) {
            text.push_str(&glyph.shown);
            carets.extend(std::iter::repeat_n(if glyph.marked { '^' } else { ' ' }, glyph.width));
        }
        if to < glyphs.len() || near.end < chars.len() {
            text.push('…');
        }
        let number = place.line.to_string();
        let _ = writeln!(out, "  {number} | {}", text.trim_end());
        let _ = writeln!(out, "  {} | {}{on}{}{off}", " ".repeat(number.len()), lead(&carets), carets.trim());
    }
}

fn lead(carets: &str) -> &str {
    carets.get(..carets.len() - carets.trim_start().len()).unwrap_or_default()
}

/// The part of a long line around the mark: first glyph and the one behind the last.
fn window(glyphs: &[Glyph]) -> (usize, usize) {
    let total: usize = glyphs.iter().map(|g| g.width).sum();
    if total <= WIDTH {
        return (0, glyphs.len());
    }
    let mark = glyphs.iter().position(|g| g.marked).unwrap_or(0);
    let mut from = mark;
    let mut width = 0;
    while let Some(before) = from.checked_sub(1) {
        width += glyphs.get(before).map_or(0, |g| g.width);
        if width > WIDTH / 3 {
            break;
        }
        from = before;
    }
    let mut to = from;
    let mut width = 0;
    while let Some(glyph) = glyphs.get(to) {
        width += glyph.width;
        if width > WIDTH {
            break;
        }
        to += 1;
    }
    (from, to)
}

/// How a character is shown, and its width in columns.
fn glyph(c: char) -> (String, usize) {
    match c {
        '\t' => ("    ".into(), 4),
        c if dangerous(c) => ("\u{fffd}".into(), 1),
        c => (c.into(), columns(c)),
    }
}

/// Control characters, and those that turn the direction of writing.
fn dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if dangerous(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Columns of a character in a terminal: combining ones take none, East Asian wide ones and emoji two (Unicode UAX #11,
/// by blocks).
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, col: usize, len: usize) -> Option<Place> {
        Some(Place { line, col, len })
    }

    #[test]
    fn a_problem_shows_its_line_and_what_to_write() {
        let text = "a: 1\nb:\n  debounc: 20ms\n";
        let problems = [
            Problem::error(at(3, 3, 7), "unknown key `debounc`")
                .help("did you mean `debounce`?")
                .related(at(1, 1, 1), "x"),
            Problem::warning(None, "y"),
        ];
        assert_eq!(
            render(&problems, "f.yaml", text, false),
            "f.yaml: warning: y\n\nf.yaml:3:3: error: unknown key `debounc`\n  3 |   debounc: 20ms\n    |   ^^^^^^^\n  \
             help: did you mean `debounce`?\nf.yaml:1:1: note: x\n  1 | a: 1\n    | ^\n"
        );
        assert!(render(&problems, "f.yaml", text, true).contains("\x1b[1;31merror:\x1b[0m"));
    }

    fn caret_line(text: &str, col: usize, len: usize) -> (String, String) {
        let out = render(&[Problem::error(at(1, col, len), "x")], "f", text, false);
        let mut lines = out.lines().skip(1);
        (lines.next().unwrap().into(), lines.next().unwrap().into())
    }

    #[test]
    fn the_caret_stands_under_its_place() {
        assert_eq!(caret_line("a:\tb", 4, 1).1, "    |       ^");
        assert_eq!(caret_line("温度: x", 5, 1).1, "    |       ^");
        assert_eq!(caret_line("e\u{301}: x", 5, 1).1, "    |    ^");
        let (line, caret) = caret_line("a: \x1b[31mred", 4, 1);
        assert!(!line.contains('\x1b'));
        assert_eq!(caret, "    |    ^");
        assert_eq!(
            caret_line("{password: CANARY, x: 1}", 20, 1),
            ("  1 | {password: ***, x: 1}".into(), "    |                 ^".into())
        );
        assert_eq!(caret_line("a", 9, 1).1, "    |  ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("{}: KEY {}", "x".repeat(5000), "y".repeat(5000));
        let (line, caret) = caret_line(&text, 5003, 3);
        assert!(line.chars().count() < 130 && line.contains("KEY"));
        assert_eq!(line.chars().position(|c| c == 'K'), caret.chars().position(|c| c == '^'));
    }

    #[test]
    fn programs_get_the_same() {
        let problems = [Problem::error(at(1, 2, 3), "bad `mqtt://joe:CANARY@pi`").help("h")];
        let json = render_json(&problems, "f.yaml", "a: 1");
        assert_eq!(json[0]["line"], 1);
        assert_eq!(json[0]["column"], 2);
        assert_eq!(json[0]["severity"], "error");
        assert_eq!(json[0]["message"], "bad `mqtt://***@pi`");
        assert_eq!(json[0]["help"], "h");
    }
}
