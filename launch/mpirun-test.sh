#!/bin/sh
# Runs a test program on several ranks of this machine, more than it has cores if need be:
#   launch/mpirun-test.sh RANKS PROGRAM [ARGS...]
# Exits with the program's status; a rank that fails ends the others, a run that hangs is ended after
# CHOIR_TEST_SECONDS (default 300).
set -eu

if [ $# -lt 2 ]; then
    echo "usage: $0 RANKS PROGRAM [ARGS...]" >&2
    exit 2
fi
ranks=$1
shift

# Waiting ranks give their core to those that work; nothing looks for a way to other machines.
export OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_plm=isolated

as_root=
if [ "$(id -u)" -eq 0 ]; then
    as_root=--allow-run-as-root
fi
exec mpirun -n "$ranks" --oversubscribe --bind-to none $as_root \
    --timeout "${CHOIR_TEST_SECONDS:-300}" "$@"
