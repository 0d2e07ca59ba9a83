#!/bin/sh
# Two network namespaces in place of two pods, for a machine without Kubernetes: a head and a worker are started as
# KubeRay starts them, not root, on a read-only root file system, with the environment of the overlay `cpu-kind`, and
# its serveConfigV2 is sent to the head as the operator sends it. Then the probes' addresses are asked, and a sentence is
# said through the worker. Needs root, iproute2, procps, curl, kubectl, a Python with PyYAML, and a root file system made by
# deploy/docker/try-install.sh.
#
#   deploy/kuberay/try-nodes.sh ROOT
set -eu
root=${1:?usage: try-nodes.sh ROOT}
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
head=10.9.0.1
worker=10.9.0.2
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
head_pid=
worker_pid=

finish() {
    # Each has one child, the first process of a namespace, which ends with it.
    for pid in $worker_pid $head_pid; do pkill -KILL -P "$pid" || :; done
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
# The image's environment, the overlay's, and what KubeRay adds for a RayService with tokens.
environment="$(sed -n '/^ENV PATH/,/[^\\]$/s/^\(ENV\)\{0,1\} *\([A-Z_]*=[^ ]*\).*/\2/p' "$source/deploy/docker/Dockerfile")
$(cat "$work/ray.env")
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$token RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS=5 RAY_SERVE_KV_TIMEOUT_S=5
RAY_TIMEOUT_MS_TASK_WAIT_FOR_DEATH_INFO=0"

ip netns add tts-head
ip netns add tts-worker
ip link add tts-h netns tts-head type veth peer name tts-w netns tts-worker
link() { # namespace, interface, own address, the other's
    ip -n "$1" addr add "$3/24" dev "$2"
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
    ip -n "$1" route add default via "$4"
}
link tts-head tts-h $head $worker
link tts-worker tts-w $worker $head
mkdir -p "$root/voices"

node() { # name, command; becomes the parent of the first process of the node's namespace
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
node head "RAY_ADDRESS=127.0.0.1:6379 ray start --head --num-cpus=0 --dashboard-host=0.0.0.0 --no-monitor $both" \
    > "$work/head.log" 2>&1 &
head_pid=$!

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
node worker "RAY_ADDRESS=$head:6379 ray start --address=$head:6379 --num-cpus=2 $both" > "$work/worker.log" 2>&1 &
worker_pid=$!
await http://$worker:52365/api/healthz
echo "$(status http://$head:8265/api/serve/applications/) without the token"
inside curl --silent --fail-with-body --max-time 90 --request PUT --header "x-ray-authorization: Bearer $token" \
    --header "content-type: application/json" --data "@$work/serve.json" "http://$head:8265/api/serve/applications/"
await http://$worker:8000/ready
await http://$worker:8000/-/healthz
for metrics in $head:8080 $head:44227 $worker:8080 $worker:9101; do await "http://$metrics/metrics"; done
inside chroot --userspec=1000:1000 "$root" /opt/tts/bin/tts-say --url ws://$worker:8000/api/v1/speak "It is alive."
inside curl --silent --max-time 10 --header "x-ray-authorization: Bearer $token" \
    "http://$head:8265/api/v0/actors?detail=1" > "$work/actors.json"
python3 - "$work/actors.json" <<'PY'
import json, sys
alive = [one for one in json.load(open(sys.argv[1]))["data"]["result"]["result"] if one["state"] == "ALIVE"]
node = {one["class_name"]: one["node_id"] for one in alive}
replicas = {one["node_id"] for one in alive if one["class_name"].startswith("ServeReplica")}
assert replicas == {node["ServeReplica:tts:Generator"]} and node["ServeController"] not in replicas, alive
print("the head has no replica")
PY
