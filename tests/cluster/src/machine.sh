# The first process of a machine: lays out its mounts, then reaps what is orphaned, as any init does.
# It runs in new namespaces for mounts and processes, with /proc mounted anew. It then looks to its programs, and to pods
# with hostPID, like a machine of its own; the machine itself keeps none of it.
#   $1 its folder on disk   $2 the world's folder   $3 its part of cgroup2
set -e
disk=$1 world=$2 cgroup=$3

mkdir -p "$disk/run${world#/run}" "$disk/run/netns" "$disk/run/node-cgroup2" "$disk/var-lib" "$disk/var-log" "$disk/etc" "$disk/etc.work"
mount --bind "$world" "$disk/run${world#/run}"
mount --bind "$cgroup" "$disk/run/node-cgroup2"
mount --rbind "$disk/run" /run
mount --bind "$disk/var-lib" /var/lib
mount --bind "$disk/var-log" /var/log
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$disk/etc,workdir=$disk/etc.work" /etc
mount -t bpf bpf /sys/fs/bpf

# Right-looking files over the settings that a kubelet writes: they are the whole machine's.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
               kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$disk/sysctl.$(echo "${setting%=*}" | tr / _)
  echo "${setting#*=}" > "$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

# Apart from the machine's, but shared within the node, as under systemd: volumes with Bidirectional propagation ask for it.
mount --make-rshared /
echo ready > "$disk/ready"
while :; do
  sleep 86400 &
  wait $!
done
