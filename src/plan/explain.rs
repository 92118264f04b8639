//! What a plan will do, for people and for programs: every device and point with its topics and claims. No secrets.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use crate::config::scalar::{Size, Span};
use crate::engine::points::Alarm;
use crate::engine::relays::{From, Relay, To};
use crate::engine::rules::{Branch, Rule, Step, Trigger, Worth};
use crate::model::{Deliver, PayloadFormat, PointId, PointSpec, Priority};
use crate::wire::Topics;

use super::Plan;

fn words<'a>(plan: &'a Plan, point: &PointSpec) -> (&'static str, &'a str, &'static str) {
    (
        match point.deliver {
            Deliver::All => "all",
            Deliver::Latest => "latest",
            Deliver::None => "none",
        },
        match (plan.logic.payloads.iter().find(|(of, _)| *of == point.id), point.payload) {
            (Some((_, template)), _) => template.text(),
            (None, PayloadFormat::Plain) => "plain",
            (None, PayloadFormat::Json) => "json",
            (None, PayloadFormat::Cbor) => "cbor",
        },
        priority_word(point.priority),
    )
}

fn priority_word(priority: Priority) -> &'static str {
    match priority {
        Priority::Alarm => "alarm",
        Priority::Bulk => "bulk",
        Priority::Normal | Priority::Control => "normal",
    }
}

/// For people.
pub fn explain(plan: &Plan) -> String {
    let mut out = String::new();
    let urls: Vec<String> = plan.link.urls.iter().map(ToString::to_string).collect();
    let _ = writeln!(out, "gateway {}{}", plan.id, plan.name.as_ref().map_or(String::new(), |n| format!(" ({n})")));
    let _ = writeln!(out, "broker  {} as {}", urls.join(", then "), plan.link.client_id);
    let _ = writeln!(
        out,
        "queue   {}, at most {} and {}",
        plan.queue.dir.display(),
        Size(plan.queue.limits.max_bytes),
        Span(plan.queue.limits.max_age)
    );
    if let Some(broker) = &plan.broker {
        let tls = if broker.tls.is_some() { " with TLS" } else { "" };
        let who = if broker.users.is_some() { "" } else { ", for everybody who reaches it" };
        let _ = writeln!(out, "broker of its own on {}{tls}{who}", broker.listen);
        for (name, user) in broker.users.iter().flat_map(|users| users.iter()) {
            let (publish, subscribe) = (user.publish.join(" "), user.subscribe.join(" "));
            let _ = writeln!(out, "  user {name}: publishes to {publish}; subscribes to {subscribe}");
        }
    }
    if let Some(node) = &plan.sparkplug {
        let host = node.primary_host.as_ref().map_or(String::new(), |h| format!(", waits for the host {h}"));
        let _ = writeln!(out, "sparkplug node {}/{}{host}", node.group, node.node);
    }
    if let Some(homie) = &plan.homie {
        let _ = writeln!(out, "homie device {}", homie.attribute(&homie.root, "").trim_end_matches('/'));
    }
    for device in &plan.devices {
        let _ = writeln!(out, "\n{} ({}): {}", device.spec.name, device.spec.kind, device.notes.join("; "));
        let _ = writeln!(out, "  availability  {}", plan.topics.availability(&device.spec.name));
        let first = device.spec.points.first().and_then(|id| plan.points.get(id.0 as usize));
        if let Some(batch) = first.and_then(|point| point.batch.as_ref()) {
            let (topic, every, max) = (plan.topics.device(&device.spec.name), Span(batch.every), batch.max);
            let _ = writeln!(out, "  batch         {topic}, after {every} or {max} readings");
        }
        for id in &device.spec.points {
            let Some(point) = plan.points.get(id.0 as usize) else { continue };
            let (deliver, payload, priority) = words(plan, point);
            let values = plan.values.get(id.0 as usize).copied().unwrap_or_default();
            let unit = point.unit.as_ref().map_or(String::new(), |u| format!(" [{u}]"));
            let _ = writeln!(out, "  {}{unit}  {}", point.name, point.topic);
            let retain = if point.retain { ", retained" } else { "" };
            let expiry = point.expiry.map_or(String::new(), |e| format!(", expires after {}", Span(e)));
            let _ = writeln!(
                out,
                "    {values}; qos {}{retain}, {payload}, while offline: {deliver}, priority {priority}{expiry}",
                point.qos.number()
            );
            if let Some(filters) = plan.filters.get(id.0 as usize).filter(|f| !f.is_empty()) {
                let _ = writeln!(out, "    filters {}", filters.join(" → "));
            }
            if let Some(alarm) = alarm_of(plan, *id) {
                let retain = if alarm.retain { ", retained" } else { "" };
                let (qos, priority) = (alarm.qos.number(), priority_word(alarm.priority));
                let _ = writeln!(out, "    alarm while {}: qos {qos}{retain}, priority {priority}", alarm.when.text());
            }
        }
        for verb in &device.spec.verbs {
            for topic in verb_topics(plan, device.spec.id.0 as usize, verb) {
                let _ = writeln!(out, "  listens       {topic}");
            }
        }
    }
    for rule in &plan.logic.rules {
        let _ = writeln!(out, "\nrule {}: {}", rule.name, rule_when(rule));
        for (branch, steps) in [(Branch::Then, &rule.then), (Branch::Otherwise, &rule.otherwise)] {
            if !steps.is_empty() {
                let steps: Vec<String> = steps.iter().map(|step| step_text(plan, step)).collect();
                let _ = writeln!(out, "  {:<10}{}", branch.word(), steps.join("; "));
            }
        }
    }
    for relay in &plan.logic.relays.relays {
        let _ = writeln!(out, "\nrelay {}: {}", relay.name, relay_text(plan, relay));
    }
    out
}

fn relay_text(plan: &Plan, relay: &Relay) -> String {
    let from = match &relay.from {
        From::Topic(filter) => filter.as_str(),
        From::Point(_, topic) => topic.as_str(),
    };
    let to = match &relay.to {
        To::Topic(topic) => {
            let retain = if relay.retain { ", retained" } else { "" };
            format!("{} (qos {}{retain})", topic.text(), relay.qos.number())
        }
        To::Set(device, _) => {
            format!("{} set", plan.devices.get(device.0 as usize).map_or("", |d| &d.spec.name))
        }
    };
    let payload = relay.payload.as_ref().map_or(String::new(), |p| format!(" as `{}`", p.text()));
    let when = relay.when.as_ref().map_or(String::new(), |w| format!(" when {}", w.text()));
    format!("{from} → {to}{payload}{when}")
}

fn alarm_of(plan: &Plan, id: PointId) -> Option<&Alarm> {
    plan.logic.alarms.iter().find(|(of, _)| *of == id).map(|(_, alarm)| alarm)
}

fn rule_when(rule: &Rule) -> String {
    let mut parts = Vec::new();
    match &rule.trigger {
        Trigger::Change => {}
        Trigger::Every(every) => parts.push(format!("every {}", Span(*every))),
        Trigger::At(times) => {
            let times: Vec<String> = times.iter().map(ToString::to_string).collect();
            parts.push(format!("at {}", times.join(", ")));
        }
    }
    if let Some(when) = &rule.when {
        let hold = if rule.hold.is_zero() { String::new() } else { format!(" for {}", Span(rule.hold)) };
        parts.push(format!("when {}{hold}", when.text()));
    }
    parts.extend(rule.until.as_ref().map(|until| format!("until {}", until.text())));
    parts.join(", ")
}

fn step_text(plan: &Plan, step: &Step) -> String {
    match step {
        Step::Delay(d) => format!("wait {}", Span(*d)),
        Step::Wish { device, point, verb, value } => {
            let device = plan.devices.get(device.0 as usize).map_or("", |d| &d.spec.name);
            let point = point.and_then(|id| plan.points.get(id.0 as usize));
            let point = point.map_or(String::new(), |p| format!("/{}", p.name));
            let value = match value {
                Worth::Fixed(value) => value.to_string(),
                Worth::Filled(template) => template.text().to_owned(),
            };
            format!("{device}{point} {verb} {value}").trim_end().to_owned()
        }
        Step::Publish { topic, payload, qos, retain } => {
            let retain = if *retain { ", retained" } else { "" };
            format!("publish on {} `{}` (qos {}{retain})", topic.text(), payload.text(), qos.number())
        }
    }
}

/// For programs.
pub fn explain_json(plan: &Plan) -> Json {
    let devices: Vec<Json> = plan
        .devices
        .iter()
        .enumerate()
        .map(|(i, device)| {
            let points: Vec<Json> = device
                .spec
                .points
                .iter()
                .filter_map(|id| {
                    let point = plan.points.get(id.0 as usize)?;
                    let (deliver, payload, priority) = words(plan, point);
                    Some(json!({
                        "name": point.name, "topic": point.topic, "qos": point.qos.number(), "retain": point.retain,
                        "deliver": deliver, "payload": payload, "priority": priority, "unit": point.unit,
                        "batch": point.batch.as_ref().map(|b| json!({
                            "topic": b.topic, "every": Span(b.every).to_string(), "max": b.max,
                        })),
                        "values": plan.values.get(id.0 as usize),
                        "device_class": point.device_class, "filters": plan.filters.get(id.0 as usize),
                        "expiry": point.expiry.map(|e| Span(e).to_string()),
                        "alarm": alarm_of(plan, *id).map(|a| json!({
                            "when": a.when.text(), "qos": a.qos.number(), "retain": a.retain,
                            "priority": priority_word(a.priority),
                        })),
                    }))
                })
                .collect();
            let listens: Vec<String> = device.spec.verbs.iter().flat_map(|verb| verb_topics(plan, i, verb)).collect();
            json!({
                "name": device.spec.name, "kind": device.spec.kind, "claims": device.notes, "points": points,
                "availability": plan.topics.availability(&device.spec.name), "listens": listens,
            })
        })
        .collect();
    json!({
        "gateway": { "id": plan.id, "name": plan.name, "area": plan.area },
        "mqtt": {
            "url": plan.link.urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "client_id": plan.link.client_id, "topic_prefix": plan.prefix,
        },
        "queue": {
            "dir": plan.queue.dir, "max_size": Size(plan.queue.limits.max_bytes).to_string(),
            "max_age": Span(plan.queue.limits.max_age).to_string(),
        },
        "broker": plan.broker.as_ref().map(|b| b.listen.to_string()),
        "homie": plan.homie.as_ref().map(|homie| json!({ "domain": homie.domain, "device": homie.root })),
        "sparkplug": plan.sparkplug.as_ref().map(|node| {
            json!({ "group": node.group, "node": node.node, "primary_host": node.primary_host })
        }),
        "devices": devices,
        "rules": plan.logic.rules.iter().map(|rule| {
            let steps = |steps: &[Step]| steps.iter().map(|step| step_text(plan, step)).collect::<Vec<_>>();
            json!({
                "name": rule.name, "when": rule_when(rule), "then": steps(&rule.then),
                "otherwise": steps(&rule.otherwise),
            })
        }).collect::<Vec<_>>(),
        "relays": plan.logic.relays.relays.iter().map(|relay| {
            json!({ "name": relay.name, "way": relay_text(plan, relay) })
        }).collect::<Vec<_>>(),
    })
}

/// Where a verb of a device is listened for.
fn verb_topics(plan: &Plan, device: usize, verb: &str) -> Vec<String> {
    let Some(device) = plan.devices.get(device) else { return Vec::new() };
    let mut topics: Vec<String> = device
        .spec
        .points
        .iter()
        .filter_map(|id| plan.points.get(id.0 as usize))
        .map(|point| Topics::verb(&point.topic, verb))
        .chain([Topics::verb(&plan.topics.device(&device.spec.name), verb)])
        .filter(|topic| plan.topics.route(topic).is_some())
        .collect();
    topics.sort();
    topics.dedup();
    topics
}
