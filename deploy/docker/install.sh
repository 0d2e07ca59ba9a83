#!/bin/sh
# The install steps of the image. The Dockerfile's stages and try-install.sh both run this file, so they cannot differ.
#
#   install.sh system            the runtime's Debian packages and its user (Debian 12, as root)
#   install.sh compiler          the compiler that Triton needs for a GPU's kernels when the service starts
#   install.sh python cuda|cpu   /opt/tts: a virtual environment with every dependency of constraints.txt and this package
#
# The last one expects the source tree (pyproject.toml, constraints.txt, serve_app/ …) in the working directory.
set -eu

# torch's x86-64 wheels on PyPI include some gigabytes of CUDA; wheels for CPUs only are on PyTorch's own index.
CPU_INDEX=${CPU_INDEX-https://download.pytorch.org/whl/cpu}

system() {
    apt-get update -q
    # python3-venv: /opt/tts is created by Debian's Python and keeps using it. bash: KubeRay starts Ray with it.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        bash ca-certificates libgomp1 libstdc++6 python3 python3-venv
    rm -rf /var/lib/apt/lists/*
    # runAsNonRoot needs a number, not a name; 1000 as in Ray's own images.
    groupadd --gid 1000 tts
    useradd --uid 1000 --gid 1000 --home-dir /cache --no-create-home --shell /usr/sbin/nologin tts
    # The service writes only here, to /tmp and to /dev/shm; everything else may be read-only.
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
        cpu) # without dependencies: the next step installs them from PyPI, at the versions of constraints.txt
            pip_install --no-deps --index-url "$CPU_INDEX" "$(pinned torch)" "$(pinned torchaudio)" ;;
        *) echo "install.sh python: '$1' is neither cuda nor cpu" >&2; exit 2 ;;
    esac
    pip_install ".[tracing,watermark]"
    # Numba keeps compiled kernels until the modification time of their source changes. With a constant time, images of
    # the same sources share the kernels in the volume `cache`. With the build's time, each image would compile them
    # again.
    find /opt/tts/lib -path '*/serve_app/model/backends/cpu/*.py' -exec touch --date=@0 {} +
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
