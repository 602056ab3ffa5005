# shellcheck shell=bash
# What the benchmarks share: a folder that goes at the end, a registry, images of random bytes, and
# times. Sourced after `set -euo pipefail`, with the lab's environment.
#
# Sets work (a folder) and registry (host:port, once start_registry was called).

work=$(mktemp -d)
# A rootless engine reads it too.
chmod 755 "$work"
registry="" registry_pid=""
# Nodes that were told of the registry.
told=()

# stop_registry: ends it, if there is one, and takes back what nodes were told.
stop_registry() {
  local node
  for node in "${told[@]}"; do
    docker exec "$node" rm -rf "/etc/containerd/certs.d/$registry" || true
  done
  if [[ -n $registry_pid ]]; then
    kill "$registry_pid" || true
    # It writes to its folder until it has ended.
    wait "$registry_pid" || true
  fi
  told=() registry="" registry_pid=""
  rm -rf "$work/registry"
}

# start_registry: Debian's docker-registry on all addresses, its images in the work folder.
start_registry() {
  local port
  cat >"$work/registry.yml" <<C
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: '0.0.0.0:0'}
C
  # A former one's log names a former one's port.
  rm -f "$work/registry.log"
  docker-registry serve "$work/registry.yml" >"$work/registry.requests" 2>"$work/registry.log" &
  registry_pid=$!
  until port=$(grep -os 'listening on [^ "]*' "$work/registry.log" | grep -o '[0-9]*$'); do
    kill -0 "$registry_pid"
    sleep 0.1
  done
  registry=127.0.0.1:$port
}

# tell_node NODE: the node reaches the registry by the bridge's address, as kind's own guide does it.
tell_node() {
  local gateway
  gateway=$(docker network inspect --format '{{range .IPAM.Config}}{{.Gateway}}{{end}}' bridge)
  docker exec "$1" sh -c "mkdir -p '/etc/containerd/certs.d/$registry' &&
    echo '[host.\"http://$gateway:${registry#*:}\"]' >'/etc/containerd/certs.d/$registry/hosts.toml'"
  told+=("$1")
}

# random FILE MEGABYTES: bytes that nothing compresses.
random() { head -c "$2"000000 /dev/urandom >"$1"; }

# timed FILE COMMAND...: appends the milliseconds that the command took; its output is in $work/log.
timed() {
  local file=$1 began ended
  shift
  began=${EPOCHREALTIME/./}
  "$@" >"$work/log" 2>"$work/errors" || {
    cat "$work/log" "$work/errors" >&2
    echo "bench: failed: $*" >&2
    exit 1
  }
  ended=${EPOCHREALTIME/./}
  echo $(((ended - began) / 1000)) >>"$work/$file"
}

median() { # FILE
  sort -n "$work/$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : int((v[NR / 2] + v[NR / 2 + 1]) / 2)}'
}

# row TITLE OURS PEER GOAL: a line of a table, from the medians of two files.
row() {
  local ours peer
  ours=$(median "$2") peer=$(median "$3")
  awk -v t="$1" -v o="$ours" -v p="$peer" -v g="$4" 'BEGIN {
    r = o / p
    printf "| %s | %d ms | %d ms | %.3f | ≤ %s | %s |\n", t, o, p, r, g, (r <= g) ? "yes" : "**no**" }'
}

# limit TITLE FILE GOAL UNIT: the same for what has a limit of its own.
limit() {
  local ours
  ours=$(median "$2")
  awk -v t="$1" -v o="$ours" -v g="$3" -v u="$4" 'BEGIN {
    printf "| %s | %s %s | | | ≤ %s %s | %s |\n", t, o, u, g, u, (o <= g) ? "yes" : "**no**" }'
}
