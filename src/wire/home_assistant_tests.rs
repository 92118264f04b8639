//! What Home Assistant is told, word for word.

use super::*;
use crate::model::{DeviceId, OutputLimits, PointId, Qos};

fn spec(id: u32, device: u32, name: &str, topic: &str) -> PointSpec {
    PointSpec {
        id: PointId(id),
        device: DeviceId(device),
        name: name.into(),
        topic: topic.into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        deliver: Default::default(),
        priority: Default::default(),
        expiry: None,
        payload: PayloadFormat::Plain,
        own_payload: false,
        batch: None,
        payload_on: "ON".into(),
        payload_off: "OFF".into(),
        unit: None,
        device_class: None,
        stateful: true,
    }
}

fn device(name: &str, kind: &'static str, points: &[u32]) -> DeviceSpec {
    DeviceSpec {
        id: DeviceId(0),
        name: name.into(),
        kind,
        points: points.iter().map(|n| PointId(*n)).collect(),
        verbs: vec![],
        own: vec![],
        output: None,
    }
}

fn told(devices: &[DeviceSpec], points: &[PointSpec], values: &[&'static str]) -> Vec<(String, Json)> {
    let gateway =
        Gateway { id: "shed", name: Some("The shed"), area: Some("Garden"), board: "Raspberry Pi 5", version: "1" };
    let hints = values.iter().map(|values| Hint { values, ..Hint::default() }).collect();
    let settings = Settings { prefix: "homeassistant".into(), status_topic: "homeassistant/status".into(), hints };
    let all = announcements(&gateway, &settings, &Topics::new("shed"), devices, points);
    all.into_iter().map(|a| (a.topic, Json::Object(a.config))).collect()
}

/// The one entity of one device with one point, without what all have.
fn entity(device: DeviceSpec, point: PointSpec, values: &'static str) -> Option<(String, Json)> {
    let all = told(&[device], &[point], &[values]);
    let (_, config) = all.into_iter().nth(1)?;
    let (key, mut entity) = config["components"].as_object()?.clone().into_iter().next()?;
    let map = entity.as_object_mut()?;
    for common in ["availability", "availability_mode", "unique_id", "default_entity_id", "name", "qos", "platform"] {
        assert!(map.remove(common).is_some(), "{common}");
    }
    Some((key, entity))
}

#[test]
fn a_device_is_told_word_for_word() {
    let mut pump = device("pump-1", "digital_out", &[0]);
    pump.output = Some(OutputLimits::default());
    let all = told(&[pump], &[spec(0, 0, "state", "shed/pump-1")], &["ON or OFF"]);
    assert_eq!(all[1].0, "homeassistant/device/shed/pump-1/config");
    assert_eq!(
        all[1].1,
        json!({
            "device": {
                "identifiers": ["pinpost.shed.pump-1"], "name": "Pump 1", "manufacturer": "pinpost",
                "model": "digital_out", "via_device": "pinpost.shed", "suggested_area": "Garden",
            },
            "origin": { "name": "pinpost", "sw_version": "1" },
            "components": { "switch_pump-1": {
                "platform": "switch", "unique_id": "pinpost.shed.pump-1", "default_entity_id": "switch.shed_pump_1",
                "name": null, "command_topic": "shed/pump-1/set", "payload_on": "ON", "payload_off": "OFF",
                "state_topic": "shed/pump-1", "state_on": "ON", "state_off": "OFF", "qos": 1,
                "availability": [{ "topic": "shed/bridge/state" }, { "topic": "shed/pump-1/availability" }],
                "availability_mode": "all",
            } },
        })
    );
}

#[test]
fn the_gateway_has_what_is_the_machines_own() {
    let points = [spec(0, 0, "cpu_temperature", "shed/pi/cpu_temperature"), spec(1, 1, "value", "shed/dew")];
    let devices = [device("pi", "system", &[0]), device("dew", "computed", &[1])];
    let all = told(&devices, &points, &["a number", "as computed"]);
    assert_eq!(all.len(), 1, "neither is a device of its own");
    let (topic, config) = &all[0];
    assert_eq!(topic, "homeassistant/device/shed/config");
    assert_eq!(
        config["device"],
        json!({
            "identifiers": ["pinpost.shed"], "name": "The shed", "manufacturer": "pinpost",
            "model": "Raspberry Pi 5", "sw_version": "1", "suggested_area": "Garden",
        })
    );
    let keys: Vec<_> = config["components"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "binary_sensor_bridge_link",
            "sensor_bridge_queue",
            "sensor_bridge_dropped",
            "sensor_bridge_errors",
            "sensor_bridge_uptime",
            "sensor_pi",
            "sensor_dew"
        ]
    );
    assert_eq!(config["components"]["sensor_pi"]["entity_category"], "diagnostic");
    assert_eq!(config["components"]["sensor_dew"]["name"], "Dew");
    let link = &config["components"]["binary_sensor_bridge_link"];
    assert!(link.get("availability").is_none(), "that it is off line is what it has to say");
}

#[test]
fn each_kind_of_point_has_its_platform() {
    let output = |scale| {
        let mut d = device("x", "pwm", &[0]);
        d.output = Some(OutputLimits { scale, ..OutputLimits::default() });
        d
    };
    let with = |f: fn(&mut PointSpec)| {
        let mut p = spec(0, 0, "p", "t");
        f(&mut p);
        p
    };
    let duty = Scale::Duty { min: 10.0, max: 80.0 };
    let cases = [
        (
            entity(
                device("x", "iio", &[0]),
                with(|p| (p.unit, p.device_class) = (Some("°C".into()), Some("temperature".into()))),
                "a number",
            ),
            "sensor_x",
            json!({ "state_class": "measurement", "state_topic": "t", "unit_of_measurement": "°C", "device_class": "temperature" }),
        ),
        (
            // a unit that the class does not have: it is told without the class
            entity(
                device("x", "iio", &[0]),
                with(|p| (p.unit, p.device_class) = (Some("degC".into()), Some("temperature".into()))),
                "a number",
            ),
            "sensor_x",
            json!({ "state_class": "measurement", "state_topic": "t", "unit_of_measurement": "degC" }),
        ),
        (
            // nobody said that it is a number, but what has a unit is one: it gets its statistics
            entity(device("x", "serial", &[0]), with(|p| p.unit = Some("V".into())), "a number or text"),
            "sensor_x",
            json!({ "state_class": "measurement", "state_topic": "t", "unit_of_measurement": "V" }),
        ),
        (
            entity(device("x", "serial", &[0]), with(|_| ()), "a number or text"),
            "sensor_x",
            json!({ "state_topic": "t" }),
        ),
        (
            entity(device("x", "serial", &[0]), with(|p| p.payload = PayloadFormat::Json), "text"),
            "sensor_x",
            json!({ "state_topic": "t", "value_template": "{{ value_json.value }}" }),
        ),
        (
            entity(
                device("x", "digital_in", &[0]),
                with(|p| (p.payload_on, p.device_class) = ("open".into(), Some("door".into()))),
                "ON or OFF",
            ),
            "binary_sensor_x",
            json!({ "payload_on": "open", "payload_off": "OFF", "state_topic": "t", "device_class": "door" }),
        ),
        (
            entity(device("x", "digital_in", &[0]), with(|_| ()), "click, double or long"),
            "event_x",
            json!({
                "state_topic": "t", "value_template": "{\"event_type\": \"{{ value }}\"}", "device_class": "button",
                "event_types": ["click", "double", "long"],
            }),
        ),
        (
            entity(output(duty), with(|_| ()), ""),
            "number_x",
            json!({
                "command_topic": "t/set", "min": 0, "max": 80.0, "step": 1, "mode": "slider",
                "unit_of_measurement": "%", "state_topic": "t",
            }),
        ),
        (
            entity(output(duty), with(|p| p.device_class = Some("light".into())), ""),
            "light_x",
            json!({
                "command_topic": "t/set", "payload_on": "ON", "payload_off": "OFF", "state_topic": "t",
                "state_value_template": "{{ 'ON' if (value | float(0)) > 0 else 'OFF' }}",
                "brightness_state_topic": "t", "brightness_value_template": "{{ value | float(0) | round }}",
                "brightness_command_topic": "t/set", "brightness_scale": 80, "on_command_type": "brightness",
                "brightness_command_template": "{{ [value, 10] | max }}",
            }),
        ),
        (
            entity(output(duty), with(|p| p.device_class = Some("fan".into())), ""),
            "fan_x",
            json!({
                "command_topic": "t/set", "payload_on": "ON", "payload_off": "OFF", "state_topic": "t",
                "state_value_template": "{{ 'ON' if (value | float(0)) > 0 else 'OFF' }}",
                "percentage_state_topic": "t", "percentage_value_template": "{{ [value | float(0) | round, 9] | max }}",
                "percentage_command_topic": "t/set", "speed_range_min": 10, "speed_range_max": 80,
            }),
        ),
        (
            entity(output(Scale::Angle { from: 180.0, to: 0.0 }), with(|_| ()), ""),
            "number_x",
            json!({
                "command_topic": "t/set", "min": 0.0, "max": 180.0, "step": 1, "mode": "slider",
                "unit_of_measurement": "°", "state_topic": "t",
            }),
        ),
        (
            entity(device("x", "serial", &[0]), with(|p| p.device_class = Some("camera".into())), "bytes"),
            "camera_x",
            json!({ "topic": "t" }),
        ),
        (
            entity(device("x", "serial", &[0]), with(|p| p.device_class = Some("image".into())), "bytes"),
            "image_x",
            json!({ "image_topic": "t" }),
        ),
    ];
    for (is, key, wanted) in cases {
        assert_eq!(is, Some((key.to_owned(), wanted)));
    }
    assert_eq!(entity(device("x", "serial", &[0]), with(|_| ()), "bytes"), None, "bytes that nobody can show");
}

#[test]
fn what_a_verb_takes_makes_the_platform() {
    let verb = |point, takes| {
        let mut d = device("x", "serial", &[0]);
        let word = if point { "set" } else { "mode" };
        d.own = vec![VerbSpec { verb: word.into(), point: point.then_some(0), takes, time: Default::default() }];
        let all = told(&[d], &[spec(0, 0, "p", "t")], &["a number"]);
        let components = all[1].1["components"].as_object().unwrap().clone();
        let (key, entity) = components.into_iter().next_back().unwrap();
        (key, entity["command_topic"].clone(), entity)
    };
    let (key, topic, number) = verb(true, Takes::Number { min: Some(5.0), max: Some(30.0) });
    assert_eq!((key.as_str(), topic), ("number_x", json!("t/set")));
    assert_eq!((&number["min"], &number["max"], &number["state_topic"]), (&json!(5.0), &json!(30.0), &json!("t")));
    let (key, topic, _) = verb(true, Takes::Bool);
    assert_eq!((key.as_str(), topic), ("switch_x", json!("t/set")));
    for (takes, platform) in [
        (Takes::Nothing, "button"),
        (Takes::Number { min: None, max: None }, "number"),
        (Takes::Text { min: 0, max: 1000 }, "text"),
        (Takes::Choice(vec!["auto".into(), "manual".into()]), "select"),
        (Takes::Bool, "switch"),
    ] {
        let (key, topic, entity) = verb(false, takes);
        assert_eq!((key, topic), (format!("{platform}_x_mode_command"), json!("shed/x/mode")));
        assert_eq!(entity["name"], "Mode");
        assert!(platform != "text" || entity["max"] == 255);
        assert!(platform != "select" || entity["options"] == json!(["auto", "manual"]));
    }
}

#[test]
fn what_home_assistant_would_refuse_is_doubted() {
    let hint = |values, state: Option<&str>| Hint { values, state_class: state.map(str::to_owned), icon: None };
    let d = device("x", "iio", &[0]);
    let mut point = spec(0, 0, "p", "t");
    assert_eq!(doubt(&d, &point, &hint("a number", None), 0), None);
    assert_eq!(doubt(&d, &point, &hint("a number", Some("rising")), 0).unwrap().0, "state_class");
    for payload in [PayloadFormat::Json, PayloadFormat::Cbor] {
        let picture = PointSpec { payload, device_class: Some("camera".into()), ..point.clone() };
        assert_eq!(doubt(&d, &picture, &hint("bytes", None), 0).unwrap().0, "payload");
    }
    assert_eq!(doubt(&d, &point, &hint("bytes", None), 0), None, "nobody expects to see them");
    let packed = PointSpec { payload: PayloadFormat::Cbor, ..point.clone() };
    assert_eq!(doubt(&d, &packed, &hint("a number", None), 0).unwrap().0, "payload");
    point.device_class = Some("warmth".into());
    assert_eq!(doubt(&d, &point, &hint("a number", None), 0).unwrap().0, "device_class");
}
