#!/usr/bin/env bash
# Whole commands side by side with what others do, in one run: `kind load docker-image`, and a local
# registry (`docker push`, then `crictl pull` on all nodes, which proves nothing).
# Prints a table of medians and ratios; docs/benchmarks.md keeps the numbers.
#
# bench.sh [ROUNDS]   ROUNDS (default 10) follow one that is not counted; `kind load` gets three.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${1:-10}
scripts/setup.sh build test
cargo build --release --locked
tests/lab/lab up
exports=$(tests/lab/lab env)
eval "$exports"
kindlift=$PWD/target/release/kindlift
work=$(mktemp -d)
registry="" registry_pid=""
nodes=(dev-control-plane dev-worker dev-worker2)
declare -a names=()

clean_up() {
  local status=$? name node
  trap - EXIT
  for name in "${names[@]}"; do
    docker image rm --force "$name" >/dev/null 2>&1 || true
    for node in "${nodes[@]}"; do
      docker exec "$node" crictl rmi "docker.io/$name" "$name" >/dev/null 2>&1 || true
    done
  done
  for node in "${nodes[@]}"; do
    [[ -z $registry ]] || docker exec "$node" rm -rf "/etc/containerd/certs.d/$registry" || true
  done
  [[ -z $registry_pid ]] || kill "$registry_pid" || true
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A registry on loopback, which the nodes reach by the bridge's address: as kind's own guide does it.
start_registry() {
  local port gateway node
  cat >"$work/registry.yml" <<C
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: '0.0.0.0:0'}
C
  docker-registry serve "$work/registry.yml" 2>"$work/registry.log" &
  registry_pid=$!
  until port=$(grep -o 'listening on [^ "]*' "$work/registry.log" | grep -o '[0-9]*$'); do
    kill -0 "$registry_pid"
    sleep 0.1
  done
  registry=127.0.0.1:$port
  gateway=$(docker network inspect --format '{{range .IPAM.Config}}{{.Gateway}}{{end}}' bridge)
  for node in "${nodes[@]}"; do
    docker exec "$node" sh -c "mkdir -p '/etc/containerd/certs.d/$registry' &&
      echo '[host.\"http://$gateway:$port\"]' >'/etc/containerd/certs.d/$registry/hosts.toml'"
  done
}

# image NAME: a folder to build from, 0.5 GB in five layers that nothing compresses.
image() {
  local folder=$work/${1//\//_}
  mkdir -p "$folder"
  cp "$KINDLIFT_LAB_BUSYBOX" "$folder/busybox"
  head -c 250000000 /dev/urandom >"$folder/a"
  head -c 150000000 /dev/urandom >"$folder/b"
  head -c 70000000 /dev/urandom >"$folder/c"
  head -c 30000000 /dev/urandom >"$folder/d"
  printf 'FROM scratch\nCOPY a /\nCOPY b /\nCOPY c /\nCOPY busybox d /bin/\nCOPY app /\n' \
    >"$folder/Dockerfile"
  names+=("$1")
  change "$1" 1
}

# change NAME MEGABYTES: other bytes in the last layer, built but not loaded.
change() {
  local folder=$work/${1//\//_}
  head -c "$2"000000 /dev/urandom >"$folder/app"
  docker build --quiet --provenance=false --tag "$1" "$folder" >/dev/null
}

# timed FILE COMMAND...: appends the milliseconds that the command took.
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

load_ours() { "$kindlift" load "$ours" --cluster dev --output json; }

# after_build FILE: what the last load took without what a build hides (finding, connecting).
after_build() {
  jq '.images[0].phases | .verify.end_ms - .push.start_ms' "$work/log" >>"$work/$1"
}

push_and_pull() {
  local node pulls=()
  docker push --quiet "$theirs"
  for node in "${nodes[@]}"; do
    docker exec "$node" crictl pull "$theirs" &
    pulls+=($!)
  done
  for node in "${pulls[@]}"; do
    wait "$node"
  done
}

median() { # FILE
  sort -n "$work/$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : int((v[NR / 2] + v[NR / 2 + 1]) / 2)}'
}

# row TITLE OURS PEER
row() {
  local ours peer
  ours=$(median "$2") peer=$(median "$3")
  awk -v t="$1" -v o="$ours" -v p="$peer" \
    'BEGIN {printf "| %s | %d ms | %d ms | %.3f |\n", t, o, p, o / p}'
}

# A loop knows the cluster from its kube context: the control plane's own address confirms it.
format='{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'
address=$(docker inspect --format "$format" dev-control-plane)
cat >"$work/kubeconfig" <<C
current-context: kind-dev
contexts: [{name: kind-dev, context: {cluster: kind-dev}}]
clusters: [{name: kind-dev, cluster: {server: "https://$address:6443"}}]
C

start_registry
ours=bench/ours:dev peers=bench/peers:dev theirs=$registry/bench/theirs:dev
image "$ours"
image "$peers"
image "$theirs"
timed cold-ours load_ours
timed cold-registry push_and_pull
timed cold-kind kind load docker-image "$peers" --name dev
for ((i = 0; i <= rounds; i++)); do
  # The first round warms caches up.
  counted=""
  [[ $i -gt 0 ]] || counted=warm-
  for megabytes in 1 20 100; do
    change "$ours" "$megabytes"
    timed "$counted$megabytes-ours" load_ours
    after_build "$counted$megabytes-after"
    change "$theirs" "$megabytes"
    timed "$counted$megabytes-registry" push_and_pull
  done
  timed "${counted}same-ours" "$kindlift" ensure "$ours" --cluster dev
  timed "${counted}loop-ours" env KUBECONFIG="$work/kubeconfig" "$kindlift" ensure "$ours"
  timed "${counted}same-registry" push_and_pull
  if [[ $i -le 3 ]]; then
    change "$peers" 1
    timed "${counted}1-kind" kind load docker-image "$peers" --name dev
  fi
done

echo "0.5 GB in five layers, three nodes, Docker's containerd store; medians of $rounds; $(nproc) cores"
"$kindlift" --version
kind version
docker version --format 'Docker {{.Server.Version}}'
docker exec dev-worker containerd --version
echo
echo '| what | kindlift | peer | ratio |'
echo '|---|---|---|---|'
row 'whole image, once: load against push + pull' cold-ours cold-registry
row 'whole image, once: load against kind load' cold-ours cold-kind
for megabytes in 1 20 100; do
  row "$megabytes MB changed, after the build: against push + pull" "$megabytes-after" "$megabytes-registry"
  row "$megabytes MB changed, whole load command: against push + pull" "$megabytes-ours" "$megabytes-registry"
done
row '1 MB changed, after the build: against kind load' 1-after 1-kind
row 'nothing missing: ensure, by the kube context, against push + pull' loop-ours same-registry
row 'nothing missing: ensure --cluster (all providers are asked)' same-ours same-registry
