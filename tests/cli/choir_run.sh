#!/usr/bin/env bash
# launch/choir-run: the lines that it makes, for a machine and an MPI that this test makes up; what it
# refuses; and that such a line runs.
#
#   tests/cli/choir_run.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
unset "${!SLURM_@}" "${!CHOIR_@}" OMPI_MCA_plm

# A machine of 8 cores of 2 hardware threads on 2 NUMA nodes. What root adds is left out.
machine=$work/machine
mkdir "$machine"
program() { # NAME, its text from standard input
    { echo '#!/usr/bin/env bash' && cat; } >"$machine/$1"
    chmod +x "$machine/$1"
}
program nproc <<'END'
echo "${TEST_NPROC:-16}"
END
echo 'echo 16' | program getconf
echo 'echo 1000' | program id
echo ':' | program ssh
program lscpu <<'END'
for cpu in 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7; do
    case $1 in *CORE*) echo "$cpu,$((cpu / 4))" ;; *) echo $((cpu / 4)) ;; esac
done
END
program mpirun <<'END'
if [ "$1" = --version ]; then echo "${TEST_MPI:-mpirun (Open MPI) 4.1.4}"; else printf '<%s>\n' "$@"; fi
END
printf 'a slots=4\n# b\nc slots = 2 # two\n\n' >"$work/hosts"

# makes LINE ARGS...: what --dry-run prints, without the programs' paths
makes() {
    local expected=$1 found status=0
    shift
    PATH=$machine:$PATH "$root/launch/choir-run" --choir "$choir" --dry-run "$@" >"$work/out" 2>"$work/err" ||
        status=$?
    found=$(sed "s|$(realpath "$choir")|choir|; s|$work/||g" "$work/out")
    [ "$status" -eq 0 ] || complain "$*: expected exit status 0, found $status"
    [ "$found" = "$expected" ] || complain "$*: expected $expected, found $found"
}

# rejects WORDS ARGS...
rejects() {
    local words=$1 status=0
    shift
    PATH=$machine:$PATH "$root/launch/choir-run" "$@" >"$work/out" 2>"$work/err" || status=$?
    [ "$status" -eq 2 ] || complain "$*: expected exit status 2, found $status"
    grep -qF -- "$words" "$work/err" || complain "$*: expected \"$words\""
    [ "$(wc -l <"$work/err")" -eq 1 ] || complain "$*: expected one line"
}

# ---- mpirun --------------------------------------------------------------------------------------

makes "mpirun -n 2 --map-by ppr:2:node:PE=4 --bind-to core choir chat" chat
makes "mpirun -n 1 --bind-to none choir chat --quiet" --ranks 1 -- chat --quiet
makes "mpirun -n 4 --map-by ppr:4:node:PE=2 --bind-to core choir chat" --ranks=4 chat
makes "mpirun -n 3 --map-by ppr:3:node:PE=1 --bind-to core choir chat" --ranks 3 --threads 1 -- chat
makes "mpirun -n 12 --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 choir chat" -n 12 chat
makes "mpirun -n 3 --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 choir chat --threads 4" \
    --ranks 3 --threads 4 chat
makes "mpirun -n 3 --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 choir plan" \
    --ranks 3 --threads 4 plan
TEST_NPROC=4 makes "mpirun -n 2 --bind-to none choir chat" --ranks 2 chat
makes "mpirun -n 2 --hostfile hosts --map-by ppr:1:node --bind-to none choir chat" --nodes "$work/hosts" chat
makes "mpirun -n 3 --hostfile hosts --map-by ppr:2:node:PE=16 --bind-to core choir chat" \
    --nodes "$work/hosts" --ranks 3 --threads 16 chat
makes "mpirun -n 1 --bind-to none --mca btl_tcp_if_include eth1 --mca oob_tcp_if_include eth1 choir chat" \
    --ranks 1 --interface eth1 chat
TEST_MPI="mpirun (Open MPI) 5.0.3" makes \
    "mpirun -n 1 --bind-to none --mca btl_tcp_if_include eth1 --prtemca prte_if_include eth1 choir chat" \
    --ranks 1 --interface eth1 chat
makes "mpirun -n 1 --bind-to none --mca pml ucx -x UCX_NET_DEVICES=mlx5_0:1 choir chat" \
    --ranks 1 --interface mlx5_0:1 chat
# A byte order mark: mpirun gets a copy of the file without it.
{ printf '\xef\xbb\xbf' && cat "$work/hosts"; } >"$work/marked"
TMPDIR=$work PATH=$machine:$PATH "$root/launch/choir-run" --choir "$choir" --dry-run --nodes "$work/marked" chat \
    >"$work/out" 2>"$work/err" || complain "a byte order mark: expected exit status 0"
copy=$(sed 's/.*--hostfile \([^ ]*\) .*/\1/' "$work/out")
same "a byte order mark" "$copy" "$work/hosts"
CHOIR_ISA=avx2 makes "mpirun -n 2 --hostfile hosts -x CHOIR_ISA --map-by ppr:1:node --bind-to none choir chat" \
    --nodes "$work/hosts" chat
echo 'echo 0' | program id
makes "mpirun -n 1 --allow-run-as-root --bind-to none choir chat --prompt a\\ \\'b" --ranks 1 -- chat --prompt "a 'b"

# What is printed is what runs, word by word.
PATH=$machine:$PATH "$root/launch/choir-run" --choir "$choir" -n 1 -- generate --prompt "two words  \$x" \
    >"$work/out" 2>"$work/err" || complain "expected exit status 0"
grep -qxF "<two words  \$x>" "$work/out" || complain "expected the prompt as one word"
grep -q '^choir-run: mpirun -n 1 ' "$work/err" || complain "expected the line on standard error"

# ---- srun ----------------------------------------------------------------------------------------

export SLURM_JOB_NUM_NODES=2 SLURM_CPUS_ON_NODE=64
makes "srun --mpi=pmix -N 2 -n 4 --ntasks-per-node=2 --cpus-per-task=32 --cpu-bind=cores choir chat" \
    --slurm --ranks 4 chat
makes "srun --mpi=pmix -N 1 -n 1 --ntasks-per-node=1 --cpus-per-task=64 --cpu-bind=cores choir chat" \
    --slurm --ranks 1 chat
export SLURM_NTASKS=4 SLURM_NTASKS_PER_NODE=2 SLURM_CPUS_PER_TASK=16
makes "srun --mpi=pmix -N 2 -n 4 --ntasks-per-node=2 --cpus-per-task=16 --cpu-bind=cores choir chat" --slurm chat
makes "srun --mpi=pmix -N 2 -n 2 --ntasks-per-node=1 --cpus-per-task=20 --cpu-bind=cores --hint=nomultithread choir chat" \
    --slurm --ranks 2 --threads 20 chat
unset "${!SLURM_@}"
makes "env OMPI_MCA_btl_tcp_if_include=ib0 srun --mpi=pmix -N 3 -n 6 --ntasks-per-node=2 --cpus-per-task=8 --cpu-bind=cores --hint=nomultithread choir chat" \
    --slurm --ranks 6 --ranks-per-node 2 --threads 8 --interface ib0 chat

# ---- What it refuses -----------------------------------------------------------------------------

rejects "expected a command of choir" --ranks 2
rejects "--ranks: expected a number from 1 to 99999, found \"two\"" --ranks two chat
rejects "--ranks: expected a number from 1 to 99999, found \"0\"" --ranks 0 chat
rejects "--threads: expected a number from 1 to 99999, found \"\"" --threads
rejects "unknown flag --rank" --rank 2 chat
rejects "expected --slurm or --nodes, found both" --slurm --nodes "$work/hosts" chat
rejects "$work/none: no such file" --choir "$choir" --nodes "$work/none" chat
echo '# none' >"$work/empty"
rejects "$work/empty names no machine" --choir "$choir" --nodes "$work/empty" chat
# refuses_hosts WORDS TEXT: a hostfile that is refused, with its name
refuses_hosts() {
    printf '%b' "$2" >"$work/wrong"
    rejects "--nodes: $work/wrong: $1" --choir "$choir" --nodes "$work/wrong" chat
}
refuses_hosts "line 2 ends with a carriage return (CRLF)" 'a slots=2\nb slots=2\r\n'
refuses_hosts 'line 1: expected slots= from 1 to 99999, found "slots=-1"' 'a slots=-1\n'
refuses_hosts 'line 2: expected slots= from 1 to 99999, found "slots=0"' '\na slots=0'
refuses_hosts "line 1: expected one number of slots, found slots=2 and slots=3" 'a slots=2 slots=3\n'
refuses_hosts "line 4: a is on line 1 already" 'a\nb\n# c\na slots=4\n'
refuses_hosts 'line 1: expected slots=K after the name, found "bananas"' 'a bananas\n'
refuses_hosts 'line 1: expected "a slots=4" as Open MPI writes it, found "a:4"' 'a:4\n'
refuses_hosts 'line 1: expected the name of a machine first, found "slots=4"' 'slots=4\n'
rejects "--ranks 5: expected at most 4, 2 on each of 2 machine(s)" \
    --choir "$choir" --nodes "$work/hosts" --ranks 5 --ranks-per-node 2 chat
rejects "expected slots=3 or more for 3 ranks on each machine, found slots=2" \
    --choir "$choir" --nodes "$work/hosts" --ranks 6 chat
rejects "--choir: $work is no program" --choir "$work" chat
TEST_MPI="HYDRA build details:" rejects "expected Open MPI's mpirun, found" --choir "$choir" chat

# ---- What the launcher says ----------------------------------------------------------------------

line=$(printf -- '-%.0s' {1..74})
says_through() { # NAME, text, what is left of it
    printf '%b' "$2" | "$root/launch/choir-run" --filter >"$work/out" || complain "--filter: $1"
    [ "$(cat "$work/out")" = "$(printf '%b' "$3")" ] || complain "--filter: $1: expected $3"
}
says_through "a rank that ended" \
    "choir: error: x\n$line\nPrimary job  terminated normally, but 1 process returned\nchoir: warning: y\na non-zero exit code.\n$line\n$line\nmpirun detected that one or more processes exited with non-zero status, thus causing\nthe job to be terminated.\n$line\n" \
    "choir: error: x\nchoir: warning: y"
says_through "what may be wrong" "$line\nThere are not enough slots available\n$line\nend" \
    "$line\nThere are not enough slots available\n$line\nend"
says_through "an open end" "$line\nA process\n" "$line\nA process"
says_through "counts of messages" \
    '[n:1] 3 more processes have sent help message help-mpi.txt / x\n[n:1] Set MCA parameter "orte_base_help_aggregate" to 0 to see\n[n:1] 1 other thing\n' \
    "[n:1] 1 other thing"
says_through "srun" "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n1: task 0: Segmentation fault\n" \
    "srun: error: n1: task 0: Segmentation fault"
says_through "libevent" \
    "[warn] Epoll MOD(1) on fd 25 failed. Old events were 6; read change was 0\nchoir: error: x\n[warn] other\n" \
    "choir: error: x\n[warn] other"

# started STATUS LINES ARGS...: a run on the ranks, and how many lines it says besides choir-run's own
started() {
    local expected=$1 lines=$2 status=0
    shift 2
    "$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- "$@" </dev/null >"$work/out" 2>"$work/err" ||
        status=$?
    [ "$status" -eq "$expected" ] || complain "$*: exit status $status, expected $expected"
    [ "$(grep -vc '^choir-run: mpirun ' "$work/err")" -eq "$lines" ] || complain "$*: expected $lines lines of messages"
}
started 2 1 generate --bad
says "a wrong flag" err "choir: error: unknown flag --bad"
started 1 1 generate --model "$work/none" --prompt Hello
status=0
"$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- help >/dev/full 2>"$work/err" || status=$?
[ "$status" -eq 1 ] || complain "a full disk: exit status $status, expected 1"
says "a full disk" err "No space left on device"
"$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- help 2>"$work/err" | head -c 1 >"$work/out"
[ "${PIPESTATUS[0]}" -eq 0 ] && [ "$(wc -l <"$work/err")" -eq 1 ] || complain "a reader that goes away: not quiet"
# It ends a run that has more to say.
"$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- generate Hello --ignore-eos --max-tokens 5000 2>"$work/err" |
    head -c 1 >"$work/out"
[ "${PIPESTATUS[0]}" -eq 0 ] && ! grep -q SIGPIPE "$work/err" && ! grep -q " generated, " "$work/err" ||
    complain "a reader that goes away from a long answer"
echo "[1, 2]" | "$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- tokenize --decode >"$work/out" 2>"$work/err"
[ -s "$work/out" ] || complain "standard input: does not reach the first rank"
if command -v script >/dev/null; then
    script -qec "'$root/launch/choir-run' --choir '$choir' --ranks $ranks -- eval --task word-problems --limit 60 --out '$work/shown'" \
        "$work/screen" </dev/null >"$work/out" || complain "eval on a terminal"
    grep -q $'\rchoir: [0-9]* of 60 items' "$work/screen" || complain "eval on a terminal: no progress"
fi
# A signal to choir-run is one to the run.
timeout "$patience_s" "$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- worker --quiet <&- >"$work/out" 2>"$work/err" ||
    complain "a worker without standard input: exit status $?"
: >"$work/out" # of the worker before, whose words would be taken for the next one's
"$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- worker \
    < <(exec sleep 20) >"$work/out" 2>"$work/err" &
running=$!
wait_until "$patience_s" grep -q '"info"' "$work/out" || complain "a worker: does not start"
kill -TERM "$running"
status=0
wait "$running" || status=$?
[ "$status" -ne 0 ] || complain "a signal: exit status 0"

# ---- A run ---------------------------------------------------------------------------------------

"$root/launch/choir-run" --choir "$choir" --ranks "$ranks" -- generate --prompt "ROMEO:" --max-tokens 4 \
    </dev/null >"$work/out" 2>"$work/err" || complain "a run: exit status is not 0"
grep -q "$ranks ranks x " "$work/err" || complain "a run: expected $ranks ranks"
[ -s "$work/out" ] || complain "a run: expected an answer"

conclude
