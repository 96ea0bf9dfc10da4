#!/usr/bin/env bash
# `choir shard` as a user runs it: making, checking, listing, unpacking and using stores, and what
# can go wrong.
#
#   tests/cli/shard.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
small=
trap '[ "$BASHPID" -ne $$ ] || { [ -z "$small" ] || umount "$small"; rm -rf "$work"; }' EXIT

# choir_ends NAME STATUS ARGS...
choir_ends() {
    local name=$1 expected=$2
    shift 2
    ends "$name" "$expected" "${run[@]}" "$choir" "$@"
}

# flip FILE OFFSET: changes a byte
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\x$(printf %02x $((byte ^ 32)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# ---- All is well -------------------------------------------------------------------------------

choir_ends "make" 0 shard --model "$demo" --out "$work/store" --file-size 1
says "make" err "$work/store: 3."
[ ! -s "$work/out" ] || complain "make: wrote to standard output"
[ -z "$(find "$work" -name '*.partial-*')" ] || complain "make: left a partial folder"
cmp -s "$work/store/tokenizer.json" "$demo/tokenizer.json" || complain "make: tokenizer.json differs"

choir_ends "check" 0 shard --check "$work/store"
says "check" err "all 712 blocks are right"
choir_ends "list" 0 shard --list "$work/store"
says "list" out "model.layers.5.mlp.down_proj.weight"
says "list" out "model.safetensors"
[ "$(grep -c '^model\.' "$work/out")" -eq 75 ] || complain "list: expected 74 tensors and a file"
choir_ends "unpack" 0 shard --unpack "$work/store" --out "$work/again"
for file in model.safetensors config.json tokenizer.json vocab.json merges.txt; do
    cmp "$work/again/$file" "$demo/$file" || complain "unpack: $file differs"
done

# Templates in a folder of their own do not fit into a store, and that is said.
mkdir -p "$work/templates/additional_chat_templates"
ln -s "$demo"/* "$work/templates/"
choir_ends "more templates" 0 shard --model "$work/templates" --out "$work/without"
says "more templates" err "choir: warning: $work/templates/additional_chat_templates: a store has no folders"
rm "$work"/without/data-*
choir_ends "data that is not there" 1 shard --check "$work/without"
[ "$(grep -c 'could not be opened' "$work/out")" -le "$ranks" ] || complain "data that is not there: told block by block"
says "data that is not there" err "713 of its 720 blocks and files are damaged"
rm -r "$work/templates" "$work/without"
mkdir "$work/nothing"
refuses "a store of no files" 1 "nothing/choir-store.json" "$choir" shard --check "$work/nothing"

answer() { # NAME ARGS...: the answer, to a file of that name
    local name=$1
    shift
    choir_ends "$name" 0 generate --chat --prompt "Hello" --max-tokens 20 --quiet \
        --logits-out "$work/$name.npy" "$@"
    cp "$work/out" "$work/$name.txt"
}

same_answer() { # NAME OTHER: whether two answers are alike to the bit
    cmp -s "$work/$1.txt" "$work/$2.txt" || complain "$2: another answer than $1"
    cmp -s "$work/$1.npy" "$work/$2.npy" || complain "$2: other logits than $1"
}

answer source --model "$demo"
answer stored --model "$work/store"
same_answer source stored

# Codes, scales and zeros of quantised models are stored as they are: the digest of the checkpoint, and its logits.
for kind in int4 int8 fp8 mixed; do
    quantised=$root/tests/golden/quantised/$kind
    choir_ends "$kind" 0 shard --model "$quantised" --out "$work/$kind"
    choir_ends "$kind from a store" 0 verify --threads 1 --chained --model "$work/$kind" \
        --reference "$quantised-reference.safetensors"
done

# Flags and files are the same whatever the number of ranks.
[ "$ranks" -eq 2 ] || conclude

choir_ends "layers" 0 shard --model "$demo" --out "$work/layers" --layers 3 --level 1 --threads 1
[ "$(find "$work/layers" -name '*.choir' | wc -l)" -eq 3 ] || complain "layers: expected 3 files"

# ---- Using it ----------------------------------------------------------------------------------

answer by-layers --model "$work/layers" --comm mpi
same_answer source by-layers
answer staging --model "$work/store" --stage "$work/stage"
same_answer source staging
[ -n "$(find "$work/stage" -name 'data-*')" ] || complain "stage: nothing there"
answer staged --model "$work/store" --stage "$work/stage"
same_answer source staged
choir_ends "tokenize" 0 tokenize --model "$work/store"
choir_ends "plan" 0 plan --model "$work/store" --ranks 3
choir_ends "verify" 0 verify --threads 1 --isolated --attention eager --model "$work/store" \
    --reference "$root/tests/golden/demo-reference.safetensors"

# ---- What can go wrong -------------------------------------------------------------------------

choir_ends "nothing to do" 2 shard
choir_ends "no place to go" 2 shard --unpack "$work/store"
choir_ends "two things at once" 2 shard --check "$work/store" --list "$work/store"
choir_ends "a level that is none" 2 shard --model "$demo" --out "$work/x" --level 20
choir_ends "something is there" 1 shard --model "$demo" --out "$work/store"
says "something is there" err "$work/store: expected nothing there yet"
choir_ends "no such model" 1 shard --model "$work/nowhere" --out "$work/x"
choir_ends "no such store" 1 shard --check "$work/nowhere"
choir_ends "a store of a store" 2 shard --model "$work/store" --out "$work/x"
choir_ends "no such folder" 1 shard --model "$demo" --out "$work/nowhere/store"
choir_ends "a model that is no store" 2 generate --ids 1 --model "$demo" --stage "$work/stage"
says "a model that is no store" err "--stage"

cp -r "$work/store" "$work/damaged"
flip "$work/damaged/data-00001.choir" 5000
flip "$work/damaged/data-00002.choir" 90000
flip "$work/damaged/merges.txt" 100
choir_ends "damage" 1 shard --check "$work/damaged"
says "damage" err "3 of its"
says "damage" out "$work/damaged/data-00001.choir: tensor model.layers."
says "damage" out "$work/damaged/data-00002.choir: tensor model.layers."
says "damage" out "rows "
says "damage" out "$work/damaged/merges.txt"
choir_ends "damage, loading" 1 generate --ids 1 --model "$work/damaged"
for command in tokenize plan "doctor --read-mib 1"; do
    # shellcheck disable=SC2086
    refuses "damage, $command" 1 "$work/damaged/merges.txt checksum" "${run[@]}" "$choir" $command --model "$work/damaged"
done
cp -r "$work/store" "$work/short"
truncate -s 500000 "$work/short/data-00002.choir"
choir_ends "truncated" 1 generate --ids 1 --model "$work/short"
says "truncated" err "data-00002.choir: expected"
choir_ends "truncated, unpacking" 1 shard --unpack "$work/short" --out "$work/x"
[ ! -e "$work/x" ] || complain "something was left under a final name"

# Ended by the user, however far it came, and run again.
timeout -s TERM 0.7 "${run[@]}" "$choir" shard --model "$demo" --out "$work/resumed" \
    --file-size 1 --level 0 >/dev/null 2>&1 </dev/null
[ -e "$work/resumed" ] ||
    choir_ends "resumed" 0 shard --model "$demo" --out "$work/resumed" --file-size 1
diff -r "$work/store" "$work/resumed" >/dev/null || complain "resumed: another store"

# interrupted RANKS SIGNAL STATUS WORDS ARGS...: the signal waits, blocked, for the program to hear it; on two
# ranks the first one hears nothing.
interrupted() {
    local count=$1 signal=$2 expected=$3 words=$4 status=0
    shift 4
    # shellcheck disable=SC2016
    "${mpi[@]}" -n "$count" env --block-signal="$signal" sh -c \
        '[ "$OMPI_COMM_WORLD_RANK,$1" = 0,2 ] || kill -s "$2" $$; shift 2; exec "$@"' sh "$count" "$signal" \
        "$choir" "$@" </dev/null >"$work/out" 2>"$work/err" || status=$?
    [ "$status" -eq "$expected" ] || complain "$signal at $count ranks: exit status $status, expected $expected"
    grep -q "^choir: warning: \(rank 1: \)\?interrupted; $words" "$work/err" ||
        complain "$signal at $count ranks: expected a word about it"
    [ "$(wc -l <"$work/err")" -eq 1 ] || complain "$signal at $count ranks: expected one line"
}
stopped=(shard --model "$demo" --out "$work/stopped" --file-size 1)
interrupted 2 INT 130 "what is finished is kept in $work/stopped.partial-.* the same command" "${stopped[@]}"
partial=$(echo "$work"/stopped.partial-*)
[ -s "$partial/data-00000.choir" ] || complain "expected the first rank's data file"
before=$(cksum "$partial/data-00000.choir")
interrupted 1 INT 130 "what is finished is kept in $partial, and" "${stopped[@]}"
interrupted 1 TERM 143 "what is finished is kept in $partial, and" "${stopped[@]}"
[ "$(cksum "$partial/data-00000.choir")" = "$before" ] || complain "interrupted: something was removed"
interrupted 2 TERM 143 "the same command begins again" shard --check "$work/store"
interrupted 1 INT 130 "the same command begins again" shard --unpack "$work/store" --out "$work/unpacked"
[ ! -e "$work/unpacked" ] || complain "interrupted: unpacked under the final name"
choir_ends "stopped and resumed" 0 shard --model "$demo" --out "$work/stopped" --file-size 1
says "stopped and resumed" err "the rest was there already"
diff -r "$work/store" "$work/stopped" >/dev/null || complain "stopped and resumed: another store"

# A disk of 2 MB, where one can be had.
mkdir "$work/small"
if mount -t tmpfs -o size=2m none "$work/small" 2>/dev/null; then
    small=$work/small
    choir_ends "full disk" 1 shard --model "$demo" --out "$small/store"
    says "full disk" err "MB of room"
    [ -z "$(ls "$small")" ] || complain "full disk: something was written"
    choir_ends "full disk, unpacking" 1 shard --unpack "$work/store" --out "$small/model"
    answer staged-full --model "$work/store" --stage "$small/stage"
    same_answer source staged-full
else
    echo "full disk: not tried, since nothing can be mounted here"
fi

conclude
