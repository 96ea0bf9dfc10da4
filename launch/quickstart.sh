#!/usr/bin/env bash
# From a fresh clone to a first answer: installs what building needs and this machine lacks, builds
# Choir, and has two ranks answer a word problem with the demo model. Can be run again at any time,
# from any folder.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() {
    echo "== $*" >&2
}

# quietly COMMAND...: its output is shown only when it fails
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        echo "quickstart: this failed: $*" >&2
        exit 1
    fi
    rm -f "$log"
}

./launch/install-deps.sh
say "building (a minute or so the first time)"
quietly cmake --preset release
quietly cmake --build --preset release --target choir

# Open MPI wants to be told that two ranks may share one core, and that root is meant.
run=(mpirun -n 2)
if mpirun --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
    run+=(--oversubscribe --bind-to none)
    [ "$(id -u)" -ne 0 ] || run+=(--allow-run-as-root)
fi

question="Julia had 38 cookies. She ate half of them on the first day. How many cookies were left?"
say "${run[*]} build/choir generate --chat --prompt \"...\""
echo "Question: $question"
echo "Answer:"
# mpirun forwards answer and messages apart from each other, and would mix their ends on a terminal.
messages=$(mktemp)
status=0
"${run[@]}" build/choir generate --chat --prompt "$question" 2>"$messages" || status=$?
launch/choir-run --filter <"$messages" >&2
rm -f "$messages"
[ "$status" -eq 0 ] || exit "$status"

mpirun="mpirun -n 2"
[ "$(id -u)" -ne 0 ] || mpirun="$mpirun --allow-run-as-root"
cat >&2 <<END

== Next, in $root:

Talk to the demo model:
   $mpirun build/choir chat
See how a model of 7 billion parameters is split over 5 ranks:
   build/choir plan --config configs/qwen2.5-7b.json --ranks 5
Use a Qwen2.5 model as downloaded from its hub into DIR:
   $mpirun build/choir generate --model DIR --chat --prompt "Hello"
Serve it to OpenAI's clients at http://127.0.0.1:8000/v1 (docs/serve.md):
   $mpirun build/choir serve --model DIR

README.md and build/choir help have the rest.
END
