#!/bin/sh
# Puts a static busybox next to this script, for the Dockerfile.
#
# prepare.sh [FILE]   FILE is a static busybox; without it, Debian's package
#                     busybox-static is downloaded and unpacked (no root needed).
set -eu
cd "$(dirname "$0")"

if [ $# -gt 0 ]; then
  from=$1
elif [ -x busybox ]; then
  exit 0
else
  if ! { command -v apt-get && command -v dpkg-deb; } >/dev/null; then
    echo "prepare: not a Debian: give me a static busybox: ./prepare.sh FILE" >&2
    exit 1
  fi
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  (cd "$tmp" && apt-get download busybox-static >apt.log 2>&1) || {
    cat "$tmp/apt.log" >&2
    echo "prepare: cannot download busybox-static (is 'apt-get update' due?)" >&2
    exit 1
  }
  dpkg-deb -x "$tmp"/busybox-static_*.deb "$tmp"
  from=$(find "$tmp" -path '*/bin/busybox' -type f)
fi
# The image has no libraries: a dynamic busybox would build and then not start.
if ldd "$from" 2>/dev/null | grep -q '=>'; then
  echo "prepare: $from is not static" >&2
  exit 1
fi
cp "$from" busybox.new
chmod 755 busybox.new
mv busybox.new busybox
