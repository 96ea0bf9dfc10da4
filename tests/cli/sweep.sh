#!/usr/bin/env bash
# choir bench --sweep and --cluster, and choir plan --predict, as a user runs them: which rows they
# write, that a prediction reads them, and what is refused. No number that depends on time is judged.
#
#   tests/cli/sweep.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
odd=$root/tests/oracle/shapes/odd.json
rates=(--config "$odd" --layers 2 --repeat 1 --warmup 0 --read-mib 1)
small=("${rates[@]}" --gen-tokens 2)

# counts NAME FILE PATTERN NUMBER: how many lines match
counts() {
    local found
    found=$(grep -cE -- "$3" "$2")
    [ "$found" -eq "$4" ] || complain "$1: expected $4 lines with $3, found $found"
}

# ---- A sweep -------------------------------------------------------------------------------------

# 1 x 1, 2 x 1 as one and as two replicas; the same logits everywhere, or it fails by itself.
ends "a sweep" 0 "${run[@]}" "$choir" bench "${small[@]}" --json "$work/rows.jsonl" --csv "$work/rows.csv" \
    --sweep "ranks=1,2 threads=1 mesh=1,2 batch=2 context=40,70 scaling=strong,weak"
rows=$work/rows.jsonl
counts "a sweep" "$rows" '"scaling":"strong"' 6
counts "a sweep" "$rows" '"scaling":"weak"' 6
counts "a sweep" "$rows" '"ranks":1,.*"prefill_speedup":1\.0,"prefill_efficiency":1\.0,"prefill_serial_fraction":null' 4
counts "a sweep" "$rows" '"ranks":2,.*"replicas":2,.*"scaling":"weak".*"total_batch":4,' 2
counts "a sweep" "$rows" '"ranks":2,.*"scaling":"strong".*"decode_serial_fraction":-?[0-9]' 4
counts "a sweep" "$rows" '"replicas":1,.*"ranks":2|"ranks":2,.*"replicas":1,.*"decode_exchange_bytes":[1-9]' 4
counts "a sweep" "$rows" '"replicas":2,.*"decode_exchange_bytes":0\.0' 4
for kind in matrix attention elementwise exchange waiting sampling; do
    counts "a sweep" "$rows" "\"prefill_${kind}_s_mean\":.*\"decode_${kind}_s_max\":" 12
done
counts "a table" "$work/out" '^(strong|weak) ' 12
[ "$(head -n 1 "$work/rows.csv" | tr ',' '\n' | grep -cE '^(prefill|decode)_(speedup|efficiency|exchange_bytes)$')" -eq 6 ] ||
    complain "CSV: expected speed-up, efficiency and bytes in the first line"
[ "$(wc -l <"$work/rows.csv")" -eq 13 ] || complain "CSV: expected 13 lines"

# ---- A cluster file and predictions --------------------------------------------------------------

cluster=$work/cluster.json
ends "a cluster file" 0 "${run[@]}" "$choir" bench "${rates[@]}" --cluster "$cluster" --sweep "ranks=1,2 threads=1" --quiet
counts "a cluster file" "$cluster" '"model": "odd"' 2
plan=("$choir" plan --config "$odd" --cluster "$cluster")
ends "against rows" 0 "${plan[@]}" --against "$rows"
counts "against rows" "$work/out" '^error of 24 rates: median ' 1
ends "a projection" 0 "${plan[@]}" --predict --what-if 10,100:5 --batch 4
counts "a projection" "$work/out" '^Projection, not a measurement' 1
counts "a projection" "$work/out" '^Rates of ' 1
counts "a projection" "$work/out" '^Network: supposed, ' 2
counts "a projection" "$work/out" '^ +1024 ' 2
# Packed weights: the speed is the file's, or given.
counts "rates of packed weights" "$cluster" '"packed_speed": [0-9]' 2
# predict NAME RATES ARGS...: decode tokens/s of a prediction with these rates
predict() {
    local name=$1 rates=$2
    shift 2
    CHOIR_WEIGHTS_RATES=$rates ends "$name" 0 "${plan[@]}" --predict --ranks 1 --json - "$@"
    sed -n 's/.*"phase":"decode","weights":"\([a-z]*\)".*"tokens_per_s":\([0-9.]*\).*/\1 \2/p' "$work/out"
}
dense=$(predict "dense" 5,10)
packed=$(predict "packed" 5,10 --weights packed)
[ "$(predict "auto, faster" 5,10 --weights auto)" = "$packed" ] || complain "auto, faster: expected $packed"
[ "$(predict "auto, slower" 10,5 --weights auto)" = "$dense" ] || complain "auto, slower: expected $dense"
[ "${dense% *} ${packed% *}" = "dense packed" ] || complain "expected dense and packed, found $dense, $packed"
awk -v a="${packed#* }" -v b="${dense#* }" 'BEGIN { exit !(a > b) }' || complain "$packed is not faster than $dense"
CHOIR_WEIGHTS_RATES=5,10 ends "a table" 0 "${plan[@]}" --predict --ranks 1 --weights auto
counts "a table" "$work/out" '^Weights: auto; steps of few rows with packed weights at 2.00 of the speed of dense ones$' 1
counts "a table" "$work/out" 'GiB, packed$' 1
sed '/"packed_speed"/d' "$cluster" >"$work/old.json"
ends "no rate" 0 "$choir" plan --config "$odd" --cluster "$work/old.json" --predict --ranks 1 --weights auto
says "no rate" out "Weights: auto; steps of few rows with packed weights at the speed of dense ones, as $work/old.json has no rate of them"
ends "JSON" 0 "${plan[@]}" --predict --ranks 6 --what-if 10 --json -
counts "JSON" "$work/out" '"ranks":6,"nodes":3,.*"tokens_per_s":[0-9]' 2

# ---- What is refused -----------------------------------------------------------------------------

refuses "no such list" 2 "--sweep rank=1" "$choir" bench "${small[@]}" --sweep "rank=1"
refuses "more ranks than there are" 2 "--sweep 99 1" "$choir" bench "${small[@]}" --sweep "ranks=99"
refuses "a mesh beside a sweep" 2 "--sweep --mesh" "$choir" bench "${small[@]}" --sweep auto --mesh 1x1
refuses "a context beyond the positions" 1 "--sweep 999999" "$choir" bench "${small[@]}" --sweep "context=999999"
refuses "a cluster file that cannot be written" 1 "$work/no/x" "$choir" bench "${rates[@]}" --cluster "$work/no/x"
sed 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 600/' "$odd" >"$work/short.json"
refuses "a model too short to be measured" 1 "--cluster 2056 600" "$choir" bench --config "$work/short.json" \
    --layers 2 --cluster "$work/short-cluster.json"
for left in "$work"/short-cluster.json*; do
    [ ! -e "$left" ] || complain "a refused --cluster left ${left##*/}"
done
refuses "no cluster file" 2 "--cluster" "$choir" plan --config "$odd" --predict
refuses "auto without a prediction" 2 "--weights auto --predict" "$choir" plan --config "$odd" --weights auto
CHOIR_WEIGHTS_RATES=5 refuses "wrong rates" 2 "CHOIR_WEIGHTS_RATES" "${plan[@]}" --predict --weights packed
refuses "no network" 2 "--what-if" "${plan[@]}" --predict --ranks 64
refuses "a strange network" 2 "--what-if 10Gbit" "${plan[@]}" --predict --what-if 10Gbit
true >"$work/empty"
refuses "no rows" 1 "rows" "${plan[@]}" --against "$work/empty"
echo '{"schema": 1' >"$work/cut"
refuses "a cut row" 1 "cut line" "${plan[@]}" --against "$work/cut"
refuses "a broken cluster file" 1 "$work/cut" "$choir" plan --config "$odd" --predict --cluster "$work/cut"

conclude
