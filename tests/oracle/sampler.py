"""What transformers' logits processors keep, and with which probability.

    sampler.py [--out FILE.json]
    sampler.py --compare FILE.json    the same, but for the last bits of probabilities, which follow PyTorch's CPU

Each case: logits of a small vocabulary, the tokens seen so far, the sampling parameters, and
the tokens that survive in descending order of probability (equal ones by id) with their
probabilities. Ties are made on purpose: logits are rounded to bfloat16, and three of the best
are equal. Only where top-p would cut between equal scores is a case drawn again: which of
them goes is up to torch.sort, which is not stable.
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 61


def processors(params):
    """In the order of transformers' generate()."""
    found = LogitsProcessorList()
    if params["repetition_penalty"] != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(penalty=params["repetition_penalty"]))
    if params["temperature"] != 1.0:
        found.append(TemperatureLogitsWarper(params["temperature"]))
    if params["top_k"] != 0:
        found.append(TopKLogitsWarper(top_k=params["top_k"]))
    if params["top_p"] != 1.0:
        found.append(TopPLogitsWarper(top_p=params["top_p"]))
    if params["min_p"] != 0.0:
        found.append(MinPLogitsWarper(min_p=params["min_p"]))
    return found


def case(params, generator):
    while True:
        entry, cuts_a_tie = attempt(params, generator)
        if not cuts_a_tie:
            return entry


def attempt(params, generator):
    logits = (torch.randn(VOCABULARY, generator=generator) * 3).bfloat16().float()
    logits[7] = logits[11] = logits[40] = logits.max() - 0.5
    seen = torch.randint(0, VOCABULARY, (12,), generator=generator)
    scores = processors(params)(seen[None], logits[None].clone())[0]
    probabilities = torch.softmax(scores.double(), dim=-1).tolist()
    kept = [i for i in range(VOCABULARY) if scores[i] != -float("inf")]
    kept.sort(key=lambda i: (-scores[i].item(), i))
    everything = processors(params | {"top_k": 0, "top_p": 1.0, "min_p": 0.0})(seen[None], logits[None].clone())[0]
    cuts_a_tie = any(everything[i] in everything[kept] for i in range(VOCABULARY) if i not in kept)
    entry = params | {
        "logits": logits.tolist(),
        "seen": sorted(set(seen.tolist())),
        "kept": kept,
        "probabilities": [probabilities[i] for i in kept],
    }
    return entry, cuts_a_tie


def same(made, golden):
    """Whether two cases are equal, probabilities to 1e-14 of their size."""
    pairs = zip(made["probabilities"], golden["probabilities"])
    return ({**made, "probabilities": 0} == {**golden, "probabilities": 0}
            and len(made["probabilities"]) == len(golden["probabilities"])
            and all(math.isclose(a, b, rel_tol=1e-14) for a, b in pairs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "golden" / "sampler.json")
    parser.add_argument("--compare", type=Path)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(5)
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    values = ((1.0, 0.7, 2.5), (0, 5, 100), (1.0, 0.8), (0.0, 0.1), (1.0, 1.3))
    cases = [case(dict(zip(names, chosen)), generator) for chosen in itertools.product(*values)]
    if args.compare:
        golden = json.loads(args.compare.read_text(encoding="utf-8"))
        different = [i for i, (a, b) in enumerate(zip(cases, golden)) if not same(json.loads(json.dumps(a)), b)]
        sys.exit(f"cases that differ: {different}" if different or len(cases) != len(golden) else 0)
    lines = ",\n".join(json.dumps(entry) for entry in cases)
    args.out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
