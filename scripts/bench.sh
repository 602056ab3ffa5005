#!/usr/bin/env bash
# Whole commands side by side with the peer, in one run: `kind load docker-image`.
# Prints a table of medians and ratios; docs/benchmarks.md keeps the numbers.
#
# bench.sh [ROUNDS]   ROUNDS (default 10) follow one that is not counted.
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
declare -a names=()

clean_up() {
  local status=$? name node
  trap - EXIT
  rm -rf "$work"
  for name in "${names[@]}"; do
    docker image rm --force "$name" >/dev/null 2>&1 || true
    for node in dev-control-plane dev-worker dev-worker2; do
      docker exec "$node" crictl rmi "docker.io/$name" >/dev/null 2>&1 || true
    done
  done
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# image NAME: a folder to build from, 250 MB in five layers that nothing compresses.
image() {
  local folder=$work/$1
  mkdir -p "$folder"
  cp "$KINDLIFT_LAB_BUSYBOX" "$folder/busybox"
  head -c 150000000 /dev/urandom >"$folder/a"
  head -c 70000000 /dev/urandom >"$folder/b"
  head -c 30000000 /dev/urandom >"$folder/c"
  printf 'FROM scratch\nCOPY busybox /bin/\nCOPY a /\nCOPY b /\nCOPY c /\nCOPY app /\n' \
    >"$folder/Dockerfile"
  change "$1"
}

# change NAME: another megabyte in the last layer, built but not loaded.
change() {
  head -c 1000000 /dev/urandom >"$work/$1/app"
  names+=("bench/$1:dev")
  docker build --quiet --provenance=false --tag "bench/$1:dev" "$work/$1" >/dev/null
}

# timed FILE COMMAND...: appends the milliseconds that the command took.
timed() {
  local file=$1 began ended
  shift
  began=${EPOCHREALTIME/./}
  "$@" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    echo "bench: failed: $*" >&2
    exit 1
  }
  ended=${EPOCHREALTIME/./}
  echo $(((ended - began) / 1000)) >>"$work/$file"
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

image ours
image peers
timed cold-ours "$kindlift" load bench/ours:dev --cluster dev
timed cold-peer kind load docker-image bench/peers:dev --name dev
for ((i = 0; i <= rounds; i++)); do
  # The first round warms caches up.
  counted=""
  [[ $i -gt 0 ]] || counted=warm-
  change ours
  timed "${counted}changed-ours" "$kindlift" load bench/ours:dev --cluster dev
  timed "${counted}same-ours" "$kindlift" ensure bench/ours:dev --cluster dev
  timed "${counted}loop-ours" env KUBECONFIG="$work/kubeconfig" "$kindlift" ensure bench/ours:dev
  change peers
  timed "${counted}changed-peer" kind load docker-image bench/peers:dev --name dev
  timed "${counted}same-peer" kind load docker-image bench/peers:dev --name dev
done

echo "250 MB in five layers, three nodes, Docker's containerd store; medians of $rounds; $(nproc) cores"
"$kindlift" --version
kind version
docker version --format 'Docker {{.Server.Version}}'
docker exec dev-worker containerd --version
echo
echo '| whole command | kindlift | kind load | ratio |'
echo '|---|---|---|---|'
row 'cold cluster (once)' cold-ours cold-peer
row '1 MB changed: load against kind load docker-image' changed-ours changed-peer
row 'nothing missing: ensure, by the kube context' loop-ours same-peer
row 'nothing missing: ensure --cluster (all providers are asked)' same-ours same-peer
