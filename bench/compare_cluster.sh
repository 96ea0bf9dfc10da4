#!/usr/bin/env bash
# Choir against distributed-llama, tensor parallel over TCP, on two nodes of one machine (tests/cluster):
#
#   bench/compare_cluster.sh --config configs/qwen2.5-1.5b.json --dllama PROGRAM --model FILE.m --tokenizer FILE.t
#       --out bench/results/NAME.jsonl
#       [--rates none,10gbit]            of the nodes' links; none: as fast as the kernel is
#       [--layers N] [--prompt-tokens N] [--gen-tokens N] [--repeat N]
#       [--choir PROGRAM] [--choir-flags "FLAGS"]
#       [--before PROGRAM]               is given each turn's command and runs it, as one that stops other programs would
#
# Method: as compare.sh, turns of peer, Choir, peer, Choir, ... at each rate. A turn makes two nodes of a core each, joined at
# that rate, and runs one process of one thread on each: load, prefill of --prompt-tokens, --gen-tokens steps from there. Choir
# multiplies in bf16 and warms up with a whole repetition; the peer has q40 weights and q80 messages, the smallest that
# it offers, and evaluates a prompt in batches of 32, which is fixed in it. Of its own figures, which leave out its sampling,
# the first batch and the first step count as its warm-up and are left out.
#
# Nothing is built or downloaded. The two files, of the same shape and number of layers: bench/peer_dllama.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cluster=$here/../tests/cluster/cluster.sh
port=9998

# shellcheck source=bench/compare_common.sh
. "$here/compare_common.sh"

# ---- A turn of the peer, on node 1 -----------------------------------------------------------------

# peer_turn PROGRAM MODEL TOKENIZER PROMPT-TOKENS GEN-TOKENS. The last token of a prompt is its first step.
peer_turn() {
    local prompt worker status=0
    prompt=$(head -c $(($4 + 1)) < <(yes abcdefghijklmnopqrstuvwxyz | tr -d '\n'))
    "$cluster" on 2 "$1" worker --port "$port" --nthreads 1 >/dev/null 2>&1 &
    worker=$!
    until "$cluster" on 2 grep -qi ":$(printf %04x "$port") 00000000:0000 0A" /proc/net/tcp; do
        kill -0 "$worker" 2>/dev/null || die "the worker of $1 does not start"
        sleep 0.1
    done
    "$1" inference --model "$2" --tokenizer "$3" --buffer-float-type q80 --nthreads 1 --max-seq-len $(($4 + $5 + 1)) \
        --temperature 0 --steps $(($4 + $5)) --prompt "$prompt" --workers "10.77.0.2:$port" || status=$?
    kill "$worker" 2>/dev/null || true
    wait "$worker" 2>/dev/null || true # so that its time counts as this turn's
    return "$status"
}

# ---- Turns -----------------------------------------------------------------------------------------

dllama='' model='' tokenizer=''
rates=none,10gbit prompt_tokens=512 gen_tokens=24 repeat=3
before=()

own_flag() {
    case $1 in
    --rates) rates=$2 ;;
    --dllama) dllama=$2 ;;
    --model) model=$2 ;;
    --tokenizer) tokenizer=$2 ;;
    --before) before=("$2") ;;
    *) shape_flag "$1" "$2" ;;
    esac
}

check() {
    local file how="bench/peer_dllama.py --config $config${layers:+ --layers $layers} --out FILE.m --tokenizer FILE.t"
    check_shape
    check_common
    [ "$prompt_tokens" -gt 32 ] || die "--prompt-tokens: expected more than one batch of 32, found $prompt_tokens"
    [ "$gen_tokens" -gt 1 ] || die "--gen-tokens: expected at least 2, found 1"
    command -v mpirun >/dev/null || die "mpirun is missing"
    command -v "$choir" >/dev/null || die "--choir: $choir: no such program; build Choir first"
    command -v "$dllama" >/dev/null || die "--dllama: expected the program dllama of a build of distributed-llama, found '$dllama'"
    for file in "$model" "$tokenizer"; do
        [ -r "$file" ] || die "--model, --tokenizer: '$file': no such file; write both: python3 $how"
    done
}

# turn NAME ENGINE DTYPE COMMAND...: one pair of nodes, one line of --out.
turn() {
    local name=$1 engine=$2 dtype=$3
    shift 3
    echo "compare_cluster: round $round of $repeat, links: $rate: $name" >&2
    python3 "$here/compare.py" turn --out "$out" --name "$name" --engine "$engine" --dtype "$dtype" \
        --peer "dllama q40, $rate" --round "$round" --shape "$shape" --config "$config" --threads 1 --nodes 2 --rate "$rate" \
        --prompt-tokens "$prompt_tokens" --gen-tokens "$gen_tokens" --json "$work/choir.jsonl" -- \
        ${before[@]+"${before[@]}"} "$cluster" 2 "${limit[@]}" "$@"
}

turns() {
    local limit=()
    [ "$rate" = none ] || limit=(--rate "$rate")
    turn "dllama q40" dllama q40 "$here/compare_cluster.sh" peer-turn "$dllama" "$model" "$tokenizer" "$prompt_tokens" \
        "$gen_tokens"
    rm -f "$work/choir.jsonl"
    # shellcheck disable=SC2086  # flags are words
    turn "choir bf16" choir bf16 mpirun --quiet --host node1:1,node2:1 "$choir" bench --config "$shape" --dtype bf16 \
        --threads 1 --prompt-tokens "$prompt_tokens" --gen-tokens "$gen_tokens" --batch 1 --warmup 1 --repeat 1 \
        --json "$work/choir.jsonl" $choir_flags
}

if [ "${1:-}" = peer-turn ]; then
    shift
    peer_turn "$@"
    exit
fi
parse "$@"
check
make_shape
for ((round = 1; round <= repeat; round++)); do
    for rate in ${rates//,/ }; do
        turns
    done
done
python3 "$here/compare.py" table "$out"
