#!/usr/bin/env bash
# Shares of different size: the same bits whatever they are, in every command that takes them; and
# what is wrong with them is said once.
#
#   tests/cli/shares.sh CHOIR RANKS     (the cases have rank counts of their own)
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The bits of a plan: logits of a prompt, and a generated text.
same_bits() {
    local ranks=$1 shares=$2
    shift 2
    launch "$ranks" generate --quiet --prompt "The cat sat on the mat, and" --max-tokens 16 \
        --shares "$shares" --logits-out "$work/logits.npy" "$@" >"$work/text" 2>"$work/err" ||
        complain "$ranks ranks, shares $shares $*: exit status is not 0"
    cmp -s "$work/logits.npy" "$work/expected.npy" ||
        complain "$ranks ranks, shares $shares $*: other logits than one rank's"
    cmp -s "$work/text" "$work/expected" ||
        complain "$ranks ranks, shares $shares $*: another text than one rank's"
}

launch 1 generate --quiet --prompt "The cat sat on the mat, and" --max-tokens 16 \
    --logits-out "$work/expected.npy" >"$work/expected" 2>"$work/err" || complain "one rank"
[ -s "$work/expected" ] || complain "one rank says nothing"

same_bits 2 2,1
same_bits 2 1,5 --comm mpi
same_bits 2 0,1
same_bits 3 3,1,1 --prefill-chunk 3
same_bits 3 1,0,2
same_bits 3 auto
same_bits 5 1,9,0,3,2 --threads 1
same_bits 5 0,0,4,0,0

# From a shard store, which hands out other frames.
launch 2 shard --quiet --out "$work/store" 2>"$work/err" || complain "choir shard"
same_bits 3 1,4,2 --model "$work/store"

# ---- Many replicas -----------------------------------------------------------------------------

{
    echo '{"prompt": "The cat sat on"}'
    echo '{"prompt": "Once upon a time"}'
    echo '{"prompt": "One, two, three"}'
} >"$work/prompts"
prompts() {
    local ranks=$1
    shift
    launch "$ranks" generate --quiet --prompts "$work/prompts" --max-tokens 8 "$@" 2>"$work/err"
}
prompts 1 >"$work/expected" || complain "three prompts on one rank"
for shares in 1,3 auto; do
    for more in "" --own-weights; do
        prompts 4 --mesh 2x2 --shares $shares $more >"$work/text" ||
            complain "mesh 2x2, shares $shares $more"
        cmp -s "$work/text" "$work/expected" || complain "mesh 2x2, shares $shares $more: other text"
    done
done

# The other commands take them too.
launch 2 bench --quiet --prompt-tokens 8 --gen-tokens 2 --repeat 1 --warmup 0 --read-mib 64 \
    --shares 3,1 --json - >"$work/text" 2>"$work/err" || complain "choir bench"
[ -s "$work/text" ] || complain "choir bench says nothing"
echo '{"id": 1, "op": "loglikelihood", "context": "ROMEO:", "continuation": " O, what"}' >"$work/request"
for shares in even 1,2; do
    "${mpi[@]}" -n 2 "$choir" worker --quiet --shares $shares <"$work/request" 2>"$work/err" |
        tail -n +2 >"$work/text-$shares" || complain "choir worker, shares $shares"
    grep -q logprob "$work/text-$shares" || complain "choir worker, shares $shares: no answer"
done
cmp -s "$work/text-even" "$work/text-1,2" || complain "choir worker: another answer with --shares"
launch 3 verify --quiet --reference "$root/tests/golden/demo-reference.safetensors" \
    --skip-digest --shares 2,0,3 >"$work/text" 2>"$work/err" || complain "choir verify"

# ---- Plans -------------------------------------------------------------------------------------

launch 1 plan --shares 2,1,1 >"$work/text" 2>"$work/err" || complain "choir plan"
grep -q '^3 ranks' "$work/text" || complain "choir plan: expected as many ranks as numbers"
grep -q 'shares in %' "$work/text" || complain "choir plan: expected the shares"
launch 1 plan --ranks 3 --shares 5,5,5 | cmp -s - <(launch 1 plan --ranks 3) ||
    complain "choir plan: shares that are alike are not the even ones"

# ---- Mistakes ----------------------------------------------------------------------------------

# refused WORD ARGS...: on two ranks, one message with the word
refused() {
    local word=$1 status=0
    shift
    launch 2 "$@" >"$work/text" 2>"$work/err" || status=$?
    [ "$status" -eq 2 ] || complain "$*: exit status $status, not 2"
    [ "$(grep -c '^choir: error: ' "$work/err")" -eq 1 ] || complain "$*: expected one message"
    grep -qF -- "$word" "$work/err" || complain "$*: expected \"$word\" in the message"
    [ ! -s "$work/text" ] || complain "$*: wrote to standard output"
}
for shares in 1,x -1,2 1.5,1 1, "" 1001,1; do
    refused "found \"$shares\"" generate --prompt Hello --shares "$shares"
done
refused "expected 2 numbers" generate --prompt Hello --shares 1,2,3
refused "above 0" generate --prompt Hello --shares 0,0
refused "expected 1 number," generate --prompts "$work/prompts" --mesh 2x1 --shares 1,2
refused "expected 2 numbers" bench --shares 1
refused "choir doctor" plan --shares auto
refused "expected 3 numbers" plan --ranks 3 --shares 1,2

conclude
