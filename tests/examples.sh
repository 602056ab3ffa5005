#!/usr/bin/env bash
# README, docs and examples agree with each other and with the program. Their
# commands are run by tests/cli/documented.rs and tests/on_lab/documented.rs.
#
# KINDLIFT is the program (default: the debug build). The last line counts the
# way cargo does, so that scripts/test.sh adds it up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kindlift=${KINDLIFT:-${CARGO_TARGET_DIR:-target}/debug/kindlift}
[[ -x $kindlift ]] || {
  echo "examples: no program at $kindlift: run 'cargo build', or set KINDLIFT" >&2
  exit 1
}
kindlift=$(readlink -f "$kindlift")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# check NAME FUNCTION: a test passes if its function says nothing and succeeds.
check() {
  local said status=0
  said=$("$2" 2>&1) || status=$?
  if [[ $status -eq 0 && -z $said ]]; then
    echo "test examples: $1 ... ok"
    passed=$((passed + 1))
  else
    echo "test examples: $1 ... FAILED"
    printf '%s\n' "${said:-status $status}" | sed 's/^/    /'
    failed=$((failed + 1))
  fi
}

# found WHAT TEXT: says so if an extraction found nothing; a loop over nothing
# would pass.
found() { [[ -n $2 ]] || { echo "found no $1: has the format changed?" && return 1; }; }

texts=(README.md docs/*.md examples/*/README.md)

exit_codes_agree() {
  local code codes text
  "$kindlift" --help | tr -s '\n ' ' ' | grep -oE 'Exit codes:.*' >"$work/codes" || true
  found "exit codes in --help" "$(cat "$work/codes")" || return
  codes=$(grep -oE '=> [0-9]+,' src/error.rs | grep -oE '[0-9]+') || true
  found "exit code in src/error.rs" "$codes" || return
  while read -r code; do
    for text in README.md docs/reference.md; do
      grep -qE "^\| ([0-9]+, )?$code(, [0-9]+)? \|" "$text" || echo "$text lacks exit code $code"
    done
    grep -qwF "$code" "$work/codes" || echo "--help lacks exit code $code"
    grep -qE "^  $code " src/cli/topics/exit-codes.txt || echo "help exit-codes lacks $code"
  done <<<"$codes"
}

# anchors FILE: what its headings are called in links.
anchors() {
  awk '/^```/ { code = !code } !code && /^#+ / { sub(/^#+ /, ""); print tolower($0) }' "$1" |
    tr -d '`' | sed -E 's/[^a-z0-9 _-]//g; s/ /-/g'
}

links_lead_somewhere() {
  local text link links target all=""
  for text in "${texts[@]}"; do
    # Not every text has one.
    links=$(grep -oE '\]\([^)]+\)' "$text" | sed 's/^](//; s/)$//') || true
    all+=$links
    while read -r link; do
      [[ -n $link ]] || continue
      [[ $link != *://* ]] || continue
      target=$(dirname "$text")/${link%%#*}
      [[ $link != '#'* ]] || target=$text
      [[ -e $target ]] || { echo "$text: $link leads nowhere" && continue; }
      [[ $link != *'#'* ]] || anchors "$target" | grep -qxF "${link##*#}" ||
        echo "$text: there is no heading for $link"
    done <<<"$links"
  done
  found "link" "$all"
}

# What mdbook would say, and it does not: its pages know nothing outside of docs.
book_is_whole() {
  local page pages
  pages=$(grep -oE '\]\([^)]+\)' docs/SUMMARY.md | sed 's/^](//; s/)$//' | sort) || true
  found "page in docs/SUMMARY.md" "$pages" || return
  for page in docs/*.md; do
    page=${page#docs/}
    [[ $page == SUMMARY.md ]] || grep -qxF "$page" <<<"$pages" || echo "SUMMARY.md lacks $page"
  done
  uniq -d <<<"$pages" | sed 's/$/ is in SUMMARY.md twice/'
  grep -nE '\]\(\.\./' docs/*.md || true
}

make_targets_exist() {
  local target targets
  # Prose may begin a line with "make"; a command ends there, or a comment follows.
  targets=$(grep -ohE "(^|[\`'])make [a-z-]+ *([\`'#]|\$)" "${texts[@]}" scripts/*.sh |
    grep -oE 'make [a-z-]+' | cut -d' ' -f2 | sort -u) || true
  found "make target" "$targets" || return
  while read -r target; do
    make -n "$target" >/dev/null 2>&1 || echo "no make target: $target"
  done <<<"$targets"
}

manifests_never_pull() {
  found "image in examples/*/k8s.yaml" "$(grep -hE 'image: ' examples/*/k8s.yaml)" || return
  grep -nE 'image: .*:latest|imagePullPolicy: *Always' examples/*/k8s.yaml || true
}

readme_shows_the_example() {
  local line
  for line in 'local: {push: false}' 'buildCommand: exec kindlift build' 'exec kindlift ensure'; do
    grep -qF "$line" README.md || echo "README.md lacks: $line"
    grep -qF "$line" examples/skaffold/skaffold.yaml || echo "skaffold.yaml lacks: $line"
  done
}

prepare_wants_a_static_program() {
  cp -R examples/skaffold "$work/app"
  rm -f "$work/app/busybox"
  if "$work/app/prepare.sh" /bin/sh 2>"$work/said"; then echo "a dynamic program was taken"; fi
  grep -q 'not static' "$work/said" || echo "said: $(cat "$work/said")"
  [[ ! -e $work/app/busybox ]] || echo "a dynamic program was left"
  [[ -n ${KINDLIFT_LAB_BUSYBOX-} ]] || return 0
  "$work/app/prepare.sh" "$KINDLIFT_LAB_BUSYBOX"
  cmp "$KINDLIFT_LAB_BUSYBOX" "$work/app/busybox"
}

check "exit codes agree" exit_codes_agree
check "links lead somewhere" links_lead_somewhere
check "the book is whole" book_is_whole
check "make targets exist" make_targets_exist
check "manifests never pull" manifests_never_pull
check "README shows the example" readme_shows_the_example
check "prepare.sh wants a static program" prepare_wants_a_static_program

result=ok
[[ $failed -eq 0 ]] || result=FAILED
echo "test result: $result. $passed passed; $failed failed; 0 ignored"
[[ $failed -eq 0 ]]
