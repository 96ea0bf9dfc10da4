"""Digests of Hugging Face's logits, for tests/mpi_logits.c.

    logits.py --models ROOT --out logits.json [--only NAME,NAME]     make the golden file
    logits.py --models ROOT --compare logits.json [--attention eager|sdpa|amx]   compare with it, exit 1 if any differs

With CHOIR_ORACLE_ORDER=torch-avx2 in the environment, and on a CPU with AVX2 only: logits-avx2.json, of fewer models, their
sdpa attention by emulator.c.

ROOT/demo is a copy of configs/demo; the others are what
`write_model tests/oracle/shapes/NAME.json 1 ROOT/NAME` wrote. For each prompt and attention: `prefill` is XXH3 (64 bits) over the bf16 logits of all positions
of one forward; `decode` over those of the last prompt position as generate() computes
them, then of each token of `fed` with a cache, one at a time. `amx` is sdpa with
linear layers and attention computed by emulator.c in the order of Choir's --dot amx.
"""

import argparse
import json
import random
import sys

import host

host.limit()

import torch
import xxhash
from transformers import AutoModelForCausalLM

from emulator import Emulator

LENGTHS = {"demo": [1, 2, 3, 7, 16, 33, 100, 300, 600], "odd": [1, 2, 5, 15, 17, 33, 67, 128, 227, 530],
           "yarn": [1, 40, 300], "sliding": [10, 64, 130, 300], "qwen3": [1, 2, 17, 67, 227, 530],
           "qwen3_bias": [1, 40, 130], "llama": [1, 2, 17, 67, 227, 530],
           "mistral": [1, 2, 17, 38, 40, 67, 130, 227, 530],
           "linear": [1, 40, 130], "dynamic": [40, 62, 67, 130, 227],
           "window_g1": [1, 28, 40, 67, 130, 230], "window_g3": [5, 36, 37, 67, 130, 530], "qwen3_window": [20, 59, 61, 130, 530],
           "qwen3_moe": [1, 2, 17, 67, 227, 530], "qwen3_moe_wide": [1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7, 8, 17, 67]}
# Of all but these the emulator computes sdpa, so that any host with avx512_bf16 can make it.
BY_TORCH = ("demo", "odd", "yarn")
AVX2 = ("demo", "odd", "qwen3", "llama", "mistral", "qwen3_moe")
AMX = ("demo", "odd", "qwen3", "qwen3_bias", "llama", "qwen3_moe", "qwen3_moe_wide", "mistral")
FED = 3


def digest(rows):
    state = xxhash.xxh3_64()
    for row in rows:
        state.update(row.view(torch.uint16).numpy().tobytes())
    return state.hexdigest()


@torch.no_grad()
def run(model, ids, fed):
    prompt = torch.tensor([ids])
    prefill = digest(model(prompt).logits[0])
    out = model(prompt, use_cache=True, logits_to_keep=1)
    rows, cache = [out.logits[0, -1]], out.past_key_values
    for token in fed:
        out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        rows.append(out.logits[0, -1])
        cache = out.past_key_values
    return {"prefill": prefill, "decode": digest(rows)}


def use_amx_order(model, emulator):
    """Replaces the arithmetic of linear layers, routers and experts."""
    def product(x, weight, bias=None):
        rows, (n, k) = x.reshape(-1, x.shape[-1]).contiguous(), weight.shape
        y = torch.empty(rows.shape[0], n, dtype=torch.bfloat16)
        emulator.linear_amx(y, rows, weight.data.contiguous(), bias, rows.shape[0], n, k)
        return y.reshape(*x.shape[:-1], n)

    def linear(layer):
        return lambda x: product(x, layer.weight, None if layer.bias is None else layer.bias.data)

    def router(layer):
        def choose(x):
            logits = product(x.reshape(-1, layer.hidden_dim), layer.weight)
            values, experts = torch.topk(torch.softmax(logits, dim=-1, dtype=torch.float), layer.top_k, dim=-1)
            if layer.norm_topk_prob:
                values /= values.sum(dim=-1, keepdim=True)
            return logits, values.to(logits.dtype), experts
        return choose

    def experts(layer):
        def forward(x, chosen, weights):
            pairs = torch.empty(chosen.numel(), x.shape[-1], dtype=x.dtype)
            for e in range(layer.num_experts):
                mine = torch.where(chosen.reshape(-1) == e)[0]
                if len(mine) == 0:
                    continue
                both = product(x[mine // chosen.shape[1]], layer.gate_up_proj[e])
                down = product(layer._apply_gate(both), layer.down_proj[e])
                pairs[mine] = down * weights.reshape(-1)[mine, None]
            return pairs.view(*chosen.shape, -1).sum(dim=1)
        return forward

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.forward = linear(module)
        elif type(module).__name__.endswith("TopKRouter"):
            module.forward = router(module)
        elif type(module).__name__.endswith("Experts"):
            module.forward = experts(module)


def make(directory, name):
    rng = random.Random(name)
    avx2 = host.order() == "torch-avx2"
    implementations = {"eager": "eager", "sdpa": "sdpa" if name in BY_TORCH else "emulated-torch"}
    if avx2:
        implementations = {"eager": "eager", "sdpa": "emulated-avx2"}
    models = {a: AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, attn_implementation=i)
              for a, i in implementations.items()}
    if name in AMX and not avx2:
        models["amx"] = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, attn_implementation="emulated-amx")
        use_amx_order(models["amx"], Emulator.shared())
    vocabulary = models["eager"].config.vocab_size
    entries = []
    for n in LENGTHS[name]:
        ids = [rng.randrange(vocabulary) for _ in range(n)]
        fed = [rng.randrange(vocabulary) for _ in range(FED)]
        entries.append({"ids": ids, "fed": fed} | {a: run(m, ids, fed) for a, m in models.items()})
    return entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True)
    parser.add_argument("--out")
    parser.add_argument("--only", help="names of models, separated by commas")
    parser.add_argument("--compare")
    parser.add_argument("--attention", choices=["eager", "sdpa", "amx"], help="compare only this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.only.split(",") if args.only else list(AVX2 if host.order() == "torch-avx2" else LENGTHS)
    golden = {name: make(f"{args.models}/{name}", name) for name in names}
    if args.out:
        with open(args.out, "w") as file:
            file.write("{\n" + ",\n".join(
                f'"{name}": [\n' + ",\n".join(json.dumps(e, separators=(",", ":")) for e in entries) + "\n]"
                for name, entries in golden.items()) + "\n}\n")
    if args.compare:
        with open(args.compare) as file:
            other = {name: entries for name, entries in json.load(file).items() if name in names}
        leave_out = {"eager", "sdpa", "amx"} - {args.attention} if args.attention else set()
        for entries in (*golden.values(), *other.values()):
            for entry in entries:
                for attention in leave_out:
                    entry.pop(attention, None)
        same = other == golden
        print(f"logits of {args.compare}: {'equal' if same else 'DIFFER'}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
