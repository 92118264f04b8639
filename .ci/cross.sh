#!/usr/bin/env bash
# The 64-bit Pi's program, built on Debian bookworm (x86-64) with Debian's packages alone: no container, no rustup.
#   .ci/cross.sh install    the compiler, its library for arm64, the linker (root or sudo)
#   .ci/cross.sh build      target/cross/aarch64-unknown-linux-gnu/release/pinpost
# rustc-web and cargo-web are the recent Rust that Debian keeps for its browsers; they come from the security suite.
# A program built so needs glibc 2.34 or newer: Raspberry Pi OS bookworm and trixie.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
target=aarch64-unknown-linux-gnu

install_tools() {
    as_root dpkg --add-architecture arm64
    apt_update
    apt_get install --no-install-recommends cargo-web rustc-web libstd-rust-web-dev:arm64 \
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross >/dev/null
}

build() {
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    [ -x /usr/bin/rustc ] && [ -d /usr/lib/rustlib/$target ] || {
        echo "Debian's Rust for $target is missing: .ci/cross.sh install" >&2
        exit 1
    }
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    have=$(/usr/bin/rustc --version | cut -d' ' -f2)
    dpkg --compare-versions "$have" ge "$wanted" || {
        echo "Debian's rustc is $have, Cargo.toml wants $wanted: is bookworm-security among apt's sources?" >&2
        exit 1
    }
    # By full path and with RUSTC set: rustup's cargo and rustc, which obey rust-toolchain.toml, stay out of it.
    # RUSTDOC goes with RUSTC, or doc tests meet another compiler's library.
    RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar \
        /usr/bin/cargo build --locked --release --target $target --target-dir target/cross
    ls -l target/cross/$target/release/pinpost
}

case ${1:-} in
    install) install_tools ;;
    build) build ;;
    *) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac
