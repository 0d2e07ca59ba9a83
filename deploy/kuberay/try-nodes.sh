#!/bin/sh
# Tests the manifests on a machine without Kubernetes, with two network namespaces instead of two pods. Starts a head
# and a worker as KubeRay starts them: not as root, on a read-only root file system, with the environment of the overlay
# `cpu-kind`. Sends its serveConfigV2 to the head as the operator does. Then checks the addresses of the probes, and
# speaks a sentence through the worker.
#
# With `lose-head`, the head's state is in a Redis, as with components/gcs-redis. The script kills the head in the
# middle of a long text, and restarts it some time later (at the same address, unlike a pod).
#
# Needs root, iproute2, procps, curl, kubectl, a Python with PyYAML, and a root file system made by
# deploy/docker/try-install.sh; `lose-head` also needs redis-server.
#
#   deploy/kuberay/try-nodes.sh ROOT [lose-head]
set -eu
root=${1:?usage: try-nodes.sh ROOT [lose-head]}
lose_head=${2-}
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
head=10.9.0.1
worker=10.9.0.2
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
head_pid=
worker_pid=
redis_pid=

finish() {
    # Each has one child: the first process of a namespace. The namespace ends with it.
    for pid in $worker_pid $head_pid; do pkill -KILL -P "$pid" || :; done
    [ -z "$redis_pid" ] || kill "$redis_pid"
    wait 2>/dev/null || :
    ip netns delete tts-head || :
    ip netns delete tts-worker || :
    rm -rf "$work"
}
trap finish EXIT INT TERM

kubectl kustomize "$source/deploy/kuberay/overlays/cpu-kind" > "$work/rendered.yaml"
python3 - "$work" <<'PY'
import json, pathlib, sys, yaml
work = pathlib.Path(sys.argv[1])
objects = {one["kind"]: one for one in yaml.safe_load_all((work / "rendered.yaml").read_text())}
(work / "serve.json").write_text(json.dumps(yaml.safe_load(objects["RayService"]["spec"]["serveConfigV2"])))
(work / "ray.env").write_text("\n".join(f"{name}={value}" for name, value in objects["ConfigMap"]["data"].items()))
PY
# The environment of the image and of the overlay, and the variables that KubeRay adds for a RayService with tokens.
environment="$(sed -n '/^ENV PATH/,/[^\\]$/s/^\(ENV\)\{0,1\} *\([A-Z_]*=[^ ]*\).*/\2/p' "$source/deploy/docker/Dockerfile")
$(cat "$work/ray.env")
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$token RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS=5 RAY_SERVE_KV_TIMEOUT_S=5
RAY_TIMEOUT_MS_TASK_WAIT_FOR_DEATH_INFO=0"

ip netns add tts-head
ip netns add tts-worker
ip link add tts-h netns tts-head type veth peer name tts-w netns tts-worker
link() { # namespace, interface, own address, the other node's address
    ip -n "$1" addr add "$3/24" dev "$2"
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
    ip -n "$1" route add default via "$4"
}
link tts-head tts-h $head $worker
link tts-worker tts-w $worker $head
mkdir -p "$root/voices"

node() { # name, command: becomes the parent of the first process of the node's namespace
    install -d -o 1000 -g 1000 "$work/$1/tmp" "$work/$1/cache"
    exec ip netns exec "tts-$1" unshare --mount --pid --fork sh -eu -c '
        mount --bind "$1" "$1"
        mount -o remount,ro,bind "$1"
        mount -t proc proc "$1/proc"
        mount --bind "$2/tmp" "$1/tmp"
        mount --bind "$2/cache" "$1/cache"
        mount --bind /dev "$1/dev"
        mount -t tmpfs tmpfs "$1/dev/shm"
        mount --bind "$1/opt/tts/share/voices" "$1/voices"
        exec chroot --userspec=1000:1000 "$1" /usr/bin/env -i $3 bash -c -- "cd /opt/tts/share; ulimit -n 65536; $4"
    ' sh "$root" "$work/$1" "$environment" "$2"
}
both="--object-store-memory=268435456 --metrics-export-port=8080 --dashboard-agent-listen-port=52365 --block"
fault_tolerance=
password=
if [ -n "$lose_head" ]; then
    # Worker and head get the variables that KubeRay sets for gcsFaultToleranceOptions.
    ip netns exec tts-head redis-server --port 6390 --bind $head --requirepass "$token" --save "" > "$work/redis.log" &
    redis_pid=$!
    fault_tolerance="RAY_gcs_rpc_server_reconnect_timeout_s=600 RAY_REDIS_ADDRESS=$head:6390 REDIS_PASSWORD=$token"
    fault_tolerance="$fault_tolerance RAY_external_storage_namespace=this-cluster"
    password="--redis-password=$token"
fi
start_head() {
    node head "RAY_ADDRESS=127.0.0.1:6379 $fault_tolerance ray start --head $password --num-cpus=0 \
        --dashboard-host=0.0.0.0 --no-monitor $both" > "$work/head.log" 2>&1 &
    head_pid=$!
}
start_head

inside() { ip netns exec tts-head "$@"; }
status() { inside curl --silent --max-time 4 --output /dev/null --write-out '%{http_code}' "$1" || :; }
await() { # address
    tries=0
    until [ "$(status "$1")" = 200 ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 90 ] || { echo "no answer from $1" >&2; tail -n 20 "$work"/*.log >&2; exit 1; }
        sleep 2
    done
    echo "200 $1"
}
await http://$head:52365/api/healthz
node worker "RAY_gcs_rpc_server_reconnect_timeout_s=600 RAY_ADDRESS=$head:6379 ray start --address=$head:6379 --num-cpus=2 $both" > "$work/worker.log" 2>&1 &
worker_pid=$!
await http://$worker:52365/api/healthz
echo "$(status http://$head:8265/api/serve/applications/) without the token"
inside curl --silent --fail-with-body --max-time 90 --request PUT --header "x-ray-authorization: Bearer $token" \
    --header "content-type: application/json" --data "@$work/serve.json" "http://$head:8265/api/serve/applications/"
await http://$worker:8000/ready
await http://$worker:8000/-/healthz
for metrics in $head:8080 $head:44227 $worker:8080 $worker:9101; do await "http://$metrics/metrics"; done
say() { inside chroot --userspec=1000:1000 "$root" /opt/tts/bin/tts-say --url ws://$worker:8000/api/v1/speak "$1"; }
say "It is alive."
actors() { # running actors, one per line: class, process, node
    inside curl --silent --max-time 10 --header "x-ray-authorization: Bearer $token" \
        "http://$head:8265/api/v0/actors?detail=1" | python3 -c '
import json, sys
for one in json.load(sys.stdin)["data"]["result"]["result"]:
    if one["state"] == "ALIVE":
        print(one["class_name"], one["pid"], one["node_id"])'
}
actors > "$work/before"
grep ^ServeReplica "$work/before" | cut -d" " -f3 | sort -u > "$work/with-replicas"
[ "$(wc -l < "$work/with-replicas")" = 1 ]
if grep ^ServeController "$work/before" | grep -F -f "$work/with-replicas"; then exit 1; fi
echo "the head has no replica"
[ -n "$lose_head" ] || exit 0

for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
    printf "This sentence goes on for a while, as sentences do that have nothing to say. "
done > "$work/long.txt"
say "$(cat "$work/long.txt")" > "$work/long.log" 2>&1 &
long_pid=$!
sleep 1
pkill -KILL -P "$head_pid"
wait "$head_pid" 2>/dev/null || :
echo "the head is killed"
say "The head is gone."
wait "$long_pid"
echo "the long text: $(cat "$work/long.log")"
sleep 10
start_head
await http://$head:52365/api/healthz
say "The head is back."
sleep 20
actors > "$work/after"
for kept in ServeReplica Coordinator; do
    grep "^$kept" "$work/before" | sort > "$work/kept"
    grep "^$kept" "$work/after" | sort | cmp - "$work/kept"
done
echo "replicas and the coordinator are the same processes as before"
