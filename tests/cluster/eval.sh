#!/usr/bin/env bash
# An evaluation over several nodes that loses a rank, then its mpirun, and goes on over another mesh
# gives the results of one rank, byte for byte, timings apart.
#
#   tests/cluster/cluster.sh NODES tests/cluster/eval.sh CHOIR
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"
choir=$1
items=80
task=(--task word-problems --limit "$items" --max-batch 2 --threads 1 --dot chain --quiet)

lines() {
    [ -f "$work/killed/results.jsonl" ] && wc -l <"$work/killed/results.jsonl" || echo 0
}

has_lines() {
    [ "$(lines)" -ge "$1" ]
}

# killed RANKS MESH LINES COMMAND...: a run that COMMAND ends once there are so many lines
killed() {
    local each=$1 mesh=$2 wanted=$3 before pid
    shift 3
    before=$(lines)
    cases=$((cases + 1))
    on_all "$each" "$choir" eval --mesh "$mesh" --out "$work/killed" "${task[@]}" </dev/null >/dev/null 2>"$work/err" &
    pid=$!
    wait_until 200 has_lines "$wanted" || complain "mesh $mesh: no results"
    "$@"
    wait "$pid" && complain "mesh $mesh: killed, and the exit status is 0"
    wait_until 20 no_ranks || complain "mesh $mesh: a rank outlives its run by 20 s"
    [ "$(lines)" -ge "$before" ] || complain "mesh $mesh: lines were lost"
    [ "$(lines)" -lt "$items" ] || complain "mesh $mesh: had ended before it was killed"
}

kill_last_rank() {
    kill -KILL "$(pid_of $((n_nodes - 1)))"
}

kill_mpirun() {
    kill -KILL "$(pgrep -x mpirun)"
}

"$choir" eval --out "$work/one" "${task[@]}" >/dev/null 2>"$work/err" || complain "one rank fails"
# Over a link so slow that no run ends before it is killed.
"$cluster" rate 20mbit
killed 1 "$((n_nodes / 2))x2" 4 kill_last_rank
killed 1 "1x$n_nodes" 8 kill_mpirun
"$cluster" rate 1gbit
cases=$((cases + 1))
on_all 2 "$choir" eval --mesh "${n_nodes}x2" --out "$work/killed" "${task[@]}" >/dev/null 2>"$work/err" ||
    complain "resuming fails"
for run in one killed; do
    "$choir" eval --canonical "$work/$run" >"$work/$run.jsonl" 2>"$work/err" || complain "$run: not valid"
done
[ "$(wc -l <"$work/one.jsonl")" -eq "$items" ] || complain "expected $items lines"
cmp "$work/one.jsonl" "$work/killed.jsonl" || complain "results differ from those of one rank"

finish
