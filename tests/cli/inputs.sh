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

conclude
