"""Greedy answers of Hugging Face to the demo model's 400 test questions.

    greedy.py [--model DIR] [--questions FILE.jsonl] [--out FILE.jsonl] [--items N] [--threads N]

Every question runs alone through generate(), with the chat template applied and
at most 200 new tokens. The file has one line a question, in order:

    prompt_ids       the tokens of the prompt
    bf16_eager       the new tokens, end token included, in bfloat16 with eager attention
    bf16_sdpa        the same with sdpa attention
    f32_eager        the same in float32 with eager attention
    f32_near_ties    positions in f32_eager whose two best logits lie closer than 1e-4

The report on stderr counts right answers: what follows the last #### equals, as text.
"""

import argparse
import json
import sys
from pathlib import Path

import jinja2
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
RUNS = {"bf16_eager": (torch.bfloat16, "eager"), "bf16_sdpa": (torch.bfloat16, "sdpa"), "f32_eager": (torch.float32, "eager")}
LIMIT, NEAR = 200, 1e-4


def final_answer(text):
    """What follows the last ####, or None."""
    return text.rsplit("####", 1)[1].strip() if "####" in text else None


def prompts(args, tokenizer, items):
    template = json.loads((args.model / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    render = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
    for item in items:
        text = render(messages=[{"role": "user", "content": item["question"]}], add_generation_prompt=True)
        yield tokenizer.encode(text, add_special_tokens=False).ids


def generate(model, ids):
    """The new tokens, and the positions among them where the two best logits lie close."""
    prompt = torch.tensor([ids])
    result = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LIMIT,
        return_dict_in_generate=True, output_logits=True)
    best = torch.cat(result.logits).float().topk(2).values
    near = (best[:, 0] - best[:, 1] < NEAR).nonzero()[:, 0].tolist()
    return result.sequences[0, len(ids):].tolist(), near


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "configs" / "demo")
    parser.add_argument("--questions", type=Path, default=ROOT / "configs" / "demo" / "word-problems-test.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "golden" / "demo-greedy.jsonl")
    parser.add_argument("--items", type=int, help="only the first N questions")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    items = [json.loads(line) for line in args.questions.read_text(encoding="utf-8").splitlines()][:args.items]
    rows = [{"prompt_ids": ids} for ids in prompts(args, tokenizer, items)]
    for name, (dtype, attention) in RUNS.items():
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation=attention).eval()
        right = 0
        for row, item in zip(rows, items):
            row[name], near = generate(model, row["prompt_ids"])
            if dtype == torch.float32:
                row["f32_near_ties"] = near
            reply = tokenizer.decode(row[name], skip_special_tokens=True)
            right += final_answer(reply) == final_answer(item["answer"])
        print(f"{name}: {right} of {len(items)} answers right, {sum(len(row[name]) for row in rows)} tokens", file=sys.stderr)

    names = list(RUNS)
    for name in names[1:]:
        print(f"{name}: {sum(row[name] != row[names[0]] for row in rows)} replies differ from {names[0]}", file=sys.stderr)
    print(f"f32_near_ties: {sum(len(row['f32_near_ties']) for row in rows)} positions", file=sys.stderr)
    with open(args.out, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


if __name__ == "__main__":
    main()
