# What the tests on a cluster share: sourced by them, on node1.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cluster=$here/cluster.sh
# shellcheck source=tests/wait.sh
. "$root/tests/wait.sh"
if [ -z "${CHOIR_CLUSTER_HOLDERS:-}" ]; then
    echo "$0: to be run inside of tests/cluster/cluster.sh" >&2
    exit 2
fi
n_nodes=$(wc -w <<<"$CHOIR_CLUSTER_HOLDERS")
work=$(mktemp -d)
# Not in a process that bash has forked for a command and that a signal ends before the command begins: it runs this too.
trap '[ "$BASHPID" -ne $$ ] || rm -rf "$work"' EXIT
: >"$work/err"
failures=0
cases=0

# Nothing is left of a run that ends by itself.
export OMPI_MCA_odls_base_sigkill_timeout=0

complain() {
    echo "FAILED on $n_nodes nodes: $*" >&2
    tail -20 "$work/err" | sed 's/^/    /' >&2
    failures=$((failures + 1))
}

# on_all RANKS COMMAND...: so many ranks on each node
on_all() {
    local each=$1
    shift
    mpirun --quiet --host "$("$cluster" hosts "$each")" --timeout "${CHOIR_TEST_SECONDS:-300}" "$@"
}

# pid_of RANK: the process of a rank of the one run that goes on
pid_of() {
    local pid
    for pid in $(pgrep -x choir); do
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1" && echo "$pid" && return
    done
    return 1
}

# A process that has ended may stay in the table until somebody asks for its status.
no_ranks() {
    ! ps -o stat= -C choir,cluster_loop | grep -qv '^Z'
}

finish() {
    echo "$cases cases on $n_nodes nodes, $failures failed"
    [ "$failures" -eq 0 ]
    exit
}
