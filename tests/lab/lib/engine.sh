# shellcheck shell=bash
# The Docker engines, one daemon for each kind of image store, the programs
# that a shell finds in the lab's bin folder, and how all of it ends.

docker_socket() { printf '%s/run/%s.sock' "$state" "$1"; }

docker_store() {
  case $1 in
    docker) echo "--feature containerd-snapshotter=true" ;;
    overlay2) echo "--feature containerd-snapshotter=false --storage-driver overlay2" ;;
  esac
}

# Two letters, the lab and the engine: at most 15 characters.
bridge_name() { printf 'kl%s%s' "$lab_id" "${1:0:1}"; }

docker_answers() {
  [[ $(curl --silent --max-time 5 --unix-socket "$(docker_socket "$1")" http://docker/_ping) == OK ]]
}

docker_answers_or_died() { docker_answers "$1" || ! [[ -e /proc/$2 ]]; }

# free_subnet ENGINE: a /24 of a range of ours that no interface has. Podman's
# shows only with its first container, so each engine searches from elsewhere,
# and the other labs' settings are looked at too.
free_subnet() {
  local n start=0 used
  case $1 in docker) start=0 ;; overlay2) start=85 ;; podman) start=170 ;; esac
  used=$(ip -o -4 addr show)
  used+=$(cat "$cache"/state/*/root/podman/extra/etc/containers/networks/podman.json 2>/dev/null) || true
  for ((n = 0; n < 256; n++)); do
    start=$(((start + 1) % 256))
    [[ $used == *"10.214.$start."* ]] || { echo "10.214.$start.1/24" && return; }
  done
  die "no free subnet in 10.214.0.0/16"
}

engine_is_up() {
  case $1 in
    podman) is_alive podman && podman_answers ;;
    *) is_alive "$1" && docker_answers "$1" ;;
  esac
}

# is_in_memory: whether Docker's images, and with them its nodes' disks, are to lie in memory, which
# takes a tenth off the tests' time. All that ran in a whole .ci/run took 9 GB at the most.
is_in_memory() {
  [[ ${KINDLIFT_LAB_IN_MEMORY-} == yes ]] &&
    [[ $(awk '$1 == "MemAvailable:" {print $2}' /proc/meminfo) -gt 16000000 ]]
}

# docker_up NAME: the daemon `docker` (containerd's store) or `overlay2`.
docker_up() {
  local name=$1 bridge began=$SECONDS
  local -a store tls=() memory=()
  if engine_is_up "$name"; then return 0; fi
  remove_component "$name"
  bridge=$(bridge_name "$name")
  mkdir -p "$state/run" "$state/$name"
  ip link add "$bridge" type bridge
  ip addr add "$(free_subnet "$name")" dev "$bridge"
  ip link set "$bridge" up
  read -r -a store <<<"$(docker_store "$name")"
  if [[ $name == overlay2 ]]; then
    tls_make
    mapfile -t tls < <(tls_flags)
  fi
  # shellcheck disable=SC2016 # The shell inside expands it.
  ! is_in_memory || memory=(sh -c 'mount -t tmpfs -o size=10g tmpfs "$1" && shift && exec "$@"'
    sh "$state/$name")
  # In a PID namespace of its own: with its first process all its containers
  # end too, and with them their mounts, whatever state they are in.
  in_tree "$name" --pid --fork --kill-child -- "${memory[@]}" tini -s -- dockerd "${store[@]}" \
    --data-root "$state/$name" --exec-root "$state/run/$name" --pidfile "$state/run/$name.pid" \
    --host "unix://$(docker_socket "$name")" "${tls[@]}" --group "${KINDLIFT_LAB_GROUP:-0}" \
    --bridge "$bridge" --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
    --cgroup-parent "/$cgroup_parent"
  local launcher=$!
  until_true 60 docker_answers_or_died "$name" "$launcher" || true
  docker_answers "$name" || die_with "$state/logs/$name" "dockerd ($name) did not come up"
  say "$name: dockerd $(docker_version "$name") is up in $((SECONDS - began)) s"
}

docker_version() {
  curl --silent --max-time 5 --unix-socket "$(docker_socket "$1")" http://docker/version |
    jq -r '[.Version, (.Components[] | select(.Name == "containerd") | "containerd " + .Version)] | join(", ")'
}

# engine NAME ARGS...: the client of that engine. What podman leaves running
# must not hold the lab's lock.
engine() {
  local name=$1
  shift
  case $name in
    podman) "$state/bin/podman" "$@" 9>&- ;;
    *) DOCKER_CONFIG=$state/docker-config "$state/bin/docker" --host "unix://$(docker_socket "$name")" "$@" 9>&- ;;
  esac
}

# wrapper FILE: an executable, written from stdin and put in place at once.
wrapper() {
  cat >"$1.new"
  chmod 755 "$1.new"
  mv "$1.new" "$1"
}

# tree_loader: the words that start a program of the tree on the host, whose libc
# may be older: by the tree's own loader.
tree_loader() {
  local tree libs loader
  tree=$(engine_tree)
  loader=$(find "$tree/usr/lib" "$tree/usr/lib64" -maxdepth 1 -name 'ld-linux*.so.*')
  libs=$(dirname "$(find "$tree/usr/lib" -maxdepth 2 -name libc.so.6)")
  printf "'%s' --library-path '%s'" "$loader" "$libs"
}

# The programs for the host. `exec` keeps one process, which gets the signals.
write_bin() {
  local tree program name run
  tree=$(engine_tree)
  mkdir -p "$state/bin" "$state/docker-config/cli-plugins"
  run="exec $(tree_loader)"
  for name in docker kind kubectl crane umoci docker-registry; do
    wrapper "$state/bin/$name" <<W
#!/bin/sh
$run --argv0 $name '$tree/usr/bin/$name' "\$@"
W
  done
  for name in "${loop_programs[@]}"; do
    [[ ! -e $(go_program "$name") ]] || ln -sf "$(go_program "$name")" "$state/bin/$name"
  done
  # Debian's skopeo looks for its policy in /etc, which this host may not have.
  wrapper "$state/bin/skopeo" <<W
#!/bin/sh
export CONTAINERS_REGISTRIES_CONF='$tree/etc/containers/registries.conf'
$run --argv0 skopeo '$tree/usr/bin/skopeo' --policy '$tree/etc/containers/policy.json' "\$@"
W
  program=$tree/usr/libexec/docker/cli-plugins/docker-buildx
  wrapper "$state/docker-config/cli-plugins/docker-buildx" <<W
#!/bin/sh
$run --argv0 docker-buildx '$program' "\$@"
W
  [[ -e $state/docker-config/config.json ]] || echo '{}' >"$state/docker-config/config.json"
  [[ -z ${KINDLIFT_LAB_USER-} ]] || chown -R "$KINDLIFT_LAB_USER:$KINDLIFT_LAB_GROUP" "$state/docker-config"
}

lab_env() {
  [[ -d $state/bin ]] || die "lab '$lab_name' is not up: run 'lab up' first"
  # shellcheck disable=SC2016 # the caller's shell expands it
  printf 'export PATH=%q:"$PATH"\n' "$state/bin"
  local default=docker
  is_alive docker || ! is_alive overlay2 || default=overlay2
  printf 'export DOCKER_HOST=%q\n' "unix://$(docker_socket "$default")"
  printf 'export DOCKER_CONFIG=%q\n' "$state/docker-config"
  printf 'export KINDLIFT_LAB_DIR=%q\n' "$state"
  printf 'export KINDLIFT_LAB_BUSYBOX=%q\n' "$(engine_tree)/usr/bin/busybox"
  printf 'export KINDLIFT_LAB_FUSE_SNAPSHOTTER=%q\n' "$(go_program containerd-fuse-overlayfs-grpc)"
  ! is_alive docker || printf 'export KINDLIFT_LAB_DOCKER_CONTAINERD=%q\n' "unix://$(docker_socket docker)"
  ! is_alive overlay2 || printf 'export KINDLIFT_LAB_DOCKER_OVERLAY2=%q\n' "unix://$(docker_socket overlay2)"
  [[ ! -e $(kubeconfig kube) ]] || printf 'export KINDLIFT_LAB_KUBECONFIG=%q\n' "$(kubeconfig kube)"
  podman_env
  remote_env
  buildkit_env
}

lab_status() {
  local name node up=""
  echo "lab '$lab_name' in $state"
  for name in docker overlay2 podman; do
    engine_is_up "$name" || continue
    up=yes
    case $name in
      podman) echo "  podman: $("$state/bin/podman" --version), $(podman_socket); rootless too" ;;
      *) echo "  $name: dockerd $(docker_version "$name"), $(docker_socket "$name")" ;;
    esac
    while read -r node; do
      echo "    node $node: $(node_versions "$name" "$node")"
    done < <(cluster_nodes "$name" "" | sort)
  done
  ! is_alive buildkit || echo "  buildkit: $(buildkit_socket)"
  ! is_alive remote || echo "  remote: overlay2 at $(tls_host) and ssh://$(remote_address)"
  if [[ -n $up ]]; then
    echo "  buildx: $(engine docker buildx version)"
    echo "  kind: $("$state/bin/kind" version)"
  else
    echo "  down"
  fi
}

# sweep: after a lab that was killed, its daemons may run without it knowing of
# all, or be dead and leave folders, bridges and cgroups.
sweep() {
  local file name
  for file in "$state"/process/*; do
    [[ -e $file ]] || continue
    name=${file##*/}
    case $name in
      *.new) rm -f "$file" && continue ;;
      podman-api) continue ;; # ends with podman
    esac
    is_alive "$name" && continue
    say "sweep: '$name' is recorded but gone"
    remove_component "$name"
  done
  # Folders of an engine without a record: killed between the two.
  for name in remote buildkit docker overlay2 podman; do
    [[ -d $state/$name && ! -e $(process_file "$name") ]] || continue
    say "sweep: '$name' left its data behind"
    remove_component "$name"
  done
}

# remove_component NAME: ends what is left of it, and removes its traces.
remove_component() {
  local name=$1
  [[ $name != podman ]] || podman_end
  end_process "$name"
  case $name in
    docker | overlay2) ip link del "$(bridge_name "$name")" 2>/dev/null || true ;;
  esac
  [[ $name != overlay2 ]] || rm -rf --one-file-system "$(tls_dir)" "$state/logs/tls"
  rm -rf --one-file-system "${state:?}/$name" "$state/root/$name" "$state/run/$name" \
    "$state/run/$name".* "$state/logs/$name"
}

lab_down() {
  local name
  [[ -d $state ]] || { say "lab '$lab_name' is not there" && return 0; }
  for name in remote buildkit docker overlay2 podman; do
    [[ -e $(process_file "$name") ]] || continue
    say "down: $name"
    remove_component "$name"
  done
  sweep
  remove_cgroups
  rm -rf --one-file-system "$state"
  say "lab '$lab_name' is down; the cache stays in $cache"
}
