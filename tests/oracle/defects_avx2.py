"""References of small models whose defects show with --order torch-avx2, for tests/mpi_defects.c.

    CHOIR_ORACLE_ORDER=torch-avx2 defects_avx2.py --write-model build/tests/write_model --out tests/golden

denormals-avx2.safetensors: the demo model with up_proj and down_proj of layer 0 scaled by 2^-100 and 2^-22, exactly, so
that down_proj's products are denormal.

tiny-reference-avx2.safetensors: shapes/tiny.json, random weights, three prompts that were searched for: in the first a softmax
summed in 16 lanes shows, in the second sdpa's, in the third that down_proj's inputs after the last 64 went to other chains.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import host

host.limit()

import torch
from safetensors.torch import load_file, save_file

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


if __name__ == "__main__":
    main()
