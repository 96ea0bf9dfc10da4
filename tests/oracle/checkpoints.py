"""Model directories that say a thing twice, or otherwise than usual: Choir against transformers.

    checkpoints.py --choir build/choir [--store]     exit 1 if any differs
    checkpoints.py --frequencies                     prints the values of tests/test_rope.c

Each case is a tiny random model in f32. Logits of a prompt have to agree within 2e-5 of their largest, and greedy
answers have to be equal; --store repeats every case with a shard store made of the directory, whose logits have to be
the directory's, bit for bit."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen2ForCausalLM

BASE = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 96,
        "max_position_embeddings": 16, "dtype": "float32", "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def weights():
    torch.manual_seed(1)
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "max_position_embeddings")
    model = Qwen2ForCausalLM(Qwen2Config(**{key: BASE[key] for key in keys}))
    return {name: torch.randn_like(value) * (0.3 if value.dim() == 2 else 0.1) + (1 if "norm" in name else 0)
            for name, value in model.state_dict().items()}


def cases(w):
    """name: (config or its text, {file: tensors}, other files)"""
    single, one = "model.safetensors", "one.safetensors"
    without_head = {k: v for k, v in w.items() if k != HEAD}
    short = {k.removeprefix("model."): v for k, v in w.items()}
    half = {k: v / 2 for k, v in w.items()}
    index = lambda names: {"model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": names})}
    text = json.dumps(BASE)
    yield "plain", BASE, {single: w}, {}
    yield "tied, with another lm_head", BASE | TIED, {single: w}, {}
    yield "tied, with the same lm_head", BASE | TIED, {single: w | {HEAD: w[EMBEDDING].clone()}}, {}
    yield "tied, lm_head alone", BASE | TIED, {single: {k: v for k, v in w.items() if k != EMBEDDING}}, {}
    yield "names without prefix", BASE, {single: short}, {}
    yield "names without prefix, tied", BASE | TIED, {single: {k: v for k, v in short.items() if k != HEAD}}, {}
    yield "names with the prefix twice", BASE, {single: {"model." + k: v for k, v in w.items()}}, {}
    yield "names of two kinds", BASE, {single: w | {k: v * 2 for k, v in short.items() if k != HEAD}}, {}
    yield "a tensor of no use", BASE, {single: w | {"other": torch.zeros(3)}}, {}
    yield "a single file beside an index", BASE, {single: w, one: half}, index({k: one for k in w})
    yield "an index of absent tensors", BASE, {one: w}, index({EMBEDDING: one, "absent": one})
    yield "a tensor in two files", BASE, {one: half, "two.safetensors": w}, index({HEAD: one, "x": "two.safetensors"})
    yield "no architectures", {k: v for k, v in BASE.items() if k != "architectures"}, {single: w}, {}
    yield "another architecture", BASE | {"architectures": ["Qwen2Model"]}, {single: w}, {}
    yield "a key twice", text[:-1] + ', "rope_theta": 500.0}', {single: w}, {}
    yield "NaN that nobody reads", text[:-1] + ', "x": NaN, "y": [Infinity, -Infinity]}', {single: w}, {}
    yield "rope_type before type", BASE | {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}}, \
        {single: w}, {}
    yield "rope_scaling before rope_parameters", BASE | {
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, {single: w}, {}
    yield "an empty rope_scaling", BASE | {
        "rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 77.0}}, {single: w}, {}
    yield "yarn with two original lengths", BASE | {"original_max_position_embeddings": 4, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}}, {single: w}, {}
    yield "ids of generation_config.json alone", BASE | {"eos_token_id": list(range(96))}, {single: w}, \
        {"generation_config.json": "{}"}
    yield "generation_config.json that is not JSON", BASE | {"eos_token_id": list(range(96))}, {single: w}, \
        {"generation_config.json": '{"top_k": '}
    yield "sampling that is not used", BASE, {single: w}, \
        {"generation_config.json": '{"top_k": -1, "temperature": NaN, "top_p": 7, "eos_token_id": 1, "eos_token_id": 2}'}
    for kind, factor in (("linear", 4.0), ("dynamic", 4.0), ("dynamic", 2.7)):
        yield f"{kind} RoPE by {factor}", BASE | {"rope_scaling": {"rope_type": kind, "factor": factor}}, {single: w}, {}


def write(folder, config, files, others):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, tensors in files.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name, metadata={"format": "pt"})
    for name, text in others.items():
        (folder / name).write_text(text)


def run_choir(choir, folder, ids, *flags):
    done = subprocess.run([choir, "generate", "--quiet", "--dtype", "f32", "--model", folder, "--ids",
                           ",".join(map(str, ids)), *flags], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def logits(choir, folder, ids, out):
    run_choir(choir, folder, ids, "--max-tokens", "0", "--logits-out", out)
    return np.load(out)


def compare(choir, folder, length, out, store):
    """The complaints. A fresh model each time: dynamic RoPE remembers earlier calls."""
    load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(0, BASE["vocab_size"], (1, length))
    with torch.no_grad():
        theirs = load()(ids).logits[0].numpy()
    ours = logits(choir, folder, ids[0].tolist(), out).reshape(theirs.shape)
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not difference < 2e-5:
        yield f"logits of {length} tokens differ by {difference:.1e}"
    answer = load().generate(ids, max_new_tokens=9, do_sample=False)[0, length:].tolist()
    if json.loads(run_choir(choir, folder, ids[0].tolist(), "--max-tokens", "9")) != answer:
        yield f"another answer to {length} tokens than {answer}"
    if store is not None:
        if not np.array_equal(logits(choir, store, ids[0].tolist(), out).reshape(theirs.shape), ours):
            yield f"logits of {length} tokens from a store differ"


def print_frequencies():
    for kind, factor, lengths in (("linear", 3.0, [1]), ("dynamic", 1.7, [16, 17, 23, 64])):
        config = Qwen2Config(**{k: v for k, v in BASE.items() if k not in ("model_type", "architectures")},
                             rope_scaling={"rope_type": kind, "factor": factor})
        for length in lengths:
            rope = transformers.models.qwen2.modeling_qwen2.Qwen2RotaryEmbedding(config)
            rope(torch.zeros(1), torch.arange(length)[None])
            print(kind, factor, length, [float(x).hex() for x in rope.inv_freq])
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 512}
    for theta, size in ((10000.0, 16), (100000.0, 40)):
        config = LlamaConfig(num_attention_heads=1, hidden_size=size, rope_parameters=llama3 | {"rope_theta": theta})
        rope = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        print("llama3", theta, size, [float(x).hex() for x in rope.inv_freq])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choir")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--frequencies", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if args.frequencies:
        return print_frequencies()
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        for number, (name, config, files, others) in enumerate(cases(weights())):
            folder, store = Path(work) / str(number), None
            write(folder, config, files, others)
            if args.store:
                store = Path(work) / f"{number}.store"
                subprocess.run([args.choir, "shard", "--quiet", "--model", folder, "--out", store], check=True)
            for length in (6, 13, 16, 17, 30) if "RoPE" in name else (6,):
                for complaint in compare(args.choir, folder, length, Path(work) / "logits.npy", store):
                    failed += 1
                    print(f"{name}: {complaint}")
            shutil.rmtree(folder)
    print(f"{failed} differences")
    return sys.exit(failed > 0)


if __name__ == "__main__":
    main()
