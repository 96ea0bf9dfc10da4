#!/usr/bin/env bash
# Model families other than the demo model's as a user runs them: shapes of configs/, stores, evaluation
# over meshes, and the beginning-of-sequence token of raw prompts and of chats.
#
#   tests/cli/families.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
write_model=$(dirname "$choir")/tests/write_model
tokenizer=$root/tests/golden/tokenizer/llama3-small

# model NAME: a directory of tests/oracle/shapes/NAME.json with random weights and a tokenizer, whose ids fit
model() {
    sed 's/"vocab_size": 333/"vocab_size": 1009/' "$root/tests/oracle/shapes/$1.json" >"$work/$1.json"
    "$write_model" "$work/$1.json" 1 "$work/$1" || complain "$1: no model"
    cp "$tokenizer/tokenizer.json" "$tokenizer/tokenizer_config.json" "$work/$1/"
}

# answer RANKS NAME ARGS...: an answer's logits into $work/NAME.npy
answer() {
    local count=$1 name=$2
    shift 2
    ends "$name" 0 launch "$count" generate --quiet --threads 1 --max-tokens 6 --json \
        --logits-out "$work/$name.npy" "$@"
}

for family in llama mistral qwen3_moe; do
    model $family
    answer 1 $family-source --model "$work/$family" --prompt "Hello 1234"
    ends "$family: make a store" 0 "${run[@]}" "$choir" shard --model "$work/$family" --out "$work/$family-store"
    ends "$family: check it" 0 "$choir" shard --check "$work/$family-store"
    for count in 1 2 3; do
        answer $count $family-$count --model "$work/$family-store" --prompt "Hello 1234"
        same "$family at $count ranks" "$work/$family-source.npy" "$work/$family-$count.npy"
    done
    for mesh in 1x1 1x2 2x1; do
        ends "$family: eval on $mesh" 0 launch $((${mesh%x*} * ${mesh#*x})) eval --quiet --threads 1 --mesh $mesh \
            --model "$work/$family" --task word-problems-choice --limit 3 --out "$work/$family-$mesh"
        "$choir" eval --canonical "$work/$family-$mesh" >"$work/$family-$mesh.lines" 2>"$work/err"
        same "$family: eval on $mesh" "$work/$family-1x1.lines" "$work/$family-$mesh.lines"
    done
done
[ -s "$work/llama-1x1.lines" ] || complain "eval: no results"

# An expert that is missing, and one of another shape, in a header of the same length.
expert=model.layers.0.mlp.experts.7.up_proj
for change in "s/$expert.weight/$expert.wrongs/" "s/\\(\"$expert.weight\":{[^}]*\\[\\)72,200/\\1200,72/"; do
    LC_ALL=C sed "$change" "$work/qwen3_moe/model.safetensors" >"$work/altered"
    cmp -s "$work/altered" "$work/qwen3_moe/model.safetensors" && complain "$change: nothing is changed"
    mkdir -p "$work/bad" && cp "$work/qwen3_moe/config.json" "$work/bad/" && mv "$work/altered" "$work/bad/model.safetensors"
    ends "$change" 1 launch 2 generate --quiet --model "$work/bad" --ids 1,2 --max-tokens 1
    says "$change" err "tensor $expert.weight: expected shape [72, 200], found"
done
# Tensors beyond the config's: an expert is refused, a layer is not part of the model.
LC_ALL=C sed "s/layers.0.mlp.experts.11.up_proj/layers.0.mlp.experts.12.up_proj/" "$work/qwen3_moe/model.safetensors" >"$work/bad/model.safetensors"
ends "expert beyond" 1 launch 2 generate --quiet --model "$work/bad" --ids 1,2 --max-tokens 1
says "expert beyond" err "bad/model.safetensors: tensor model.layers.0.mlp.experts.12.up_proj.weight: expected an expert from 0 to 11, as num_experts is 12, found expert 12"
cp "$work/qwen3_moe/model.safetensors" "$work/bad/"
sed -i 's/"num_hidden_layers": 4/"num_hidden_layers": 3/' "$work/bad/config.json"
ends "layer beyond" 0 launch 2 generate --model "$work/bad" --ids 1,2 --max-tokens 1
says "layer beyond" err "tensors of the checkpoint are not part of the model: model.layers.3."

# The text of a prompt begins with one BOS, 587, and so does a chat, whose template writes it.
answer 2 raw --model "$work/llama" --prompt "Hello 1234"
says raw out '"prompt_ids":[587,580,220,582,19]'
answer 2 chat --model "$work/llama" --chat --prompt "Hello 1234"
says chat out '"prompt_ids":[587,'
[ "$(grep -o '"prompt_ids":[^]]*' "$work/out" | tr '[,' '\n\n' | grep -c '^587$')" -eq 1 ] ||
    complain "chat: expected one BOS"

# ---- Shapes ------------------------------------------------------------------------------------

rates=(--layers 2 --repeat 1 --warmup 0 --read-mib 1)
ends "rates" 0 "${run[@]}" "$choir" bench --config "$root/tests/oracle/shapes/odd.json" "${rates[@]}" \
    --cluster "$work/cluster.json" --sweep "ranks=1,2 threads=1" --quiet
for config in "$root"/configs/*.json; do
    name=$(basename "$config" .json)
    ends "plan of $name" 0 "$choir" plan --config "$config" --ranks 5
    says "plan of $name" out "rank"
    ends "prediction of $name" 0 "$choir" plan --config "$config" --cluster "$work/cluster.json" --predict
    says "prediction of $name" out "Projection, not a measurement"
done
conclude
