//! What the gateway does by itself: the names of all points, computed points and alarms resolved.

use crate::config::logic::Computed as RawComputed;
use crate::device::{Built, PointDraft};
use crate::engine::logic::{Computed, Logic, Requires};
use crate::engine::points::Alarm;
use crate::expr::{Expression, Scope, Template};
use crate::model::{DeviceId, PointId, Priority, Problem, Qos};
use crate::wire::Topics;

use super::points::{Points, priority};
use super::{DevicePlan, Resolver};

/// The kind of a computed point in `explain` and `bridge/info`.
const KIND: &str = "computed";

impl Resolver<'_> {
    pub(super) fn logic(&mut self, devices: &mut Vec<DevicePlan>, topics: &mut Topics, all: &mut Points) -> Logic {
        let computed = self.computed_devices(devices, topics, all);
        let scope = self.scope(devices, all);
        self.chains(all, &scope);
        let computed = self.computed(computed, &scope);
        let mut alarms = Vec::new();
        for (i, draft) in all.drafts.iter().enumerate() {
            let (Some(alarm), Some(spec)) = (&draft.alarm, all.specs.get(i)) else { continue };
            let path: Vec<&str> = draft.path.iter().map(String::as_str).chain(["alarm", "when"]).collect();
            let Some(when) = self.expression(&path, &alarm.when, &scope.clone().with_value()) else { continue };
            let alarm = Alarm {
                when,
                qos: alarm.qos.and_then(Qos::from_number).unwrap_or(spec.qos),
                retain: alarm.retain.map_or(spec.retain, |r| r.0),
                priority: alarm.priority.map_or(Priority::Alarm, priority),
            };
            alarms.push((spec.id, alarm));
        }
        let payloads = self.payloads(all, &scope);
        let rules = self.rules(devices, all, &scope);
        let mut requires = Vec::new();
        for device in devices.iter() {
            let Some(text) = device.spec.output.as_ref().and_then(|o| o.requires.clone()) else { continue };
            let holds = self.expression(&["devices", &device.spec.name, "requires"], &text, &scope);
            requires.extend(holds.map(|holds| Requires { device: device.spec.id, holds }));
        }
        Logic { zone: None, alarms, payloads, computed, rules, requires, ..Logic::default() }
    }

    /// The payloads of users' own.
    fn payloads(&mut self, all: &Points, scope: &Scope) -> Vec<(PointId, Template)> {
        let words = ["payload", "topic", "quality", "time"];
        let scope = words.iter().fold(scope.clone().with_value().with_fields(), |scope, word| scope.with_word(word));
        let mut general: Option<Option<Template>> = None;
        let mut payloads = Vec::new();
        for (draft, spec) in all.drafts.iter().zip(&all.specs) {
            let Some(payload) = &draft.payload else { continue };
            let template = if payload.written {
                let path: Vec<&str> = draft.path.iter().map(String::as_str).chain(["payload"]).collect();
                self.template(&path, &payload.text, &scope)
            } else {
                // one for all, and its mistakes are told once
                general.get_or_insert_with(|| self.template(&["defaults", "payload"], &payload.text, &scope)).clone()
            };
            payloads.extend(template.map(|template| (spec.id, template)));
        }
        payloads
    }

    /// The names of all points. A device that was left out as wrong keeps its name, so that who names it is not wrong
    /// too.
    pub(super) fn scope(&self, devices: &[DevicePlan], all: &Points) -> Scope {
        devices.iter().fold(Scope::new(), |scope, device| {
            let points = device.spec.points.iter().filter_map(|id| all.specs.get(id.0 as usize));
            scope.device(&device.spec.name, points.map(|p| (p.name.as_str(), p.id)))
        })
    }

    /// Whether a device or computed point was written and is not there: what only follows from that is not told.
    fn some_are_missing(&self) -> bool {
        self.places.dropped(&["devices"])
            || self.places.dropped(&["computed"])
            || self.problems.iter().any(|p| !p.warning)
    }

    /// Compiles an expression, or says what is wrong with it.
    pub(super) fn expression(&mut self, path: &[&str], text: &str, scope: &Scope) -> Option<Expression> {
        match Expression::compile(text, scope) {
            Ok(expression) => Some(expression),
            Err(e) => {
                self.wrong_expression(path, e);
                None
            }
        }
    }

    /// Compiles a template, or says what is wrong with it.
    pub(super) fn template(&mut self, path: &[&str], text: &str, scope: &Scope) -> Option<Template> {
        match Template::compile(text, scope) {
            Ok(template) => Some(template),
            Err(e) => {
                self.wrong_expression(path, e);
                None
            }
        }
    }

    fn wrong_expression(&mut self, path: &[&str], e: crate::expr::ExprError) {
        // a name that is not there only because its device is wrong has been told at the device
        if e.text.starts_with("there is no point") && self.some_are_missing() {
            let named = e.text.split('`').nth(1).and_then(|n| n.split('.').next()).unwrap_or_default();
            let written = |section: &str| self.places.keys(&[section]).iter().any(|k| k.replace('-', "_") == named);
            if written("devices") || written("computed") {
                return;
            }
        }
        let place = self.places.inside(path, e.offset);
        self.problems.push(e.problem(place));
    }

    /// Gives each computed point a device of its own, so that it has a topic, an availability and a name like any
    /// other.
    fn computed_devices(
        &mut self,
        devices: &mut Vec<DevicePlan>,
        topics: &mut Topics,
        all: &mut Points,
    ) -> Vec<(String, DeviceId, PointId)> {
        let mut found = Vec::new();
        for (name, computed) in &self.raw.computed {
            let RawComputed { expression, keys } = computed;
            if devices.iter().any(|d| d.spec.name == *name) {
                let (place, first) = (self.places.key(&["computed", name]), self.places.key(&["devices", name]));
                let problem = Problem::error(place, format!("there is a device `{name}` already"));
                self.problems.push(problem.related(first, "here").help("give the computed point another name"));
                continue;
            }
            let point = PointDraft {
                name: "value".into(),
                keys: keys.clone(),
                path: Vec::new(),
                values: "as computed",
                stateful: false,
            };
            let built = Built {
                points: vec![point],
                point_verbs: vec!["get"],
                device_verbs: Vec::new(),
                own_verbs: Vec::new(),
                output: None,
                safe: None,
                notes: vec![expression.clone()],
                driver: crate::device::computed(),
            };
            let (device, id) = (DeviceId(devices.len() as u32), PointId(all.specs.len() as u32));
            devices.push(self.device(("computed", device, name), KIND, built, topics, all));
            found.push((name.clone(), device, id));
        }
        found
    }

    /// Compiles them and puts them in the order of who needs whom.
    fn computed(&mut self, found: Vec<(String, DeviceId, PointId)>, scope: &Scope) -> Vec<Computed> {
        let mut open = Vec::new();
        for (name, device, point) in found {
            let Some(raw) = self.raw.computed.get(&name) else { continue };
            let value = self.expression(&["computed", &name, "expression"], &raw.expression, scope);
            open.extend(value.map(|value| (name, Computed { device, point, value })));
        }
        let mut ready: Vec<Computed> = Vec::new();
        while !open.is_empty() {
            let needs = |c: &Computed, of: &[(String, Computed)]| {
                of.iter().find(|(_, o)| c.value.points().contains(&o.point)).map(|(name, o)| (name.clone(), o.point))
            };
            match open.iter().position(|(_, c)| needs(c, &open).is_none()) {
                Some(free) => ready.push(open.remove(free).1),
                None => {
                    // everyone that is left needs another that is left: follow them until one comes again
                    let (first, mut at) = match open.first() {
                        Some((name, c)) => (name.clone(), c.clone()),
                        None => break,
                    };
                    let mut way = vec![first];
                    while let Some((next, point)) = needs(&at, &open) {
                        let again = way.iter().position(|n| *n == next);
                        way.push(next);
                        if let Some(begin) = again {
                            way.drain(..begin);
                            break;
                        }
                        match open.iter().find(|(_, c)| c.point == point) {
                            Some((_, c)) => at = c.clone(),
                            None => break,
                        }
                    }
                    let name = way.first().cloned().unwrap_or_default();
                    let text = format!("computed points need each other in a ring: {}", way.join(" needs "));
                    self.error(&["computed", &name, "expression"], text, "one of them must do without the others");
                    break;
                }
            }
        }
        ready
    }
}
