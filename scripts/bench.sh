#!/usr/bin/env bash
# Whole commands side by side with what others do, in one run: `kind load docker-image`, and a local
# registry (the engine's push, then `crictl pull` on all nodes, which proves nothing).
# Prints a table of medians, ratios and goals; docs/benchmarks.md keeps the numbers.
#
# bench.sh [ROUNDS] [SECTION]...   ROUNDS (default 10) follow one that is not counted; `kind load` gets three.
#
#   containerd overlay2 podman rootless   1, 20 and 100 MB changed, built by that engine
#   same                                  nothing changed: `ensure`
#   cold                                  nothing of the image on any node
#   sizes nodes                           1 MB changed, by the image's size, by the number of nodes
#   lanes                                 100 MB to the nodes and nothing else, by what providers offer
#   program                               start time, size of the program
#   inner                                 inner parts, by Criterion
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=10
if [[ ${1-} =~ ^[1-9][0-9]*$ ]]; then
  rounds=$1
  shift
fi
sections=("$@")
[[ $# -gt 0 ]] || sections=(program containerd overlay2 podman rootless same cold nodes sizes lanes inner)
for section in "${sections[@]}"; do
  case $section in
    containerd | overlay2 | podman | rootless | same | cold | sizes | nodes | lanes | program | inner) ;;
    *)
      echo "bench: no such section: $section" >&2
      exit 2
      ;;
  esac
done

lab=tests/lab/lab
scripts/setup.sh build test
cargo build --release --locked
kindlift=$PWD/target/release/kindlift
state=$("$lab" status) || state=down
# A lab that somebody else has up is theirs to take down.
lab_is_ours=""
! grep -q '^ *down$' <<<"$state" || lab_is_ours=yes
# shellcheck source=lib/bench.sh
. scripts/lib/bench.sh

dev=(dev-control-plane dev-worker dev-worker2)
clusters=()
clean_up() {
  local status=$? name cluster
  trap - EXIT
  stop_registry
  for cluster in "${clusters[@]}"; do "$lab" cluster down "$cluster" || true; done
  if [[ -n $lab_is_ours && ${KEEP_LAB-} != 1 ]]; then
    "$lab" down || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# prepare SECTION: the lab that it needs. A lab of the bench's own is new for each: what one section has
# left on its disks and in its caches is no load on the next.
prepare() {
  local components=(docker dev) exports node
  case $1 in
    overlay2) components+=(overlay2) ;;
    podman | rootless) components+=(podman) ;;
  esac
  stop_registry
  [[ -z $lab_is_ours ]] || "$lab" down
  "$lab" up "${components[@]}"
  exports=$("$lab" env)
  eval "$exports"
  start_registry
  for node in "${dev[@]}"; do tell_node "$node"; done
} >&2

# Images of this run alone; those of a lab that stays go at the end.
run=bench-$$

# engine NAME: sets the commands of one of the lab's engines, and how kindlift is pointed at it.
engine() {
  pointed=(env "KINDLIFT_NODES_DOCKER_HOST=$DOCKER_HOST")
  flags=()
  case $1 in
    containerd) command=(docker) ;;
    overlay2)
      command=(env "DOCKER_HOST=$KINDLIFT_LAB_DOCKER_OVERLAY2" docker)
      pointed+=("DOCKER_HOST=$KINDLIFT_LAB_DOCKER_OVERLAY2")
      ;;
    podman)
      command=(podman)
      pointed+=(KINDLIFT_ENGINE=podman)
      flags=(--tls-verify=false)
      ;;
    rootless)
      command=("$KINDLIFT_LAB_PODMAN_ROOTLESS")
      mkdir -p "$work/rootless"
      ln -sf "$KINDLIFT_LAB_PODMAN_ROOTLESS" "$work/rootless/podman"
      pointed+=(KINDLIFT_ENGINE=podman "PATH=$work/rootless:$PATH")
      flags=(--tls-verify=false)
      ;;
  esac
}

# image FOLDER MEGABYTES: a folder to build from: five layers, the last of 1 MB.
image() {
  local folder=$work/$1 percent file
  mkdir -p "$folder"
  cp "$KINDLIFT_LAB_BUSYBOX" "$folder/busybox"
  for file in a:50 b:30 c:14 d:6; do
    percent=${file#*:}
    random "$folder/${file%:*}" $(($2 * percent / 100))
  done
  printf 'FROM scratch\nCOPY a /\nCOPY b /\nCOPY c /\nCOPY busybox d /bin/\nCOPY app /\n' \
    >"$folder/Dockerfile"
  random "$folder/app" 1
}

build() { # IMAGE FOLDER
  local try
  for try in 1 2; do
    "${command[@]}" build --quiet --tag "$1" "$work/$2" >"$work/log" 2>"$work/errors" && return
    # Docker's collection can take a layer that its build needs. kindlift builds again, too.
    [[ $try -eq 1 ]] || break
    grep -q 'parent snapshot .* does not exist' "$work/errors" || break
    echo "bench: Docker lost a layer to its own collection: building $1 again" >&2
  done
  cat "$work/log" "$work/errors" >&2
  return 1
}

# ours FILE FOLDER CLUSTER: builds and loads; notes the time from the end of the build to the proof.
ours() {
  "${pointed[@]}" "$kindlift" build --tag "$run/$2:dev" --cluster "$3" --output json "$work/$2" \
    >"$work/report" 2>"$work/errors" || {
    cat "$work/errors" >&2
    return 1
  }
  jq '.images[0].phases | .verify.end_ms - .build.end_ms' "$work/report" >>"$work/$1"
}

push_and_pull() { # IMAGE NODE...
  local image=$1 node pulls=()
  shift
  "${command[@]}" push "${flags[@]}" --quiet "$image"
  for node in "$@"; do
    docker exec "$node" crictl pull "$image" &
    pulls+=($!)
  done
  for node in "${pulls[@]}"; do wait "$node"; done
}

# theirs FILE FOLDER NODE...: builds, and notes the time of push and pulls.
theirs() {
  local file=$1 image=$registry/$run/$2:dev folder=$2
  shift 2
  build "$image" "$folder"
  timed "$file" push_and_pull "$image" "$@"
}

kind_load() { # FILE FOLDER
  build "$run/$2:dev" "$2"
  timed "$1" kind load docker-image "$run/$2:dev" --name dev
}

# forget FOLDER CLUSTER NODE...: the images of both, from engine and nodes.
forget() {
  local name node
  for name in "$run/$1:dev" "$registry/$run/$1:dev"; do
    "${command[@]}" image rm --force "$name" >/dev/null 2>&1 || true
    for node in "${@:3}"; do
      docker exec "$node" crictl rmi "$name" >/dev/null 2>&1 || true
    done
  done
  rm -rf "${work:?}/$1"
}

# changed ENGINE: 1, 20 and 100 MB of 0.5 GB.
changed() {
  local round counted megabytes kind=""
  engine "$1"
  [[ $1 != containerd ]] || kind=yes
  image "$1-ours" 500
  image "$1-theirs" 500
  ours "$1-first" "$1-ours" dev
  theirs "$1-first-theirs" "$1-theirs" "${dev[@]}"
  if [[ -n $kind ]]; then
    image "$1-kind" 500
    kind_load "$1-first-kind" "$1-kind"
  fi
  for ((round = 0; round <= rounds; round++)); do
    counted=$1-
    [[ $round -gt 0 ]] || counted=warm-$1-
    for megabytes in 1 20 100; do
      random "$work/$1-ours/app" "$megabytes"
      random "$work/$1-theirs/app" "$megabytes"
      # Neither always goes first.
      if ((round % 2)); then
        ours "$counted$megabytes-ours" "$1-ours" dev
        theirs "$counted$megabytes-registry" "$1-theirs" "${dev[@]}"
      else
        theirs "$counted$megabytes-registry" "$1-theirs" "${dev[@]}"
        ours "$counted$megabytes-ours" "$1-ours" dev
      fi
    done
    if [[ -n $kind && $round -le 3 ]]; then
      random "$work/$1-kind/app" 1
      kind_load "${counted}1-kind" "$1-kind"
    fi
  done
  for megabytes in 1 20 100; do
    local -A goals=([1]=0.5 [20]=0.8 [100]=1.2)
    [[ -n $kind ]] || goals=([1]=1 [20]=1 [100]=1)
    row "$1: $megabytes MB changed, against push + pull" \
      "$1-$megabytes-ours" "$1-$megabytes-registry" "${goals[$megabytes]}"
  done
  if [[ -n $kind ]]; then
    row "$1: 1 MB changed, against kind load" "$1-1-ours" "$1-1-kind" 0.02
    forget "$1-kind" dev "${dev[@]}"
  fi
  forget "$1-ours" dev "${dev[@]}"
  forget "$1-theirs" dev "${dev[@]}"
}

# same: nothing changed. A loop knows the cluster from its kube context: the control plane's own
# address confirms it.
same() {
  local address round format='{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'
  engine containerd
  address=$(docker inspect --format "$format" dev-control-plane)
  cat >"$work/kubeconfig" <<C
current-context: kind-dev
contexts: [{name: kind-dev, context: {cluster: kind-dev}}]
clusters: [{name: kind-dev, cluster: {server: "https://$address:6443"}}]
C
  image same 500
  ours same-first same dev
  # What that has left to be written out is not part of what is measured.
  sync
  for ((round = 0; round <= rounds; round++)); do
    timed same-ours env KUBECONFIG="$work/kubeconfig" "$kindlift" ensure "$run/same:dev" --output json
    [[ $(jq '[.images[0].nodes[].bytes_sent] | add' "$work/log") == 0 ]]
  done
  limit "nothing changed: ensure, whole command" same-ours 300 ms
  forget same dev "${dev[@]}"
}

# peak COMMAND...: the most memory that it took, in kB, into $work/peak.
peak() {
  local pid value most=0
  "$@" >"$work/log" 2>"$work/errors" &
  pid=$!
  while value=$(sed -n 's/^VmHWM:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$pid/status" 2>/dev/null) &&
    [[ -n $value ]]; do
    [[ $value -le $most ]] || most=$value
    sleep 0.02
  done
  wait "$pid" || {
    cat "$work/errors" >&2
    return 1
  }
  [[ $most -gt 0 ]] || {
    echo "bench: the memory of $1 was not seen" >&2
    return 1
  }
  echo $((most / 1000)) >>"$work/peak"
}

# cold: images of which the nodes have nothing. What one has left to be written out is no load on the next.
cold() {
  local round counted who
  engine containerd
  # Nothing can be written where temporary files would go.
  pointed+=(TMPDIR=/nonexistent)
  for ((round = 0; round <= rounds; round++)); do
    counted=""
    [[ $round -gt 0 ]] || counted=warm-
    # Neither always goes first.
    local order=(ours theirs)
    if ((round % 2)); then order=(theirs ours); fi
    if [[ $round -le 3 ]]; then order+=(kind); fi
    for who in "${order[@]}"; do
      # Other bytes: what has been loaded is not cold any more.
      image "whole-$who" 500
      sync
      case $who in
        ours) ours "${counted}cold-ours" whole-ours dev ;;
        theirs) theirs "${counted}cold-registry" whole-theirs "${dev[@]}" ;;
        kind) kind_load "${counted}cold-kind" whole-kind ;;
      esac
      forget "whole-$who" dev "${dev[@]}"
      "${command[@]}" builder prune --all --force >/dev/null
    done
  done
  row "cold: whole image, against push + pull" cold-ours cold-registry 1.2
  row "cold: whole image, against kind load" cold-ours cold-kind 0.4
}

cluster_of() { # NAME NODES: sets members
  "$lab" cluster up "$1" --workers $(($2 - 1)) >&2
  clusters+=("$1")
  members=("$1-control-plane")
  local n
  for ((n = 1; n < $2; n++)); do
    members+=("$1-worker$([[ $n -eq 1 ]] || echo "$n")")
  done
}

# by_number: 1 MB changed, on 1, 3 and 6 nodes.
by_number() {
  local round n
  engine containerd
  for n in 1 3 6; do
    cluster_of "$run-n$n" "$n"
    image "nodes$n" 500
    ours nodes-first "nodes$n" "$run-n$n"
  done
  for ((round = 0; round <= rounds; round++)); do
    for n in 1 3 6; do
      random "$work/nodes$n/app" 1
      ours "$([[ $round -gt 0 ]] || echo warm-)by-nodes$n" "nodes$n" "$run-n$n"
    done
  done
  row "1 MB changed: 3 nodes against 1" by-nodes3 by-nodes1 2
  row "1 MB changed: 6 nodes against 1" by-nodes6 by-nodes1 2
  for n in 1 3 6; do
    "$lab" cluster down "$run-n$n" >&2
    forget "nodes$n" "$run-n$n"
  done
  clusters=()
}

# by_size: 1 MB changed in 0.1, 1 and 5 GB, on one node; with the memory that the whole takes.
by_size() {
  local round size
  engine containerd
  cluster_of "$run-size" 1
  for size in 100 1000 5000; do
    image "size$size" "$size"
    build "$run/size$size:dev" "size$size"
    peak "$kindlift" load "$run/size$size:dev" --cluster "$run-size"
  done
  for ((round = 0; round <= rounds; round++)); do
    for size in 100 1000 5000; do
      random "$work/size$size/app" 1
      ours "$([[ $round -gt 0 ]] || echo warm-)by-size$size" "size$size" "$run-size"
    done
  done
  row "1 MB changed: 1 GB against 0.1 GB" by-size1000 by-size100 1.3
  row "1 MB changed: 5 GB against 0.1 GB" by-size5000 by-size100 1.3
  sort -n "$work/peak" | tail -n 1 >"$work/peak-most"
  limit "memory at the peak, 0.1 to 5 GB sent" peak-most 48 MB
  "$lab" cluster down "$run-size" >&2
  clusters=()
  for size in 100 1000 5000; do forget "size$size" "$run-size"; done
}

# Each of these takes a node and sends it $work/bulk, of which nothing is kept.
by_exec() { docker exec -i "$1" sh -c 'cat >/dev/null' <"$work/bulk"; }
by_copy() { docker cp --quiet - "$1:/var/tmp" <"$work/bulk.tar"; }
by_socket() {
  # A listener that is not on loopback: what this would gain, not something to do.
  docker exec "$1" perl -MIO::Socket::INET -e '
    my $listener = IO::Socket::INET->new(Listen => 1, LocalPort => 5999, ReuseAddr => 1) or die $!;
    my $peer = $listener->accept;
    while (sysread $peer, my $bytes, 1 << 18) {}' &
  local listener=$! address
  address=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1")
  until cat "$work/bulk" >"/dev/tcp/$address/5999"; do kill -0 "$listener"; done 2>/dev/null
  wait "$listener"
}

to_all() { # COMMAND
  local node pids=()
  for node in "${dev[@]}"; do
    "$1" "$node" &
    pids+=($!)
  done
  for node in "${pids[@]}"; do wait "$node"; done
}

lanes() {
  local round way
  engine containerd
  random "$work/bulk" 100
  tar -C "$work" -cf "$work/bulk.tar" bulk
  for ((round = 0; round <= rounds; round++)); do
    for way in exec copy socket; do
      timed "$([[ $round -gt 0 ]] || echo warm-)lane-$way" to_all "by_$way"
    done
  done
  row "100 MB to three nodes: docker cp against docker exec" lane-copy lane-exec 1
  row "100 MB to three nodes: a socket of the node against docker exec" lane-socket lane-exec 1
  for way in "${dev[@]}"; do docker exec "$way" rm -f /var/tmp/bulk; done
  rm -f "$work/bulk" "$work/bulk.tar"
}

hundred_starts() {
  local n
  for ((n = 0; n < 100; n++)); do "$kindlift" --version; done
}

program() {
  local round
  for ((round = 0; round < rounds; round++)); do timed starts hundred_starts; done
  awk '{print $1 / 100}' "$work/starts" >"$work/start"
  limit "kindlift --version" start 5 ms
  stat -c %s "$kindlift" | awk '{print $1 / 1000000}' >"$work/size"
  limit "stripped release program" size 10 MB
}

# inner: what is done to each byte and name; its table is Criterion's own.
inner() {
  echo
  # kindlift's own versions of everything that both need.
  cp Cargo.lock bench/Cargo.lock
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/bench cargo bench --quiet \
    --manifest-path bench/Cargo.toml -- --noplot 2>&1 | grep -v '^ *$\|^Found\|^  [0-9]'
}

prepare "${sections[0]}"
echo "0.5 GB in five layers, three nodes, unless said; medians of $rounds; $(nproc) cores, $(date +%F)"
"$kindlift" --version
kind version
docker version --format 'Docker {{.Server.Version}}'
docker exec dev-worker containerd --version
echo
echo '| from the end of the build to the proof | kindlift | peer | ratio | goal | met |'
echo '|---|---:|---:|---:|---:|---|'
for section in "${sections[@]}"; do
  [[ $section == "${sections[0]}" ]] || prepare "$section"
  case $section in
    containerd | overlay2 | podman | rootless) changed "$section" ;;
    nodes) by_number ;;
    sizes) by_size ;;
    *) "$section" ;;
  esac
done
