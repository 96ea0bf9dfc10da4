#!/usr/bin/env bash
# Whatever stops a run, it ends on all nodes, in time, and the one message names rank, host and place.
#
#   tests/cluster/cluster.sh NODES tests/cluster/faults.sh CHOIR NODES-PROGRAM LOOP-PROGRAM
#
# All of it on two nodes; on more, what more nodes make different.
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"
choir=$1
loop=$3
seconds=3
limit_s=$((seconds + ${CHOIR_CLI_SECONDS:-5}))
last=$((n_nodes - 1))
n_messages=1

# More to say than there is time for.
for _ in $(seq 2000); do
    echo '{"prompt": "ROMEO:"}'
done >"$work/prompts.jsonl"
generate=(generate --prompts "$work/prompts.jsonl" --ignore-eos --max-tokens 900 --max-batch 1 --threads 1)

has_text() {
    [ "$(wc -c <"$work/out")" -ge "$1" ]
}

# begin RANKS COMMAND...: a run, in the background
begin() {
    local each=$1
    shift
    : >"$work/out"
    on_all "$each" "$@" </dev/null >"$work/out" 2>"$work/err" &
    run=$!
}

# ended NAME SINCE WORDS...: the run fails, in time, with one message, which has every word
ended() {
    local name=$1 since=$2 status=0 word took
    shift 2
    cases=$((cases + 1))
    wait "$run" 2>/dev/null || status=$?

    wait_until "$limit_s" no_ranks || complain "$name: ranks are left"
    took=$((SECONDS - since))
    [ "$status" -ne 0 ] || complain "$name: exit status is 0"
    [ "$took" -le "$limit_s" ] || complain "$name: took $took s"
    [ "$(grep -c '^choir: error: ' "$work/err")" -eq "$n_messages" ] || complain "$name: expected one message"
    for word in "$@"; do
        grep '^choir: error: ' "$work/err" | grep -q -- "$word" || complain "$name: expected \"$word\" in the message"
    done
}

stop_rank() {
    kill -STOP "$(pid_of "$1")"
}

# Mpirun gives ranks a second to end, which is what there is time for to say why.
kill_rank() {
    kill -KILL "$(pid_of "$1")"
}

kill_mpirun() {
    kill -KILL "$(pgrep -x mpirun)"
}

# disturbed NAME RANKS "WORDS|..." COMMAND...: a run that COMMAND disturbs
disturbed() {
    local name=$1 each=$2 words since
    IFS='|' read -ra words <<<"$3"
    shift 3
    begin "$each" "$choir" "${generate[@]}" --watchdog-seconds "$seconds"
    wait_until 200 has_text 500 || complain "$name: no text"
    since=$SECONDS
    "$@"
    ended "$name" "$since" ${words[@]+"${words[@]}"}
}

disturbed "a stopped rank on a node of two" 2 \
    "rank $((2 * last + 1)) on node$n_nodes (process [0-9]*) is stopped (SIGSTOP|step [0-9]*|wait in" \
    stop_rank $((2 * last + 1))
# What is known of a silent rank may be a second old; between two steps a rank is in no step since the last.
disturbed "a cut link" 1 "rank $last on node$n_nodes (process [0-9]*) has sent no heartbeat|last in [a-z ]*step|waits\? in [a-z ]*step" \
    "$cluster" cut "$n_nodes"
"$cluster" join "$n_nodes"

if [ "$n_nodes" -eq 2 ]; then
    # 13 norms a step of 6 layers; the sixth of the fifth step.
    begin 2 "$loop" "$seconds" "$last" 57
    wait_until 200 has_text 1 || complain "a loop without end: it does not begin"
    ended "a loop without end" "$SECONDS" "rank $last on node$(((last + 2) / 2)) (process [0-9]*) has been for $seconds s" \
        "step 5, layer 2, MLP; " "wait in step 5, layer 2, MLP, gather of activations" \
        "its stack: loop_without_end < norm_that_loops < normalise"
    disturbed "the first rank, stopped" 1 "rank 0 on node1 |rank 1 waits in " stop_rank 0
    (
        unset OMPI_MCA_odls_base_sigkill_timeout
        disturbed "a killed rank" 1 "rank 1 on node2 (process [0-9]*) has ended|in step|rank 0 waits in " kill_rank 1
        [ "$failures" -eq 0 ]
    ) || failures=$((failures + 1))
    # Whom messages went through.
    n_messages=0
    disturbed "mpirun, killed" 1 "" kill_mpirun
    n_messages=1

    # Waiting for a rank that makes progress is no fault, and neither is an idle rank.
    cases=$((cases + 1))
    on_all 1 "$loop" 2 2>"$work/err" || complain "a slow reader and an idle user: the run fails"

    # Without a watchdog a stopped rank is waited for.
    cases=$((cases + 1))
    begin 1 "$choir" "${generate[@]}" --watchdog-seconds 0
    wait_until 200 has_text 500 || complain "no watchdog: no text"
    stop_rank 1
    sleep 3
    kill -CONT "$(pid_of 1)"
    bytes=$(wc -c <"$work/out")
    wait_until 200 has_text $((bytes + 500)) || complain "no watchdog: the run does not go on"
    kill -KILL $(pgrep -x choir) "$(pgrep -x mpirun)"
    wait "$run" 2>/dev/null

    # A full disk: the node's shared memory, after a few lines.
    mount -t tmpfs -o size=64k tmpfs /dev/shm
    begin 1 "$choir" eval --mesh 2x1 --task word-problems --threads 1 --dot chain --comm mpi --out /dev/shm/run \
        --watchdog-seconds "$seconds"
    ended "a full disk" "$SECONDS" "/dev/shm/run/results.jsonl: cannot append: No space left"
    umount /dev/shm
fi

finish
