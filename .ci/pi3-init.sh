#!/bin/sh
# The first process of the emulated Pi: mounts, modules, network; then it does what .ci/pi3.py writes to the console, line
# by line, and says how each ended.
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in $(cat /lib/modules/order); do insmod "/lib/modules/$module" || echo "@no $module"; done
ifconfig lo 127.0.0.1 up
net=
for _ in $(seq 200); do
    net=$(ls /sys/class/net | grep -v -E '^(lo|sit|tun)' | head -n 1)
    [ -n "$net" ] && break
    sleep 0.1
done
# QEMU's user network: 10.0.2.2 is the host's 127.0.0.1
ifconfig "$net" 10.0.2.15 netmask 255.255.255.0 up
stty -echo
echo "@ready $(cut -d' ' -f1 /proc/uptime)"
while read -r line; do
    eval "$line"
    echo "@rc $?"
done
