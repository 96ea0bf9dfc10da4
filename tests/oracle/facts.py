"""Checks the order of operations of PyTorch's CPU kernels on this machine.

    facts.py [--threads N] [--seed N] [--only TEXT]

The kernels that a Qwen2 model uses in bfloat16 are run on random data and on data in which
every dot product cancels, so that the output IS the rounding error, and compared, bit
for bit, with emulator.c, which is compiled by the C compiler at hand (cc). The orders are those
of a host with AVX-512 and AVX512-BF16; where there is AMX, oneDNN is held to that. Rows that this
host must hold (host.py) and does not make the exit status 1; other differences are reported only.
Each line: section of the description of the orders, what, outputs compared, outputs that differ.
"""

import argparse
import sys

import host

host.limit()

import numpy as np
import torch
import torch.nn.functional as F

from emulator import Emulator

BF16 = torch.bfloat16


def bits(tensor):
    return tensor.contiguous().view(torch.int16 if tensor.dtype == BF16 else torch.int32)


def differ(a, b):
    return int((bits(a) != bits(b)).sum())


def random(*shape, scale=1.0):
    return (torch.randn(*shape) * scale).to(BF16)


def cancelling(M, N, K):
    """x [M, K] and w [N, K] whose products are all exactly 0, by shuffled pairs of k. The
    magnitudes cover a few powers of two, so that roundings happen all along the chain."""
    order, half = torch.randperm(K), K // 2
    x = random(M, K) * torch.exp2(torch.randint(-2, 3, (1, K))).to(BF16)
    w = random(N, K)
    a, b = order[:half], order[half:2 * half]
    x[:, b], w[:, b] = x[:, a], -w[:, a]
    x[:, order[2 * half:]] = 0
    return x, w


def leaf_of(M, K):
    return 1024 if M >= 2 and K > 1024 else 512


class Table:
    def __init__(self):
        self.failed, self.promised = False, True

    def row(self, section, what, compared, different, promised=True):
        promised = promised and self.promised
        self.failed |= promised and different > 0
        print(f"{section:8} {what:66} {compared:12,} {different:10,}{'' if promised else '   (not promised)'}", flush=True)


# --- section 2: matrix products ------------------------------------------------------


def products(emulator, table, data, rows, sizes, N, bias=False, leaf=leaf_of):
    compared = different = 0
    for K in sizes:
        for M in rows:
            x, w = data(M, N, K)
            b = random(N, scale=0.5) if bias else None
            y = torch.empty(M, N, dtype=BF16)
            emulator.linear(y, x, w, b, M, N, K, leaf(M, K), 1)
            compared, different = compared + y.numel(), different + differ(F.linear(x, w, b), y)
    return compared, different


def check_products(emulator, table):
    plain = lambda M, N, K: (random(M, K), random(N, K))
    small = [32, 100, 127, 192, 240, 254, 256, 320, 512, 513, 576, 640, 768, 896, 1000, 1023, 1024]
    large = [1025, 1026, 1280, 1536, 2000, 2047, 2560, 3072, 3584, 4864, 5120, 8960, 11008, 13824, 18944]
    powers = [2048, 4096, 8192]
    several = [2, 3, 17, 33, 100]
    for name, sizes in (("K <= 1024", small), ("K > 1024", large), ("K power of two >= 2048", powers)):
        for rows, which in (([1], "one row"), (several, "several rows")):
            table.row("2.1-2.2", f"random, with bias, {name}, {which}",
                      *products(emulator, table, plain, rows, sizes, 256, bias=True))
            table.row("2.1-2.2", f"cancelling, {name}, {which}", *products(emulator, table, cancelling, rows, sizes, 256))
    table.row("2.1-2.2", "cancelling, K 896, N 9000, 1, 2 and 40 rows", *products(emulator, table, cancelling, [1, 2, 40], [896], 9000))
    for N in (128, 1000):
        table.row("2.1-2.2", f"cancelling, N {N}, K 896 to 4864, rows 1, 2, 9, 64, 200",
                  *products(emulator, table, cancelling, [1, 2, 9, 64, 200], [896, 1536, 2048, 4864], N))
    wrong = products(emulator, table, cancelling, [1], [1536, 4864], 256, leaf=lambda M, K: 1024)
    table.row("2.2", "seen as wrong: one row with leaf 1024 (must differ)", *wrong, promised=False)
    table.failed |= wrong[1] == 0
    if torch.get_num_threads() > 1:
        compared = different = 0
        for K in (2048, 4096, 8192):
            x, w = cancelling(1, 64, K)
            y = torch.empty(1, 64, dtype=BF16)
            emulator.linear(y, x, w, None, 1, 64, K, 512, min(4, torch.get_num_threads()))
            compared, different = compared + 64, different + differ(F.linear(x, w), y)
        table.row("2.3", "lone row split across threads, N 64, K 2048 to 8192", compared, different)


# --- section 3: RMSNorm ----------------------------------------------------------------


def check_norm(emulator, table):
    mean = outputs = bad_mean = bad = 0
    for n in (8, 24, 64, 100, 192, 240, 256, 320, 511, 512, 513, 896, 1000, 1024, 1536, 2048, 3584, 4096, 5120, 8192, 16384):
        rows = 50
        x, w = random(rows, n) * torch.exp2(torch.randint(-3, 4, (rows, 1))).to(BF16), (1 + 0.1 * torch.randn(n)).to(BF16)
        y, means = torch.empty(rows, n, dtype=BF16), torch.empty(rows)
        emulator.rms_norm(y, means, x, w, rows, n, 1e-6)
        wide = x.float()
        variance = wide.pow(2).mean(-1, keepdim=True)
        expected = w * (wide * torch.rsqrt(variance + 1e-6)).to(BF16)
        mean, bad_mean = mean + rows, bad_mean + differ(variance[:, 0], means)
        outputs, bad = outputs + y.numel(), bad + differ(expected, y)
    table.row("3", "means of squares in f32, 21 lengths of 8 to 16384", mean, bad_mean)
    table.row("3", "RMSNorm outputs", outputs, bad)
    x = torch.rand(1_000_001) * 100 + 1e-6
    table.row("3", "rsqrt as 1 / sqrt", x.numel(), differ(torch.rsqrt(x), torch.from_numpy(np.float32(1) / np.sqrt(x.numpy()))))
    roots = torch.from_numpy(np.sqrt(x.numpy()))
    table.row("3", "seen as wrong: sqrt, the operator, as correctly rounded", x.numel(), differ(torch.sqrt(x), roots), promised=False)


# --- section 4: rotary embedding -----------------------------------------------------------

# Entries (position, column) where the table of rounded double values differs from PyTorch's
DOUBLE_EXCEPTIONS = {
    (1e4, 32): {"cos": [], "sin": [(2954, 3), (61066, 3)]},
    (1e6, 40): {"cos": [(91626, 13)], "sin": [(16522, 15), (74319, 17), (124004, 8)]},
    (1e6, 64): {"cos": [(100102, 28), (114029, 9)],
                "sin": [(2954, 4), (16522, 24), (27582, 19), (61066, 4), (68171, 27), (69245, 7)]},
    (1e4, 128): {"cos": [(5819, 10), (13852, 14), (54474, 31), (58190, 26), (100341, 2), (114029, 27)],
                 "sin": [(2954, 12), (4038, 26), (27582, 57), (35114, 35), (61066, 12), (69245, 21)]},
    (1e6, 128): {"cos": [(49327, 25), (54907, 21), (82169, 19), (83387, 19), (100102, 56), (109097, 5), (114029, 18)],
                 "sin": [(2954, 8), (16522, 48), (27582, 38), (61066, 8), (68171, 54), (69245, 14), (80865, 53)]},
}
POSITIONS = 131072


def table_differences(inverse):
    """Where cos and sin computed in double and rounded to f32, then bf16, differ from PyTorch's."""
    found = {"cos": [], "sin": []}
    for start in range(0, POSITIONS, 8192):
        angle = torch.arange(start, start + 8192)[:, None].float() * inverse
        for name, places in found.items():
            ours = getattr(angle.double(), name)().float().to(BF16)
            theirs = getattr(angle, name)().to(BF16)
            places += [(start + position, i) for position, i in (bits(ours) != bits(theirs)).nonzero().tolist()]
    return found


def check_rotary(emulator, table):
    for (theta, d), known in DOUBLE_EXCEPTIONS.items():
        exponent = torch.arange(0, d, 2, dtype=torch.float) / d
        inverse = 1.0 / (theta ** exponent)
        power = np.float32(np.float64(theta) ** exponent.double().numpy())
        if (theta, d) == (1e6, 128):
            power[37] = float.fromhex("0x1.6fd744p+11")  # the one that is not correctly rounded
        shape = f"theta {theta:.0e}, d {d}"
        table.row("4", f"inverse frequencies, {shape}", d // 2, differ(inverse, torch.from_numpy(np.float32(1) / power)))
        found = table_differences(inverse)
        count = sum(map(len, found.values()))
        table.row("4", f"bf16 cos, sin at {POSITIONS} positions by double, {shape}", POSITIONS * d, count, promised=False)
        table.row("4", "  apart from the known entries", POSITIONS * d - count,
                  sum(len(set(found[name]) ^ set(known[name])) for name in found))

    x, rows, heads = random(60, 14, 64), 60, 14
    angle = torch.arange(60)[:, None].float() * (1.0 / (1e6 ** (torch.arange(0, 64, 2).float() / 64)))
    angle = torch.cat((angle, angle), dim=-1)
    cosine, sine = angle.cos().to(BF16), angle.sin().to(BF16)
    y = torch.empty_like(x)
    emulator.rotate(y, x, cosine, sine, rows, heads, 64)
    turned = torch.cat((-x[..., 32:], x[..., :32]), dim=-1)
    expected = x * cosine[:, None] + turned * sine[:, None]
    table.row("4", "application of the table", y.numel(), differ(expected, y))


# --- section 5: eager attention ----------------------------------------------------------------


def check_eager(emulator, table):
    compared = different = 0
    for T in (1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 255, 512, 513, 1000, 1025, 2049, 4099):
        x = torch.randn(40, T) * 4
        x[::3, T // 2 + 1:] = -torch.finfo(BF16).max
        y = torch.empty_like(x)
        emulator.softmax(y, x, 40, T)
        compared, different = compared + y.numel(), different + differ(torch.softmax(x, dim=-1), y)
    table.row("5.4", "softmax in f32, 17 lengths, a third of the rows masked", compared, different)

    def compare(cases, columns, data):
        compared = different = 0
        for H, S, T, d in cases:
            M, N, K = (S, d, T) if columns else (S, T, d)
            a, b = zip(*(data(M, N, K) for _ in range(H)))
            a, b = torch.stack(a), torch.stack(b)
            b = b.transpose(1, 2).contiguous() if columns else b
            leaf = 1024 if columns and S > 1 and T > 1024 else 512
            y = torch.empty(H, M, N, dtype=BF16)
            emulator.batched(y, a, b, H, M, N, K, bool(columns), leaf)
            expected = torch.matmul(a[None], (b if columns else b.transpose(1, 2))[None])[0]
            compared, different = compared + y.numel(), different + differ(expected, y)
        return compared, different

    ordinary = [(H, S, T, d) for H, d in ((6, 32), (6, 40), (14, 64), (12, 128)) for S, T in
                ((5, 5), (7, 7), (33, 33), (100, 100), (300, 300), (600, 600), (1, 20), (1, 100), (1, 513), (1, 1100),
                 (1, 2100), (2, 100), (3, 1025), (2, 1100), (100, 1100)) if H * S * T * d > 4096]
    for name, data in (("random", lambda M, N, K: (random(M, K), random(N, K))), ("cancelling", cancelling)):
        for columns, what in ((0, "scores"), (1, "outputs")):
            table.row("5.1 5.5", f"{what}, H*S*T*d > 4096, {name}", *compare(ordinary, columns, data))
    small = [(H, S, T, d) for H in (1, 2, 6, 12, 14) for d in (32, 40, 64, 128) for S, T in
             ((1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 9), (1, 17), (1, 31), (1, 66), (2, 2), (2, 3), (3, 3), (4, 4), (5, 5), (2, 17), (7, 7))]
    small = [(H, S, T, d) for H, S, T, d in small if H * S * T * d <= 4096]
    for columns, what in ((0, "scores"), (1, "outputs")):
        for short, which in ((1, "S*T*d < 400"), (0, "S*T*d >= 400")):
            cases = [case for case in small if (case[1] * case[2] * case[3] < 400) == bool(short)]
            table.row("5.5", f"{what}, small case, {which}, cancelling", *compare(cases * 10, columns, cancelling))

    T, scale = 300, 64 ** -0.5
    s = random(20, T, scale=8)
    table.row("5.2", "scores times d^-0.5 in f32, rounded", s.numel(), differ(s * scale, (s.float() * scale).to(BF16)))


# --- section 6: elementwise -----------------------------------------------------------------------


def check_elementwise(emulator, table):
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(BF16)
    every = every[~(every.isnan() | (every == -torch.inf))].contiguous()  # silu(-infinity) is a NaN
    y = torch.empty_like(every)
    emulator.silu(y, every, every.numel())
    table.row("6", "SiLU of every bf16 value", every.numel(), differ(F.silu(every), y))
    x = torch.cat((torch.randn(3_000_000) * 20, torch.rand(1_000_000) * -104, torch.rand(1_000_000) * -1))
    y = torch.empty_like(x)
    emulator.exponentials(y, x, x.numel())
    table.row("5", "seen as wrong: exp, the operator, as softmax's exp", x.numel(), differ(torch.exp(x), y), promised=False)
    pairs = torch.stack((torch.zeros_like(x), -x.abs()), dim=1)  # softmax shows exp(-|x|)
    y = torch.empty_like(pairs)
    emulator.softmax(y, pairs, len(x), 2)
    table.row("5.4", "softmax of pairs, for its exp", pairs.numel(), differ(torch.softmax(pairs, dim=-1), y))
    a, b = random(100_000), random(100_000, scale=7)
    table.row("6", "residual addition, product of two bf16", 200_000,
              differ(a + b, (a.float() + b.float()).to(BF16)) + differ(a * b, (a.float() * b.float()).to(BF16)))


# --- section 10: sdpa ------------------------------------------------------------------------------


def sdpa_data(kind, H, KV, S, T, d):
    """q, k, v for one call: random, peaked (large scores), or keys in pairs with opposite values."""
    q, k, v = random(H, S, d), random(KV, T, d), random(KV, T, d)
    if kind == "peaked":
        q = q * 4
    if kind == "cancelling":
        order, half = torch.randperm(T), T // 2
        a, b = order[:half], order[half:2 * half]
        k[:, b], v[:, b] = k[:, a], -v[:, a]
    return q, k, v


def check_sdpa(emulator, table):
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    shapes = [(6, 3, 40), (8, 2, 32), (14, 2, 64), (12, 2, 128)]
    lengths = [1, 2, 3, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 34, 35, 36, 67, 100, 191, 192, 193, 194, 195, 300, 385, 512, 515, 767, 768, 770, 1100]
    kinds = {
        "prefill": [(S, S) for S in lengths],
        "chunk": [(S, T) for S in (2, 3, 4, 7, 31, 33, 93, 200) for T in (8, 20, 100, 201, 300, 513, 1100) if S < T],
        "decode": [(1, T) for T in (1, 2, 3, 4, 5, 9, 11, 12, 16, 17, 33, 100, 191, 300, 511, 512, 513, 516, 1025, 1100, 2100)]}
    for call, cases in kinds.items():
        for data in ("random", "peaked", "cancelling"):
            compared = different = sums = bad_sums = 0
            for H, KV, d in shapes:
                for S, T in cases:
                    if S * T > 500_000 and (H, d) != (14, 64):
                        continue
                    q, k, v = sdpa_data(data, H, KV, S, T, d)
                    group = lambda x: x.repeat_interleave(H // KV, 0)[None]
                    mask = None
                    if call == "chunk":
                        mask = torch.zeros(1, 1, S, T, dtype=torch.bool)
                        mask[..., :] = torch.arange(T)[None, :] <= torch.arange(S)[:, None] + T - S
                        mask = torch.zeros(1, 1, S, T, dtype=BF16).masked_fill(~mask, float("-inf"))
                    expected, lse = kernel(q[None], group(k), group(v), 0.0, call == "prefill", attn_mask=mask, scale=d ** -0.5)
                    through = F.scaled_dot_product_attention(
                        q[None], group(k), group(v), is_causal=call == "prefill", scale=d ** -0.5,
                        attn_mask=None if mask is None else mask == 0)
                    y, total = torch.empty(H, S, d, dtype=BF16), torch.empty(H, S)
                    emulator.sdpa(y, total, q, k, v, H, KV, S, T, d, d ** -0.5, call != "decode", torch.get_num_threads(), 0)
                    lse = lse[0] if lse.shape[1] == H else lse[0].transpose(0, 1)
                    compared, different = compared + y.numel(), different + differ(through[0], y)
                    assert differ(expected, through) == 0
                    sums, bad_sums = sums + total.numel(), bad_sums + differ(lse, total)
            table.row("10", f"{call}, {data}: outputs", compared, different)
            table.row("10", f"{call}, {data}: f32 log-sum-exp", sums, bad_sums)


def check_windows(emulator, table):
    """Prompts longer than the window, with a mask; and decode steps with a full window, whose mask hides nothing."""
    prompts = [(S, W) for S in (8, 33, 35, 100, 195, 300, 770) for W in (4, 16, 37, 100, 600) if S >= W]
    for call, cases in {"prefill": prompts, "decode": [(1, W) for W in (2, 7, 12, 24, 33, 64, 191, 300, 513, 1030)]}.items():
        for data in ("random", "peaked", "cancelling"):
            compared = different = 0
            for H, KV, d in [(6, 3, 40), (8, 2, 32), (6, 2, 64), (4, 4, 64), (28, 4, 128)]:
                for S, W in cases:
                    q, k, v = sdpa_data(data, H, KV, S, max(S, W), d)
                    at, last = torch.arange(max(S, W))[None, :], torch.arange(S)[:, None] + max(S, W) - S
                    mask = ((at <= last) & (at > last - W))[None, None]
                    # As transformers calls: query heads of a KV head are the rows of one head in a decode step (pack_gqa).
                    rows = q.reshape(1, KV, H // KV, d) if S == 1 else q[None]
                    through = F.scaled_dot_product_attention(rows, k[None], v[None], attn_mask=mask, scale=d ** -0.5,
                                                             enable_gqa=S > 1 and H != KV).reshape(1, H, S, d)
                    y, total = torch.empty(H, S, d, dtype=BF16), torch.empty(H, S)
                    if S > 1:
                        emulator.sdpa(y, total, q, k, v, H, KV, S, S, d, d ** -0.5, True, torch.get_num_threads(), W)
                    else:
                        emulator.sdpa(y, total, q, k, v, KV, KV, H // KV, W, d, d ** -0.5, False, torch.get_num_threads(), 0)
                    compared, different = compared + y.numel(), different + differ(through[0], y)
            table.row("10.8", f"{call} with a window, {data}: outputs", compared, different)


CHECKS = {"products": check_products, "norm": check_norm, "rotary": check_rotary, "eager": check_eager,
          "elementwise": check_elementwise, "sdpa": check_sdpa, "windows": check_windows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=CHECKS, help="one group of checks")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    promises = host.promises()
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} threads; "
          f"{host.describe() or 'a host of the kind described'}")
    print(f"{'section':8} {'what':66} {'compared':>12} {'differ':>10}")
    emulator, table = Emulator(), Table()
    for name, check in CHECKS.items():
        if args.only in (None, name):
            torch.manual_seed(args.seed)
            table.promised = promises["sdpa" if name in ("sdpa", "windows") else "products"]
            check(emulator, table)
    print("all promised rows hold" if not table.failed else "some promised rows do not hold")
    sys.exit(table.failed)


if __name__ == "__main__":
    main()
