# shellcheck shell=bash
# The image of a stand-in Kind node, written as an archive that every engine
# loads, with tar and jq alone: building it with an engine would make each
# engine pay again.

pause_image=localhost/lab/pause:1

# image_archive OUT TAG CONFIG LAYER...: an archive as `docker save` makes it.
# CONFIG is the JSON of the image's `config`.
image_archive() {
  local out=$1 tag=$2 config=$3 work layer n=0
  shift 3
  local -a diff_ids=() names=()
  work=$(mktemp -d "$out.XXXXXX")
  for layer in "$@"; do
    n=$((n + 1))
    cp --reflink=auto "$layer" "$work/layer$n.tar"
    names+=("layer$n.tar")
    diff_ids+=("sha256:$(sha256sum <"$layer" | head -c 64)")
  done
  jq -n --arg arch "$(dpkg --print-architecture)" --argjson config "$config" \
    '{architecture: $arch, os: "linux", config: $config,
      rootfs: {type: "layers", diff_ids: $ARGS.positional}}' --args "${diff_ids[@]}" >"$work/config.json"
  jq -n --arg tag "$tag" '[{Config: "config.json", RepoTags: [$tag], Layers: $ARGS.positional}]' \
    --args "${names[@]}" >"$work/manifest.json"
  tar -C "$work" -cf "$out" manifest.json config.json "${names[@]}"
  rm -r "$work"
}

# A `tar` whose result depends on the files alone, not on when they were made.
plain_tar() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 "$@"; }

# The sandbox image that containerd starts for each pod: something that sleeps.
pause_archive() {
  local out=$1 work
  work=$(mktemp -d "$out.XXXXXX")
  mkdir -p "$work/root/bin"
  cp "$(engine_tree)/usr/bin/busybox" "$work/root/bin/sleep"
  plain_tar -C "$work/root" -cf "$work/layer" .
  image_archive "$out" "$pause_image" '{"Entrypoint": ["/bin/sleep", "2147483647"]}' "$work/layer"
  rm -r "$work"
}

build_node_archive() {
  local target=$2 suite=$3 root config="config-v3.toml"
  case $suite in bookworm | trixie) config="config-v2.toml" ;; esac
  root=$target.root
  rm -rf "$root"
  mkdir -p "$root"/etc/containerd/certs.d "$root"/usr/local/bin "$root"/usr/local/share/lab
  cp "$(go_program crictl)" "$root/usr/local/bin/crictl"
  cp "$here"/node/lab-* "$root/usr/local/bin/"
  cp "$here/node/$config" "$root/etc/containerd/config.toml"
  cp "$here/node/crictl.yaml" "$root/etc/crictl.yaml"
  mkdir -p "$root/opt/cni"
  ln -s /usr/lib/cni "$root/opt/cni/bin"
  pause_archive "$root/usr/local/share/lab/pause.tar"
  echo "$pause_image" >"$root/usr/local/share/lab/pause.name"
  # The base ships folders with their modes; a second layer must not change them.
  plain_tar -C "$root" -cf "$target.layer" --mode=go-w .
  image_archive "$target" "$(node_image "$suite")" \
    '{"Cmd": ["/usr/local/bin/lab-node"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container=docker"]}' \
    "$(node_base "$suite")" "$target.layer"
  rm -rf "$root" "$target.layer"
}

node_image() { printf 'localhost/lab/node:%s-%s' "$1" "$(node_key "$1")"; }
