#!/usr/bin/env bash
# The main job on real input: examples/skaffold, built by kindlift as Skaffold
# would ask for it, loaded into every node of a Kind cluster, shown by crictl.
#
# Uses the Kind cluster it finds (KIND_CLUSTER_NAME chooses among several), else
# the lab's; makes the lab where there is neither. KINDLIFT_LAB_NAME names a lab:
# then no other cluster is looked for. Removes the images it made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lab=tests/lab/lab
image="kindlift-demo/app"
label=io.x-k8s.kind.cluster
began=$SECONDS

say() { printf '\n== %s\n' "$*"; }
die() {
  echo "demo: error: $*" >&2
  exit 1
}

# clusters PROVIDER: the Kind clusters that run there.
clusters() {
  command -v "$1" >/dev/null || return 0
  "$1" ps --filter "label=$label" --format '{{.Names}}' 2>/dev/null |
    xargs -r "$1" inspect --format "{{index .Config.Labels \"$label\"}}" 2>/dev/null | sort -u || true
}

# find_cluster: sets provider and cluster, if there is one to use.
find_cluster() {
  local found name
  for provider in docker podman; do
    found=$(clusters "$provider")
    name=${KIND_CLUSTER_NAME-}
    # Tests make more clusters in a lab; these are the ones that stay.
    if [[ -z $name && -n ${KINDLIFT_LAB_DIR-} ]]; then
      name=dev
      [[ $provider == docker ]] || name=pod
    fi
    if [[ -n $name ]]; then
      cluster=$name
      grep -qxF -- "$cluster" <<<"$found" && return 0
      continue
    fi
    [[ -n $found ]] || continue
    cluster=$found
    [[ $(wc -l <<<"$found") -eq 1 ]] ||
      die "there are several Kind clusters: set KIND_CLUSTER_NAME to one of: ${found//$'\n'/, }"
    return 0
  done
  return 1
}

use_lab() {
  local exports
  exports=$("$lab" env 2>/dev/null) || return 1
  eval "$exports"
  find_cluster
}

# find_place: the lab that was named, or whatever there is.
find_place() {
  [[ -n ${KINDLIFT_LAB_NAME-} ]] || { find_cluster && return 0; }
  use_lab
}

# build_kindlift: builds, and sets kindlift to the program.
#
# `make build` optimizes across crates, which takes minutes the first time. Who only wants to see
# the demo gets the quick build that the tests use too, fast only where bytes are hashed.
build_kindlift() {
  local target=${CARGO_TARGET_DIR:-target}
  if [[ -x $target/release/kindlift ]]; then
    cargo build --release --locked
    kindlift=$(readlink -f "$target/release/kindlift")
  else
    cargo build --locked
    kindlift=$(readlink -f "$target/debug/kindlift")
  fi
}

scripts/setup.sh build

# The lab's packages come over the network while cargo has the processors.
preparing=""
if ! find_place; then
  say "no Kind cluster ${KINDLIFT_LAB_NAME:+in lab $KINDLIFT_LAB_NAME }here: making the lab, and building kindlift meanwhile"
  "$lab" prepare &
  preparing=$!
fi
build_kindlift
if [[ -n $preparing ]]; then
  wait "$preparing" || die "the lab could not be prepared"
  "$lab" up
  use_lab || die "the lab is up, but has no Kind cluster"
fi

# Not the load balancer, which several control planes have: it runs no containerd.
found_nodes=$(for role in control-plane worker; do
  "$provider" ps --filter "label=$label=$cluster" --filter "label=io.x-k8s.kind.role=$role" \
    --format '{{.Names}}' | sort
done)
mapfile -t nodes <<<"$found_nodes"
[[ -n ${nodes[0]} ]] || die "cluster '$cluster' has no node that runs"
say "cluster '$cluster', ${#nodes[@]} nodes under $provider; ready after $((SECONDS - began)) s"

work=$(mktemp -d)
ids=()
service=""
clean_up() {
  local node id
  for id in "${ids[@]}"; do
    for node in "${nodes[@]}"; do
      "$provider" exec "$node" crictl rmi "$id" >/dev/null 2>&1 || true
    done
  done
  for engine in docker podman; do
    command -v "$engine" >/dev/null || continue
    "$engine" image rm "$image:demo" >/dev/null 2>&1 || true
  done
  if [[ -n $service ]]; then
    kill "$service" 2>/dev/null || true
    wait "$service" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Skaffold looks at the image through Docker's API, and kindlift under it too.
# Where only Podman is, its API is served while the demo runs.
if [[ $provider == podman ]] && ! docker version >/dev/null 2>&1; then
  say "no Docker answers: serving Podman's API for the demo"
  podman system service --time=0 "unix://$work/podman.sock" >"$work/podman.log" 2>&1 &
  service=$!
  waiting_since=$SECONDS
  until [[ -S $work/podman.sock ]]; do
    [[ -e /proc/$service && $((SECONDS - waiting_since)) -lt 30 ]] || {
      cat "$work/podman.log" >&2
      die "Podman's API does not come up"
    }
    sleep 0.1
  done
  export DOCKER_HOST=unix://$work/podman.sock
  unset DOCKER_CONTEXT
fi

# A copy, because the demo edits it.
cp -R examples/skaffold "$work/app"
if [[ -n ${KINDLIFT_LAB_BUSYBOX-} ]]; then
  "$work/app/prepare.sh" "$KINDLIFT_LAB_BUSYBOX"
else
  "$work/app/prepare.sh"
fi

# build_as_skaffold: what Skaffold does with `buildCommand: exec kindlift build`.
build_as_skaffold() {
  (
    cd "$work/app"
    export IMAGE=$image:demo IMAGE_REPO=$image IMAGE_TAG=demo PUSH_IMAGE=false SKIP_TEST=false
    export BUILD_CONTEXT=$work/app PLATFORMS=
    # Skaffold has its kube context; the demo does not ask for one.
    exec "$kindlift" build --cluster "$cluster" --output json </dev/null
  ) >"$work/report.json"
  ids+=("$(sed -n 's/^ *"config_digest": "\(.*\)",*$/\1/p' "$work/report.json")")
  [[ -n ${ids[-1]} ]] || die "kindlift's report has no config_digest"
}

show_nodes() {
  local node
  for node in "${nodes[@]}"; do
    echo "-- crictl images, on $node"
    "$provider" exec "$node" crictl images | awk -v image="/$image" 'NR == 1 || index($1, image)'
  done
}

page() { sed -i "s|<h1>.*</h1>|<h1>$1</h1>|" "$work/app/index.html"; }

# run TITLE: builds, shows, and tells the time.
run() {
  local start now
  say "$1"
  start=$(date +%s%N)
  build_as_skaffold
  now=$(date +%s%N)
  show_nodes
  times+=("$(printf '%s: %d.%02d s from the command to the proof on %d nodes' "$1" \
    $(((now - start) / 1000000000)) $(((now - start) / 10000000 % 100)) "${#nodes[@]}")")
}

times=()
run "first build and load"
page "changed at $(date +%T)"
run "after a change of index.html"

say "done in $((SECONDS - began)) s"
printf '%s\n' "${times[@]}"
[[ ${ids[0]} != "${ids[1]}" ]] || die "the change did not make a new image"
if [[ -n $preparing ]]; then
  echo "The lab stays up for the next time; 'make lab-down' removes it."
fi
