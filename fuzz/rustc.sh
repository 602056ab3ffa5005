#!/usr/bin/env bash
# RUSTC_WRAPPER for scripts/fuzz.sh: the crates that read what is fuzzed count which branches are
# taken, and compare aloud. LLVM's pass for that needs no nightly Rust; all other crates are built
# as ever, which takes a fraction of the time, and leaves the count to what matters.
set -euo pipefail

name=""
for ((i = 2; i < $#; i++)); do
  if [[ ${!i} == --crate-name ]]; then
    next=$((i + 1))
    name=${!next}
  fi
done
case $name in
  archive | chooser | reference | kindlift | kindlift_fuzz | oci_spec | serde_json | tar)
    set -- "$@" --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module
    for flag in level=4 inline-8bit-counters pc-table trace-compares; do
      set -- "$@" "-Cllvm-args=-sanitizer-coverage-$flag"
    done
    ;;
esac
exec "$@"
