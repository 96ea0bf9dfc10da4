#!/usr/bin/env bash
# --trace as a user gives it: a file that programs for traces take, of every command and any number
# of ranks; no word, no bit and no file more than asked for; and one message when it cannot be.
#
#   tests/cli/trace.sh CHOIR RANKS     (the cases have rank counts of their own)
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# slices CATEGORY RANK: how many the trace has
slices() {
    grep -c "\"cat\":\"$1\",\"ph\":\"X\",\"pid\":$2," "$work/trace.json"
}

mkdir "$work/to"
for ranks in 1 3; do
    launch $ranks generate --quiet --prompt Hello --max-tokens 5 --ignore-eos >"$work/expected" 2>"$work/err"
    launch $ranks generate --quiet --prompt Hello --max-tokens 5 --ignore-eos --trace "$work/to/trace.json" \
        >"$work/text" 2>"$work/err" || complain "$ranks ranks: exit status is not 0"
    cmp -s "$work/text" "$work/expected" || complain "$ranks ranks: another text with a trace"
    [ ! -s "$work/err" ] || complain "$ranks ranks: expected no message"
    [ "$(ls "$work/to")" = trace.json ] || complain "$ranks ranks: expected one file"
    mv "$work/to/trace.json" "$work/trace.json"
    for ((r = 0; r < ranks; r++)); do
        [ "$(slices step $r)" -eq 5 ] || complain "$ranks ranks: rank $r has $(slices step $r) steps, not 5"
        [ "$(slices layer $r)" -eq 30 ] || complain "$ranks ranks: rank $r has $(slices layer $r) layers, not 30"
        [ "$(slices collective $r)" -gt 100 ] || complain "$ranks ranks: rank $r has too few collectives"
    done
    [ "$(slices step "$ranks")" -eq 0 ] || complain "$ranks ranks: expected no rank $ranks"
done

launch 2 bench --quiet --prompt-tokens 8 --gen-tokens 2 --repeat 1 --warmup 0 --read-mib 64 --json - \
    --trace "$work/trace.json" >"$work/text" 2>"$work/err" || complain "choir bench"
[ "$(slices step 1)" -gt 2 ] || complain "choir bench: expected steps of rank 1"

# A run that fails leaves the trace of how it got there.
status=0
rm "$work/trace.json"
launch 2 generate --ids 1,99999 --trace "$work/trace.json" >"$work/text" 2>"$work/err" || status=$?
[ "$status" -eq 2 ] || complain "a failing run: exit status $status, not 2"
[ "$(slices phase 1)" -gt 0 ] || complain "a failing run: expected its trace"
[ "$(grep -c '^choir: error: ' "$work/err")" -eq 1 ] || complain "a failing run: expected one message"

# refused PATH RANKS
refused() {
    local status=0
    launch "$2" generate --prompt Hello --max-tokens 1 --trace "$1" >"$work/text" 2>"$work/err" || status=$?
    [ "$status" -eq 1 ] || complain "--trace $1: exit status $status, not 1"
    [ "$(grep -c '^choir: error: ' "$work/err")" -eq 1 ] || complain "--trace $1: expected one message"
    grep -qF -- "--trace $1" "$work/err" || complain "--trace $1: expected its name in the message"
    [ ! -s "$work/text" ] || complain "--trace $1: wrote to standard output"
}
for ranks in 1 3; do
    refused "$work/missing/trace.json" $ranks
    refused "" $ranks
done
refused "$work/text/trace.json" 2
refused "$work/to" 2
[ -z "$(ls "$work/to")" ] || complain "expected no file beside what was refused"

conclude
