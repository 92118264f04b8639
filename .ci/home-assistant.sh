#!/usr/bin/env bash
# home-assistant.sh [PROGRAM]: the real Home Assistant, with the program at the same mosquitto, judges what it is told
# (tests/home_assistant/judge.py). It wants a newer Python than bookworm has, so both are put into a folder of their own:
# Debian's Python out of its packages, unpacked and not installed, with its own libc; Home Assistant and the few
# packages that its MQTT integration needs from PyPI, as wheels. Nothing else on the machine changes; no root is needed.
# $HOME_ASSISTANT: another version, with $HOME_ASSISTANT_SUITE: the Debian that has the Python for it.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
export PATH=$PATH:/usr/sbin:/sbin
program=${1:-target/release/pinpost}
version=${HOME_ASSISTANT:-2026.2.3}
suite=${HOME_ASSISTANT_SUITE:-trixie}
case $suite in
    trixie) python=python3.13 ;;
    forky) python=python3.14 ;;
    *) echo "HOME_ASSISTANT_SUITE is trixie (Python 3.13) or forky (3.14), not $suite" >&2; exit 2 ;;
esac
# Home Assistant's own requirements that the core, http and mqtt do without (some have no wheel for this Python).
unneeded='audioop-lts|hass-nabucasa|home-assistant-bluetooth|standard-aifc|standard-telnetlib|uv'
# The version that Home Assistant names has no wheel.
freed='lru-dict'
home=$tools/home-assistant
root=$home/$suite
place=$home/$version-$suite

need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need python3 python3
need dpkg-deb dpkg
[ -x "$program" ] || { echo "$program is missing: cargo build --release" >&2; exit 1; }

# Debian's Python and what it depends on, as the mirror that this machine uses anyway has it.
unpack() (
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/{lists/partial,cache/archives/partial,parts,root/usr/{bin,lib,lib64,sbin}}
    : >"$work/status"
    architecture=$(dpkg --print-architecture)
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' \
        "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")" | head -n 1)
    [ -n "$mirror" ] || { echo "apt knows no Debian mirror: run apt-get update first" >&2; exit 1; }
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: %s\nSigned-By: %s\n' \
        "$mirror" "$suite" "$architecture" /usr/share/keyrings/debian-archive-keyring.gpg >"$work/debian.sources"
    options=(-qq -o Dir::State="$work" -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status"
        -o Dir::Cache="$work/cache" -o Dir::Etc::sourcelist="$work/debian.sources" -o Dir::Etc::sourceparts="$work/parts"
        -o Dir::Etc::preferences="$work/none" -o Dir::Etc::preferencesparts="$work/parts" -o APT::Sandbox::User=
        -o APT::Architectures::="$architecture" -o Acquire::Languages=none -o Acquire::Retries=3
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Debug::NoLocking=true)
    apt-get "${options[@]}" update
    apt-get "${options[@]}" install --yes --download-only --no-install-recommends "$python-venv" libc-bin >/dev/null
    for name in bin lib lib64 sbin; do ln -s "usr/$name" "$work/root/$name"; done
    for package in "$work"/cache/archives/*.deb; do
        # Through the links above, which dpkg-deb's own unpacking would replace by folders.
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink --no-same-owner -C "$work/root"
    done
    # Started by its own loader, so that it never meets this machine's libc; what it starts goes the same way.
    cat >"$work/root/python" <<'END'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
for loader in "$root"/usr/lib*/ld-linux-*.so.* "$root"/usr/lib/*/ld-linux-*.so.*; do [ ! -x "$loader" ] || break; done
for libraries in "$root"/usr/lib/*-linux-gnu*; do [ ! -e "$libraries/libc.so.6" ] || break; done
PYTHONHOME=$root/usr exec "$loader" --library-path "$libraries" --argv0 "$root/python" "$root"/usr/bin/python3.1? "$@"
END
    chmod +x "$work/root/python"
    "$work/root/python" -c 'import ssl, sqlite3, ctypes, sys; print("Python", sys.version.split()[0])'
    mkdir -p "$home"
    rm -rf "$root"
    mv "$work/root" "$root"
)

# From PyPI, wheels alone: nothing is built, nothing of theirs runs at their installation.
install() (
    pip=$(echo "$root"/usr/share/python-wheels/pip-*.whl)
    new=$place.new
    rm -rf "$new"
    # This machine's certificates, where its pip has no other wish.
    export PIP_CERT=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt} PIP_DISABLE_PIP_VERSION_CHECK=1
    pip_install() { PYTHONPATH=$pip "$root/python" -m pip install -q --no-compile --only-binary :all: --target "$new" "$@"; }
    pip_install --no-deps "homeassistant==$version"
    sed -n 's/^Requires-Dist: *//p' "$new"/homeassistant-*.dist-info/METADATA |
        grep -viE "^($unneeded)[^a-z-]" | sed -E "s/^($freed)==.*/\1/I" >"$new/needed.txt"
    "$root/python" - "$new" >>"$new/needed.txt" <<'END'
import json, sys
print(*json.load(open(sys.argv[1] + "/homeassistant/components/mqtt/manifest.json"))["requirements"], sep="\n")
END
    pip_install -r "$new/needed.txt"
    rm -rf "$place"
    mv "$new" "$place"
)

[ -x "$root/python" ] || unpack
[ -d "$place" ] || install
echo "Home Assistant $version, installed after $SECONDS s"
PYTHONPATH=$place python3 tests/home_assistant/judge.py "$program" "$root/python"
