# shellcheck shell=bash
# The host: who we are there, which packages must be installed, where things
# lie. Changes the host only by installing missing Debian packages.

lab_name=${KINDLIFT_LAB_NAME:-lab}
[[ $lab_name =~ ^[a-z0-9][a-z0-9-]{0,15}$ ]] ||
  die "KINDLIFT_LAB_NAME must be short, of a-z, 0-9 and '-': '$lab_name'"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kindlift-lab
state=$cache/state/$lab_name
# These paths go into mount options and sockets.
[[ $state =~ ^/[A-Za-z0-9._/@+-]+$ ]] || die "the cache's path has characters that a mount cannot take: $cache"
[[ ${#state} -le 80 ]] || die "the cache's path is too long for sockets: $state"
clone=$(git -C "$here" rev-parse --show-toplevel 2>/dev/null) || clone=$(cd "$here/../.." && pwd)

# Bridges and cgroups are named on the host, so two labs must differ there too.
lab_id=$(printf '%s' "$state" | sha256sum | head -c 8)
cgroup_parent=kindlift-lab-$lab_id

be_root() {
  [[ $EUID -ne 0 ]] || return 0
  { command -v sudo && sudo -n true; } >/dev/null 2>&1 ||
    die "needs root: namespaces, mounts and bridges are made. Run it as root, or allow sudo without a password"
  exec sudo env "PATH=$PATH" "XDG_CACHE_HOME=${cache%/kindlift-lab}" "KINDLIFT_LAB_NAME=$lab_name" \
    "KINDLIFT_LAB_USER=$EUID" "KINDLIFT_LAB_GROUP=$(id -g)" "$here/lab" "$@"
}

# The lock's descriptor is closed for every daemon that we start (9>&-), or the
# lab would stay locked for as long as they run.
take_lock() {
  mkdir -p "$cache/state"
  exec 9>"$cache/state/$lab_name.lock"
  flock -n 9 || {
    say "waiting for another lab command on '$lab_name'"
    flock 9
  }
}

host_packages() {
  local missing=() pair
  for pair in mmdebstrap:mmdebstrap curl:curl jq:jq ip:iproute2 unshare:util-linux \
    nsenter:util-linux flock:util-linux setsid:util-linux ps:procps git:git ssh:openssh-client; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  command -v apt-get >/dev/null || die "not a Debian: please install ${missing[*]}"
  say "host: installing ${missing[*]}"
  mkdir -p "$cache/logs"
  {
    # A new machine often installs something by itself meanwhile.
    apt-get update && DEBIAN_FRONTEND=noninteractive \
      apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
  } >"$cache/logs/apt.log" 2>&1 9>&- || die_with "$cache/logs/apt.log" "apt-get could not install ${missing[*]}"
}

# The Debian mirror that this host itself uses.
debian_mirror() {
  local uri
  # shellcheck disable=SC2016 # apt's own fields
  uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^Debian|Debian|//p' | head -n 1)
  # Without downloaded lists apt does not know the origin yet.
  [[ -n $uri ]] || uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -v '^#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ')
  [[ -n $uri ]] || die "found no Debian mirror in this host's apt configuration"
  printf '%s\n' "$uri"
}
