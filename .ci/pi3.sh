#!/usr/bin/env bash
# The Pi's program on an emulated Raspberry Pi 3B: QEMU's raspi3b with Debian's arm64 kernel and device tree. Real (emulated)
# registers, a sensor on the header's UART, MQTT through the emulated USB network to a mosquitto here.
#   .ci/pi3.sh install          QEMU, and the kernel with a small root into the tools' directory (root or sudo)
#   .ci/pi3.sh run [PROGRAM]    the scenario of .ci/pi3.py; half a minute
# Inputs of this QEMU have levels and no interrupts: edges through a kernel are tested elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/lib.sh
images=$tools/pi3
export PYTHONDONTWRITEBYTECODE=1
# What the network (dwc2 waits for phy-generic), an orderly reboot and randomness need.
modules="phy-generic dwc2 cdc_ether bcm2835_wdt bcm2835-rng"

install_tools() {
    as_root dpkg --add-architecture arm64
    apt_update
    apt_get install --no-install-recommends qemu-system-arm device-tree-compiler kmod cpio xz-utils python3 \
        mosquitto mosquitto-clients libc6-arm64-cross libgcc-s1-arm64-cross >/dev/null
    local kernel work
    kernel=$(apt-cache depends linux-image-arm64:arm64 | sed -n 's/^ *Depends: \(linux-image-[0-9][^:]*\).*/\1/p' | head -n 1)
    [ -n "$kernel" ] || { echo "apt knows no linux-image-arm64:arm64" >&2; exit 1; }
    if [ "$(cat "$images/kernel" 2>/dev/null)" = "$kernel" ]; then
        echo "$images is of $kernel already"
        return
    fi
    work=$(mktemp -d)
    trap "rm -rf '$work'" EXIT
    # apt's own user may not write there
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$kernel:arm64" busybox-static:arm64)
    build_root "$work" "${kernel#linux-image-}"
    echo "$kernel" >"$images/kernel"
    ls -l "$images"
}

# build_root WORK VERSION: kernel, device tree and the first root file system, from the packages in WORK.
build_root() {
    local work=$1 version=$2 root=$1/root tree=$1/tree
    mkdir -p "$images" "$tree" "$root"/{bin,dev,etc,lib/modules,proc,root,run,sys,tmp}
    dpkg-deb --fsys-tarfile "$work/linux-image-$version"_*.deb | tar -x -C "$tree" --wildcards \
        './boot/vmlinuz-*' '*/bcm2837-rpi-3-b.dtb' "./lib/modules/$version/modules.*" \
        "./lib/modules/$version/kernel/drivers/usb/*" "./lib/modules/$version/kernel/drivers/net/*" \
        "./lib/modules/$version/kernel/drivers/watchdog/*" "./lib/modules/$version/kernel/drivers/char/*"
    cp "$tree/boot/vmlinuz-$version" "$images/vmlinuz"
    find "$tree" -name bcm2837-rpi-3-b.dtb -exec cp {} "$images/pi3.dtb" \;
    # The good UART belongs to Bluetooth; without it the UART is /dev/ttyAMA0, as with dtoverlay=disable-bt.
    fdtput -r "$images/pi3.dtb" /soc/serial@7e201000/bluetooth
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$tree" "$version" 2>/dev/null
    local name file
    for name in $modules; do
        PATH=$PATH:/usr/sbin:/sbin modprobe -d "$tree" -S "$version" --show-depends "$name" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' | while read -r file; do
        case $file in
            *.xz) xz -dc "$file" >"$root/lib/modules/$(basename "$file" .xz)" ;;
            *) cp "$file" "$root/lib/modules/" ;;
        esac
        basename "$file" .xz >>"$root/lib/modules/order"
    done
    dpkg-deb --fsys-tarfile "$work"/busybox-static_*.deb | tar -x -C "$work" ./bin/busybox
    cp "$work/bin/busybox" "$root/bin/"
    ln -s busybox "$root/bin/sh"
    for name in ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libgcc_s.so.1; do
        cp -L "/usr/aarch64-linux-gnu/lib/$name" "$root/lib/"
    done
    cp .ci/pi3-init.sh "$root/init"
    chmod 755 "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$images/root.cpio.gz"
}

case ${1:-} in
    install) install_tools ;;
    run) exec python3 .ci/pi3.py "$images" "${2:-target/cross/aarch64-unknown-linux-gnu/release/pinpost}" ;;
    *) sed -n '4,5s/^# //p' "$0" >&2; exit 2 ;;
esac
