#!/usr/bin/env bash
# The pages of docs/ as a book, into target/book; a warning is a failure.
#
# mdbook is built from crates.io into the cache, once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=0.5.4
tool=${XDG_CACHE_HOME:-$HOME/.cache}/kindlift-lab/tools/mdbook-$version
[[ -x $tool/bin/mdbook ]] || {
  echo "book: building mdbook $version, once: some minutes" >&2
  # Neither the server nor the watcher is needed, and they are most of it.
  nice cargo install --locked --quiet --no-default-features --features search \
    --root "$tool" --version "=$version" mdbook
}
rm -rf target/book
said=$("$tool/bin/mdbook" build docs 2>&1) || {
  printf '%s\n' "$said" >&2
  exit 1
}
if grep -E 'WARN|ERROR' <<<"$said" >&2; then exit 1; fi
echo "book: target/book/index.html" >&2
