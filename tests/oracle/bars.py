"""The bars of docs/parity.md: `choir verify` against references made here, on real shapes.

    bars.py --choir PROGRAM [--ranks 1,2,3,5,7] [--models demo,0.5b,..]  [--dtypes bf16,f64,f32]
                            [--isas scalar,avx2,avx512,host] [--attention eager,sdpa] [--sdpa torch|emulated]
                            [--longest TOKENS]

Random weights in real shapes with fewer layers and 1,000 tokens of vocabulary, prompts of
1, 2, 7, 33, 100, 512 and 1,100 tokens. Those of 1,100 do not run token by token; with the shapes of LARGE those of
100 and 512 do not either. --sdpa emulated has sdpa attention computed by
emulator.c, on hosts where PyTorch's adds in another order (host.py).

    bf16  every component and every logit equal in bits, isolated and chained, eager and
          sdpa, at each number of ranks, and on each instruction set
    f64   logits within 1e-9, every component within 1e-10 of its row's largest
    f32   RMS and maximum error to f64 of every component and of the logits, chained, at
          most PyTorch f32's own; the largest difference to PyTorch's f32 logits beside it

Exit status 0 when all bars hold. bf16 belongs to the hosts that host.py names.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import host

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LENGTHS, SHORT = [1, 2, 7, 33, 100, 512], [1, 2, 7, 33]
# name: (a file of configs/ or of shapes/, layers, changes of its keys). Steps after the longer prompts fill windows of 80 keys.
ODD = {"odd": ("odd", 3, []), "moe-odd": ("qwen3_moe", 4, ["vocab_size=1000", "num_experts=24"]), "moe-cancelling": ("qwen3_moe_wide", 1, ["vocab_size=1000"]),
       "llama-odd": ("llama", 3, []), "mistral-odd": ("mistral", 3, []), "qwen2-window": ("sliding", 3, [])}
LARGE = {"qwen3-4b": ("qwen3-4b", 1, []),
        "qwen3-window": ("qwen3-0.6b", 2, ["use_sliding_window=true", "sliding_window=80", "max_window_layers=1"]),
        "llama-1b": ("llama-3.2-1b", 2, []), "llama-8b": ("llama-3.1-8b", 1, []),
        "llama-cancelling": ("llama-3.2-1b", 1, []),
        "mistral-7b": ("mistral-7b-v0.1", 1, ["sliding_window=80"]), "mistral-nemo": ("mistral-nemo", 1, []),
        "mistral-cancelling": ("mistral-7b-v0.1", 1, ["sliding_window=80", "hidden_size=1024", "intermediate_size=1536"]),
        "qwen3-30b-a3b": ("qwen3-30b-a3b", 1, ["num_experts=24"]),
        "qwen3-235b-a22b": ("qwen3-235b-a22b", 1, ["num_experts=10"])}
SHAPES = {"0.5b": ("qwen2.5-0.5b", 2, []), "1.5b": ("qwen2.5-1.5b", 1, []), "7b": ("qwen2.5-7b", 1, []),
          "cancelling": ("qwen2.5-0.5b", 2, []), "qwen3-0.6b": ("qwen3-0.6b", 2, []),
          "qwen3-cancelling": ("qwen3-0.6b", 2, []), **LARGE, **ODD}


def python(script, *arguments):
    subprocess.run([sys.executable, HERE / script, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def in_pairs(rng, count, vocabulary):
    """Ids of which 2i and 2i + 1 occur equally often, whose values cancel (make_model.py --cancelling); an odd count has one more."""
    first = [2 * rng.randrange(vocabulary // 2) for _ in range((count + 1) // 2)]
    ids = [token for i in first for token in (i, i + 1)][:count]
    rng.shuffle(ids)
    return ids


def write_prompts(path, lengths, vocabulary, paired):
    rng = random.Random(str(path.name))
    path.write_text("".join(
        json.dumps({"ids": in_pairs(rng, n, vocabulary) if paired else [rng.randrange(vocabulary) for _ in range(n)]}) + "\n"
        for n in lengths))


def make(name, folder):
    """The model directory of a name, and its vocabulary."""
    if name == "demo":
        return ROOT / "configs" / "demo", 2048
    config, layers, changes = SHAPES[name]
    out, path = folder / name, HERE / "shapes" if name in ODD else ROOT / "configs"
    sizes = [] if name in ODD else ["--layers", layers, "--vocab", 1000]
    python("make_model.py", "--config", path / f"{config}.json", *sizes, "--out", out,
           *(f"--set={change}" for change in changes), *(["--cancelling"] if name.endswith("cancelling") else []))
    return out, 1000


class Bars:
    def __init__(self, choir):
        self.choir, self.failed = choir, 0
        words = subprocess.run([choir, "version"], capture_output=True, text=True, check=True).stdout
        self.sets = re.search("^instruction sets: (.*)", words, re.M)[1].split()

    def judge(self, holds, what):
        print(f"{'holds ' if holds else 'FAILS '} {what}", flush=True)
        self.failed += not holds

    def verify(self, *arguments, ranks=1, isa=None):
        """One run of choir verify; its JSON report."""
        command = ["mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        if isa:
            environment["CHOIR_ISA"] = isa
        run = subprocess.run([*command, self.choir, "verify", *map(str, arguments), "--json"],
                             capture_output=True, text=True, env=environment)
        if not run.stdout:
            raise SystemExit(f"choir verify failed: {run.stderr.strip()}")
        return json.loads(run.stdout)


def rows_of(report, *words):
    """component -> row, of the first table whose title has all the words."""
    for table in report["tables"]:
        if all(word in table["title"] for word in words):
            return {row["component"]: row for row in table["rows"]}
    return {}


def equal_bits(bars, name, model, reference, ranks, isas):
    for count in ranks:
        report = bars.verify("--model", model, "--reference", reference, "--threads", 1, ranks=count)
        rows = [row for table in report["tables"] for row in table["rows"]]
        compared, equal = sum(r["elements"] for r in rows), sum(r["equal"] for r in rows)
        bars.judge(report["passed"] and compared == equal and compared > 0,
                   f"bf16 {name}, {count} ranks: {compared:,} values, {compared - equal} differ")
    for isa in isas:
        report = bars.verify("--model", model, "--reference", reference, isa=None if isa == "host" else isa)
        bars.judge(report["passed"] and isa in ("host", report["isa"]), f"bf16 {name}, {report['isa']}: all equal")


def close_to_truth(bars, name, model, truth):
    report = bars.verify("--model", model, "--reference", truth, "--tolerance", 1e-9)
    rows = [row for table in report["tables"] for row in table["rows"]]
    logits = max(r["max_abs"] for r in rows if r["component"].endswith("logits"))
    # generate_logits are stored in f32.
    components = max(r["max_of_row"] for r in rows if r["component"] != "generate_logits")
    bars.judge(logits <= 1e-9 and components <= 1e-10,
               f"f64 {name}: logits within {logits:.1e}, components within {components:.1e} of their row's largest")


def no_worse(bars, name, model, torch_f32, truth):
    choir = bars.verify("--model", model, "--dtype", "f32", "--reference", truth, "--chained", "--tolerance", 1)
    torch = bars.verify("--candidate", torch_f32, "--reference", truth, "--tolerance", 1)
    both = bars.verify("--model", model, "--reference", torch_f32, "--chained", "--tolerance", 1)
    ours, theirs = rows_of(choir, "eager", "chained"), rows_of(torch, "candidate", "eager")
    worse, ratios = [], {}
    for component, row in theirs.items():
        if component not in ours or component.endswith("logits") and component != "logits":
            continue
        mine = ours[component]
        if mine["rms"] > row["rms"] or mine["max_abs"] > row["max_abs"]:
            worse.append(f"{component} (RMS {mine['rms']:.2e} against {row['rms']:.2e}, "
                         f"maximum {mine['max_abs']:.2e} against {row['max_abs']:.2e})")
        if row["rms"] > 0:
            ratios[component] = mine["rms"] / row["rms"]
    apart = rows_of(both, "eager", "chained")["logits"]["max_abs"]
    bars.judge(not worse, f"f32 {name}: RMS error of the logits {ratios['logits']:.2f} of PyTorch's, of components "
                          f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f}; logits at most {apart:.1e} from "
                          f"PyTorch's" + "".join(f"; worse: {w}" for w in worse))


class Model:
    """A random model of a name, and what PyTorch computes with it."""

    def __init__(self, name, folder, attention, sdpa):
        self.name, self.folder = name, folder
        self.path, self.vocabulary = make(name, folder)
        self.attention = ["--attention", attention, "--sdpa", sdpa]

    def reference(self, lengths, dtype, *arguments):
        prompts = self.folder / f"{self.name}-{lengths[-1]}.jsonl"
        write_prompts(prompts, lengths, self.vocabulary, self.name.endswith("cancelling"))
        made = self.folder / f"{self.name}-{lengths[-1]}-{dtype}.safetensors"
        python("reference.py", "--model", self.path, "--prompts", prompts, "--dtype", dtype, *arguments,
               *self.attention, *(["--layers", "0"] if self.name == "demo" else []), "--out", made)
        return made

    def remove(self):
        if self.path.parent == self.folder:
            shutil.rmtree(self.path)


def check_bits(bars, model, ranks, isas, longest):
    """Prompts that also run token by token; then those that do not."""
    name, large = model.name, model.name in LARGE or model.name == "moe-cancelling"
    made = model.reference([n for n in (SHORT if large else LENGTHS) if n <= longest], "bf16", "--decode", 4)
    equal_bits(bars, name, model.path, made, ranks, isas)
    made.unlink()
    for n in [100, 512, 1100] if large else [1100] if name != "demo" else []:
        if n <= longest:
            made = model.reference([n], "bf16", "--decode", 3, "--runs", "prefill,decode,generate")
            equal_bits(bars, f"{name}, {n:,} tokens", model.path, made, ranks, isas)
            made.unlink()


def check(bars, name, folder, args):
    model = Model(name, folder, args.attention, args.sdpa)
    dtypes = args.dtypes.split(",")
    if "bf16" in dtypes:
        # Scalar C is checked in full by the unit tests; here on the small models only.
        some = ["scalar", "avx2", "avx512"] if name == "demo" or name in ODD else ["avx2", "avx512"]
        isas = args.isas.split(",") if args.isas else [isa for isa in some if isa in bars.sets]
        check_bits(bars, model, [int(n) for n in args.ranks.split(",")], isas, args.longest)
    # The logits of cancelling weights are rounding errors and nothing else: no truth to be near to.
    if {"f64", "f32"} & set(dtypes) and "cancelling" not in name:
        lengths = SHORT if name in LARGE else LENGTHS
        truth = model.reference(lengths, "f64", "--decode", 4)
        if "f64" in dtypes:
            close_to_truth(bars, name, model.path, truth)
        if "f32" in dtypes:
            torch_f32 = model.reference(lengths, "f32", "--decode", 4)
            no_worse(bars, name, model.path, torch_f32, truth)
            torch_f32.unlink()
        truth.unlink()
    model.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choir", required=True)
    parser.add_argument("--ranks", default="1,2,3,5,7")
    parser.add_argument("--models", default=",".join(["demo", *SHAPES]))
    parser.add_argument("--dtypes", default="bf16,f64,f32")
    parser.add_argument("--isas", help="default: avx2 and avx512 where the CPU has them, and scalar for small models")
    parser.add_argument("--longest", type=int, default=1100, help="bf16: leave longer prompts out")
    parser.add_argument("--attention", default="eager,sdpa")
    parser.add_argument("--sdpa", choices=["torch", "emulated"], default="torch" if host.promises()["sdpa"] else "emulated")
    args = parser.parse_args()
    host.limit()
    bars = Bars(Path(args.choir).resolve())
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models.split(","):
            check(bars, name, Path(folder), args)
    print("all bars hold" if bars.failed == 0 else f"{bars.failed} bars fail")
    sys.exit(bars.failed != 0)


if __name__ == "__main__":
    main()
