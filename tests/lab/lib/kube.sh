# shellcheck shell=bash
# A real Kubernetes in stand-in nodes: kubelets, etcd, API server, controller
# manager and scheduler. node/lab-kube runs them; here a cluster learns its
# addresses, is waited for, and gets a kubeconfig as kind would write it.

kubeconfig() { printf '%s/kubeconfig/%s' "$state" "$1"; }

# kube_run_args PROVIDER: flags for `docker run`, one a line. The programs are mounted
# out of the cache, so that no engine has to store them in an image.
kube_run_args() {
  local name
  for name in "${kubernetes_programs[@]}"; do
    printf -- '--volume=%s:/usr/local/bin/%s:ro\n' "$(go_program "$name")" "$name"
  done
  printf -- '--volume=%s/usr/bin/etcd:/usr/local/bin/etcd:ro\n' "$(engine_tree)"
  # As kind does it. Podman's network in the lab is closed: there the node's own address must do.
  [[ $1 == podman ]] || echo --publish=127.0.0.1::6443
}

# Each node takes seven of the machine's inotify instances; the kernel's 128
# for root do not go far, and then containerd's CRI and Skaffold fail. kind's
# own advice is to raise it. Until the next boot, and never lowered.
raise_inotify() {
  local file=/proc/sys/fs/inotify/max_user_instances enough=1024
  [[ $(<"$file") -ge $enough ]] || echo "$enough" >"$file" 2>/dev/null ||
    say "kubernetes: could not raise $file to $enough; many nodes may not start"
}

# node_address PROVIDER NODE
node_address() {
  engine "$1" inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$2"
}

# kube_up CLUSTER PROVIDER WORKERS: after the nodes have been started.
kube_up() {
  local name=$1 provider=$2 workers=$3 n other server token routes node
  local -a addresses=()
  for ((n = 0; n <= workers; n++)); do
    addresses+=("$(node_address "$provider" "$(node_name "$name" "$n")")")
  done
  server=${addresses[0]}
  # shellcheck disable=SC2016 # The node expands it.
  token=$(engine "$provider" exec "$(node_name "$name" 0)" sh -c '[ ! -e /etc/lab-kube ] || { . /etc/lab-kube && echo "$token"; }')
  [[ -n $token ]] || token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  for ((n = 0; n <= workers; n++)); do
    routes=""
    for ((other = 0; other <= workers; other++)); do
      [[ $other -eq $n ]] || routes+="10.244.$other.0/24=${addresses[other]} "
    done
    node=$(node_name "$name" "$n")
    printf 'server=%s\ntoken=%s\nsubnet=10.244.%s\nroutes="%s"\n' "$server" "$token" "$n" "$routes" |
      engine "$provider" exec -i "$node" sh -c 'cat >/etc/lab-kube.new && mv /etc/lab-kube.new /etc/lab-kube'
  done
  write_kubeconfig "$name" "$(api_endpoint "$provider" "$name" "$server")" "$token"
  until_true 120 kube_ready "$name" "$((workers + 1))" || {
    kube_complaint "$provider" "$name" >&2
    die "cluster '$name': Kubernetes did not get ready"
  }
}

api_endpoint() {
  local published=""
  [[ $1 == podman ]] || published=$(engine "$1" port "$(node_name "$2" 0)" 6443/tcp | head -n 1)
  echo "https://${published:-$3:6443}"
}

write_kubeconfig() {
  local file
  file=$(kubeconfig "$1")
  mkdir -p "$state/kubeconfig"
  cat >"$file.new" <<C
apiVersion: v1
kind: Config
current-context: kind-$1
contexts: [{name: kind-$1, context: {cluster: kind-$1, user: kind-$1}}]
clusters: [{name: kind-$1, cluster: {server: '$2', insecure-skip-tls-verify: true}}]
users: [{name: kind-$1, user: {token: '$3'}}]
C
  chmod 600 "$file.new"
  [[ -z ${KINDLIFT_LAB_USER-} ]] || chown "$KINDLIFT_LAB_USER" "$file.new"
  mv "$file.new" "$file"
}

kube_get() {
  local name=$1
  shift
  "$state/bin/kubectl" --kubeconfig "$(kubeconfig "$name")" --request-timeout 5s get "$@" 2>/dev/null
}

# All nodes are Ready, and pods can be made: those need the account.
kube_ready() {
  local ready
  ready=$(kube_get "$1" nodes --output \
    'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True) || return 1
  [[ $ready -eq $2 ]] && kube_get "$1" serviceaccount/default configmap/kube-root-ca.crt >/dev/null
}

kube_complaint() {
  engine "$1" exec "$(node_name "$2" 0)" sh -c 'tail -n 5 /var/log/lab/*.log' 2>&1 || true
}
