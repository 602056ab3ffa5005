#!/usr/bin/env bash
# Formatting, clippy, the library's documentation and shellcheck; any finding fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --quiet

command -v shellcheck >/dev/null || {
  echo "lint: shellcheck is missing: run 'make setup'" >&2
  exit 1
}
# Files that git knows, so that nothing strange in the folder is judged.
list=$(git ls-files -- 'scripts/*.sh' 'fuzz/*.sh' .ci/run 'tests/*.sh' 'examples/*.sh' tests/lab/lab 'src/*.sh')
mapfile -t scripts <<<"$list"
for script in "${scripts[@]}"; do
  # From its own folder, for the settings and the parts that lie there.
  (cd "$(dirname "$script")" && shellcheck -x "$(basename "$script")")
done
echo "lint: clean (${#scripts[@]} scripts)" >&2
