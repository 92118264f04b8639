//! The Homie device: its ids, and what it listens to.

use crate::model::{Problem, is_name};
use crate::wire::homie::{Settings, children, id_of};
use crate::wire::{Route, Topics};

use super::points::Points;
use super::{DevicePlan, Resolver};

impl Resolver<'_> {
    pub(super) fn homie(
        &mut self,
        id: &str,
        devices: &[DevicePlan],
        all: &Points,
        topics: &mut Topics,
    ) -> Option<Settings> {
        let keys = self.raw.homie.as_ref()?;
        let domain = keys.domain.clone().unwrap_or_else(|| "homie".into());
        if !is_name(&domain) {
            let text = format!("`{domain}` is no first level of Homie's topics");
            self.error(&["homie", "domain"], text, "write a word such as homie");
        }
        let settings = Settings { domain, root: id_of(id), values: all.values.clone() };
        let specs: Vec<_> = devices.iter().map(|d| d.spec.clone()).collect();
        for (i, device) in specs.iter().enumerate() {
            let same = |name: &str, others: &[String]| others.iter().find(|other| id_of(other) == id_of(name)).cloned();
            let before: Vec<String> = specs.iter().take(i).map(|d| d.name.clone()).collect();
            if let Some(other) = same(&device.name, &before) {
                let text = format!("`{}` and `{other}` are one id in Homie, which knows no `_`", device.name);
                self.alike(&["devices", &device.name], text);
            }
            let names: Vec<String> =
                device.points.iter().filter_map(|id| Some(all.specs.get(id.0 as usize)?.name.clone())).collect();
            for (n, name) in names.iter().enumerate() {
                if let Some(other) = same(name, names.get(..n).unwrap_or_default()) {
                    let text = format!("`{name}` and `{other}` are one id in Homie, which knows no `_`");
                    self.alike(&["devices", &device.name, "points", name], text);
                }
            }
        }
        for child in children(&settings, &specs, &all.specs) {
            for property in child.properties.iter().filter(|p| p.settable) {
                let topic = Topics::verb(&child.topic(&settings, property), "set");
                topics.listen_as(topic, Route::Homie(child.device, property.target.clone()));
            }
        }
        Some(settings)
    }

    fn alike(&mut self, path: &[&str], text: String) {
        let place = self.places.key(path).or_else(|| self.places.key(&path[..2]));
        self.problems.push(Problem::error(place, text).help("give one of the two another name"));
    }
}
