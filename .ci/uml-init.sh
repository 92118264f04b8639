#!/bin/sh
# The first process of the User Mode Linux: this machine's files, read-only, with a /proc, /sys, /dev and /run of its own. It
# runs the job that .ci/uml.sh names and says how it ended.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t configfs none /sys/kernel/config
job=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^pinpost.job=//p')
IFS=: read -r script program scenario work <<JOB
$job
JOB
# one directory of the host may be written
mount -t hostfs -o "$work" none "$work"
python3 "$script" "$program" "$scenario"
echo $? >"$work/result"
umount "$work"
exec python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321FEDC)'  # LINUX_REBOOT_CMD_POWER_OFF, reboot(2)
