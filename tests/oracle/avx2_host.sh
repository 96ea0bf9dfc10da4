#!/usr/bin/env bash
# Runs a command as on a CPU that has AVX2 alone: programs that choose instructions by CPUID, as PyTorch, oneDNN, MKL, OpenBLAS and Choir do,
# find no AVX-512 and no AMX (avx2_host.c); nor does who reads /proc/cpuinfo:
#
#   tests/oracle/avx2_host.sh [--amd] COMMAND [ARGUMENT]...
#
# --amd: the CPU says that it is AMD's too (Zen 3). As root, for /proc/cpuinfo; needs a C compiler.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
vendor=own
if [ "${1:-}" = --amd ]; then
    vendor=amd
    shift
fi
if [ $# -eq 0 ] || [[ $1 == --* ]]; then
    echo "usage: ${BASH_SOURCE[0]} [--amd] COMMAND [ARGUMENT]..." >&2
    exit 2
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${CC:-cc}" -O2 -shared -fPIC -o "$folder/avx2_host.so" "$here/avx2_host.c"

edits=(-E -e '/^flags/s/ (avx512|amx|avx_vnni|avx_ne)[a-z0-9_]*//g')
[ $vendor = own ] || edits+=(-e '/^vendor_id/s/:.*/: AuthenticAMD/' -e '/^cpu family/s/:.*/: 25/' -e '/^model\t/s/:.*/: 33/')
sed "${edits[@]}" /proc/cpuinfo >"$folder/cpuinfo"

export CHOIR_AVX2_HOST=$vendor
export GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ
# shellcheck disable=SC2016
unshare --mount bash -c 'mount --bind "$0/cpuinfo" /proc/cpuinfo; export LD_PRELOAD=$0/avx2_host.so; "$@"' "$folder" "$@"
