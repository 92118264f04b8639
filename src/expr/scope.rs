//! The names that an expression may use.

use std::collections::BTreeMap;

use crate::model::PointId;

/// What the names mean at one place of the file: points, and the words of the occasion.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    devices: BTreeMap<String, Device>,
    pub(super) value: bool,
    pub(super) fields: bool,
    pub(super) words: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Device {
    name: String,
    /// Another that is written the same way.
    twin: Option<String>,
    points: Vec<(String, PointId)>,
}

/// What a chain of names was found to be.
pub(super) enum Found {
    /// A point, and how many of the names it took.
    Point(PointId, usize),
    /// Nothing: what to say, and what to write instead.
    Nothing(String, Option<String>),
}

impl Scope {
    /// Nothing but `now`.
    pub fn new() -> Scope {
        Scope::default()
    }

    /// With a device and its points: `door` where it has one, `weather.temperature` where it has several; `-` is
    /// written `_`.
    #[must_use]
    pub fn device<'n>(mut self, name: &str, points: impl IntoIterator<Item = (&'n str, PointId)>) -> Scope {
        let points = points.into_iter().map(|(name, id)| (written(name), id)).collect();
        let device = Device { name: name.to_owned(), twin: None, points };
        if let Some(earlier) = self.devices.insert(written(name), device)
            && let Some(device) = self.devices.get_mut(&written(name))
        {
            device.twin = Some(earlier.name);
        }
        self
    }

    /// With `value`, the value at hand.
    #[must_use]
    pub fn with_value(mut self) -> Scope {
        self.value = true;
        self
    }

    /// With `fields.<name>`, the other fields of the frame.
    #[must_use]
    pub fn with_fields(mut self) -> Scope {
        self.fields = true;
        self
    }

    /// With a further word (`grant`, `command`).
    #[must_use]
    pub fn with_word(mut self, word: &str) -> Scope {
        self.words.push(word.to_owned());
        self
    }

    /// The point that `chain` (`weather`, `temperature`, …) begins with.
    pub(super) fn find(&self, chain: &[String]) -> Found {
        let first = chain.first().map_or("", String::as_str);
        let Some(device) = self.devices.get(&written(first)) else {
            let all = self.all();
            let whole = chain.join(".");
            let near = crate::config::near(&whole, &all).or_else(|| crate::config::near(first, &all));
            let help = match near {
                Some(near) => Some(format!("did you mean `{near}`?")),
                None if all.is_empty() => None,
                None => Some(format!("there are {}", listed(&all))),
            };
            return Found::Nothing(format!("there is no point `{whole}`"), help);
        };
        if let Some(twin) = &device.twin {
            let text = format!("`{first}` may be `{twin}` or `{}`", device.name);
            return Found::Nothing(text, Some("`-` is written `_` here; rename one of them".into()));
        }
        let second = chain.get(1).map(|name| written(name));
        if let Some((_, id)) = second.as_ref().and_then(|name| device.points.iter().find(|(p, _)| p == name)) {
            return Found::Point(*id, 2);
        }
        if let [(_, only)] = device.points.as_slice() {
            return Found::Point(*only, 1);
        }
        let names: Vec<String> = device.points.iter().map(|(p, _)| format!("{first}.{p}")).collect();
        let Some(second) = second else {
            let text = format!("`{first}` has {} points", names.len());
            return Found::Nothing(text, (!names.is_empty()).then(|| format!("write {}", listed(&names))));
        };
        let help = match crate::config::near(&format!("{first}.{second}"), &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", listed(&names)),
        };
        Found::Nothing(format!("`{first}` has no point `{second}`"), Some(help))
    }

    /// Every name that may begin a chain, as it is written.
    fn all(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (name, device) in &self.devices {
            match device.points.as_slice() {
                [_] => all.push(name.clone()),
                several => all.extend(several.iter().map(|(p, _)| format!("{name}.{p}"))),
            }
        }
        let given = [("value", self.value), ("fields", self.fields), ("now", true)];
        all.extend(given.iter().filter(|(_, there)| *there).map(|(word, _)| (*word).to_owned()));
        all.extend(self.words.iter().cloned());
        all
    }
}

/// A name of the file as an expression writes it.
pub(super) fn written(name: &str) -> String {
    let name = name.replace('-', "_");
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn listed(names: &[String]) -> String {
    let mut out = names.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 12 {
        out.push_str(", …");
    }
    out
}
