"""Writes files of random weights in a Qwen2 shape for distributed-llama to be timed on.

    peer_dllama.py --config CONFIG.json --out FILE.m --tokenizer FILE.t [--layers N] [--seed N]

CONFIG.json is a Qwen2 config.json; --layers replaces its number of layers. That program knows no Qwen2, so
the file claims its Llama architecture: the same matrices, without biases of q, k and v, which is a little less work.
Weights are q40, its smallest type, embedding and norms f32. Its vocabulary is the characters of ASCII that
print, one token each, and names that no text has, so that a prompt of N letters is N tokens. Needs
nothing but Python. The weights come from a block of random numbers, written again and again.

Both formats are numbers of 4 bytes, little-endian, then data without gaps (facts: the loaders in src/llm.cpp and
src/tokenizer.cpp of the project):

    model:      0xA00ABCD, bytes of the whole header, then pairs of key and value (KEYS)
    data:       embedding; of each layer q, k, v, o, gate, down, up, norm before attention, norm before MLP; the
                last norm; lm_head. Matrices row by row, as [outputs, inputs]
    q40:        32 values in 18 bytes: f16 scale, then 16 bytes, value i in the low half of byte i and value i + 16
                in its high half; half h stands for (h - 8) x scale
    tokenizer:  0x567124, bytes of the whole header, pairs (TOKENIZER_KEYS); the ids that end a text; then of each
                token f32 score, bytes, text. Tokens below the one that begins a text are ordinary
"""

import argparse
import array
import random
import struct
import sys

from peer_gguf import BadInput, Endless, read_shape

MODEL_MAGIC, TOKENIZER_MAGIC = 0xA00ABCD, 0x567124
LLAMA, SILU, Q40 = 0xABCD00, 1, 2
KEYS = {"version": 0, "architecture": 1, "hidden": 2, "intermediate": 3, "layers": 4, "heads": 5, "kv_heads": 6,
        "experts": 7, "active_experts": 8, "vocabulary": 9, "positions": 10, "activation": 11, "rope_theta": 12,
        "weight_type": 13, "head_dim": 19, "norm_epsilon_exponent": 20}
TOKENIZER_KEYS = {"version": 0, "vocabulary": 1, "longest": 2, "begin": 3, "n_ends": 9, "adds_begin": 10}
GROUP_VALUES, GROUP_BYTES = 32, 18
BLOCK_GROUPS, BLOCK_FLOATS = 100_003, 1_000_003
SPECIAL = 2  # tokens that begin and end a text, the last of the vocabulary


def header(magic, keys, values):
    data = b"".join(struct.pack("<ii", keys[name], value) for name, value in values.items())
    return struct.pack("<ii", magic, 8 + len(data)) + data


def model_header(config):
    return header(MODEL_MAGIC, KEYS, {
        "version": 0, "architecture": LLAMA, "hidden": config["hidden_size"],
        "intermediate": config["intermediate_size"], "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"], "kv_heads": config["num_key_value_heads"], "experts": 0,
        "active_experts": 0, "vocabulary": config["vocab_size"], "positions": config["max_position_embeddings"],
        "activation": SILU, "rope_theta": int(config.get("rope_theta", 1e6)), "weight_type": Q40,
        "head_dim": config["head_dim"], "norm_epsilon_exponent": 6})


def tensors(config):
    """(values, type) of every tensor in the file's order."""
    hidden, mlp, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    yield vocab * hidden, "f32"
    for _ in range(config["num_hidden_layers"]):
        for outputs, inputs in ((q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (mlp, hidden), (hidden, mlp),
                                (mlp, hidden)):
            yield outputs * inputs, "q40"
        yield hidden, "f32"
        yield hidden, "f32"
    yield hidden, "f32"
    yield vocab * hidden, "q40"


def random_groups(generator):
    """Groups whose scale keeps sums over some thousand inputs near one."""
    scales = [struct.pack("<e", generator.uniform(1 / 512, 1 / 256)) for _ in range(BLOCK_GROUPS)]
    return b"".join(scale + generator.randbytes(GROUP_BYTES - 2) for scale in scales)


def random_floats(generator):
    values = array.array("f", (generator.uniform(0.5, 1.5) for _ in range(BLOCK_FLOATS)))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def write_model(path, config, seed):
    generator = random.Random(seed)
    streams = {"q40": Endless(random_groups(generator)), "f32": Endless(random_floats(generator))}
    with open(path, "wb") as out:
        out.write(model_header(config))
        for values, kind in tensors(config):
            streams[kind].write_to(out, values // GROUP_VALUES * GROUP_BYTES if kind == "q40" else values * 4)
        return out.tell()


def write_tokenizer(path, vocab_size):
    letters = [bytes([code]) for code in range(32, 127)]
    names = [b"<%d>" % i for i in range(len(letters), vocab_size)]
    begin = vocab_size - SPECIAL
    with open(path, "wb") as out:
        out.write(header(TOKENIZER_MAGIC, TOKENIZER_KEYS, {
            "version": 1, "vocabulary": vocab_size, "longest": max(map(len, letters + names)), "begin": begin,
            "n_ends": 1, "adds_begin": 0}))
        out.write(struct.pack("<i", begin + 1))
        for text in letters + names:
            out.write(struct.pack("<fI", 0.0, len(text)) + text)
        return out.tell()


def check(config):
    for name in ("hidden_size", "intermediate_size"):
        if config[name] % GROUP_VALUES != 0:
            raise BadInput(f"{name}: expected a multiple of {GROUP_VALUES}, found {config[name]}")
    if config["vocab_size"] < 1024:
        raise BadInput(f"vocab_size: expected at least 1024, found {config['vocab_size']}")


def main():
    parser = argparse.ArgumentParser(description="Writes random weights in a Qwen2 shape for distributed-llama.")
    for name in ("config", "out", "tokenizer"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--layers", type=int, default=0, help="instead of the config's")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        if args.layers < 0:
            raise BadInput(f"--layers: expected a whole number from 1, found {args.layers}")
        config = read_shape(args.config, args.layers)
        check(config)
        n_bytes = write_model(args.out, config, args.seed) + write_tokenizer(args.tokenizer, config["vocab_size"])
    except BadInput as error:
        sys.exit(f"peer_dllama: {error}")
    except OSError as error:
        sys.exit(f"peer_dllama: {error.filename}: {error.strerror}")
    print(f"{args.out}, {args.tokenizer}: {n_bytes / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
