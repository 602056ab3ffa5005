# shellcheck shell=sh
# Feeds stdin to `ctr images import`, once it is noted which lease ctr has made for itself: a ctr
# that is killed leaves it, and all that it holds, for a day.
# $1: the lease of the run; $2: its owner; $3: how many leases this ctr makes, one after the other;
# the rest: how to import.
lease=$1 owner=$2 leases=$3
shift 3
set -f
k8s() { ctr --namespace k8s.io "$@"; }

# Others like this one make their leases before or after, not in between.
exec 9>/run/kindlift.lock
flock 9
listed=$(k8s leases ls -q) || exit
known=" "
for id in $listed; do known="$known$id "; done
# For one that is killed before ctr's lease is noted: it is one that was made from now on.
k8s leases create --id "$lease-starts-$$" --expires 24h \
  "io.kindlift.owner=$owner" "io.kindlift.starts=$lease@$(date +%s)" >/dev/null || exit
exec 3<&0 </dev/null
ctr --namespace k8s.io images import "$@" - <&3 3<&- 9>&- >/dev/null &
import=$!
exec 3<&-

# Notes the lease that was not there before. If there are several, all but one are others': they are
# looked at again.
noted=0
note() {
  new=
  for id in $(k8s leases ls -q); do
    case $known in *" $id "*) continue ;; esac
    case $id in *[!0-9]*-????) continue ;; [0-9]*-????) new="$new $id" ;; esac
  done
  # shellcheck disable=SC2086 # one word each
  set -- $new
  [ $# -eq 1 ] || return
  noted=$((noted + 1))
  first=${first:-$1}
  known="$known$1 "
  k8s leases create --id "$lease-import-$import-$noted" --expires 24h \
    "io.kindlift.owner=$owner" "io.kindlift.import=$1" >/dev/null
}

# Once the first file of the tar is being written, ctr has its lease.
tries=0
until k8s content active | grep -q "^tar-$lease/" || [ $tries -eq 50 ]; do
  kill -0 $import 2>/dev/null || break
  tries=$((tries + 1))
  sleep 0.1
done
until note || [ $tries -ge 50 ] || ! kill -0 $import 2>/dev/null; do
  tries=$((tries + 1))
  sleep 0.1
done
[ $noted -eq 0 ] || k8s leases rm "$lease-starts-$$" >/dev/null
flock -u 9
echo ready
while [ "$leases" = 2 ] && [ $noted -eq 1 ] && kill -0 $import 2>/dev/null; do
  sleep 0.1
  k8s leases ls -q | grep -qxF "$first" || note
done
wait $import
status=$?
[ $status -ne 0 ] || [ $noted -gt 0 ] || k8s leases rm "$lease-starts-$$" >/dev/null
# It has ended by itself, and its leases with it.
while [ $status -eq 0 ] && [ $noted -gt 0 ]; do
  k8s leases rm "$lease-import-$import-$noted" >/dev/null
  noted=$((noted - 1))
done
exit $status
