#!/usr/bin/env bash
# Prints the path of a qemu-aarch64 that can open serial ports: 10.0.13 or newer (older ones lack termios2, and a port
# fails with "Not a typewriter"). Bookworm has 7.2 and its backports 10.0.2, so trixie's is taken: one static program
# out of its package, found through package lists of its own. Nothing is installed and apt's sources stay as they are.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
enough=10.0.13

version() {
    "$1" --version 2>/dev/null | sed -n '1s/.*version \([0-9.]*\).*/\1/p'
}

good() {
    local found
    found=$(version "$1") && [ -n "$found" ] && dpkg --compare-versions "$found" ge "$enough"
}

for candidate in "$(command -v qemu-aarch64 || true)" "$tools/qemu-aarch64"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ] && good "$candidate"; then
        echo "$candidate"
        exit
    fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$tools" "$work"/{lists/partial,cache/archives/partial,parts}
: >"$work/status"
# The mirror that this machine uses anyway.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' \
    "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")" | head -n 1)
[ -n "$mirror" ] || { echo "apt knows no Debian mirror: run apt-get update first" >&2; exit 1; }
printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nArchitectures: amd64\nSigned-By: %s\n' \
    "$mirror" /usr/share/keyrings/debian-archive-keyring.gpg >"$work/trixie.sources"
options=(-qq -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
    -o Dir::Etc::sourcelist="$work/trixie.sources" -o Dir::Etc::sourceparts="$work/parts"
    -o Dir::Etc::preferences="$work/none" -o Dir::Etc::preferencesparts="$work/parts" -o APT::Sandbox::User=
    -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o Acquire::Languages=none -o Acquire::Retries=3
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Debug::NoLocking=true)
apt-get "${options[@]}" update >&2
(cd "$work" && apt-get "${options[@]}" download qemu-user >&2)
dpkg-deb --fsys-tarfile "$work"/qemu-user_*.deb | tar -x -C "$work" ./usr/bin/qemu-aarch64
good "$work/usr/bin/qemu-aarch64" || {
    echo "trixie's qemu-aarch64 is $(version "$work/usr/bin/qemu-aarch64"), $enough is needed" >&2
    exit 1
}
mv "$work/usr/bin/qemu-aarch64" "$tools/qemu-aarch64"
echo "$tools/qemu-aarch64"
