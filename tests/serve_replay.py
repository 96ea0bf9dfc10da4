"""Requests of many kinds and what a server answers them, for comparisons: python3 tests/serve_replay.py URL N THREADS OUT

The same file has to come out at any load, number of ranks, mesh and cache.
"""

import concurrent.futures
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve_client import Client  # noqa: E402

QUESTION = "{} had {} cookies. {} ate half of them on the first day. How many cookies were left?"
CONTEXT = "First Citizen: Before we proceed any further, hear me speak. All: Speak, speak. " * 6


def request(i):
    draw = random.Random(i)
    name = draw.choice(["Julia", "Tom", "Ann"])
    fields = {"seed": i, "max_tokens": draw.choice([1, 17, 40, 90]), "temperature": draw.choice([0, 0.7, 1, 1.3]),
              "top_p": draw.choice([1, 0.9]), "logits_digest": True, "n": draw.choice([1, 1, 1, 3])}
    if draw.random() < 0.3:
        fields |= {"top_k": 20, "min_p": 0.05, "frequency_penalty": 0.5, "presence_penalty": 0.3}
    if draw.random() < 0.2:
        fields |= {"repetition_penalty": 1.2, "logit_bias": {"500": 2.5, "11": -1}}
    if draw.random() < 0.3:
        fields["stop"] = ["\n", "<<"]
    if draw.random() < 0.5:
        question = QUESTION.format(name, draw.randrange(10, 99), name)
        return "/v1/chat/completions", {**fields, "messages": [{"role": "user", "content": question}],
                                        "logprobs": True, "top_logprobs": 2}
    prompt = (CONTEXT if draw.random() < 0.5 else "") + draw.choice(["ROMEO:", "JULIET: O", "KING"])
    if draw.random() < 0.2:
        fields |= {"echo": True, "logprobs": 2}
    return "/v1/completions", {**fields, "prompt": prompt}


def main():
    client, n, threads = Client(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    order = list(range(n))
    random.Random(threads).shuffle(order)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        answers = dict(zip(order, pool.map(lambda i: client.post(*request(i)), order)))
    with open(sys.argv[4], "w") as out:
        for i in range(n):
            answers[i].pop("id"), answers[i].pop("created")
            out.write(json.dumps(answers[i]) + "\n")


main()
