#!/usr/bin/env bash
# The dependencies as cargo has built them, for a fresh clone: an entry of the lab's cache, the same
# as long as the lock file, the manifest and the compiler are.
#
# cargo-cache.sh restore   into target/, where that has nothing yet
# cargo-cache.sh save      out of target/, where the cache has nothing yet
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

here=$PWD/tests/lab
# shellcheck source=../tests/lab/lib/say.sh
. "$here/lib/say.sh"
# shellcheck source=../tests/lab/lib/host.sh
. "$here/lib/host.sh"
# shellcheck source=../tests/lab/lib/cache.sh
. "$here/lib/cache.sh"

target=${CARGO_TARGET_DIR:-target}
entry=$(cargo_dependencies)
case ${1-} in
  restore)
    [[ -e $entry && ! -e $target/debug ]] || exit 0
    mkdir -p "$target"
    # A copy, because cargo writes into some of these files.
    cp --archive --reflink=auto "$entry/." "$target/"
    say "cargo: dependencies from the cache"
    ;;
  save)
    mkdir -p "$cache/logs"
    exec 8>"$cache/lock"
    flock 8
    entry "$entry" "cargo's dependencies" build_cargo_dependencies "$target"
    ;;
  *)
    echo "usage: scripts/cargo-cache.sh restore|save" >&2
    exit 2
    ;;
esac
