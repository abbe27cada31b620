#!/bin/bash
# Commands from outside, by the second serial port: a line "ID SCRIPT", each byte of the script as \xNN. The answer is the
# script's output, then a line "@@ended ID CODE". A serial port does not notice that the machine was saved and restored
# meanwhile, and whoever is at its other end may change.
export HOME=/root PATH=/opt/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
stty -F /dev/ttyS1 115200 raw -echo
exec 3<> /dev/ttyS1
echo "@@up" >&3
while read -r id script <&3; do
  # What is left of an interrupted request is not one.
  case $id in *[!0-9]* | '') continue ;; esac
  printf '%b' "$script" > /run/command
  bash /run/command < /dev/null > /run/answer 2>&1
  code=$?
  cat /run/answer >&3
  printf '\n@@ended %s %s\n' "$id" "$code" >&3
done
