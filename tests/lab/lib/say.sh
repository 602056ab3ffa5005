# shellcheck shell=bash
# What the lab tells its user: one line a step on stderr, with the seconds so
# far. Nothing here goes to stdout, which belongs to `lab env`.

say() {
  printf 'lab %3ds  %s\n' "$SECONDS" "$*" >&2
}

die() {
  printf 'lab: error: %s\n' "$*" >&2
  exit 1
}

# die_with LOG MESSAGE: the end of a program's log explains more than we can.
die_with() {
  local log=$1
  shift
  tail -n 25 "$log" >&2 2>/dev/null || true
  die "$* (full log: $log)"
}

# until_true SECONDS CHECK...: polls until CHECK holds, or time has run out.
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# A command that fails where no one asked would end the lab without a word.
set -o errtrace
trap 'printf "lab: error: %s:%s: %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "$BASH_COMMAND" >&2' ERR
