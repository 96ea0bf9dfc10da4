#!/usr/bin/env bash
# `choir verify` as a user runs it: what it prints and how it exits, for good and for bad references.
# References are changed in place, length by length, so that no file has to be made.
#
#   tests/cli/verify.sh CHOIR RANKS
#
# golden/demo-reference.safetensors is made by
#   oracle/reference.py --model ../configs/demo --prompts golden/demo-reference.jsonl --layers 0,5 \
#       --decode 2 --out golden/demo-reference.safetensors
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
good=$root/tests/golden/demo-reference.safetensors

# verify NAME STATUS ARGS...
verify() {
    local name=$1 expected=$2
    shift 2
    # Two dumps are compared without a model.
    [ "$1" = --candidate ] || set -- --threads 1 "$@"
    ends "$name" "$expected" "${run[@]}" "$choir" verify "$@"
}

# changed NAME FROM TO: a reference in which a text of the header is another of the same length
changed() {
    [ ${#2} -eq ${#3} ] || complain "$1: the test changes lengths"
    LC_ALL=C sed "s|$2|$3|g" "$good" >"$work/$1.safetensors"
    ! cmp -s "$good" "$work/$1.safetensors" || complain "$1: the test changes nothing"
}

# ---- All is well -------------------------------------------------------------------------------

verify "the demo model" 0 --model "$demo" --reference "$good"
says "the demo model" out "ids of 1 text prompts equal"
tail -n 1 "$work/out" | grep -qx "passed: all [0-9]* tensors of [0-9]* compared: equal" ||
    complain "the demo model: expected a last line that says so"
! grep -qE "FAIL|divergence|NaN" "$work/out" || complain "the demo model: a row fails"
# But how far it is, where that takes long.
! grep -qv '%, [0-9]* s left$' "$work/err" || complain "the demo model: said something on standard error"

verify "JSON" 0 --model "$demo" --reference "$good" --json --isolated --attention eager
[ "$(wc -l <"$work/out")" -eq 1 ] || complain "JSON: expected one line"
says "JSON" out '"passed":true'
says "JSON" out "\"ranks\":$n_ranks"
says "JSON" out '"compared":'
! grep -q chained "$work/out" || complain "JSON: --isolated leaves chained tables"

verify "f32 against bf16 fails" 1 --model "$demo" --reference "$good" --dtype f32 --layers 0
says "f32 against bf16 fails" out "dtype: the reference is bf16, this run f32"
says "f32 against bf16 fails" err "verification failed"
verify "f32 within a wide tolerance" 0 --model "$demo" --reference "$good" --dtype f32 --tolerance 4
says "f32 within a wide tolerance" out "compared: differences of at most "
says "f32 within a wide tolerance" out ", within --tolerance 4"

# Components and logits of quantised models; oracle/quantised.py references writes them.
for kind in int4 int8 fp8 mixed; do
    quantised=$root/tests/golden/quantised/$kind
    verify "$kind" 0 --model "$quantised" --reference "$quantised-reference.safetensors"
    says "$kind" out "compared: equal"
done
# The same weights in bf16 are another model where int4 has a chain of its own.
verify "dequantised int4" 1 --model "$root/tests/golden/quantised/int4" --quantised-order dequantize \
    --reference "$root/tests/golden/quantised/int4-reference.safetensors"
says "dequantised int4" err "verification failed"

# ---- Another model, version or host ------------------------------------------------------------

copy() {
    mkdir "$work/$1"
    ln -s "$demo"/* "$work/$1/"
    rm "$work/$1/config.json"
    sed "$2" "$demo/config.json" >"$work/$1/config.json"
}
copy eps 's/"rms_norm_eps": *[0-9.e-]*/"rms_norm_eps": 0.001/'
verify "another rms_norm_eps" 1 --model "$work/eps" --reference "$good"
says "another rms_norm_eps" err "rms_norm_eps"
says "another rms_norm_eps" out "first divergence: normalized_input, layer 0, prompt 0"

changed heads 'num_attention_heads\\": 6' 'num_attention_heads\\": 3'
verify "another number of heads" 1 --model "$demo" --reference "$work/heads.safetensors"
says "another number of heads" err "num_"

LC_ALL=C sed 's|"model_digest":"....|"model_digest":"0000|' "$good" >"$work/digest.safetensors"
verify "other weights" 1 --model "$demo" --reference "$work/digest.safetensors"
says "other weights" err "model_digest"
verify "other weights, digest skipped" 0 --model "$demo" --reference "$work/digest.safetensors" \
    --skip-digest --chained

changed version '"torch":"2.13.0' '"torch":"2.12.0'
verify "another PyTorch" 0 --model "$demo" --reference "$work/version.safetensors" --chained
says "another PyTorch" out "note: torch: expected version 2.13.0"

changed host ' avx512_bf16' ' avx512_none'
LC_ALL=C sed -i 's| avx2 | avxx |' "$work/host.safetensors" # whatever this host has, it is another
verify "another host" 0 --model "$demo" --reference "$work/host.safetensors" --chained
says "another host" out "note: the reference was made on a host with another instruction set"
head -n 1 "$work/out" | grep -q "^note: order torch; PyTorch's on the reference's host (avx512f; .* is not known: .* may be PyTorch's own" ||
    complain "another host: what a difference means is not said at the top"
changed limit 'avx512vbmi umip avx512_vbmi2 gfni vaes vpclmulqdq' '","onednn_max_cpu_isa":"AVX512_CORE","settings":"'
verify "a host held to AVX-512" 0 --model "$demo" --reference "$work/limit.safetensors" --isolated --attention eager
head -n 1 "$work/out" | grep -q "oneDNN up to AVX512_CORE) is not known: without BF16 instructions .* would make it torch-avx2" ||
    complain "a host held to AVX-512: what is known is not said at the top"
# References whose bits are promised: the order is that of the host that wrote them.
verify "a host with AVX512-BF16" 0 --model "$demo" --reference "$good" --isolated --attention eager
head -n 1 "$work/out" | grep -q "^note: order torch, PyTorch's on the reference's host (avx2 .*): every difference is an error" ||
    complain "a host with AVX512-BF16: the order is not at the top"
says "a host with AVX512-BF16" out "without their inputs in the reference"
avx2=${good%.safetensors}-avx2.safetensors
verify "a host with AVX2" 0 --model "$demo" --reference "$avx2" --isolated
head -n 1 "$work/out" | grep -q "^note: order torch-avx2, PyTorch's on the reference's host (avx2; PyTorch's kernels AVX2): every" ||
    complain "a host with AVX2: the order is not at the top"
verify "another order" 1 --model "$demo" --reference "$avx2" --order torch --isolated --attention eager
head -n 1 "$work/out" | grep -q "^note: order torch by --order; PyTorch's on the reference's host (.*) is torch-avx2, so products will differ" ||
    complain "another order: what a difference means is not said at the top"
verify "a dot product of another order" 2 --model "$demo" --reference "$avx2" --dot amx
says "a dot product of another order" err "--dot: the reference's order is torch-avx2"
LC_ALL=C sed 's|"torch_capability":"AVX2"|"torch_capability":"AVXX"|' "$avx2" >"$work/mixed.safetensors"
verify "an unknown host" 1 --model "$demo" --reference "$work/mixed.safetensors" --isolated --attention eager
says "an unknown host" out "is not known: PyTorch and oneDNN are limited to different instruction sets"

changed format 'choir-reference 1' 'choir-reference 2'
verify "a reference of another version" 1 --model "$demo" --reference "$work/format.safetensors"
says "a reference of another version" err "choir-reference 2"

changed dtype '"dtype":"bf16"' '"dtype":"bf17"'
verify "an unknown dtype" 1 --model "$demo" --reference "$work/dtype.safetensors"
says "an unknown dtype" err "bf17"

# ---- Files that are no reference ---------------------------------------------------------------

verify "no reference" 2 --model "$demo"
says "no reference" err "--reference"
verify "a missing file" 1 --model "$demo" --reference "$work/nowhere.safetensors"
says "a missing file" err "nowhere.safetensors"
verify "a model as reference" 1 --model "$demo" --reference "$demo/model.safetensors"
says "a model as reference" err "expected a reference"
verify "a text as reference" 1 --model "$demo" --reference "$demo/README.md"
says "a text as reference" err "README.md"
head -c 300000 "$good" >"$work/short.safetensors"
verify "a reference cut short" 1 --model "$demo" --reference "$work/short.safetensors"
says "a reference cut short" err "short.safetensors"
verify "layers that are none" 2 --model "$demo" --reference "$good" --layers 5-9
says "layers that are none" err "--layers"

# ---- Parts that lack or differ -----------------------------------------------------------------

changed missing '"prompt.2.layer.5.q_proj"' '"prompt.2.layer.5.q_none"'
verify "a missing component" 1 --model "$demo" --reference "$work/missing.safetensors"
says "a missing component" out "missing, not compared (1)"
says "a missing component" err "1 of "
says "a missing component" err "tensors are missing, the first prompt.2.layer.5.q_proj"
! grep -q "^passed" "$work/out" || complain "a missing component: passed"
verify "a missing component, allowed" 0 --model "$demo" --reference "$work/missing.safetensors" --partial
says "a missing component, allowed" out "; 1 missing, which --partial allows"
verify "a missing component of another layer" 0 --model "$demo" --reference "$work/missing.safetensors" --layers 0

# A reference of ids alone: weights are compared, but with nothing of the reference.
LC_ALL=C sed 's|"prompt\.\([0-9]\.[a-hj-mo-z]\)|"Prompt.\1|g; s|prefill,decode,stepwise,generate|Prefill,Decode,Stepwise,Generate|' \
    "$good" >"$work/ids.safetensors"
verify "a reference of ids alone" 1 --model "$demo" --reference "$work/ids.safetensors"
says "a reference of ids alone" err "nothing was compared with the reference"

changed shape '"prompt.1.layer.0.o_proj":{"dtype":"BF16","shape":\[2,192\]' \
    '"prompt.1.layer.0.o_proj":{"dtype":"BF16","shape":\[192,2\]'
verify "another shape" 1 --model "$demo" --reference "$work/shape.safetensors"
says "another shape" out "prompt.1.layer.0.o_proj: expected shape [2, 192], the reference has [192, 2]"

# ---- Two dumps ---------------------------------------------------------------------------------

verify "a dump equals itself" 0 --candidate "$good" --reference "$good"
says "a dump equals itself" out "candidate, sdpa attention"
says "a dump equals itself" out "passed: all "
verify "a candidate that lacks a component" 1 --candidate "$work/missing.safetensors" \
    --reference "$good"
says "a candidate that lacks a component" out "missing, not compared (1)"
says "a candidate that lacks a component" err "tensors are missing, the first prompt.2.layer.5.q_proj"
says "a candidate that lacks a component" out "1 tensor of the candidate is not in the reference"
verify "a candidate that may lack a component" 0 --candidate "$work/missing.safetensors" \
    --reference "$good" --partial
says "a candidate that may lack a component" out "; 1 missing, which --partial allows"
LC_ALL=C sed 's|"prompt\.|"Prompt.|g; s|"Prompt.0.generate_logits|"prompt.0.generate_logits|' "$good" \
    >"$work/one.safetensors"
verify "a candidate of one tensor" 1 --candidate "$work/one.safetensors" --reference "$good"
says "a candidate of one tensor" err "285 of 286 tensors are missing, the first prompt.0."
verify "a candidate of one tensor, allowed" 0 --candidate "$work/one.safetensors" --reference "$good" --partial
says "a candidate of one tensor, allowed" out \
    "passed: 1 tensor of 286 compared: equal; 285 missing, which --partial allows"
verify "a candidate of another shape" 1 --candidate "$work/shape.safetensors" --reference "$good"
says "a candidate of another shape" err "prompt.1.layer.0.o_proj: the reference has shape [2, 192]"
verify "a candidate of another host" 0 --candidate "$work/version.safetensors" --reference "$good"
says "a candidate of another host" out "note: torch: the reference has 2.13.0"
verify "a candidate without a known name" 1 --candidate "$demo/model.safetensors" --reference "$good"
says "a candidate without a known name" err "expected tensors named as in the reference"

# The last value before the file's last tensor, a text of 59 bytes, becomes a NaN.
cp "$good" "$work/nan.safetensors"
chmod u+w "$work/nan.safetensors"
printf '\xc0\x7f' | dd of="$work/nan.safetensors" bs=1 conv=notrunc status=none \
    seek=$(($(wc -c <"$good") - 59 - 2))
verify "a candidate with a NaN" 1 --candidate "$work/nan.safetensors" --reference "$good"
says "a candidate with a NaN" out "1 NaN and 0 infinite values"
says "a candidate with a NaN" out "first NaN or infinity: "
verify "a reference with a NaN" 1 --candidate "$good" --reference "$work/nan.safetensors"
says "a reference with a NaN" out "1 NaN and 0 infinite values in the reference"

conclude
