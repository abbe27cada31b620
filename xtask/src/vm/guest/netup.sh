#!/bin/sh
# The machine's address on QEMU's own network, from which nothing leads out, and the modules that pods' networks are made of.
for module in virtio_net overlay bridge br_netfilter veth; do modprobe $module; done
until [ -e /sys/class/net/eth0 ]; do sleep .2; done
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
echo 1 > /proc/sys/net/ipv4/ip_forward
