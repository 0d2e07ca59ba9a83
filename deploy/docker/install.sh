#!/bin/sh
# The install steps of the image: the Dockerfile's stages and try-install.sh run this file, so that they cannot differ.
#
#   install.sh system            the runtime's Debian packages and its user (Debian 12, as root)
#   install.sh compiler          what Triton compiles a GPU's kernels with when the service starts
#   install.sh python cuda|cpu   /opt/tts: a virtual environment with every dependency of constraints.txt and this package
#
# The last expects the source tree (pyproject.toml, constraints.txt, serve_app/ …) in the working directory.
set -eu

# On PyPI torch's x86-64 wheels carry CUDA, some gigabytes of it; the CPU's come from PyTorch's own index.
CPU_INDEX=${CPU_INDEX-https://download.pytorch.org/whl/cpu}

system() {
    apt-get update -q
    # python3-venv: /opt/tts is made by Debian's Python and goes on using it. bash: KubeRay starts Ray with it.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        bash ca-certificates libgomp1 libstdc++6 python3 python3-venv
    rm -rf /var/lib/apt/lists/*
    # A number, not a name, for runAsNonRoot; 1000 as in Ray's own images.
    groupadd --gid 1000 tts
    useradd --uid 1000 --gid 1000 --home-dir /cache --no-create-home --shell /usr/sbin/nologin tts
    # Everything that is ever written lies here, in /tmp and in /dev/shm; the rest may be read-only.
    install -d -o tts -g tts /cache /weights
}

compiler() {
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev python3-dev
    rm -rf /var/lib/apt/lists/*
}

python() {
    python3 -m venv /opt/tts
    case $1 in
        cuda) ;;
        cpu) # without dependencies: those come from PyPI in the next step, at the versions of constraints.txt
            pip_install --no-deps --index-url "$CPU_INDEX" "$(pinned torch)" "$(pinned torchaudio)" ;;
        *) echo "install.sh python: '$1' is neither cuda nor cpu" >&2; exit 2 ;;
    esac
    pip_install ".[tracing]"
    # Numba keeps compiled kernels until their source's time changes. With one time, images of the same sources share
    # what the volume `cache` holds; with the build's, each image would compile again.
    find /opt/tts/lib -path '*/serve_app/model/compiled/*.py' -exec touch --date=@0 {} +
    install -d /opt/tts/share
    cp -r configs voices /opt/tts/share/
}

pinned() {
    grep "^$1==" constraints.txt
}

pip_install() {
    /opt/tts/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check -c constraints.txt "$@"
}

"$@"
