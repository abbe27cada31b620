# Takes $archive of the second disk (a tar file, without a file system) into containerd's store, by the program $ctr. What the
# page cache has of that disk may be from before the machine was saved.
set -e
until $ctr version > /dev/null 2>&1; do sleep 1; done
blockdev --flushbufs /dev/vdb
tar -x -C /run -f /dev/vdb "$archive"
$ctr --namespace k8s.io images import "/run/$archive"
rm "/run/$archive"
