# shellcheck shell=bash
# Podman, rootful and rootless, with the rootful API socket. All of it lives in
# one namespace of the engine tree, held open by a process that only sleeps;
# each command joins it. There is no daemon, so what runs on is found by its
# root file system, which lies in this lab's state.

podman_socket() { printf '%s/run/podman.sock' "$state"; }

podman_answers() {
  [[ $(curl --silent --max-time 5 --unix-socket "$(podman_socket)" http://podman/_ping) == OK ]]
}

podman_up() {
  local began=$SECONDS bridge subnet conf keeper start
  if engine_is_up podman; then return 0; fi
  remove_component podman
  bridge=$(bridge_name podman)
  subnet=$(free_subnet podman)
  mkdir -p "$state/run" "$state/podman" "$state/rootless"
  conf=$state/root/podman/extra/etc/containers
  mkdir -p "$conf/networks"
  # crun refuses hosts with hybrid cgroups. The limits are those we have, as
  # more is not ours to give. No firewall rules: the host's are not ours.
  cat >"$conf/containers.conf" <<C
[containers]
default_ulimits = ["nofile=$(ulimit -Sn):$(ulimit -Hn)", "nproc=$(ulimit -Su):$(ulimit -Hu)"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
firewall_driver = "none"
C
  cat >"$conf/storage.conf" <<C
[storage]
driver = "overlay"
graphroot = "$state/podman"
runroot = "/run/containers/storage"
C
  mkdir -p "$state/rootless/.config/containers"
  cat >"$state/rootless/.config/containers/storage.conf" <<C
[storage]
driver = "overlay"
graphroot = "$state/rootless/storage"
runroot = "/run/user/4711/containers"
C
  # The default network under a name of ours; internal, so that Podman leaves
  # the host's forwarding alone.
  jq -n --arg bridge "$bridge" --arg gateway "${subnet%/*}" --arg subnet "${subnet%.*}.0/24" '{
    name: "podman", id: "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
    driver: "bridge", network_interface: $bridge, created: "2024-01-01T00:00:00Z",
    subnets: [{subnet: $subnet, gateway: $gateway}],
    ipv6_enabled: false, internal: true, dns_enabled: false, ipam_options: {driver: "host-local"}
  }' >"$conf/networks/podman.json"

  in_tree podman -- sh "$here/lib/podman-in-tree.sh" "$state/rootless"
  local launcher=$!
  until_true 30 podman_holds_or_died "$launcher" || true
  [[ -e $state/rootless/.ready ]] || die_with "$state/logs/podman" "the namespace for podman did not come up"
  is_alive podman || die_with "$state/logs/podman" "the namespace for podman ended"
  read -r keeper start <"$(process_file podman)"

  # A folder that the namespace does not have cannot be the working folder.
  local enter="#!/bin/sh
read -r stat </proc/$keeper/stat && case \$stat in *' $start '*) ;; *) false ;; esac || {
  echo 'podman: the lab is down' >&2
  exit 125
}
case \$PWD/ in '$clone'/* | '$cache'/* | /tmp/*) dir=\$PWD ;; *) dir=/ ;; esac
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
export PODMAN_IGNORE_CGROUPSV1_WARNING=1"
  wrapper "$state/bin/podman" <<W
$enter
export HOME=/root
unset XDG_RUNTIME_DIR
exec nsenter --target $keeper --mount --wdns="\$dir" podman "\$@"
W
  wrapper "$state/bin/podman-rootless" <<W
$enter
export HOME="$state/rootless" USER=lab XDG_RUNTIME_DIR=/run/user/4711
unset XDG_CONFIG_HOME XDG_DATA_HOME XDG_CACHE_HOME DOCKER_CONFIG
exec nsenter --target $keeper --mount --wdns="\$dir" \\
  setpriv --reuid lab --regid lab --init-groups podman "\$@"
W
  rm -f "$(podman_socket)"
  setsid "$state/bin/podman" system service --time=0 "unix://$(podman_socket)" \
    </dev/null >"$state/logs/podman-api" 2>&1 9>&- &
  record_process podman-api "$!"
  disown
  until_true 30 podman_answers || die_with "$state/logs/podman-api" "podman's API did not come up"
  [[ -z ${KINDLIFT_LAB_USER-} ]] || chown "$KINDLIFT_LAB_USER" "$(podman_socket)"
  say "podman: $("$state/bin/podman" --version | sed 's/.* //') is up in $((SECONDS - began)) s"
}

podman_holds_or_died() { [[ -e $state/rootless/.ready ]] || ! [[ -e /proc/$1 ]]; }

podman_env() {
  is_alive podman || return 0
  printf 'export KINDLIFT_LAB_PODMAN=%q\n' "$state/bin/podman"
  printf 'export KINDLIFT_LAB_PODMAN_ROOTLESS=%q\n' "$state/bin/podman-rootless"
  printf 'export KINDLIFT_LAB_PODMAN_SOCKET=%q\n' "unix://$(podman_socket)"
}

podman_pids() {
  local file root
  for file in /proc/[0-9]*/mountinfo; do
    # A process may end while we look at it.
    root=$(awk '$5 == "/"' "$file" 2>/dev/null) || continue
    case $root in
      *"upperdir=$state/root/podman/"* | *"upperdir=$state/podman/"* | *"upperdir=$state/rootless/"*)
        file=${file#/proc/}
        echo "${file%%/*}"
        ;;
    esac
  done
}

podman_is_gone() { [[ -z $(podman_pids) ]]; }

# Ends all that runs in Podman's namespace or in a container of it.
podman_end() {
  local pid
  if is_alive podman && [[ -x $state/bin/podman ]]; then
    timeout 30 "$state/bin/podman" rm --all --force --time 0 >/dev/null 2>&1 9>&- || true
  fi
  for pid in $(podman_pids); do kill -KILL "$pid" 2>/dev/null || true; done
  until_true 30 podman_is_gone || die "processes of podman do not end: $(podman_pids | tr '\n' ' ')"
  end_process podman-api
  ip link del "$(bridge_name podman)" 2>/dev/null || true
  rm -rf --one-file-system "$state/rootless" "$state/bin/podman" "$state/bin/podman-rootless" \
    "$(podman_socket)" "$state/logs/podman-api"
}
