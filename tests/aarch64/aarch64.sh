#!/usr/bin/env bash
# Choir on a CPU without kernels of its own: builds it for 64-bit Arm, runs it under qemu, and compares
# the results of scalar C with those on this host: every kernel on odd data with denormals, and the
# logits and the answer of the demo model.
#
#   tests/aarch64/aarch64.sh CHOIR KERNEL_DIGESTS FOLDER
#
# FOLDER keeps the packages and the build for the next time. Exit status 77 where the compiler, qemu or
# Debian's packages for arm64 cannot be had (launch/install-deps.sh --tests installs the first two).
set -euo pipefail

choir=$1
digests=$2
mkdir -p "$3"
folder=$(cd "$3" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
sysroot=$folder/sysroot
lib=$sysroot/usr/lib/aarch64-linux-gnu

skip() {
    echo "skipped: $*"
    exit 77
}

for command in aarch64-linux-gnu-gcc qemu-aarch64-static apt-get dpkg; do
    command -v "$command" >/dev/null || skip "no $command"
done

# Packages for arm64 are unpacked, not installed, with lists and a cache of our own.
fetch_sysroot() {
    local apt=$folder/apt package link target
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    local options=(-q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State::Lists=$apt/lists"
        -o Dir::State::status=/dev/null -o "Dir::Cache=$apt/cache" -o "Debug::NoLocking=1")
    apt-get "${options[@]}" update >"$apt/log" 2>&1 || return 1
    apt-get "${options[@]}" --download-only --no-install-recommends install libopenmpi-dev libjansson-dev libhwloc-dev \
        libpcre2-dev libutf8proc-dev libzstd-dev libxxhash-dev libsleef-dev libopenblas-dev libcmocka-dev \
        >"$apt/log" 2>&1 || return 1
    rm -rf "$sysroot.new"
    mkdir "$sysroot.new"
    for package in "$apt"/cache/archives/*.deb; do
        dpkg --extract "$package" "$sysroot.new"
    done
    find "$sysroot.new" -type l -lname '/*' | while read -r link; do
        target=$(readlink "$link")
        ln -sfn "$sysroot$target" "$link"
    done
    rm -rf "$apt/cache"
    mv "$sysroot.new" "$sysroot"
}

[ -d "$sysroot" ] || fetch_sysroot || skip "Debian's packages for arm64: $(tail -n 1 "$folder/apt/log")"

export AARCH64_SYSROOT=$sysroot PKG_CONFIG_SYSROOT_DIR=$sysroot
PKG_CONFIG_LIBDIR=$lib/pkgconfig:$sysroot/usr/share/pkgconfig:$lib/openblas-pthread/pkgconfig
export PKG_CONFIG_LIBDIR
cmake -S "$root" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCHOIR_WERROR=ON \
    -DCMAKE_TOOLCHAIN_FILE="$root/tests/aarch64/toolchain.cmake" -DMPI_SKIP_COMPILER_WRAPPER=ON \
    -DMPI_C_HEADER_DIR="$lib/openmpi/include" -DMPI_C_LIB_NAMES=mpi -DMPI_mpi_LIBRARY="$lib/openmpi/lib/libmpi.so" >/dev/null
cmake --build "$folder/build" --target choir kernel_digests

# A run of one process, which starts nothing else.
emulated() {
    qemu-aarch64-static -L "$sysroot" -E OMPI_MCA_ess_singleton_isolated=1 \
        -E "LD_LIBRARY_PATH=$lib:$lib/openmpi/lib" "$@"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_MCA_orte_tmpdir_base=$work # not a folder that others remove (cli/common.sh)
failed=0

"$digests" >"$work/host.txt"
emulated "$folder/build/tests/kernel_digests" >"$work/arm.txt"
diff "$work/host.txt" "$work/arm.txt" || failed=1

export CHOIR_ISA=scalar
for dtype in bf16 f32; do
    for attention in eager sdpa; do
        flags=(generate --quiet --threads 1 --dtype "$dtype" --attention "$attention" --prompt "Tom has 3 apples." --max-tokens 3)
        OMPI_MCA_ess_singleton_isolated=1 "$choir" "${flags[@]}" --logits-out "$work/host.npy" >"$work/host.txt"
        emulated "$folder/build/choir" "${flags[@]}" --logits-out "$work/arm.npy" >"$work/arm.txt"
        cmp "$work/host.npy" "$work/arm.npy" && cmp "$work/host.txt" "$work/arm.txt" || failed=1
    done
done
[ "$failed" -eq 0 ] && echo "aarch64: kernels, logits and answers have this host's bits"
exit "$failed"
