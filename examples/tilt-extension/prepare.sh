#!/bin/sh
# Puts a static busybox into base/, for its Dockerfile.
# prepare.sh [FILE]   as in ../skaffold, which does the work.
set -eu
cd "$(dirname "$0")"
../skaffold/prepare.sh "$@"
cp -p ../skaffold/busybox base/busybox
