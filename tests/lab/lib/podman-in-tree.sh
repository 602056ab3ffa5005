#!/bin/sh
# Readies Podman's namespace, inside the engine tree, and then holds it open.
# Changes nothing that the host would see.
#
# podman-in-tree.sh HOME: the rootless user's home, on a real disk, as overlay
# storage cannot lie on another overlay.
set -eu

# As on a booted machine; rootless containers ask for it.
mount --make-rshared /

# Devices that the host gives to root alone, opened for this namespace.
open_device() {
  [ -e "/dev/$1" ] || return 0
  mknod -m 666 "/run/$2" c "$3" "$4"
  mount --bind "/run/$2" "/dev/$1"
}
open_device fuse fuse 10 229
open_device net/tun tun 10 200

# useradd hands out the subordinate IDs too.
useradd --uid 4711 --no-create-home --home-dir "$1" --shell /bin/sh lab
chown -R lab:lab "$1"
mkdir -p /run/user/4711
chown lab:lab /run/user/4711
chmod 700 /run/user/4711
# The shared folders may lie below a home that is closed to others.
chmod 711 /root

: >"$1/.ready"
exec sleep infinity
