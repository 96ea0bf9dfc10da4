#!/usr/bin/env bash
# choir bench as a user runs it: what it prints, what it writes for tools, the same logits at any
# number of ranks and sequences, and what it refuses. No number that depends on time is judged.
#
#   tests/cli/bench.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
odd=$root/tests/oracle/shapes/odd.json
small=(--prompt-tokens 70 --gen-tokens 3 --repeat 2 --warmup 0 --read-mib 4 --threads 1)

# bench NAME ARGS...: has to succeed
bench() {
    local name=$1
    shift
    ends "$name" 0 "${run[@]}" "$choir" bench "$@"
}

# fails NAME STATUS WORDS ARGS...
fails() {
    local name=$1 expected=$2 words=$3
    shift 3
    refuses "$name" "$expected" "$words" "${run[@]}" "$choir" bench "$@"
}

# member FILE NAME: the value of the last line's first member of that name
member() {
    tail -n 1 "$1" | grep -o "\"$2\":[^,}]*" | head -n 1 | cut -d: -f2-
}

# has_all NAME FILE MEMBERS...: members of the last line that must be there and more than zero
has_all() {
    local name=$1 file=$2 member value
    shift 2
    for member in "$@"; do
        value=$(member "$file" "$member")
        case "$value" in
        "" | null | 0 | 0.0 | -*) complain "$name: $member: expected a number, found \"$value\"" ;;
        esac
    done
}

# ---- What it says --------------------------------------------------------------------------------

bench "the table" --config "$odd" "${small[@]}" --warmup 1
says "the table" out "odd, bf16, "
says "the table" out "$ranks rank"
says "the table" out "batch 1, prompt 70 tokens, decode of 3 from context 70, 2 repetitions; random"
for line in "read bandwidth" "matrix peak" "prefill, rank $((ranks - 1))" "step, rank $((ranks - 1))" \
    "logits digest" " the read bandwidth"; do
    says "the table" out "$line"
done
says "progress" err "warm-up 1 of 1: prefill"
says "progress" err "repetition 2 of 2: prefill"
grep -q 'repetition 1 of 2: prefill .*, [0-9]* s left$' "$work/err" || complain "progress: expected what is left"
bench "quiet" --config "$odd" "${small[@]}" --quiet
[ ! -s "$work/err" ] || complain "quiet: expected nothing on standard error"

# ---- What it writes ------------------------------------------------------------------------------

bench "JSON" --config "$odd" "${small[@]}" --json "$work/rows.jsonl" --csv "$work/rows.csv"
bench "JSON of a batch" --config "$odd" "${small[@]}" --batch 3 --context 130 --json "$work/rows.jsonl" \
    --csv "$work/rows.csv"
[ "$(wc -l <"$work/rows.jsonl")" -eq 2 ] || complain "JSON: expected two lines"
has_all "JSON" "$work/rows.jsonl" read_bandwidth_bytes_per_s prefill_tokens_per_s prefill_flop_per_s \
    time_to_first_token_s decode_tokens_per_s time_per_token_s decode_bytes_per_s decode_bandwidth_share \
    prefill_weight_bytes decode_weight_bytes decode_kv_bytes prefill_flop decode_flop matrix_s
[ "$(member "$work/rows.jsonl" batch)" = 3 ] || complain "JSON: expected batch 3"
[ "$(member "$work/rows.jsonl" context)" = 130 ] || complain "JSON: expected context 130"
[ "$(member "$work/rows.jsonl" ranks)" = "$ranks" ] || complain "JSON: expected $ranks ranks"
[ "$(tail -n 1 "$work/rows.jsonl" | grep -o '"rank":' | wc -l)" -eq $((2 * ranks)) ] ||
    complain "JSON: expected two splits of each rank"
[ "$(wc -l <"$work/rows.csv")" -eq 3 ] || complain "CSV: expected a line of names and two rows"
[ "$(tr -cd ',\n' <"$work/rows.csv" | sort -u | wc -l)" -eq 1 ] ||
    complain "CSV: expected as many fields in every line"
bench "JSON on standard output" --config "$odd" "${small[@]}" --json -
[ "$(wc -l <"$work/out")" -eq 1 ] || complain "JSON on standard output: expected nothing else"
case "$(cat "$work/out")" in
"{"*"}") ;;
*) complain "JSON on standard output: expected an object" ;;
esac

# ---- The same logits -----------------------------------------------------------------------------

# digest FLAGS...: of one rank without mpirun
digest() {
    "$choir" bench --config "$odd" "${small[@]}" --quiet --json - "$@" >"$work/one" 2>"$work/err"
    member "$work/one" logits_digest
}
plain=$(digest)

# Not in slow builds, which have run all of this by now.
same_logits() {
    local dtype format many one
    [ "$(head -n 1 "$work/rows.jsonl" | grep -o '"logits_digest":"[0-9a-f]*"' | cut -d: -f2)" = \
        "$(member "$work/rows.jsonl" logits_digest)" ] || complain "the digest depends on the batch"
    for dtype in bf16 f32 f64; do
        bench "$dtype" --config "$odd" "${small[@]}" --dtype $dtype --json -
        many=$(member "$work/out" logits_digest)
        one=$(digest --dtype $dtype --threads 2)
        if [ -z "$many" ] || [ "$many" != "$one" ]; then
            complain "$dtype: digest $many, and $one on one rank"
        fi
    done
    [ "$plain" != "$(digest --layers 1)" ] || complain "the digest does not depend on the layers"
    bench "the demo model" "${small[@]}" --json -
    [ "$(member "$work/out" weights)" = '"checkpoint"' ] || complain "the demo model: expected its weights"

    # Groups of 64 divide none of these inputs: such matrices are dequantised.
    for format in int4-g64 int8 int8-g128 fp8; do
        bench "$format" --config "$odd" "${small[@]}" --format $format --json -
        [ "$(member "$work/out" format)" = "\"$format\"" ] || complain "$format: expected its name"
        [ "$(member "$work/out" logits_digest)" = "$(digest --format $format --threads 2)" ] ||
            complain "$format: the digest depends on the ranks"
        [ "$(digest --format $format)" != "$plain" ] || complain "$format: expected other logits than bf16's"
    done
    for format in int8 int8-g128 fp8; do
        [ "$(digest --format $format)" = "$(digest --format $format --quantised-order dequantize)" ] ||
            complain "$format: expected the dequantised model's logits"
    done
    [ "$(digest --format bf16)" = "$plain" ] || complain "--format bf16: expected the config's model"
    fails "--format of a checkpoint" 2 "--format" --format int8
}
[ -n "${CHOIR_TEST_PROMPTS:-}" ] || same_logits

# ---- Replicas ------------------------------------------------------------------------------------

for flag in "" --own-weights; do
    # shellcheck disable=SC2086
    bench "replicas" --config "$odd" "${small[@]}" --mesh "${ranks}x1" $flag --json -
    [ "$(member "$work/out" replicas)" = "$ranks" ] || complain "replicas: expected $ranks"
    [ "$(member "$work/out" ranks)" = "$ranks" ] || complain "replicas: expected $ranks ranks"
    [ "$(member "$work/out" logits_digest)" = "$plain" ] || complain "replicas: the digest differs"
    has_all "replicas" "$work/out" prefill_tokens_per_s decode_tokens_per_s decode_bandwidth_share
done

# ---- Drafts --------------------------------------------------------------------------------------

drafts=(--context 70 --gen-tokens 2 --repeat 2 --threads 1)
bench "drafts" --config "$odd" --speculate 0.6 "${drafts[@]}" --json "$work/drafts.jsonl"
says "drafts" out "      16 "
says "drafts" out "    0.60 "
has_all "drafts" "$work/drafts.jsonl" context rows seconds relative acceptance speedup
bench "drafts of a model" --config "$odd" --speculate 0.6 --draft "$odd" --draft-layers 1 "${drafts[@]}" \
    --json "$work/model.jsonl"
says "drafts of a model" out "a drafted token takes "
says "drafts of a model" out "x measured"
has_all "drafts of a model" "$work/model.jsonl" draft_model seconds_a_token measured_speedup
fails "a model that drafts nothing" 2 "--draft --speculate" --config "$odd" --draft "$odd"
fails "a rate above 1" 2 "--speculate 1.5" --config "$odd" --speculate 1.5
fails "drafts of a batch" 2 "--batch --speculate" --config "$odd" --speculate 0.6 --batch 2
fails "drafts and a sweep" 2 "--sweep --speculate" --config "$odd" --speculate 0.6 --sweep auto
fails "drafts beyond the positions" 1 "32768" --config "$root/configs/qwen2.5-0.5b.json" --layers 1 --speculate 0.6 \
    --context 32760 --gen-tokens 1

# ---- What it refuses -----------------------------------------------------------------------------

fails "a mesh of other ranks" 2 "--mesh" --config "$odd" --mesh "$((ranks + 1))x1"
fails "no such configuration" 1 "nowhere.json" --config "$work/nowhere.json"
fails "no repetition" 2 "--repeat 1" --config "$odd" --repeat 0
fails "no tokens" 2 "--prompt-tokens" --config "$odd" --prompt-tokens 0
fails "both a shape and a model" 2 "--config --model" --config "$odd" --model "$root/configs/demo"
fails "more layers than there are" 2 "--layers 99" --config "$odd" --layers 99
fails "more threads than anybody has" 2 "--threads 4096" --config "$odd" --threads 5000
fails "a context beyond the positions" 1 "40000 32768" --config "$root/configs/qwen2.5-0.5b.json" \
    --context 40000
fails "a file that cannot be written" 1 "$work/nowhere/x" --config "$odd" --json "$work/nowhere/x"
sed 's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": 1000/' "$root/configs/qwen2.5-72b.json" \
    >"$work/huge.json"
fails "a shape that does not fit into memory" 1 "GiB --layers" --config "$work/huge.json"
if [ "$ranks" -gt 1 ]; then
    fails "matrices on several ranks" 2 "--gemm $ranks" --config "$odd" --gemm
    fails "kernels on several ranks" 2 "--kernels $ranks" --kernels
else
    bench "matrices" --config "$odd" --gemm --repeat 1 --threads 1 --json "$work/gemm.jsonl"
    says "matrices" out "lm_head"
    says "matrices" out "OpenBLAS"
    bench "kernels" --kernels --repeat 1 --json "$work/kernels.jsonl"
    says "kernels" out "store_swiglu"
    has_all "kernels" "$work/kernels.jsonl" kernel share_of_roof scalar_seconds flop bytes
    has_all "matrices" "$work/gemm.jsonl" outputs inputs rows seconds flop_per_s blas_flop_per_s speedup
fi

conclude
