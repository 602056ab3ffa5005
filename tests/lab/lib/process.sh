# shellcheck shell=bash
# Processes and what they leave: starting a program inside the engine tree,
# recording it, ending exactly that one, and clearing up after it.
#
# A record is "PID STARTTIME"; both must match, so that a recycled PID is never
# taken for ours.

process_file() { printf '%s/process/%s' "$state" "$1"; }

# is_alive NAME: whether the recorded process still runs; sets `pid`.
is_alive() {
  local start line
  pid=
  read -r pid start 2>/dev/null <"$(process_file "$1")" || return 1
  { read -r line <"/proc/$pid/stat"; } 2>/dev/null || return 1
  # The name in the second field may hold blanks: count from its closing brace.
  local -a fields
  read -r -a fields <<<"${line##*) }"
  [[ ${fields[19]} == "$start" && ${fields[0]} != Z ]]
}

# record_process NAME PID
record_process() {
  local -a fields
  read -r -a fields <"/proc/$2/stat"
  printf '%s %s\n' "$2" "${fields[21]}" >"$(process_file "$1")"
}

is_gone() { ! is_alive "$1"; }

# end_process NAME: ends the recorded process and, as it is the first of its
# PID namespace, all that it started.
end_process() {
  if is_alive "$1"; then
    kill -KILL "$pid" 2>/dev/null || true
    until_true 30 is_gone "$1" || die "process $pid ($1) does not end"
  fi
  rm -f "$(process_file "$1")"
}

# in_tree NAME UNSHARE-ARGS... -- COMMAND...: starts COMMAND detached, inside
# the engine tree, and records it. Its output goes to logs/NAME.
in_tree() {
  local name=$1
  shift
  local -a flags=()
  while [[ $1 != -- ]]; do
    flags+=("$1")
    shift
  done
  shift
  mkdir -p "$state/process" "$state/logs" "$state/root/$name"
  setsid unshare --mount --propagation private "${flags[@]}" \
    sh "$here/lib/in-tree.sh" "$(engine_tree)" "$state/root/$name" "$(process_file "$name")" \
    "$cache" /tmp "$clone" -- "$@" </dev/null >"$state/logs/$name" 2>&1 9>&- &
  disown
}

# Removes the cgroups that containers of this lab had; all are empty by now.
# Podman's builds use its common group, where only an empty one can be removed.
remove_cgroups() {
  local top dir
  for top in /sys/fs/cgroup/{,*/}{"$cgroup_parent",libpod_parent}; do
    [[ -d $top ]] || continue
    find "$top" -depth -type d 2>/dev/null | while IFS= read -r dir; do
      rmdir "$dir" 2>/dev/null || true
    done
  done
}
