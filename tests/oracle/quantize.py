"""Directories that `choir quantize` writes, as others read them.

    quantize.py --choir PROGRAM [--model DIR] [--group 64] [--ranks 1,3]

Makes one of each kind: rounded to nearest and calibrated on random tokens, in order and by activation, int4 and int8, in
both layouts. Weights are unpacked here, apart from Choir's reader. Choir's logits must be those of the model with these
weights, at each number of ranks; with int4 of GPTQ's layout also those of transformers' model whose linear layers are
aten's operator; of compressed-tensors' layout transformers must load these weights.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quantised import BF16, F16, compare_chain, logits

ROOT = Path(__file__).resolve().parent.parent.parent


def fields(words, bits):
    """The codes of words along the last dimension, low bits first."""
    shifts = torch.arange(32 // bits) * bits
    return ((words.to(torch.int64) % 2**32).unsqueeze(-1) >> shifts & (2**bits - 1)).reshape(*words.shape[:-1], -1)


def unpack_gptq(tensors, module, bits):
    """[outputs, inputs] bf16: R(R_f16(s (q - z))), zeros stored as z - 1."""
    q = fields(tensors[f"{module}.qweight"].T, bits)
    z = fields(tensors[f"{module}.qzeros"], bits) + 1
    groups = tensors[f"{module}.g_idx"].to(torch.int64)
    s = tensors[f"{module}.scales"]
    return (s[groups].T.float() * (q - z[groups].T).float()).to(F16).to(BF16)


def unpack_packed(tensors, module, bits):
    """R(R(q) R(s))."""
    q = fields(tensors[f"{module}.weight_packed"], bits) - 2 ** (bits - 1)
    s = tensors[f"{module}.weight_scale"]
    assert tensors[f"{module}.weight_shape"].tolist() == list(q.shape)
    return q.to(BF16) * s.repeat_interleave(q.shape[1] // s.shape[1], 1)


def write_plain(folder, model, plain):
    """The model with the weights of a quantised folder. Returns how many matrices that are, and their config."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    packed = config["quant_method"] == "compressed-tensors"
    bits = config["config_groups"]["group_0"]["weights"]["num_bits"] if packed else config["bits"]
    tensors = load_file(folder / "model.safetensors")
    ending = ".weight_packed" if packed else ".qweight"
    modules = [name.removesuffix(ending) for name in tensors if name.endswith(ending)]
    parts = ["weight_packed", "weight_scale", "weight_shape"] if packed else ["qweight", "qzeros", "scales", "g_idx"]
    dense = {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in parts}
    for module in modules:
        dense[f"{module}.weight"] = (unpack_packed if packed else unpack_gptq)(tensors, module, bits).contiguous()
    shutil.copytree(model, plain, dirs_exist_ok=True)
    save_file(dense, plain / "model.safetensors", metadata={"format": "pt"})
    return len(modules), config


def wrong_weights(folder, plain):
    """Weights of transformers' that differ, and of how many; in a process of its own."""
    run = subprocess.run([sys.executable, Path(__file__).with_name("quantised.py"), "weights", "--model", folder,
                          "--plain", plain], check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout.split()[-2:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--choir", required=True)
    parser.add_argument("--model", default=ROOT / "configs" / "demo", type=Path)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--ranks", default="1,3")
    args = parser.parse_args()
    ranks = [int(r) for r in args.ranks.split(",")]
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        draw = random.Random(1)
        texts = work / "texts.jsonl"
        texts.write_text("".join(json.dumps({"prompt_ids": [draw.randrange(1000) for _ in range(100)]}) + "\n" for _ in range(4)))
        calibrated = ["--calibrate", texts]
        for flags in [[], calibrated, [*calibrated, "--desc-act"], ["--bits", "8"], [*calibrated, "--desc-act", "--bits", "8"],
                      ["--layout", "compressed-tensors"], [*calibrated, "--layout", "compressed-tensors"],
                      [*calibrated, "--layout", "compressed-tensors", "--bits", "8"]]:
            folder, plain, out = work / "made", work / "plain", work / "logits.npy"
            subprocess.run([args.choir, "quantize", "--quiet", "--model", args.model, "--out", folder, "--group",
                            str(args.group), *flags], check=True, stdin=subprocess.DEVNULL)
            n, config = write_plain(folder, args.model, plain)
            expected = logits(args.choir, plain, 1, out)
            differ = [r for r in ranks if logits(args.choir, folder, r, out) != expected]
            failed += len(differ)
            name = " ".join("calibrated" if f == texts else f for f in flags if f != "--calibrate") or "rounded"
            print(f"{name}: {n} matrices; logits differ from the dequantised model's at ranks {differ or 'none'}", flush=True)
            if config["quant_method"] == "compressed-tensors":
                wrong, count = wrong_weights(folder, plain)
                print(f"    transformers: {wrong} of {count} weights differ", flush=True)
                failed += int(wrong)
            elif config["bits"] == 4:
                print("    aten's operator: logits that differ at each number of ranks, and of how many: ", end="", flush=True)
                failed += compare_chain(args.choir, folder, ranks, out)
            shutil.rmtree(folder)
    return failed


if __name__ == "__main__":
    sys.exit(main() != 0)
