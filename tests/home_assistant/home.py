"""A real Home Assistant with nothing but its MQTT integration, told what to do by lines of JSON.

Started by judge.py: home.py FOLDER BROKER_PORT HTTP_PORT. It is Home Assistant's own start (bootstrap, configuration
file, storage); only what it starts beside the file, its web pages above all, is left away. Where the folder is new, the
MQTT integration is added as a person does it, through its dialogue; later it comes out of the storage.

It says one JSON object a line: {"log": …} for every warning, {"event": …} where a state or the registry changed, and
{"answer": …} to each line that it is told: ["all"], ["call", domain, service, data], ["picture", entity], ["classes"],
["stop"].
"""

import asyncio
import base64
import json
import logging
import sys
import types
from pathlib import Path


class Absent(types.ModuleType):
    """A package that Home Assistant imports at its start and that nothing here comes to use."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


# A paid cloud, Bluetooth, and the arithmetic of video: fifty packages of their own, not all of them as wheels.
for name in ("hass_nabucasa", "habluetooth", "numpy", "turbojpeg"):
    sys.modules[name] = Absent(name)

from homeassistant import bootstrap, core
from homeassistant.helpers import area_registry, device_registry, entity_registry
from homeassistant.runner import RuntimeConfig

folder, broker_port, http_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def say(**what):
    sys.stdout.write(json.dumps(what, default=str) + "\n")
    sys.stdout.flush()


class Said(logging.Handler):
    """Passes on what a person would find in the log."""

    def emit(self, record):
        trace = self.formatter.formatException(record.exc_info) if record.exc_info else ""
        say(log={"level": record.levelname, "by": record.name, "text": record.getMessage() + trace})


def everything(hass):
    devices = device_registry.async_get(hass)
    areas = area_registry.async_get(hass)

    def identifier(device_id):
        device = device_id and devices.async_get(device_id)
        return next((i for domain, i in device.identifiers if domain == "mqtt"), None) if device else None

    entities = {}
    for entry in entity_registry.async_get(hass).entities.values():
        state = hass.states.get(entry.entity_id)
        entities[entry.unique_id] = {
            "entity_id": entry.entity_id,
            "platform": entry.domain,
            "device": identifier(entry.device_id),
            "category": entry.entity_category,
            "disabled": entry.disabled_by,
            "state": state and state.state,
            "attributes": dict(state.attributes) if state else {},
        }
    about = {}
    for device in devices.devices.values():
        area = device.area_id and areas.async_get_area(device.area_id)
        about[identifier(device.id)] = {
            "name": device.name,
            "model": device.model,
            "manufacturer": device.manufacturer,
            "version": device.sw_version,
            "area": area.name if area else None,
            "via": identifier(device.via_device_id),
        }
    return {"entities": entities, "devices": about}


def classes():
    """Home Assistant's own words: classes and their units."""
    from homeassistant.components.binary_sensor import BinarySensorDeviceClass
    from homeassistant.components.number.const import DEVICE_CLASS_UNITS as NUMBER, NumberDeviceClass
    from homeassistant.components.sensor.const import (
        DEVICE_CLASS_STATE_CLASSES,
        DEVICE_CLASS_UNITS as SENSOR,
        SensorDeviceClass,
        SensorStateClass,
    )
    from homeassistant.components.switch import SwitchDeviceClass

    def units(table, all_classes):
        return {str(c): sorted(str(u or "") for u in table[c]) if c in table else None for c in all_classes}

    return {
        "binary_sensor": [str(c) for c in BinarySensorDeviceClass],
        "switch": [str(c) for c in SwitchDeviceClass],
        "sensor": units(SENSOR, SensorDeviceClass),
        "number": units(NUMBER, NumberDeviceClass),
        "state_classes": [str(c) for c in SensorStateClass],
        "allowed": {str(c): sorted(map(str, s)) for c, s in DEVICE_CLASS_STATE_CLASSES.items()},
    }


async def introduce(hass):
    """The dialogue in which a person names the broker."""
    flow = await hass.config_entries.flow.async_init("mqtt", context={"source": "user"})
    broker = {"broker": "127.0.0.1", "port": broker_port}
    result = await hass.config_entries.flow.async_configure(flow["flow_id"], broker)
    if result["type"] != "create_entry":
        raise RuntimeError(f"Home Assistant does not take the broker: {result}")


async def main():
    (folder / "configuration.yaml").write_text(
        f"homeassistant: {{ name: Judge, unit_system: metric, time_zone: UTC }}\n"
        f"http: {{ server_host: 127.0.0.1, server_port: {http_port} }}\n"
    )
    bootstrap.DEFAULT_INTEGRATIONS = set()
    bootstrap.CRITICAL_INTEGRATIONS = set()
    said = Said(logging.WARNING)
    said.setFormatter(logging.Formatter())
    logging.getLogger().addHandler(said)
    config = RuntimeConfig(config_dir=str(folder), skip_pip=True, log_file=str(folder / "home-assistant.log"))
    hass = await bootstrap.async_setup_hass(config)
    await hass.async_start()
    for event in ("state_changed", "entity_registry_updated", "device_registry_updated"):
        hass.bus.async_listen(event, core.callback(lambda e: say(event=e.data.get("entity_id") or e.event_type)))
    if not hass.config_entries.async_entries("mqtt"):
        await introduce(hass)
    await hass.async_block_till_done()
    say(answer="ready")

    lines = asyncio.StreamReader()
    await hass.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        what, *more = json.loads(line)
        try:
            if what == "all":
                answer = everything(hass)
            elif what == "call":
                domain, service, data = more
                await hass.services.async_call(domain, service, data, blocking=True)
                answer = "done"
            elif what == "picture":
                domain = more[0].split(".")[0]
                entity = hass.data[domain].get_entity(more[0])
                picture = await (entity.async_camera_image() if domain == "camera" else entity.async_image())
                answer = base64.b64encode(picture or b"").decode()
            elif what == "classes":
                answer = classes()
            elif what == "stop":
                break
            else:
                raise ValueError(what)
        except Exception as error:  # the judge is to hear of any
            answer = {"error": repr(error)}
        say(answer=answer)
    await hass.async_stop()
    say(answer="stopped")


asyncio.run(main())
