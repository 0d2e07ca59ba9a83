# The environment of every Ray process and tool of a cluster outside Kubernetes; `. deploy/environment.sh` in the directory
# of this project, with its commands on the PATH. What it says is what the pods of the overlay gpu-cluster get.
set -a
. deploy/kuberay/base/ray.env
. deploy/kuberay/overlays/gpu-cluster/serve.env  # follows from configs/cluster.yaml
RAY_AUTH_MODE=token
RAY_SERVE_HAPROXY_BINARY_PATH=$(command -v tts-haproxy) ||
    echo "tts-haproxy is not on the PATH: add this project's .venv/bin, or Serve's proxy has none of its bounds" >&2
set +a
