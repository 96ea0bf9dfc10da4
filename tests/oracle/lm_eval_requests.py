"""Requests made by hand through choir's model of lm_eval and its own `hf` model: the same results, or refused by both.

    lm_eval_requests.py --choir PROGRAM [--model DIR]

In float32, greedy; needs "lm_eval[hf]". Prints a line for each request that differs, and exits with 1 if any does.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

QUESTION = ("<|im_start|>user\nDaniel earns $7 an hour for tutoring. How much does he earn in 4 hours?<|im_end|>\n"
            "<|im_start|>assistant\n")
LONG = "To be, or not to be, that is the question. " * 60
SCORED = [("ROMEO:\n", "O, what"), ("", "O, what"), ("ROMEO: ", "what"), ("ROMEO:", ""), ("", ""), (" ", "x"), ("ROMEO: ", ""),
          ("wor", "d"), ("wo", "rd problem"), (LONG, "the end"), ("ROMEO:", LONG), ("\ud83d", "x"), ("x", "a\ud83d"),
          ("naïve ", "café 😀"), ("<|im_end|>", "x"), ("", "<|im_end|>")]
ROLLED = ["To be or not to be", "", LONG, "x", "a\ud83db"]
GENERATED = [(QUESTION, {"until": ["####"]}),
             (QUESTION, {"until": "28"}),
             (QUESTION, {"until": ["<|im_end|>"], "max_gen_toks": 20, "do_sample": False}),
             (QUESTION, {"until": [], "max_gen_toks": 20, "do_sample": False, "temperature": 0.7}),
             (QUESTION, {"until": ["####"], "temperature": 1e-6}),
             (QUESTION, {"until": ["####"], "do_sample": True}),
             (QUESTION, {"until": ["####"], "max_new_tokens": 7}),
             (QUESTION, {"until": ["####"], "max_gen_toks": 1023}),
             (QUESTION, {"until": ["####"], "max_gen_toks": 1000}),
             (QUESTION, {"until": ["####"], "max_gen_toks": 1024}),
             (QUESTION, {"until": ["####"], "max_gen_toks": 1025}),
             (QUESTION, {"until": ["####"], "max_gen_toks": 1100}),
             (QUESTION, {"until": ["####"], "max_gen_toks": 100000}),
             (QUESTION, {"until": ["####"], "max_length": 60}),
             (QUESTION, {"until": ["####"], "max_length": 3}),
             (QUESTION, {"until": ["####"], "repetition_penalty": 1.3, "max_gen_toks": 30}),
             (QUESTION, {"until": ["####"], "temprature": 0.5}),
             (LONG, {"until": ["zzz"], "max_gen_toks": 12}),
             (LONG, {"until": ["zzz"], "max_gen_toks": 900}),
             ("\ud83d", {"until": ["####"]}), ("", {"until": ["####"], "max_gen_toks": 4})]


def ask(model, kind, *args):
    from lm_eval.api.instance import Instance

    request = Instance(request_type=kind, doc={}, arguments=args, idx=0)
    try:
        return getattr(model, kind)([request], disable_tqdm=True)[0]
    except Exception as error:
        return error


def same(ours, theirs):
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        return isinstance(ours, Exception) and isinstance(theirs, Exception)
    if isinstance(ours, str):
        return ours == theirs
    a, b = (ours, theirs) if isinstance(ours, tuple) else ((ours,), (theirs,))
    return abs(a[0] - b[0]) <= 1e-4 * max(1e-3, abs(b[0])) and a[1:] == b[1:]


class Heard(logging.Handler):
    """Warnings about truncation, as both models give them."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        text = record.getMessage()
        if "runcat" in text or "max_length" in text:
            self.texts.append(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choir", required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "configs" / "demo")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "launch"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = folder
        import choir_lm_eval
        from lm_eval.models.huggingface import HFLM

        import transformers

        hf = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype="float32")
        theirs = HFLM(pretrained=hf, tokenizer=str(args.model), batch_size=1, device="cpu")
        ours = choir_lm_eval.define_model()(path=args.model, dtype="f32", choir=args.choir, threads=1)
    heard = Heard()
    logging.getLogger("lm_eval").addHandler(heard)
    asked = [("loglikelihood", pair) for pair in SCORED] + [("loglikelihood_rolling", (text,)) for text in ROLLED]
    asked += [("generate_until", pair) for pair in GENERATED]
    n_different = 0
    for kind, request in asked:
        answers, warnings = [], []
        for model in (ours, theirs):
            heard.texts = []
            answers.append(ask(model, kind, *request))
            warnings.append(heard.texts)
        texts = [[str(part)[:40] for part in request[:1]], request[1:]]
        if not same(*answers) or warnings[0] != warnings[1]:
            n_different += 1
            print(f"{kind} {texts!r:.160}:\n    choir {answers[0]!r:.200} {warnings[0]}\n    hf    {answers[1]!r:.200} {warnings[1]}")
        elif isinstance(answers[0], Exception):
            print(f"{kind} {texts!r:.120}: both refuse: {str(answers[0]):.160}")
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]
    for messages, prompt in ((conversation[:1], True), (conversation, False), (conversation[:1], False)):
        a, b = (model.apply_chat_template(messages, add_generation_prompt=prompt) for model in (ours, theirs))
        n_different += a != b
        if a != b:
            print(f"chat template: choir {a!r}, hf {b!r}")
    ours.worker.close()
    print(f"{len(asked) + 3} requests, {n_different} differ")
    sys.exit(n_different > 0)


if __name__ == "__main__":
    main()
