#!/usr/bin/env bash
# The dependencies as cargo has built them, for a fresh clone: the same as long as the lock file, the
# manifests and the compiler are. Kept beside the lab's cache.
#
# cargo-cache.sh restore   into target/, where that has nothing yet
# cargo-cache.sh save      out of target/, where the cache has nothing yet
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-target}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kindlift-lab
# This script too: it says what is kept.
key=$( (cat Cargo.lock Cargo.toml "${BASH_SOURCE[0]}" && rustc --version --verbose) | sha256sum | head -c 12)
entry=$cache/cargo-$key

restore() {
  [[ -e $entry && ! -e $target/debug ]] || return 0
  mkdir -p "$target"
  # A copy, because cargo writes into some of these files.
  cp --archive --reflink=auto "$entry/." "$target/"
  echo "cargo-cache: $(du --summarize --human-readable "$entry" | cut -f1) of built dependencies from the cache" >&2
}

save() {
  [[ ! -e $entry ]] || return 0
  local half
  mkdir -p "$cache"
  exec 7>"$cache/cargo.lock"
  flock 7
  [[ ! -e $entry ]] || return 0
  rm -rf "$cache"/cargo-*/ "$cache"/cargo.half.*
  half=$(mktemp -d "$cache/cargo.half.XXXXXX")
  mkdir "$half/debug"
  cp --archive --reflink=auto "$target"/debug/{.fingerprint,build,deps} "$half/debug"
  # Ours is made anew in each clone.
  CARGO_TARGET_DIR=$half cargo clean --quiet --locked --package kindlift
  mv "$half" "$entry"
}

case ${1-} in
  restore | save) "$1" ;;
  *)
    sed -n '2,/^set/s/^# \?//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
