#!/usr/bin/env bash
# Packed weights give the bits of dense ones on meshes, in a mixture of experts and however ranks combine; what auto
# chooses, and why.
#
#   tests/cli/weights.sh CHOIR RANKS     (the cases have rank counts of their own)
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# answer NAME RANKS ARGS...: an answer's logits into $work/NAME.npy
answer() {
    local name=$1 count=$2
    shift 2
    ends "$name" 0 launch "$count" generate --threads 1 --max-tokens 6 --prompt "The cat sat on" \
        --logits-out "$work/$name.npy" "$@"
}

# equal NAME RANKS ARGS...: the same logits with both
equal() {
    local name=$1
    answer "$name-dense" "${@:2}" --quiet --weights dense
    answer "$name-packed" "${@:2}" --quiet --weights packed
    same "$name" "$work/$name-dense.npy" "$work/$name-packed.npy"
}

equal reduce 3 --combine reduce
equal mpi 2 --comm mpi

# Experts of whole panels.
sed 's/"vocab_size": *[0-9]*/"vocab_size": 1009/; s/"moe_intermediate_size": *[0-9]*/"moe_intermediate_size": 128/' \
    "$root/tests/oracle/shapes/qwen3_moe.json" >"$work/moe.json"
"$(dirname "$choir")/tests/write_model" "$work/moe.json" 1 "$work/moe" || complain "no mixture"
cp "$root"/tests/golden/tokenizer/llama3-small/tokenizer{,_config}.json "$work/moe/"
equal mixture 1 --model "$work/moe"
equal mixture-2 2 --model "$work/moe"
same "mixture at 2 ranks" "$work/mixture-dense.npy" "$work/mixture-2-packed.npy"

# Replicas that share weights, and those that have their own.
for prompt in "The cat sat on" "Once upon a time" "One, two, three"; do
    echo "{\"prompt\": \"$prompt\"}"
done >"$work/prompts"
mesh() {
    launch 4 generate --quiet --threads 1 --mesh 2x2 --prompts "$work/prompts" --max-tokens 8 "$@" \
        2>"$work/err" || complain "mesh $*"
}
mesh >"$work/dense"
mesh --weights packed >"$work/shared"
mesh --weights packed --own-weights >"$work/own"
same "mesh 2x2, shared weights" "$work/dense" "$work/shared"
same "mesh 2x2, own weights" "$work/dense" "$work/own"

# ---- auto --------------------------------------------------------------------------------------

# auto RATES WORD ARGS...: chooses WORD and says why
auto() {
    local rates=$1 word=$2
    shift 2
    CHOIR_WEIGHTS_RATES=$rates answer auto 2 --weights auto "$@"
    grep -q -- "--weights auto: $word" "$work/err" || complain "auto, rates $rates: not $word"
    [ "$(grep -c -- '--weights auto:' "$work/err")" = 1 ] || complain "auto, rates $rates: not one line"
}
auto 7.5,9 "packed; packed weights are expected to decode at 1.20 of"
auto 7.5,6 "dense; packed weights are expected to decode at 0.80 of"
auto 7.5,7.6 "dense; packed weights are expected to decode at 1.01 of"
auto 7.5,9 "dense, as --order torch-avx2" --order torch-avx2
auto 7.5,9 "dense, as only bf16" --dtype f32
CHOIR_WEIGHTS_RATES=12 ends "wrong rates" 2 launch 2 generate --weights auto --prompt x --max-tokens 1
[ "$(grep -c 'CHOIR_WEIGHTS_RATES: expected' "$work/err")" = 1 ] || complain "wrong rates: not one message"

conclude
