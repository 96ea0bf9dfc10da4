#!/usr/bin/env bash
# Whatever a run is doing when a rank is stopped, hangs or gets a signal, all ranks end in time, with one
# message or the signal's status. Faults are planted at points of the run (comm/fault.h). Six runs go on side
# by side: what they do is wait, but a rank that waits for another keeps a core from those that work.
#
#   tests/cli/phases.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
let_ranks_finish
# The watchdog's limit where a rank stands still: longer than a busy machine takes for anything that is no fault.
seconds=4
n_runs=0
pids=()
input=/dev/null
mkfifo "$work/user"
exec 9<>"$work/user" # nothing ever comes from it
export CHOIR_TEST_RUN=$work

# start FAULT STATUS "WORDS|..." ARGS...: a run with a fault; its one message has every word. Without words
# nothing is expected of its messages.
start() {
    [ "$n_runs" -lt 6 ] || settle
    n_runs=$((n_runs + 1))
    begin "$work/$n_runs" "$@"
    pids+=($!)
}

# begin FOLDER FAULT STATUS WORDS ARGS...
begin() {
    local folder=$1 watched=$seconds
    shift
    mkdir -p "$folder/mpi"
    case $1 in term:* | int:* | hup:*) watched=$patience_s ;; esac
    printf '%s\n' "$1" "$2" "$3" "${*:4}" >"$folder/expected"
    (
        # mpirun that begins, and one that ends in the same folder of MPI's, can trip each other up.
        export OMPI_MCA_orte_tmpdir_base=$folder/mpi
        CHOIR_FAULT=$1 "${run[@]}" "$choir" "${@:4}" --watchdog-seconds "$watched" \
            <"$input" >"$folder/out" 2>"$folder/err"
        echo $? >"$folder/status"
    ) &
}

# ended FOLDER: looks at how a run has ended
ended() {
    local fault expected name list words word messages
    {
        read -r fault
        read -r expected
        read -r list
        read -r name
    } <"$1/expected"
    name="$fault, $name"
    IFS='|' read -ra words <<<"$list"
    cp "$1/out" "$1/err" "$work"
    [ "$(cat "$1/status")" -eq "$expected" ] ||
        complain "$name: exit status $(cat "$1/status"), expected $expected"
    messages=$(grep -c '^choir: error: ' "$work/err")
    [ -z "$list" ] || [ "$messages" -eq 1 ] || complain "$name: $messages messages, expected 1"
    for word in ${words[@]+"${words[@]}"}; do
        grep '^choir: error: ' "$work/err" | grep -qF -- "$word" || complain "$name: expected \"$word\""
    done
}

# settle: waits for the runs of this batch
settle() {
    local number
    wait "${pids[@]}"
    for ((number = 1; number <= n_runs; number++)); do
        ended "$work/$number"
        rm -r "${work:?}/$number"
    done
    n_runs=0
    pids=()
}

# Without a watchdog a stopped rank is waited for, until something else ends the run.
unwatched() {
    OMPI_MCA_orte_tmpdir_base=$work/unwatched-mpi CHOIR_FAULT=stop:start:1 timeout -k 30 $((seconds + 3)) "${run[@]}" "$choir" plan --watchdog-seconds 0 \
        </dev/null >/dev/null 2>"$work/unwatched"
    echo $? >>"$work/unwatched"
}

none_left() {
    local file
    for file in /proc/[0-9]*/environ; do
        grep -qzxF "CHOIR_TEST_RUN=$work" "$file" 2>/dev/null &&
            grep -qx 'choir\|mpirun' "${file%environ}comm" 2>/dev/null && return 1
    done
    return 0
}

host=$(hostname)
"$choir" shard --model "$demo" --out "$work/store" --quiet || complain "no store"
generate=(generate --prompt ROMEO: --max-tokens 20 --threads 1)
eval=(eval --task word-problems --limit 4 --threads 1 --dot chain)

# One that nobody sees stopped has ten seconds to start.
begin "$work/slow" hang:start:1 1 "waits for the others in MPI_Init|its stack: " plan
slow=$!
mkdir "$work/unwatched-mpi"
unwatched &
unwatched=$!
start stop:start:0 1 "rank 0 on $host (process |is stopped|rank 1 waits in MPI_Init" plan
start stop:groups:1 1 "rank 1 on $host (process |is stopped|rank 0 waits in placement of ranks" plan
# The watchdog of the stopped rank goes on where it was, after mpirun continues the rank to end it.
start stop:tick:0 1 "rank 0 on $host (process |is stopped" plan
start stop:agree:0 1 "rank 0 on $host (process |is stopped|rank 1 waits in placement of ranks" plan
start stop:command:1 1 "rank 1 on $host (process |is stopped|rank 0 waits in " plan
start hang:close:0 1 "rank 0 on $host (process |has been for $seconds s in the command's own work|its stack: |pause <" "${generate[@]}"
start stop:end:0 1 "rank 0 on $host (process |is stopped|rank 1 waits in " tokenize
start stop:leave:1 1 "rank 1 on $host (process |is stopped|rank 0 waits in the end of the run" plan
start stop:finalize:0 1 "rank 0 on $host (process |is stopped|rank 1 waits in MPI_Finalize" plan
start hang:command:1 1 "rank 1 on $host (process |has been for $seconds s in the command's own work|its stack: |pause <" plan
settle

start stop:open:0 1 "rank 0 on $host (process |is stopped|in opening the model|rank 1 waits in " "${generate[@]}"
start stop:load:1 1 "rank 1 on $host (process |is stopped|in loading weights|rank 0 waits in " "${generate[@]}"
start hang:load:0 1 "rank 0 on $host (process |has been for $seconds s in loading weights" "${eval[@]}" --out "$work/a"
start stop:opened:0 1 "rank 0 on $host (process |is stopped" worker --threads 1
start stop:step:1 1 "rank 1 on $host (process |is stopped|rank 0 waits in step 1" "${eval[@]}" --out "$work/b"
start stop:shard:1 1 "rank 1 on $host (process |is stopped|rank 0 waits in " shard --model "$demo" --file-size 1 --out "$work/c"
start hang:check:0 1 "rank 0 on $host (process |its stack: |pause <" shard --check "$work/store"
start stop:command:0 1 "rank 0 on $host (process |is stopped" doctor
input=$work/user
start stop:serve:1 1 "rank 1 on $host (process |is stopped" chat --threads 1
start term:serve:1 143 "" worker --threads 1
start hup:serve:1 129 "" chat --threads 1
input=/dev/null
start term:start:1 143 "" "${generate[@]}"
start int:load:1 130 "" "${generate[@]}"
start hup:load:0 129 "" "${eval[@]}" --out "$work/d"
start term:step:1 143 "" "${eval[@]}" --out "$work/e"
start int:shard:1 130 "" shard --model "$demo" --file-size 1 --out "$work/f"
start term:check:0 143 "" shard --check "$work/store"
settle

wait "$slow" "$unwatched"
ended "$work/slow"
[ "$(cat "$work/unwatched")" = 124 ] || complain "no watchdog: the run ends by itself: $(cat "$work/unwatched")"
wait_until "$limit_s" none_left || complain "ranks are left"
conclude
