#!/bin/busybox sh
# The VM's first process: mounts the build machine's root, read-only under a writable layer in memory, and goes on there.
/bin/busybox mount -t proc proc /proc
while read -r module; do /bin/busybox insmod "/$module" || echo "cannot load $module"; done < /modules
/bin/busybox mount -t virtiofs -o ro root /lower || exec /bin/busybox poweroff -f
/bin/busybox mount -t tmpfs -o size=80% tmpfs /rw
/bin/busybox mkdir /rw/upper /rw/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /root
/bin/busybox umount /proc
# shellcheck disable=SC2046 # Two words: the script, and where it lies.
exec /bin/busybox switch_root /root /bin/sh $(/bin/busybox cat /stage2)
