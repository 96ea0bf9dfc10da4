#!/usr/bin/env bash
# choir eval and choir worker as a user runs them: the same results on any mesh, after being killed at
# any moment, and a clear word where something is wrong.
#
#   tests/cli/eval.sh CHOIR RANKS
#
# CHOIR_EVAL_LONG=1: all 400 items on every mesh, 8x4 and 1x32 too, and 30 kills instead of 4 (CHOIR_EVAL_KILLS).
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
let_ranks_finish
long=${CHOIR_EVAL_LONG:-}
# Golden texts belong to the dot product "chain".
flags=(--threads 1 --dot chain --quiet)

# evaluate MESH OUT FLAGS...
evaluate() {
    local mesh=$1 out=$2
    shift 2
    "${mpi[@]}" -n $((${mesh%x*} * ${mesh#*x})) "$choir" eval --mesh "$mesh" --out "$out" "${flags[@]}" "$@" \
        </dev/null >"$work/out" 2>"$work/err"
}

# same_results WHAT A B: equal results, by the program's own word and by their bytes
same_results() {
    "$choir" eval --compare "$2" "$3" --quiet >"$work/compared" 2>"$work/err" || {
        complain "$1: results differ"
        head -5 "$work/compared" >&2
    }
    cmp -s <("$choir" eval --canonical "$2") <("$choir" eval --canonical "$3") ||
        complain "$1: canonical lines differ"
}

# fails WHAT "WORD..." FLAGS...: not with status 0, in time, with every word on standard error
fails() {
    local name=$1 words=$2 begin=$SECONDS status=0 word
    shift 2
    # Comparing runs no model.
    [ "${1:-}" = --compare ] || set -- --dot chain "$@"
    "${run[@]}" "$choir" eval --quiet "$@" </dev/null >"$work/out" 2>"$work/err" || status=$?
    [ "$status" -ne 0 ] || complain "$name: exit status 0"
    [ $((SECONDS - begin)) -le $((limit_s + 2)) ] || complain "$name: took $((SECONDS - begin)) s"
    for word in $words; do
        grep -q -- "$word" "$work/err" || complain "$name: the message does not say \"$word\""
    done
}

count() {
    wc -l <"$1/results.jsonl"
}

# ---- Meshes ------------------------------------------------------------------------------------

case $ranks in
2) meshes="1x2 2x1" ;;
*) meshes="1x3 2x2 4x2" ;;
esac
items=24
# Set where the build is slow.
slow=${CHOIR_TEST_QUESTIONS:-}
[ -z "$slow" ] || items=6
if [ -n "$long" ]; then
    items=400
    [ "$ranks" -lt 4 ] || meshes="1x1 1x2 1x3 2x1 2x2 4x2 1x8"
fi

evaluate 1x1 "$work/one" --task word-problems --limit "$items" || complain "one rank fails"
[ "$(count "$work/one")" -eq "$items" ] || complain "expected $items lines"

# Token for token what Hugging Face generates.
python=$(command -v python3 || true)
if [ -n "$python" ]; then
    "$python" - "$root/tests/golden/demo-greedy.jsonl" "$work/one/results.jsonl" "$items" <<'END' || complain "tokens are not Hugging Face's"
import json, sys
golden = [json.loads(line) for line in open(sys.argv[1])]
found = {line["index"]: line for line in map(json.loads, open(sys.argv[2]))}
assert len(found) == int(sys.argv[3])
for index, line in found.items():
    assert line["tokens"] == golden[index]["bf16_sdpa"], index
summary = json.load(open(sys.argv[2].replace("results.jsonl", "summary.json")))
right = sum(line["correct"]["strict-match"] for line in found.values())
assert summary["items"] == len(found) and summary["scores"]["strict-match"]["score"] == right / len(found)
END
fi

for mesh in $meshes; do
    evaluate "$mesh" "$work/$mesh" --task word-problems --limit "$items" || complain "mesh $mesh fails"
    same_results "mesh $mesh" "$work/one" "$work/$mesh"
done
if [ "$ranks" -ge 4 ] && [ -n "$long" ]; then
    for mesh in 1x32 8x4; do
        evaluate "$mesh" "$work/$mesh" --task word-problems --limit 4 || complain "mesh $mesh fails"
        evaluate 1x1 "$work/four" --task word-problems --limit 4 || complain "four items fail"
        same_results "mesh $mesh" "$work/four" "$work/$mesh"
    done
fi

# Weights that replicas have in common, or each for itself.
if [ "$ranks" -eq 2 ]; then
    grep -q '"weight_sharers": 2' "$work/2x1/summary.json" || complain "2x1: expected shared weights"
    evaluate 2x1 "$work/own" --task word-problems --limit "$items" --own-weights || complain "own weights fail"
    grep -q '"weight_sharers": 1' "$work/own/summary.json" || complain "own weights are shared"
    same_results "own weights" "$work/one" "$work/own"
fi

# Choices, windows, and prompts that begin alike, with and without taking over their beginning.
if [ "$ranks" -eq 2 ] && [ -z "$slow" ]; then
    for task in word-problems-choice plays gsm8k; do
        more=(--limit 8)
        [ "$task" != gsm8k ] || more+=(--shots 2 --max-tokens 6)
        evaluate 1x1 "$work/$task-one" --task "$task" --no-prefix-reuse "${more[@]}" || complain "$task fails"
        evaluate 2x1 "$work/$task" --task "$task" "${more[@]}" || complain "$task fails on 2x1"
        same_results "$task" "$work/$task-one" "$work/$task"
    done
fi

# ---- Killed, and run again ---------------------------------------------------------------------

# killed MESH WHOM: a run that is killed after a random part of a second, at some moment of its work
killed() {
    local mesh=$1 whom=$2 pid children
    setsid "${mpi[@]}" -n $((${mesh%x*} * ${mesh#*x})) "$choir" eval --mesh "$mesh" --out "$work/killed" "${flags[@]}" \
        --task word-problems --limit 60 --max-batch 4 </dev/null >/dev/null 2>"$work/err" &
    pid=$!
    sleep "$(printf '%d.%02d' $((RANDOM % 2)) $((RANDOM % 100)))"
    children=$(pgrep -P "$pid" | tr '\n' ' ')
    if [ "$whom" = all ] || [ -z "$children" ]; then
        kill -KILL -- "-$pid" 2>/dev/null
    else
        # shellcheck disable=SC2086
        kill -KILL "$(shuf -n 1 -e $children)" 2>/dev/null
    fi
    wait "$pid" 2>/dev/null
}

if [ "$ranks" -ge 4 ]; then
    evaluate 1x1 "$work/whole" --task word-problems --limit 60 --max-batch 4 || complain "sixty items fail"
    kills=${CHOIR_EVAL_KILLS:-${long:+30}}
    kills=${kills:-4}
    turn=(1x2 2x1 2x2 3x1 1x1)
    for i in $(seq "$kills"); do
        before=0
        [ ! -f "$work/killed/results.jsonl" ] || before=$(count "$work/killed")
        killed "${turn[$((i % 5))]}" "$([ $((i % 2)) -eq 0 ] && echo all || echo one)"
        # Ranks that lost their mpirun may take a moment to notice.
        [ ! -f "$work/killed/results.jsonl" ] || {
            flock -w "$patience_s" "$work/killed/results.jsonl" true || complain "a rank outlives its run"
            [ "$(count "$work/killed")" -ge "$before" ] || complain "lines were lost"
        }
        # Torn by hand now and then.
        [ $((i % 3)) -ne 0 ] || [ ! -s "$work/killed/results.jsonl" ] || printf '{"index":59,"id"' >>"$work/killed/results.jsonl"
        # Thirty kills meet a finished run otherwise.
        [ ! -f "$work/killed/summary.json" ] || {
            same_results "after $i kills" "$work/whole" "$work/killed"
            rm -r "$work/killed"
        }
    done
    evaluate 2x2 "$work/killed" --task word-problems --limit 60 --max-batch 4 || complain "resuming fails"
    same_results "after $kills kills" "$work/whole" "$work/killed"
    [ "$(count "$work/killed")" -eq 60 ] || complain "expected 60 lines after $kills kills"

    # A rank that dies ends the run, soon, and leaves whole lines.
    setsid "${run[@]}" -n 4 "$choir" eval --mesh 2x2 --out "$work/dying" "${flags[@]}" --task word-problems --max-batch 1 \
        </dev/null >/dev/null 2>"$work/err" &
    pid=$!
    wait_until "$patience_s" test -s "$work/dying/results.jsonl" || complain "a rank that is to die: no results"
    begin=$SECONDS
    kill -KILL "$(pgrep -P "$pid" | tail -1)"
    wait "$pid" && complain "a rank died, and the exit status is 0"
    [ $((SECONDS - begin)) -le $((limit_s + 1)) ] || complain "a rank died, and the run took $((SECONDS - begin)) s to end"
    "$choir" eval --canonical "$work/dying" >"$work/out" 2>"$work/err" || complain "a rank died, and the file is not valid"
    [ -s "$work/out" ] || complain "a rank died, and no line is left"
fi

# ---- What is wrong ------------------------------------------------------------------------------

if [ "$ranks" -le 2 ]; then
    fails "no task" "--task"
    fails "unknown task" "no-such" --task no-such
    fails "mesh of other ranks" "--mesh 3x5 15" --task word-problems --mesh 3x5
    fails "mesh that is none" "--mesh 2by2" --task word-problems --mesh 2by2
    fails "another limit" "run.json items" --task word-problems --limit 3 --out "$work/one"
    fails "another mode" "run.json dtype f32 bf16" --task word-problems --limit "$items" --out "$work/one" --dtype f32
    fails "another length" "run.json max_tokens" --task word-problems --limit "$items" --out "$work/one" --max-tokens 9
    cp -r "$root/configs/demo" "$work/changed"
    printf 'x' | dd of="$work/changed/model.safetensors" bs=1 seek=400000 conv=notrunc 2>/dev/null
    fails "changed weights" "weights_digest" --task word-problems --limit "$items" --out "$work/one" --model "$work/changed"
    mkdir "$work/other"
    cp "$work/one/run.json" "$work/other"
    sed 's/"prompt_digest":"./"prompt_digest":"_/' "$work/one/results.jsonl" >"$work/other/results.jsonl"
    fails "results of another run" "prompt_digest" --task word-problems --limit "$items" --out "$work/other"
    for line in $(seq 60); do
        [ "$line" -eq 57 ] && echo '{"q": "x"}' || echo '{"question": "x", "answer": "y"}'
    done >"$work/57.jsonl"
    fails "a field missing in item 57" "57 question" --task word-problems --data "$work/57.jsonl" --out "$work/57"
    fails "a model that is none" "no-model" --task word-problems --model "$work/no-model" --out "$work/none"

    # Longer than the cache: wrong, counted, and only with --strict the end.
    evaluate "1x$ranks" "$work/small" --task gsm8k --shots 0 --limit 8 --kv-tokens 64 --max-tokens 4 || complain "long items fail"
    errors=$(grep -c '"error":"prompt: .* tokens are more than the 64' "$work/small/results.jsonl")
    { [ "$errors" -gt 0 ] && grep -q "\"errors\": $errors," "$work/small/summary.json"; } ||
        complain "items longer than the cache are not counted"
    fails "--strict" "item tokens 64" --task gsm8k --shots 0 --limit 8 --kv-tokens 64 --max-tokens 4 --strict --out "$work/strict"

    # Comparing tells where; of nothing it tells nothing.
    mkdir "$work/nothing"
    : >"$work/nothing/results.jsonl"
    fails "no results" "expected items" --compare "$work/nothing" "$work/nothing"
    evaluate "1x$ranks" "$work/eager" --task word-problems --limit "$items" --attention eager || complain "eager fails"
    fails "different results" "differ" --compare "$work/one" "$work/eager"
    grep -q "is the first that differs" "$work/out" || complain "--compare does not name the first token"
    grep -q "log-probability" "$work/out" || complain "--compare does not give log-probabilities"
fi

# ---- Prompts on a mesh --------------------------------------------------------------------------

if [ "$ranks" -eq 2 ]; then
    head -6 "$root/configs/demo/word-problems-test.jsonl" | sed 's/"question"/"prompt"/; s/, "answer":.*/}/' >"$work/prompts"
    for mesh in 1x1 2x1 1x2; do
        "${mpi[@]}" -n $((${mesh%x*} * ${mesh#*x})) "$choir" generate --mesh "$mesh" --chat --prompts "$work/prompts" --json \
            --logprobs 2 --temperature 0.5 "${flags[@]}" </dev/null 2>"$work/err" |
            sed 's/"timings":{[^}]*}//' >"$work/text-$mesh" || complain "generate fails on $mesh"
        [ "$(wc -l <"$work/text-$mesh")" -eq 6 ] || complain "generate on $mesh: expected six answers"
        cmp -s "$work/text-1x1" "$work/text-$mesh" || complain "generate on $mesh: answers differ"
    done
    "$choir" generate --chat --prompts "$work/prompts" --json --logprobs 2 --temperature 0.5 "${flags[@]}" </dev/null 2>"$work/err" |
        sed 's/"timings":{[^}]*}//' >"$work/text"
    cmp -s "$work/text" "$work/text-1x1" || complain "generate: answers differ with --mesh and without"
fi

# ---- Worker ------------------------------------------------------------------------------------

if [ "$ranks" -le 2 ]; then
    cat >"$work/asked" <<'END'
{"id": 1, "op": "generate_until", "prompt": "<|im_start|>user\nDaniel earns $7 an hour for tutoring. How much does he earn in 4 hours?<|im_end|>\n<|im_start|>assistant\n", "until": ["####"]}
{"id": "b", "op": "loglikelihood", "context": "ROMEO:\n", "continuation": "O, what"}

{"id": 3, "op": "loglikelihood_rolling", "text": "To be or not to be", "window": 4}
{"id": 4, "op": "chat", "messages": [{"role": "user", "content": "hi"}]}
{"id": 5, "op": "tokenize", "text": "Hello there"}
{"id": 6, "op": "loglikelihood", "context_ids": [], "continuation_ids": [1]}
{"id": 7, "op": "fly"}
not JSON
{"id": 8, "op": "generate_until", "prompt_ids": [1, 999999]}
END
    for mesh in 1x1 "${ranks}x1" "1x$ranks"; do
        "${mpi[@]}" -n $((${mesh%x*} * ${mesh#*x})) "$choir" worker --mesh "$mesh" "${flags[@]}" <"$work/asked" 2>"$work/err" |
            tail -n +2 | sort >"$work/answers-$mesh" || complain "worker fails on $mesh"
        ! grep -q 'lost waiting' "$work/err" || complain "worker on $mesh: waiting for requests is no lost time"
        [ "$(wc -l <"$work/answers-$mesh")" -eq 9 ] || complain "worker on $mesh: expected nine answers"
        cmp -s "$work/answers-1x1" "$work/answers-$mesh" || complain "worker on $mesh: answers differ"
    done
    grep -q '"id":1,"text":"Daniel earns 7\*4 = $<<7\*4=28>>28.\\n"' "$work/answers-1x1" || complain "worker: a text"
    [ "$(grep -c '"error"' "$work/answers-1x1")" -eq 4 ] || complain "worker: expected four errors"
fi

conclude
