//! Texts that filters build: JSON, and the `%` formats of C.

use super::Blank;
use super::eval::Cell;
use crate::model::value::tidy;

/// The widest field of a format.
const WIDEST: usize = 256;

/// A cell as JSON.
pub(super) fn json(cell: &Cell) -> String {
    match cell {
        Cell::Nothing => "null".into(),
        Cell::Bool(b) => b.to_string(),
        Cell::Number(_) => cell.shown().into_owned(),
        Cell::Text(t) => serde_json::Value::from(t.as_ref()).to_string(),
        Cell::List(list) => format!("[{}]", list.iter().map(json).collect::<Vec<_>>().join(",")),
    }
}

/// `"%05.1f" | format(value)`: `%d %x %X %f %s %%` with `0`, `-`, `+`, width and precision.
pub(super) fn format(pattern: &str, args: &[Cell]) -> Result<String, Blank> {
    let wrong = |what: &str| Err(Blank::Wrong(format!("the format has {what}")));
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let (mut zero, mut left, mut plus) = (false, false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '0' | '-' | '+')) {
            match flag {
                '0' => zero = true,
                '-' => left = true,
                _ => plus = true,
            }
        }
        let mut digits = || {
            let mut n = None;
            while let Some(d) = chars.next_if(char::is_ascii_digit).and_then(|c| c.to_digit(10)) {
                n = Some((n.unwrap_or(0usize) * 10 + d as usize).min(WIDEST));
            }
            n
        };
        let width = digits().unwrap_or(0);
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut n = 0usize;
            while let Some(d) = chars.next_if(char::is_ascii_digit).and_then(|c| c.to_digit(10)) {
                n = (n * 10 + d as usize).min(17);
            }
            precision = Some(n);
        }
        let Some(kind) = chars.next() else { return wrong("a `%` at its end") };
        let Some(arg) = args.next() else { return wrong("more places than there are values") };
        let whole = || arg.number().map(|n| n.trunc() as i64);
        let body = match kind {
            'd' | 'i' => whole()?.to_string(),
            'x' => format!("{:x}", whole()?),
            'X' => format!("{:X}", whole()?),
            'f' => format!("{:.*}", precision.unwrap_or(6), tidy(arg.number()?)),
            's' => arg.shown().into_owned(),
            other => return wrong(&format!("`%{other}`; it knows %d %x %X %f %s")),
        };
        let body = if plus && kind != 's' && !body.starts_with('-') { format!("+{body}") } else { body };
        let missing = width.saturating_sub(body.chars().count());
        if left {
            out.push_str(&body);
            out.extend(std::iter::repeat_n(' ', missing));
        } else if zero && kind != 's' {
            let (sign, rest) = body.split_at(usize::from(body.starts_with(['-', '+'])));
            out.push_str(sign);
            out.extend(std::iter::repeat_n('0', missing));
            out.push_str(rest);
        } else {
            out.extend(std::iter::repeat_n(' ', missing));
            out.push_str(&body);
        }
    }
    Ok(out)
}
