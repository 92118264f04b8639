#!/usr/bin/env bash
# demo.sh SECONDS PROGRAM…: the demo runs for that long, ends by itself with 0, and has shown something.
set -euo pipefail
seconds=$1
shift
out=$(mktemp)
trap 'rm -f "$out"' EXIT
status=0
timeout --kill-after=5 $((seconds + 60)) "$@" demo --for "${seconds}s" >"$out" 2>&1 || status=$?
cat "$out"
[ "$status" = 0 ] || { echo "demo ended with $status" >&2; exit 1; }
lines=$(wc -l <"$out")
[ "$lines" -ge 5 ] || { echo "demo showed only $lines lines in $seconds s" >&2; exit 1; }
