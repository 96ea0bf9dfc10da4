#!/usr/bin/env bash
# A rank that is stopped ends the run with a message that names it; one that goes on again does not.
# (tests/cluster/faults.sh: what else can stop a run, on several nodes.)
#
#   tests/cli/watchdog.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
seconds=10 # much longer than a rank is stopped for a moment, also on a busy machine
limit_s=$((seconds + limit_s))

# More to say than there is time for.
for _ in $(seq 2000); do
    echo '{"prompt": "ROMEO:"}'
done >"$work/prompts.jsonl"

# has_text BYTES
has_text() {
    [ "$(wc -c <"$work/out")" -ge "$1" ]
}

: >"$work/out"
"${run[@]}" "$choir" generate --prompts "$work/prompts.jsonl" --ignore-eos --max-tokens 900 --max-batch 1 \
    --threads 1 --watchdog-seconds "$seconds" </dev/null >"$work/out" 2>"$work/err" &
mpirun=$!
wait_until "$patience_s" has_text 500 || complain "no text"
rank=$(ps -o pid= --ppid "$mpirun" | tail -1 | tr -d ' ')

kill -STOP "$rank"
sleep 1
kill -CONT "$rank"
bytes=$(wc -c <"$work/out")
wait_until "$patience_s" has_text $((bytes + 500)) || complain "stopped for a moment: the run does not go on"

kill -STOP "$rank"
begin=$SECONDS
status=0
wait "$mpirun" || status=$?
[ "$status" -ne 0 ] || complain "stopped: exit status is 0"
[ $((SECONDS - begin)) -le "$limit_s" ] || complain "stopped: took $((SECONDS - begin)) s"
[ "$(grep -c '^choir: error: ' "$work/err")" -eq 1 ] || complain "stopped: expected one message"
grep -q "rank $((ranks - 1)) on $(hostname) (process $rank) is stopped .*wait" "$work/err" ||
    complain "stopped: expected the message to name the rank"

for value in -1 many 86401; do
    "$choir" generate --prompt Hello --watchdog-seconds "$value" >"$work/out" 2>"$work/err" &&
        complain "--watchdog-seconds $value: exit status is 0"
    { [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q -- "--watchdog-seconds.*$value" "$work/err"; } ||
        complain "--watchdog-seconds $value: expected one message"
done

conclude
