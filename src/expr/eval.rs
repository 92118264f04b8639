//! The tree that a text is compiled into, and its value at a moment.

use std::borrow::Cow;
use std::cell::Cell as Counter;
use std::cmp::Ordering;

use super::names::Word;
use super::{Blank, Lookup, MAX_BUILT, time};
use crate::model::value::tidy;
use crate::model::{PointId, Value};

/// A value on the way.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    /// `none`
    Nothing,
    Bool(bool),
    /// Never NaN or infinite.
    Number(f64),
    Text(Cow<'a, str>),
    List(Vec<Cell<'a>>),
}

/// A node, all names resolved.
#[derive(Debug)]
pub(super) enum Node {
    Nothing,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    Point(PointId),
    Age(PointId),
    Quality(PointId),
    Value,
    Field(Box<str>),
    Word(Box<str>),
    Now(time::Part),
    Not(Box<Node>),
    Neg(Box<Node>),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    Math(Math, Box<(Node, Node)>),
    Compare(Box<Node>, Box<[(Compare, Node)]>),
    /// If the first, the second, else the third.
    If(Box<(Node, Node, Node)>),
    List(Box<[Node]>),
    Item(Box<(Node, Node)>),
    Slice(Box<(Node, Node, Node)>),
    Call(&'static Word, Box<Node>, Box<[Node]>),
    /// The second where the first is not known; with `true` also where it is empty.
    Default(Box<(Node, Node)>, bool),
    Defined(Box<Node>),
}

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Part {
    Raw(Box<str>),
    Fill(Node),
    If(Node, Box<[Part]>, Box<[Part]>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Math {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Rem,
    Pow,
    Concat,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// One evaluation.
pub(super) struct Eval<'a> {
    at: &'a dyn Lookup,
    built: Counter<usize>,
}

impl<'a> Cell<'a> {
    /// A text that was built.
    pub(super) fn text(text: String) -> Cell<'a> {
        Cell::Text(Cow::Owned(text))
    }

    /// What Jinja takes for true.
    pub(super) fn truth(&self) -> bool {
        match self {
            Cell::Nothing => false,
            Cell::Bool(b) => *b,
            Cell::Number(n) => *n != 0.0,
            Cell::Text(t) => !t.is_empty(),
            Cell::List(l) => !l.is_empty(),
        }
    }

    /// A number, or a boolean as 1 and 0.
    pub(super) fn number(&self) -> Result<f64, Blank> {
        match self {
            Cell::Number(n) => Ok(*n),
            Cell::Bool(b) => Ok(f64::from(*b)),
            other => Err(Blank::Wrong(format!("{} is not a number", other.kind()))),
        }
    }

    /// Equal as a person sees it: ON is `'ON'`, 1 is true.
    pub(super) fn same(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Bool(b), Cell::Text(t)) | (Cell::Text(t), Cell::Bool(b)) => switch(t) == Some(*b),
            (Cell::Bool(b), Cell::Number(n)) | (Cell::Number(n), Cell::Bool(b)) => f64::from(*b) == *n,
            (Cell::List(a), Cell::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (a, b) => a == b,
        }
    }

    /// Which comes first; a text and a number cannot be compared.
    pub(super) fn order(&self, other: &Cell) -> Result<Ordering, Blank> {
        if let (Cell::Text(a), Cell::Text(b)) = (self, other) {
            return Ok(a.cmp(b));
        }
        match (self.number(), other.number()) {
            (Ok(a), Ok(b)) => Ok(a.total_cmp(&b)),
            _ => Err(Blank::Wrong(format!("cannot compare {} with {}", self.kind(), other.kind()))),
        }
    }

    /// What it is, for a person.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Cell::Nothing => "none",
            Cell::Bool(_) => "ON/OFF",
            Cell::Number(_) => "a number",
            Cell::Text(_) => "a text",
            Cell::List(_) => "a list",
        }
    }

    /// As it stands in a text.
    pub(super) fn shown(&self) -> Cow<'_, str> {
        match self {
            Cell::Nothing => Cow::Borrowed(""),
            Cell::Bool(b) => Cow::Borrowed(if *b { "ON" } else { "OFF" }),
            Cell::Number(n) => Cow::Owned(Value::Number(tidy(*n)).to_string()),
            Cell::Text(t) => Cow::Borrowed(t),
            Cell::List(l) => {
                let items: Vec<_> = l.iter().map(|c| c.shown()).collect();
                Cow::Owned(format!("[{}]", items.join(", ")))
            }
        }
    }
}

/// ON and OFF in words.
pub(super) fn switch(text: &str) -> Option<bool> {
    let is = |words: [&str; 3]| words.iter().any(|w| text.eq_ignore_ascii_case(w));
    if is(["on", "true", "yes"]) {
        Some(true)
    } else if is(["off", "false", "no"]) {
        Some(false)
    } else {
        None
    }
}

/// A number that may go on.
pub(super) fn finite<'a>(n: f64) -> Result<Cell<'a>, Blank> {
    if n.is_finite() { Ok(Cell::Number(n)) } else { Err(Blank::Wrong("the number is too great".into())) }
}

impl<'a> Eval<'a> {
    pub(super) fn new(at: &'a dyn Lookup) -> Eval<'a> {
        Eval { at, built: Counter::new(0) }
    }

    /// Counts what is built against what may be.
    pub(super) fn build(&self, bytes: usize) -> Result<(), Blank> {
        let built = self.built.get().saturating_add(bytes);
        self.built.set(built);
        if built > MAX_BUILT { Err(Blank::Wrong("the result is too long".into())) } else { Ok(()) }
    }

    /// A text that was built, counted.
    pub(super) fn built(&self, text: String) -> Result<Cell<'a>, Blank> {
        self.build(text.len())?;
        Ok(Cell::text(text))
    }

    pub(super) fn truth(&self, node: &'a Node) -> Result<bool, Blank> {
        self.cell(node).map(|c| c.truth())
    }

    pub(super) fn value(&self, node: &'a Node) -> Result<Value, Blank> {
        match self.cell(node)? {
            Cell::Bool(b) => Ok(Value::Bool(b)),
            Cell::Number(n) => Ok(Value::Number(tidy(n))),
            Cell::Text(t) => Ok(Value::Text(t.into_owned())),
            other => Err(Blank::Wrong(format!("the result is {}, not a value", other.kind()))),
        }
    }

    pub(super) fn render(&self, parts: &'a [Part]) -> Result<String, Blank> {
        let mut out = String::new();
        self.render_into(parts, &mut out)?;
        Ok(out)
    }

    fn render_into(&self, parts: &'a [Part], out: &mut String) -> Result<(), Blank> {
        for part in parts {
            match part {
                Part::Raw(text) => out.push_str(text),
                Part::Fill(node) => {
                    let cell = self.cell(node)?;
                    let shown = cell.shown();
                    self.build(shown.len())?;
                    out.push_str(&shown);
                }
                Part::If(test, yes, no) => self.render_into(if self.truth(test)? { yes } else { no }, out)?,
            }
        }
        Ok(())
    }

    pub(super) fn cell(&self, node: &'a Node) -> Result<Cell<'a>, Blank> {
        match node {
            Node::Nothing => Ok(Cell::Nothing),
            Node::Bool(b) => Ok(Cell::Bool(*b)),
            Node::Number(n) => Ok(Cell::Number(*n)),
            Node::Text(t) => Ok(Cell::Text(Cow::Borrowed(t))),
            Node::Point(id) => self.at.point(*id).value.map_or(Err(Blank::Point(*id)), taken),
            Node::Age(id) => {
                let age = self.at.point(*id).age.ok_or(Blank::Point(*id))?;
                Ok(Cell::Number(age.as_millis() as f64 / 1000.0))
            }
            Node::Quality(id) => Ok(Cell::Text(Cow::Borrowed(self.at.point(*id).quality))),
            Node::Value => self.at.value().map_or_else(|| Err(Blank::Name("value".into())), taken),
            Node::Field(name) => match self.at.field(name) {
                Some(value) => taken(value),
                None => Err(Blank::Name(format!("fields.{name}"))),
            },
            Node::Word(name) => match self.at.word(name) {
                Some(text) => Ok(Cell::Text(Cow::Borrowed(text))),
                None => Err(Blank::Name(name.to_string())),
            },
            Node::Now(part) => time::part(*part, self.at),
            Node::Not(inner) => Ok(Cell::Bool(!self.truth(inner)?)),
            Node::Neg(inner) => Ok(Cell::Number(-self.cell(inner)?.number()?)),
            Node::And(pair) => self.either(pair, false),
            Node::Or(pair) => self.either(pair, true),
            Node::Math(op, pair) => self.math(*op, self.cell(&pair.0)?, self.cell(&pair.1)?),
            Node::Compare(first, rest) => self.compare(first, rest),
            Node::If(three) => self.cell(if self.truth(&three.0)? { &three.1 } else { &three.2 }),
            Node::List(items) => {
                self.build(items.len() * size_of::<Cell>())?;
                items.iter().map(|n| self.cell(n)).collect::<Result<_, _>>().map(Cell::List)
            }
            Node::Item(pair) => self.item(self.cell(&pair.0)?, &self.cell(&pair.1)?),
            Node::Slice(three) => self.slice(self.cell(&three.0)?, &self.cell(&three.1)?, &self.cell(&three.2)?),
            Node::Call(word, input, args) => {
                let input = self.cell(input)?;
                let mut given = [Cell::Nothing, Cell::Nothing, Cell::Nothing];
                for (slot, arg) in given.iter_mut().zip(args) {
                    *slot = self.cell(arg)?;
                }
                (word.apply)(self, input, given.get(..args.len()).unwrap_or_default())
            }
            Node::Default(pair, also_empty) => match self.cell(&pair.0) {
                Err(Blank::Wrong(why)) => Err(Blank::Wrong(why)),
                Err(_) => self.cell(&pair.1),
                Ok(cell) if *also_empty && !cell.truth() => self.cell(&pair.1),
                Ok(cell) => Ok(cell),
            },
            Node::Defined(inner) => match self.cell(inner) {
                Err(Blank::Wrong(why)) => Err(Blank::Wrong(why)),
                known => Ok(Cell::Bool(known.is_ok())),
            },
        }
    }

    /// `and` (`decides`: false) and `or` (true). What is not known on one side does not matter where the other decides.
    fn either(&self, pair: &'a (Node, Node), decides: bool) -> Result<Cell<'a>, Blank> {
        match self.cell(&pair.0) {
            Ok(left) if left.truth() == decides => Ok(left),
            Ok(_) => self.cell(&pair.1),
            Err(blank) => match self.cell(&pair.1) {
                Ok(right) if right.truth() == decides => Ok(right),
                _ => Err(blank),
            },
        }
    }

    fn compare(&self, first: &'a Node, rest: &'a [(Compare, Node)]) -> Result<Cell<'a>, Blank> {
        let mut left = self.cell(first)?;
        for (op, node) in rest {
            // a list that is written out need not be built
            if let (Compare::In | Compare::NotIn, Node::List(items)) = (op, node) {
                let mut found = false;
                for item in items {
                    found = found || self.cell(item)?.same(&left);
                }
                return Ok(Cell::Bool(found == (*op == Compare::In)));
            }
            let right = self.cell(node)?;
            let holds = match op {
                Compare::Eq => left.same(&right),
                Compare::Ne => !left.same(&right),
                Compare::Lt => left.order(&right)?.is_lt(),
                Compare::Le => left.order(&right)?.is_le(),
                Compare::Gt => left.order(&right)?.is_gt(),
                Compare::Ge => left.order(&right)?.is_ge(),
                Compare::In => contains(&right, &left)?,
                Compare::NotIn => !contains(&right, &left)?,
            };
            if !holds {
                return Ok(Cell::Bool(false));
            }
            left = right;
        }
        Ok(Cell::Bool(true))
    }

    fn math(&self, op: Math, left: Cell<'a>, right: Cell<'a>) -> Result<Cell<'a>, Blank> {
        if op == Math::Concat || (op == Math::Add && matches!((&left, &right), (Cell::Text(_), Cell::Text(_)))) {
            return self.built(format!("{}{}", left.shown(), right.shown()));
        }
        let (a, b) = (left.number()?, right.number()?);
        if b == 0.0 && matches!(op, Math::Div | Math::FloorDiv | Math::Rem) {
            return Err(Blank::Wrong("a division by zero".into()));
        }
        finite(match op {
            Math::Add | Math::Concat => a + b,
            Math::Sub => a - b,
            Math::Mul => a * b,
            Math::Div => a / b,
            Math::FloorDiv => (a / b).floor(),
            // the sign of the divisor, as in Python
            Math::Rem => a - b * (a / b).floor(),
            Math::Pow => a.powf(b),
        })
    }

    fn item(&self, from: Cell<'a>, index: &Cell) -> Result<Cell<'a>, Blank> {
        let wanted = index.number()?;
        let none = || Blank::Wrong(format!("there is no item {}", index.shown()));
        match from {
            Cell::List(mut list) => {
                let i = place(wanted, list.len()).ok_or_else(none)?;
                Ok(list.swap_remove(i))
            }
            Cell::Text(text) => {
                let i = place(wanted, text.chars().count()).ok_or_else(none)?;
                self.built(text.chars().nth(i).into_iter().collect())
            }
            other => Err(Blank::Wrong(format!("{} has no items", other.kind()))),
        }
    }

    fn slice(&self, from: Cell<'a>, start: &Cell, end: &Cell) -> Result<Cell<'a>, Blank> {
        let bounds = |len: usize| -> Result<(usize, usize), Blank> {
            let at = |cell: &Cell, otherwise: usize| match cell {
                Cell::Nothing => Ok(otherwise),
                cell => {
                    cell.number().map(|n| if n < 0.0 { (len as f64 + n).max(0.0) } else { n.min(len as f64) } as usize)
                }
            };
            Ok((at(start, 0)?, at(end, len)?))
        };
        match from {
            Cell::List(list) => {
                let (from, to) = bounds(list.len())?;
                Ok(Cell::List(list.into_iter().take(to).skip(from).collect()))
            }
            Cell::Text(text) => {
                let (from, to) = bounds(text.chars().count())?;
                self.built(text.chars().take(to).skip(from).collect())
            }
            other => Err(Blank::Wrong(format!("{} has no items", other.kind()))),
        }
    }
}

fn taken(value: &Value) -> Result<Cell<'_>, Blank> {
    match value {
        Value::Bool(b) => Ok(Cell::Bool(*b)),
        Value::Number(n) => Ok(Cell::Number(*n)),
        Value::Text(t) => Ok(Cell::Text(Cow::Borrowed(t))),
        Value::Bytes(_) => Err(Blank::Wrong("bytes cannot be computed with".into())),
    }
}

fn contains(whole: &Cell, part: &Cell) -> Result<bool, Blank> {
    match (whole, part) {
        (Cell::List(list), part) => Ok(list.iter().any(|item| item.same(part))),
        (Cell::Text(text), Cell::Text(part)) => Ok(text.contains(part.as_ref())),
        (whole, _) => Err(Blank::Wrong(format!("nothing can be `in` {}", whole.kind()))),
    }
}

/// The index that is meant; a negative one counts from the end.
fn place(wanted: f64, len: usize) -> Option<usize> {
    let i = if wanted < 0.0 { wanted + len as f64 } else { wanted };
    (i >= 0.0 && i < len as f64 && i.fract() == 0.0).then_some(i as usize)
}
