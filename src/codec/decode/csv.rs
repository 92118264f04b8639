//! `csv`: `21.5,40`. Columns by name, or by number from 0 where no names are given.
//!
//! A cell may stand in double quotes, a quote inside is written twice. A separator of one space stands for any number of
//! them. A line with fewer columns than declared is refused: its last cell may be half a number. More columns do no harm.

use std::ops::Range;

use super::{DecodeKeys, Found, Kind, Want, lossy, text_at, trim};
use crate::codec::{Frame, KeyError, Reason, nearest};
use crate::model::Value;

struct Csv {
    separator: Vec<u8>,
    names: Vec<String>,
    /// Column of each wanted field.
    columns: Vec<usize>,
    cells: Vec<Range<usize>>,
}

pub(super) fn build(keys: &DecodeKeys, wants: &[Want<'_>]) -> Result<Box<dyn Kind>, Vec<KeyError>> {
    let separator = keys.separator.as_ref().map_or_else(|| b",".to_vec(), |s| s.0.clone());
    let names: Vec<String> = keys.columns.iter().flatten().map(|name| name.0.clone()).collect();
    let mut errors = Vec::new();
    let mut columns = Vec::new();
    for want in wants {
        let field: &str = &want.field;
        let named = names.iter().position(|name| name == field);
        // a number holds beside names too, where there is such a column
        let column = named.or_else(|| field.parse().ok().filter(|n| names.is_empty() || *n < names.len()));
        match column {
            Some(column) => columns.push(column),
            None if names.is_empty() => errors.push(
                KeyError::new(format!("{}.field", want.path), format!("`{field}` is no column number"))
                    .help("name the columns (decode: {columns: [a, b]}) or write a number from 0"),
            ),
            None => {
                let error = KeyError::new(format!("{}.field", want.path), format!("there is no column `{field}`"));
                errors.push(match nearest(field, names.iter().map(String::as_str)) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!("the columns are {}", names.join(", "))),
                });
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Box::new(Csv { separator, names, columns, cells: Vec::new() }))
}

/// The cell at the front of `text`: its content, and where the next one begins; `None` behind the last.
fn cell(text: &[u8], separator: &[u8]) -> (Range<usize>, Option<usize>) {
    let blanks = text.iter().take_while(|b| **b == b' ').count();
    let mut search = 0;
    let mut quoted = None;
    if text.get(blanks) == Some(&b'"') {
        let mut at = blanks + 1;
        // a quote that is not doubled ends the cell; one without end is an ordinary character
        while let Some(hit) = text.get(at..).and_then(|rest| memchr::memchr(b'"', rest)) {
            let close = at + hit;
            if text.get(close + 1) == Some(&b'"') {
                at = close + 2;
                continue;
            }
            quoted = Some(blanks + 1..close);
            search = close + 1;
            break;
        }
    }
    let end = text.get(search..).and_then(|rest| memchr::memmem::find(rest, separator)).map(|hit| search + hit);
    (quoted.unwrap_or(0..end.unwrap_or(text.len())), end.map(|end| end + separator.len()))
}

impl Kind for Csv {
    fn parse(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        let text = frame.text();
        let spaces = self.separator == b" ";
        self.cells.clear();
        let mut at = Some(0);
        while let Some(from) = at {
            let rest = text.get(from..).unwrap_or(&[]);
            let (range, next) = cell(rest, &self.separator);
            if !(spaces && range.is_empty()) {
                self.cells.push(from + range.start..from + range.end);
            }
            at = next.map(|next| from + next);
        }
        if trim(text).is_empty() {
            return Err(Reason::Syntax);
        }
        if self.cells.len() < self.names.len() { Err(Reason::Columns) } else { Ok(()) }
    }

    fn get<'a>(&'a self, frame: &Frame<'a>, slot: usize) -> Option<Found<'a>> {
        let range = self.cells.get(*self.columns.get(slot)?)?.clone();
        match text_at(frame.text(), range)? {
            Found::Text(text) if memchr::memmem::find(text, b"\"\"").is_some() => {
                Some(Found::Owned(lossy(text).replace("\"\"", "\"")))
            }
            found => Some(found),
        }
    }

    fn each(&self, frame: &Frame<'_>, visit: &mut dyn FnMut(&str, Value)) {
        for (i, range) in self.cells.iter().enumerate() {
            if let Some(Found::Text(text)) = text_at(frame.text(), range.clone()) {
                let value = Value::parse(&lossy(text));
                match self.names.get(i) {
                    Some(name) => visit(name, value),
                    None => visit(&i.to_string(), value),
                }
            }
        }
    }
}
