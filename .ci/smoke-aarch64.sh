#!/usr/bin/env bash
# The Pi's program runs here, under emulation: it judges the example configuration, and its demo opens a pty as a
# serial port, moves simulated pins and talks to its broker.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
program=${1:-target/cross/aarch64-unknown-linux-gnu/release/pinpost}
qemu=$(.ci/qemu.sh)
"$qemu" --version | head -n 1
# The loader and the C library must be of one build: a loader from the cross package with the library from arm64's own
# package hangs at the first thread.
if [ -e /lib/ld-linux-aarch64.so.1 ] && [ -e /lib/aarch64-linux-gnu/libc.so.6 ]; then
    root=/
elif [ -e /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 ]; then
    root=/usr/aarch64-linux-gnu
else
    echo "the arm64 C library is missing: .ci/cross.sh install" >&2
    exit 1
fi
run=("$qemu" -L "$root" "$program")
timeout 60 "${run[@]}" check config.example.yaml
.ci/demo.sh 5 "${run[@]}"
