#!/usr/bin/env bash
# Logits and text of ranks on several nodes are those of one rank, bit for bit, whichever way ranks
# exchange; nodes are what their hostnames say.
#
#   tests/cluster/cluster.sh NODES tests/cluster/bits.sh CHOIR NODES-PROGRAM
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"
choir=$1
nodes=$2

# A prompt of more rows than go straight through the windows, in chunks that split it unevenly.
prompt=$(head -c 400 "$root/configs/tasks/data/plays.txt")
generate=(generate --quiet --prompt "$prompt" --max-tokens 24 --ignore-eos --threads 1 --prefill-chunk 77)

for each in 1 2; do
    for path in auto mpi; do
        cases=$((cases + 1))
        on_all "$each" "$nodes" "$n_nodes" "$each" "$path" 2>"$work/err" || complain "$each ranks each, $path: nodes"
    done
done

# same DTYPE DOT RANKS PATH
same() {
    local one=$work/one-$1-$2 name="--dtype $1 --dot $2, $3 ranks each, --comm $4"
    cases=$((cases + 1))
    [ -s "$one.npy" ] ||
        "$choir" "${generate[@]}" --dtype "$1" --dot "$2" --logits-out "$one.npy" >"$one.txt" 2>"$work/err" ||
        complain "one rank fails"
    rm -f "$work/many.npy"
    on_all "$3" "$choir" "${generate[@]}" --dtype "$1" --dot "$2" --comm "$4" --logits-out "$work/many.npy" \
        >"$work/many.txt" 2>"$work/err" || complain "$name: fails"
    cmp -s "$one.npy" "$work/many.npy" || complain "$name: logits differ from those of one rank"
    { [ -s "$one.txt" ] && cmp -s "$one.txt" "$work/many.txt"; } || complain "$name: text differs from that of one rank"
}

for each in 1 2; do
    for path in auto mpi; do
        same bf16 chain "$each" "$path"
    done
done
same bf16 amx 1 auto
same f32 auto 2 auto
# The agreed threshold is the lowest of any rank's: gathers of every size travel tile by tile.
export CHOIR_STREAM_BYTES=0
same bf16 amx 1 auto
same bf16 chain 2 mpi
same f32 auto 2 auto

finish
