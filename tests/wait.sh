# shellcheck shell=bash
# What scripts of tests/cli and tests/cluster wait with; sourced by what each folder's scripts share.

# wait_until SECONDS COMMAND...: until the command succeeds; fails when it does not in time
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}
