# shellcheck shell=bash
# Programs that are in no Debian suite, built from their Go modules. go/MODULE
# names exact versions and sums; its `tool` lines say what is built. A cache
# entry a program, so that a killed build loses only the one at hand.

# The second is the snapshotter of rootless nodes, which kindest/node has.
node_programs=(crictl containerd-fuse-overlayfs-grpc)
kubernetes_programs=(kubelet kube-apiserver kube-controller-manager kube-scheduler)
loop_programs=(skaffold tilt)
buildkit_programs=(buildkitd)

go_module() {
  case $1 in
    kubelet | kube-*) echo "$here/go/kubernetes" ;;
    buildkitd) echo "$here/go/buildkit" ;;
    containerd-fuse-overlayfs-grpc) echo "$here/go/fuse-snapshotter" ;;
    *) echo "$here/go/$1" ;;
  esac
}

# go_program NAME: the cache entry.
go_program() {
  local module
  module=$(go_module "$1")
  printf '%s/%s-%s' "$cache" "$1" \
    "$(key "$1" "$(cat "$module"/*)" "$(declare -f build_go_program go_link_flags)")"
}

# go_link_flags NAME VERSION: each program keeps its version elsewhere.
go_link_flags() {
  printf -- '-s -w'
  case $1 in
    crictl) printf -- ' -X sigs.k8s.io/cri-tools/pkg/version.Version=%s' "$2" ;;
    kube*)
      local minor=${2#v*.}
      printf -- ' -X k8s.io/component-base/version.%s' \
        "gitVersion=$2" "gitMajor=1" "gitMinor=${minor%.*}"
      ;;
    skaffold) printf -- ' -X github.com/GoogleContainerTools/skaffold/v2/pkg/skaffold/version.version=%s' "$2" ;;
  esac
}

build_go_program() {
  local target=$2 name=$3 module package version cgo=0
  command -v go >/dev/null || { echo "Go is needed to build $name" && return 1; }
  module=$(go_module "$name")
  cd "$module" || return
  package=$(sed -En "s,^(tool |\t)([^ ]*/$name)$,\2,p" go.mod)
  version=$(go list -mod=readonly -f '{{.Module.Version}}' "$package")
  local -a mod=(-mod=readonly)
  if [[ $name == tilt ]]; then
    # Its parser of Tiltfiles is C.
    cgo=1
    # Its web pages are made with yarn for a release, and without any it wants a
    # web server. A FAKE: one page in their place, which no test looks at.
    rm -rf "$target.source"
    cp -r --no-preserve=mode "$(go list -mod=readonly -m -f '{{.Dir}}' github.com/tilt-dev/tilt)" "$target.source"
    echo '<!doctype html><title>No pages in the lab</title>' >"$target.source/pkg/assets/build/index.html"
    cp go.mod "$target.mod"
    cp go.sum "$target.sum"
    go mod edit -replace "github.com/tilt-dev/tilt=$target.source" "$target.mod"
    mod=(-mod=readonly "-modfile=$target.mod")
  fi
  # Others share the machine, and a build that takes minutes can wait for them.
  CGO_ENABLED=$cgo nice go build "${mod[@]}" -trimpath -buildvcs=false -p 2 \
    -ldflags "$(go_link_flags "$name" "$version")" -o "$target" "$package"
  rm -rf "$target.source" "$target.mod" "$target.sum"
}

# go_entries NAME...: builds what is not there yet, one after the other.
go_entries() {
  local name
  for name in "$@"; do
    entry "$(go_program "$name")" "$name" build_go_program "$name"
  done
}
