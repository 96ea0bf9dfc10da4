#!/usr/bin/env bash
# A run that is told to stop ends on all ranks, in time, and keeps the text it has.
#
#   tests/cli/signals.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
let_ranks_finish
unset OMPI_MCA_ess_singleton_isolated

# More to say than there is time for.
for _ in $(seq 2000); do
    echo '{"prompt": "ROMEO:"}'
done >"$work/prompts.jsonl"
generate=(generate --prompts "$work/prompts.jsonl" --ignore-eos --max-tokens 900 --max-batch 1 --threads 1)

has_text() {
    [ "$(wc -c <"$work/out")" -ge 500 ]
}

# A process that has ended may stay in the table until somebody asks for its status.
all_gone() {
    local pid
    for pid in "$@"; do
        case $(ps -o stat= -p "$pid") in
        "" | Z*) ;;
        *) return 1 ;;
        esac
    done
}

# stops NAME SIGNAL WHOM COMMAND...: WHOM is mpirun, rank for the last process that it started, or
# self for a run without it
stops() {
    local name=$1 signal=$2 whom=$3 pid begin status=0 children target
    shift 3
    : >"$work/out"
    "$@" </dev/null >"$work/out" 2>"$work/err" &
    pid=$!
    wait_until "$patience_s" has_text || complain "$name: no text"
    # Without mpirun there are no ranks to look after, only a helper of MPI's own.
    children=
    [ "$whom" = self ] || children=$(ps -o pid= --ppid "$pid")
    target=$pid
    [ "$whom" != rank ] || target=$(echo "$children" | tail -1 | tr -d ' ')
    begin=$SECONDS
    kill "-$signal" "$target"
    wait "$pid" || status=$?
    [ "$status" -ne 0 ] || complain "$name: exit status is 0"
    [ $((SECONDS - begin)) -le "$limit_s" ] || complain "$name: took $((SECONDS - begin)) s"
    # mpirun that was told itself may stop forwarding before the word comes.
    [ "$whom" = mpirun ] || grep -q 'interrupted' "$work/err" || complain "$name: no word about it"
    has_text || complain "$name: text was lost"
    # shellcheck disable=SC2086
    wait_until "$limit_s" all_gone $children || complain "$name: ranks are left: $children"
}

stops "SIGTERM to mpirun" TERM mpirun "${run[@]}" "$choir" "${generate[@]}"
stops "SIGINT to mpirun" INT mpirun "${run[@]}" "$choir" "${generate[@]}"
stops "SIGTERM to one rank" TERM rank "${run[@]}" "$choir" "${generate[@]}"
[ "$ranks" -gt 1 ] || stops "SIGTERM without mpirun" TERM self "$choir" "${generate[@]}"

# Rank 0 hears of another rank's signal by the watchdog where it waits for a user, and takes its time to end.
if [ "$ranks" -gt 1 ]; then
    status=0
    CHOIR_FAULT=term:step:1,slow:close:0 "${run[@]}" "$choir" "${generate[@]}" </dev/null >"$work/out" 2>"$work/err" ||
        status=$?
    [ "$status" -eq 143 ] || complain "a slow end: exit status is $status"
    grep -q 'interrupted' "$work/err" || complain "a slow end: no word about it"
    ! grep -q '^choir: error: ' "$work/err" || complain "a slow end: taken for a failure"
fi

# A reader that goes away is no failure, and ends the run.
status=0
timeout "$patience_s" "$choir" "${generate[@]}" 2>"$work/err" | head -c 100 >"$work/out"
status=${PIPESTATUS[0]}
[ "$status" -eq 0 ] || complain "closed pipe: exit status is $status"

# A full disk is one.
status=0
timeout "$patience_s" "$choir" generate --prompt Hello >/dev/full 2>"$work/err" || status=$?
[ "$status" -eq 1 ] || complain "full disk: exit status is $status"
grep -q 'standard output' "$work/err" || complain "full disk: no word about it"

# So is a limit on the size of files: longer than what MPI itself writes, shorter than the logits.
status=0
(
    ulimit -f 4096
    exec timeout "$patience_s" "$choir" generate --prompt-file "$root/NOTICE" --max-tokens 0 \
        --logits-out "$work/logits.npy" >"$work/out" 2>"$work/err"
) || status=$?
[ "$status" -eq 1 ] || complain "a limit on files: exit status is $status"
grep -q 'logits.npy.*File too large' "$work/err" || complain "a limit on files: no word about it"

conclude
