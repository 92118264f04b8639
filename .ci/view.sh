#!/usr/bin/env bash
# view.sh PROGRAM: `pinpost view` in a headless browser. A red picture is published, then a blue one: the browser's
# screenshot must be red, then blue.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
pinpost=$1
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need chromium-headless-shell chromium-headless-shell
need python3 python3
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

# wait_for FILE TEXT: until the file says so.
wait_for() {
    timeout 30 bash -c 'until grep -qF -- "$2" "$1"; do read -rt 0.05 <> <(:) || true; done' _ "$1" "$2" ||
        { cat "$1" >&2; echo "waited in vain for: $2" >&2; exit 1; }
}

picture() {
    case $1 in
    red) printf '%s' /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wAARCAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAX/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFQEBAQAAAAAAAAAAAAAAAAAABQb/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwCKALXj/9k= ;;
    blue) printf '%s' /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wAARCAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAb/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFQEBAQAAAAAAAAAAAAAAAAAABAb/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwCNAXgr/9k= ;;
    esac | base64 -d
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'user root\nlistener %s 127.0.0.1\nallow_anonymous true\nlog_type all\n' "$port" >"$work/mosquitto.conf"
mosquitto -c "$work/mosquitto.conf" 2>"$work/broker.log" &
pids+=($!)
wait_for "$work/broker.log" running
"$pinpost" view -p "$port" -t camera -i viewer --listen 127.0.0.1:0 2>"$work/view.log" &
pids+=($!)
wait_for "$work/view.log" http://
wait_for "$work/broker.log" "Sending SUBACK to viewer"
url=$(grep -o 'http://[^ ]*' "$work/view.log")

for colour in red blue; do
    picture $colour >"$work/picture.jpg"
    mosquitto_pub -p "$port" -t camera -q 1 -f "$work/picture.jpg"
    timeout 60 chromium-headless-shell --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
        --user-data-dir="$work/browser" --window-size=200,200 --timeout=3000 \
        --screenshot="$work/$colour.png" "$url" 2>"$work/browser.log" || { cat "$work/browser.log" >&2; exit 1; }
    python3 - "$work/$colour.png" $colour <<'PYTHON'
import struct, sys, zlib

# the pixel in the middle of a PNG of 8 bits without interlacing (W3C PNG, clauses 5, 9 and 11)
data = open(sys.argv[1], "rb").read()
at, idat = 8, b""
while at < len(data):
    size, kind = struct.unpack(">I4s", data[at:at + 8])
    body = data[at + 8:at + 8 + size]
    if kind == b"IHDR":
        width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", body)
        assert depth == 8 and colours in (2, 6) and not interlaced
    if kind == b"IDAT":
        idat += body
    at += size + 12
bpp = 3 if colours == 2 else 4
raw, row, stride = zlib.decompress(idat), bytearray(width * bpp), width * bpp
for y in range(height // 2 + 1):
    kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
    for x in range(stride):
        a, b = line[x - bpp] if x >= bpp else 0, row[x]
        c = row[x - bpp] if x >= bpp else 0
        p = a + b - c
        paeth = a if abs(p - a) <= abs(p - b) and abs(p - a) <= abs(p - c) else b if abs(p - b) <= abs(p - c) else c
        line[x] = (line[x] + [0, a, b, (a + b) // 2, paeth][kind]) & 255
    row = line
pixel = tuple(row[width // 2 * bpp:width // 2 * bpp + 3])
print(f"{sys.argv[2]}: the browser shows {pixel}")
want = {"red": (255, 0, 0), "blue": (0, 0, 255)}[sys.argv[2]]
assert all(abs(p - w) < 12 for p, w in zip(pixel, want)), f"wanted {want}"
PYTHON
done
