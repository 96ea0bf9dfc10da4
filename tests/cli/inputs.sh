#!/usr/bin/env bash
# How a user names a model, a prompt and files of text: what is accepted, and what is said where it is not.
#
#   tests/cli/inputs.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# answers NAME ARGS...: the text of a greedy answer, into $work/NAME
answers() {
    local name=$1
    shift
    ends "$name" 0 "${run[@]}" "$choir" generate --quiet --max-tokens 4 "$@"
    cp "$work/out" "$work/$name"
}

# ---- Byte order marks, and lines of JSON lines ---------------------------------------------------

marked=$work/marked
mkdir "$marked"
ln -s "$demo"/* "$marked/"
for name in config.json generation_config.json tokenizer.json tokenizer_config.json; do
    rm "$marked/$name"
    { printf '\xef\xbb\xbf' && cat "$demo/$name"; } >"$marked/$name"
done
printf '\xef\xbb\xbf{"prompt": "Hello"}\n' >"$work/marked.jsonl"
printf '\xef\xbb\xbfHello' >"$work/marked.txt"
answers plain --prompt Hello
answers marked-model --model "$marked" --prompt Hello
answers marked-prompts --prompts "$work/marked.jsonl"
answers marked-file --prompt-file "$work/marked.txt"
for name in marked-model marked-prompts marked-file; do
    same "$name" "$work/$name" "$work/plain"
done
printf '{"prompt": "a"}\n{"prompt": tru}\n' >"$work/bad.jsonl"
refuses "a malformed line" 1 "bad.jsonl: line 2: not valid JSON" "${run[@]}" "$choir" generate --prompts "$work/bad.jsonl"
! grep -q '(line 1' "$work/err" || complain "a malformed line: its line is told twice"

# ---- Short flags, and a prompt as an argument ----------------------------------------------------

answers argument Hello
answers short -m "$demo" -p Hello
ends "a short number" 0 "${run[@]}" "$choir" generate --quiet -n4 Hello
for name in argument short out; do
    same "$name" "$work/$name" "$work/plain"
done
ends "an argument with a dash" 0 "${run[@]}" "$choir" generate --quiet -n 1 -- -5
refuses "two prompts" 2 "argument and --prompt" "$choir" generate Hello -p Hello
refuses "two arguments" 2 "second \"world\" quotes" "$choir" generate Hello world
for command in generate doctor; do
    ends "$command -h" 0 "$choir" "$command" -h
    says "$command -h" out "  -m, --model DIR"
    says "$command -h" out "  -h, --help"
done

# ---- Models of the hub's cache -------------------------------------------------------------------

export HF_HUB_CACHE=$work/cache
folder=$work/cache/models--Choir--Tiny
refuses "a model that is not in the cache" 1 "Choir/Tiny $work/cache" "${run[@]}" "$choir" generate -m Choir/Tiny Hello
says "a model that is not in the cache" err "to download it: hf download Choir/Tiny"
mkdir -p "$folder/refs" "$folder/blobs" "$folder/snapshots/0123abcd"
printf 0123abcd >"$folder/refs/main"
for file in "$demo"/*; do
    ln -s "$file" "$folder/blobs/"
    ln -s "../../blobs/$(basename "$file")" "$folder/snapshots/0123abcd/"
done
answers hub -m Choir/Tiny Hello
same "a model in the cache" "$work/hub" "$work/plain"
for model in Choir/Tiny@0123abcd "$folder" "$folder/snapshots/"; do
    ends "$model" 0 "$choir" plan -m "$model"
done
refuses "a revision that is not there" 1 "Choir/Tiny v2" "$choir" plan -m Choir/Tiny@v2
says "a revision that is not there" err "hf download Choir/Tiny --revision v2"
unset HF_HUB_CACHE
for variable in "HUGGINGFACE_HUB_CACHE=$work/cache" "HF_HOME=$work/home" "XDG_CACHE_HOME=$work/xdg" "HOME=$work/user"; do
    mkdir -p "$work/home" "$work/xdg/huggingface" "$work/user/.cache/huggingface"
    ln -sfn "$work/cache" "$work/home/hub"
    ln -sfn "$work/cache" "$work/xdg/huggingface/hub"
    ln -sfn "$work/cache" "$work/user/.cache/huggingface/hub"
    ends "$variable" 0 env -u HF_HOME -u XDG_CACHE_HOME -u HUGGINGFACE_HUB_CACHE "$variable" "$choir" plan -m Choir/Tiny
done
rm "$folder/blobs/model.safetensors"
refuses "a link without its target" 1 "snapshots/0123abcd/model.safetensors interrupted" \
    "${run[@]}" "$choir" generate -m "$folder" Hello
says "a link without its target" err "hf download Choir/Tiny"
rm -r "$folder/snapshots/0123abcd"
refuses "a folder without its snapshot" 1 "no snapshot of Choir/Tiny 0123abcd" \
    "$choir" generate -m "$folder" Hello
says "a folder without its snapshot" err "hf download Choir/Tiny"

# ---- A tokenizer with more tokens than the model -------------------------------------------------

more=$work/larger
mkdir "$more"
ln -s "$demo"/* "$more/"
rm "$more/tokenizer_config.json"
sed 's/"added_tokens_decoder": {/&"2048": {"content": "<extra>", "special": true},/' "$demo/tokenizer_config.json" \
    >"$more/tokenizer_config.json"
answers more --model "$more" Hello
same "a tokenizer with more tokens" "$work/more" "$work/plain"
refuses "a token beyond the vocabulary" 1 "2048 (<extra>) vocabulary" "${run[@]}" "$choir" generate -m "$more" "a <extra>"
printf '%s\n' '{"op": "loglikelihood", "id": 1, "context": "a", "continuation": " <extra>"}' >"$work/score"
"$choir" worker -m "$more" <"$work/score" >"$work/out" 2>"$work/err" || complain "a worker: exit status $?"
says "a target beyond the vocabulary" out "found 2048"

conclude
