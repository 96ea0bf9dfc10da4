#!/usr/bin/env bash
# What a user is told when output is lost, and which files a run replaces.
#
#   tests/cli/output.sh CHOIR RANKS     (what needs no ranks runs without mpirun)
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
reference=$root/tests/golden/demo-reference.safetensors

# ---- Standard output that takes nothing --------------------------------------------------------

"${run[@]}" "$choir" eval --quiet --task word-problems --limit 2 --out "$work/results" \
    >"$work/out" 2>"$work/err" || complain "two results to compare"
"$choir" shard --quiet --model "$demo" --out "$work/store" 2>"$work/err" || complain "a store to list"
echo "[1, 2]" >"$work/ids"
bench=(bench --quiet --layers 1 --prompt-tokens 4 --gen-tokens 2 --repeat 1 --warmup 0 --read-mib 1)
commands=(
    "plan --ranks 2" "help" "help generate" "version" "shard --list $work/store"
    "tokenize" "generate --quiet --prompt Hello --max-tokens 2"
    "verify --candidate $reference --reference $reference"
    "verify --candidate $reference --reference $reference --json"
    "eval --compare $work/results $work/results" "doctor --read-mib 1"
    "${bench[*]} --json -"
)

# lost NAME WORDS: the last command, whose status is given, lost its output
lost() {
    [ "$3" -eq 1 ] || complain "$1: exit status $3, expected 1"
    [ "$(grep -c '^choir: error: ' "$work/err")" -eq 1 ] || complain "$1: expected one message"
    says "$1" err "standard output: "
    [ -z "$2" ] || says "$1" err "$2"
}

for command in "${commands[@]}"; do
    status=0
    # shellcheck disable=SC2086
    "$choir" $command <"$work/ids" >/dev/full 2>"$work/err" || status=$?
    lost "$command to a full disk" "No space left on device" "$status"
done
status=0
"$choir" help >&- 2>"$work/err" || status=$?
lost "help to a closed output" "" "$status"
status=0
"$choir" help >/dev/full 2>&- || status=$?
[ "$status" -eq 1 ] || complain "help to a full disk without standard error: exit status $status"
status=0
"${run[@]}" bash -c "exec '$choir' plan >/dev/full" >"$work/out" 2>"$work/err" || status=$?
lost "plan under mpirun to a full disk" "No space left on device" "$status"

# A reader that has enough: quiet.
for command in "plan --ranks 64" "help generate"; do
    # shellcheck disable=SC2086
    "$choir" $command 2>"$work/err" | head -c 1 >"$work/out"
    [ "${PIPESTATUS[0]}" -eq 0 ] && [ ! -s "$work/err" ] || complain "$command | head: not quiet"
done

# ---- Progress ----------------------------------------------------------------------------------

# Under mpirun on a terminal: drawn there, and nowhere else.
if command -v script >/dev/null; then
    printf -v line '%q ' "${run[@]}" "$choir" eval --task word-problems --limit 60 --out "$work/shown"
    script -qec "$line 2>&1" "$work/screen" </dev/null >"$work/out" || complain "eval on a terminal"
    grep -q $'\rchoir: [0-9]* of 60 items' "$work/screen" || complain "eval on a terminal: no progress"
    rm -r "$work/shown"
    script -qec "$line 2>$work/err" "$work/screen" </dev/null >"$work/out" || complain "eval with a log"
    ! grep -q "items" "$work/screen" || complain "eval with a log: drawn on the terminal"
    ! grep -q $'[\r\x1b]' "$work/err" || complain "eval with a log: drawn into the log"
    rm "$work/screen"
fi

# ---- Files -------------------------------------------------------------------------------------

# A device of this test's own, in place of the machine's, where devices can be made.
null=/dev/null
mknod "$work/null" c 1 3 2>"$work/err" && null=$work/null
[ "$null" != /dev/null ] || [ "$(id -u)" -ne 0 ] || complain "no device to write to"
for flag in --trace --logits-out; do
    "${run[@]}" "$choir" generate --quiet --prompt Hello --max-tokens 1 $flag "$null" >"$work/out" \
        2>"$work/err" || complain "$flag $null"
    [ -c "$null" ] || complain "$flag $null: it is a device no more"
    mkdir -p "$work/to"
    : >"$work/to/file"
    chmod 604 "$work/to/file"
    ln -sf to/file "$work/link"
    "$choir" generate --quiet --prompt Hello --max-tokens 1 $flag "$work/link" >"$work/out" 2>"$work/err" ||
        complain "$flag to a link"
    [ -L "$work/link" ] && [ -s "$work/to/file" ] || complain "$flag to a link: expected its file"
    [ "$(stat -c %a "$work/to/file")" = 604 ] || complain "$flag: the file's mode is another"
    "$choir" generate --quiet --prompt Hello --max-tokens 1 $flag >(cat >"$work/piped") >"$work/out" \
        2>"$work/err" || complain "$flag to a pipe"
    ends "$flag to a full disk" 1 "$choir" generate --quiet --prompt Hello --max-tokens 1 $flag /dev/full
    says "$flag to a full disk" err "/dev/full: cannot write: No space left on device"
    refuses "$flag to a folder" 1 "$work found folder" \
        "$choir" generate --quiet --prompt Hello --max-tokens 1 $flag "$work"
done
refuses "--json to a folder" 1 "$work found folder" "$choir" doctor --read-mib 1 --json "$work"
ends "--json to a full disk" 1 "$choir" "${bench[@]}" --json /dev/full
says "--json to a full disk" err "/dev/full: cannot write: No space left on device"

# An answer's logits that are not complete are not there.
refuses "logits of a prompt that is refused" 2 "2047 99999" \
    "$choir" generate --ids 1,99999 --logits-out "$work/none.npy"
[ ! -e "$work/none.npy" ] || complain "logits of a prompt that is refused: they are there"

conclude
