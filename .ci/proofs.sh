#!/usr/bin/env bash
# proofs.sh [PROGRAM] [FILTER…]: the real daemon with its power cut, killed, and on disks that fail; the books must
# balance to the last reading. Needs root and a kernel that lets it mount; what is missing ends it, nothing is skipped.
# Only with PROOFS_WITHOUT_MOUNTS=1 (CI, perhaps in a plain container) a machine that may not mount proves the rest and
# says aloud what it does not prove.
# PROGRAM: another build to be put to the proof, target/release/pinpost say; `-`: the one that cargo builds with the tests.
# $POWER_CUTS, $KILLS (200), $SEED (1), $FAULT_EVERY (1) say how much; $HEALED (5) seconds a disk may take to be used again.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
export PATH=$PATH:/usr/sbin:/sbin
program=${1:--}
shift || true
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need mkfs.ext4 e2fsprogs
need mount mount
need fsfreeze util-linux
need findmnt util-linux
[ "$program" = - ] || export PINPOST_PROGRAM=$PWD/${program#"$PWD"/}

# Built as who we are, run as root.
binary=$(cargo test --locked --test proofs --no-run --message-format=json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*\/proofs-[^"]*\)".*/\1/p')
[ -x "$binary" ] || { echo "the proofs were not built" >&2; exit 1; }

# A power cut needs an ext4 on a loop device and its shutdown ioctl: told apart here, so that the failure names it.
probe=$(mktemp -d)
truncate -s 8M "$probe/image"
mkfs.ext4 -q -F "$probe/image"
mkdir "$probe/mnt"
rest=()
as_root unshare --mount --propagation private mount -o loop "$probe/image" "$probe/mnt" || {
    [ -z "${PROOFS_WITHOUT_MOUNTS:-}" ] || [ "$#" != 0 ] || rest=(kill_9 any_file_system_call)
    [ "${#rest[@]}" != 0 ] || {
        echo "no file system can be mounted here: run this as root on a machine (or in a container) that may mount loop devices" >&2
        exit 1
    }
    printf '\n%s\n\n' "NOT PROVEN HERE: power cuts and sick disks. No file system can be mounted; kills and failing calls are proven." >&2
    set -- "${rest[@]}"
}
rm -r "$probe"

prove() {
    as_root env RUSTC="$(rustup which rustc 2>/dev/null || command -v rustc)" "$binary" --nocapture --test-threads 4 "$@" 2>&1 |
        grep -v -e '^$' -e '^running ' || { echo "a proof failed" >&2; exit 1; }
}

echo "proving ${PINPOST_PROGRAM:-the program of the tests}"
if [ "$#" = 0 ]; then
    # The sick disks have deadlines: they have the machine to themselves.
    prove --skip a_disk_that_fails
    prove a_disk_that_fails
else
    prove "$@"
fi
