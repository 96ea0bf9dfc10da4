#!/usr/bin/env bash
# How far quantised copies of the demo model are from it, as a table of docs/quantised.md:
#
#   bench/quantise.sh [CHOIR]
#
# Calibrated with 64 word problems with their answers and the first half of configs/tasks/data/plays.txt in pieces of
# 1,000 bytes; compared on the second half, and on the worked answers of word problems 65 to 104.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
choir=${1:-$root/build/choir}
demo=$root/configs/demo
data=$root/configs/tasks/data
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{
    head -n 64 "$demo/word-problems-test.jsonl" |
        sed -E 's/^\{"question": (".*"), "answer": (".*")\}$/{"messages": [{"role": "user", "content": \1}, {"role": "assistant", "content": \2}]}/'
    half=$(($(wc -c <"$data/plays.txt") / 2))
    for ((at = 0; at < half; at += 1000)); do
        dd if="$data/plays.txt" bs=1000 skip=$((at / 1000)) count=1 status=none | sed -e 's/[\\"]/\\&/g' | awk '{ printf "%s\\n", $0 }' |
            sed -e 's/.*/{"prompt": "&"}\n/'
    done
} >"$work/texts.jsonl"
tail -c +$((half + 1)) "$data/plays.txt" >"$work/plays.txt"
sed -n 65,104p "$data/word-problems-choice.jsonl" >"$work/choice.jsonl"

# number FILE NAME
number() {
    sed -n "s/.*\"$2\": \([-0-9.e]*\),*\$/\1/p" "$1" | tail -n 1
}

# row NAME DIR
row() {
    local task out
    printf '| %s ' "$1"
    for task in plays word-problems-choice; do
        out=$work/eval-$task
        rm -rf "$out"
        "$choir" eval --quiet --task "$task" --data "$work/$([ "$task" = plays ] && echo plays.txt || echo choice.jsonl)" \
            --model "$2" --against "$demo" --out "$out"
        sed -n '/"against"/,/}/p' "$out/summary.json" >"$work/against"
        printf '| %.3f | %.5f | %.4f | %.2f%% ' "$(number "$work/against" perplexity)" \
            "$(number "$work/against" kl_mean)" "$(number "$work/against" kl_p99)" \
            "$(awk -v x="$(number "$work/against" same_top)" 'BEGIN { print 100 * x }')"
    done
    echo "|"
}

echo "| | plays: perplexity | KL, mean | 99th percentile | same top token | word problems: perplexity | KL, mean | 99th percentile | same top token |"
echo "|---|---|---|---|---|---|---|---|---|"
row "bf16" "$demo"
for bits in 8 4; do
    "$choir" quantize --quiet --model "$demo" --out "$work/nearest-$bits" --group 64 --bits $bits
    row "int$bits, rounded to nearest" "$work/nearest-$bits"
done
for order in "" --desc-act; do
    "$choir" quantize --quiet --model "$demo" --out "$work/gptq$order" --group 64 --calibrate "$work/texts.jsonl" $order
    row "int4, GPTQ${order:+ with desc_act}" "$work/gptq$order"
done
