#!/bin/sh
# Runs the commands of the section "A cluster" in docs/deploying.md, on two nodes. The nodes are network namespaces of
# this machine with addresses that are not loopback, each with its own processes, /tmp, /dev/shm and home directory. The
# script replaces HEAD by the head's address, and configs/cluster.yaml by a smaller version: the tiny checkpoint on a
# CPU. Then it speaks a sentence through each node. Needs root, iproute2, util-linux, curl, and this project's commands
# on the PATH.
#
#   deploy/try-cluster.sh
set -eu
cd "$(dirname "$0")/.."
page=docs/deploying.md
work=$(mktemp -d -p /var/tmp)      # each node has its own /tmp
head=10.77.0.1
node=10.77.0.2
cache=${TTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qwen3-tts-serve}
pids=

finish() {
    # When the first process of a node's namespace ends, all other processes of the node end too.
    for pid in $pids; do kill -KILL "$pid" || :; done
    wait 2>/dev/null || :
    ip netns delete tts-head || :
    ip netns delete tts-node || :
    rm -rf "$work"
}
trap finish EXIT INT TERM

block() { # number: prints the shell block with that number under "## A cluster"
    awk -v wanted="$1" '
        /^## / { inside = ($0 == "## A cluster") }
        inside && /^```sh$/ { number++; shown = 1; next }
        /^```$/ { shown = 0 }
        inside && shown && number == wanted' "$page" |
        sed "s/\bHEAD\b/$head/g; s#configs/cluster.yaml#$work/cluster.yaml#"
}

start() { # node, own address, the other node's address: records the node's pid
    ip -n "tts-$1" addr add "$2/24" dev veth
    ip -n "tts-$1" link set lo up
    ip -n "tts-$1" link set veth up
    ip -n "tts-$1" route add default via "$3"
    mkdir -p "$work/$1/home"
    ip netns exec "tts-$1" unshare --mount --pid --fork --kill-child --mount-proc sh -eu -c '
        mount -t tmpfs tmpfs /tmp
        mount -t tmpfs tmpfs /dev/shm
        echo ready > "$1/ready"
        exec sleep 3600
    ' sh "$work/$1" &
    pids="$pids $!"
    until [ -e "$work/$1/ready" ]; do sleep 0.1; done
    pgrep --parent "$!" > "$work/$1/pid"
}

on() { # node, commands: runs them in a new shell with the documented environment
    nsenter --target "$(cat "$work/$1/pid")" --net --mount --pid env -i PATH="$PATH" HOME="$work/$1/home" \
        PYTHONPATH="${PYTHONPATH-}" LANG=C.UTF-8 TTS_CACHE="$cache" sh -eu -c "cd '$PWD'
$(block 1)
$2"
}

await() { # address
    tries=0
    until [ "$(on node "curl --silent --max-time 4 --output /dev/null --write-out '%{http_code}' $1" || :)" = 200 ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 120 ] || { echo "no answer from $1" >&2; on node "serve status -a http://$head:8265" >&2; exit 1; }
        sleep 2
    done
    echo "200 $1"
}

python - "$work/cluster.yaml" <<'PY'
import sys, yaml
document = yaml.safe_load(open("configs/cluster.yaml"))
(application,) = document["applications"]
args = application["args"]
args["model"] = {"source": "tiny", "device": "cpu", "threads": 1}
args["generator"] |= {"min_replicas": 1, "max_replicas": 1, "num_gpus": 0}
args["ingress"] |= {"replicas": 1, "num_cpus": 0.5}
args["voices"]["default"] = "austen"
yaml.safe_dump(document, open(sys.argv[1], "w"), sort_keys=False)
PY

ip netns add tts-head
ip netns add tts-node
ip link add veth netns tts-head type veth peer name veth netns tts-node
start head $head $node
start node $node $head

on head "$(block 2)"
mode=$(stat --format=%a "$work/head/home/.ray/auth_token")
[ "$mode" = 600 ] || { echo "others can read the token: $mode" >&2; exit 1; }
cp -r "$work/head/home/.ray" "$work/node/home/"
on head "$(block 3)" > "$work/head.log" 2>&1 || { cat "$work/head.log" >&2; exit 1; }
on node "$(block 4)" > "$work/node.log" 2>&1 || { cat "$work/node.log" >&2; exit 1; }
on node "$(block 5)"
await http://$head:8000/ready
await http://$node:8000/ready
on node "serve status -a http://$head:8265"
for address in $head $node; do on node "tts-say --url ws://$address:8000/api/v1/speak 'It is alive.'"; done
without=$(on node "RAY_AUTH_MODE=disabled serve status -a http://$head:8265 2>&1 || :")
case $without in *"Missing authentication token"*) echo "refused without the token" ;; *) echo "$without" >&2; exit 1 ;; esac
