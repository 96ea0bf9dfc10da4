#!/usr/bin/env bash
# `choir quantize --calibrate` as a user runs it: the same bytes at any number of ranks and nodes, also after kills; a
# model that is nearer to its parent than one that is rounded to nearest, as `choir eval --against` says; what is refused.
#
#   tests/cli/calibrate.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if ! "$choir" quantize --model "$demo" --out "$work/probe" --group 64 --calibrate <(echo '{"prompt_ids": [1]}') 2>"$work/err" &&
    grep -q "OpenBLAS: cannot load" "$work/err"; then
    echo "OpenBLAS is not installed"
    exit 77
fi

# start RANKS ARGS...: choir; 0: without mpirun
start() {
    if [ "$1" -gt 0 ]; then
        launch "$@"
    else
        timeout --foreground "$patience_s" "$choir" "${@:2}" </dev/null
    fi
}

# calibrate NAME RANKS DIR ARGS...
calibrate() {
    local name=$1 n=$2 dir=$3
    shift 3
    start "$n" quantize --model "$demo" --out "$dir" --group 64 --calibrate "$work/texts.jsonl" "$@" \
        >"$work/out" 2>"$work/err" || complain "$name"
}

# Word problems with their answers, a text of one token, and ids.
{
    head -n 6 "$demo/word-problems-test.jsonl" |
        sed -E 's/^\{"question": (".*"), "answer": (".*")\}$/{"messages": [{"role": "user", "content": \1}, {"role": "assistant", "content": \2}]}/'
    echo '{"prompt_ids": [7]}'
    echo '{"prompt": "First Citizen: speak, speak."}'
} >"$work/texts.jsonl"

# ---- The same bytes ------------------------------------------------------------------------------

calibrate "one rank" 0 "$work/one"
says "one rank" err "MB from"
calibrate "$ranks ranks" "$ranks" "$work/some"
same "$ranks ranks" "$work/one/model.safetensors" "$work/some/model.safetensors"
same "$ranks ranks" "$work/one/config.json" "$work/some/config.json"
CHOIR_RANKS_PER_NODE=1 calibrate "3 nodes" 3 "$work/nodes"
same "3 nodes" "$work/one/model.safetensors" "$work/nodes/model.safetensors"
calibrate "by activation" 0 "$work/ordered" --desc-act
calibrate "by activation at 3 ranks" 3 "$work/ordered-3" --desc-act --threads 2
same "by activation" "$work/ordered/model.safetensors" "$work/ordered-3/model.safetensors"
cmp -s "$work/one/model.safetensors" "$work/ordered/model.safetensors" && complain "by activation: the same bytes"
calibrate "packed" 0 "$work/packed" --layout compressed-tensors --bits 8

# ---- Killed and resumed --------------------------------------------------------------------------

# At the beginning of a stage of a layer, or before a block of outputs is written.
for point in sums-0:0 block-2:0 factors-1:1 rows-3:0 block-30:0 forward-4:1; do
    CHOIR_FAULT=kill:$point "${mpi[@]}" -n 2 "$choir" quantize --model "$demo" \
        --out "$work/killed" --group 64 --calibrate "$work/texts.jsonl" </dev/null >"$work/out" 2>"$work/err" &&
        complain "killed at $point: ended with 0"
    [ ! -e "$work/killed/model.safetensors" ] || complain "killed at $point: has weights"
done
refuses "another damping" 1 "expected the same model and settings" "${run[@]}" "$choir" quantize --model "$demo" \
    --out "$work/killed" --group 64 --calibrate "$work/texts.jsonl" --damping 0.02
calibrate "resumed" "$ranks" "$work/killed"
same "resumed" "$work/one/model.safetensors" "$work/killed/model.safetensors"
same "resumed" "$work/one/config.json" "$work/killed/config.json"

# ---- What it is good for -------------------------------------------------------------------------

# against NAME RANKS DIR [PARENT]: writes "KL SHARE" of the comparison into DIR.against
against() {
    local name=$1 n=$2 dir=$3
    rm -rf "$work/eval"
    start "$n" eval --quiet --task word-problems-choice --limit 4 --model "$dir" --against "${4:-$demo}" \
        --out "$work/eval" >"$work/out" 2>"$work/err" || complain "$name"
    sed -n '/"against"/,/}/p' "$work/eval/summary.json" >"$dir.against"
}

# field DIR NAME
field() {
    sed -n "s/.*\"$2\": \([-0-9.e]*\).*/\1/p" "$1.against"
}

start 0 quantize --model "$demo" --out "$work/nearest" --group 64 >"$work/out" 2>"$work/err" || complain "nearest"
for dir in one ordered nearest; do
    against "$dir" 0 "$work/$dir"
done
for dir in one ordered; do
    awk -v a="$(field "$work/$dir" kl_mean)" -v b="$(field "$work/nearest" kl_mean)" 'BEGIN { exit !(a > 0 && a < b) }' ||
        complain "$dir: KL $(field "$work/$dir" kl_mean) is not below $(field "$work/nearest" kl_mean)"
done
cp "$work/one.against" "$work/expected"
against "$ranks ranks" "$ranks" "$work/one"
same "against at $ranks ranks" "$work/expected" "$work/one.against"
against "itself" 0 "$work/one" "$work/one"
[ "$(field "$work/one" kl_mean) $(field "$work/one" same_top)" = "0.0 1.0" ] || complain "itself: $(cat "$work/one.against")"

# ---- What is refused -----------------------------------------------------------------------------

# refused NAME STATUS WORDS ARGS...
refused() {
    local name=$1 status=$2 words=$3
    shift 3
    refuses "$name" "$status" "$words" "${run[@]}" "$choir" quantize --model "$demo" --group 64 --out "$work/bad" "$@"
}

: >"$work/empty.jsonl"
refused "empty" 1 "empty.jsonl: expected object line found none" --calibrate "$work/empty.jsonl"
{
    cat "$work/texts.jsonl"
    printf '{"prompt": "%s"}\n' "$(head -c 6000 "$root/configs/tasks/data/plays.txt" | tr -c 'A-Za-z .,' ' ')"
} >"$work/long.jsonl"
refused "too long" 2 "long.jsonl: text 9: expected 1024 tokens found" --calibrate "$work/long.jsonl"
echo '{"text": "no"}' >"$work/field.jsonl"
run=(timeout --foreground "$patience_s")
refused "another field" 1 "field.jsonl: line 1: expected prompt" --calibrate "$work/field.jsonl"
refused "no file" 1 "none.jsonl" --calibrate "$work/none.jsonl"
refused "no texts" 2 "--desc-act without --calibrate" --desc-act
refused "layout" 2 "--desc-act: expected gptq" --desc-act --layout compressed-tensors --calibrate "$work/texts.jsonl"
ends "generating" 2 "$choir" eval --task word-problems --against "$demo" --model "$work/one" --out "$work/eval"
says "generating" err "--against: expected a task that scores texts"

# Sums that are singular: damping is raised, and said.
echo '{"prompt": "First Citizen: speak, speak."}' >"$work/short.jsonl"
start 0 quantize --model "$demo" --group 64 --out "$work/singular" --calibrate "$work/short.jsonl" --damping 0 \
    >"$work/out" 2>"$work/err" || complain "singular"
says "singular" err "are singular with --damping 0: raised to"

# A disk that is full is noticed at the start, and nothing is lost.
(
    ulimit -f 1024
    refused "full" 1 "model.safetensors.partial: cannot bytes" --calibrate "$work/texts.jsonl"
    exit "$failures"
) || failures=$((failures + 1))
calibrate "after a full disk" 0 "$work/bad"
same "after a full disk" "$work/one/model.safetensors" "$work/bad/model.safetensors"

conclude
