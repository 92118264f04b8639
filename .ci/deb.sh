#!/usr/bin/env bash
# deb.sh [TARGET]: makes the Debian package of what `cargo build --release` (or, for aarch64, `.ci/cross.sh build`) has
# built, and looks inside: the files that must be there, with their modes, and the scripts that must mention them.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
PATH=$PATH:$tools/bin
need cargo-deb "cargo install --locked cargo-deb"
need dpkg-deb dpkg
target=${1:-}
if [ -n "$target" ]; then
    # --no-strip: the release profile strips, and the host's strip knows no foreign program.
    [ "$target" = aarch64-unknown-linux-gnu ] && export CARGO_TARGET_DIR=target/cross
    deb=$(cargo deb --quiet --no-build --no-strip --target "$target" | tail -n 1)
else
    deb=$(cargo deb --quiet --no-build | tail -n 1)
fi
echo "$deb: $(stat -c %s "$deb") bytes"
contents=$(dpkg-deb -c "$deb")
echo "$contents"

has() {
    grep -qE "^$1 (root/root|0/0) .* \./$2\$" <<<"$contents" || { echo "the package lacks $2 with mode $1" >&2; exit 1; }
}
has -rwxr-xr-x usr/bin/pinpost
has -rw-r----- etc/pinpost/config.yaml
has -rw-r--r-- '(usr/)?lib/systemd/system/pinpost.service'
has -rw-r--r-- usr/lib/sysusers.d/pinpost.conf
has -rw-r--r-- usr/lib/udev/rules.d/60-pinpost.rules
has -rw-r--r-- usr/share/doc/pinpost/config.example.yaml
has -rw-r--r-- usr/share/doc/pinpost/install.md
has -rw-r--r-- usr/share/doc/pinpost/drop-ins/20-credential.conf.example
has -rw-r--r-- usr/share/doc/pinpost/copyright

control=$(mktemp -d)
trap 'rm -rf "$control"' EXIT
dpkg-deb -e "$deb" "$control"
grep -qx /etc/pinpost/config.yaml "$control/conffiles" || { echo "config.yaml is no conffile" >&2; exit 1; }
grep -q 'systemd-sysusers' "$control/postinst" || { echo "postinst makes no user" >&2; exit 1; }
grep -q 'deb-systemd-helper enable' "$control/postinst" || { echo "postinst does not enable the unit" >&2; exit 1; }
if grep -qE '_dh_action=start|deb-systemd-invoke start' "$control/postinst"; then
    echo "postinst starts the service before its configuration was edited" >&2
    exit 1
fi
for script in "$control"/{postinst,prerm,postrm}; do
    sh -n "$script"
done
sed -n '/^Package\|^Version\|^Architecture\|^Depends/p' "$control/control"
