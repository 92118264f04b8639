#!/usr/bin/env bash
# pinpost on a genuine kernel's GPIO: User Mode Linux, built once from Debian's kernel source, with simulated chips (gpio-sim)
# whose lines a test drives. It runs this machine's own programs on this machine's files, without root and in seconds.
#   .ci/uml.sh build            the kernel into the tools' directory: 250 s of CPU time, once (root or sudo for the packages)
#   .ci/uml.sh run [PROGRAM]    the scenarios of .ci/uml.py, one of them a day in virtual time
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
kernel=$tools/uml/linux
jobs=${JOBS:-$(nproc)}

build() {
    apt_update
    apt_get install --no-install-recommends linux-source-6.1 gcc libc6-dev make bc flex bison xz-utils perl python3 \
        mosquitto mosquitto-clients >/dev/null
    local version work
    version=$(dpkg-query -W -f '${Version}' linux-source-6.1)+$(sha256sum .ci/uml.config | cut -c1-8)
    if [ -x "$kernel" ] && [ "$(cat "$tools/uml/version" 2>/dev/null)" = "$version" ]; then
        echo "$kernel is of $version already"
        return
    fi
    work=$(mktemp -d "${TMPDIR:-/tmp}/uml.XXXXXX")
    trap "rm -rf '$work'" EXIT
    tar -xJf /usr/src/linux-source-6.1.tar.xz -C "$work" --strip-components=1
    make_kernel "$work"
    mkdir -p "$tools/uml"
    strip -g "$work/linux" -o "$kernel"
    echo "$version" >"$tools/uml/version"
    ls -l "$kernel"
}

# make_kernel TREE
make_kernel() {
    # It has as many interrupt numbers as it needs itself; every line that is watched takes one more.
    sed -i 's/^#define NR_IRQS.*UM_LAST_SIGNAL_IRQ$/#define NR_IRQS (UM_LAST_SIGNAL_IRQ + 256)/' "$1/arch/um/include/asm/irq.h"
    grep -q 'UM_LAST_SIGNAL_IRQ + 256' "$1/arch/um/include/asm/irq.h"
    make -C "$1" -s ARCH=um allnoconfig KCONFIG_ALLCONFIG="$PWD/.ci/uml.config"
    local wanted
    while read -r wanted; do
        grep -qxF "$wanted" "$1/.config" || { echo "the kernel's configuration lost $wanted" >&2; exit 1; }
    done < <(grep '^CONFIG_' .ci/uml.config)
    make -C "$1" -s ARCH=um -j"$jobs" linux >"$1/build.log" 2>&1 || { tail -n 30 "$1/build.log" >&2; exit 1; }
}

# boot WORK PROGRAM SCENARIO [KERNEL ARGUMENTS…]: its file `result` says how it went.
boot() {
    local work=$1 program=$2 scenario=$3
    shift 3
    # it keeps its memory in a file there
    TMPDIR=/dev/shm timeout 500 "$kernel" mem=192M root=/dev/root rootfstype=hostfs rootflags=/ ro quiet con=null con0=null,fd:1 \
        uml_dir="$work" init="$PWD/.ci/uml-init.sh" "pinpost.job=$PWD/.ci/uml.py:$program:$scenario:$work" "$@" </dev/null || true
}

run() {
    local program=$1 work scenario result
    [ -x "$kernel" ] || { echo "$kernel is missing: .ci/uml.sh build" >&2; exit 1; }
    [ -x "$program" ] || { echo "$program is missing: cargo build" >&2; exit 1; }
    for scenario in ${SCENARIOS:-pins day}; do
        work=$(mktemp -d "${TMPDIR:-/tmp}/uml.XXXXXX")
        local begin=$SECONDS arguments=()
        [ "$scenario" = day ] && arguments=(time-travel=inf-cpu)
        boot "$work" "$(realpath "$program")" "$scenario" "${arguments[@]}" >"$work/console" 2>&1
        result=$(cat "$work/result" 2>/dev/null || true)
        [ "$result" = 0 ] || { cat "$work/console" >&2; echo "FAILED: $scenario in User Mode Linux ($work)" >&2; exit 1; }
        grep '^==' "$work/console" || true
        rm -rf "$work"
        echo "User Mode Linux, $scenario: $((SECONDS - begin)) s"
    done
}

case ${1:-} in
    build) build ;;
    run) run "${2:-target/debug/pinpost}" ;;
    *) sed -n '4,5s/^# //p' "$0" >&2; exit 2 ;;
esac
