#!/usr/bin/env bash
# Installs what building Choir needs and this machine lacks:
#   launch/install-deps.sh [--tests | --oracle]
# --tests: also what only the tests need; --oracle: also what Python needs to make itself a virtual
# environment. Does nothing, silently, when everything is there already, be
# it from packages, from modules of a cluster or from source. Otherwise Debian's and Ubuntu's packages
# are installed with apt-get, as root or through sudo.
set -euo pipefail

purpose=${1:-}
case "$purpose" in
--tests | --oracle | "") ;;
*)
    echo "usage: $0 [--tests | --oracle]" >&2
    exit 2
    ;;
esac

missing=()

# need_command PACKAGE COMMAND...
need_command() {
    local package=$1 name
    shift
    for name in "$@"; do
        command -v "$name" >/dev/null 2>&1 || { missing+=("$package") && return 0; }
    done
}

# need_library PACKAGE MODULE: what CMake will ask pkg-config for
need_library() {
    pkg-config --exists "$2" 2>/dev/null || missing+=("$1")
}

need_command cmake cmake
need_command ninja-build ninja
need_command pkg-config pkg-config
need_command libopenmpi-dev mpicc
need_command openmpi-bin mpirun
# A compiler may be there without the C library's headers.
echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1 || missing+=(build-essential)
need_library libopenblas-dev openblas
need_library libhwloc-dev hwloc
need_library libzstd-dev libzstd
need_library libxxhash-dev libxxhash
need_library libjansson-dev jansson
need_library libpcre2-dev libpcre2-8
need_library libutf8proc-dev libutf8proc
need_library libsleef-dev sleef
need_library libedit-dev libedit
need_library libmicrohttpd-dev libmicrohttpd
need_library libcmocka-dev cmocka
case "$purpose" in
--tests)
    need_command clang-format clang-format
    # Clients of choir serve; the bridge to lm-evaluation-harness.
    need_command python3 python3
    # Nodes of tests/cluster.
    need_command iproute2 ip tc
    need_command util-linux unshare nsenter setpriv taskset
    need_command procps pgrep ps
    need_command hostname hostname
    # Another kind of CPU: tests/aarch64.
    need_command gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc
    need_command libc6-dev-arm64-cross aarch64-linux-gnu-gcc
    need_command qemu-user-static qemu-aarch64-static
    ;;
--oracle) python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv) ;;
esac

[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "install-deps: this is not Debian or Ubuntu, so please install these by its own means and run again." >&2
    echo "install-deps: missing, by their names in Debian: ${missing[*]}" >&2
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    # Without a terminal nobody can type a password.
    if command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        as_root=(sudo)
    else
        echo "install-deps: installing packages needs root or sudo. Please have these installed and run again:" >&2
        echo "    apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

apt() {
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}

echo "install-deps: installing ${missing[*]}" >&2
# Package lists are fetched only when those here do not lead to the packages.
if ! apt install --no-install-recommends "${missing[@]}"; then
    if ! apt update || ! apt install --no-install-recommends "${missing[@]}"; then
        cat "$log" >&2
        echo "install-deps: apt-get failed; its output is above" >&2
        exit 1
    fi
fi
