#!/usr/bin/env bash
# The page of a server in a headless browser, where there is one.
#
#   tests/cli/serve_page.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command -v python3 >/dev/null || exit 77
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || exit 77
! "$choir" version | grep -q 'no libmicrohttpd' || exit 77

"${run[@]}" "$choir" serve --port 0 </dev/null >"$work/out" 2>"$work/err" &
server=$!
wait_until "$patience_s" grep -qs serving "$work/err" || complain "does not begin"
url=$(grep -o 'http://[^ ]*' "$work/err")
rank=$(ps -o pid= --ppid "$server" | head -1 | tr -d ' ')
timeout "$patience_s" python3 "$root/tests/page_checks.py" "$url" "$rank" >"$work/out" 2>&1 || complain "the page"
kill "$server" 2>/dev/null
wait "$server" 2>/dev/null
conclude
