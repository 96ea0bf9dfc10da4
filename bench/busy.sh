#!/usr/bin/env bash
# Decoding on a machine that is busy with other work, by several shapes of ranks and threads:
#
#   bench/busy.sh [--loops N] [--turns N] [--gen-tokens N] [--choir PROGRAM] [--before PROGRAM]
#       [--shapes "1x1 1x2 2x1"] [--model DIR | --config FILE [--layers N]]
#
# Method: N busy loops (default: as many as there are cores; 0: an idle machine) run meanwhile, not
# bound to cores. Shapes (ranks x threads) take turns; a turn is one process group that loads, warms up
# and decodes --gen-tokens. With --before, another build takes its turn just before; with --loops 0 this
# compares two builds on an idle machine. Prints medians of tokens/s over the turns, and their ratio
# to the first shape's; with --before also the median of the paired ratios.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
choir=$here/../build/choir before='' loops=$(nproc) turns=5 gen_tokens=600 shapes='1x1 1x2 2x1'
model=(--model "$here/../configs/demo" --prompt-tokens 64)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --loops) loops=$2 ;;
    --turns) turns=$2 ;;
    --gen-tokens) gen_tokens=$2 ;;
    --choir) choir=$2 ;;
    --before) before=$2 ;;
    --shapes) shapes=$2 ;;
    --model) model=(--model "$2" --prompt-tokens 64) ;;
    --config) model=(--config "$2" --prompt-tokens 64) ;;
    --layers) model+=(--layers "$2") ;;
    *)
        echo "busy.sh: unknown argument $1" >&2
        exit 2
        ;;
    esac
    shift $(($# > 1 ? 2 : 1))
done

results=$(mktemp -d)
pids=()
finish() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    rm -rf "$results"
}
trap finish EXIT
trap 'exit 130' INT TERM

for ((i = 0; i < loops; i++)); do
    (
        trap - EXIT
        while :; do :; done
    ) &
    pids+=($!)
done

# turn PROGRAM NAME SHAPE: appends "NAME SHAPE decode prefill"
turn() {
    local ranks=${3%x*} threads=${3#*x} start=()
    [ "$ranks" -eq 1 ] || start=(mpirun -n "$ranks")
    [ $((ranks * threads)) -le "$(nproc)" ] || start+=(--oversubscribe)
    "${start[@]}" "$1" bench "${model[@]}" --threads "$threads" --gen-tokens "$gen_tokens" --warmup 1 \
        --repeat 3 --read-mib 64 --json - 2>"$results/stderr" |
        python3 -c 'import json, sys
for line in sys.stdin:
    d = json.loads(line)
    print(*sys.argv[1:], d["decode_tokens_per_s"], d["prefill_tokens_per_s"])' "$2" "$3" >>"$results/rates" || {
        cat "$results/stderr" >&2
        exit 1
    }
}

for ((t = 0; t < turns; t++)); do
    for shape in $shapes; do
        [ -z "$before" ] || turn "$before" before "$shape"
        turn "$choir" now "$shape"
    done
done

python3 - "$results/rates" "$loops" <<'PYTHON'
import statistics, sys
rates = {}
for line in open(sys.argv[1]):
    name, shape, decode, prefill = line.split()
    rates.setdefault(name, {}).setdefault(shape, []).append((float(decode), float(prefill)))
print(f"{sys.argv[2]} busy loops, tokens/s, medians")
for name, shapes in rates.items():
    first = None
    for shape, values in shapes.items():
        decode = statistics.median(v[0] for v in values)
        first = first or decode
        line = f"{name:7} {shape:5} decode {decode:8.0f} ({min(v[0] for v in values):.0f} to {max(v[0] for v in values):.0f}) ratio {decode / first:.2f}"
        line += f"  prefill {statistics.median(v[1] for v in values):8.0f}"
        if name == "now" and "before" in rates:
            for i, what in enumerate(("decode", "prefill")):
                paired = [n[i] / b[i] for n, b in zip(values, rates["before"][shape])]
                line += f"  {what} now/before {statistics.median(paired):.3f} ({min(paired):.3f} to {max(paired):.3f})"
        print(line)
PYTHON
