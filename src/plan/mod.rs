//! WHAT CAN RUN: a file, resolved. In a [`Plan`] nothing is missing and nothing conflicts.
//!
//! [`check`] reads a file to the end and reports everything that is wrong, in form ([`crate::config`]) and in meaning
//! (here): a pin or topic used twice, a port that is not there, an interlock of one. The daemon runs only a plan.

pub mod board;
mod broker;
mod explain;
mod flows;
mod home_assistant;
mod homie;
mod link;
mod logic;
mod points;
mod rules;
mod sessions;
mod sparkplug;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::mask::Masks;
use crate::config::raw::{Backend, FlowControl, Gpio, Port, Raw, ReplayOrder, Rs485 as Rs485Keys, WhenFull};
use crate::config::scalar::{Span, SyncKey};
use crate::config::{Loaded, Vocabulary, When};
use crate::device::{Built, Desk, Driver, KINDS, SafePin};
use crate::engine::filters::{Chain, FILTERS};
use crate::engine::logic::Logic;
use crate::hal::bus;
use crate::hal::port::rs485::{LONGEST_DELAY, Rs485};
use crate::hal::port::{Line, PortKind, PortSpec};
use crate::link::LinkConfig;
use crate::link::guard::Broker;
use crate::model::{DeviceId, DeviceSpec, Place, PointId, PointSpec, Problem, is_name};
use crate::queue;
use crate::wire::Topics;
use crate::wire::home_assistant::Settings;

pub use explain::{explain, explain_json};

/// The last BCM number of the header.
const HEADER_LAST: u8 = 27;

/// A device of a plan.
pub struct DevicePlan {
    /// What the engine knows of it.
    pub spec: DeviceSpec,
    /// Its task.
    pub driver: Box<dyn Driver>,
    /// What `explain` says of it.
    pub notes: Vec<String>,
    /// Its output's safe level.
    pub safe: Option<SafePin>,
}

/// A configuration that can run.
pub struct Plan {
    /// The gateway's name in topics.
    pub id: String,
    /// Its name for people.
    pub name: Option<String>,
    /// Where it stands.
    pub area: Option<String>,
    /// First levels of every topic.
    pub prefix: String,
    /// The broker to talk to; its will, hello and subscriptions included.
    pub link: LinkConfig,
    /// Where the queue lives, and its limits.
    pub queue: queue::Options,
    /// The embedded broker, where it is wanted.
    pub broker: Option<Broker>,
    /// Devices, in the order of their ids.
    pub devices: Vec<DevicePlan>,
    /// The tasks of the ports that devices share.
    pub ports: Vec<bus::Task>,
    /// Points, in the order of their ids.
    pub points: Vec<PointSpec>,
    /// Their filters as written, for `explain`.
    pub filters: Vec<Vec<String>>,
    /// What their values are, for `explain`.
    pub values: Vec<&'static str>,
    /// Their filters.
    pub chains: Vec<Chain>,
    /// Computed points, alarms, rules.
    pub logic: Logic,
    /// What Home Assistant is told, where it is.
    pub home_assistant: Option<Settings>,
    /// The Sparkplug edge node, where it is one.
    pub sparkplug: Option<crate::wire::sparkplug::Settings>,
    /// The Homie device, where it is one.
    pub homie: Option<crate::wire::homie::Settings>,
    /// All topics.
    pub topics: Topics,
    /// Short digest of the file's text.
    pub digest: String,
    /// Whether pins are simulated.
    pub simulated: bool,
    /// Who drives the pins.
    pub gpio: Gpio,
    /// Pins that devices have for themselves.
    pub pins: Vec<board::PinClaim>,
    /// All ports, as they are written.
    pub lines: Vec<PortSpec>,
}

/// What is asked of the resolver beside the file.
pub struct Ask<'a> {
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The file's directory, from which relative names count.
    pub base: &'a Path,
    /// How serious an unreadable secret is.
    pub when: When,
    /// Whether pins are simulated.
    pub simulate: bool,
    /// The host's name, the default of `gateway.id`.
    pub host: &'a str,
    /// A suffix that is this machine's for ever, for the default client id.
    pub machine: &'a str,
}

/// A file, judged.
pub struct Checked {
    /// The plan; `None` if there is an error.
    pub plan: Option<Plan>,
    /// Everything found, warnings too.
    pub problems: Vec<Problem>,
    /// The file's text, for the report.
    pub text: String,
}

/// The open lists as the file may use them.
pub fn vocabulary() -> Vocabulary {
    Vocabulary { kinds: KINDS.iter().map(|k| k.word).collect(), filters: FILTERS.iter().map(|f| f.word).collect() }
}

/// Reads and judges a file's bytes.
pub fn check(bytes: &[u8], ask: &Ask) -> Checked {
    let taken: RefCell<Vec<(String, String)>> = RefCell::default();
    let env = |name: &str| {
        let value = (ask.env)(name);
        taken.borrow_mut().extend(value.iter().map(|v| (name.to_owned(), v.clone())));
        value
    };
    let Loaded { raw, problems, places, text, readable } = crate::config::load(bytes, &env, &vocabulary());
    let in_form = problems.len();
    let mut resolver = Resolver { raw: &raw, places: &places, problems, ask };
    let plan = if readable { resolver.resolve(&text) } else { None };
    let mut problems = resolver.problems;
    discreet(problems.get_mut(in_form..).unwrap_or_default(), &text, &taken.borrow());
    problems.sort_by_key(|p| p.place);
    problems.dedup();
    let plan = plan.filter(|_| problems.iter().all(|p| p.warning));
    Checked { plan, problems, text }
}

/// Takes secrets out of problems of meaning; what came from the environment is called by its name, it may be one.
fn discreet(problems: &mut [Problem], text: &str, taken: &[(String, String)]) {
    if problems.is_empty() {
        return;
    }
    let masks = Masks::of(text);
    let clean = |said: &str| {
        let mut said = masks.clean(said);
        // a value this short is no secret, and may be part of any word
        for (name, value) in taken.iter().filter(|(_, value)| value.len() > 3) {
            said = said.replace(value.as_str(), &format!("${{{name}}}"));
        }
        said
    };
    for problem in problems {
        problem.text = clean(&problem.text);
        problem.help = problem.help.take().map(|help| clean(&help));
    }
}

struct Resolver<'a> {
    raw: &'a Raw,
    places: &'a crate::config::Places,
    problems: Vec<Problem>,
    ask: &'a Ask<'a>,
}

impl Resolver<'_> {
    fn error(&mut self, path: &[&str], text: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::error(self.places.value(path), text).help(help));
    }

    fn resolve(&mut self, text: &str) -> Option<Plan> {
        if self.raw.version != 1 && !self.places.dropped(&["version"]) {
            let wrong = if self.places.has(&["version"]) {
                format!("version {} of the file format is unknown", self.raw.version)
            } else {
                "the file does not say its version".into()
            };
            self.error(&["version"], wrong, "write `version: 1` as the first line");
        }
        let id = self.gateway_id();
        let prefix = self.prefix(&id);
        let mut topics = Topics::new(&prefix);
        let link = self.link(&id, &prefix);
        let broker = self.raw.broker.as_ref().and_then(|b| self.broker(b));
        let port_names: Vec<String> = self.raw.ports.keys().cloned().collect();
        let ports: Vec<(String, Option<PortSpec>)> =
            self.raw.ports.iter().map(|(name, port)| (name.clone(), self.port(name, port))).collect();
        let (mut pins, mut bus_pins, mut buses, mut port_tasks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut devices = Vec::new();
        let mut all = points::Points::default();
        for (name, device) in &self.raw.devices {
            let find = |wanted: &str| ports.iter().find(|(n, _)| n == wanted).map(|(_, spec)| spec.clone());
            let mut desk = Desk {
                name,
                places: self.places,
                problems: &mut self.problems,
                pins: &mut pins,
                bus_pins: &mut bus_pins,
                ports: &find,
                port_names: &port_names,
                buses: &mut buses,
                port_tasks: &mut port_tasks,
            };
            let Some(kind) = KINDS.iter().find(|k| k.word.name == device.kind) else { continue };
            let Some(built) = (kind.build)(&device.params, &mut desk) else { continue };
            let id = DeviceId(devices.len() as u32);
            devices.push(self.device(("devices", id, name), kind.word.name, built, &mut topics, &mut all));
        }
        self.gpio(&pins, &devices);
        bus_pins.extend(buses.iter().flat_map(|bus| board::uart_pins(bus.spec(), self.places)));
        self.problems.extend(board::bus_conflicts(&self.raw.gpio, &pins, &bus_pins));
        let mut logic = self.logic(&mut devices, &mut topics, &mut all);
        logic.relays = self.relays(&devices, &all, &mut topics);
        logic.sessions = self.sessions(&devices, &all, &mut topics);
        self.interlocks(&devices);
        let home_assistant = self.home_assistant(&devices, &all, &mut topics);
        let sparkplug = self.sparkplug(&id, &devices, &all, &mut topics);
        let homie = self.homie(&id, &devices, &all, &mut topics);
        self.own_topics(&devices, &all, &topics);
        if self.ask.simulate {
            for pin in (0..=HEADER_LAST).chain(pins.iter().map(|p| p.0).filter(|p| *p > HEADER_LAST)) {
                topics.listen_sim(pin);
            }
        }
        let queue = self.queue();
        let mut link = link?;
        if let Some(broker) = &broker {
            self.own_login(broker, &link);
        }
        link.subscriptions =
            topics.subscriptions().into_iter().map(|(filter, qos)| crate::link::Subscription { filter, qos }).collect();
        Some(Plan {
            id,
            name: self.raw.gateway.name.clone(),
            area: self.raw.gateway.area.clone(),
            prefix,
            link,
            queue,
            broker,
            devices,
            ports: port_tasks,
            points: all.specs,
            filters: all.filters,
            values: all.values,
            chains: all.chains,
            logic,
            home_assistant,
            sparkplug,
            homie,
            topics,
            digest: format!("{:08x}", crc32fast::hash(text.as_bytes())),
            simulated: self.ask.simulate,
            gpio: self.raw.gpio.clone(),
            pins: pins.into_iter().map(|(pin, device, place)| board::PinClaim { pin, device, place }).collect(),
            lines: ports.into_iter().filter_map(|(_, spec)| spec).collect(),
        })
    }

    /// Whether the backend has such pins.
    fn gpio(&mut self, pins: &[(u8, String, Option<Place>)], devices: &[DevicePlan]) {
        let gpio = &self.raw.gpio;
        self.problems.extend(board::expanders(&gpio.expanders, self.places, pins, devices));
        let expanded = |pin: u8| gpio.expanders.iter().any(|e| e.pins().contains(&u16::from(pin)));
        if gpio.backend == Backend::Rppal && !self.places.dropped(&["gpio"]) {
            for (pin, _, place) in pins.iter().filter(|p| p.0 > HEADER_LAST && !expanded(p.0)) {
                let help = "the header has BCM numbers 0 to 27; lines of another chip need `gpio: { expanders: … }` or `backend: chardev`";
                self.problems.push(Problem::error(*place, format!("`pin`: there is no pin {pin}")).help(help));
            }
            if gpio.chip.is_some() {
                let help = "write `backend: chardev` beside it, or remove it";
                self.error(&["gpio", "chip"], "`chip` is for the character device, and rppal drives the pins", help);
            }
        }
        if gpio.chip.as_deref() == Some("") {
            self.error(&["gpio", "chip"], "`chip` is empty", "write a label, a name such as gpiochip0, or a path");
        }
    }

    fn gateway_id(&mut self) -> String {
        match &self.raw.gateway.id {
            Some(id) if is_name(id) => id.clone(),
            Some(id) => {
                let help = format!("write `{}`", as_name(id));
                self.error(&["gateway", "id"], format!("`{id}` is not a name: [a-z0-9_-]+"), help);
                "gateway".into()
            }
            None => as_name(self.ask.host),
        }
    }

    fn prefix(&mut self, id: &str) -> String {
        let Some(prefix) = &self.raw.mqtt.topic_prefix else { return id.to_owned() };
        match crate::wire::topics::check_topic(prefix) {
            Ok(()) => prefix.clone(),
            Err(text) => {
                self.error(&["mqtt", "topic_prefix"], text, "write one or more levels, such as house/greenhouse");
                id.to_owned()
            }
        }
    }

    fn rs485(&mut self, name: &str, keys: Rs485Keys) -> Rs485 {
        let mut delay = |key: &str, span: Option<Span>| {
            let delay = span.map_or(Duration::ZERO, |s| s.0);
            if delay > LONGEST_DELAY {
                let text = format!("`{key}` is longer than the kernel takes");
                self.error(&["ports", name, "rs485", key], text, "write at most 100ms");
            }
            delay
        };
        Rs485 {
            before: delay("delay_before", keys.delay_before),
            after: delay("delay_after", keys.delay_after),
            rts_on_send: keys.rts.is_none_or(|rts| rts.0),
            listen: keys.echo.unwrap_or_default().0,
        }
    }

    fn port(&mut self, name: &str, port: &Port) -> Option<PortSpec> {
        let serial = [
            ("baud_rate", port.baud_rate.is_some()),
            ("data_bits", port.data_bits.is_some()),
            ("parity", port.parity.is_some()),
            ("stop_bits", port.stop_bits.is_some()),
            ("flow_control", port.flow_control.is_some()),
            ("rs485", port.rs485.is_some()),
        ];
        let line = Line {
            baud_rate: port.baud_rate.unwrap_or(9600),
            data_bits: port.data_bits.unwrap_or(8),
            parity: port.parity.unwrap_or_default(),
            stop_bits: port.stop_bits.unwrap_or(1),
            flow_control: port.flow_control.unwrap_or_default(),
            rs485: port.rs485.map(|keys| self.rs485(name, keys)),
        };
        if line.rs485.is_some() && line.flow_control == FlowControl::Hardware {
            let help = "remove flow_control: hardware; RTS cannot do both";
            self.error(&["ports", name, "rs485"], "`rs485` and hardware flow control both want RTS", help);
        }
        if line.baud_rate == 0 {
            self.error(&["ports", name, "baud_rate"], "a line of 0 bits a second", "write baud_rate: 9600");
        }
        let mut kinds = Vec::new();
        kinds.extend(port.path.clone().map(|path| ("path", PortKind::Path { path, line })));
        kinds.extend(
            port.usb.clone().map(|usb| ("usb", PortKind::Usb { vid: usb.vid, pid: usb.pid, serial: usb.serial, line })),
        );
        kinds.extend(port.tcp.clone().map(|host_port| ("tcp", PortKind::Tcp { host_port })));
        kinds.extend(port.command.clone().map(|argv| ("command", PortKind::Command { argv })));
        if self.places.dropped(&["ports", name]) && kinds.is_empty() {
            return None;
        }
        let help = "write one of path, usb, tcp, command";
        if kinds.len() > 1 {
            let keys: Vec<_> = kinds.iter().map(|(k, _)| format!("`{k}`")).collect();
            let second = kinds[1].0;
            self.error(&["ports", name, second], format!("port `{name}` has {}", keys.join(" and ")), help);
            return None;
        }
        let Some((key, kind)) = kinds.pop() else {
            self.error(&["ports", name], format!("port `{name}` does not say where it is"), help);
            return None;
        };
        match &kind {
            PortKind::Tcp { host_port } => {
                let good = host_port.rsplit_once(':').is_some_and(|(host, port)| {
                    !host.is_empty() && !host.contains("//") && port.parse::<u16>().is_ok_and(|p| p > 0)
                });
                if !good {
                    let text = format!("`{host_port}` is not HOST:PORT");
                    self.error(&["ports", name, "tcp"], text, "write 192.168.1.40:4001");
                    return None;
                }
            }
            PortKind::Command { argv } if argv.first().is_none_or(String::is_empty) => {
                self.error(&["ports", name, "command"], "the list names no program", "write [PROGRAM, ARGUMENT, …]");
                return None;
            }
            PortKind::Path { path, .. } if path.is_empty() => {
                self.error(
                    &["ports", name, "path"],
                    "the path is empty",
                    "write /dev/serial/by-id/…; see pinpost ports",
                );
                return None;
            }
            PortKind::Path { path, .. } if path.starts_with("/dev/ttyUSB") || path.starts_with("/dev/ttyACM") => {
                let place = self.places.value(&["ports", name, "path"]);
                let text = format!("{path} may be another adapter after the next plug or boot");
                let help = "take the name below /dev/serial/by-id/ that `pinpost ports` shows";
                self.problems.push(Problem::warning(place, text).help(help));
            }
            _ => {}
        }
        if matches!(key, "tcp" | "command") {
            for (line_key, _) in serial.iter().filter(|(_, written)| *written) {
                let text = format!("`{line_key}` does not go with `{key}`");
                self.error(&["ports", name, line_key], text, "remove it; it belongs to path and usb");
            }
        }
        Some(PortSpec { name: name.to_owned(), kind })
    }

    fn device(
        &mut self,
        (section, id, name): (&'static str, DeviceId, &str),
        kind: &'static str,
        built: Built,
        topics: &mut Topics,
        all: &mut points::Points,
    ) -> DevicePlan {
        let first = all.specs.len() as u32;
        let only = built.points.len() == 1;
        if section == "devices" {
            self.batch(name, only, topics, all);
        }
        for draft in &built.points {
            self.point((section, id, name), draft, only, topics, all);
        }
        let point_ids: Vec<PointId> = (first..all.specs.len() as u32).map(PointId).collect();
        let own_names = built.own_verbs.iter().map(|v| &v.verb).cloned();
        let mut verbs: Vec<String> = Vec::new();
        for verb in built.point_verbs.iter().chain(&built.device_verbs).map(|v| (*v).to_owned()).chain(own_names) {
            if !verbs.contains(&verb) {
                verbs.push(verb);
            }
        }
        let (name, own_verbs, output) = (name.to_owned(), built.own_verbs, built.output);
        let spec = DeviceSpec { id, name, kind, points: point_ids, verbs, own: own_verbs, output };
        let own: Vec<&PointSpec> = all.specs.iter().skip(first as usize).collect();
        let owned = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        topics.listen(&spec, &own, &owned(&built.point_verbs), &owned(&built.device_verbs));
        topics.listen_own(&spec, &own);
        DevicePlan { spec, driver: built.driver, notes: built.notes, safe: built.safe }
    }

    /// A reading must not arrive where a command is expected, or where a device says whether it is there.
    fn own_topics(&mut self, devices: &[DevicePlan], all: &points::Points, topics: &Topics) {
        let availability: Vec<String> = devices.iter().map(|d| topics.availability(&d.spec.name)).collect();
        for (topic, place) in all.places() {
            let why = match topics.route(topic) {
                Some(_) => "the gateway listens for commands there",
                None if availability.iter().any(|a| a == topic) => "there a device says whether it is online",
                None => continue,
            };
            let text = format!("readings cannot go to `{topic}`: {why}");
            self.problems.push(Problem::error(place, text).help("choose another topic or another name"));
        }
    }

    fn interlocks(&mut self, devices: &[DevicePlan]) {
        // the other member may be among the devices that are wrong themselves
        let written = self.places.keys(&["devices"]);
        let wrong = |name: &str| {
            !devices.iter().any(|d| d.spec.name == name) || self.places.misspelt(&["devices", name], "interlock")
        };
        if written.into_iter().any(wrong) {
            return;
        }
        for device in devices {
            let group = |d: &DevicePlan| d.spec.output.as_ref().and_then(|o| o.interlock.clone());
            let Some(mine) = group(device) else { continue };
            if devices.iter().filter(|d| group(d).as_ref() == Some(&mine)).count() == 1 {
                let name = device.spec.name.as_str();
                let text = format!("interlock `{mine}` has only one member, `{name}`");
                let help = "give the other output the same interlock, or remove this one";
                self.error(&["devices", name, "interlock"], text, help);
            }
        }
    }

    fn queue(&mut self) -> queue::Options {
        let q = &self.raw.queue;
        let mut options = queue::Options::new(self.queue_dir());
        options.limits = queue::Limits {
            max_bytes: q.max_size.map_or(64 << 20, |s| s.0),
            max_age: q.max_age.map_or(Duration::from_secs(7 * 24 * 3600), |s| s.0),
            when_full: match q.when_full.unwrap_or_default() {
                WhenFull::DropOldest => queue::WhenFull::DropOldest,
                WhenFull::DropNewest => queue::WhenFull::DropNewest,
            },
        };
        options.sync = match q.sync {
            None => queue::Sync::Within(Duration::from_secs(1)),
            Some(SyncKey::Within(span)) => queue::Sync::Within(span.0),
            Some(SyncKey::Always) => queue::Sync::Always,
        };
        options.replay = queue::Replay {
            order: match q.replay.order.unwrap_or_default() {
                ReplayOrder::LiveFirst => queue::Order::LiveFirst,
                ReplayOrder::BacklogFirst => queue::Order::BacklogFirst,
            },
            rate: q.replay.rate.and_then(|r| r.0),
        };
        if options.limits.max_bytes < 1 << 20 {
            self.error(&["queue", "max_size"], "the queue needs at least 1MiB", "write max_size: 64MiB");
        }
        options
    }

    /// `queue.dir`, else below systemd's state directory, else the usual place.
    fn queue_dir(&self) -> PathBuf {
        match &self.raw.queue.dir {
            Some(dir) => self.ask.base.join(dir),
            None => match (self.ask.env)("STATE_DIRECTORY").filter(|d| !d.is_empty()) {
                // systemd separates several by colons
                Some(dirs) => Path::new(dirs.split(':').next().unwrap_or_default()).join("queue"),
                None => PathBuf::from("/var/lib/pinpost/queue"),
            },
        }
    }
}

/// The nearest thing to `text` that is a name.
pub fn as_name(text: &str) -> String {
    let name: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '-' })
        .take(64)
        .collect();
    if is_name(&name) { name } else { "pinpost".into() }
}
