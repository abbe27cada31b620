#!/bin/busybox sh
# The first process, until the disk is found: Debian's kernels have its driver and file system as modules.
b=/bin/busybox
$b mount -t devtmpfs none /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/list
left=200
while [ ! -e /dev/vda ] && [ $left -gt 0 ]; do $b usleep 50000; left=$((left - 1)); done
$b mount -t ext4 -o rw,noatime,nobarrier /dev/vda /root
exec $b switch_root -c /dev/console /root /lib/systemd/systemd
