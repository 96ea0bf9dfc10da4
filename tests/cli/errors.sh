#!/usr/bin/env bash
# Everything that a user can get wrong, at a number of ranks: one message, exit status not 0, in
# time, and no word on standard output.
#
#   tests/cli/errors.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# judge NAME STATUS SECONDS WORDS: every word has to be in the message
judge() {
    local name=$1 status=$2 seconds=$3 words=$4 word
    [ "$status" -ne 0 ] || complain "$name: exit status is 0"
    [ "$seconds" -le "$limit_s" ] || complain "$name: took $seconds s"
    [ ! -s "$work/out" ] || complain "$name: wrote to standard output"
    # libevent, inside of the launcher, now and then warns of a file descriptor that has been closed.
    [ "$(grep -vc '^choir: warning: \|^\[warn\] Epoll ' "$work/err")" -eq 1 ] ||
        complain "$name: expected one message on standard error"
    grep -q '^choir: error: ' "$work/err" || complain "$name: expected a message of choir's own"
    for word in $words; do
        grep -qF -- "$word" "$work/err" || complain "$name: expected \"$word\" in the message"
    done
}

# fails NAME WORDS ARGS...
fails() {
    local name=$1 words=$2 begin=$SECONDS status=0
    shift 2
    launch "$ranks" "$@" >"$work/out" 2>"$work/err" || status=$?
    judge "$name" "$status" $((SECONDS - begin)) "$words"
}

# copy NAME: a directory like the demo model's, whose files can be changed one by one
copy() {
    rm -rf "${work:?}/$1"
    mkdir "$work/$1"
    ln -s "$demo"/* "$work/$1/"
}

# own NAME FILE: makes the file the directory's own
own() {
    rm "$work/$1/$2"
    cp "$demo/$2" "$work/$1/$2"
    chmod u+w "$work/$1/$2"
}

# changed_config NAME SED-SCRIPT: a model whose config.json was edited
changed_config() {
    copy "$1"
    own "$1" config.json
    sed -i "$2" "$work/$1/config.json"
}

# little_endian N: eight bytes
little_endian() {
    local n=$1 i
    for i in 0 1 2 3 4 5 6 7; do
        # shellcheck disable=SC2059
        printf "\\x$(printf %02x $((n >> (8 * i) & 255)))"
    done
}

# with_header NAME JSON DATA-BYTES: a model whose model.safetensors is made by hand
with_header() {
    copy "$1"
    rm "$work/$1/model.safetensors"
    {
        little_endian ${#2}
        printf %s "$2"
        head -c "$3" /dev/zero
    } >"$work/$1/model.safetensors"
}

generate() {
    local name=$1 words=$2
    shift 2
    fails "$name" "$words" generate --prompt Hello --max-tokens 1 "$@"
}

# ---- Flags -------------------------------------------------------------------------------------

fails "unknown flag" "--modle --model" generate --modle x
fails "unknown command" "genrate generate" genrate
fails "flag without its value" "--max-tokens" generate --max-tokens
fails "value out of range" "--top-p 1.5" generate --prompt Hello --top-p 1.5
fails "value that is no number" "--max-tokens many" generate --prompt Hello --max-tokens many
fails "negative value" "--max-tokens -3" generate --prompt Hello --max-tokens -3
fails "unknown choice" "--dtype bf16 int3" generate --prompt Hello --dtype int3
fails "two words that are no flags" "there TEXT" generate Hello there
fails "two prompts" "--prompt --ids" generate --prompt Hello --ids 1,2
fails "ids that are none" "--ids x" generate --ids 1,x
fails "id outside of the vocabulary" "2047 99999" generate --ids 1,99999
fails "empty prompt" "prompt" generate --prompt ""
fails "log-probabilities without JSON" "--logprobs --json" generate --prompt Hello --logprobs 2
fails "empty stop string" "--stop" generate --prompt Hello --stop ""
fails "a flag that has no effect" "--level --check" shard --check "$work" --level 3
fails "a flag that is not UTF-8" '--fo\xffo' generate $'--fo\xffo' x
fails "empty stop string in chat" "--stop" chat --stop ""
fails "help about nothing" "nonsense" help nonsense
fails "no such prompt file" "nowhere.txt" generate --prompt-file "$work/nowhere.txt"
fails "no such prompts" "nowhere.jsonl" generate --prompts "$work/nowhere.jsonl"
echo '{"prompt": 3}' >"$work/bad.jsonl"
fails "prompts of another form" "bad.jsonl line 1" generate --prompts "$work/bad.jsonl"
echo '{"prompt": "x", "max_token": 3}' >"$work/bad.jsonl"
fails "a field that nobody reads" "bad.jsonl line 1 max_token max_tokens temperature" generate --prompts "$work/bad.jsonl"
head -c 20000000 /dev/zero | tr '\0' a >"$work/long.jsonl"
fails "a line beyond all contexts" "long.jsonl line 1 8454144" generate --prompts "$work/long.jsonl"
fails "logits into a missing folder" "nowhere" \
    generate --ids 1,2 --logits-out "$work/nowhere/logits.npy"
fails "plan of a missing file" "nowhere.json" plan --config "$work/nowhere.json" --ranks 2
fails "plan for no rank" "--ranks 65536 0" plan --ranks 0
fails "threads below one" "--threads 0" generate --prompt Hello --threads 0
fails "plan of a folder" "$work: regular file" plan --config "$work"
: >"$work/empty"
fails "prompts of an empty file" "$work/empty: JSON" generate --prompts "$work/empty"
fails "a model that is a file" "$work/empty directory" generate --ids 1 --model "$work/empty"
fails "a reference that is empty" "$work/empty: truncated" verify --reference "$work/empty"
fails "ids that are no JSON" "JSON" tokenize --decode
fails "a store that is none" "choir-store.json" shard --check "$work"

# ---- Descriptors that are closed, texts that are no names ----------------------------------------

# closed NAME WORD COMMAND REDIRECTION: ends in time with a message, whatever else takes the number
closed() {
    local name=$1 word=$2 command=$3 begin=$SECONDS status=0
    "${run[@]}" bash -c "$choir $command" </dev/null >"$work/out" 2>"$work/err" || status=$?
    { [ "$status" -ne 0 ] && [ "$status" -ne 124 ] && [ $((SECONDS - begin)) -le "$limit_s" ]; } ||
        complain "$name: exit status $status after $((SECONDS - begin)) s"
    says "$name" err "choir: error: $word"
}
closed "worker without input" "standard input: cannot read" "worker --quiet --threads 1 <&-"
closed "chat without input" "standard input: cannot read" "chat --quiet --threads 1 <&-"
closed "generate without input" "standard input: cannot read" "generate --quiet <&-"
closed "answers without output" "standard output: cannot write" "generate --quiet --ids 1,2 --max-tokens 2 >&-"
"${run[@]}" bash -c "$choir generate --ids 1,2 --max-tokens 2 2>&-" </dev/null >"$work/out" 2>"$work/err" ||
    complain "without standard error: exit status $?"
[ -s "$work/out" ] || complain "without standard error: no answer"

fails "control characters of a flag" 'no-\x1b[31m\nsuch' eval --task $'no-\x1b[31m\nsuch'

# ---- Directory and files -----------------------------------------------------------------------

generate "missing directory" "nowhere" --model "$work/nowhere"
for file in config.json model.safetensors; do
    copy "without-$file"
    rm "$work/without-$file/$file"
    generate "missing $file" "$file" --model "$work/without-$file"
done
copy without-tokenizer
rm "$work"/without-tokenizer/{tokenizer.json,vocab.json,merges.txt}
generate "missing tokenizer" "tokenizer.json" --model "$work/without-tokenizer"

# A FIFO that nobody writes to, and a device, hold nothing up.
for file in config.json generation_config.json model.safetensors tokenizer.json; do
    copy "fifo-$file"
    rm "$work/fifo-$file/$file"
    mkfifo "$work/fifo-$file/$file"
    generate "$file as a FIFO" "fifo-$file/$file: regular FIFO" --model "$work/fifo-$file"
done
copy device
ln -sf /dev/zero "$work/device/config.json"
generate "config.json as a device" "device/config.json: regular device" --model "$work/device"
mkfifo "$work/fifo"
fails "a reference that is a FIFO" "$work/fifo: regular FIFO" verify --reference "$work/fifo"
fails "a config that is a FIFO" "$work/fifo: regular FIFO" plan --config "$work/fifo"
fails "prompts of a folder" "$work: stream directory" generate --prompts "$work"

copy absent-shard
rm "$work/absent-shard/model.safetensors"
echo '{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}' \
    >"$work/absent-shard/model.safetensors.index.json"
generate "index naming an absent file" "model-00001-of-00002.safetensors" \
    --model "$work/absent-shard"

# ---- Safetensors -------------------------------------------------------------------------------

copy short-header
rm "$work/short-header/model.safetensors"
head -c 100 "$demo/model.safetensors" >"$work/short-header/model.safetensors"
generate "truncated header" "model.safetensors" --model "$work/short-header"
copy short-data
rm "$work/short-data/model.safetensors"
head -c 5000000 "$demo/model.safetensors" >"$work/short-data/model.safetensors"
generate "truncated data" "model.safetensors" --model "$work/short-data"

tensor() {
    printf '"%s": {"dtype": "%s", "shape": [%s], "data_offsets": [%s]}' "$1" "$2" "$3" "$4"
}
with_header overlapping "{$(tensor a BF16 8 0,16), $(tensor b BF16 8 8,24)}" 24
generate "overlapping tensors" "model.safetensors" --model "$work/overlapping"
with_header out-of-range "{$(tensor a BF16 8 0,16), $(tensor b BF16 8 16,32)}" 20
generate "offsets beyond the file" "model.safetensors" --model "$work/out-of-range"
with_header duplicate "{$(tensor a BF16 8 0,16), $(tensor a BF16 8 16,32)}" 32
generate "duplicate name" "model.safetensors" --model "$work/duplicate"
with_header unknown-dtype "{$(tensor model.norm.weight Q7 192 0,384)}" 384
generate "unknown dtype" "model.safetensors" --model "$work/unknown-dtype"
with_header huge-shape "{$(tensor a BF16 9223372036854775808,4 0,16)}" 16
generate "shape beyond 2^63" "model.safetensors" --model "$work/huge-shape"
with_header overflowing "{$(tensor a BF16 4294967296,4294967296,2 0,0)}" 0
generate "shape whose product overflows" "model.safetensors" --model "$work/overflowing"
with_header wrong-size "{$(tensor a BF16 8 0,12)}" 12
generate "offsets that contradict the shape" "model.safetensors" --model "$work/wrong-size"
with_header no-tensors "{$(tensor a BF16 8 0,16)}" 16
generate "missing tensor" "model." --model "$work/no-tensors"
with_header no-object '["a"]' 0
generate "header that is no object" "model.safetensors" --model "$work/no-object"

# ---- Values ------------------------------------------------------------------------------------

copy nan
own nan model.safetensors
printf '\xc0\x7f' | dd of="$work/nan/model.safetensors" bs=1 seek=$(($(stat -c %s "$work/nan/model.safetensors") - 2)) \
    conv=notrunc status=none
generate "weights that are NaN" "not finite rank" --model "$work/nan"
generate "logits of a prompt that are NaN" "not finite rank" --model "$work/nan" --max-tokens 0 \
    --logits-out "$work/nan.npy"
ends "NaN on purpose" 0 launch "$ranks" generate --prompt Hello --max-tokens 1 --model "$work/nan" --allow-nonfinite
says "NaN on purpose" err "choir: warning: logits are not finite"
copy unused-sampling
own unused-sampling generation_config.json
echo '{"top_k": -1, "temperature": NaN}' >"$work/unused-sampling/generation_config.json"
copy unknown-sampling
own unknown-sampling generation_config.json
echo '{"typical_p": 0.9, "eta_cutoff": 0.0}' >"$work/unknown-sampling/generation_config.json"
ends "sampling that is not implemented" 0 launch "$ranks" generate --ids 1 --max-tokens 1 \
    --model "$work/unknown-sampling" --sample
says "sampling that is not implemented" err "choir: warning: generation_config.json: typical_p: not implemented"
ends "sampling that is not used" 0 launch "$ranks" generate --ids 1 --max-tokens 1 --model "$work/unused-sampling"
generate "sampling that is used" "top_k -1 --top-k" --model "$work/unused-sampling" --sample --temperature 1

# ---- Config ------------------------------------------------------------------------------------

copy no-json
rm "$work/no-json/config.json"
echo '{"hidden_size": ' >"$work/no-json/config.json"
generate "config that is not JSON" "config.json" --model "$work/no-json"
changed_config falcon 's/Qwen2ForCausalLM/FalconForCausalLM/; s/"qwen2"/"falcon"/'
generate "another architecture" "config.json: model_type falcon FalconForCausalLM" --model "$work/falcon"
changed_config lacking 's/"num_hidden_layers"/"num_hidden_layer"/'
generate "a field that lacks" "config.json: num_hidden_layers nothing" --model "$work/lacking"
changed_config text 's/"hidden_size": *[0-9]*/"hidden_size": "big"/'
generate "a number that is a text" "config.json: hidden_size string" --model "$work/text"
changed_config zero 's/"hidden_size": *[0-9]*/"hidden_size": 0/'
generate "a size of zero" "hidden_size 0" --model "$work/zero"
changed_config negative 's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": -4/'
generate "a negative size" "num_hidden_layers -4" --model "$work/negative"
changed_config absurd 's/"intermediate_size": *[0-9]*/"intermediate_size": 900719925474099/'
generate "an absurd size" "intermediate_size" --model "$work/absurd"
changed_config heads 's/"num_key_value_heads": *[0-9]*/"num_key_value_heads": 4/'
generate "heads that are not divisible by KV heads" "6 4" --model "$work/heads"
changed_config wider 's/"intermediate_size": *[0-9]*/"intermediate_size": 528/'
generate "tensors of another shape" "mlp 528 512" --model "$work/wider"
changed_config vocabulary 's/"vocab_size": *[0-9]*/"vocab_size": 1024/'
generate "tokenizer larger than the vocabulary" "2048 1024" --model "$work/vocabulary"

# ---- Limits ------------------------------------------------------------------------------------

long=1
for _ in $(seq 100); do
    long=$long,1
done
fails "prompt longer than the KV cache" "101 64" generate --ids "$long" --kv-tokens 64
fails "prompt longer than the model's positions" "1024" \
    generate --ids "$(yes 1 | head -1500 | paste -sd,)"
fails "not enough memory" "GiB" generate --ids 1 --kv-tokens 4000000000

# ---- Ranks that differ -------------------------------------------------------------------------

# One rank sees another config.json than the others.
differing_ranks() {
    local begin=$SECONDS status=0
    changed_config other 's/"rms_norm_eps": *[0-9.e-]*/"rms_norm_eps": 0.001/'
    "${mpi[@]}" -n $((ranks - 1)) "$choir" generate --ids 1 --model "$demo" : \
        -n 1 "$choir" generate --ids 1 --model "$work/other" \
        </dev/null >"$work/out" 2>"$work/err" || status=$?
    judge "a rank with another config.json" "$status" $((SECONDS - begin)) "config.json"
}
[ "$ranks" -lt 2 ] || differing_ranks

# ---- Chat templates ----------------------------------------------------------------------------

echo "{{ raise_exception('roles must alternate') }}" >"$work/refuses.jinja"
echo "{% for m in messages %}" >"$work/open.jinja"
fails "raise_exception" "chat template: roles must alternate" \
    generate --chat --prompt x --chat-template "$work/refuses.jinja"
fails "a template that is malformed" "open.jinja, line 1: Unexpected end of template" \
    chat --chat-template "$work/open.jinja"
fails "a template that is not there" "no-such.jinja: no file" render --template no-such.jinja
fails "variables that are no object" "--template-vars: expected a JSON object" \
    generate --chat --prompt x --template-vars '[1]'

conclude
