# shellcheck shell=bash disable=SC2034
# Shared by the scripts in this folder, to be sourced. Stages tell their seconds; a tool that is missing is a failure.

export DEBIAN_FRONTEND=noninteractive
# Tools that are not Debian packages, kept between runs on one machine.
tools=${PINPOST_CI_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/pinpost-ci}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n -E "$@"; fi
}

apt_get() {
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# The package lists. A mirror that is just being refreshed spoils one of them for a while: the installation that
# follows judges whether what is there is enough.
apt_update() {
    apt_get update || { sleep 10; apt_get update; } || echo "apt-get update failed; going on with the lists at hand" >&2
}

# need TOOL PACKAGE: the tool runs, or this is the end.
need() {
    command -v "$1" >/dev/null || { echo "$1 is missing; it comes with $2" >&2; exit 1; }
}

# Minutes that a stage may take: one that hangs fails by its name, while there is time to say so.
: "${STAGE_MINUTES:=30}"

# stage NAME COMMAND…: announces it, runs it, tells its seconds. The first failure ends the run.
stage() {
    local name=$1 begin=$SECONDS status=0 pid guard
    shift
    printf '\n==> %s\n' "$name"
    # In a process of its own, so that `set -e` holds inside, and in a group of its own, to be ended as a whole.
    set -m
    (set -euo pipefail; "$@") &
    pid=$!
    (sleep $((STAGE_MINUTES * 60)); echo "still running after $STAGE_MINUTES minutes" >&2; kill -TERM -- -$pid) &
    guard=$!
    set +m
    wait $pid || status=$?
    kill -TERM -- -$guard 2>/dev/null || true
    printf '<== %s: %s s\n' "$name" $((SECONDS - begin))
    [ "$status" = 0 ] || { printf '\nFAILED: %s (exit %s)\n' "$name" "$status" >&2; exit "$status"; }
}
