#!/usr/bin/env bash
# QUEUE_CRASH_STATES (default a million) simulated power cuts of the queue, and the twelve planted bugs. Only the two
# crates that do the work are optimised: the rest is as in the ordinary tests and need not be built again.
set -euo pipefail
cd "$(dirname "$0")/.."
export QUEUE_CRASH_STATES=${QUEUE_CRASH_STATES:-1000000}
fast=(--config 'profile.dev.package.pinpost.opt-level=3' --config 'profile.dev.package.crc32c.opt-level=3')
cargo "${fast[@]}" test --locked --test queue_crash -- --nocapture --exact \
    no_power_cut_loses_reorders_or_renumbers_what_was_accepted every_planted_bug_is_found
