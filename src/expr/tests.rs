//! What expressions and templates mean, and that nothing hostile gets through them.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::{Mono, Wall};

const DOOR: PointId = PointId(0);
const TEMPERATURE: PointId = PointId(1);
const HUMIDITY: PointId = PointId(2);
const PUMP: PointId = PointId(3);

/// A house: what its points are worth.
#[derive(Default)]
struct House {
    points: HashMap<PointId, (Value, Duration)>,
    value: Option<Value>,
    fields: HashMap<&'static str, Value>,
    now: Now,
}

impl Lookup for House {
    fn now(&self) -> Now {
        self.now
    }
    fn point(&self, id: PointId) -> Seen<'_> {
        match self.points.get(&id) {
            Some((value, age)) => Seen { value: Some(value), quality: "good", age: Some(*age) },
            None => Seen::UNKNOWN,
        }
    }
    fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }
    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }
    fn word(&self, name: &str) -> Option<&str> {
        (name == "grant").then_some("12345")
    }
}

fn scope() -> Scope {
    Scope::new()
        .device("door", [("state", DOOR)])
        .device("weather", [("temperature", TEMPERATURE), ("rel-humidity", HUMIDITY)])
        .device("water-pump", [("state", PUMP)])
        .with_value()
        .with_fields()
        .with_word("grant")
}

fn house() -> House {
    let mut house = House::default();
    let age = Duration::from_secs(30);
    house.points.insert(DOOR, (Value::Bool(true), age));
    house.points.insert(TEMPERATURE, (Value::Number(23.5), age));
    house.value = Some(Value::Number(20.0));
    house.fields.insert("T", Value::Number(4.0));
    house.fields.insert("mode", Value::Text("auto".into()));
    house
}

fn says(text: &str) -> String {
    let expression = Expression::compile(text, &scope()).unwrap_or_else(|e| panic!("{text}: {e} at {}", e.offset));
    match expression.value(&house()) {
        Ok(value) => value.to_string(),
        Err(blank) => format!("no decision: {}", blank.say(|id| format!("#{}", id.0))),
    }
}

fn wrong(text: &str) -> String {
    let e = Expression::compile(text, &scope()).err().unwrap_or_else(|| panic!("{text} was taken"));
    format!("{}: {e}", e.offset)
}

#[test]
fn expressions_are_jinja() {
    for (text, want) in [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("value * 1.8 + 32", "68"),
        ("7 // 2", "3"),
        ("-7 % 3", "2"),
        ("2 ** 3 ** 2", "64"),
        ("20.3 - 0.4", "19.9"),
        ("weather.temperature > 20 and door", "ON"),
        ("20 < weather.temperature <= 23.5", "ON"),
        ("not door", "OFF"),
        ("door == 'ON'", "ON"),
        ("door == 'off'", "OFF"),
        ("door != 'OFF'", "ON"),
        ("door == true", "ON"),
        ("door == 1", "ON"),
        ("'a' if door else 'b'", "a"),
        ("value in [19, 20]", "ON"),
        ("value not in [19, 20]", "OFF"),
        ("'ut' in fields.mode", "ON"),
        ("fields.T + 1", "5"),
        ("fields['T']", "4"),
        ("weather['temperature'] | round", "24"),
        ("weather.temperature | round(1, 'floor')", "23.5"),
        ("weather.temperature.age < 60", "ON"),
        ("weather.temperature.age", "30"),
        ("weather.temperature.quality", "good"),
        ("door.state.quality == 'good'", "ON"),
        ("min(value, 3, weather.temperature)", "3"),
        ("[1, 2, 9] | average", "4"),
        ("'21.5' | float", "21.5"),
        ("'x' | float(7)", "7"),
        ("' a b '.strip().split(' ')[1]", "b"),
        ("'abcdef'[1:3]", "bc"),
        ("'abcdef'[-2:]", "ef"),
        ("'%05.1f' | format(3.14159)", "003.1"),
        ("'%04X %s%%' | format(255, 'x')", "00FF x%"),
        ("'a' ~ 1 ~ door", "a1ON"),
        ("value is number and value is not none", "ON"),
        ("value is even", "ON"),
        ("'say \"hi\"' | tojson", "\"say \\\"hi\\\"\""),
        ("grant", "12345"),
        ("iif(door, 'open', 'shut')", "open"),
        ("5 if false", "no decision: the result is none, not a value"),
    ] {
        assert_eq!(says(text), want, "{text}");
    }
}

#[test]
fn what_is_not_known_is_no_decision_unless_it_makes_no_difference() {
    for (text, want) in [
        ("water_pump", "no decision: #3 has no value now"),
        ("not water_pump", "no decision: #3 has no value now"),
        ("door and water_pump", "no decision: #3 has no value now"),
        ("door or water_pump", "ON"),
        ("water_pump or door", "ON"),
        ("water_pump and not door", "OFF"),
        ("water_pump == 'ON'", "no decision: #3 has no value now"),
        ("water_pump | default(false)", "OFF"),
        ("weather.rel_humidity | float(0)", "0"),
        ("weather.rel_humidity is defined", "OFF"),
        ("weather.rel_humidity is undefined or weather.rel_humidity > 3", "ON"),
        ("weather.rel_humidity.quality", "unknown"),
        ("weather.rel_humidity.age > 60", "no decision: #2 has no value now"),
        ("fields.none_such", "no decision: `fields.none_such` has no value"),
        ("now.hour > 6", "no decision: the clock is not set"),
        ("value / 0", "no decision: a division by zero"),
        ("10 ** 400", "no decision: the number is too great"),
        ("'warm' > 3", "no decision: cannot compare a text with a number"),
        ("[] | max", "no decision: the list is empty"),
    ] {
        assert_eq!(says(text), want, "{text}");
    }
}

#[test]
fn mistakes_are_named_with_their_place_and_what_to_write() {
    for (text, want) in [
        ("dor and value", "0: there is no point `dor`; did you mean `door`?"),
        (
            "value > 3 and weather.temprature",
            "14: `weather` has no point `temprature`; did you mean `weather.temperature`?",
        ),
        ("weather > 3", "0: `weather` has 2 points; write weather.temperature, weather.rel_humidity"),
        ("1 + door.agee", "4: `door` has no `.agee`; a point has `.age` and `.quality`"),
        ("value | rond(1)", "8: there is no filter `rond`; did you mean `round`?"),
        ("value is nummber", "9: there is no test `nummber`; did you mean `number`?"),
        ("now.our", "0: `now` has no `.our`; did you mean `hour`?"),
        ("value | abs(3)", "8: `abs` takes no argument, not 1"),
        ("", "0: the expression is empty; write something like `door and not pump`"),
        ("  {{ door }}", "2: an expression stands without braces; leave out the braces: they belong to templates"),
    ] {
        assert_eq!(wrong(text), want, "{text}");
    }
    assert!(wrong("door && value").contains("write `and`"), "{}", wrong("door && value"));
    assert!(wrong("door || value").contains("write `or`"), "{}", wrong("door || value"));
    assert!(wrong("!door").contains("write `not`"), "{}", wrong("!door"));
    assert!(wrong("door = 3").contains("`==`"), "{}", wrong("door = 3"));
    assert!(wrong("door and").starts_with("5: unexpected end of input"), "{}", wrong("door and"));
    let twins = Scope::new().device("a-b", [("state", DOOR)]).device("a_b", [("state", PUMP)]);
    let e = Expression::compile("a_b", &twins).unwrap_err();
    assert_eq!(e.text, "`a_b` may be `a-b` or `a_b`");
    let e = Expression::compile("value > 3", &Scope::new()).unwrap_err();
    assert_eq!(e.text, "`value` has no meaning here");
}

#[test]
fn a_template_keeps_its_words_and_fills_in_its_places() {
    let render = |text: &str| Template::compile(text, &scope()).unwrap().render(&house());
    assert_eq!(render("SET {{ value }}\r\n").unwrap(), "SET 20\r\n");
    assert_eq!(render("SET {{ value }}\n").unwrap(), "SET 20\n");
    assert_eq!(render("{{ grant }}/{{ fields.mode | upper }}").unwrap(), "12345/AUTO");
    assert_eq!(render("{% if door %}open{% elif value > 3 %}x{% else %}shut{% endif %}!").unwrap(), "open!");
    assert_eq!(render("{# remark #}{{ value * 1.1 }}").unwrap(), "22");
    assert_eq!(render("{{ water_pump }}"), Err(Blank::Point(PUMP)));
    assert!(Template::compile("no place", &scope()).unwrap().is_plain());
    let e = Template::compile("ab{{ valu }}", &scope()).unwrap_err();
    assert_eq!((e.offset, e.help.as_deref()), (5, Some("did you mean `value`?")));
    let e = Template::compile("{% for i in [1] %}{{ i }}{% endfor %}", &scope()).unwrap_err();
    assert!(e.text.contains("not known here"), "{e}");
    assert!(Template::compile("{{ value", &scope()).is_err());
}

#[test]
fn an_expression_knows_what_it_reads_and_when_time_alone_may_change_it() {
    let compile = |text: &str| Expression::compile(text, &scope()).unwrap();
    let ms = |n| Some(Duration::from_millis(n));
    assert_eq!(compile("door and door or weather.temperature > value").points(), [DOOR, TEMPERATURE]);
    assert!(compile("fields.T > 3").uses_fields() && !compile("value > 3").uses_fields());
    let mut at = house();
    assert_eq!(compile("door").changes_in(&at), None);
    assert_eq!(compile("weather.temperature.age < 60").changes_in(&at), ms(30_000));
    assert_eq!(compile("30 < weather.temperature.age").changes_in(&at), ms(1), "it turns just behind the limit");
    assert_eq!(compile("weather.temperature.age > 20").changes_in(&at), None, "it can only be heard again");
    assert_eq!(compile("weather.temperature.age * 2 > 20").changes_in(&at), ms(1000));
    assert_eq!(compile("now.hour > 6").changes_in(&at), None, "the clock is not set");
    at.now = Now { wall: Wall(90_500), mono: Mono::default(), synced: true };
    assert_eq!(compile("now.hour > 6").changes_in(&at), ms(29_500));
    assert_eq!(compile("now > 6").changes_in(&at), ms(500));
}

#[test]
fn the_time_of_day_is_the_zones() {
    let mut at = house();
    // 2026-11-21T16:05:09Z, a Saturday
    at.now = Now { wall: Wall(1_795_277_109_000), mono: Mono::default(), synced: true };
    let says = |text: &str| Expression::compile(text, &scope()).unwrap().value(&at).unwrap().to_string();
    assert_eq!(says("now.hour ~ ':' ~ now().minute"), "16:5");
    assert_eq!(says("now.time > '16:00'"), "ON");
    assert_eq!(says("now.time ~ ' ' ~ now.date"), "16:05:09 2026-11-21");
    assert_eq!(says("now().weekday()"), "5");
    assert_eq!(says("now.isoweekday in [6, 7]"), "ON");
    assert_eq!(says("now - 1795277100"), "9");
}

#[test]
fn hostile_texts_cost_neither_stack_nor_memory() {
    let long = |piece: &str| piece.repeat(MAX_TEXT / piece.len());
    for text in [
        long("-"),
        format!("{}1", long("- ")),
        format!("{}1", long("not ").split_at(MAX_TEXT - 8).0),
        long("("),
        long("[["),
        long("1+"),
        format!("{}1", long("1+").split_at(MAX_TEXT - 2).0),
        format!("{}1", "1 if 1 else ".repeat(150)),
        format!("1{}", " if 1".repeat(400)),
        format!("value{}", "|abs".repeat(500)),
        format!("value{}", ".a".repeat(1000)),
        format!("value{}", "[0]".repeat(600)),
        format!("1{}", "**1".repeat(600)),
        format!("1{}", "<1".repeat(1000)),
        long("a(b("),
        format!("{}1{}", "(".repeat(24), ")".repeat(24)),
        format!("{}1", "not ".repeat(48)),
        format!("{}1", "1 if 1 else ".repeat(48)),
        format!("don't {{{{ {}", "(".repeat(1000)),
        "x".repeat(MAX_TEXT + 1),
    ] {
        let _ = Expression::compile(&text, &scope()).map(|e| e.value(&house()));
        let _ = Template::compile(&format!("{{{{ {text}"), &scope());
        let _ = Template::compile(&"{% if 1 %}".repeat(200), &scope());
    }
    // a text that doubles with each step ends at the limit
    let doubling = format!("'{}'{}", "x".repeat(60), ".replace('x', 'xxxxxxxx')".repeat(20));
    assert_eq!(says(&doubling), "no decision: the result is too long");
}

/// Pieces that fuzzed texts are made of.
fn piece() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "door",
        "weather.temperature",
        "value",
        "fields.T",
        "now.hour",
        "water_pump",
        "1",
        "0",
        "1e308",
        "-",
        "+",
        "*",
        "/",
        "//",
        "%",
        "**",
        "~",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        " and ",
        " or ",
        " not ",
        " if ",
        " else ",
        " in ",
        " is ",
        "==",
        "<",
        ">=",
        "|",
        "round",
        "float",
        "log",
        "sqrt",
        "default",
        "number",
        "'x'",
        "'ON'",
        ".age",
        "format",
        "'%d'",
        "split",
        "join",
        "max",
    ])
}

proptest! {
    #[test]
    fn whatever_is_written_and_read_no_number_comes_out_that_is_not_finite(
        pieces in proptest::collection::vec(piece(), 1..14),
        value in any::<f64>().prop_filter("finite", |n| n.is_finite()),
    ) {
        if let Ok(expression) = Expression::compile(&pieces.concat(), &scope()) {
            let mut at = house();
            at.value = Some(Value::Number(value));
            if let Ok(Value::Number(n)) = expression.value(&at) {
                prop_assert!(n.is_finite(), "{:?} gives {n}", expression);
            }
            let _ = expression.decide(&at);
            let _ = expression.changes_in(&at);
        }
    }

    #[test]
    fn any_text_is_compiled_or_refused(text in ".{0,80}") {
        if let Err(e) = Expression::compile(&text, &scope()) {
            prop_assert!(e.offset <= text.len());
        }
        if let Err(e) = Template::compile(&text, &scope()) {
            prop_assert!(e.offset <= text.len());
        }
    }
}
