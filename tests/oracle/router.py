"""What torch.topk and a normalised sum give on a CPU, for tests/test_router.c.

    router.py --out router.json

`top_k`: for each n, k, a and levels, the indices of the k largest of n float32 values, of which value i is
((i * (i + a) * 7 + a) mod levels) / 4: many are equal. `weights`: for each k, the bits of bfloat16(v / sum(v)),
v[i] = exp2 of (((i * 37 + k) mod 101) / 8 - 9) as float32.
"""

import argparse
import json

import torch

PAIRS = [(128, 8), (64, 8), (60, 4), (8, 2), (16, 1), (128, 1), (512, 10), (512, 8), (256, 8), (160, 6), (128, 2), (64, 6),
         (32, 4), (128, 4), (7, 7), (5, 2), (3, 3), (2, 1), (1, 1), (40, 20), (64, 32), (200, 25), (4096, 32)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    choices, weights = [], []
    for n, k in PAIRS:
        for a, levels in ((0, 1), (1, 3), (5, 4), (2, 17), (11, 64), (3, 1009)):
            values = torch.tensor([[(i * (i + a) * 7 + a) % levels / 4 for i in range(n)]])
            choices.append({"n": n, "k": k, "a": a, "levels": levels, "indices": torch.topk(values, k)[1][0].tolist()})
    for k in range(1, 33):
        values = torch.tensor([[2.0 ** (((i * 37 + k) % 101) / 8 - 9) for i in range(k)]])
        values /= values.sum(dim=-1, keepdim=True)
        weights.append(values.to(torch.bfloat16)[0].view(torch.uint16).tolist())
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump({"top_k": choices, "weights": weights}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
