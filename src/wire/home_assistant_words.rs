//! Home Assistant's device classes and the units that go with them: it refuses an entity whose class it does not know,
//! and complains of a unit that its class does not have. From its developers' documentation (binary sensor, sensor,
//! number, switch).

const BINARY: &[&str] = &[
    "battery",
    "battery_charging",
    "carbon_monoxide",
    "cold",
    "connectivity",
    "door",
    "garage_door",
    "gas",
    "heat",
    "light",
    "lock",
    "moisture",
    "motion",
    "moving",
    "occupancy",
    "opening",
    "plug",
    "power",
    "presence",
    "problem",
    "running",
    "safety",
    "smoke",
    "sound",
    "tamper",
    "update",
    "vibration",
    "window",
];

/// Classes of sensors and numbers, with their units; no units: any, or none.
const MEASURED: &[(&str, &[&str])] = &[
    ("absolute_humidity", &["g/m³", "mg/m³"]),
    ("apparent_power", &["mVA", "VA", "kVA"]),
    ("aqi", &[""]),
    ("area", &["m²", "cm²", "km²", "mm²", "in²", "ft²", "yd²", "mi²", "ac", "ha"]),
    ("atmospheric_pressure", &["mPa", "cbar", "bar", "hPa", "mmHg", "inHg", "inH₂O", "kPa", "mbar", "Pa", "psi"]),
    ("battery", &["%"]),
    ("blood_glucose_concentration", &["mg/dL", "mmol/L"]),
    ("carbon_dioxide", &["ppm"]),
    ("carbon_monoxide", &["ppb", "ppm", "mg/m³", "μg/m³", "µg/m³"]),
    ("conductivity", &["S/cm", "mS/cm", "μS/cm", "µS/cm"]),
    ("current", &["A", "mA"]),
    ("data_rate", &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "B/s", "kB/s", "MB/s", "GB/s", "KiB/s", "MiB/s", "GiB/s"]),
    (
        "data_size",
        &[
            "bit", "kbit", "Mbit", "Gbit", "B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", "PB", "EB", "ZB",
            "YB", "PiB", "EiB", "ZiB", "YiB",
        ],
    ),
    ("distance", &["km", "m", "cm", "mm", "mi", "nmi", "yd", "in", "ft"]),
    ("duration", &["d", "h", "min", "s", "ms", "μs", "µs"]),
    ("energy", &["J", "kJ", "MJ", "GJ", "mWh", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal"]),
    ("energy_distance", &["kWh/100km", "Wh/km", "mi/kWh", "km/kWh"]),
    (
        "energy_storage",
        &["J", "kJ", "MJ", "GJ", "mWh", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal"],
    ),
    ("frequency", &["mHz", "Hz", "kHz", "MHz", "GHz"]),
    ("gas", &["m³", "ft³", "CCF", "MCF", "L"]),
    ("humidity", &["%"]),
    ("illuminance", &["lx"]),
    ("irradiance", &["W/m²", "BTU/(h⋅ft²)"]),
    ("moisture", &["%"]),
    ("monetary", &[]),
    ("nitrogen_dioxide", &["ppb", "ppm", "μg/m³", "µg/m³"]),
    ("nitrogen_monoxide", &["ppb", "μg/m³", "µg/m³"]),
    ("nitrous_oxide", &["μg/m³", "µg/m³"]),
    ("ozone", &["ppb", "ppm", "μg/m³", "µg/m³"]),
    ("ph", &[""]),
    ("pm1", &["μg/m³", "µg/m³"]),
    ("pm10", &["μg/m³", "µg/m³"]),
    ("pm25", &["μg/m³", "µg/m³"]),
    ("pm4", &["μg/m³", "µg/m³"]),
    ("power", &["mW", "W", "kW", "MW", "GW", "TW", "BTU/h"]),
    ("power_factor", &["%", ""]),
    ("precipitation", &["cm", "in", "mm"]),
    ("precipitation_intensity", &["in/d", "in/h", "mm/d", "mm/h"]),
    ("pressure", &["Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mPa", "mmHg", "inHg", "inH₂O", "psi"]),
    ("reactive_energy", &["varh", "kvarh"]),
    ("reactive_power", &["mvar", "var", "kvar"]),
    ("signal_strength", &["dB", "dBm"]),
    ("sound_pressure", &["dB", "dBA"]),
    (
        "speed",
        &["mm/h", "ft/s", "in/d", "in/h", "in/s", "km/h", "kn", "m/s", "mph", "mm/d", "mm/s", "m/min", "Beaufort"],
    ),
    ("sulphur_dioxide", &["ppb", "μg/m³", "µg/m³"]),
    ("temperature", &["°C", "°F", "K"]),
    ("temperature_delta", &["°C", "°F", "K"]),
    ("volatile_organic_compounds", &["μg/m³", "µg/m³", "mg/m³"]),
    ("volatile_organic_compounds_parts", &["ppb", "ppm"]),
    ("voltage", &["V", "mV", "μV", "µV", "kV", "MV"]),
    ("volume", &["L", "mL", "gal", "fl. oz.", "m³", "ft³", "CCF", "MCF"]),
    (
        "volume_flow_rate",
        &["m³/h", "m³/min", "m³/s", "ft³/min", "L/h", "L/min", "L/s", "gal/h", "gal/min", "gal/d", "mL/s"],
    ),
    ("volume_storage", &["L", "mL", "gal", "fl. oz.", "m³", "ft³", "CCF", "MCF"]),
    ("water", &["L", "gal", "m³", "ft³", "CCF", "MCF"]),
    ("weight", &["kg", "g", "mg", "μg", "µg", "oz", "lb", "st"]),
    ("wind_direction", &["°"]),
    ("wind_speed", &["in/s", "mm/s", "Beaufort", "ft/s", "km/h", "kn", "m/s", "mph", "m/min"]),
];

/// Why a platform would not take this class with this unit (empty: none).
pub(super) fn wrong_class(platform: &str, class: &str, unit: &str) -> Option<String> {
    let unknown = || Some(format!("Home Assistant knows no `{class}` of a {platform}"));
    let known = match platform {
        "binary_sensor" => BINARY.contains(&class),
        "switch" => matches!(class, "outlet" | "switch"),
        "sensor" if matches!(class, "date" | "timestamp" | "enum") => {
            let text = || Some(format!("Home Assistant wants no unit with `{class}`"));
            return if unit.is_empty() { None } else { text() };
        }
        "sensor" | "number" => {
            let Some((_, units)) = MEASURED.iter().find(|(word, _)| *word == class) else { return unknown() };
            if units.is_empty() || units.contains(&unit) {
                return None;
            }
            let units: Vec<&str> = units.iter().copied().filter(|u| !u.is_empty()).collect();
            let want = if units.is_empty() { "no unit".into() } else { units.join(", ") };
            let have = if unit.is_empty() { "none".into() } else { format!("`{unit}`") };
            return Some(format!("the unit is {have}, and Home Assistant's `{class}` has {want}"));
        }
        "button" => matches!(class, "identify" | "restart" | "update"),
        _ => false,
    };
    if known { None } else { unknown() }
}

#[cfg(test)]
mod tests {
    use super::wrong_class;

    #[test]
    fn classes_and_units_are_judged_by_platform() {
        assert_eq!(wrong_class("sensor", "temperature", "°C"), None);
        assert_eq!(wrong_class("binary_sensor", "door", ""), None);
        assert_eq!(wrong_class("sensor", "ph", ""), None);
        for (platform, class, unit, part) in [
            ("sensor", "temperature", "degC", "`degC`, and"),
            ("sensor", "temperature", "", "none"),
            ("sensor", "door", "", "knows no `door`"),
            ("switch", "door", "", "knows no `door`"),
            ("sensor", "ph", "pH", "has no unit"),
            ("sensor", "timestamp", "s", "no unit"),
        ] {
            let said = wrong_class(platform, class, unit).unwrap();
            assert!(said.contains(part), "{said}");
        }
    }
}
