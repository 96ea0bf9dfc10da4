"""References of small models whose defects show with --order torch-avx2, for tests/mpi_defects.c.

    CHOIR_ORACLE_ORDER=torch-avx2 defects_avx2.py --write-model build/tests/write_model --out tests/golden

denormals-avx2.safetensors: the demo model with up_proj and down_proj of layer 0 scaled by 2^-100 and 2^-22, exactly, so
that down_proj's products are denormal.

tiny-reference-avx2.safetensors: shapes/tiny.json, random weights, three prompts that were searched for: in the first a softmax
summed in 16 lanes shows, in the second sdpa's, in the third that down_proj's inputs after the last 64 went to other chains.

keys-avx2.safetensors: eager attention alone, in the shape of tiny.json, of values that cancel: 22 and 7 keys, of which the last 2
and 3 belong to chain 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import host

host.limit()

import reference as writer
import torch
from safetensors.torch import load_file, save_file
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent.parent / "configs" / "demo"
SEARCHED = [
    [26, 44, 26, 40, 18, 30, 53, 13, 50, 30, 51, 61, 32, 11, 32, 33, 15, 50, 0, 0, 23, 59, 37, 27, 4, 9, 50, 48, 14,
     58],
    [13, 34, 1, 5, 49, 15, 14, 38, 36, 6, 15, 13, 27, 36, 50, 52, 59, 33, 44, 42, 52, 0, 25, 19, 61, 20, 51, 58, 43,
     22, 56, 50, 26, 2, 36, 31, 2, 57, 25, 49, 51, 37, 30, 11, 2, 59, 40, 5, 49, 61, 16, 49, 30, 46, 16, 33, 52, 10,
     18, 21, 23, 42, 31],
    [20, 60, 9, 25, 41, 3, 4, 52, 34, 6, 23, 37, 3, 58, 32, 13, 2, 5, 27, 26],
]


def reference(model, out, prompts, *arguments):
    file = model / "prompts.jsonl"
    file.write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in prompts))
    subprocess.run([sys.executable, str(HERE / "reference.py"), "--model", str(model), "--prompts", str(file), "--dtype",
                    "bf16", "--layers", "0", "--runs", "prefill", "--decode", "1", "--out", str(out), *arguments], check=True)


def denormals(folder, out):
    tensors = load_file(DEMO / "model.safetensors")
    for matrix, scale in {"up_proj": 2.0**-100, "down_proj": 2.0**-22}.items():
        key = f"model.layers.0.mlp.{matrix}.weight"
        scaled = tensors[key] * scale
        assert torch.equal(scaled / scale, tensors[key])
        tensors[key] = scaled
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((DEMO / "config.json").read_bytes())
    reference(folder, out, [[1, 2, 3, 500, 7]], "--attention", "eager")


class Heads(torch.nn.Module):
    num_key_value_groups = 2


def keys(model, out):
    """Zero queries, so that weights are equal; values in pairs with opposite signs and exponents far apart."""
    torch.manual_seed(1)
    tensors, kv_heads, size = {}, 2, 32
    for number, count in enumerate((22, 7)):
        scale = torch.randint(-6, 7, (1, kv_heads, count // 2, size)).exp2()
        half = torch.randn(scale.shape) * scale
        v = torch.cat((half, -half, torch.zeros(1, kv_heads, count % 2, size)), dim=2)[:, :, torch.randperm(count)].bfloat16()
        q, k = torch.zeros(1, 2 * kv_heads, count, size).bfloat16(), torch.zeros_like(v)
        mask = torch.full((count, count), torch.finfo(torch.bfloat16).min).triu(1).bfloat16()[None, None]
        y, weights = eager_attention_forward(Heads().eval(), q, k, v, mask, size**-0.5)
        tensors[f"prompt.{number}.ids"] = torch.arange(count)
        for name, value in (("q_rope", q), ("k_rope", k), ("v_proj", v)):
            tensors[f"prompt.{number}.layer.0.{name}"] = value[0].transpose(0, 1).flatten(1)
        tensors[f"prompt.{number}.layer.0.attn_weights"] = weights[0]
        tensors[f"prompt.{number}.layer.0.attn_output"] = y[0].flatten(1)
    save_file({name: value.contiguous() for name, value in tensors.items()}, out, metadata={
        "format": "choir-reference 1", "dtype": "bf16", "attention": "eager", "runs": "prefill", "layers": "0", "decode": "0",
        "prompts": "2", "config": (model / "config.json").read_text(encoding="utf-8"), **writer.host()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if host.order() != "torch-avx2":
        sys.exit("expected CHOIR_ORACLE_ORDER=torch-avx2 in the environment, or a CPU with AVX2 only")
    with tempfile.TemporaryDirectory() as name:
        demo, tiny = Path(name) / "demo", Path(name) / "tiny"
        demo.mkdir()
        subprocess.run([str(args.write_model), str(HERE / "shapes" / "tiny.json"), "1", str(tiny)], check=True)
        denormals(demo, args.out / "denormals-avx2.safetensors")
        reference(tiny, args.out / "tiny-reference-avx2.safetensors", SEARCHED)
        keys(tiny, args.out / "keys-avx2.safetensors")


if __name__ == "__main__":
    main()
