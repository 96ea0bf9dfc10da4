# shellcheck shell=bash
# What the scripts of this folder have in common; each begins with
#
#   . "$(dirname "${BASH_SOURCE[0]}")/common.sh"
#
# choir, ranks     the script's two arguments; 0 ranks: one, without mpirun
# n_ranks          how many there are then: 1 or $ranks
# root, demo       of the repository; its demo model
# work             an empty folder, gone when the script ends; out and err in it: what the last command said
# mpi, run         the words that start a program on a number of ranks yet to be given; on $ranks
# failures         what complain has counted
set -u

choir=$1
ranks=$2
# shellcheck disable=SC2034
n_ranks=$((ranks > 0 ? ranks : 1))
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tests/wait.sh
. "$root/tests/wait.sh"
# shellcheck disable=SC2034
demo=$root/configs/demo
work=$(mktemp -d)
# Not in a process that bash has forked for a command and that a signal ends before the command begins: it runs this too.
trap '[ "$BASHPID" -ne $$ ] || rm -rf "$work"' EXIT
failures=0
# How long a test may wait for anything, and how long a user has to wait for a message.
patience_s=${CHOIR_TEST_SECONDS:-300}
# shellcheck disable=SC2034
limit_s=${CHOIR_CLI_SECONDS:-5}

# Waiting ranks give their core to those that work. Where a run ends by itself nothing is left of it, for
# which mpirun would wait before it kills it.
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_plm=isolated OMPI_MCA_odls_base_sigkill_timeout=0

# Quiet: without mpirun's own words about a rank that exits with a status.
mpi=(mpirun --quiet --oversubscribe --bind-to none --timeout "$patience_s")
[ "$(id -u)" -ne 0 ] || mpi+=(--allow-run-as-root)
run=("${mpi[@]}" -n "$ranks")
# Without mpirun MPI starts a helper of its own, which one rank does not need. All such ranks of a machine have the same
# folder of MPI's (jf.0/1/0), which the first one that ends removes, also where another one is just starting in it: so
# each script has its own.
export OMPI_MCA_ess_singleton_isolated=1 OMPI_MCA_orte_tmpdir_base=$work/mpi
mkdir "$OMPI_MCA_orte_tmpdir_base"
[ "$ranks" -gt 0 ] || run=(timeout --foreground "$patience_s")

# For runs that are told to stop: their ranks have the time that mpirun grants by itself.
let_ranks_finish() {
    unset OMPI_MCA_odls_base_sigkill_timeout
}

# launch RANKS ARGS...: choir, without input
launch() {
    local count=$1 start=("${mpi[@]}" -n "$1")
    [ "$count" -gt 0 ] || start=("${run[@]}")
    shift
    "${start[@]}" "$choir" "$@" </dev/null
}

# complain TEXT: counts a failure, and shows what was said last
complain() {
    local file
    echo "FAILED at $ranks ranks: $*" >&2
    for file in out err; do
        [ ! -s "$work/$file" ] || tail -n 10 "$work/$file" | cut -c 1-300 | sed "s/^/    $file: /" >&2
    done
    # Of a terminal (chat.sh) what came before its settings, enough for a sanitizer's report.
    [ ! -s "$work/screen" ] || sed '/^speed [0-9]* baud/,$d' "$work/screen" | tail -n 60 | cut -c 1-300 | cat -v |
        sed "s/^/    screen: /" >&2
    failures=$((failures + 1))
}

# ends NAME STATUS COMMAND...: runs it without input; there has to be one message where STATUS is not 0,
# and none where it is
ends() {
    local name=$1 expected=$2 status=0 messages
    shift 2
    "$@" </dev/null >"$work/out" 2>"$work/err" || status=$?
    [ "$status" -eq "$expected" ] || complain "$name: exit status $status, expected $expected"
    messages=$(grep -c '^choir: error: ' "$work/err")
    [ "$messages" -eq $((expected > 0 ? 1 : 0)) ] ||
        complain "$name: $messages messages, expected $((expected > 0 ? 1 : 0))"
}

# refuses NAME STATUS WORDS COMMAND...: ends without a result, with one message that holds every word
refuses() {
    local name=$1 expected=$2 words=$3 word
    shift 3
    ends "$name" "$expected" "$@"
    [ ! -s "$work/out" ] || complain "$name: wrote to standard output"
    for word in $words; do
        says "$name" err "$word"
    done
}

# says NAME FILE TEXT: what was said (out or err) holds the text
says() {
    grep -qF -- "$3" "$work/$2" || complain "$1: expected \"$3\" in its $2"
}

# same NAME FILE FILE
same() {
    cmp -s "$2" "$3" || {
        complain "$1: not the same"
        diff "$2" "$3" | head -5 >&2
    }
}

# conclude: the end of a script
conclude() {
    echo "$(basename "$0" .sh) at $ranks ranks: $failures failed"
    [ "$failures" -eq 0 ]
    exit
}
