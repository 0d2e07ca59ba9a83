#!/bin/sh
# Runs the image's install steps in a clean Debian root file system, on a machine without a container engine. Then runs
# the service in it as the image does: not as root, with only /cache, /tmp and /dev/shm writable. Needs root,
# debootstrap and about 12 GB below DIRECTORY (cuda) or 4 GB (cpu).
#
#   deploy/docker/try-install.sh DIRECTORY [cuda|cpu]
#
# The root file system borrows what this machine needs to reach its package indexes (pip's configuration, certificates).
set -eu
root=${1:?usage: try-install.sh DIRECTORY [cuda|cpu]}
flavour=${2:-cuda}
source=$(cd "$(dirname "$0")/../.." && pwd)

case "$(uname -m)" in x86_64) ;; *) echo "note: only tested on x86-64" >&2 ;; esac
[ "$(id -u)" = 0 ] || { echo "try-install.sh: needs root, for chroot and mount" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "try-install.sh: needs debootstrap" >&2; exit 1; }

if [ ! -e "$root/etc/debian_version" ]; then
    debootstrap --variant=minbase bookworm "$root" >/dev/null
fi
mkdir -p "$root/source" "$root/etc/ssl/certs"
# The same files as the Dockerfile's COPY lines.
for part in pyproject.toml constraints.txt README.md LICENSE serve_app configs voices deploy/docker/install.sh; do
    cp -r "$source/$part" "$root/source/"
done

# Own mounts, processes and loopback network, all of which disappear when it ends.
cat > "$root/inside.sh" <<'INSIDE'
set -eu
cd /source
export PIP_CERT=/lent/ca-certificates.crt
[ -x /opt/tts/bin/tts-serve ] || {
    id tts >/dev/null 2>&1 || sh install.sh system
    [ "$1" = cpu ] || sh install.sh compiler
    sh install.sh python "$1"
}
rm -rf ~root/.config
INSIDE
mkdir -p "$root/lent"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/lent/" 2>/dev/null || :
cp -L /etc/resolv.conf /etc/hosts "$root/etc/" 2>/dev/null || :
cp -L /etc/pip.conf "$root/etc/" 2>/dev/null || :
unshare --mount --pid --fork sh -eu -c '
    mount -t proc proc "$1/proc"
    exec chroot "$1" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} sh /inside.sh "$2"
' sh "$root" "$flavour"
echo "installed: $(du -sh "$root/opt/tts" | cut -f1) in /opt/tts"

cat > "$root/speak.sh" <<'SPEAK'
set -eu
touch /must-not-be-written 2>/dev/null && { echo "the root file system is writable" >&2; exit 1; }
cd /opt/tts/share
tts-serve configs/local.yaml --port 8000 > /tmp/serve.log 2>&1 &
service=$!
tries=0
until python -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:8000/ready", timeout=2)' 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 120 ] || ! kill -0 "$service"; then cat /tmp/serve.log >&2; exit 1; fi
    sleep 1
done
tts-say --out /tmp/speech.wav "It is alive."
kill -INT "$service"; wait "$service" || :
SPEAK
mkdir -p "$root/cache" "$root/dev/shm"
unshare --mount --pid --net --fork sh -eu -c '
    ip link set lo up
    mount --bind "$1" "$1"
    mount -o remount,ro,bind "$1"
    mount -t proc proc "$1/proc"
    mount -t tmpfs tmpfs "$1/tmp"
    mount -t tmpfs -o uid=1000,gid=1000 tmpfs "$1/cache"
    mount --bind /dev "$1/dev"
    mount -t tmpfs tmpfs "$1/dev/shm"
    # The environment of the Dockerfile.
    exec chroot --userspec=1000:1000 "$1" /usr/bin/env -i $(sed -n "/^ENV PATH/,/[^\\\\]$/s/^\(ENV\)\{0,1\} *\([A-Z_]*=[^ ]*\).*/\2/p" "$2") sh /speak.sh
' sh "$root" "$source/deploy/docker/Dockerfile"
echo "spoken: as uid 1000, on a read-only root file system"
