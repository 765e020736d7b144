#!/bin/busybox sh
# The machine's first program. Busybox does all the mounting, so that nothing depends on what this machine has installed.
/bin/busybox mkdir -p /proc /sys /dev /lower /disk /new
/bin/busybox --install -s /bin
export PATH=/bin
try() { "$@" || { echo "machine: failed: $*"; poweroff -f; }; }

try mount -t proc proc /proc
try mount -t sysfs sysfs /sys
try mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order

# Every file is the caller's until it is written to, and then a copy on the disk.
try mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro root /lower
try mount -t ext4 /dev/vda /disk
mkdir /disk/upper /disk/work /disk/scratch
chmod 1777 /disk/scratch
try mount -t overlay -o lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work overlay /new
mkdir -p /new/dev /new/mnt /new/proc /new/run /new/sys
try mount --bind /disk/scratch /new/mnt
try mount -t tmpfs -o mode=755 tmpfs /new/run

mkdir /dev/shm /dev/pts
try mount -t tmpfs tmpfs /dev/shm
try mount -t devpts -o ptmxmode=666 devpts /dev/pts
ln -s /proc/self/fd /dev/fd
for each in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${each%:*}" "/dev/${each#*:}"; done
try ifconfig lo 127.0.0.1 up
try mount -t cgroup2 cgroup2 /sys/fs/cgroup
try sh -c 'echo "+memory +cpu +pids" >/sys/fs/cgroup/cgroup.subtree_control'

# The two ports to the caller come up on their own time.
until [ -c /dev/vport*p1 ] && [ -c /dev/vport*p2 ]; do sleep 0.1; done
ln -s /dev/vport*p1 /new/run/output
ln -s /dev/vport*p2 /new/run/report
cp /guest /command /new/run/
for each in dev proc sys; do try mount --move /$each /new/$each; done
exec switch_root /new /bin/sh /run/guest
