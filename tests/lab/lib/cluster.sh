# shellcheck shell=bash
# Clusters of stand-in nodes: containers with kind's names and labels, in which
# containerd and crictl are real. The real `kind load` takes them for its own.

# cluster_nodes ENGINE CLUSTER: names of its nodes, or of all nodes.
cluster_nodes() {
  engine "$1" ps --all --filter "label=io.x-k8s.kind.cluster${2:+=$2}" --format '{{.Names}}'
}

node_versions() {
  engine "$1" exec "$2" sh -c 'containerd --version | cut -d" " -f3; crictl --version | cut -d" " -f3
    [ ! -e /usr/local/bin/kubelet ] || kubelet --version | cut -d" " -f2' 2>/dev/null |
    paste -sd ' ' | sed 's/^/containerd /; s/ /, crictl /2; s/ /, kubelet /4'
}

# cluster_up NAME PROVIDER WORKERS SUITE KUBERNETES RUN-ARGS...: KUBERNETES is
# "yes" or nothing.
# The labels tell what a cluster was asked to be, so that a second `up` knows.
cluster_up() {
  local name=$1 provider=$2 workers=$3 suite=$4 kubernetes=$5 began=$SECONDS
  shift 5
  local image wish have n node role complaint
  local -a run_args=("$@") kube_args=()
  if [[ -n $kubernetes ]]; then
    raise_inotify
    mapfile -t kube_args < <(kube_run_args "$provider")
    run_args+=("${kube_args[@]}")
  fi
  image=$(node_image "$suite")
  wish=$(key "$image" "$workers" "${run_args[@]}")
  have=$(engine "$provider" ps --filter "label=io.x-k8s.kind.cluster=$name" \
    --filter "label=lab.wish=$wish" --format '{{.Names}}' | wc -l)
  if [[ $have -ne $((workers + 1)) ]]; then
    cluster_down "$name" "$provider"
    engine "$provider" image inspect "$image" >/dev/null 2>&1 || {
      engine "$provider" load --quiet --input "$(node_archive "$suite")" >/dev/null ||
        die "$provider could not load the node image"
      say "$provider: loaded the node image ($suite)"
    }
    for ((n = 0; n <= workers; n++)); do
      node=$(node_name "$name" "$n")
      role=worker
      [[ $n -gt 0 ]] || role=control-plane
      # Docker warns about forwarding each time; that matters only when it fails.
      complaint=$(engine "$provider" run --detach --init --privileged --cgroupns=private \
        --cgroup-parent "/$cgroup_parent" --name "$node" --hostname "$node" \
        --tmpfs /tmp --tmpfs /run --volume /var --label "io.x-k8s.kind.cluster=$name" \
        --label "io.x-k8s.kind.role=$role" --label "lab.wish=$wish" "${run_args[@]}" "$image" 2>&1) ||
        die "could not start node $node: $complaint"
    done
  fi
  wait_ready "$provider" "$name" "$workers"
  [[ -z $kubernetes ]] || kube_up "$name" "$provider" "$workers"
  say "cluster '$name' ($provider): $((workers + 1)) nodes, $(node_versions "$provider" "$name-control-plane"), ready in $((SECONDS - began)) s"
}

# node_name CLUSTER N: as kind names them.
node_name() {
  case $2 in
    0) echo "$1-control-plane" ;;
    1) echo "$1-worker" ;;
    *) echo "$1-worker$2" ;;
  esac
}

wait_ready() {
  local provider=$1 name=$2 workers=$3 n job failed=""
  local -a jobs=()
  for ((n = 0; n <= workers; n++)); do
    engine "$provider" exec "$(node_name "$name" "$n")" lab-node-ready >&2 9>&- || exit 1 &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=yes; done
  [[ -z $failed ]] || {
    engine "$provider" logs --tail 20 "$name-control-plane" >&2 || true
    die "cluster '$name': a node did not get ready"
  }
}

cluster_down() {
  local -a nodes
  rm -f "$(kubeconfig "$1")"
  mapfile -t nodes < <(cluster_nodes "$2" "$1")
  [[ ${#nodes[@]} -gt 0 ]] || return 0
  engine "$2" rm --force --volumes "${nodes[@]}" >/dev/null
  say "cluster '$1' ($2): removed"
}
