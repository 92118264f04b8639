//! The filters and tests: `value | round(1)`, `value is number`. A filter may also be called like a function
//! (`min(a, b)`) or a method (`value.strip()`).

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::Blank;
use super::eval::{Cell, Eval, finite, switch};
use super::text;
use crate::model::value::parse_number;

/// What a word does with its input and its arguments.
type Apply = for<'a> fn(&Eval<'a>, Cell<'a>, &[Cell<'a>]) -> Result<Cell<'a>, Blank>;

/// A filter or test.
pub(super) struct Word {
    pub name: &'static str,
    /// How many arguments it takes beside its input.
    pub args: RangeInclusive<usize>,
    pub apply: Apply,
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn word(name: &'static str, args: RangeInclusive<usize>, apply: Apply) -> Word {
    Word { name, args, apply }
}

/// The filters; `default` (`d`) is built in, because it sees what is not known.
pub(super) static FILTERS: &[Word] = &[
    word("abs", 0..=0, |_, x, _| finite(x.number()?.abs())),
    word("average", 0..=0, |_, x, _| {
        let n = numbers(&x)?;
        if n.is_empty() { Err(empty()) } else { finite(n.iter().map(|v| v / n.len() as f64).sum()) }
    }),
    word("bool", 0..=1, |_, x, args| match &x {
        Cell::Text(t) => switch(t).map_or_else(|| otherwise(&x, args, "ON or OFF"), |b| Ok(Cell::Bool(b))),
        x => Ok(Cell::Bool(x.truth())),
    }),
    word("capitalize", 0..=0, |e, x, _| {
        let shown = x.shown();
        let mut chars = shown.chars();
        let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
        e.built(first + &chars.as_str().to_lowercase())
    }),
    word("count", 0..=0, length),
    word("cos", 0..=0, |_, x, _| finite(x.number()?.cos())),
    word("endswith", 1..=1, |_, x, args| Ok(Cell::Bool(x.shown().ends_with(arg(args, 0).as_ref())))),
    word("first", 0..=0, |_, x, _| list(x)?.into_iter().next().ok_or_else(empty)),
    word("float", 0..=1, |_, x, args| to_number(&x).map_or_else(|| otherwise(&x, args, "a number"), finite)),
    word("format", 1..=3, |e, x, args| e.built(text::format(&x.shown(), args)?)),
    word("iif", 1..=2, |_, x, args| {
        let chosen = if x.truth() { args.first() } else { args.get(1) };
        Ok(chosen.cloned().unwrap_or(Cell::Nothing))
    }),
    word("int", 0..=1, |_, x, args| {
        to_number(&x).map_or_else(|| otherwise(&x, args, "a number"), |n| finite(n.trunc()))
    }),
    word("is_number", 0..=0, |_, x, _| Ok(Cell::Bool(to_number(&x).is_some()))),
    word("join", 0..=1, |e, x, args| {
        let joint = arg(args, 0).into_owned();
        let items = list(x)?;
        e.build(items.len() * joint.len())?;
        let shown: Vec<_> = items.iter().map(|c| c.shown()).collect();
        e.built(shown.join(&joint))
    }),
    word("last", 0..=0, |_, x, _| list(x)?.pop().ok_or_else(empty)),
    word("length", 0..=0, length),
    word("log", 0..=1, |_, x, args| {
        let base = args.first().map_or(Ok(std::f64::consts::E), Cell::number)?;
        let n = x.number()?;
        if n > 0.0 && base > 0.0 && base != 1.0 {
            finite(n.ln() / base.ln())
        } else {
            Err(Blank::Wrong("this number has no logarithm".into()))
        }
    }),
    word("lower", 0..=0, |e, x, _| e.built(x.shown().to_lowercase())),
    word("max", 0..=0, |_, x, _| numbers(&x)?.into_iter().max_by(f64::total_cmp).map(Cell::Number).ok_or_else(empty)),
    word("min", 0..=0, |_, x, _| numbers(&x)?.into_iter().min_by(f64::total_cmp).map(Cell::Number).ok_or_else(empty)),
    word("replace", 2..=2, |e, x, args| {
        let (shown, old, new) = (x.shown(), arg(args, 0), arg(args, 1));
        e.build(shown.matches(old.as_ref()).count().saturating_mul(new.len()))?;
        e.built(shown.replace(old.as_ref(), &new))
    }),
    word("round", 0..=2, |_, x, args| {
        let digits = args.first().map_or(Ok(0.0), Cell::number)?.clamp(-15.0, 15.0) as i32;
        let (n, by) = (x.number()?, 10f64.powi(digits));
        let round = match args.get(1).map(|a| a.shown().into_owned()).as_deref() {
            None | Some("common") => f64::round,
            Some("ceil") => f64::ceil,
            Some("floor") => f64::floor,
            Some(other) => return Err(Blank::Wrong(format!("rounds by common, ceil or floor, not `{other}`"))),
        };
        let scaled = n * by;
        if scaled.abs() < 9e15 { finite(round(scaled) / by) } else { finite(n) }
    }),
    word("sin", 0..=0, |_, x, _| finite(x.number()?.sin())),
    word("split", 0..=1, |e, x, args| {
        let shown = x.shown();
        let by = arg(args, 0);
        let items: Vec<String> = if by.is_empty() {
            shown.split_whitespace().map(str::to_owned).collect()
        } else {
            shown.split(by.as_ref()).map(str::to_owned).collect()
        };
        e.build(shown.len() + items.len() * size_of::<Cell>())?;
        Ok(Cell::List(items.into_iter().map(Cell::text).collect()))
    }),
    word("sqrt", 0..=0, |_, x, _| match x.number()? {
        n if n >= 0.0 => finite(n.sqrt()),
        _ => Err(Blank::Wrong("a negative number has no root".into())),
    }),
    word("startswith", 1..=1, |_, x, args| Ok(Cell::Bool(x.shown().starts_with(arg(args, 0).as_ref())))),
    word("string", 0..=0, |e, x, _| e.built(x.shown().into_owned())),
    word("strip", 0..=0, |e, x, _| e.built(x.shown().trim().to_owned())),
    word("sum", 0..=0, |_, x, _| finite(numbers(&x)?.iter().sum())),
    word("tojson", 0..=0, |e, x, _| e.built(text::json(&x))),
    word("trim", 0..=0, |e, x, _| e.built(x.shown().trim().to_owned())),
    word("upper", 0..=0, |e, x, _| e.built(x.shown().to_uppercase())),
];

/// The tests; `defined` and `undefined` are built in.
pub(super) static TESTS: &[Word] = &[
    word("boolean", 0..=0, |_, x, _| Ok(Cell::Bool(matches!(x, Cell::Bool(_))))),
    word("divisibleby", 1..=1, |_, x, args| match args.first().map_or(Ok(0.0), Cell::number)? {
        0.0 => Err(Blank::Wrong("a division by zero".into())),
        by => Ok(Cell::Bool(x.number()? % by == 0.0)),
    }),
    word("eq", 1..=1, |_, x, args| Ok(Cell::Bool(args.first().is_some_and(|a| x.same(a))))),
    word("even", 0..=0, |_, x, _| Ok(Cell::Bool(x.number()? % 2.0 == 0.0))),
    word("false", 0..=0, |_, x, _| Ok(Cell::Bool(x == Cell::Bool(false)))),
    word("ge", 1..=1, |_, x, args| ordered(&x, args).map(|o| Cell::Bool(o.is_ge()))),
    word("gt", 1..=1, |_, x, args| ordered(&x, args).map(|o| Cell::Bool(o.is_gt()))),
    word("in", 1..=1, |_, x, args| match args.first() {
        Some(Cell::List(l)) => Ok(Cell::Bool(l.iter().any(|item| item.same(&x)))),
        Some(Cell::Text(t)) => Ok(Cell::Bool(t.contains(x.shown().as_ref()))),
        _ => Err(Blank::Wrong("`in` wants a list or a text".into())),
    }),
    word("le", 1..=1, |_, x, args| ordered(&x, args).map(|o| Cell::Bool(o.is_le()))),
    word("lt", 1..=1, |_, x, args| ordered(&x, args).map(|o| Cell::Bool(o.is_lt()))),
    word("ne", 1..=1, |_, x, args| Ok(Cell::Bool(!args.first().is_some_and(|a| x.same(a))))),
    word("none", 0..=0, |_, x, _| Ok(Cell::Bool(x == Cell::Nothing))),
    word("number", 0..=0, |_, x, _| Ok(Cell::Bool(matches!(x, Cell::Number(_))))),
    word("odd", 0..=0, |_, x, _| Ok(Cell::Bool((x.number()? % 2.0).abs() == 1.0))),
    word("string", 0..=0, |_, x, _| Ok(Cell::Bool(matches!(x, Cell::Text(_))))),
    word("true", 0..=0, |_, x, _| Ok(Cell::Bool(x == Cell::Bool(true)))),
];

fn length<'a>(_: &Eval<'a>, x: Cell<'a>, _: &[Cell<'a>]) -> Result<Cell<'a>, Blank> {
    match &x {
        Cell::Text(t) => Ok(Cell::Number(t.chars().count() as f64)),
        Cell::List(l) => Ok(Cell::Number(l.len() as f64)),
        other => Err(Blank::Wrong(format!("{} has no length", other.kind()))),
    }
}

fn ordered(x: &Cell, args: &[Cell]) -> Result<std::cmp::Ordering, Blank> {
    x.order(args.first().unwrap_or(&Cell::Nothing))
}

/// The number in a cell, also one that is written as text.
fn to_number(x: &Cell) -> Option<f64> {
    match x {
        Cell::Text(t) => parse_number(t),
        x => x.number().ok(),
    }
}

/// The default of a conversion that failed.
fn otherwise<'a>(x: &Cell, args: &[Cell<'a>], wanted: &str) -> Result<Cell<'a>, Blank> {
    let shown = x.shown();
    let short: String = shown.chars().take(32).collect();
    args.first().cloned().ok_or_else(|| Blank::Wrong(format!("`{short}` is not {wanted}")))
}

fn arg<'c>(args: &'c [Cell], i: usize) -> Cow<'c, str> {
    args.get(i).map_or(Cow::Borrowed(""), Cell::shown)
}

fn list(x: Cell<'_>) -> Result<Vec<Cell<'_>>, Blank> {
    match x {
        Cell::List(list) => Ok(list),
        Cell::Text(t) => Ok(t.chars().map(|c| Cell::text(c.to_string())).collect()),
        other => Err(Blank::Wrong(format!("{} is not a list", other.kind()))),
    }
}

fn numbers(x: &Cell) -> Result<Vec<f64>, Blank> {
    match x {
        Cell::List(list) => list.iter().map(Cell::number).collect(),
        other => Err(Blank::Wrong(format!("{} is not a list", other.kind()))),
    }
}

fn empty() -> Blank {
    Blank::Wrong("the list is empty".into())
}
