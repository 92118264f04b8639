//! Conversations with instruments of every kind of manners, on a clock that is moved by hand.

use super::*;
use crate::codec::{CheckKeys, DecodeKeys, FieldKeys, FrameKeys};
use crate::device::serial::keys::{Polls, Request};
use proptest::prelude::*;
use regex::bytes::Regex;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A conversation and its clock; what it said since it was last looked at.
struct Lab {
    talk: Talk,
    start: Instant,
    now: Instant,
    said: Vec<Say>,
}

#[derive(Default)]
struct Device<'a> {
    frame: &'a str,
    check: &'a str,
    decode: &'a str,
    points: &'a [(&'a str, &'a str)],
    poll: &'a str,
    commands: Vec<Command>,
    offline_after: Option<Duration>,
}

impl Device<'_> {
    fn lab(self) -> Lab {
        let json = |text: &str, otherwise: &str| {
            serde_json::from_str::<serde_json::Value>(if text.is_empty() { otherwise } else { text }).unwrap()
        };
        let frame: FrameKeys = serde_json::from_value(json(self.frame, r#"{"delimiter": "\n"}"#)).unwrap();
        let check: Option<CheckKeys> =
            (!self.check.is_empty()).then(|| serde_json::from_value(json(self.check, "")).unwrap());
        let decode: DecodeKeys = serde_json::from_value(json(self.decode, r#"{"type": "keyvalue"}"#)).unwrap();
        let fields: Vec<(&str, FieldKeys)> =
            self.points.iter().map(|(name, keys)| (*name, serde_json::from_str(keys).unwrap())).collect();
        let fields: Vec<(&str, &FieldKeys)> = fields.iter().map(|(name, keys)| (*name, keys)).collect();
        let polls: Polls = serde_json::from_value(json(self.poll, "[]")).unwrap();
        let pipeline = Pipeline::with_gates(&frame, check.as_ref(), &decode, &fields, &polls.gates()).ok().unwrap();
        let names: Vec<&str> = self.points.iter().map(|(name, _)| *name).collect();
        let index = |name: &String| names.iter().position(|n| n == name).unwrap();
        let mut gates = 0..;
        let ready = polls.list.iter().map(|p| Poll {
            every: p.every.0,
            request: match &p.send {
                crate::device::serial::keys::SendKeys::Text(text) => text.clone().into_bytes(),
                form => panic!("{form:?}"),
            },
            timeout: p.timeout.map_or(ms(500), |s| s.0),
            gate: p.only.as_ref().and_then(|_| gates.next()),
            points: p.points.iter().flatten().map(index).collect(),
        });
        let script = Script {
            polls: ready.collect(),
            commands: self.commands,
            offline_after: self.offline_after,
            points: names.len(),
        };
        let start = Instant::now();
        let mut lab = Lab { talk: Talk::new(pipeline, script, start), start, now: start, said: Vec::new() };
        lab.talk.open(Joined::Midway, false, start, &mut lab.said);
        lab
    }
}

fn command(name: &str, expect: Option<&str>, timeout: Option<u64>) -> Command {
    Command {
        name: name.into(),
        takes: crate::model::Takes::Anything,
        request: Request::Fixed(name.as_bytes().to_vec()),
        expect: expect.map(|e| Regex::new(e).unwrap()),
        timeout: timeout.map(ms),
    }
}

impl Lab {
    /// The clock goes on; what is due is done at its time.
    fn wait(&mut self, n: u64) -> &mut Lab {
        let until = self.now + ms(n);
        while let Some(wake) = self.talk.wake(self.now).filter(|w| *w <= until) {
            assert!(wake >= self.now || self.talk.wake(wake) != Some(wake), "it wants to be woken in the past");
            self.now = self.now.max(wake);
            self.talk.tick(self.now, &mut self.said);
            if self.talk.wants(self.now).is_some() {
                break;
            }
        }
        if self.talk.wants(self.now).is_none() {
            self.now = until;
        }
        self
    }
    /// A turn is given, if one is wanted: what is written, and it is out at once.
    fn turn(&mut self) -> Option<String> {
        self.talk.wants(self.now)?;
        let bytes = self.talk.begin(self.now)?;
        self.talk.heard(Heard::Begun { quiet: true }, self.now, &mut self.said);
        self.talk.heard(Heard::Written(Ok(self.now)), self.now, &mut self.said);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
    fn hear(&mut self, bytes: impl AsRef<[u8]>) -> &mut Lab {
        self.hear_in(bytes, false)
    }
    fn hear_in(&mut self, bytes: impl AsRef<[u8]>, others: bool) -> &mut Lab {
        let heard = Heard::Bytes { at: self.now, bytes: bytes.as_ref().into(), others };
        self.talk.heard(heard, self.now, &mut self.said);
        self
    }
    fn order(&mut self, ticket: u64, verb: &str) -> &mut Lab {
        let action = Action::Verb { point: None, verb: verb.into(), value: Value::Text(String::new()) };
        self.talk.order(Ticket(ticket), action, self.now + ms(5000), Now::default(), &mut self.said);
        self
    }
    /// What was said, in words.
    fn said(&mut self) -> Vec<String> {
        let start = self.start;
        let word = |say: Say| match say {
            Say::Reading(point, value, Quality::Good, ..) => format!("{point}={value}"),
            Say::Reading(point, value, quality, ..) => format!("{point}={value} {}", quality.as_str()),
            Say::Acted(Ticket(n), Ok(value)) => {
                format!("{n} done{}", value.map_or(String::new(), |v| format!(" {v}")))
            }
            Say::Acted(Ticket(n), Err(no)) => format!("{n} {}: {}", no.kind.as_str(), no.reason),
            Say::Online => "online".into(),
            Say::Silent(why) => format!("silent: {why}"),
        };
        let _ = start;
        self.said.drain(..).map(word).collect()
    }
    fn at(&self) -> u64 {
        (self.now - self.start).as_millis() as u64
    }
    /// Until a turn is wanted.
    fn next(&mut self) -> (u64, String) {
        for _ in 0..100 {
            if let Some(request) = self.turn() {
                return (self.at(), request);
            }
            self.wait(10_000);
        }
        panic!("it asks nothing more");
    }
}

const READ: &str = r#"{"every": "10s", "send": "READ", "timeout": "500ms"}"#;
const T: &[(&str, &str)] = &[("t", r#"{"field": "T"}"#)];

#[test]
fn the_first_question_comes_at_once_and_then_at_its_pace() {
    let mut lab = Device { poll: READ, points: T, ..Device::default() }.lab();
    assert!(lab.said().is_empty(), "it is online when it has answered");
    for (n, at) in [0, 10_000, 20_000].into_iter().enumerate() {
        assert_eq!(lab.next(), (at, "READ".into()));
        lab.wait(120).hear(format!("T={n}\r\n"));
        let said = lab.said();
        assert_eq!(said.last(), Some(&format!("0={n}")).filter(|_| n > 0).or(Some(&"online".into())), "{said:?}");
        assert!(lab.talk.turn_is_over());
    }
}

#[test]
fn a_late_answer_is_thrown_away_and_is_not_the_next_ones() {
    let poll = r#"[{"every": "1s", "send": "T?", "timeout": "200ms", "points": ["t"]},
                   {"every": "1s", "send": "H?", "timeout": "200ms", "points": ["h"]}]"#;
    let points = &[("t", r#"{"pattern": "(.*)"}"#), ("h", r#"{"pattern": "(.*)"}"#)];
    let mut lab = Device { poll, points, decode: r#"{"type": "text"}"#, ..Device::default() }.lab();
    assert_eq!(lab.next(), (0, "T?".into()));
    // it thinks for too long; nobody is asked anything meanwhile
    lab.wait(1500);
    assert_eq!(lab.at(), 1500);
    lab.hear("21.5\n");
    assert!(lab.said().is_empty());
    assert_eq!(lab.talk.take_counts(), Counts { frames: 1, missed: 1, late: 1, ..Counts::default() });
    // the debt is paid: the next question goes out, and its answer is its own
    assert_eq!(lab.next(), (1500, "H?".into()));
    lab.wait(50).hear("40\n");
    assert_eq!(lab.said(), ["1=40", "online"]);
    assert_eq!(lab.next(), (1550, "T?".into()));
    lab.hear("21.6\n");
    assert_eq!(lab.said(), ["0=21.6"]);
}

#[test]
fn a_device_that_does_not_answer_is_silent_after_three_questions_and_asked_more_and_more_seldom() {
    let poll = r#"{"every": "1s", "send": "READ", "timeout": "500ms"}"#;
    let mut lab = Device { poll, points: T, ..Device::default() }.lab();
    let asked: Vec<u64> = (0..8).map(|_| lab.next().0).collect();
    assert_eq!(asked, [0, 2000, 4000, 6500, 11_000, 19_500, 30_000, 40_500]);
    assert_eq!(lab.said(), ["silent: no answer within 500ms to 3 requests in a row"]);
    assert_eq!(lab.talk.take_counts().missed, 7);
    lab.hear("T=4\n");
    assert_eq!(lab.said(), ["0=4", "online"]);
    assert_eq!(lab.next(), (41_500, "READ".into()));
}

#[test]
fn an_answer_that_is_broken_is_no_answer_and_is_not_joined_with_the_next() {
    let mut lab = Device { poll: READ, points: T, ..Device::default() }.lab();
    lab.next();
    lab.hear("T=1");
    assert_eq!(lab.next(), (2000, "READ".into()));
    lab.hear("T=2\n");
    assert_eq!(lab.said(), ["0=2", "online"]);
    let counts = lab.talk.take_counts();
    assert_eq!((counts.frames, counts.dropped, counts.missed), (1, 3, 1));
}

#[test]
fn only_a_frame_that_matches_is_the_answer_and_another_is_what_the_instrument_says_by_itself() {
    let poll = r#"{"every": "10s", "send": "A", "match": {"field": "type", "is": "a"}}"#;
    let points = &[("v", r#"{"field": "v"}"#), ("w", r#"{"field": "w"}"#)];
    let mut lab = Device { poll, points, ..Device::default() }.lab();
    lab.next();
    lab.hear("type=b;w=1\n");
    assert_eq!(lab.said(), ["1=1", "online"]);
    assert!(!lab.talk.turn_is_over());
    lab.hear("type=a;v=2\n");
    assert_eq!(lab.said(), ["0=2"]);
    assert!(lab.talk.turn_is_over());
    // an instrument that is asked may speak by itself all the same
    lab.wait(100).hear("type=b;w=3\n");
    assert_eq!(lab.said(), ["1=3"]);
}

#[test]
fn what_is_heard_in_anothers_turn_is_not_for_a_device_that_asks() {
    let mut lab = Device { poll: READ, points: T, ..Device::default() }.lab();
    lab.next();
    lab.hear("T=1\n").wait(1000);
    lab.said();
    lab.hear_in("T=99\ngarbage\n", true);
    assert!(lab.said().is_empty());
    assert_eq!(lab.talk.take_counts().frames, 1);
}

#[test]
fn a_command_goes_before_polls_and_gives_what_its_answer_says() {
    let commands = vec![
        command("heat", Some("^OK"), Some(1000)),
        command("ask", Some(r"^V=([0-9.]+)"), Some(1000)),
        command("beep", None, None),
    ];
    let mut lab = Device { poll: READ, points: T, commands, ..Device::default() }.lab();
    lab.order(1, "heat").order(2, "ask").order(3, "beep").order(4, "cook");
    assert_eq!(lab.said(), ["4 rejected: there is no command `cook`"]);
    assert_eq!(lab.next(), (0, "heat".into()));
    lab.hear("OK\n");
    // an acknowledgement is no bad frame
    assert_eq!(lab.talk.take_counts(), Counts { frames: 1, ..Counts::default() });
    assert_eq!(lab.next(), (0, "ask".into()));
    lab.hear("V=21.50 C\n");
    assert_eq!(lab.next(), (0, "beep".into()));
    assert_eq!(lab.said(), ["1 done", "online", "2 done 21.5", "3 done"]);
    assert_eq!(lab.next(), (0, "READ".into()));
}

#[test]
fn an_instrument_that_refuses_is_believed_and_one_that_says_nothing_times_out() {
    let commands = vec![command("set", Some("^OK"), Some(300))];
    let mut lab = Device { poll: READ, points: T, commands, ..Device::default() }.lab();
    lab.next();
    lab.hear("T=1\n");
    lab.order(1, "set").turn();
    lab.hear("ERR -222\r\n");
    lab.order(2, "set").turn();
    lab.wait(300);
    assert_eq!(lab.said()[2..], ["1 failed: it answered `ERR -222`", "2 timeout: no answer within 300ms"]);
    // the next waits for the answer that is owed, so that it is not taken for its own
    lab.order(3, "set");
    assert_eq!(lab.turn(), None);
    lab.wait(400).hear("OK\n");
    assert!(lab.said().is_empty(), "the answer to 2 came late");
    assert_eq!(lab.next(), (700, "set".into()));
    lab.hear("OK\n");
    assert_eq!(lab.said(), ["3 done"]);
}

#[test]
fn readings_that_stream_in_are_no_answer_to_a_command() {
    let commands = vec![command("zero", Some("^OK"), Some(300))];
    let mut lab = Device { points: T, commands, ..Device::default() }.lab();
    lab.hear("half;T=9\nT=1\n").order(1, "zero").turn();
    lab.hear("T=2\n").hear("OK\n").hear("T=3\n");
    assert_eq!(lab.said(), ["online", "0=1", "0=2", "1 done", "0=3"]);
    lab.order(2, "zero").turn();
    lab.hear("T=4\n").wait(300);
    assert_eq!(lab.said(), ["0=4", "2 failed: it answered `T=4`"]);
    // nor are they the one that is still owed
    lab.order(3, "zero").hear("T=5\n");
    assert_eq!((lab.said(), lab.turn()), (vec!["0=5".to_owned()], None));
    lab.hear("OK\n");
    assert_eq!((lab.said(), lab.turn()), (vec![], Some("zero".to_owned())));
}

#[test]
fn an_answer_of_another_form_than_the_frames_is_understood_after_a_pause() {
    let commands = vec![command("off", Some("^OK ([0-9]+)"), Some(1000))];
    let points = &[("v", r#"{"at": 2, "as": "u16be"}"#)];
    let frame = r#"{"start": "42 4d", "length": 32}"#;
    let mut lab = Device { frame, decode: r#"{"type": "binary"}"#, points, commands, ..Device::default() }.lab();
    lab.order(1, "off").turn();
    lab.hear("OK 1").wait(20);
    lab.hear("23\r\n").wait(70);
    assert_eq!(lab.said(), ["online", "1 done 123"]);
}

#[test]
fn an_order_that_never_gets_its_turn_is_told_in_time() {
    let commands = vec![command("beep", None, None)];
    let mut lab = Device { points: T, commands, ..Device::default() }.lab();
    lab.order(1, "beep");
    // nobody gives it the turn
    lab.talk.tick(lab.now + ms(5001), &mut lab.said);
    assert_eq!(lab.said(), ["online", "1 timeout: the line was busy for too long"]);
    assert_eq!(lab.talk.wants(lab.now), None);
}

#[test]
fn silence_makes_offline_and_a_frame_online() {
    let mut lab = Device { points: T, offline_after: Some(ms(30_000)), ..Device::default() }.lab();
    assert_eq!(lab.said(), ["online"]);
    lab.hear("x\nT=1\n").wait(29_999);
    assert_eq!(lab.said(), ["0=1"]);
    lab.hear("garbage\n").wait(1);
    assert_eq!(lab.said(), ["silent: nothing was heard for 30s"]);
    lab.wait(100_000).hear("T=2\n");
    assert_eq!(lab.said(), ["0=2", "online"]);
}

#[test]
fn a_write_that_fails_is_said_and_the_conversation_goes_on() {
    let commands = vec![command("beep", None, None)];
    let mut lab = Device { poll: READ, points: T, commands, ..Device::default() }.lab();
    lab.order(1, "beep");
    for _ in 0..2 {
        lab.talk.begin(lab.now).unwrap();
        lab.talk.heard(Heard::Begun { quiet: true }, lab.now, &mut lab.said);
        lab.talk.heard(Heard::Written(Err("the port did not take it in time".into())), lab.now, &mut lab.said);
        assert!(lab.talk.turn_is_over());
    }
    assert_eq!(lab.said(), ["1 failed: the port did not take it in time"]);
    assert_eq!(lab.talk.take_counts().errors, 1);
    assert_eq!(lab.next().1, "READ");
}

/// What an instrument does with a request.
#[derive(Debug, Clone)]
enum Manner {
    /// Answers after so long.
    After(u64),
    /// Says nothing.
    Nothing,
    /// Sends bytes that are no answer, and then the answer.
    Garbage(Vec<u8>, u64),
    /// Begins and does not end.
    Half,
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        4 => (0u64..190).prop_map(Manner::After),
        3 => (0u64..1990).prop_map(Manner::After),
        1 => Just(Manner::Nothing),
        1 => (proptest::collection::vec(any::<u8>(), 0..12), 0u64..1990).prop_map(|(b, t)| Manner::Garbage(b, t)),
        1 => Just(Manner::Half),
    ]
}

proptest! {
    #[test]
    fn no_answer_is_ever_taken_for_another_questions(
        manners in proptest::collection::vec(manner(), 1..60),
        pieces in 1usize..5,
    ) {
        // the answers have nothing in them by which they could be told apart, but we know whose they are
        let poll = r#"[{"every": "300ms", "send": "A", "timeout": "200ms", "points": ["a"]},
                       {"every": "700ms", "send": "B", "timeout": "200ms", "points": ["b"]}]"#;
        let points = &[("a", r#"{"at": 1, "as": "u16be"}"#), ("b", r#"{"at": 1, "as": "u16be"}"#)];
        let frame = r#"{"start": "55", "length": 5}"#;
        let check = r#"{"crc": "CRC-16/MODBUS"}"#;
        let decode = r#"{"type": "binary"}"#;
        let mut lab = Device { frame, check, decode, points, poll, ..Device::default() }.lab();
        let sum = crate::codec::Check::new(&serde_json::from_str(check).unwrap()).unwrap();
        let answer = |n: u16| {
            let [high, low] = n.to_be_bytes();
            let mut frame = vec![0x55, high, low];
            sum.append(&mut frame).unwrap();
            frame
        };
        // what will be heard, and when
        let mut coming: BTreeMap<(Instant, usize), Vec<u8>> = BTreeMap::new();
        let mut asked = 0u16;
        for manner in manners {
            let question = loop {
                if let Some(question) = lab.turn() {
                    break question;
                }
                let wake = lab.talk.wake(lab.now).unwrap();
                match coming.first_key_value().map(|(k, _)| *k).filter(|k| k.0 <= wake) {
                    Some(key) => {
                        lab.now = lab.now.max(key.0);
                        let bytes = coming.remove(&key).unwrap();
                        lab.hear(bytes);
                    }
                    None => {
                        prop_assert!(wake > lab.now, "it wants to be woken now, for ever");
                        lab.now = wake;
                        lab.talk.tick(wake, &mut lab.said);
                    }
                }
            };
            asked += 1;
            // odd numbers answer A, even ones B
            let n = 2 * asked + u16::from(question == "A");
            let (garbage, after, whole) = match manner {
                Manner::After(t) => (vec![], t, 5),
                Manner::Nothing => continue,
                Manner::Garbage(bytes, t) => (bytes, t, 5),
                Manner::Half => (vec![], 20, 3),
            };
            let at = lab.now + ms(after);
            let key = |coming: &BTreeMap<_, _>| (at, coming.len() + usize::from(asked) * 10);
            coming.insert(key(&coming), garbage);
            for piece in answer(n)[..whole].chunks(pieces) {
                coming.insert(key(&coming), piece.to_vec());
            }
        }
        for ((at, _), bytes) in coming {
            lab.now = lab.now.max(at);
            lab.hear(bytes);
        }
        for say in lab.said {
            if let Say::Reading(point, Value::Number(n), ..) = say {
                prop_assert_eq!(n as u32 % 2 == 1, point == 0, "{} went to point {}", n, point);
            }
        }
    }

    #[test]
    fn no_bytes_and_no_order_of_things_panics(
        steps in proptest::collection::vec((0u8..8, proptest::collection::vec(any::<u8>(), 0..40), 0u64..1500), 0..120),
    ) {
        let commands = vec![command("c", Some("^O(.)"), Some(300)), command("d", None, None)];
        let poll = r#"[{"every": "300ms", "send": "A", "timeout": "200ms"},
                       {"every": "1s", "send": "B", "match": {"field": "t", "is": ["b", "1"]}}]"#;
        let mut lab = Device { poll, points: T, commands, offline_after: Some(ms(2000)), ..Device::default() }.lab();
        for (what, bytes, n) in steps {
            match what {
                0 => { lab.turn(); }
                1 => { lab.talk.begin(lab.now); }
                2 => lab.talk.heard(Heard::Begun { quiet: n % 2 == 0 }, lab.now, &mut lab.said),
                3 => lab.talk.heard(Heard::Written(if n % 5 > 0 { Ok(lab.now) } else { Err("no".into()) }), lab.now, &mut lab.said),
                4 => { lab.order(n, if n % 2 == 0 { "c" } else { "d" }); }
                5 => { lab.hear_in(&bytes, n % 3 == 0); }
                6 => { lab.hear("T=1;t=b\n"); }
                _ => { lab.now += ms(n); lab.talk.tick(lab.now, &mut lab.said); }
            }
            if let Some(wake) = lab.talk.wake(lab.now) {
                prop_assert!(wake >= lab.now || what != 7, "a time that has come was not done");
            }
            prop_assert!(lab.talk.state.orders.len() <= WAITING);
        }
    }
}
