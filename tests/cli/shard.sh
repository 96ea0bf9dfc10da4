#!/usr/bin/env bash
# `choir shard` as a user runs it: making, checking, listing, unpacking and using stores, and what
# can go wrong.
#
#   tests/cli/shard.sh CHOIR RANKS
set -u

choir=$1
ranks=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
demo=$root/configs/demo
work=$(mktemp -d)
small=
trap '[ -z "$small" ] || umount "$small"; rm -rf "$work"' EXIT
failures=0
cases=0

export OMPI_MCA_odls_base_sigkill_timeout=0 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_plm=isolated
run=(mpirun --quiet --oversubscribe --bind-to none --timeout 60)
[ "$(id -u)" -ne 0 ] || run+=(--allow-run-as-root)

complain() {
    echo "FAILED at $ranks ranks: $*" >&2
    tail -n 5 "$work/out" "$work/err" | sed 's/^/    /' >&2
    failures=$((failures + 1))
}

# choir_ends NAME STATUS ARGS...: runs and judges the exit status, and that there is one message
choir_ends() {
    local name=$1 expected=$2 status=0
    shift 2
    cases=$((cases + 1))
    "${run[@]}" -n "$ranks" "$choir" "$@" </dev/null >"$work/out" 2>"$work/err" || status=$?
    [ "$status" -eq "$expected" ] || complain "$name: exit status $status, expected $expected"
    [ "$(grep -c '^choir: error: ' "$work/err")" -eq $((expected > 0 ? 1 : 0)) ] ||
        complain "$name: expected $((expected > 0 ? 1 : 0)) message"
}

says() { # NAME FILE TEXT
    grep -qF -- "$3" "$work/$2" || complain "$1: expected \"$3\" in its $2"
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
# conclude: the end, also of the shorter list
conclude() {
    echo "$cases cases at $ranks ranks, $failures failed"
    [ "$failures" -eq 0 ]
    exit
}

choir_ends "list" 0 shard --list "$work/store"
says "list" out "model.layers.5.mlp.down_proj.weight"
says "list" out "model.safetensors"
[ "$(grep -c '^model\.' "$work/out")" -eq 75 ] || complain "list: expected 74 tensors and a file"
choir_ends "unpack" 0 shard --unpack "$work/store" --out "$work/again"
for file in model.safetensors config.json tokenizer.json vocab.json merges.txt; do
    cmp "$work/again/$file" "$demo/$file" || complain "unpack: $file differs"
done

answer() { # NAME ARGS...: the answer, to a file of that name
    local name=$1
    shift
    choir_ends "$name" 0 generate --chat --prompt "Hello" --max-tokens 20 --quiet \
        --logits-out "$work/$name.npy" "$@"
    cp "$work/out" "$work/$name.txt"
}

same() { # NAME OTHER: whether two answers are alike to the bit
    cmp -s "$work/$1.txt" "$work/$2.txt" || complain "$2: another answer than $1"
    cmp -s "$work/$1.npy" "$work/$2.npy" || complain "$2: other logits than $1"
}

answer source --model "$demo"
answer stored --model "$work/store"
same source stored

# Flags and files are the same whatever the number of ranks.
[ "$ranks" -eq 2 ] || conclude

choir_ends "layers" 0 shard --model "$demo" --out "$work/layers" --layers 3 --level 1 --threads 1
[ "$(find "$work/layers" -name '*.choir' | wc -l)" -eq 3 ] || complain "layers: expected 3 files"

# ---- Using it ----------------------------------------------------------------------------------

answer by-layers --model "$work/layers" --comm mpi
same source by-layers
answer staging --model "$work/store" --stage "$work/stage"
same source staging
[ -n "$(find "$work/stage" -name 'data-*')" ] || complain "stage: nothing there"
answer staged --model "$work/store" --stage "$work/stage"
same source staged
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
cp -r "$work/store" "$work/short"
truncate -s 500000 "$work/short/data-00002.choir"
choir_ends "truncated" 1 generate --ids 1 --model "$work/short"
says "truncated" err "data-00002.choir: expected"
choir_ends "truncated, unpacking" 1 shard --unpack "$work/short" --out "$work/x"
[ ! -e "$work/x" ] || complain "something was left under a final name"

# Ended by the user, however far it came, and run again.
timeout -s TERM 0.7 "${run[@]}" -n "$ranks" "$choir" shard --model "$demo" --out "$work/resumed" \
    --file-size 1 --level 0 >/dev/null 2>&1 </dev/null
[ -e "$work/resumed" ] ||
    choir_ends "resumed" 0 shard --model "$demo" --out "$work/resumed" --file-size 1
diff -r "$work/store" "$work/resumed" >/dev/null || complain "resumed: another store"

# A disk of 2 MB, where one can be had.
mkdir "$work/small"
if mount -t tmpfs -o size=2m none "$work/small" 2>/dev/null; then
    small=$work/small
    choir_ends "full disk" 1 shard --model "$demo" --out "$small/store"
    says "full disk" err "MB of room"
    [ -z "$(ls "$small")" ] || complain "full disk: something was written"
    choir_ends "full disk, unpacking" 1 shard --unpack "$work/store" --out "$small/model"
    answer staged-full --model "$work/store" --stage "$small/stage"
    same source staged-full
else
    echo "full disk: not tried, since nothing can be mounted here"
fi

conclude
