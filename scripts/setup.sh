#!/usr/bin/env bash
# Installs the Debian packages that are missing, and nothing else.
#
# setup.sh [build] [test] [package]   build: what `cargo build` needs (default)
#                                     test: what `make test` needs besides
#                                     package: what `make package` needs besides
set -euo pipefail

declare -a missing=()

need() { # PROGRAM PACKAGE
  command -v "$1" >/dev/null || missing+=("$2")
}

for purpose in "${@:-build}"; do
  case $purpose in
    build)
      need cc gcc
      need git git
      need make make
      need protoc protobuf-compiler
      # protoc's own messages, which containerd's import. Debian has them apart.
      found=$(find /usr/include /usr/local/include -path '*google/protobuf/any.proto' -print -quit 2>/dev/null || true)
      [[ -n $found || ! -e /etc/debian_version ]] || missing+=(libprotobuf-dev)
      [[ ! -e /etc/debian_version || -e /usr/include/stdio.h ]] || missing+=(libc6-dev)
      ;;
    test)
      need shellcheck shellcheck
      # libFuzzer is C++.
      need c++ g++
      need jq jq
      # Those for whom completions and man pages are.
      need zsh zsh
      need fish fish
      need mandoc mandoc
      need script bsdutils
      need tmux tmux
      ;;
    package)
      # C compilers for static programs, and who runs a foreign one.
      need musl-gcc musl-tools
      need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
      [[ ! -e /etc/debian_version || -e /usr/aarch64-linux-gnu/include/stdio.h ]] ||
        missing+=(libc6-dev-arm64-cross)
      need qemu-aarch64-static qemu-user-static
      ;;
    *)
      echo "setup: no such purpose: $purpose (known: build test package)" >&2
      exit 2
      ;;
  esac
done

command -v cargo >/dev/null || {
  echo "setup: Rust is missing: install cargo first (see rust-version in Cargo.toml)" >&2
  exit 1
}
[[ ${#missing[@]} -gt 0 ]] || exit 0

command -v apt-get >/dev/null || {
  echo "setup: please install what Debian calls: ${missing[*]}" >&2
  exit 1
}
as_root=()
if [[ $EUID -ne 0 ]]; then
  { command -v sudo && sudo -n true; } >/dev/null 2>&1 || {
    echo "setup: missing packages, and installing needs root: sudo apt-get install ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo -n)
fi
echo "setup: installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
  # A new machine often installs something by itself meanwhile.
  "${as_root[@]}" apt-get update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
} >"$log" 2>&1 || {
  tail -n 20 "$log" >&2
  echo "setup: apt-get could not install ${missing[*]}" >&2
  exit 1
}
