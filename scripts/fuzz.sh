#!/usr/bin/env bash
# Fuzzes what reads other people's bytes, with libFuzzer, beginning with the corpus of
# tests/corpus. Any crash, hang or excess of memory fails, and so does fuzzing that did not run.
#
# fuzz.sh SECONDS [TARGET]...   SECONDS for each target; all targets unless some are named,
#                               as many at the same time as there are processors
#
# What was found is kept below target/fuzz, and the next run begins with it. Each target prints a
# line as cargo's tests do, so that scripts/test.sh adds it up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ ${1-} =~ ^[1-9][0-9]*$ ]] || {
  echo "usage: scripts/fuzz.sh SECONDS [TARGET]..." >&2
  exit 2
}
seconds=$1
shift
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(archive chooser reference)
scripts/setup.sh build test

folder=$(mkdir -p "${CARGO_TARGET_DIR:-target}/fuzz" && cd "${CARGO_TARGET_DIR:-target}/fuzz" && pwd)
# kindlift's own versions of everything that both need.
cp Cargo.lock fuzz/Cargo.lock
echo "fuzz: building" >&2
# It prints a result of its own, which counts as a test only where cargo runs them all.
cargo test --quiet --locked --test corpus seeds_are_written >"$folder/seeds.log" 2>&1 || {
  cat "$folder/seeds.log" >&2
  echo "fuzz: there is nothing to begin with" >&2
  exit 1
}
seeds=${CARGO_TARGET_DIR:-target}/tmp/seeds
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
CARGO_TARGET_DIR=$folder/build RUSTC_WRAPPER=$PWD/fuzz/rustc.sh cargo build --quiet \
  --manifest-path fuzz/Cargo.toml "${bins[@]}"

# start TARGET: its log is its own.
declare -A pids=()
start() {
  local target=$1 corpus=$folder/corpus/$1
  mkdir -p "$corpus" "$folder/found"
  "$folder/build/debug/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=256 \
    -max_len=65536 -print_final_stats=1 -artifact_prefix="$folder/found/$target-" \
    "$corpus" "$seeds/$target" >"$folder/$target.log" 2>&1 &
  pids[$target]=$!
}

# judge TARGET: waits for its end, and says how it went.
failed=0
judge() {
  local target=$1 log=$folder/$1.log status=0 runs
  wait "${pids[$target]}" || status=$?
  unset "pids[$target]"
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  # So many are over in a moment: with less, something has kept it from its work.
  if [[ $status -eq 0 && ${runs:-0} -ge 200 ]]; then
    echo "test fuzz: $target, $runs inputs in $seconds s ... ok"
    echo "test result: ok. 1 passed; 0 failed; 0 ignored"
    return
  fi
  tail -n 40 "$log"
  echo "test fuzz: $target, ${runs:-no} inputs, status $status; see $log ... FAILED"
  echo "test result: FAILED. 0 passed; 1 failed; 0 ignored"
  failed=1
}

stop() {
  local status=$?
  trap - EXIT
  [[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}" || true
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# As many at the same time as there are processors, in the order in which they are named.
at_once=$(nproc)
for ((i = 0; i < ${#targets[@]}; i++)); do
  [[ $i -lt $at_once ]] || judge "${targets[i - at_once]}"
  start "${targets[i]}"
done
for ((i = i > at_once ? i - at_once : 0; i < ${#targets[@]}; i++)); do
  judge "${targets[i]}"
done
[[ $failed -eq 0 ]]
