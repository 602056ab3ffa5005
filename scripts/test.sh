#!/usr/bin/env bash
# Everything that proves the project: lint, unit tests, command-line tests,
# tests against real engines and nodes in the lab, and a minute of fuzzing each
# for what reads other people's bytes.
#
# The lab is made first and removed at the end, unless it was up before or
# KEEP_LAB=1. Arguments go to `cargo test`. The last line is
# "N passed, N failed"; the exit status is 0 only if some passed and none failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lab=tests/lab/lab
log=$(mktemp)
fuzz_log=$(mktemp)
kill_log=$(mktemp)
lab_is_ours="" lab_pid="" fuzz_pid="" kill_pid=""
# Where there is enough of it.
export KINDLIFT_LAB_IN_MEMORY=yes
passed=0 failed=0 by_cargo=0

say() { printf '== %s (%ds)\n' "$*" "$SECONDS" >&2; }

finish() {
  local status=$?
  trap - EXIT INT TERM
  for pid in $lab_pid $fuzz_pid $kill_pid; do
    # And what it waits for.
    pkill -P "$pid" || true
    kill "$pid" 2>/dev/null || true
    wait "$pid" || true
  done
  if [[ -n $lab_is_ours && ${KEEP_LAB-} != 1 ]]; then
    "$lab" down || { [[ $status -ne 0 ]] || status=1; }
  fi
  rm -f "$log" "$fuzz_log" "$kill_log"
  [[ $status -eq 0 ]] || say "FAILED with status $status"
  echo "$passed passed, $failed failed"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# count LOG: sums the "test result:" lines into passed and failed; cargo's own,
# which also tell how many were measured, into by_cargo.
count() {
  read -r passed failed by_cargo < <(awk '
    $1 == "test" && $2 == "result:" {
      for (i = 3; i < NF; i++) {
        if ($(i + 1) ~ /^passed/) { passed += $i; if (/ measured;/) by_cargo += $i }
        if ($(i + 1) ~ /^failed/) failed += $i
      }
    }
    END { print passed + 0, failed + 0, by_cargo + 0 }' "$1")
}

scripts/setup.sh build test
say "lab, and lint meanwhile"
# A lab that somebody else has up is theirs to take down.
state=$("$lab" status) || state=down
if grep -q '^ *down$' <<<"$state"; then
  lab_is_ours=yes
fi
# The nodes of older suites too: the tests start them when they need them.
{ "$lab" prepare --all && "$lab" up --all; } &
lab_pid=$!
scripts/lint.sh
cargo test --locked --no-run
wait "$lab_pid" || {
  status=$?
  lab_pid=""
  exit "$status"
}
lab_pid=""
exports=$("$lab" env)
eval "$exports"
"$lab" status

say "tests"
# idly COMMAND...: with what time of the processors is left over. Where Linux gives each session a
# share of its own, an idle process is not behind those of other sessions; a nice session is.
idly() {
  # shellcheck disable=SC2016 # The shell inside expands it.
  exec setsid --wait chrt --idle 0 bash -c '
    { echo 19 >/proc/self/autogroup; } 2>/dev/null
    exec "$@"' idly "$@"
}
# The kill test waits most of its time: all run beside it.
kill_test=killed_at_any_moment
run_tests() {
  local status=0
  if [[ $# -eq 0 ]]; then
    cargo test --locked --no-fail-fast -- --skip "$kill_test" || status=$?
  else
    cargo test --locked --no-fail-fast "$@" || status=$?
  fi
  # After cargo, which has built the program that it asks for its flags.
  tests/examples.sh || status=$?
  return "$status"
}
(idly scripts/fuzz.sh 60) >"$fuzz_log" 2>&1 &
fuzz_pid=$!
if [[ $# -eq 0 ]]; then
  cargo test --locked --test reliability "$kill_test" >"$kill_log" 2>&1 &
  kill_pid=$!
fi
status=0
# pipefail: tee's success does not hide a failure before it.
run_tests "$@" 2>&1 | tee "$log" || status=$?
if [[ -n $kill_pid ]]; then
  wait "$kill_pid" || status=$?
  kill_pid=""
  tee -a "$log" <"$kill_log"
fi
wait "$fuzz_pid" || status=$?
fuzz_pid=""
tee -a "$log" <"$fuzz_log"
count "$log"

[[ $status -eq 0 ]] || exit "$status"
[[ $failed -eq 0 ]] || exit 1
[[ $by_cargo -gt 0 ]] || {
  echo "test: cargo ran no test" >&2
  exit 1
}
