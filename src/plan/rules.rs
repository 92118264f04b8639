//! Rules, resolved: expressions compiled, targets found, clocks read.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use crate::config::logic::{Rule as RawRule, Step as RawStep, Steps};
use crate::config::raw::{OneOrMany, Params};
use crate::engine::rules::{Rule, Step, Trigger, Worth};
use crate::engine::schedule::Schedule;
use crate::expr::{Scope, Template};
use crate::model::{DeviceId, PointId, Qos, Value};
use crate::wire::topics::check_topic;

use super::points::Points;
use super::{DevicePlan, Resolver};

/// The longest list of steps.
const MOST_STEPS: usize = 100;
/// The shortest time between two firings by the clock.
const LEAST: Duration = Duration::from_secs(1);

/// What a rule may name.
pub(super) struct House<'a> {
    pub(super) devices: &'a [DevicePlan],
    pub(super) all: &'a Points,
    pub(super) scope: &'a Scope,
}

impl Resolver<'_> {
    pub(super) fn rules(&mut self, devices: &[DevicePlan], all: &Points, scope: &Scope) -> Vec<Rule> {
        let house = House { devices, all, scope };
        let raw = self.raw;
        raw.rules.iter().filter_map(|(name, rule)| self.rule(name, rule, &house)).collect()
    }

    fn rule(&mut self, name: &str, raw: &RawRule, house: &House) -> Option<Rule> {
        let path = ["rules", name];
        let at = |key: &'static str| [path[0], path[1], key];
        let when = raw.when.as_ref().map(|text| self.expression(&at("when"), text, house.scope));
        let until = raw.until.as_ref().map(|text| self.expression(&at("until"), text, house.scope));
        let trigger = self.trigger(name, raw);
        if self.places.dropped(&path)
            && (raw.then.is_none() || (raw.when.is_none() && trigger == Some(Trigger::Change)))
        {
            return None;
        }
        if raw.when.is_none() && trigger == Some(Trigger::Change) {
            let help = "write when: EXPRESSION, every: 10m or at: 07:30";
            self.error(&path, format!("rule `{name}` does not say when"), help);
            return None;
        }
        if raw.then.is_none() && raw.otherwise.is_none() {
            let help = "write then: [ { set: pump, to: ON } ]";
            self.error(&path, format!("rule `{name}` does nothing"), help);
        }
        let by_clock = trigger != Some(Trigger::Change);
        for (key, written) in [("for", raw.hold.is_some()), ("until", raw.until.is_some())] {
            if written && by_clock && trigger.is_some() {
                let text = format!("`{key}` has no meaning in a rule that goes by the clock");
                self.error(&at(key), text, "leave it out; `when` is asked at the moment the clock strikes");
            } else if written && raw.when.is_none() && trigger.is_some() {
                self.error(&at(key), format!("`{key}` needs a `when`"), "write when: EXPRESSION");
            }
        }
        let then = self.steps(&at("then"), raw.then.as_ref(), house);
        let otherwise = self.steps(&at("otherwise"), raw.otherwise.as_ref(), house);
        let (when, until) = (when.map_or(Some(None), |w| w.map(Some)), until.map_or(Some(None), |u| u.map(Some)));
        Some(Rule {
            name: name.to_owned(),
            trigger: trigger?,
            when: when?,
            until: until?,
            hold: raw.hold.map_or(Duration::ZERO, |s| s.0),
            then,
            otherwise,
        })
    }

    fn trigger(&mut self, name: &str, raw: &RawRule) -> Option<Trigger> {
        let path = ["rules", name, "at"];
        match (&raw.every, &raw.at) {
            (Some(_), Some(_)) => {
                self.error(&path, "`every` and `at` do not go together", "write two rules");
                None
            }
            (Some(every), None) if every.0 < LEAST => {
                self.error(&["rules", name, "every"], "`every` is at least 1s", "write every: 1s");
                None
            }
            (Some(every), None) => Some(Trigger::Every(every.0)),
            (None, Some(times)) => {
                let times: Vec<(Vec<String>, &String)> = match times {
                    OneOrMany::One(one) => vec![(Vec::new(), one)],
                    OneOrMany::Many(many) => {
                        many.iter().enumerate().map(|(i, text)| (vec![i.to_string()], text)).collect()
                    }
                };
                let mut schedules = Vec::new();
                for (below, text) in times {
                    match Schedule::parse(text) {
                        Ok(schedule) => schedules.push(schedule),
                        Err(text) => {
                            let (what, help) = text.split_once("; ").unwrap_or((&text, "write 07:30"));
                            let path: Vec<&str> = path.into_iter().chain(below.iter().map(String::as_str)).collect();
                            self.error(&path, what, help);
                            return None;
                        }
                    }
                }
                if schedules.is_empty() {
                    self.error(&path, "`at` names no time", "write at: 07:30");
                    return None;
                }
                Some(Trigger::At(schedules))
            }
            (None, None) => Some(Trigger::Change),
        }
    }

    fn steps(&mut self, path: &[&str], raw: Option<&Steps>, house: &House) -> Arc<[Step]> {
        let steps: Vec<(Vec<String>, &RawStep)> = match raw {
            None => Vec::new(),
            Some(Steps::One(one)) => vec![(Vec::new(), one)],
            Some(Steps::Many(many)) => many.iter().enumerate().map(|(i, step)| (vec![i.to_string()], step)).collect(),
        };
        if steps.len() > MOST_STEPS {
            self.error(path, format!("more than {MOST_STEPS} steps"), "make two rules of it");
        }
        steps
            .into_iter()
            .filter_map(|(below, step)| {
                let path: Vec<&str> = path.iter().copied().chain(below.iter().map(String::as_str)).collect();
                self.step(&path, step, house)
            })
            .collect()
    }

    fn step(&mut self, path: &[&str], raw: &RawStep, house: &House) -> Option<Step> {
        let at = |key: &'static str| path.iter().copied().chain([key]).collect::<Vec<_>>();
        let verbs = [
            ("set", &raw.set),
            ("pulse", &raw.pulse),
            ("blink", &raw.blink),
            ("fade", &raw.fade),
            ("send", &raw.send),
            ("command", &raw.command),
        ];
        let wishes: Vec<(&'static str, &String)> =
            verbs.into_iter().filter_map(|(verb, target)| Some((verb, target.as_ref()?))).collect();
        let mut what: Vec<&'static str> = wishes.iter().map(|(verb, _)| *verb).collect();
        what.extend(raw.publish.as_ref().map(|_| "publish"));
        what.extend(raw.delay.as_ref().map(|_| "delay"));
        if what.is_empty() && self.places.dropped(path) {
            return None;
        }
        let [one] = what.as_slice() else {
            let text = match what.as_slice() {
                [] => "a step that does nothing".to_owned(),
                [_, second, ..] => {
                    let text = format!("a step is one thing, not {}", what.join(" and "));
                    self.error(&at(second), text, "write a list of steps: [ { set: pump, to: ON }, { delay: 5s } ]");
                    return None;
                }
                [_] => String::new(),
            };
            self.error(path, text, "write { set: pump, to: ON }, { publish: a/b, payload: hello } or { delay: 5s }");
            return None;
        };
        let strays = [
            ("to", raw.to.is_some(), wishes.is_empty()),
            ("payload", raw.payload.is_some(), raw.publish.is_none()),
            ("qos", raw.qos.is_some(), raw.publish.is_none()),
            ("retain", raw.retain.is_some(), raw.publish.is_none()),
        ];
        for (key, written, stray) in strays {
            if written && stray {
                self.error(&at(key), format!("`{key}` does not go with `{one}`"), "leave it out");
            }
        }
        if let Some(delay) = raw.delay {
            return Some(Step::Delay(delay.0));
        }
        if let Some(topic) = &raw.publish {
            let topic_path = at("publish");
            let to = self.template(&topic_path, topic, house.scope)?;
            if to.is_plain()
                && let Err(text) = check_topic(topic)
            {
                self.error(&topic_path, text, "write a topic such as house/garden/alarm");
                return None;
            }
            let payload = raw.payload.as_ref().map_or("", |p| p.0.as_str());
            let payload = self.template(&at("payload"), payload, house.scope)?;
            let qos = raw.qos.and_then(Qos::from_number).unwrap_or_default();
            return Some(Step::Publish { topic: to, payload, qos, retain: raw.retain.is_some_and(|r| r.0) });
        }
        let (verb, target) = wishes.first()?;
        let (device, point, verb) = self.target(&at(verb), verb, target, house)?;
        let value = match &raw.to {
            Some(to) => self.worth(&at("to"), to, house.scope)?,
            None if *one == "command" => Worth::Fixed(Value::Text(String::new())),
            None if self.places.dropped(&at("to")) => return None,
            None => {
                let help = format!("write {{ {one}: {target}, to: {} }}", if *one == "pulse" { "500ms" } else { "ON" });
                self.error(path, format!("`{one}` needs a value under `to`"), help);
                return None;
            }
        };
        Some(Step::Wish { device, point, verb, value })
    }

    fn worth(&mut self, path: &[&str], raw: &Params, scope: &Scope) -> Option<Worth> {
        let text = match raw.read::<Json>() {
            Ok(Json::Bool(true)) => "ON".to_owned(),
            Ok(Json::Bool(false)) => "OFF".to_owned(),
            Ok(Json::String(text)) => text,
            Ok(other) => other.to_string(),
            Err(_) => return None,
        };
        if !text.contains("{{") && !text.contains("{%") {
            return Some(Worth::Fixed(Value::Text(text)));
        }
        let template: Template = self.template(path, &text, scope)?;
        Some(Worth::Filled(template))
    }

    /// Finds `pump`, `weather.heater` or `weather/heater`, and whether it knows the verb.
    pub(super) fn target(
        &mut self,
        path: &[&str],
        verb: &'static str,
        target: &str,
        house: &House,
    ) -> Option<(DeviceId, Option<PointId>, String)> {
        let (name, rest) = match target.split_once(['.', '/']) {
            Some((name, rest)) => (name, Some(rest)),
            None => (target, None),
        };
        let alike = |a: &str, b: &str| a.replace('-', "_") == b.replace('-', "_");
        let Some(device) = house.devices.iter().find(|d| alike(&d.spec.name, name)) else {
            if self.places.keys(&["devices"]).iter().any(|k| alike(k, name)) {
                return None;
            }
            let names: Vec<String> = house.devices.iter().map(|d| d.spec.name.clone()).collect();
            let help = match crate::config::near(name, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None if names.is_empty() => "there are no devices".into(),
                None => format!("there are {}", names.join(", ")),
            };
            self.error(path, format!("there is no device `{name}`"), help);
            return None;
        };
        let known = &device.spec.verbs;
        let listed = |verbs: &[String]| verbs.iter().filter(|v| *v != "get").cloned().collect::<Vec<_>>().join(", ");
        if verb == "command" {
            let Some(command) = rest.filter(|c| known.iter().any(|v| v == c)) else {
                let text = match rest {
                    Some(command) => format!("`{name}` has no command `{command}`"),
                    None => "a command is named with its device".into(),
                };
                let help = match listed(known).as_str() {
                    "" => format!("`{name}` takes no commands"),
                    list => format!("write {name}.COMMAND; `{name}` knows {list}"),
                };
                self.error(path, text, help);
                return None;
            };
            return Some((device.spec.id, None, command.to_owned()));
        }
        if !known.iter().any(|v| v == verb) {
            let help = match listed(known).as_str() {
                "" => format!("`{name}` takes no commands"),
                list => format!("`{name}` knows {list}"),
            };
            self.error(path, format!("`{name}` does not know `{verb}`"), help);
            return None;
        }
        let point = match rest {
            None => None,
            Some(rest) => {
                let points = device.spec.points.iter().filter_map(|id| house.all.specs.get(id.0 as usize));
                let found = points.clone().find(|p| alike(&p.name, rest)).map(|p| p.id);
                if found.is_none() {
                    let names: Vec<String> = points.map(|p| format!("{name}.{}", p.name)).collect();
                    self.error(
                        path,
                        format!("`{name}` has no point `{rest}`"),
                        format!("there are {}", names.join(", ")),
                    );
                    return None;
                }
                found
            }
        };
        Some((device.spec.id, point, verb.to_owned()))
    }
}
