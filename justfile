# `just` lists them. Every recipe is one line that can be typed without just.

pi := "aarch64-unknown-linux-gnu"

# What there is.
_default:
    @just --list

# The one test command.
test:
    cargo test

# Everything that must hold before a change lands; installs what it needs (Debian bookworm).
ci:
    bash .ci/run

# The main job without hardware and without a broker.
demo time="10s":
    cargo run --release -- demo --for {{time}}

# The program for a Pi, in a container: just cross [armv7-unknown-linux-gnueabihf | arm-unknown-linux-gnueabihf].
cross target=pi:
    CROSS_CONFIG=cross.toml cross build --release --target {{target}}

# The same for a 64-bit Pi with Debian's packages, without a container.
cross-debian:
    .ci/cross.sh install
    .ci/cross.sh build

# The Debian package for this machine.
deb:
    cargo build --release --locked
    .ci/deb.sh

# The Debian package for a 64-bit Pi, from `just cross-debian`.
deb-pi: cross-debian
    .ci/deb.sh {{pi}}

# The benchmarks that need nothing; figures and their meaning: docs/performance.md.
bench:
    cargo bench --bench codec --bench engine --bench queue

# What the whole daemon costs; needs mosquitto and mosquitto-clients, takes two minutes.
bench-daemon:
    cargo bench --bench daemon

# Simulated power cuts of the queue, optimised; a million takes minutes: just crash-states 100000000.
crash-states n="1000000":
    QUEUE_CRASH_STATES={{n}} .ci/crash-states.sh

# The broker's misbehaviour: every row of the table, cuts at every byte, a storm of reconnects. Needs mosquitto.
broker-faults:
    cargo test --test link --test storm

# The real Home Assistant judges what it is told; fetches it (440 MB) the first time. Needs mosquitto.
home-assistant:
    cargo build --release --locked
    .ci/home-assistant.sh target/release/pinpost

# Twelve ports at once with garbage, torn writes and hit frames; every reading there, none of a hit frame. Needs mosquitto.
many-ports seconds="60":
    MANY_PORTS_SECONDS={{seconds}} cargo test --test daemon twelve_ports -- --nocapture

# A fuzz target (fuzz/targets.rs names them) for ten minutes; needs cargo-fuzz. Findings belong into fuzz/corpus. The
# code has next to no unsafe, so it does without a sanitizer, which only a nightly compiler has.
fuzz target seconds="600":
    cargo fuzz run -s none {{target}} -- -max_total_time={{seconds}} -timeout=10 -max_len=4096

# A week without a broker (at ten readings a second), its time compressed, through the release program. Needs mosquitto.
week readings="6048000":
    cargo build --release
    OUTAGE_READINGS={{readings}} OUTAGE_PROGRAM=target/release/pinpost cargo test --test outage -- --nocapture

# All proofs on the real thing: power cuts, kills, faults in every call, sick disks. As root, where mounts are possible.
proofs:
    cargo build --release --locked
    .ci/proofs.sh target/release/pinpost

# The power is cut under the real daemon; ten thousand take half an hour: just powercut 10000.
powercut n="200":
    cargo build --release --locked
    POWER_CUTS={{n}} .ci/proofs.sh target/release/pinpost after_every_power_cut

# Daemon and broker are killed again and again: just kill9 10000.
kill9 n="200":
    cargo build --release --locked
    KILLS={{n}} .ci/proofs.sh target/release/pinpost kill_9

# Licences, sources, bans and advisories (fetches the advisory database).
deny:
    cargo deny check

# The formatter and the linter.
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# Kills the daemon a thousand times while random commands move its outputs; the simulated pins are the judge (minutes).
kill-outputs kills="1000":
    PINPOST_KILLS={{kills}} cargo test --test daemon no_kill_breaks -- --nocapture

# The 64-bit Pi's program on an emulated Raspberry Pi 3B, from `just cross-debian`: registers, UART, network. Needs root for apt.
pi3 program="target/cross/aarch64-unknown-linux-gnu/release/pinpost":
    .ci/pi3.sh install
    .ci/pi3.sh run {{program}}

# Pins of a genuine kernel in User Mode Linux: edges, bias, expanders, a chip that vanishes, a day in virtual time.
uml:
    cargo build
    .ci/uml.sh build
    .ci/uml.sh run
