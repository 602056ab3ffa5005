# shellcheck shell=bash
# The overlay2 engine as if it were on another machine: over TCP with TLS both
# ways, which its dockerd does itself, and over ssh to an sshd of the engine
# tree. Both listen on loopback only.

tls_dir() { printf '%s/tls' "$state"; }

# free_port: one that nothing listens on, below those that the kernel hands out.
free_port() {
  local port used
  used=$(ss -Htln)
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 10000))
    [[ $used == *":$port "* ]] || { echo "$port" && return; }
  done
  die "found no free port between 20000 and 30000"
}

tls_openssl() {
  local loader
  loader=$(tree_loader)
  # The words of the loader's command, each in single quotes.
  eval "$loader \"\$(engine_tree)/usr/bin/openssl\" \"\$@\"" >>"$state/logs/tls" 2>&1 ||
    die_with "$state/logs/tls" "openssl $1 failed"
}

# tls_certificate FOLDER ROLE AUTHORITY: FOLDER's cert.pem and key.pem, and with
# them the ca.pem of the side that they are shown to.
tls_certificate() {
  mkdir -p "$1"
  tls_openssl req -x509 -config "$here/lib/tls.cnf" -extensions "$2" -days 365 -noenc \
    -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj "/CN=kindlift-lab $2" \
    -CA "$3/ca.pem" -CAkey "$3/ca-key.pem" -keyout "$1/key.pem" -out "$1/cert.pem"
  cp "$(tls_dir)/authority/ca.pem" "$1/ca.pem"
}

# tls_make: an authority, the engine's certificate and a client's; `stranger` is
# a client that another authority vouches for. And the port.
tls_make() {
  local dir authority
  dir=$(tls_dir)
  rm -rf --one-file-system "$dir"
  mkdir -p "$dir" "$state/logs"
  : >"$state/logs/tls"
  (
    umask 077
    for authority in authority strangers-authority; do
      mkdir "$dir/$authority"
      tls_openssl req -x509 -config "$here/lib/tls.cnf" -extensions authority -days 365 -noenc \
        -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj "/CN=kindlift-lab $authority" \
        -keyout "$dir/$authority/ca-key.pem" -out "$dir/$authority/ca.pem"
    done
    tls_certificate "$dir/server" server "$dir/authority"
    tls_certificate "$dir/client" client "$dir/authority"
    tls_certificate "$dir/stranger" client "$dir/strangers-authority"
  )
  free_port >"$dir/port"
  [[ -z ${KINDLIFT_LAB_USER-} ]] ||
    chown -R "$KINDLIFT_LAB_USER:$KINDLIFT_LAB_GROUP" "$dir/client" "$dir/stranger"
}

tls_host() { printf 'tcp://127.0.0.1:%s' "$(<"$(tls_dir)/port")"; }

# tls_flags: what makes a dockerd listen there too, one a line.
tls_flags() {
  printf '%s\n' --host "$(tls_host)" --tlsverify
  printf -- "--tls%s=$(tls_dir)/server/%s\n" cacert ca.pem cert cert.pem key key.pem
}

remote_ssh() { "$state/remote/bin/ssh" -T "ssh://$(remote_address)" "$@" 2>"$state/remote/said" 9>&-; }

remote_address() { printf 'root@127.0.0.1:%s' "$(<"$state/remote/port")"; }

# Asked as docker asks: through the client's files and the session's environment.
remote_answers() { remote_ssh docker version --format '{{.Server.Version}}' >/dev/null </dev/null; }

remote_answers_or_died() { remote_answers || ! [[ -e /proc/$1 ]]; }

# remote_up: an sshd of the lab's own, whose sessions find the overlay2 engine.
remote_up() {
  local dir=$state/remote etc=$state/root/remote/extra/etc/ssh began=$SECONDS ssh
  [[ -e $(tls_dir)/port ]] || die "overlay2 is up without TLS, from an older lab: run 'lab down' first"
  if is_alive remote && remote_answers; then return 0; fi
  host_packages
  remove_component remote
  mkdir -p "$dir/bin" "$etc" "$state/logs"
  free_port >"$dir/port"
  ssh-keygen -q -t ed25519 -N '' -C kindlift-lab -f "$etc/lab_host_key"
  ssh-keygen -q -t ed25519 -N '' -C kindlift-lab -f "$dir/key"
  cp "$dir/key.pub" "$etc/lab_authorized_keys"
  # Tests are refused on purpose, and many come at once.
  cat >"$etc/lab_sshd_config" <<C
ListenAddress 127.0.0.1:$(<"$dir/port")
HostKey /etc/ssh/lab_host_key
AuthorizedKeysFile /etc/ssh/lab_authorized_keys
AllowUsers root
PermitRootLogin prohibit-password
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
PerSourcePenalties no
MaxStartups 100
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin DOCKER_HOST=unix://$(docker_socket overlay2)
C
  printf '[127.0.0.1]:%s %s\n' "$(<"$dir/port")" "$(<"$etc/lab_host_key.pub")" >"$dir/known_hosts"
  cat >"$dir/config" <<C
Host *
  IdentityFile $dir/key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile $dir/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
C
  # docker runs the `ssh` on PATH, and ssh looks up its user's home itself.
  ssh=$(command -v ssh)
  wrapper "$dir/bin/ssh" <<W
#!/bin/sh
exec '$ssh' -F '$dir/config' "\$@"
W
  [[ -z ${KINDLIFT_LAB_USER-} ]] || chown -R "$KINDLIFT_LAB_USER:$KINDLIFT_LAB_GROUP" "$dir"
  # In a PID namespace of its own: no session outlives it.
  in_tree remote --pid --fork --kill-child -- tini -s -- \
    sh -c 'mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f /etc/ssh/lab_sshd_config'
  local launcher=$!
  until_true 30 remote_answers_or_died "$launcher" || true
  remote_answers || die_with "$state/logs/remote" \
    "sshd did not come up, or its sessions do not find the engine: $(<"$dir/said")"
  say "remote: sshd is up in $((SECONDS - began)) s"
}

remote_env() {
  if is_alive overlay2 && [[ -e $(tls_dir)/port ]]; then
    printf 'export KINDLIFT_LAB_TLS_HOST=%q\n' "$(tls_host)"
    printf 'export KINDLIFT_LAB_TLS_CERTS=%q\n' "$(tls_dir)/client"
    printf 'export KINDLIFT_LAB_TLS_STRANGER=%q\n' "$(tls_dir)/stranger"
  fi
  if is_alive remote; then
    printf 'export KINDLIFT_LAB_SSH_HOST=%q\n' "ssh://$(remote_address)"
    printf 'export KINDLIFT_LAB_SSH_BIN=%q\n' "$state/remote/bin"
  fi
}
