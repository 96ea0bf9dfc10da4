"""lm-evaluation-harness through Choir and through its own `hf` backend: the same on every item.

    lm_eval_compare.py --choir PROGRAM [--model DIR] [--items N] [--ranks N] [--mesh DxT] [--threads N]

Three local tasks, no hub: word problems (generate_until), the same with worked answers to choose
from (loglikelihood), and plays (loglikelihood_rolling). Every item's texts must be equal; its
log-likelihoods within 1e-4 (relative) in float32, and within 1e-6 (relative) in bfloat16, batch 1, with the
attention whose bits host.py promises here (--attention takes another). Needs lm_eval with its hf
backend: pip install "lm_eval[hf]".
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

import host

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
{rest}
"""

GENERATE = """\
doc_to_text: "<|im_start|>user\\n{{question}}<|im_end|>\\n<|im_start|>assistant\\n"
doc_to_target: "{{answer}}"
target_delimiter: ""
generation_kwargs:
  until: ["<|im_end|>"]
  do_sample: false
  max_gen_toks: 120
metric_list:
  - metric: exact_match
"""
CHOICE = """\
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
"""
ROLLING = """\
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
"""


def write_tasks(folder, items):
    """The tasks' data and YAML files; names of the tasks."""
    problems = (ROOT / "configs" / "demo" / "word-problems-test.jsonl").read_text().splitlines()[:items]
    choices = (ROOT / "configs" / "tasks" / "data" / "word-problems-choice.jsonl").read_text().splitlines()[:items]
    plays = (ROOT / "configs" / "tasks" / "data" / "plays.txt").read_text()
    # Of all lengths: an empty context, less than a window, several windows.
    pieces = [plays[:300], plays[1000:4000], plays[:15000], "O"]
    texts = [json.dumps({"text": piece}) for piece in pieces]
    tasks = {"choir_generate": ("generate_until", problems, GENERATE),
             "choir_choice": ("multiple_choice", choices, CHOICE),
             "choir_rolling": ("loglikelihood_rolling", texts, ROLLING)}
    for name, (kind, lines, rest) in tasks.items():
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(lines) + "\n")
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=kind, rest=rest))
    return list(tasks)


def evaluate(model, folder, tasks, **options):
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=TaskManager(include_path=str(folder)),
                                      log_samples=True, bootstrap_iters=0, verbosity="ERROR", **options)
    return {(task, sample["doc_id"], i): response[0] if isinstance(response, list) else response
            for task, samples in results["samples"].items()
            for sample in samples for i, response in enumerate(sample["resps"])}


def largest_difference(ours, theirs):
    """(largest relative difference of log-likelihoods, number of unequal texts and greedy flags)."""
    worst, unequal = 0.0, 0
    assert ours.keys() == theirs.keys() and ours
    for key, a in ours.items():
        b = theirs[key]
        if isinstance(a, str):
            if a != b:
                unequal += 1
                print(f"{key}: {a!r} against {b!r}")
            continue
        a, b = (a, b) if isinstance(a, (tuple, list)) else ((a,), (b,))
        worst = max(worst, abs(a[0] - b[0]) / max(1e-30, abs(b[0])))
        unequal += len(a) > 1 and bool(a[1]) != bool(b[1])
    return worst, unequal


def compare(args, dtype, folder, tasks):
    import torch
    from lm_eval.models.huggingface import HFLM

    sys.path.insert(0, str(ROOT / "launch"))
    import choir_lm_eval

    torch.set_num_threads(args.threads)
    name = {"f32": "float32", "bf16": "bfloat16"}[dtype]
    attention = args.attention or ("sdpa" if dtype == "f32" or host.promises()["sdpa"] else "eager")
    # In double, so that what is compared are logits, and not the rounding of a sum over a thousand tokens.
    theirs = HFLM(pretrained=str(args.model), dtype=name, softmax_dtype="float64", batch_size=1, device="cpu",
                  attn_implementation=attention)
    adds = {"dot": "chain"} if host.order() == "torch" else {"order": host.order()}
    flags = {"attention": attention, **adds} if dtype == "bf16" else {}
    ours = choir_lm_eval.define_model()(path=args.model, ranks=args.ranks, mesh=args.mesh, dtype=dtype, choir=args.choir,
                                        mpirun="mpirun --oversubscribe --bind-to none", threads=1,
                                        **flags)
    a, b = evaluate(ours, folder, tasks), evaluate(theirs, folder, tasks)
    ours.worker.close()
    worst, unequal = largest_difference(a, b)
    bar = 1e-4 if dtype == "f32" else 1e-6
    print(f"{dtype}: {len(a)} answers, largest relative difference {worst:.2e} (bar {bar:.0e}), "
          f"{unequal} texts or greedy flags differ")
    return worst <= bar and unequal == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choir", required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "configs" / "demo")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mesh")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=("eager", "sdpa"))
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"], choices=("f32", "bf16"))
    args = parser.parse_args()
    host.limit()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = folder
        tasks = write_tasks(Path(folder), args.items)
        good = [compare(args, dtype, Path(folder), tasks) for dtype in args.dtypes]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
