#!/usr/bin/env bash
# A run that is told to stop ends on all ranks, in time, and keeps the text it has.
#
#   tests/cli/signals.sh CHOIR RANKS
set -u

choir=$1
ranks=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
limit_s=${CHOIR_CLI_SECONDS:-5}
failures=0

export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_plm=isolated
run=(mpirun --quiet --oversubscribe --bind-to none --timeout ${CHOIR_TEST_SECONDS:-300})
[ "$(id -u)" -ne 0 ] || run+=(--allow-run-as-root)

# More to say than there is time for.
for _ in $(seq 20000); do
    echo '{"prompt": "ROMEO:"}'
done >"$work/prompts.jsonl"
generate=(generate --prompts "$work/prompts.jsonl" --ignore-eos --max-tokens 900 --max-batch 1)

complain() {
    echo "FAILED at $ranks ranks: $*" >&2
    sed 's/^/    /' "$work/err" >&2
    failures=$((failures + 1))
}

# wait_until SECONDS COMMAND...: until the command succeeds
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

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
    wait_until "${CHOIR_TEST_SECONDS:-300}" has_text || complain "$name: no text"
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

stops "SIGTERM to mpirun" TERM mpirun "${run[@]}" -n "$ranks" "$choir" "${generate[@]}"
stops "SIGINT to mpirun" INT mpirun "${run[@]}" -n "$ranks" "$choir" "${generate[@]}"
stops "SIGTERM to one rank" TERM rank "${run[@]}" -n "$ranks" "$choir" "${generate[@]}"
[ "$ranks" -gt 1 ] || stops "SIGTERM without mpirun" TERM self "$choir" "${generate[@]}"

# A reader that goes away is no failure, and ends the run.
status=0
timeout "${CHOIR_TEST_SECONDS:-300}" "$choir" "${generate[@]}" 2>"$work/err" | head -c 100 >"$work/out"
status=${PIPESTATUS[0]}
[ "$status" -eq 0 ] || complain "closed pipe: exit status is $status"

# A full disk is one.
status=0
timeout "${CHOIR_TEST_SECONDS:-300}" "$choir" generate --prompt Hello >/dev/full 2>"$work/err" || status=$?
[ "$status" -eq 1 ] || complain "full disk: exit status is $status"
grep -q 'standard output' "$work/err" || complain "full disk: no word about it"

echo "signals at $ranks ranks: $failures failed"
[ "$failures" -eq 0 ]
