#!/usr/bin/env bash
# sparkplug.sh PROGRAM: the gateway as a Sparkplug edge node, judged by a foreign implementation from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
need mosquitto mosquitto
need python3 python3
venv=$tools/sparkplug
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check pysparkplug==0.6.1 paho-mqtt==1.6.1
timeout 300 "$venv/bin/python" tests/sparkplug/host.py "$1"
