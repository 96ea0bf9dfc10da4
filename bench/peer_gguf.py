"""Writes a GGUF file of random weights in a Qwen2 shape, for llama.cpp and its forks to be timed on.

    peer_gguf.py --config CONFIG.json --out FILE.gguf [--layers N] [--dtype bf16|f32] [--seed N]

CONFIG.json is a Qwen2 config.json; --layers replaces its number of layers. There is no vocabulary in
the file, only its size, which is all that llama-bench needs. Other types are made from this file with
llama-quantize. Needs nothing but Python. The weights of the file come from one block of a million
random numbers, written again and again; as its length is odd, no two pages of the file are alike.

GGUF version 3, all integers little-endian (specification: docs/gguf.md of the ggml project):

    "GGUF", u32 version, u64 tensors, u64 entries
    entry:   string key, u32 type of the value (4 u32, 6 f32, 8 string), value
    tensor:  string name, u32 dimensions, u64 sizes, innermost first, u32 type (0 f32, 30 bf16),
             u64 offset of its data from the start of all data
    zeros up to a multiple of 32, then the data, each tensor at a multiple of 32
    string:  u64 bytes, UTF-8
"""

import argparse
import array
import json
import random
import struct
import sys
from pathlib import Path

ALIGNMENT = 32
BLOCK_VALUES = 1_000_003
TYPES = {"f32": (0, 4), "bf16": (30, 2)}  # number in the file, bytes of a value
FILE_TYPES = {"f32": 0, "bf16": 32}
U32, F32, STRING = 4, 6, 8


class BadInput(Exception):
    """What the user has to change; its text is the whole message."""


def read_shape(path, layers):
    """The config as a dict, with head_dim filled in and the layers replaced."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a Qwen2 config.json: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "qwen2":
        raise BadInput(f"{path}: expected model_type \"qwen2\"")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "vocab_size", "max_position_embeddings"):
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise BadInput(f"{path}: {name}: expected a whole number from 1, found {config.get(name)!r}")
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    return config


def tensors(config, dtype):
    """(name, shape, type) of every tensor; shapes as [outputs, inputs]. Norms and biases are f32."""
    hidden, mlp, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    yield "token_embd.weight", (vocab, hidden), dtype
    yield "output_norm.weight", (hidden,), "f32"
    if not config.get("tie_word_embeddings", False):
        yield "output.weight", (vocab, hidden), dtype
    for layer in range(config["num_hidden_layers"]):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (hidden,), "f32"
        for name, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            yield f"{block}{name}.weight", (rows, hidden), dtype
            yield f"{block}{name}.bias", (rows,), "f32"
        yield block + "attn_output.weight", (hidden, q), dtype
        yield block + "ffn_norm.weight", (hidden,), "f32"
        yield block + "ffn_gate.weight", (mlp, hidden), dtype
        yield block + "ffn_up.weight", (mlp, hidden), dtype
        yield block + "ffn_down.weight", (hidden, mlp), dtype


def entries(config, dtype):
    """(key, type, value) of the metadata that loaders ask for."""
    yield "general.architecture", STRING, "qwen2"
    yield "general.name", STRING, "random weights"
    yield "general.file_type", U32, FILE_TYPES[dtype]
    yield "qwen2.block_count", U32, config["num_hidden_layers"]
    yield "qwen2.context_length", U32, config["max_position_embeddings"]
    yield "qwen2.embedding_length", U32, config["hidden_size"]
    yield "qwen2.feed_forward_length", U32, config["intermediate_size"]
    yield "qwen2.attention.head_count", U32, config["num_attention_heads"]
    yield "qwen2.attention.head_count_kv", U32, config["num_key_value_heads"]
    yield "qwen2.attention.key_length", U32, config["head_dim"]
    yield "qwen2.attention.value_length", U32, config["head_dim"]
    yield "qwen2.attention.layer_norm_rms_epsilon", F32, config.get("rms_norm_eps", 1e-6)
    yield "qwen2.rope.dimension_count", U32, config["head_dim"]
    yield "qwen2.rope.freq_base", F32, config.get("rope_theta", 1e6)
    yield "qwen2.vocab_size", U32, config["vocab_size"]
    yield "tokenizer.ggml.model", STRING, "none"


def count(shape):
    product = 1
    for size in shape:
        product *= size
    return product


def padding(position):
    return -position % ALIGNMENT


def packed_string(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def packed_value(kind, value):
    if kind == STRING:
        return packed_string(value)
    return struct.pack("<I" if kind == U32 else "<f", value)


def header(config, dtype):
    plan, metadata = list(tensors(config, dtype)), list(entries(config, dtype))
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(plan), len(metadata))]
    for key, kind, value in metadata:
        parts += [packed_string(key), struct.pack("<I", kind), packed_value(kind, value)]
    offset = 0
    for name, shape, kind in plan:
        number, value_bytes = TYPES[kind]
        parts += [packed_string(name), struct.pack("<I", len(shape)),
                  struct.pack(f"<{len(shape)}Q", *reversed(shape)), struct.pack("<IQ", number, offset)]
        offset += count(shape) * value_bytes
        offset += padding(offset)
    data = b"".join(parts)
    return data + bytes(padding(len(data)))


def random_block(kind, generator):
    """Bytes of BLOCK_VALUES numbers within 2^-5 .. 2^-3, of either sign: sums neither vanish nor grow."""
    if kind == "bf16":  # sign, 8 bits of exponent with bias 127, 7 bits of fraction
        values = array.array("H", (sign << 15 | bits for sign, bits in
                                   ((generator.getrandbits(1), generator.randrange(122 << 7, 124 << 7))
                                    for _ in range(BLOCK_VALUES))))
    else:
        values = array.array("f", (generator.choice((-1, 1)) * generator.uniform(1 / 32, 1 / 8)
                                   for _ in range(BLOCK_VALUES)))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


class Endless:
    """A file-like stream of one block, over and over."""

    def __init__(self, block):
        self.block, self.at = block, 0

    def write_to(self, out, n_bytes):
        while n_bytes > 0:
            part = self.block[self.at:self.at + n_bytes]
            out.write(part)
            n_bytes -= len(part)
            self.at = (self.at + len(part)) % len(self.block)


def write(path, config, dtype, seed):
    generator = random.Random(seed)
    streams = {kind: Endless(random_block(kind, generator)) for kind in {dtype, "f32"}}
    with open(path, "wb") as out:
        out.write(header(config, dtype))
        for _, shape, kind in tensors(config, dtype):
            n_bytes = count(shape) * TYPES[kind][1]
            streams[kind].write_to(out, n_bytes)
            out.write(bytes(padding(n_bytes)))
        return out.tell()


def main():
    parser = argparse.ArgumentParser(description="Writes a GGUF file of random weights in a Qwen2 shape.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--layers", type=int, default=0, help="instead of the config's")
    parser.add_argument("--dtype", choices=sorted(TYPES), default="bf16")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        if args.layers < 0:
            raise BadInput(f"--layers: expected a whole number from 1, found {args.layers}")
        n_bytes = write(args.out, read_shape(args.config, args.layers), args.dtype, args.seed)
    except BadInput as error:
        sys.exit(f"peer_gguf: {error}")
    except OSError as error:
        sys.exit(f"peer_gguf: {args.out}: {error.strerror}")
    print(f"{args.out}: {n_bytes / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
