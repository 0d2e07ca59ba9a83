# The environment of every Ray process and tool of a cluster outside Kubernetes. Run `. deploy/environment.sh` in this
# project's directory, with its commands on the PATH. It sets the same variables as the pods of the overlay gpu-cluster.
set -a
. deploy/kuberay/base/ray.env
. deploy/kuberay/overlays/gpu-cluster/serve.env  # derived from configs/cluster.yaml
RAY_AUTH_MODE=token
RAY_SERVE_HAPROXY_BINARY_PATH=$(command -v tts-haproxy) ||
    echo "tts-haproxy is not on the PATH: add this project's .venv/bin, or Serve's proxy enforces no limits on clients" >&2
set +a
