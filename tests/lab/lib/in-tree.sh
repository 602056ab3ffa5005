#!/bin/sh
# Runs a program with the engine tree as its root, in the mount namespace that
# `unshare` has made for it. A chroot is not enough: containerd wants to find
# its root in the list of mounts.
#
# in-tree.sh TREE WORK RECORD SHARED... -- COMMAND...
#   WORK    takes what is written to the tree, so that the tree stays as built;
#           its folder `extra`, if any, holds files to begin with
#   RECORD  gets "PID STARTTIME" of this process as the host sees it
#   SHARED  folders seen inside under the same path
set -eu

tree=$1 work=$2 record=$3
shift 3

# /proc is still the host's here, even where we are in a PID namespace.
read -r stat </proc/self/stat
set_fields() { start=${20}; }
# shellcheck disable=SC2086 # split on purpose
set_fields ${stat##*) }
echo "${stat%% *} $start" >"$record.new"
mv "$record.new" "$record"

rm -rf "$work/upper" "$work/overlay"
mkdir -p "$work/upper" "$work/overlay" "$work/root"
[ ! -d "$work/extra" ] || cp -a "$work/extra/." "$work/upper/"
# volatile: what is written here need not outlive the lab, and unmounting would
# wait for the whole disk to be in sync.
mount -t overlay overlay -o "volatile,lowerdir=$tree,upperdir=$work/upper,workdir=$work/overlay" "$work/root"
cd "$work/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
while [ "$1" != -- ]; do
  mkdir -p ".$1"
  mount --rbind "$1" ".$1"
  shift
done
shift
mkdir .old
pivot_root . .old
umount -l /.old
rmdir /.old
cd /
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
export HOME=/root
exec "$@"
