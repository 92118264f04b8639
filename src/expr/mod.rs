//! EXPRESSIONS AND TEMPLATES, pure: what users write in Jinja, compiled once, judged many times.
//!
//! minijinja reads the text, so that the language is Jinja and its mistakes are found by a parser that many use. What it
//! read is compiled here into a small tree in which every name is already the point it means, because three things are
//! asked that a template engine does not promise: a name that is not there is an error when the file is read, with its
//! place; a point that has no value yet makes *no decision* ([`Blank`]), which is not false; and a rule costs tens of
//! nanoseconds, as all rules may hang on one reading.
//!
//! There are no loops, so time is bounded by the length of the text ([`MAX_TEXT`]); what an evaluation may build is
//! bounded by [`MAX_BUILT`]. NaN and infinity never leave an operator. No clock, file or loader is within reach: all that
//! an expression knows comes through [`Lookup`].
//!
//! What a point is worth: a boolean (`door`; equal to `'ON'` and `'OFF'` too), a number or a text, while its last reading
//! is good and its device online. `door.quality` is always known (`good`, `bad`, `stale`, `offline`, `unknown`),
//! `door.age` (seconds) since the first reading. `now` is the time of day, once the clock is set. What is not known
//! spreads, except where it makes no difference (`on or unknown` is on) and where the text provides for it
//! (`door | default(false)`, `door is defined`).

mod compile;
mod eval;
mod names;
mod scope;
mod text;
mod time;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Now, Place, PointId, Problem, Value};

pub use scope::Scope;
pub use time::Zone;

/// The longest expression or template, in bytes.
pub const MAX_TEXT: usize = 2048;
/// How many bytes of text and items of lists one evaluation may build.
pub const MAX_BUILT: usize = 64 * 1024;

/// What is wrong in an expression or template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExprError {
    /// What, one line.
    pub text: String,
    /// What to write instead, one line.
    pub help: Option<String>,
    /// Where in the text, in bytes.
    pub offset: usize,
}

impl ExprError {
    /// As a problem at its place (`Places::inside` tells it from the offset).
    pub fn problem(self, place: Option<Place>) -> Problem {
        let problem = Problem::error(place, self.text);
        match self.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

/// Why an evaluation gave nothing: no decision, which is not false.
#[derive(Debug, Clone, PartialEq)]
pub enum Blank {
    /// This point has no good value now.
    Point(PointId),
    /// A name that only some occasions know (`value`, a field of the frame) has no value on this one.
    Name(String),
    /// The system's clock is not set, so nobody knows the time of day.
    Clock,
    /// It cannot be computed: a division by zero, a text compared with a number.
    Wrong(String),
}

impl Blank {
    /// The reason in words; `name` knows the points.
    pub fn say(&self, name: impl Fn(PointId) -> String) -> String {
        match self {
            Blank::Point(id) => format!("{} has no value now", name(*id)),
            Blank::Name(name) => format!("`{name}` has no value"),
            Blank::Clock => "the clock is not set".into(),
            Blank::Wrong(why) => why.clone(),
        }
    }
}

/// What is known of a point at the moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen<'a> {
    /// Its value, if it is good and its device is online.
    pub value: Option<&'a Value>,
    /// `good`, `bad`, `stale`, `offline`, `unknown`.
    pub quality: &'static str,
    /// Since its device last spoke of it.
    pub age: Option<Duration>,
}

impl Seen<'_> {
    /// Of a point that never had a value.
    pub const UNKNOWN: Seen<'static> = Seen { value: None, quality: "unknown", age: None };
}

/// What an expression is asked against. Only [`Lookup::now`] must be there.
pub trait Lookup {
    /// The moment.
    fn now(&self) -> Now;
    /// A point.
    fn point(&self, _id: PointId) -> Seen<'_> {
        Seen::UNKNOWN
    }
    /// `value`.
    fn value(&self) -> Option<&Value> {
        None
    }
    /// `fields.<name>`: another field of the same frame.
    fn field(&self, _name: &str) -> Option<&Value> {
        None
    }
    /// A further word of the scope.
    fn word(&self, _name: &str) -> Option<&str> {
        None
    }
    /// Where the clock on the wall hangs, for `now.hour`.
    fn zone(&self) -> &Zone {
        static UTC: Zone = Zone::UTC;
        &UTC
    }
}

/// A lookup where there are no points: the `value` at hand and some words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// The moment.
    pub now: Now,
    /// `value`.
    pub value: Option<&'a Value>,
    /// Words and what they stand for.
    pub words: &'a [(&'a str, &'a str)],
}

impl Lookup for Given<'_> {
    fn now(&self) -> Now {
        self.now
    }
    fn value(&self) -> Option<&Value> {
        self.value
    }
    fn word(&self, name: &str) -> Option<&str> {
        self.words.iter().find(|(word, _)| *word == name).map(|(_, text)| *text)
    }
}

/// A compiled expression. Cheap to clone.
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

/// A compiled template. Cheap to clone.
#[derive(Clone)]
pub struct Template(Arc<CompiledTemplate>);

struct Compiled {
    text: String,
    root: eval::Node,
    uses: compile::Uses,
}

struct CompiledTemplate {
    text: String,
    parts: Vec<eval::Part>,
    uses: compile::Uses,
}

impl Expression {
    /// Compiles `text`, the names of which are those of `scope`.
    pub fn compile(text: &str, scope: &Scope) -> Result<Expression, ExprError> {
        let (root, uses) = compile::expression(text, scope)?;
        Ok(Expression(Arc::new(Compiled { text: text.to_owned(), root, uses })))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Whether it holds; an error is no decision, and not false.
    pub fn decide(&self, at: &dyn Lookup) -> Result<bool, Blank> {
        eval::Eval::new(at).truth(&self.0.root)
    }

    /// Its value; numbers are finite and rounded off behind the ninth decimal.
    pub fn value(&self, at: &dyn Lookup) -> Result<Value, Blank> {
        eval::Eval::new(at).value(&self.0.root)
    }

    /// The points it reads, each once; a change of any other cannot change it.
    pub fn points(&self) -> &[PointId] {
        &self.0.uses.points
    }

    /// Whether it reads `fields.<name>`.
    pub fn uses_fields(&self) -> bool {
        self.0.uses.fields
    }

    /// How long from now until it may change only because time passes (an age, the time of day); `None`: never.
    pub fn changes_in(&self, at: &dyn Lookup) -> Option<Duration> {
        self.0.uses.clocks.iter().filter_map(|c| c.next(at)).min()
    }
}

impl Template {
    /// Compiles `text`: words with `{{ expression }}` and `{% if %}` in them.
    pub fn compile(text: &str, scope: &Scope) -> Result<Template, ExprError> {
        let (parts, uses) = compile::template(text, scope)?;
        Ok(Template(Arc::new(CompiledTemplate { text: text.to_owned(), parts, uses })))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Fills it in.
    pub fn render(&self, at: &dyn Lookup) -> Result<String, Blank> {
        eval::Eval::new(at).render(&self.0.parts)
    }

    /// The points it reads, each once.
    pub fn points(&self) -> &[PointId] {
        &self.0.uses.points
    }

    /// Whether it reads `fields.<name>`.
    pub fn uses_fields(&self) -> bool {
        self.0.uses.fields
    }

    /// Whether nothing is to be filled in.
    pub fn is_plain(&self) -> bool {
        self.0.parts.iter().all(|p| matches!(p, eval::Part::Raw(_)))
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.0.text)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.0.text)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.0.text == other.0.text && self.0.uses.points == other.0.uses.points
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Template) -> bool {
        self.0.text == other.0.text && self.0.uses.points == other.0.uses.points
    }
}

#[cfg(test)]
mod tests;
