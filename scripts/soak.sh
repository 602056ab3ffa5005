#!/usr/bin/env bash
# What `make test` does a little of, done for long: kindlift, its tunnels, containerds and nodes
# killed at random moments, 200 times (see docs/reliability.md), ten minutes of fuzzing for each
# target, and the lab's tests over the other way to the nodes.
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
"$lab" up --all
status=0
cargo test --locked --test reliability || status=$?
scripts/fuzz.sh 600 || status=$?
# Left out: what only a tunnel can do (an engine's push straight on to the nodes, a builder that is told
# what they have), what chooses its way itself, and what is said of the way. Without crictl, ctr's way ends
# before the proof.
left_out=(bulk:: plain:: export:: builder::a_layer_that_has_moved builder::what_all_nodes_have
  doctor::a_lab_that_is_well doctor::a_node_that_hangs doctor::nodes_without_perl output::verbose_tells
  overtaken::what_a_node_loses trouble::a_node_whose_crictl_does_not_confirm)
KINDLIFT_TEST_SESSION=plain cargo test --locked --test corpus --test on_lab -- --test-threads 2 \
  "${left_out[@]/#/--skip=}" || status=$?
exit "$status"
