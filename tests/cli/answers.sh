#!/usr/bin/env bash
# What the program prints is the same at any number of ranks, for every way of asking and of drawing,
# byte for byte; and each way of giving a prompt means the same prompt.
#
#   tests/cli/answers.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cat >"$work/prompts.jsonl" <<'END'
{"prompt": "ROMEO:\nWhat is"}
{"messages": [{"role": "user", "content": "Julia had 38 cookies. She ate half of them. How many were left?"}]}
{"prompt_ids": [5, 6, 7]}

{"prompt": "A"}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]}
END

# Times differ from run to run.
without_timings() {
    sed 's/"timings":{[^}]*}//'
}

generate() {
    "$@" --quiet --max-tokens 40 </dev/null
}

# ---- The same at any number of ranks -----------------------------------------------------------

# Ways of running that change no answer, in turn.
variants=("" "--comm mpi --prefill-chunk 1" "--max-batch 2 --prefill-chunk 5 --threads 2")
turn=0
while read -r flags; do
    variant=${variants[$((turn++ % 3))]}
    # shellcheck disable=SC2086
    generate "$choir" generate --prompts "$work/prompts.jsonl" --json $flags |
        without_timings >"$work/one"
    [ "$(wc -l <"$work/one")" -eq 5 ] || complain "$flags: expected five answers"
    # shellcheck disable=SC2086
    generate "${run[@]}" "$choir" generate --prompts "$work/prompts.jsonl" --json $flags $variant |
        without_timings >"$work/many"
    same "answers with $flags $variant" "$work/one" "$work/many"
done <<'END'
--temperature 0
--temperature 1 --seed 3
--temperature 2.5 --logprobs 3 --repetition-penalty 1.1
--temperature 0.8 --top-p 0.9 --min-p 0.02 --order uniform
--temperature 3 --top-k 40 --dtype f32
--temperature 1.5 --top-p 0.99 --dtype f64 --ignore-eos
--sample --attention sdpa --stop e --stop 4
END

for dtype in bf16 f32 f64; do
    "$choir" generate --quiet --prompt "$(head -c 400 "$work/prompts.jsonl")" --max-tokens 0 \
        --dtype $dtype --logits-out "$work/one.npy" >"$work/out"
    [ ! -s "$work/out" ] || complain "text without tokens"
    "${run[@]}" "$choir" generate --quiet --prompt "$(head -c 400 "$work/prompts.jsonl")" \
        --max-tokens 0 --dtype $dtype --prefill-chunk 7 --logits-out "$work/many.npy" </dev/null
    same "logits in $dtype" "$work/one.npy" "$work/many.npy"
done

# ---- Ways of asking ----------------------------------------------------------------------------

text="Hello, world"
printf %s "$text" >"$work/text"
generate "${run[@]}" "$choir" generate --prompt "$text" >"$work/flag"
[ -s "$work/flag" ] || complain "no answer to --prompt"
generate "${run[@]}" "$choir" generate --prompt-file "$work/text" >"$work/other"
same "--prompt-file" "$work/flag" "$work/other"
# A stream is enough: only the coordinator reads it, once.
mkfifo "$work/fifo"
(cat "$work/text" >"$work/fifo") >/dev/null 2>&1 &
writer=$!
generate "${run[@]}" "$choir" generate --prompt-file "$work/fifo" >"$work/other"
same "--prompt-file of a FIFO" "$work/flag" "$work/other"
kill $writer 2>/dev/null # where nobody has read
generate "$choir" generate --prompts <(printf '{"prompt": "%s"}\n' "$text") >"$work/other"
same "--prompts of a process" "$work/flag" "$work/other"
"${run[@]}" "$choir" generate --quiet --max-tokens 40 <"$work/text" >"$work/other"
same "standard input" "$work/flag" "$work/other"
ids=$("${run[@]}" "$choir" tokenize <"$work/text" | tr -d '[]\n')
generate "${run[@]}" "$choir" generate --ids "$ids" >"$work/other"
same "--ids" "$work/flag" "$work/other"
"${run[@]}" "$choir" tokenize <"$work/text" | "$choir" tokenize --decode >"$work/other"
same "tokenize there and back" "$work/text" "$work/other"

# Without tokenizer files, ids in are ids out.
mkdir "$work/bare"
cp "$demo/config.json" "$demo/model.safetensors" "$work/bare/"
generate "${run[@]}" "$choir" generate --model "$work/bare" --ids "$ids" >"$work/other"
grep -q '^\[[0-9,]*\]$' "$work/other" || complain "ids without tokenizer files"
"$choir" tokenize --decode <"$work/other" >"$work/decoded"
echo >>"$work/decoded"
same "ids without tokenizer files" "$work/flag" "$work/decoded"

# ---- Chat templates ----------------------------------------------------------------------------

cat >"$work/messages.jsonl" <<'END'
{"messages": [{"role": "user", "content": "Hello"}]}
{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]}
END
generate "${run[@]}" "$choir" generate --prompts "$work/messages.jsonl" --json | without_timings >"$work/own"
[ "$(sort -u "$work/own" | sed 's/"index":[0-9]*//' | sort -u | wc -l)" -eq 1 ] || complain "parts of a text"
cat >"$work/template.jinja" <<'END'
{% for m in messages %}<|im_start|>{{ who[m.role] }}
{{ m.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
{{ '' }}
END
generate "${run[@]}" "$choir" generate --chat --prompt Hello >"$work/flag"
generate "${run[@]}" "$choir" generate --chat --prompt Hello --chat-template "$work/template.jinja" \
    --template-vars '{"who": {"user": "user"}}' >"$work/other"
same "--chat-template" "$work/flag" "$work/other"
generate "$choir" generate --chat --prompt Hello --chat-template <(cat "$work/template.jinja") \
    --template-vars '{"who": {"user": "user"}}' >"$work/other"
same "--chat-template of a process" "$work/flag" "$work/other"
{
    cat "$work/messages.jsonl"
    printf '%s\n' '{"messages": [' '' '{"messages": [{"role": "a"}], "who": {"a": "\ud83d"}}'
} | "${run[@]}" "$choir" render --template "$work/template.jinja" --template-vars '{"who": {"user": "u"}}' \
    >"$work/rendered"
cat >"$work/expected" <<'END'
{"text": "<|im_start|>u\nHello<|im_end|>\n<|im_start|>assistant\n"}
{"text": "<|im_start|>u\n[{'type': 'text', 'text': 'Hel'}, {'type': 'text', 'text': 'lo'}]<|im_end|>\n<|im_start|>assistant\n"}
{"error": "malformed JSON at byte 15: expected a value"}
{"error": "malformed JSON at byte 1: expected a value"}
{"text": "<|im_start|>\ud83d\n<|im_end|>\n<|im_start|>assistant\n"}
END
same "render" "$work/expected" "$work/rendered"

# ---- Lines that say how they are answered --------------------------------------------------------

cat >"$work/lines" <<'END'
{"prompt": "Hello, world"}
{"prompt": "Hello, world", "max_tokens": 3, "ignore_eos": true}
{"prompt": "Hello, world", "temperature": 0.8, "seed": 7, "max_tokens": 12}
END
generate "${run[@]}" "$choir" generate --prompts "$work/lines" >"$work/many"
{
    "${run[@]}" "$choir" generate --quiet --prompt "$text" --max-tokens 40 </dev/null
    "${run[@]}" "$choir" generate --quiet --prompt "$text" --max-tokens 3 --ignore-eos </dev/null
    "${run[@]}" "$choir" generate --quiet --prompt "$text" --max-tokens 12 --temperature 0.8 --seed 7 </dev/null
} >"$work/other"
same "lines with settings of their own" "$work/many" "$work/other"

# ---- The closing line --------------------------------------------------------------------------

"${run[@]}" "$choir" generate --ids 1,2,3 --ignore-eos --max-tokens 5 </dev/null >"$work/out" 2>"$work/err"
says "closing line" err "choir: 3 prompt tokens, prefill "
says "closing line" err "; 5 generated, decode "
"${run[@]}" "$choir" generate --ids 1,2,3 --max-tokens 1 </dev/null >"$work/out" 2>"$work/err"
says "no decode steps" err "; 1 generated; $n_ranks rank"
"${run[@]}" "$choir" chat </dev/null >"$work/out" 2>"$work/err"
says "nothing said" err "choir: no prompt was computed; $n_ranks rank"
echo '{"prompt_ids": [1, 2, 3]}' >"$work/line"
# lost REPLICAS: sets share to what a mesh says of the time that its replicas lose, in %
lost() {
    launch "$1" generate --mesh "$1x1" --prompts "$work/line" --ignore-eos --max-tokens 5 --threads 1 \
        >"$work/out" 2>"$work/err"
    says "a mesh" err "choir: 3 prompt tokens computed ("
    says "a mesh" err ", 5 generated ("
    share=$(sed -n 's/.* \([0-9]*\)\.[0-9]% of their time lost.*/\1/p' "$work/err")
}
lost 1
[ -z "$share" ] || complain "one replica waits for no other"
lost 2
{ [ -n "$share" ] && [ "$share" -le 100 ]; } || complain "a mesh: more time is lost than there was"

# ---- Ranks on different CPUs ------------------------------------------------------------------

# One rank has AVX2 only: all use its kernels, which is said once, and the text is the same.
if "$choir" --version | grep -q '^instruction sets:.* avx512'; then
    mixed=(generate --prompt "ROMEO:" --max-tokens 12 --dot chain --verbose)
    "$choir" "${mixed[@]}" </dev/null >"$work/one" 2>/dev/null
    "${mpi[@]}" -n 1 -x CHOIR_ISA=avx2 "$choir" "${mixed[@]}" : \
        -n 1 -x CHOIR_ISA=avx512 "$choir" "${mixed[@]}" </dev/null >"$work/many" 2>"$work/err"
    same "ranks on different CPUs" "$work/one" "$work/many"
    [ "$(grep -c "the ranks' CPUs differ, up to avx512: all use the kernels of avx2" "$work/err")" -eq 1 ] ||
        complain "ranks on different CPUs: expected one line that says so"
fi

# ---- Help --------------------------------------------------------------------------------------

for command in generate chat tokenize render plan; do
    "${run[@]}" "$choir" help $command >"$work/help"
    "$choir" $command --help >"$work/other"
    same "help $command" "$work/help" "$work/other"
    grep -q -- --model "$work/help" || complain "help $command: no --model"
done
"${run[@]}" "$choir" --version | grep -q '^instruction sets: scalar' || complain "--version"
[ "$("${run[@]}" "$choir" plan --ranks 5 | grep -c '^ *[0-4]  ')" -eq 5 ] || complain "plan"

conclude
