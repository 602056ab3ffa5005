#!/usr/bin/env bash
# What `make test` does a little of, done for long: kindlift, its tunnels, containerds and nodes
# killed at random moments, 200 times (see docs/reliability.md), and ten minutes of fuzzing for each
# target.
#
# KINDLIFT_SOAK_RUNS says how often, KINDLIFT_SOAK_SEED repeats an earlier run's choices. The lab
# is made first and removed at the end, unless it was up before or KEEP_LAB=1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lab=tests/lab/lab
export KINDLIFT_SOAK_RUNS=${KINDLIFT_SOAK_RUNS:-200}

scripts/setup.sh build test
state=$("$lab" status) || state=down
if grep -q '^ *down$' <<<"$state" && [[ ${KEEP_LAB-} != 1 ]]; then
  trap '"$lab" down' EXIT
fi
# The kill test asks for the cluster `dev` too, as all lab tests do.
"$lab" up docker dev
status=0
cargo test --locked --test reliability || status=$?
scripts/fuzz.sh 600 || status=$?
exit "$status"
