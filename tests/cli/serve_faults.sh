#!/usr/bin/env bash
# A rank that dies or stalls under a server: every open stream gets an error. SIGTERM: it ends whole, and no other is taken.
#
#   tests/cli/serve_faults.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
let_ranks_finish

command -v python3 >/dev/null || exit 77
! "$choir" version | grep -q 'no libmicrohttpd' || exit 77

# serve ARGS...: starts a server; url, server, rank_pids
serve() {
    rm -f "$work/err"
    "${run[@]}" "$choir" serve --port 0 "$@" </dev/null >"$work/out" 2>"$work/err" &
    server=$!
    wait_until "$patience_s" grep -qs serving "$work/err" || complain "serve $*: does not begin"
    url=$(grep -o 'http://[^ ]*' "$work/err")
    mapfile -t rank_pids < <(ps -o pid= --ppid "$server" | tr -d ' ')
}

# ends NAME STATUS
server_ends() {
    local status=0
    wait "$server" || status=$?
    [ "$status" -eq "$2" ] || complain "$1: exit status $status, expected $2"
}

# streams NAME SECONDS EXPECTED COMMAND...
streams() {
    local name=$1
    shift
    timeout "$patience_s" python3 "$root/tests/serve_faults.py" "$url" "$n_streams" "$@" >"$work/out" 2>&1 || complain "$name"
}

n_streams=32
serve --watchdog-seconds 5
streams "a killed rank" $((10 + limit_s)) error kill -KILL "${rank_pids[1]}"
wait "$server"
grep -q 'rank 1.* has ended' "$work/err" || complain "a killed rank: is not named"

serve --watchdog-seconds 5
streams "a stopped rank" $((10 + limit_s)) error kill -STOP "${rank_pids[1]}"
wait "$server"
grep -q 'no progress for [0-9]* s: rank 1' "$work/err" || complain "a stopped rank: is not named"

# Rank 0 has the connections. Killed, it can tell nobody; stopped, it tells when the run's end wakes it, if there is time.
serve --watchdog-seconds 5
streams "a killed coordinator" $((10 + limit_s)) broken kill -KILL "${rank_pids[0]}"
! wait "$server" || complain "a killed coordinator: the run ends with status 0"
grep -q 'rank 0.* has ended' "$work/err" || complain "a killed coordinator: is not named"

serve --watchdog-seconds 5
streams "a stopped coordinator" $((10 + limit_s)) over kill -STOP "${rank_pids[0]}"
! wait "$server" || complain "a stopped coordinator: the run ends with status 0"
grep -q 'no progress for [0-9]* s: rank 0' "$work/err" || complain "a stopped coordinator: is not named"

n_streams=8
serve --access-log "$work/log" --drain-seconds "$patience_s"
mv "$work/log" "$work/log.old"
kill -HUP "${rank_pids[0]}"
wait_until "$patience_s" test -e "$work/log" || complain "SIGHUP: no new log"
streams "SIGTERM to a rank" $((60 + limit_s)) done kill -TERM "${rank_pids[1]}"
server_ends "SIGTERM" 0
[ "$(grep -c '"path":"/v1/completions","status":200,"complete":true' "$work/log")" -eq 8 ] ||
    complain "the access log has other lines"

# choir-run passes it on to the ranks.
serve_by_choir_run() {
    rm -f "$work/err"
    "$root/launch/choir-run" --ranks "$ranks" --choir "$choir" -- serve --port 0 --drain-seconds "$patience_s" </dev/null >"$work/out" 2>"$work/err" &
    server=$!
    wait_until "$patience_s" grep -qs serving "$work/err" || complain "choir-run: does not begin"
    url=$(grep -o 'http://[^ ]*' "$work/err")
}
serve_by_choir_run
streams "SIGTERM to choir-run" $((60 + limit_s)) done kill -TERM "$server"
server_ends "SIGTERM to choir-run" 0

# No time at all: how far streams come in a second depends on the machine.
serve --drain-seconds 0
streams "an end without patience" $((60 + limit_s)) error kill -TERM "${rank_pids[0]}"
server_ends "an end without patience" 0
conclude
