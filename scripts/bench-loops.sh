#!/usr/bin/env bash
# From an edit to the pod that serves it: `skaffold dev` and `tilt up`, each with kindlift, with its
# own `kind load`, and with a local registry, in one run on the lab's real Kubernetes.
# Prints a table of medians and ratios; docs/benchmarks.md keeps the numbers.
#
# bench-loops.sh [ROUNDS] [TOOL...]   ROUNDS (default 10) follow one that is not counted; TOOLs are
#                                     skaffold and tilt. SIZES (default "0 100") are the megabytes
#                                     that the image has beside a static busybox and the page.
#
# Those of a tool run side by side, and are edited in turns: what the machine does meanwhile
# meets all of them. The time ends with the first new page that the app's Service answers through the
# API server: a Ready pod has the new image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=10
if [[ ${1-} =~ ^[1-9][0-9]*$ ]]; then
  rounds=$1
  shift
fi
tools=("$@")
[[ $# -gt 0 ]] || tools=(skaffold tilt)
for tool in "${tools[@]}"; do
  [[ $tool == skaffold || $tool == tilt ]] || {
    echo "bench: no such tool: $tool" >&2
    exit 2
  }
done
read -ra sizes <<<"${SIZES:-0 100}"
# Seconds from an edit to the page.
patience=120

lab=tests/lab/lab
scripts/setup.sh build test
cargo build --release --locked
state=$("$lab" status) || state=down
# A lab that somebody else has up is theirs to take down.
lab_is_ours=""
! grep -q '^ *down$' <<<"$state" || lab_is_ours=yes
"$lab" up docker kube
exports=$("$lab" env)
eval "$exports"
# shellcheck source=lib/bench.sh
. scripts/lib/bench.sh

export PATH=$PWD/target/release:$PATH KUBECONFIG=$KINDLIFT_LAB_KUBECONFIG
export DO_NOT_TRACK=1 SKAFFOLD_UPDATE_CHECK=false
# With attestations, whose times differ, unchanged images would be new ones.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
mkdir -p "$work/home/.skaffold" "$work/logs"
echo 'global: {collect-metrics: false, survey: {disable-prompt: true}}' >"$work/home/.skaffold/config"
run=bench-loops-$$
# `lean` is kindlift without a test, under a Skaffold that never takes an image from its cache.
declare -A contenders=([skaffold]='kindlift built-in registry lean' [tilt]='kindlift built-in registry')
# The process of each contender's tool, by its name.
declare -A pids=()
proxy_pid=""

# end_tools: as Ctrl-C does; Skaffold takes its pods away.
end_tools() {
  local name
  for name in "${!pids[@]}"; do kill -TERM "${pids[$name]}" 2>/dev/null || true; done
  for name in "${!pids[@]}"; do
    wait "${pids[$name]}" || true
    unset "pids[$name]"
  done
}

clean_up() {
  local status=$? node names
  trap - EXIT
  end_tools
  [[ -z $proxy_pid ]] || kill "$proxy_pid" || true
  kubectl delete namespace "$run" --ignore-not-found --wait=false >/dev/null 2>&1 || true
  names=$(docker image ls --format '{{.Repository}}:{{.Tag}}' | grep -F "$run" || true)
  # shellcheck disable=SC2086 # Names have no spaces.
  [[ -z $names ]] || docker image rm --force $names >/dev/null 2>&1 || true
  for node in kube-control-plane kube-worker; do
    # shellcheck disable=SC2016 # The node expands it.
    docker exec "$node" sh -c 'crictl images -o json | jq -r ".images[] |
      select(any(.repoTags[], .repoDigests[]; contains(\"$1\"))) | .id" | xargs -r crictl rmi' sh "$run" \
      >/dev/null 2>&1 || true
  done
  stop_registry
  if [[ -n $lab_is_ours && ${KEEP_LAB-} != 1 ]]; then
    "$lab" down || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# app NAME IMAGE MEGABYTES: a folder with a page, a Dockerfile and a manifest.
app() {
  local folder=$work/$1
  mkdir -p "$folder"
  cp "$KINDLIFT_LAB_BUSYBOX" "$folder/busybox"
  random "$folder/ballast" "$3"
  printf 'FROM scratch\nCOPY ballast /\nCOPY busybox /bin/busybox\nCOPY index.html /www/index.html\n%s\n' \
    'CMD ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]' >"$folder/Dockerfile"
  echo "$1 begins" >"$folder/index.html"
  cat >"$folder/k8s.yaml" <<C
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: 1
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: $2
        ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: $1}
spec:
  selector: {app: $1}
  ports: [{port: 80, targetPort: 8080}]
C
}

# skaffold_files NAME IMAGE CONTENDER: as that contender's users write them.
skaffold_files() {
  local folder=$work/$1 push=false builder="docker: {dockerfile: Dockerfile}"
  local test=""
  echo 'kubeContexts: []' >"$folder/skaffold.config"
  case $3 in kindlift | lean)
    echo 'kubeContexts: [{kube-context: kind-.*, kind-disable-load: true}]' >"$folder/skaffold.config"
    ;;
  esac
  case $3 in
    kindlift)
      builder="custom: {buildCommand: exec kindlift build, dependencies: {dockerfile: {path: Dockerfile}}}"
      test="test: [{image: $2, custom: [{command: exec kindlift ensure, timeoutSeconds: 300}]}]"
      ;;
    lean) builder="custom: {buildCommand: exec kindlift build, dependencies: {dockerfile: {path: Dockerfile}}}" ;;
    registry) push=true ;;
  esac
  cat >"$folder/skaffold.yaml" <<C
apiVersion: skaffold/v4beta13
kind: Config
build:
  local: {push: $push, useBuildkit: true}
  artifacts: [{image: $2, $builder}]
$test
manifests: {rawYaml: [k8s.yaml]}
deploy: {kubectl: {}}
C
}

# tilt_files NAME IMAGE CONTENDER
tilt_files() {
  local build="docker_build('$2', '.', ignore=['Tiltfile', 'k8s.yaml'])"
  case $3 in
    kindlift)
      build="custom_build('$2', 'exec kindlift build -t $2 --ref-file ../$1.ref .',
    deps=['.'], ignore=['Tiltfile', 'k8s.yaml'], skips_local_docker=True, outputs_image_ref_to='../$1.ref')"
      ;;
    registry) build+=$'\n'"default_registry('$registry')" ;;
  esac
  printf "%s\nk8s_yaml('k8s.yaml')\n" "$build" >"$work/$1/Tiltfile"
}

# start TOOL NAME: its output goes to a file outside the folder that it watches.
start() {
  local -a command
  case $1 in
    skaffold) command=(skaffold dev --interactive=false --config skaffold.config) ;;
    tilt) command=(tilt up --stream --port=0 --web-mode=prod) ;;
  esac
  [[ $2 != *-lean ]] || command+=(--cache-artifacts=false)
  (cd "$work/$2" && HOME=$work/home exec "${command[@]}" --namespace "$run" >"$work/logs/$2" 2>&1) &
  pids[$2]=$!
}

# What a tool says when it has done all and waits.
declare -A waits=([skaffold]='Watching for changes' [tilt]='DONE IN: ')

fail() { # NAME WHAT
  tail -n 40 "$work/logs/$1" >&2
  echo "bench: $1: $2" >&2
  exit 1
}

# idle TOOL NAME TIMES: until the tool has done all so many times.
idle() {
  local end=$((SECONDS + patience))
  until [[ $(grep -c "${waits[$1]}" "$work/logs/$2") -ge $3 ]]; do
    kill -0 "${pids[$2]}" 2>/dev/null || fail "$2" "it has ended"
    [[ $SECONDS -lt $end ]] || fail "$2" "it does not come to rest"
    sleep 0.1
  done
}

# An open end from which nothing comes, for pauses without a process.
mkfifo "$work/nothing"
exec {nothing}<>"$work/nothing"

# served NAME TEXT: until the Service answers with a text. No process is started meanwhile.
served() {
  local end=$((SECONDS + patience)) answer connection
  until
    exec {connection}<>"/dev/tcp/127.0.0.1/$proxy"
    printf 'GET /api/v1/namespaces/%s/services/%s:80/proxy/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' \
      "$run" "$1" >&"$connection"
    answer=""
    IFS= read -r -d '' -t 5 -u "$connection" answer || true
    exec {connection}<&-
    [[ $answer == *"$2"* ]]
  do
    kill -0 "${pids[$1]}" 2>/dev/null || fail "$1" "it has ended"
    [[ $SECONDS -lt $end ]] || fail "$1" "no pod serves '$2'; the last answer: $answer"
    read -r -t 0.03 -u "$nothing" || true
  done
}

# edit FILE NAME TEXT: notes the milliseconds until the text is served.
edit() {
  local began ended
  echo "$3" >"$work/edited"
  began=${EPOCHREALTIME/./}
  mv "$work/edited" "$work/$2/index.html"
  served "$2" "$3"
  ended=${EPOCHREALTIME/./}
  echo $(((ended - began) / 1000)) >>"$work/$1"
}

# table_row LABEL MEGABYTES KINDLIFT BUILT-IN REGISTRY: of the table.
table_row() {
  awk -v t="$1" -v m="$2" -v o="$3" -v k="$4" -v r="$5" 'BEGIN {
    printf "| %s | %d MB | %d ms | %d ms | %d ms | %.2f | %.2f |\n", t, m + 2, o, k, r, o / k, o / r }' \
    >>"$work/table"
}

# loops TOOL MEGABYTES: all rounds of a tool's contenders, and the table's row.
loops() {
  local tool=$1 megabytes=$2 contender name image round file
  local -a all
  read -ra all <<<"${contenders[$tool]}"
  for contender in "${all[@]}"; do
    name=$tool-$megabytes-$contender
    image=$run/$name
    # Skaffold writes the registry into a name that has none in its own way; so it gets the whole.
    [[ $tool-$contender != skaffold-registry ]] || image=$registry/$image
    app "$name" "$image" "$megabytes"
    "${tool}_files" "$name" "$image" "$contender"
    start "$tool" "$name"
    served "$name" "$name begins"
    idle "$tool" "$name" 1
  done
  for ((round = 0; round <= rounds; round++)); do
    for contender in "${all[@]}"; do
      name=$tool-$megabytes-$contender
      file=$name.ms
      [[ $round -gt 0 ]] || file=warm-$file
      edit "$file" "$name" "$name, edit $round of $run."
      idle "$tool" "$name" $((round + 2))
    done
  done
  end_tools
  local -a ms=()
  for contender in "${all[@]}"; do ms+=("$(median "$tool-$megabytes-$contender.ms")"); done
  local label="\`skaffold dev\`"
  [[ $tool == skaffold ]] || label="\`tilt up\`"
  table_row "$label" "$megabytes" "${ms[0]}" "${ms[1]}" "${ms[2]}"
  [[ ${#ms[@]} -lt 4 ]] ||
    table_row "\`skaffold dev --cache-artifacts=false\`, no test" "$megabytes" "${ms[3]}" "${ms[1]}" "${ms[2]}"
}

start_registry
tell_node kube-control-plane
tell_node kube-worker
kubectl create namespace "$run" >/dev/null
until kubectl --namespace "$run" get serviceaccount/default configmap/kube-root-ca.crt >/dev/null 2>&1; do sleep 0.1; done
kubectl proxy --port=0 >"$work/logs/proxy" 2>&1 &
proxy_pid=$!
until proxy=$(grep -o '127.0.0.1:[0-9]*' "$work/logs/proxy"); do
  kill -0 "$proxy_pid"
  sleep 0.1
done
proxy=${proxy#*:}

for tool in "${tools[@]}"; do
  for megabytes in "${sizes[@]}"; do loops "$tool" "$megabytes"; done
done

echo "Two nodes, Docker's containerd store; medians of $rounds after a warm-up; $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
kindlift --version
echo "Skaffold $(skaffold version), Tilt $(tilt version | cut -d, -f1), $(kind version | cut -d' ' -f1-2)"
docker version --format 'Docker {{.Server.Version}}'
docker exec kube-worker containerd --version
docker exec kube-worker kubelet --version
echo
# shellcheck disable=SC2016 # Markdown.
echo '| from an edit to the page | image | kindlift | its own `kind load` | local registry | to `kind load` | to the registry |'
echo '|---|---|---|---|---|---|---|'
cat "$work/table"
