#!/bin/sh
# Makes the build machine's root a system in the VM, runs the command, says how that ended, and switches the VM off.
# Arguments: the directory of this run, the kernel's modules.
run=$1 modules=$2
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
hostname netd-vm
umask 022
mkdir -p "/lib/modules/${modules##*/}" /run/lock /run/netns
mount --bind "$modules" "/lib/modules/${modules##*/}"
# What the kernel asks for a module by itself. busybox is there in any case.
printf '#!/bin/sh\nexec busybox modprobe "$@"\n' > /run/modprobe
chmod 755 /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
for module in virtio_net virtio_rng veth bridge vxlan tun sch_ingress cls_bpf ipvlan macvlan netkit; do
    busybox modprobe -q "$module"
done
ip link set lo up
# A serial line does not know its size.
busybox stty cols 160 rows 48 < /dev/console
printf '\n'
cat "$run/sign"
# The end of the output, which nothing else prints, and the status that the command ended with.
sh "$run/command.sh"
printf '\n%s %s\n' "$(cat "$run/token")" "$?"
sync
busybox poweroff -f
