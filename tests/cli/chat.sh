#!/usr/bin/env bash
# A conversation on a terminal: lines, commands, and Ctrl-C, which ends an answer and not the session,
# with mpirun and without. Needs script(1) for the terminal; exits with 77 where that is missing.
#
#   tests/cli/chat.sh CHOIR RANKS      RANKS 0: without mpirun
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
let_ranks_finish
# Jobs in the background would ignore Ctrl-C otherwise.
set -m

command -v script >/dev/null || exit 77
# The shell that script(1) starts must outlive the Ctrl-C that its child handles: bash does, dash does not.
SHELL=$(command -v bash)
export SHELL
[ "$ranks" -gt 0 ] || run=()

# shows N TEXT: until the screen has N lines with the text
shows() {
    wait_until "$patience_s" on_screen "$1" "$2" || complain "expected $1 times \"$2\""
}

on_screen() {
    [ "$(grep -cF -- "$2" "$work/screen")" -ge "$1" ]
}

# session FLAGS: starts a chat on a terminal of its own; keys go to descriptor 3
session() {
    rm -f "$work/keys"
    mkfifo "$work/keys"
    : >"$work/screen"
    script -qfec "${run[*]} $choir chat $1; echo status \$?; stty -a" "$work/screen" \
        <"$work/keys" >/dev/null 2>&1 &
    pid=$!
    exec 3>"$work/keys"
    shows 1 "> "
}

type_line() {
    printf '%s\n' "$1" >&3
}

# Ends the session and looks at what is left of it.
leave() {
    shows 1 "status 0"
    shows 1 "intr = ^C"
    shows 1 "eol = <undef>"
    exec 3>&-
    wait "$pid"
}

greeting="I can solve short word problems"

session ""
type_line "Hello"
shows 1 "$greeting"
type_line "/help"
shows 1 "/reset"
type_line "/nonsense"
shows 1 "unknown command"
type_line "/reset"
shows 1 "new conversation"
type_line "Hello"
# The answer has ended, too: Ctrl-C would end it otherwise. Six lines begin with the prompt by then.
shows 6 "> "
shows 2 "$greeting"
printf 'half a line\003' >&3
shows 1 "Ctrl-D leaves"
type_line "/quit"
leave

# An answer without end, which Ctrl-C ends; then the session goes on.
session "--ignore-eos --max-tokens 100000 --kv-tokens 1024 --threads 1"
type_line "Hello"
shows 1 "$greeting"
printf '\003' >&3
type_line "/reset"
shows 1 "new conversation"
type_line "/quit"
leave

# A limit that ends an answer is named.
session "--ignore-eos --max-tokens 3"
type_line "Hello"
shows 1 "(cut off: --max-tokens 3)"
type_line "/quit"
leave

# Ctrl-D leaves too.
session ""
printf '\004' >&3
leave

conclude
