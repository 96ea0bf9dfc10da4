#!/usr/bin/env bash
# A server answers as its clients expect, with the text of choir generate, and within its limits.
#
#   tests/cli/serve.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
let_ranks_finish

command -v python3 >/dev/null || exit 77
if "$choir" version | grep -q 'no libmicrohttpd'; then
    refuses "without HTTP" 2 "libmicrohttpd-dev" "$choir" serve
    conclude
fi

# serve ARGS...: starts a server; url, server: where it is, its process
serve() {
    rm -f "$work/err" # of the server before
    "${run[@]}" "$choir" serve --port 0 "$@" </dev/null >"$work/out" 2>"$work/err" &
    server=$!
    wait_until "$patience_s" grep -qs serving "$work/err" || complain "serve $*: does not begin"
    url=$(grep -o 'http://[^ ]*' "$work/err")
}

stop() {
    kill "$server"
    wait "$server"
}

# checks CLASS
checks() {
    python3 "$root/tests/serve_checks.py" "$url" "$1" >"$work/out" 2>&1 || complain "$1"
}

CHOIR_SERVE_TEXT=$(launch 0 generate --quiet --prompt ROMEO: --max-tokens 24 --temperature 0.8 --top-p 0.9 --seed 7
    printf x)
CHOIR_SERVE_TEXT=${CHOIR_SERVE_TEXT%?x}
export CHOIR_SERVE_TEXT

serve
checks Answers
ends "load on it" 0 "$choir" bench --serve "$url" --requests 6 --batch 3 --prompt-tokens 4 --gen-tokens 8
says "load on it" out "6 requests, 0 failed"
says "load on it" out "48 generated"
ends "load at a rate" 0 "$choir" bench --serve "$url" --requests 4 --rate 100 --prompt-ids 500 --prompt-tokens 4 --gen-tokens 8 --json -
says "load at a rate" out '"gen_tokens":32'
says "load at a rate" out '"prompt_tokens":16'
ends "a prompt beside answers" 0 "$choir" bench --serve "$url" --batch 2 --prompt-tokens 4 --gen-tokens 700 --beside 600 --prompt-ids 500 --json -
says "a prompt beside answers" out '"requests":2,"failed":0'
says "a prompt beside answers" out '"beside_prompt_tokens":600'
refuses "answers that end before the prompt does" 1 "raise --gen-tokens" "$choir" bench --serve "$url" --batch 1 --prompt-tokens 4 --gen-tokens 4 --beside 1000 --prompt-ids 500
# A server that lets its clients wait is not this program's own standstill.
ranks_of_server=$(ps -o pid= --ppid "$server")
# shellcheck disable=SC2086  # process ids are words
kill -STOP $ranks_of_server
# shellcheck disable=SC2086
(sleep 3 && kill -CONT $ranks_of_server) &
ends "a server that stops for a while" 0 "$choir" bench --serve "$url" --requests 1 --batch 1 --prompt-tokens 4 --gen-tokens 8 --watchdog-seconds 1
refuses "load on nothing" 1 "Connection refused" "$choir" bench --serve http://127.0.0.1:1
refuses "a flag of a model" 2 "--layers" "$choir" bench --serve "$url" --layers 1
refuses "a port that is taken" 1 "cannot listen ${url##*:}" "${run[@]}" "$choir" serve --port "${url##*:}"
# CHOIR_SERVE_MANY: CONNECTIONS ACTIVE REQUESTS MIB; freed memory stays with sanitizers for a while.
read -r -a many <<<"${CHOIR_SERVE_MANY:-200 16 200 64}"
python3 "$root/tests/serve_many.py" "$url" "$(ps -o pid= --ppid "$server" | head -1 | tr -d ' ')" "${many[@]}" >"$work/out" 2>&1 ||
    complain "many connections"
stop

serve --api-key a --api-key b --max-batch 1
checks Fairness
stop
serve --receive-seconds 2
timeout "$patience_s" python3 "$root/tests/serve_broken.py" "$url" >"$work/out" 2>&1 || complain "broken requests"
stop
serve --chat-template "$root/tests/golden/tokenizer/templates/qwen2.5.jinja"
CHOIR_SERVE_TOOLS=1 checks Answers.test_tools_are_for_the_template
stop
printf '%s' '{% for m in messages %}{{ m.content }}{% endfor %}{# </think> #}<think>' >"$work/think.jinja"
serve --chat-template "$work/think.jinja"
checks Reasoning
stop

echo "secret" >"$work/keys"
export CHOIR_SERVE_KEY=secret
serve --api-key-file "$work/keys" --allow-origin https://a.example --max-body 1 --receive-seconds 2 --max-queue 0
checks Limits
stop

# The same answers alone, under load, at other numbers of ranks, on a mesh, and without a cache of prefixes.
replay() { # NAME THREADS
    python3 "$root/tests/serve_replay.py" "$url" "${CHOIR_SERVE_REQUESTS:-24}" "$2" "$work/$1" >"$work/out" 2>&1 ||
        complain "replay $1"
    [ "$1" = alone ] || same "replay $1" "$work/alone" "$work/$1"
}
serve
replay alone 1
replay loaded 12
stop
ranks_before=$ranks
run=("${mpi[@]}" -n 3)
serve --no-prefix-reuse --max-batch 5
replay elsewhere 8
stop
run=("${mpi[@]}" -n 2)
serve --mesh 2x1 --kv-tokens 1024 --prefill-chunk 64
replay mesh 12
stop
run=("${mpi[@]}" -n "$ranks_before")

refuses "a host that is none" 1 "--host" "${run[@]}" "$choir" serve --host no.such.host.invalid
: >"$work/keys"
refuses "a long name" 2 "--served-name: expected at most 255 bytes, found 300" "${run[@]}" "$choir" serve --served-name "$(printf 'n%.0s' {1..300})"
refuses "no keys" 2 "expected a key" "${run[@]}" "$choir" serve --api-key-file "$work/keys"
conclude
