"""Writes a Hugging Face model directory with random weights.

    make_model.py --config CONFIG.json --out DIR [--seed N] [--dtype bf16|f16|f32]
                  [--shards K] [--layers N] [--vocab N] [--tokenizer DIR] [--cancelling]
                  [--set KEY=JSON]...

CONFIG.json is a config.json of any architecture that Choir knows; what weights it has, the
program write_model tells, which a build of the tree makes. --layers and --vocab replace its sizes, --set any key. The directory
gets config.json, generation_config.json, and model.safetensors, or, with --shards, K
files and model.safetensors.index.json. The same arguments give the same bytes on every
machine and with every version of numpy: only the raw output of PCG64, integer arithmetic
and single correctly rounded operations are used.

Weights. A matrix of K columns has standard deviation 1/sqrt(K), so that every product
has a spread of about one and attention is neither flat nor a single key; biases have
0.5; norm weights are 1 + 0.1 r; the embedding has 1, or 2/sqrt(hidden) when it is also
lm_head; lm_head has 2/sqrt(hidden), which gives logits with a spread of about two.
r is the sum of four uniform numbers, scaled to variance one.

--cancelling makes data that shows every wrong order of additions. Residual dimensions,
MLP columns and value dimensions (within each head) are shuffled into pairs (a, b). What
writes to them writes the same values to a and b; what reads them has opposite weights
for a and b. In exact arithmetic every product with a weight matrix, also lm_head, is then
0, so the value computed IS the rounding error of its order. Biases are 0, and embeddings
are untied. Tokens 2i and 2i+1 have opposite embeddings, and so opposite values: a prompt
of such pairs makes the product of attention weights and values cancel as well.

Memory: one block of 4 M values at a time (one matrix with --cancelling).
"""

import argparse
import json
import math
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 1 << 22  # values made at a time
SIZES = {"bf16": ("BF16", 2), "f16": ("F16", 2), "f32": ("F32", 4)}
TORCH_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
TOKENIZER_FILES = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.jinja"]


def kind_of(label):
    if "norm" in label:
        return "norm"
    return "bias" if label.endswith(".bias") else {"embed_tokens": "embedding"}.get(label, label)


def tensor_list(path):
    """(name, shape, kind) of every tensor, in the order of the file. path: of the config.json"""
    programs = sorted(ROOT.glob("build*/tests/write_model"), key=lambda program: program.stat().st_mtime)
    if not programs:
        raise SystemExit("expected build*/tests/write_model, found none: build the tree first")
    lines = subprocess.run([programs[-1], "--list", path], check=True, stdout=subprocess.PIPE, text=True).stdout
    for weight in map(json.loads, lines.splitlines()):
        yield weight["name"], tuple(weight["shape"]), kind_of(weight["label"])


def blocks(seed, name, count):
    """Yields count random float32 values of mean 0 and variance 1, in blocks."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
    scale = np.float32(1 / math.sqrt(4 * (2**32 - 1) / 12))
    while count > 0:
        some = min(count, BLOCK)
        sums = bits.random_raw(some).view(np.uint16).reshape(some, 4).sum(axis=1, dtype=np.int32)
        yield (sums - 4 * 65535 // 2).astype(np.float32) * scale
        count -= some


def spread(kind, shape, config):
    """(mean, standard deviation) of a tensor's values."""
    logit = 2 / math.sqrt(config["hidden_size"])
    if kind == "norm":
        return 1.0, 0.1
    if kind == "bias":
        return 0.0, 0.5
    if kind == "embedding":
        return 0.0, logit if config.get("tie_word_embeddings", False) else 1.0
    return 0.0, logit if kind == "lm_head" else 1 / math.sqrt(shape[1])


def encode(values, dtype):
    """The bytes of float32 values, rounded to nearest even."""
    if dtype == "f32":
        return values.astype("<f4").tobytes()
    if dtype == "f16":
        return values.astype("<f2").tobytes()
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


class Pairs:
    """The pairs of --cancelling: partners[name] = (a, b), index arrays of equal length."""

    def __init__(self, config, seed):
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        dim = config.get("head_dim") or config["hidden_size"] // heads
        self.hidden_size = config["hidden_size"]
        self.hidden = self.shuffled(seed, "hidden", config["hidden_size"])
        self.mlp = self.shuffled(seed, "mlp", config["intermediate_size"])
        self.expert = self.shuffled(seed, "expert", config.get("moe_intermediate_size", 0))
        value = self.shuffled(seed, "value", dim)
        self.values = [np.concatenate([part + head * dim for head in range(kv_heads)]) for part in value]
        self.outputs = [np.concatenate([part + head * dim for head in range(heads)]) for part in value]

    @staticmethod
    def shuffled(seed, name, count):
        keys = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(f"pairs of {name}".encode())])).random_raw(count)
        order = np.argsort(keys, kind="stable")
        half = count // 2
        return order[:half], order[half:2 * half]

    def apply(self, kind, values):
        """Makes a tensor obey the pairs, in place."""
        same_rows = {"o_proj": self.hidden, "down_proj": self.hidden, "gate_proj": self.mlp, "up_proj": self.mlp,
                     "v_proj": self.values, "experts.gate_proj": self.expert, "experts.up_proj": self.expert,
                     "experts.down_proj": self.hidden}
        opposite_columns = {"o_proj": self.outputs, "down_proj": self.mlp, "experts.down_proj": self.expert}
        if kind == "bias":
            values[:] = 0
        elif kind == "norm" and len(values) == self.hidden_size:
            values[self.hidden[1]] = values[self.hidden[0]]
        elif kind == "norm":
            pass  # of heads
        elif kind == "embedding":
            values[:, self.hidden[1]] = values[:, self.hidden[0]]
            values[1::2] = -values[0:len(values) // 2 * 2:2]
        else:
            a, b = opposite_columns.get(kind, self.hidden)
            values[:, b] = -values[:, a]
            if kind in same_rows:
                a, b = same_rows[kind]
                values[b] = values[a]
            if values.shape[1] % 2:  # the one column without a partner
                values[:, np.setdiff1d(np.arange(values.shape[1]), np.concatenate(opposite_columns.get(kind, self.hidden)))] = 0


def tensor_bytes(args, config, pairs, name, shape, kind):
    """Yields the bytes of one tensor."""
    mean, deviation = (np.float32(x) for x in spread(kind, shape, config))
    parts = (mean + deviation * part for part in blocks(args.seed, name, math.prod(shape)))
    if pairs:
        values = np.concatenate(list(parts)).reshape(shape)
        pairs.apply(kind, values)
        parts = [values]
    for part in parts:
        yield encode(part, args.dtype)


def write_file(path, args, config, pairs, tensors):
    dtype, size = SIZES[args.dtype]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        end = at + math.prod(shape) * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for part in tensor_bytes(args, config, pairs, *tensor):
                file.write(part)


def split(tensors, count, size):
    """Cuts the list of tensors into count parts of about equal bytes."""
    total = sum(math.prod(shape) * size for _, shape, _ in tensors)
    parts, sizes = [[] for _ in range(count)], 0
    for tensor in tensors:
        parts[min(count - 1, sizes * count // total)].append(tensor)
        sizes += math.prod(tensor[1]) * size
    if not all(parts):
        raise SystemExit(f"--shards {count}: too many for {len(tensors)} tensors of these sizes")
    return parts, total


def make_config(args):
    config = json.loads(args.config.read_text(encoding="utf-8"))
    if args.layers:
        config["num_hidden_layers"] = args.layers
        config.pop("layer_types", None)
        if "max_window_layers" in config:
            config["max_window_layers"] = args.layers
    if args.vocab:
        config["vocab_size"] = args.vocab
    for place, key in enumerate(("eos_token_id", "bos_token_id", "pad_token_id")):
        if isinstance(config.get(key), int) and config[key] >= config["vocab_size"]:
            config[key] = config["vocab_size"] - 1 - place
    for text in args.set:
        key, _, value = text.partition("=")
        config[key] = json.loads(value)
    if args.cancelling:
        config["tie_word_embeddings"] = False
    config.pop("dtype", None)
    config["torch_dtype"] = TORCH_NAMES[args.dtype]
    return config


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=SIZES, default="bf16")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--tokenizer", type=Path, help="folder to copy tokenizer files from")
    parser.add_argument("--cancelling", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="a key of config.json and its value, as KEY=JSON")
    args = parser.parse_args()

    config = make_config(args)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "config.json", config)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
    write_json(args.out / "generation_config.json", {"do_sample": False, **special})
    if args.tokenizer:
        for name in TOKENIZER_FILES:
            if (args.tokenizer / name).exists():
                shutil.copyfile(args.tokenizer / name, args.out / name)

    tensors = list(tensor_list(args.out / "config.json"))
    pairs = Pairs(config, args.seed) if args.cancelling else None
    if args.shards == 1:
        write_file(args.out / "model.safetensors", args, config, pairs, tensors)
        return
    parts, total = split(tensors, args.shards, SIZES[args.dtype][1])
    places = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{args.shards:05d}.safetensors"
        write_file(args.out / file, args, config, pairs, part)
        places.update({name: file for name, _, _ in part})
    write_json(args.out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


if __name__ == "__main__":
    main()
