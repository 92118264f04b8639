//! From what minijinja read to the tree of `eval`: every name resolved, every mistake with its place.

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, CompareOpKind, Const, Expr, Stmt, UnaryOpKind};
use minijinja::machinery::{parse, parse_expr};
use minijinja::syntax::SyntaxConfig;

use super::eval::{Compare, Math, Node, Part};
use super::names::{FILTERS, TESTS, Word};
use super::scope::{Found, Scope, written};
use super::time::{ClockUse, PARTS, Part as Clock};
use super::{ExprError, MAX_TEXT};
use crate::model::PointId;

/// The deepest nesting; each level costs stack.
const DEEPEST: usize = 128;
/// How many brackets may be open at a time.
const NESTED: usize = 24;
/// What to do about it.
const SPLIT: &str = "compute a part of it under `computed:` and name that";

/// What a text depends on.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub points: Vec<PointId>,
    pub fields: bool,
    pub clocks: Vec<ClockUse>,
}

pub(super) fn expression(text: &str, scope: &Scope) -> Result<(Node, Uses), ExprError> {
    bounded(text)?;
    if text.trim().is_empty() {
        return Err(error(0, "the expression is empty", Some("write something like `door and not pump`".into())));
    }
    if text.trim_start().starts_with("{{") || text.trim_start().starts_with("{%") {
        let help = "leave out the braces: they belong to templates".to_owned();
        return Err(error(text.len() - text.trim_start().len(), "an expression stands without braces", Some(help)));
    }
    let read = parse_expr(text).map_err(|e| syntax(text, &e))?;
    let mut compiler = Compiler { scope, uses: Uses::default(), depth: 0 };
    let root = compiler.node(&read)?;
    Ok((root, compiler.uses))
}

pub(super) fn template(text: &str, scope: &Scope) -> Result<(Vec<Part>, Uses), ExprError> {
    bounded(text)?;
    let mut config = SyntaxConfig::builder();
    // a command ends with the line end that is written
    config.keep_trailing_newline(true);
    let config = config.build().map_err(|e| syntax(text, &e))?;
    let read = parse(text, "template", config).map_err(|e| syntax(text, &e))?;
    let mut compiler = Compiler { scope, uses: Uses::default(), depth: 0 };
    let parts = match &read {
        Stmt::Template(whole) => compiler.parts(&whole.children)?,
        one => compiler.parts(std::slice::from_ref(one))?,
    };
    Ok((parts, compiler.uses))
}

fn bounded(text: &str) -> Result<(), ExprError> {
    if text.len() > MAX_TEXT {
        return Err(error(MAX_TEXT, format!("longer than {MAX_TEXT} bytes"), None));
    }
    // the parser goes into the stack for each of these, before anything of ours sees its depth
    let (mut open, mut signs, mut words) = (0usize, 0usize, 0usize);
    for (i, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        signs = if c == '-' { signs + 1 } else { signs * usize::from(c.is_whitespace()) };
        let after = text.get(i..).unwrap_or_default();
        if after.starts_with("not") || after.starts_with("else") || after.starts_with("{%") {
            words += 1;
        }
        if open > NESTED || signs > NESTED || words > 2 * NESTED {
            return Err(error(i, "nested too deeply", Some(SPLIT.into())));
        }
    }
    Ok(())
}

fn error(offset: usize, text: impl Into<String>, help: Option<String>) -> ExprError {
    ExprError { text: text.into(), help, offset }
}

/// A mistake that the parser found.
fn syntax(text: &str, e: &minijinja::Error) -> ExprError {
    let offset = e.range().map_or(0, |r| r.start).min(text.len());
    let after = text.get(offset..).unwrap_or_default();
    let near =
        |c: &str| after.trim_start().starts_with(c) || text.get(..offset).is_some_and(|t| t.trim_end().ends_with(c));
    let help = if near("&") {
        Some("write `and`")
    } else if near("!") {
        Some("write `not`")
    } else if near("=") {
        Some("a comparison is written `==`")
    } else if near("|") {
        Some("write `or`, or the name of a filter behind one `|`")
    } else {
        None
    };
    error(offset, e.detail().unwrap_or("this cannot be understood"), help.map(str::to_owned))
}

struct Compiler<'s> {
    scope: &'s Scope,
    uses: Uses,
    depth: usize,
}

impl Compiler<'_> {
    fn parts(&mut self, read: &[Stmt]) -> Result<Vec<Part>, ExprError> {
        let mut parts = Vec::new();
        for stmt in read {
            parts.push(match stmt {
                Stmt::EmitRaw(raw) => Part::Raw(raw.raw.into()),
                Stmt::EmitExpr(emit) => Part::Fill(self.node(&emit.expr)?),
                Stmt::IfCond(cond) => {
                    self.deeper(cond.span().start_offset)?;
                    let test = self.node(&cond.expr)?;
                    let yes = self.parts(&cond.true_body)?.into();
                    let no = self.parts(&cond.false_body)?.into();
                    self.depth -= 1;
                    Part::If(test, yes, no)
                }
                other => {
                    let offset = statement(other) as usize;
                    let help = "a template has `{{ … }}` and `{% if … %} … {% else %} … {% endif %}`".to_owned();
                    return Err(error(offset, "this statement is not known here", Some(help)));
                }
            });
        }
        Ok(parts)
    }

    fn deeper(&mut self, offset: u32) -> Result<(), ExprError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(error(offset as usize, "nested too deeply", Some(SPLIT.into())));
        }
        Ok(())
    }

    fn node(&mut self, expr: &Expr) -> Result<Node, ExprError> {
        self.deeper(expr.span().start_offset)?;
        let node = self.node_inside(expr)?;
        self.depth -= 1;
        Ok(node)
    }

    fn boxed(&mut self, expr: &Expr) -> Result<Box<Node>, ExprError> {
        self.node(expr).map(Box::new)
    }

    fn pair(&mut self, a: &Expr, b: &Expr) -> Result<Box<(Node, Node)>, ExprError> {
        Ok(Box::new((self.node(a)?, self.node(b)?)))
    }

    fn node_inside(&mut self, expr: &Expr) -> Result<Node, ExprError> {
        let offset = expr.span().start_offset as usize;
        if let Some(names) = chain(expr) {
            return self.name(&names, offset);
        }
        match expr {
            Expr::Const(constant) => literal(constant, offset),
            Expr::UnaryOp(unary) => {
                let inner = self.boxed(&unary.expr)?;
                Ok(match (&unary.op, *inner) {
                    (UnaryOpKind::Neg, Node::Number(n)) => Node::Number(-n),
                    (UnaryOpKind::Neg, inner) => Node::Neg(Box::new(inner)),
                    (UnaryOpKind::Not, inner) => Node::Not(Box::new(inner)),
                })
            }
            Expr::BinOp(binary) => self.binary(binary.op, &binary.left, &binary.right),
            Expr::Compare(compare) => {
                let first = self.boxed(&compare.expr)?;
                let mut rest = Vec::new();
                for step in &compare.ops {
                    let op = match step.op {
                        CompareOpKind::Eq => Compare::Eq,
                        CompareOpKind::Ne => Compare::Ne,
                        CompareOpKind::Lt => Compare::Lt,
                        CompareOpKind::Lte => Compare::Le,
                        CompareOpKind::Gt => Compare::Gt,
                        CompareOpKind::Gte => Compare::Ge,
                        CompareOpKind::In => Compare::In,
                        CompareOpKind::NotIn => Compare::NotIn,
                    };
                    rest.push((op, self.node(&step.expr)?));
                }
                Ok(Node::Compare(first, rest.into()))
            }
            Expr::IfExpr(cond) => {
                let test = self.node(&cond.test_expr)?;
                let yes = self.node(&cond.true_expr)?;
                let no = cond.false_expr.as_ref().map_or(Ok(Node::Nothing), |e| self.node(e))?;
                Ok(Node::If(Box::new((test, yes, no))))
            }
            Expr::List(list) => self.list(&list.items),
            Expr::Tuple(tuple) => self.list(&tuple.items),
            Expr::GetItem(item) => Ok(Node::Item(self.pair(&item.expr, &item.subscript_expr)?)),
            Expr::Slice(slice) => {
                if slice.step.is_some() {
                    return Err(error(offset, "a slice has no step here", Some("write text[from:to]".into())));
                }
                let from = self.node(&slice.expr)?;
                let start = slice.start.as_ref().map_or(Ok(Node::Nothing), |e| self.node(e))?;
                let stop = slice.stop.as_ref().map_or(Ok(Node::Nothing), |e| self.node(e))?;
                Ok(Node::Slice(Box::new((from, start, stop))))
            }
            Expr::GetAttr(attr) => {
                // now().hour
                if let Expr::Call(call) = &attr.expr
                    && call.args.is_empty()
                    && chain(&call.expr).is_some_and(|names| names == ["now"])
                {
                    return self.name(&["now".to_owned(), attr.name.to_owned()], offset);
                }
                let text = format!("`.{}` belongs to nothing", attr.name);
                Err(error(offset, text, Some("a point has `.age` and `.quality`, `now` has `.hour`".into())))
            }
            Expr::Filter(filter) => match &filter.expr {
                Some(input) => self.filter(filter.name, input, &filter.args, offset),
                None => Err(error(offset, "a filter without a value", None)),
            },
            Expr::Test(test) => match test.name {
                "defined" => Ok(Node::Defined(self.boxed(&test.expr)?)),
                "undefined" => Ok(Node::Not(Box::new(Node::Defined(self.boxed(&test.expr)?)))),
                name => {
                    let word = word(TESTS, name, "test", &["defined", "undefined"], offset)?;
                    self.call(word, &test.expr, &test.args, offset)
                }
            },
            Expr::Call(call) => self.function(call, offset),
            Expr::Map(_) => Err(error(offset, "a map has no use here", None)),
            Expr::Var(_) => Err(error(offset, "a name was expected", None)),
        }
    }

    fn binary(&mut self, op: BinOpKind, left: &Expr, right: &Expr) -> Result<Node, ExprError> {
        let compare = match op {
            BinOpKind::ScAnd => return Ok(Node::And(self.pair(left, right)?)),
            BinOpKind::ScOr => return Ok(Node::Or(self.pair(left, right)?)),
            BinOpKind::Add => return self.math(Math::Add, left, right),
            BinOpKind::Sub => return self.math(Math::Sub, left, right),
            BinOpKind::Mul => return self.math(Math::Mul, left, right),
            BinOpKind::Div => return self.math(Math::Div, left, right),
            BinOpKind::FloorDiv => return self.math(Math::FloorDiv, left, right),
            BinOpKind::Rem => return self.math(Math::Rem, left, right),
            BinOpKind::Pow => return self.math(Math::Pow, left, right),
            BinOpKind::Concat => return self.math(Math::Concat, left, right),
            BinOpKind::Eq => Compare::Eq,
            BinOpKind::Ne => Compare::Ne,
            BinOpKind::Lt => Compare::Lt,
            BinOpKind::Lte => Compare::Le,
            BinOpKind::Gt => Compare::Gt,
            BinOpKind::Gte => Compare::Ge,
            BinOpKind::In => Compare::In,
        };
        let known = self.uses.clocks.len();
        let (a, b) = (self.node(left)?, self.node(right)?);
        // an age against a number changes at one known moment
        if let (Node::Age(id), Node::Number(n)) | (Node::Number(n), Node::Age(id)) = (&a, &b) {
            self.uses.clocks.truncate(known);
            self.uses.clocks.push(ClockUse::AgeAgainst(*id, *n));
        }
        Ok(Node::Compare(Box::new(a), Box::new([(compare, b)])))
    }

    fn math(&mut self, op: Math, left: &Expr, right: &Expr) -> Result<Node, ExprError> {
        Ok(Node::Math(op, self.pair(left, right)?))
    }

    fn list(&mut self, items: &[Expr]) -> Result<Node, ExprError> {
        items.iter().map(|e| self.node(e)).collect::<Result<Vec<_>, _>>().map(|list| Node::List(list.into()))
    }

    /// A name, or names with dots.
    fn name(&mut self, names: &[String], offset: usize) -> Result<Node, ExprError> {
        let first = names.first().map_or("", String::as_str);
        let second = names.get(1).map(String::as_str);
        let alone = |node: Node| match second {
            None => Ok(node),
            Some(more) => Err(error(offset, format!("`{first}` has no `.{more}`"), None)),
        };
        if first == "value" && self.scope.value {
            return alone(Node::Value);
        }
        if let Some(word) = self.scope.words.iter().find(|w| *w == first) {
            return alone(Node::Word(word.as_str().into()));
        }
        if first == "fields" && self.scope.fields {
            let Some(field) = second else {
                return Err(error(offset, "`fields` needs a name", Some("write fields.NAME".into())));
            };
            self.uses.fields = true;
            return Ok(Node::Field(names.get(1..).map_or_else(|| field.to_owned(), |n| n.join(".")).into()));
        }
        if first == "now" {
            return self.now(second, offset);
        }
        match self.scope.find(names) {
            Found::Point(id, took) => {
                if !self.uses.points.contains(&id) {
                    self.uses.points.push(id);
                }
                match names.get(took..).unwrap_or_default() {
                    [] => Ok(Node::Point(id)),
                    [one] if one == "age" => {
                        self.uses.clocks.push(ClockUse::Age(id));
                        Ok(Node::Age(id))
                    }
                    [one] if one == "quality" => Ok(Node::Quality(id)),
                    [more, ..] => {
                        let text = format!("`{}` has no `.{more}`", names[..took].join("."));
                        Err(error(offset, text, Some("a point has `.age` and `.quality`".into())))
                    }
                }
            }
            Found::Nothing(_, _) if first == "value" || first == "fields" => {
                Err(error(offset, format!("`{first}` has no meaning here"), Some("name a point".into())))
            }
            Found::Nothing(text, help) => Err(error(offset, text, help)),
        }
    }

    fn now(&mut self, part: Option<&str>, offset: usize) -> Result<Node, ExprError> {
        let Some(part) = part else {
            self.uses.clocks.push(ClockUse::Second);
            return Ok(Node::Now(Clock::Seconds));
        };
        let Some((_, found)) = PARTS.iter().find(|(name, _)| *name == part) else {
            let names: Vec<String> = PARTS.iter().map(|(name, _)| (*name).to_owned()).collect();
            return Err(error(offset, format!("`now` has no `.{part}`"), Some(advice(part, &names))));
        };
        let fast = matches!(found, Clock::Seconds | Clock::Second | Clock::Time);
        self.uses.clocks.push(if fast { ClockUse::Second } else { ClockUse::Minute });
        Ok(Node::Now(*found))
    }

    fn filter(&mut self, name: &str, input: &Expr, args: &[CallArg], offset: usize) -> Result<Node, ExprError> {
        if matches!(name, "default" | "d") {
            let empty = match args.get(1) {
                None => false,
                Some(CallArg::Pos(flag) | CallArg::Kwarg("boolean", flag)) => {
                    matches!(flag, Expr::Const(c) if c.value.is_true())
                }
                Some(_) => return Err(error(offset, "`default` takes a value and `true`", None)),
            };
            let otherwise = match args.first() {
                Some(CallArg::Pos(e)) => self.node(e)?,
                _ => Node::Text("".into()),
            };
            return Ok(Node::Default(Box::new((self.node(input)?, otherwise)), empty));
        }
        let word = word(FILTERS, name, "filter", &["default"], offset)?;
        self.call(word, input, args, offset)
    }

    fn call(&mut self, word: &'static Word, input: &Expr, args: &[CallArg], offset: usize) -> Result<Node, ExprError> {
        let mut given = Vec::new();
        for arg in args {
            match arg {
                CallArg::Pos(e) => given.push(self.node(e)?),
                // round(precision=1), int(default=0)
                CallArg::Kwarg("precision" | "default" | "base", e) if given.is_empty() => given.push(self.node(e)?),
                CallArg::Kwarg("method", e) if given.len() == 1 => given.push(self.node(e)?),
                _ => return Err(error(offset, format!("`{}` takes no such argument", word.name), None)),
            }
        }
        if !word.args.contains(&given.len()) {
            let (least, most) = (word.args.start(), word.args.end());
            let takes = match (least, most) {
                (_, 0) => "no argument".to_owned(),
                (a, b) if a == b => format!("{a} argument(s)"),
                (a, b) => format!("{a} to {b} arguments"),
            };
            return Err(error(offset, format!("`{}` takes {takes}, not {}", word.name, given.len()), None));
        }
        let mut input_node = self.boxed(input)?;
        // `x | float(0)` is how Home Assistant's users provide for what is not known
        if matches!(word.name, "float" | "int")
            && given.len() == 1
            && let Some(CallArg::Pos(e) | CallArg::Kwarg(_, e)) = args.first()
        {
            input_node = Box::new(Node::Default(Box::new((*input_node, self.node(e)?)), false));
        }
        Ok(Node::Call(word, input_node, given.into()))
    }

    /// `now()`, `min(a, b)`, `value.strip()`.
    fn function(&mut self, call: &Call, offset: usize) -> Result<Node, ExprError> {
        match &call.expr {
            Expr::Var(name) if name.id == "now" && call.args.is_empty() => self.now(None, offset),
            Expr::Var(name) => {
                let Some((CallArg::Pos(input), rest)) = call.args.split_first() else {
                    return Err(error(offset, format!("`{}()` has nothing to work on", name.id), None));
                };
                // min(a, b) is min([a, b])
                if matches!(name.id, "min" | "max" | "sum" | "average") && !rest.is_empty() {
                    let word = word(FILTERS, name.id, "function", &[], offset)?;
                    let mut items = Vec::new();
                    for arg in &call.args {
                        let CallArg::Pos(e) = arg else {
                            return Err(error(offset, format!("`{}` takes values only", name.id), None));
                        };
                        items.push(self.node(e)?);
                    }
                    return Ok(Node::Call(word, Box::new(Node::List(items.into())), Box::new([])));
                }
                word(FILTERS, name.id, "function", &["now", "default"], offset)?;
                self.filter(name.id, input, rest, offset)
            }
            Expr::GetAttr(method) => {
                let of_now = match &method.expr {
                    Expr::Call(inner) if inner.args.is_empty() => chain(&inner.expr),
                    other => chain(other),
                };
                if call.args.is_empty() && of_now.is_some_and(|names| names == ["now"]) {
                    return self.now(Some(method.name), offset);
                }
                word(FILTERS, method.name, "method", &[], offset)?;
                self.filter(method.name, &method.expr, &call.args, offset)
            }
            _ => Err(error(offset, "this cannot be called", None)),
        }
    }
}

/// The names of `a.b['c']`.
fn chain(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Var(var) => Some(vec![var.id.to_owned()]),
        Expr::GetAttr(attr) => {
            let mut names = chain(&attr.expr)?;
            names.push(attr.name.to_owned());
            Some(names)
        }
        Expr::GetItem(item) => match &item.subscript_expr {
            Expr::Const(key) => {
                let mut names = chain(&item.expr)?;
                let key = key.value.as_str()?;
                // fields keep their names as they are
                names.push(if names == ["fields"] { key.to_owned() } else { written(key) });
                Some(names)
            }
            _ => None,
        },
        _ => None,
    }
}

fn literal(constant: &Const, offset: usize) -> Result<Node, ExprError> {
    let value = &constant.value;
    if value.is_none() {
        return Ok(Node::Nothing);
    }
    if let Some(text) = value.as_str() {
        return Ok(Node::Text(text.into()));
    }
    if let Ok(b) = bool::try_from(value.clone()) {
        return Ok(Node::Bool(b));
    }
    match f64::try_from(value.clone()) {
        Ok(n) if n.is_finite() => Ok(Node::Number(n)),
        _ => Err(error(offset, "this number is too great", None)),
    }
}

fn word(
    list: &'static [Word],
    name: &str,
    what: &str,
    also: &[&str],
    offset: usize,
) -> Result<&'static Word, ExprError> {
    if let Some(word) = list.iter().find(|w| w.name == name) {
        return Ok(word);
    }
    let names: Vec<String> = list.iter().map(|w| w.name).chain(also.iter().copied()).map(str::to_owned).collect();
    Err(error(offset, format!("there is no {what} `{name}`"), Some(advice(name, &names))))
}

fn advice(typed: &str, names: &[String]) -> String {
    match crate::config::near(typed, names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", names.join(", ")),
    }
}

fn statement(stmt: &Stmt) -> u32 {
    let span = match stmt {
        Stmt::Template(s) => s.span(),
        Stmt::EmitExpr(s) => s.span(),
        Stmt::EmitRaw(s) => s.span(),
        Stmt::ForLoop(s) => s.span(),
        Stmt::IfCond(s) => s.span(),
        Stmt::WithBlock(s) => s.span(),
        Stmt::Set(s) => s.span(),
        Stmt::SetBlock(s) => s.span(),
        Stmt::AutoEscape(s) => s.span(),
        Stmt::FilterBlock(s) => s.span(),
        Stmt::Do(s) => s.span(),
    };
    span.start_offset
}
