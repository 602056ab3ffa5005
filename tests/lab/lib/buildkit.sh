# shellcheck shell=bash
# A BuildKit daemon beside the engines, for buildx builders of the `remote`
# driver: it builds, and keeps nothing in any engine.

buildkit_socket() { printf '%s/run/buildkit.sock' "$state"; }

buildkit_answers() {
  # Not `grep -q`: it would end at the match, and with it, by pipefail, the command that still writes.
  DOCKER_CONFIG=$state/buildkit/client "$state/bin/docker" buildx inspect lab 2>/dev/null |
    grep '^Status: *running' >/dev/null
}

buildkit_answers_or_died() { buildkit_answers || ! [[ -e /proc/$1 ]]; }

buildkit_up() {
  local began=$SECONDS socket
  socket=$(buildkit_socket)
  if is_alive buildkit && buildkit_answers; then return 0; fi
  remove_component buildkit
  mkdir -p "$state/run" "$state/buildkit/client/cli-plugins"
  # A client of its own: a builder made in the lab's would be seen by every test.
  ln -s "$state/docker-config/cli-plugins/docker-buildx" "$state/buildkit/client/cli-plugins/"
  in_tree buildkit --pid --fork --kill-child -- tini -s -- "$(go_program buildkitd)" \
    --addr "unix://$socket" --group "${KINDLIFT_LAB_GROUP:-0}" --root "$state/buildkit/root" \
    --containerd-worker=false --oci-worker=true --oci-worker-net=host
  local launcher=$!
  DOCKER_CONFIG=$state/buildkit/client "$state/bin/docker" buildx create --name lab --driver remote \
    "unix://$socket" >/dev/null
  until_true 60 buildkit_answers_or_died "$launcher" || true
  buildkit_answers || die_with "$state/logs/buildkit" "buildkitd did not come up"
  say "buildkit: buildkitd is up in $((SECONDS - began)) s"
}

buildkit_env() {
  ! is_alive buildkit || printf 'export KINDLIFT_LAB_BUILDKIT=%q\n' "unix://$(buildkit_socket)"
}
