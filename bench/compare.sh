#!/usr/bin/env bash
# Choir against other engines, on this machine, in one run:
#
#   bench/compare.sh --config configs/qwen2.5-1.5b.json --out bench/results/NAME.jsonl
#       [--pytorch PYTHON]               a python with torch and transformers; bf16 and f32, sdpa
#       [--llama-bench PROGRAM --gguf FILE [--gguf FILE]... [--llama-flags "FLAGS"]]
#       [--dtype bf16,f32]               types to compare with PyTorch in
#       [--layers N] [--threads N] [--prompt-tokens N] [--gen-tokens N] [--repeat N]
#       [--choir PROGRAM] [--choir-flags "FLAGS"]
#
# Method: engines take turns, peer, Choir, peer, Choir, ..., --repeat rounds over all peers. A turn is one
# process that loads, warms up with one whole repetition, and measures one: a prefill of --prompt-tokens
# and then --gen-tokens steps of one token. All use the same shape and number of threads, and random
# weights; Choir's turn also measures the read bandwidth and the matrix peak. A ratio is Choir's speed over
# that of the peer's turn just before it; the table at the end gives medians. llama-bench generates
# from an empty context, the others after the prompt, which favours it by the reading of K and V.
#
# --out gets a line of JSON for each turn: engine, version, dtype, sizes, date, CPU, both speeds, and
# other_load: how many CPUs, on average, did other work meanwhile. Keep only runs with little of that; bench/compare.py table FILE [--max-other-load X] prints the table again.
#
# Nothing is built or downloaded. A GGUF file of random weights: bench/peer_gguf.py; a llama-bench
# program: the build of llama.cpp or a fork.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pytorch='' llama_bench='' llama_flags=''
threads=$(nproc) prompt_tokens=512 gen_tokens=24 repeat=5 dtypes=bf16,f32
ggufs=()

# shellcheck source=bench/compare_common.sh
. "$here/compare_common.sh"

own_flag() {
    case $1 in
    --threads) threads=$2 ;;
    --dtype) dtypes=$2 ;;
    --pytorch) pytorch=$2 ;;
    --llama-bench) llama_bench=$2 ;;
    --llama-flags) llama_flags=$2 ;;
    --gguf) ggufs+=("$2") ;;
    *) shape_flag "$1" "$2" ;;
    esac
}

program() {
    command -v "$2" >/dev/null || die "$1: $2: no such program; $3"
}

check() {
    check_shape
    check_common
    whole_number --threads "$threads"
    [ "$threads" -le "$(nproc)" ] ||
        die "--threads: expected at most the $(nproc) CPUs that this shell may use, found $threads"
    program --choir "$choir" "build Choir first: cmake --preset release && cmake --build --preset release"
    [ -n "$pytorch$llama_bench" ] ||
        die "nothing to compare with: give --pytorch PYTHON, or --llama-bench PROGRAM and --gguf FILE"
    check_pytorch
    check_llama
}

check_pytorch() {
    local dtype
    [ -n "$pytorch" ] || return 0
    program --pytorch "$pytorch" "give a python that has torch and transformers"
    "$pytorch" -c 'import torch, transformers' 2>/dev/null ||
        die "--pytorch: $pytorch cannot import torch and transformers: $pytorch -m pip install torch transformers"
    for dtype in ${dtypes//,/ }; do
        case $dtype in
        bf16 | f32) ;;
        *) die "--dtype: expected bf16, f32 or both with a comma, found '$dtypes'" ;;
        esac
    done
}

check_llama() {
    local file how="bench/peer_gguf.py --config $config${layers:+ --layers $layers} --out"
    if [ -z "$llama_bench" ]; then
        [ ${#ggufs[@]} -eq 0 ] || die "--gguf: expected --llama-bench PROGRAM too, which reads it"
        return 0
    fi
    program --llama-bench "$llama_bench" "give the llama-bench of a build of llama.cpp or a fork of it"
    [ ${#ggufs[@]} -gt 0 ] ||
        die "--llama-bench: expected --gguf FILE too; write one: python3 $how FILE.gguf"
    for file in "${ggufs[@]}"; do
        [ -r "$file" ] || die "--gguf: $file: no such file; write it: python3 $how $file"
        [ "$(head -c 4 "$file")" = GGUF ] || die "--gguf: $file: expected a GGUF file"
    done
}

# turn NAME ENGINE DTYPE COMMAND...: one process, one line of --out.
turn() {
    local name=$1 engine=$2 dtype=$3
    shift 3
    echo "compare: round $round of $repeat: $name" >&2
    python3 "$here/compare.py" turn --out "$out" --name "$name" --engine "$engine" --dtype "$dtype" --peer "$peer" \
        --round "$round" --shape "$shape" --config "$config" --threads "$threads" \
        --prompt-tokens "$prompt_tokens" --gen-tokens "$gen_tokens" --json "$work/choir.jsonl" -- "$@"
}

choir_turn() {
    rm -f "$work/choir.jsonl"
    # shellcheck disable=SC2086  # flags are words
    turn "choir $1" choir "$1" "$choir" bench --config "$shape" --dtype "$1" --threads "$threads" \
        --prompt-tokens "$prompt_tokens" --gen-tokens "$gen_tokens" --batch 1 --warmup 1 --repeat 1 \
        --json "$work/choir.jsonl" $choir_flags
}

pytorch_turns() {
    local dtype
    for dtype in ${dtypes//,/ }; do
        peer="pytorch $dtype"
        turn "$peer" pytorch "$dtype" "$pytorch" "$here/peer_pytorch.py" --config "$shape" --dtype "$dtype" \
            --threads "$threads" --prompt-tokens "$prompt_tokens" --gen-tokens "$gen_tokens" --warmup 1 --repeat 1
        choir_turn "$dtype"
    done
}

llama_turns() {
    local file
    for file in "${ggufs[@]}"; do
        peer="llama $(basename "$file" .gguf)"
        # Two repetitions, of which the last counts: its own warm-up is a single token.
        # shellcheck disable=SC2086
        turn "$peer" llama bf16 "$llama_bench" -m "$file" -t "$threads" -p "$prompt_tokens" -n "$gen_tokens" \
            -r 2 -o json $llama_flags
        choir_turn bf16
    done
}

parse "$@"
check
make_shape
for ((round = 1; round <= repeat; round++)); do
    [ -z "$pytorch" ] || pytorch_turns
    [ -z "$llama_bench" ] || llama_turns
done
python3 "$here/compare.py" table "$out"
