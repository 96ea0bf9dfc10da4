#!/usr/bin/env bash
# A conversation on a terminal: editing, pastes, commands, what is typed early, and Ctrl-C, which ends an
# answer and not the session, with mpirun and without.
#
#   tests/cli/chat.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
let_ranks_finish
# Jobs in the background would ignore Ctrl-C otherwise.
set -m
# As users have it: with MPI's helper.
unset OMPI_MCA_ess_singleton_isolated
[ "$ranks" -gt 0 ] || run=()
export XDG_STATE_HOME=$work/state
edited=1
n_sessions=0
"$choir" version | grep -q "no libedit" && edited=0

# shows N TEXT: until the screen has N lines with the text
shows() {
    wait_until "$patience_s" on_screen "$1" "$2" || complain "session $n_sessions: expected $1 times \"$2\""
}

on_screen() {
    [ "$(grep -cF -- "$2" "$work/screen")" -ge "$1" ]
}

# session FLAGS [TERM [TEXT]]: starts a chat on a terminal of its own, and waits for a prompt or a text;
# keys go to descriptor 3
session() {
    flags=$1
    n_sessions=$((n_sessions + 1))
    rm -f "$work/keys" "$work/saved"
    mkfifo "$work/keys"
    : >"$work/screen"
    # The shell of the terminal must outlive the Ctrl-C that its child handles: bash does, dash does not.
    TERM=${2:-xterm} "$(dirname "$choir")/tests/on_terminal" 24 80 bash -c \
        "bash -c 'echo \$\$ >$work/pid; exec ${run[*]} $choir chat $1'; echo status \$?; stty -a" \
        <"$work/keys" >"$work/screen" 2>&1 &
    pid=$!
    exec 3>"$work/keys"
    [ -z "${3-> }" ] || shows 1 "${3-> }"
}

type_line() {
    printf '%s\r' "$1" >&3
}

# saves TEXT: /save of the conversation so far, which holds the text
saves() {
    rm -f "$work/saved"
    type_line "/save $work/saved"
    wait_until "$patience_s" test -s "$work/saved" || complain "nothing was saved"
    grep -qF -- "$1" "$work/saved" || complain "expected \"$1\", saved $(cut -c 1-300 "$work/saved")"
}

# leave [STATUS]: the session ends (empty: with any status), and leaves the terminal as it was
leave() {
    local expected=${1-0} found
    shows 1 "status "
    shows 1 "intr = ^C"
    shows 1 "eol = <undef>"
    shows 1 " icanon"
    shows 1 " echo "
    shows 1 " icrnl"
    found=$(grep -ao 'status [0-9]*' "$work/screen" | tail -n 1)
    [ -z "$expected" ] || [ "$found" = "status $expected" ] ||
        complain "session $n_sessions, choir chat $flags: expected status $expected, found \"$found\""
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

# What ends the program ends it in order.
session ""
kill -TERM "$(cat "$work/pid")"
leave ""

# Settings and commands. Messages of commands that are asked for come with --quiet too, others do not.
session "--quiet --max-tokens 1" xterm "$([ "$edited" = 1 ] && printf '\033[?2004h')"
type_line "/set top-p 1.5"
shows 1 "--top-p: expected a number from 0 to 1, found 1.5"
type_line "/set temprature 1"
shows 1 "did you mean temperature"
type_line "/set temperature=0.25"
type_line "/set"
shows 1 "temperature         0.25"
type_line "//a slash"
type_line "/rest"
shows 1 "did you mean /reset"
type_line "/save $work/nowhere/saved"
shows 1 "choir: error: $work/nowhere/saved"
saves '{"role":"user","content":"/a slash"}'
: >"$work/there"
type_line "/save $work/there"
shows 1 "there: exists already"
type_line "/system Be brief"
saves '{"messages":[{"role":"system","content":"Be brief"}]}'
printf '\004' >&3
leave
! grep -qE "^> |leaves|new conversation|saved to" "$work/screen" || complain "--quiet said more"

# A terminal without a line editor: lines as it edits them, and none that it has cut.
session "--max-tokens 1" dumb
head -c 5000 /dev/zero | tr '\0' x >&3
type_line ""
shows 1 "4095 bytes of a line"
type_line "plain"
saves '"content":"plain"'
type_line "/quit"
leave

# Lines of any length where no terminal cuts them, and an answer to the last one, which has no newline.
head -c 5000 /dev/zero | tr '\0' x >"$work/long"
printf '/system %s\n/save %s\n/system short\nHello' "$(cat "$work/long")" "$work/saved.long" |
    "${run[@]}" "$choir" chat --max-tokens 8 >"$work/out" 2>"$work/err"
grep -qF "\"$(cat "$work/long")\"" "$work/saved.long" || complain "a long line of a pipe was not saved whole"
[ -s "$work/out" ] || complain "no answer to a line without newline"

[ "$edited" = 1 ] || conclude

# Editing: arrows, Home, End, Delete; characters of two columns; what is not in the line when Enter comes.
session "--max-tokens 1"
type_line $'/system Hxllo wrld\x1b[D\x1b[D\x1b[Do\x1b[1~\x1b[C\x1b[1;5C\x1b[C\x1b[C\x1b[3~e'
saves '"content":"Hello world"'
type_line $'/system \u65e5\u672c\u00e9\x1b[D\x1b[D\x7f\u8a9e'
saves $'"content":"\u8a9e\u672c\u00e9"'
# Several lines by Ctrl-J, Alt-Enter and a backslash, with Up and Down among them.
type_line $'/system one\ntwo\x1b\rthree\\\rfour\x1b[A\x1b[A\x1b[F!\x1b[B\x1b[F?'
saves '"content":"one\ntwo!\nthree?\nfour"'
# Earlier texts: by arrows, and by searching them.
type_line $'\x1b[A\x1b[A'
shows 4 "(system message set"
saves '"content":"one\ntwo!\nthree?\nfour"'
type_line $'\x12Hello'
shows 5 "(system message set"
saves '"content":"Hello world"'
# A paste is part of the line, and not sent by its newlines.
type_line $'/system <\x1b[200~first\rsecond\r\x1b[201~>'
saves '"content":"<first\nsecond\n>"'
# 100 kB of them come as they are.
awk 'BEGIN { for (i = 0; i < 4000; i++) printf "line %d of a long paste\r", i }' >"$work/paste"
{
    printf '/system \x1b[200~'
    cat "$work/paste"
    printf '\x1b[201~.\r'
} >&3
shows 7 "(system message set"
type_line "/save $work/saved.paste"
wait_until "$patience_s" test -s "$work/saved.paste"
sed 's/\r/\\n/g' "$work/paste" >"$work/expected"
{ printf '{"messages":[{"role":"system","content":"' && cat "$work/expected" && echo '."}]}'; } |
    cmp - "$work/saved.paste" || complain "a long paste is not as it was pasted"
printf '\004' >&3
leave

# The next session knows the texts of the last; a file that belongs to the user alone keeps them.
[ "$(stat -c %a "$XDG_STATE_HOME/choir/history")" = 600 ] || complain "the history may be read by others"
session "--max-tokens 1"
type_line $'\x12Hello\x05, again'
saves '"content":"Hello world, again"'
type_line "/quit"
leave
cp "$XDG_STATE_HOME/choir/history" "$work/kept"
session "--max-tokens 1 --no-history"
type_line "a secret"
saves "a secret"
type_line "/quit"
leave
same "history with --no-history" "$work/kept" "$XDG_STATE_HOME/choir/history"

# What is typed during an answer waits for the next prompt; Ctrl-C drops what was typed before it.
session "--ignore-eos --max-tokens 100000 --kv-tokens 1024 --threads 1"
type_line "Hello"
shows 1 "$greeting"
printf 'dropped\003/system kept\r' >&3
shows 1 "(system message set"
saves '{"messages":[{"role":"system","content":"kept"}]}'
type_line "/quit"
leave

conclude
