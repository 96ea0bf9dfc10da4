#!/usr/bin/env bash
# choir bench --cluster over nodes of unequal numbers of ranks: the file has the rates of the first node's ranks and a
# network, and choir plan --predict reads it. Which members there are and of which sign; no speed is judged.
#
#   tests/cluster/cluster.sh 2 tests/cluster/rates.sh CHOIR
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"
choir=$1
odd=$root/tests/oracle/shapes/odd.json
number='[0-9][0-9.e+-]*' # no sign

# has FILE PATTERN NUMBER: so many lines match
has() {
    local found
    cases=$((cases + 1))
    found=$(grep -cE -- "$2" "$1")
    [ "$found" -eq "$3" ] || complain "${1##*/}: expected $3 lines with $2, found $found"
}

# measure NAME HOSTS RANKS-OF-THE-SWEEP
measure() {
    cases=$((cases + 1))
    mpirun --quiet --host "$2" --timeout "${CHOIR_TEST_SECONDS:-300}" "$choir" bench --config "$odd" --layers 1 --repeat 1 \
        --warmup 0 --read-mib 1 --cluster "$work/$1" --sweep "ranks=$3 threads=1" --quiet >"$work/out" 2>"$work/err" ||
        complain "$1: choir bench --cluster fails"
    [ -e "$work/$1" ] || finish
    [ ! -e "$work/$1.new" ] || complain "$1: left $1.new"
}

# is_whole FILE SETS: all members of that many sets of rates
is_whole() {
    local member
    has "$1" '^  "schema": 1,$' 1
    has "$1" '^  "cpu": "..*",$' 1
    has "$1" '^  "node_cores": [1-9][0-9]*,$' 1
    has "$1" "^  \"node_memory_bytes\": [1-9][0-9.e+]*,\$" 1
    for member in latency_s bytes_per_s; do
        has "$1" "^    \"$member\": $number,?\$" 1
        has "$1" "^    \"$member\": 0\\.0,?\$" 0
    done
    for member in burst_bytes processor_byte_s; do
        has "$1" "^    \"$member\": $number,?\$" 1
    done
    has "$1" '^      "model": "odd",$' "$2"
    has "$1" '^      "threads": 1,$' "$2"
    has "$1" '^      "hidden": 240,$' "$2"
    has "$1" '^      "head_dim": 40,$' "$2"
    for member in elementwise_layer_s elementwise_element_s waiting_layer_s waiting_share sampling_step_s sampling_row_s \
        gather_s copy_byte_s; do
        has "$1" "^      \"$member\": $number,?\$" "$2"
    done
    # Curves of at least one point each.
    for member in decode_matrix_byte_s prompt_matrix_byte_s decode_attention_flop_s prompt_attention_flop_s; do
        has "$1" "^      \"$member\": \\[\$" "$2"
    done
}

# Two ranks on the first node, one on the second.
measure rates node1:2,node2:1 2
is_whole "$work/rates" 1
has "$work/rates" '^      "ranks": 2,$' 1

# The other way round: the second node's other rank only waits. The file keeps what was measured before.
measure rates node1:1,node2:2 1
is_whole "$work/rates" 2
has "$work/rates" '^      "ranks": 1,$' 1
has "$work/rates" '^      "ranks": 2,$' 1

cases=$((cases + 1))
"$choir" plan --config "$odd" --predict --ranks 3 --cluster "$work/rates" >"$work/out" 2>"$work/err" ||
    complain "choir plan --predict fails"
has "$work/out" '^ +3 ' 1

finish
