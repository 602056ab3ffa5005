#!/usr/bin/env bash
# What a release is made of, into target/dist: the crate, and for each target a
# static program with completions and man pages, as a tar and as a Debian package.
#
# package.sh [TARGET]...   default: x86_64 and aarch64, Linux with musl
#
# Needs the targets (`rustup target add …`), cargo-deb, and C compilers for ring and
# zstd (`scripts/setup.sh package`). Rust's own linker does for both machines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=({x86_64,aarch64}-unknown-linux-musl)
# What Rust brings for musl has all that a program is linked with.
export CARGO_TARGET_{X86_64,AARCH64}_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
# Debian has no musl for aarch64, but its C compiler for glibc makes objects that
# call nothing which musl lacks, once glibc's checked variants are off.
export CC_x86_64_unknown_linux_musl=musl-gcc
export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc
export CFLAGS_aarch64_unknown_linux_musl=-U_FORTIFY_SOURCE
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
dist=target/dist
assets=target/assets

say() { printf '== %s\n' "$*" >&2; }

cargo deb --version >/dev/null 2>&1 || {
  echo "package: cargo-deb is missing: cargo install --locked cargo-deb" >&2
  exit 1
}
rm -rf "$dist" "$assets"
mkdir -p "$dist" "$assets"

say "the crate"
# Also a proof that it builds from what is in it, with the dependencies that are built.
CARGO_TARGET_DIR=$PWD/target cargo package --locked
cp "target/package/kindlift-$version.crate" "$dist"

for target in "${targets[@]}"; do
  say "$target"
  cargo build --release --locked --target "$target"
done

say "completions and man pages"
# They are the same for all machines: by the program that the crate was proven with.
kindlift=target/debug/kindlift
"$kindlift" man "$assets/man" >/dev/null
"$kindlift" completions bash >"$assets/kindlift.bash"
"$kindlift" completions zsh >"$assets/_kindlift"
"$kindlift" completions fish >"$assets/kindlift.fish"
"$kindlift" completions powershell >"$assets/kindlift.ps1"

for target in "${targets[@]}"; do
  name=kindlift-$version-$target
  mkdir "$dist/$name"
  cp -r "target/$target/release/kindlift" "$assets"/* README.md LICENSE CHANGELOG.md "$dist/$name"
  # The same content makes the same archive.
  tar -C "$dist" --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime="@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" -cf - "$name" |
    gzip -n >"$dist/$name.tar.gz"
  rm -r "${dist:?}/$name"
  cargo deb --locked --no-build --no-strip --target "$target" --output "$dist/"
done
(cd "$dist" && sha256sum -- * >SHA256SUMS)
(cd "$dist" && say "$dist: $(echo *)")
