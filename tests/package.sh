#!/usr/bin/env bash
# A Debian package installs, works and goes, in a copy of the lab's engine tree
# (root; the tree itself stays as it is).
#
# package.sh PACKAGE.deb [TREE]
set -euo pipefail

deb=$(readlink -f "${1:?package.sh PACKAGE.deb [TREE]}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kindlift-lab
tree=${2:-$(find "$cache" -maxdepth 1 -name 'engine-*' -type d -print -quit)}
[[ -d $tree/usr/bin ]] || {
  echo "package: no tree to install into: run 'tests/lab/lab prepare'" >&2
  exit 1
}
work=$(mktemp -d)
# All in a mount namespace of its own: it goes with this script, however that ends.
export deb tree work
trap 'rm -rf "$work"' EXIT
unshare --mount bash -euo pipefail -s <<'INSIDE'
mount -t tmpfs none "$work"
mkdir "$work"/{upper,work,root}
mount -t overlay none -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" "$work/root"
cp "$deb" "$work/root/tmp/kindlift.deb"
in_tree() { chroot "$work/root" "$@"; }
in_tree dpkg -i /tmp/kindlift.deb >/dev/null
in_tree kindlift --version
in_tree env -i PATH=/usr/bin:/bin kindlift help exit-codes >/dev/null
for file in bin/kindlift share/man/man1/kindlift-build.1.gz share/man/man1/kindlift.1.gz \
  share/bash-completion/completions/kindlift share/zsh/vendor-completions/_kindlift \
  share/fish/vendor_completions.d/kindlift.fish share/doc/kindlift/copyright; do
  # Debian's own settings may leave documents out of minimal trees.
  in_tree dpkg -L kindlift | grep -qx "/usr/$file" || { echo "package lacks /usr/$file" >&2 && exit 1; }
  [[ $file == share/man/* || $file == share/doc/* || -e $work/root/usr/$file ]] || {
    echo "not installed: /usr/$file" >&2
    exit 1
  }
done
in_tree bash -c 'source /usr/share/bash-completion/completions/kindlift && complete -p kindlift' >/dev/null
in_tree dpkg -r kindlift >/dev/null
[[ ! -e $work/root/usr/bin/kindlift ]] || { echo "left behind: /usr/bin/kindlift" >&2 && exit 1; }
INSIDE
echo "package: installed, ran and removed" >&2
