# shellcheck shell=bash
# The cache: what is costly to make and the same for every lab. Each entry is
# named by a hash of all that it is made of, is built under another name and
# renamed when whole, so that a killed build never passes for an entry.

engine_packages=(
  ca-certificates docker.io docker-cli docker-buildx containerd runc iptables nftables iproute2
  procps podman buildah crun netavark aardvark-dns fuse-overlayfs uidmap slirp4netns passt skopeo
  crane kind umoci docker-registry kubernetes-client etcd-server catatonit tini openssh-server busybox-static
)
# What kindest/node has, less systemd: no socat, python3 or netcat, which real
# nodes lack too.
node_packages=(
  ca-certificates containerd runc iptables nftables iproute2 procps jq curl pigz fuse-overlayfs kmod
  mount util-linux conntrack ethtool containernetworking-plugins
)
# Files that no test reads, and that only make images larger.
tree_excludes=(
  '/usr/share/man/*' '/usr/share/doc/*' '/usr/share/locale/*' '/usr/share/info/*'
)
node_excludes=('/usr/lib/cni/*' '/usr/bin/containerd-stress')
node_includes=('/usr/lib/cni/host-local' '/usr/lib/cni/loopback' '/usr/lib/cni/ptp' '/usr/lib/cni/portmap')

key() { printf '%s\n' "$@" | sha256sum | head -c 12; }

# The functions that build an entry belong to what it is made of.
engine_tree() {
  printf '%s/engine-%s' "$cache" \
    "$(key "${engine_packages[@]}" "${tree_excludes[@]}" "$(declare -f build_engine_tree debian)")"
}

node_base() {
  printf '%s/node-base-%s-%s.tar' "$cache" "$1" \
    "$(key "${node_packages[@]}" "${tree_excludes[@]}" "${node_excludes[@]}" "${node_includes[@]}" \
      "$(declare -f build_node_base debian)")"
}

# The node image's archive; its key is also the image's tag.
node_key() {
  key "$1" "$(node_base "$1")" "$(go_program crictl)" "$(engine_tree)" \
    "$(cat "$here"/node/*)" "$(declare -f build_node_archive pause_archive image_archive plain_tar)"
}
node_archive() { printf '%s/node-%s-%s.tar' "$cache" "$1" "$(node_key "$1")"; }

# kindlift's dependencies as cargo has built them: see scripts/cargo-cache.sh.
cargo_dependencies() {
  printf '%s/cargo-%s' "$cache" \
    "$(key "$(cat "$here"/../../{Cargo.{lock,toml},fuzz/{Cargo.toml,rustc.sh}})" \
      "$(rustc --version --verbose)" \
      "$(declare -f build_cargo_dependencies)")"
}

# half NAME: where an entry is built. The builder's PID and start time in the
# name let a sweep tell a dead build from one that runs.
half() {
  local -a fields
  read -r -a fields <"/proc/$$/stat"
  printf '%s.half.%s.%s' "$1" "$$" "${fields[21]}"
}

# debian SUITE TARGET OPTIONS...: a minimal Debian as a folder or a .tar file.
debian() {
  local suite=$1 target=$2 mirror pattern
  shift 2
  mirror=$(debian_mirror)
  local -a options=(--mode=root --variant=minbase --quiet
    # Packages of a suite that moves daily may come from a mirror with an old stamp.
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"'
    --dpkgopt=force-unsafe-io)
  for pattern in "${tree_excludes[@]}"; do options+=("--dpkgopt=path-exclude=$pattern"); done
  # The host's proxy, where it has one.
  apt-config dump 2>/dev/null | grep -E '^Acquire::https?::' >"$target.aptopt" || true
  [[ ! -s $target.aptopt ]] || options+=("--aptopt=$target.aptopt")
  unshare --mount --propagation private \
    mmdebstrap "${options[@]}" "$@" "$suite" "$target" "$mirror"
  rm -f "$target.aptopt"
}

build_engine_tree() {
  debian sid "$2" --format=directory --include="$(IFS=,; echo "${engine_packages[*]}")"
}

build_node_base() {
  local target=$2 suite=$3 pattern
  local -a options=(--include="$(IFS=,; echo "${node_packages[*]}")")
  for pattern in "${node_excludes[@]}"; do options+=("--dpkgopt=path-exclude=$pattern"); done
  for pattern in "${node_includes[@]}"; do options+=("--dpkgopt=path-include=$pattern"); done
  debian "$suite" "$target" --format=tar "${options[@]}"
}

# Copies them out of a target folder; what is ours is made anew in each clone.
build_cargo_dependencies() {
  local half=$2 target=$3 build
  for build in . fuzz/build; do
    mkdir -p "$half/$build/debug"
    cp --archive --reflink=auto "$target/$build"/debug/{.fingerprint,build,deps} "$half/$build/debug"
  done
  CARGO_TARGET_DIR=$half cargo clean --locked --package kindlift
  CARGO_TARGET_DIR=$half/fuzz/build cargo clean --manifest-path fuzz/Cargo.toml \
    --package kindlift --package kindlift-fuzz
}

# entry PATH LABEL BUILDER ARGS...: makes a cache entry unless it is there.
entry() {
  local path=$1 label=$2 builder=$3 half began=$SECONDS log failed
  shift 3
  [[ ! -e $path ]] || return 0
  half=$(half "$path")
  log=$cache/logs/$(basename "$path").log
  say "cache: making $label"
  # In a condition bash would ignore `set -e` within the builder, and a build
  # that failed half-way would pass for a whole one.
  set +e
  (
    set -e
    "$builder" "$path" "$half" "$@"
  ) >"$log" 2>&1
  failed=$?
  set -e
  [[ $failed -eq 0 ]] || {
    rm -rf --one-file-system "$half"*
    die_with "$log" "could not make $label"
  }
  mv "$half" "$path"
  say "cache: made $label in $((SECONDS - began)) s"
}

# prepare WORD...: fills the cache with the engine tree and, per word, the node
# image of a suite, `kubernetes`, `loops` (Skaffold and Tilt) or `buildkit`.
prepare() {
  local word job failed=""
  local -a jobs=() suites=() programs=() entries
  for word in "$@"; do
    case $word in
      kubernetes) programs+=("${kubernetes_programs[@]}") ;;
      loops) programs+=("${loop_programs[@]}") ;;
      buildkit) programs+=("${buildkit_programs[@]}") ;;
      *) suites+=("$word") ;;
    esac
  done
  local whole=true
  mapfile -t entries < <(
    engine_tree && echo
    for word in "${suites[@]}"; do node_archive "$word" && echo; done
    [[ ${#suites[@]} -eq 0 ]] || for word in "${node_programs[@]}"; do go_program "$word" && echo; done
    for word in "${programs[@]}"; do go_program "$word" && echo; done
  )
  for word in "${entries[@]}"; do [[ -e $word ]] || whole=false; done
  # Also with a cache that came from elsewhere the host's own programs are needed.
  host_packages
  $whole && return 0

  mkdir -p "$cache/logs"
  # The cache is shared by all labs: one builds, the others wait.
  exec 8>"$cache/lock"
  flock 8
  remove_halves
  # Jobs of their own shells: a `die` there ends the job, seen by its wait. Each
  # has its own process group, to be ended whole with us. They keep the cache's
  # lock: should we be killed, the next lab waits for them and takes their work.
  set -m
  trap 'end_jobs "${jobs[@]}"' EXIT
  (entry "$(engine_tree)" "engine tree" build_engine_tree) 9>&- &
  jobs+=($!)
  [[ ${#suites[@]} -eq 0 ]] || programs=("${node_programs[@]}" "${programs[@]}")
  if [[ ${#programs[@]} -gt 0 ]]; then
    (go_entries "${programs[@]}") 9>&- &
    jobs+=($!)
  fi
  if [[ ${#suites[@]} -gt 0 ]]; then
    (for word in "${suites[@]}"; do
      entry "$(node_base "$word")" "node tree ($word)" build_node_base "$word"
    done) 9>&- &
    jobs+=($!)
  fi
  set +m
  for job in "${jobs[@]}"; do wait "$job" || failed=yes; done
  trap - EXIT
  [[ -z $failed ]] || die "the cache could not be filled"
  for word in "${suites[@]}"; do
    entry "$(node_archive "$word")" "node image ($word)" build_node_archive "$word"
  done
  exec 8>&-
}

end_jobs() {
  local job
  for job in "$@"; do kill -TERM -- "-$job" 2>/dev/null || true; done
}

# Removes what builds left that were killed. Only under the cache's lock.
remove_halves() {
  local path rest pid start
  local -a fields
  for path in "$cache"/*.half.*; do
    [[ -e $path ]] || continue
    rest=${path##*.half.}
    rest=${rest%.aptopt}
    pid=${rest%%.*}
    start=${rest#*.}
    start=${start%%.*}
    if { read -r -a fields <"/proc/$pid/stat"; } 2>/dev/null && [[ ${fields[21]} == "$start" ]]; then
      continue
    fi
    rm -rf --one-file-system "$path"
  done
}

cache_clean() {
  local path keep suite program wanted=" "
  for path in "$cache"/state/*/process/*; do
    [[ ! -e $path ]] || die "a lab is up: run 'lab down' first"
  done
  wanted+="$(engine_tree) $(cargo_dependencies) "
  for program in "${node_programs[@]}" "${kubernetes_programs[@]}" "${loop_programs[@]}" \
    "${buildkit_programs[@]}"; do
    wanted+="$(go_program "$program") "
  done
  for suite in sid trixie bookworm; do wanted+="$(node_base "$suite") $(node_archive "$suite") "; done
  exec 8>"$cache/lock"
  flock 8
  remove_halves
  for path in "$cache"/{engine,crictl,containerd,kube,kubelet,skaffold,tilt,node,cargo}-*; do
    [[ -e $path && $wanted != *" $path "* ]] || continue
    keep=$(basename "$path")
    say "cache: removing $keep"
    rm -rf --one-file-system "$path" "$cache/logs/$keep.log"
  done
}
