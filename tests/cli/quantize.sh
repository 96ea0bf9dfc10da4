#!/usr/bin/env bash
# `choir quantize` as a user runs it: the same bytes at any number of ranks, also after kills; models that it
# wrote have the same logits at any number of ranks and in any instruction set; what is refused.
#
#   tests/cli/quantize.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# choir_ends NAME STATUS ARGS...
choir_ends() {
    local name=$1 expected=$2
    shift 2
    ends "$name" "$expected" "${run[@]}" "$choir" "$@"
}

# same NAME FILE FILE
same() {
    cmp -s "$2" "$3" || complain "$1: $2 and $3 differ"
}

# The demo model's MLP has 512 inputs, its hidden size is 192.
quantise() { # NAME DIR ARGS...
    local name=$1 dir=$2
    shift 2
    choir_ends "$name" 0 quantize --model "$demo" --out "$dir" "$@"
}

# ---- The same bytes ------------------------------------------------------------------------------

quantise "int4" "$work/int4" --group 64
says "int4" err "MB from"
for name in model.safetensors.partial model.safetensors.blocks; do
    [ ! -e "$work/int4/$name" ] || complain "int4: left $name"
done
same "tokenizer" "$work/int4/tokenizer.json" "$demo/tokenizer.json"
for n in 1 3; do
    launch "$n" quantize --model "$demo" --out "$work/int4-$n" --group 64 2>"$work/err" || complain "int4 at $n ranks"
    same "$n ranks" "$work/int4/model.safetensors" "$work/int4-$n/model.safetensors"
    same "$n ranks" "$work/int4/config.json" "$work/int4-$n/config.json"
done

# ---- Killed and resumed --------------------------------------------------------------------------

for block in 0 1 2 5 9 14 20 27 33 41 42 60; do
    CHOIR_FAULT=kill:block-$block:$((block % n_ranks)) \
        "${run[@]}" "$choir" quantize --model "$demo" --out "$work/killed" --group 64 \
        </dev/null >"$work/out" 2>"$work/err" && complain "killed at block $block: ended with 0"
    [ ! -e "$work/killed/model.safetensors" ] || complain "killed: has weights"
done
choir_ends "other settings" 1 quantize --model "$demo" --out "$work/killed" --group 32
says "other settings" err "expected the same model and settings as when it was begun"
quantise "resumed" "$work/killed" --group 64
same "resumed" "$work/int4/model.safetensors" "$work/killed/model.safetensors"
same "resumed" "$work/int4/config.json" "$work/killed/config.json"

# ---- What it is good for -------------------------------------------------------------------------

# logits NAME FILE DIR RANKS ARGS...
logits() {
    local name=$1 file=$2 dir=$3 n=$4
    shift 4
    launch "$n" generate --quiet --model "$dir" --prompt-file "$root/NOTICE" --max-tokens 0 \
        --logits-out "$file" "$@" >"$work/out" 2>"$work/err" || complain "$name"
}

quantise "int8" "$work/int8" --bits 8 --group 0
quantise "packed" "$work/packed" --layout compressed-tensors --group 64
quantise "packed 8" "$work/packed8" --layout compressed-tensors --bits 8 --group 0
for kind in int4 int8 packed packed8; do
    logits "$kind" "$work/logits.npy" "$work/$kind" 1
    for n in 2 5; do
        logits "$kind at $n ranks" "$work/others.npy" "$work/$kind" "$n"
        same "$kind at $n ranks" "$work/logits.npy" "$work/others.npy"
    done
done
logits "int4" "$work/logits.npy" "$work/int4" 3
for isa in $("$choir" --version | sed -n 's/^instruction sets: //p'); do
    CHOIR_ISA=$isa logits "int4, $isa" "$work/others.npy" "$work/int4" 1
    same "int4, $isa" "$work/logits.npy" "$work/others.npy"
done
logits "dequantised" "$work/logits.npy" "$work/int4" 1 --quantised-order dequantize
for n in 2 3; do
    logits "dequantised at $n ranks" "$work/others.npy" "$work/int4" "$n" --quantised-order dequantize
    same "dequantised at $n ranks" "$work/logits.npy" "$work/others.npy"
done
# The same bits from a shard store, whose ranks read columns of a [K, N] matrix from its blocks.
choir_ends "store" 0 shard --model "$work/int4" --out "$work/store"
logits "int4" "$work/logits.npy" "$work/int4" 1
logits "store" "$work/others.npy" "$work/store" 3
same "store" "$work/logits.npy" "$work/others.npy"
choir_ends "plan" 0 plan --model "$work/int4" --ranks 3
says "plan" out "weights by format: "
says "plan" out " in int4-g64"

# A bias that the model does not have, as older writers add: zeros say nothing, others are named and ignored.
python=$(command -v python3 || true)
for value in 0 1; do
    [ -n "$python" ] || break
    rm -rf "$work/biased"
    cp -r "$work/int4" "$work/biased"
    "$python" - "$work/biased/model.safetensors" "$value" <<'END'
import json, struct, sys
path, value = sys.argv[1], int(sys.argv[2])
data = open(path, "rb").read()
n = struct.unpack("<Q", data[:8])[0]
header, rest = json.loads(data[8:8 + n]), data[8 + n:]
header["model.layers.0.self_attn.o_proj.bias"] = {
    "dtype": "F16", "shape": [192], "data_offsets": [len(rest), len(rest) + 384]}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
open(path, "wb").write(struct.pack("<Q", len(text)) + text + rest + struct.pack("<192e", *[value] * 192))
END
    warnings=$(launch 1 generate --model "$work/biased" --prompt-file "$root/NOTICE" --max-tokens 0 \
        --logits-out "$work/others.npy" 2>&1 >/dev/null | grep -c "not part of the model: model.layers.0.self_attn.o_proj.bias")
    [ "$warnings" -eq "$value" ] || complain "a bias of $value: $warnings warnings"
    logits "int4" "$work/logits.npy" "$work/int4" 1
    same "a bias of $value" "$work/logits.npy" "$work/others.npy"
done

# ---- What is refused -----------------------------------------------------------------------------

choir_ends "twice" 1 quantize --model "$demo" --out "$work/int4" --group 64
says "twice" err "expected a new folder, found one with model.safetensors"
choir_ends "of a quantised model" 1 quantize --model "$work/int4" --out "$work/again"
says "of a quantised model" err "quantization_config: expected none"
choir_ends "group" 1 quantize --model "$demo" --out "$work/bad" --group 128
says "group" err "expected inputs that groups of 128 divide"
choir_ends "bits" 2 quantize --model "$demo" --out "$work/bad" --bits 3
says "bits" err "--bits: expected 4 or 8, found 3"
choir_ends "no folder" 2 quantize --model "$demo"
says "no folder" err "expected --out DIR, found none"
choir_ends "a parent that is not there" 1 quantize --model "$demo" --out "$work/none/such" --group 64
says "a parent that is not there" err "cannot make a folder"

# A disk that is full is noticed before anything is computed, and nothing is lost. MPI has files of its own: one process.
(
    ulimit -f 1024
    ends "full disk" 1 timeout --foreground "$patience_s" "$choir" quantize --model "$demo" --out "$work/full" --group 64
    says "full disk" err "model.safetensors.partial: cannot"
    exit "$failures"
) || failures=$((failures + 1))
quantise "after a full disk" "$work/full" --group 64
same "after a full disk" "$work/int4/model.safetensors" "$work/full/model.safetensors"

conclude
