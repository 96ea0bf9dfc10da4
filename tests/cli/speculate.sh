#!/usr/bin/env bash
# Speculation as a user runs it: the same bytes with and without, on every mesh, however tokens are drawn and
# wherever an answer ends.
#
#   tests/cli/speculate.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
flags=(--threads 1 --dot chain --quiet)
n=${CHOIR_TEST_QUESTIONS:-12}

# A model that drafts: the first layers of the demo model.
small=$work/small
mkdir "$small"
cp "$demo"/*.json "$demo"/merges.txt "$demo"/model.safetensors "$small"
sed -i 's/"num_hidden_layers": 6/"num_hidden_layers": 3/' "$small/config.json"

head -n "$n" "$demo/word-problems-test.jsonl" | sed 's/"question"/"prompt"/; s/, *"answer".*/}/' >"$work/prompts.jsonl"

# answers OUT MESH FLAGS...: of all prompts, without what differs between runs
answers() {
    local to=$1 mesh=$2
    shift 2
    launch $((${mesh%x*} * ${mesh#*x})) generate --prompts "$work/prompts.jsonl" --chat --json --logprobs 2 \
        --max-tokens 120 --mesh "$mesh" "${flags[@]}" "$@" >"$work/out" 2>"$work/err" || complain "$* on $mesh fails"
    sed 's/"timings":{[^}]*}//' "$work/out" >"$to"
    [ "$(wc -l <"$to")" -eq "$n" ] || complain "$* on $mesh: expected $n lines"
}

# ---- The same bytes ------------------------------------------------------------------------------

meshes="1x1 1x3"
[ "$ranks" -lt 4 ] || meshes="2x2"
hot="--temperature 0.8 --seed 3"
penalty="--repetition-penalty 1.3"
stop="--stop so --stop . --max-tokens 50"
for way in "" "$hot" "$hot $penalty" "$stop"; do
    # shellcheck disable=SC2086
    answers "$work/without" 1x1 $way
    for mesh in $meshes; do
        for drafts in "" "--draft-tokens 5"; do
            [ "$mesh" = 1x1 ] || [ -n "$drafts" ] || continue
            # shellcheck disable=SC2086
            answers "$work/with" "$mesh" $way --speculate ngram $drafts
            same "$way $drafts on $mesh" "$work/without" "$work/with"
        done
    done
done
grep -q '"drafted_tokens": *[1-9]' "$work/out" || complain "nothing was drafted"
for way in "" "$hot $penalty"; do
    # shellcheck disable=SC2086
    answers "$work/without" 1x1 $way
    for mesh in $meshes; do
        # shellcheck disable=SC2086
        answers "$work/with" "$mesh" $way --speculate "$small" --draft-tokens 3
        same "$way --speculate DIR on $mesh" "$work/without" "$work/with"
    done
done
grep -q '"drafted_tokens": *[1-9]' "$work/out" || complain "no model drafted"

# Ends within what was drafted: text that repeats itself, cut by each number of tokens and by the context.
for cut in "--max-tokens 37" "--max-tokens 38" "--max-tokens 39" "--max-tokens 500 --kv-tokens 64" \
    "--max-tokens 200 --stop 7-7-7"; do
    for drafts in "" "--speculate ngram --draft-tokens 9" "--speculate $demo --draft-tokens 9"; do
        # shellcheck disable=SC2086
        launch "$ranks" generate "7-7-7-8-8-8 7-7-7-8" --json --logprobs 0 "${flags[@]}" $cut $drafts >"$work/out" \
            2>"$work/err" || complain "$cut $drafts fails"
        sed 's/"timings":{[^}]*}//' "$work/out" >"$work/with"
        [ -n "$drafts" ] || mv "$work/with" "$work/without"
        [ -z "$drafts" ] || same "$cut $drafts" "$work/without" "$work/with"
    done
done

# Text that is shown as it grows.
launch "$ranks" generate "7-7-7-8-8-8 7-7-7-8" --max-tokens 60 "${flags[@]}" >"$work/plain" 2>"$work/err"
launch "$ranks" generate "7-7-7-8-8-8 7-7-7-8" --max-tokens 60 "${flags[@]}" --speculate ngram --draft-tokens 9 \
    >"$work/with" 2>"$work/err"
[ -s "$work/plain" ] || complain "no text"
same "text" "$work/plain" "$work/with"

# Logits of the prompt.
for drafts in "" ngram "$small"; do
    launch "$ranks" generate "one two one two one" --max-tokens 9 --logits-out "$work/logits.npy" "${flags[@]}" \
        ${drafts:+--speculate "$drafts"} >"$work/out" 2>"$work/err" || complain "--logits-out $drafts fails"
    [ -n "$drafts" ] || mv "$work/logits.npy" "$work/without.npy"
    [ -z "$drafts" ] || same "--logits-out $drafts" "$work/without.npy" "$work/logits.npy"
done

# dies FAULT DRAFTS: a run with a fault, which ends; its status
dies() {
    status=0
    CHOIR_FAULT=$1 timeout -k 30 "$patience_s" "${run[@]}" "$choir" generate "7-7-7-8-8-8 7-7-7-8" --max-tokens 60 \
        "${flags[@]}" --speculate "$2" --draft-tokens 4 </dev/null >"$work/out" 2>"$work/err" || status=$?
    [ "$status" -ne 0 ] && [ "$status" -ne 124 ] || complain "$1 with $2: status $status"
}

# A rank that dies while drafts are made or verified ends the run. One that is told to stop ends it at the next step.
if [ "$ranks" -gt 1 ]; then
    dies kill:verify:1 ngram
    dies kill:verify:1 "$small"
    dies kill:draft:1 "$small"
    let_ranks_finish
    dies term:draft:1 "$small"
    [ "$status" -eq 143 ] || complain "a rank told to stop while drafts are made: status $status"
    ! grep -q "^choir: error: " "$work/err" || complain "a rank told to stop: expected no error"
fi

# ---- What is told and refused --------------------------------------------------------------------

launch "$ranks" generate "7-7-7-8-8-8 7-7-7-8" --max-tokens 60 --threads 1 --speculate ngram --draft-tokens 4 \
    >"$work/out" 2>"$work/err"
says "closing line" err " tokens a pass, "
says "closing line" err " drafted tokens accepted, about "
refuses "a kind that is none" 2 "--speculate ngram off bigram" launch "$ranks" generate x --speculate bigram
refuses "a model that is not there" 1 "--speculate ./nowhere" launch "$ranks" generate x --speculate ./nowhere
refuses "memory for a model that drafts" 1 "GiB 2000000000 draft" \
    launch "$ranks" generate x --speculate "$small" --kv-tokens 2000000000
mkdir "$work/other"
cp "$small"/* "$work/other"
sed -i 's/: 266,/: 26x,/; s/: 267,/: 266,/; s/: 26x,/: 267,/' "$work/other/tokenizer.json"
refuses "a model with other tokens" 1 "--speculate 266 expected" launch "$ranks" generate x --speculate "$work/other"
refuses "drafts of nothing" 2 "--draft-tokens --speculate" launch "$ranks" generate x --draft-tokens 4
refuses "drafts of nothing" 2 "--draft-tokens --speculate" launch "$ranks" generate x --speculate off --draft-tokens 4
refuses "too many drafts" 2 "--draft-tokens 31 32" launch "$ranks" generate x --speculate ngram --draft-tokens 32

conclude
