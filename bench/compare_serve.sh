#!/usr/bin/env bash
# Choir's server against another one of OpenAI's form, on this machine, in one run:
#
#   bench/compare_serve.sh --model DIR --peer "COMMAND" --peer-url URL --out bench/results/NAME.jsonl
#       [--streams "1 16"] [--prompt-tokens N] [--gen-tokens N] [--prompt-ids N] [--repeat N]
#       [--choir PROGRAM] [--choir-flags "FLAGS"]
#
# Method: both servers hold the same shape in memory, each idle while the other is measured (a peer whose threads keep
# polling would take cores: give it a setting that lets them sleep). For each number of streams they take turns, peer, Choir, ...,
# --repeat rounds; a turn is `choir bench --serve` with so many clients that ask one after another, two requests each, streamed, with
# prompts of random token ids below --prompt-ids and answers of --gen-tokens tokens (ignore_eos). A ratio is Choir's generated tokens a
# second over the peer's in the same round; the table at the end gives medians, lowest and highest. --out gets the rows of both, with
# "round" and "engine".
#
# For llama.cpp and its forks, with a GGUF of the same shape that has a vocabulary; a model directory of random weights:
# tests/oracle/make_model.py. For instance
#
#   --peer "llama-server -m FILE.gguf -t 2 -np 16 -c 8192 --port 8081" --peer-url http://127.0.0.1:8081
#
# Nothing is built or downloaded.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prompt_tokens=64 gen_tokens=128 repeat=3
model='' peer='' peer_url='' streams="1 16" prompt_ids=2048
seconds=600 # that a server may take to be ready
# shellcheck source=bench/compare_common.sh
. "$here/compare_common.sh"

own_flag() {
    case $1 in
    --model) model=$2 ;;
    --peer) peer=$2 ;;
    --peer-url) peer_url=$2 ;;
    --streams) streams=$2 ;;
    --prompt-ids) prompt_ids=$2 ;;
    *) return 1 ;;
    esac
}

parse "$@"
check_common
whole_number --prompt-ids "$prompt_ids"
for n in $streams; do
    whole_number --streams "$n"
done
[ -n "$model" ] || die "--model: expected a model directory"
[ -n "$peer" ] || die "--peer: expected the command that starts the other server"
[ -n "$peer_url" ] || die "--peer-url: expected where it listens"
command -v "$choir" >/dev/null || die "--choir: $choir: no such program"

work=$(mktemp -d)
servers=()
stop() {
    [ ${#servers[@]} -eq 0 ] || kill "${servers[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap stop EXIT

# ready NAME URL PROCESS: waits until its model is loaded.
ready() {
    local end=$((SECONDS + seconds))
    until curl -sf -m 5 "$2/health" >/dev/null; do
        kill -0 "$3" 2>/dev/null || die "$1 has ended: $(tail -3 "$work/$1.err")"
        [ $SECONDS -lt $end ] || die "$1: not ready after $seconds s"
        sleep 0.2
    done
}

# shellcheck disable=SC2086  # commands and flags are words
$peer >"$work/peer.err" 2>&1 &
servers+=($!)
# shellcheck disable=SC2086
"$choir" serve --model "$model" --port 0 $choir_flags >"$work/choir.err" 2>&1 &
servers+=($!)
ready peer "$peer_url" "${servers[0]}"
until choir_url=$(grep -o 'serving .* at http://[^ ]*' "$work/choir.err" | grep -o 'http://.*'); do
    kill -0 "${servers[1]}" 2>/dev/null || die "choir has ended: $(tail -3 "$work/choir.err")"
    sleep 0.2
done

# turn ENGINE URL STREAMS ROUND: a row of --out. Round 0 warms up.
turn() {
    local requests=$((2 * $3)) each=$gen_tokens
    [ "$4" -gt 0 ] || requests=$3 each=8
    "$choir" bench --serve "$2" --batch "$3" --requests "$requests" --prompt-tokens "$prompt_tokens" --prompt-ids "$prompt_ids" \
        --gen-tokens "$each" --json - >"$work/row"
    [ "$4" -eq 0 ] || sed "s/^{/{\"engine\": \"$1\", \"round\": $4, /" "$work/row" >>"$out"
}

for n in $streams; do
    for ((round = 0; round <= repeat; round++)); do
        echo "compare_serve: $n streams, round $round of $repeat" >&2
        turn peer "$peer_url" "$n" "$round"
        turn choir "$choir_url" "$n" "$round"
    done
done
python3 "$here/compare.py" servers "$out"
