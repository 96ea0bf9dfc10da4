"""Remakes the golden files with the installed libraries and compares them.

    run.py [--quick]

One line a step; the exit status is 0 when all that this host must hold does. --quick leaves
out the long ones. Logits of random weights need tests/write_model.c, which a build
of the tree makes; without one the step is left out and named at the end.

bfloat16 results belong to the hosts that host.py names. On another host these steps run too, and
a difference is told but is no failure. Where there is AMX, oneDNN is held to AVX512-BF16. On a CPU with AVX2 only, and
with CHOIR_ORACLE_ORDER=torch-avx2, the steps of the order torch are left out and named; those of torch-avx2 run everywhere.
"""

import argparse
import filecmp
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import host

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = ROOT / "tests" / "golden"
DEMO = ROOT / "configs" / "demo"


def said_by(words, environment, show):
    """What a program prints, on both of its streams, and whether it ended well. show: prints it here as well, line by line."""
    lines = []
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        for line in program.stdout:
            lines.append(line)
            if show:
                print(line, end="", flush=True)
    return "".join(lines), program.returncode == 0


class Steps:
    def __init__(self):
        self.failed, self.left_out, self.told = [], [], []
        self.promises, self.order = host.promises(), host.order()

    def makes_torch(self, what):
        """Whether PyTorch makes the order torch here; if not, `what` is left out."""
        if self.order == "torch":
            return True
        self.left_out.append(f"{what} (of the order torch; PyTorch adds in that of CPUs with AVX2 only)")
        return False

    def run(self, name, script, *arguments, **options):
        self.command(name, [sys.executable, HERE / script, *arguments], **options)

    def command(self, name, words, made=None, golden=None, needs=None, show=False, order=None):
        """Runs a program; made, if given, must then equal golden byte for byte. needs: the group of
        host.promises() that the result belongs to. show: what it says is shown as it comes, for steps of hours. order: torch-avx2
        holds PyTorch to it (host.py)."""
        start = time.monotonic()
        held = {} if order is None else {"CHOIR_ORACLE_ORDER": order, **host.AVX2_LIMITS}
        said, good = said_by([str(word) for word in words], {**os.environ, "HF_HUB_OFFLINE": "1", **held}, show)
        if good and made is not None and not filecmp.cmp(made, golden, shallow=False):
            good, said = False, f"{said}{golden} is not what was made\n"
        promised = self.promises.get(needs, True)
        verdict = "ok" if good else "FAILED" if promised else "differs (not promised on this host)"
        print(f"{name}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
        if not good and not show:
            print(said[-4000:], flush=True)
        if not good:
            (self.told if verdict.startswith("differs") else self.failed).append(name)


def find_write_model():
    """The program that a build of the tree made, or None."""
    found = sorted(ROOT.glob("build*/tests/write_model"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def random_weights(steps, folder):
    """Logits of the demo model and of random weights against tests/golden/logits.json."""
    program = find_write_model()
    if program is None:
        steps.left_out.append("logits (build the tree first: no build*/tests/write_model)")
        return
    models = folder / "logits-models"
    shutil.copytree(DEMO, models / "demo")
    for name in ("odd", "yarn", "sliding", "qwen3", "qwen3_bias", "llama", "mistral", "linear", "dynamic", "qwen3_moe",
                 "qwen3_moe_wide", "window_g1", "window_g3", "qwen3_window"):
        subprocess.run([str(program), str(HERE / "shapes" / f"{name}.json"), "1", str(models / name)], check=True)
    if not steps.makes_torch("logits.json"):
        return
    for attention, needs in (("eager", "products"), ("sdpa", "sdpa"), ("amx", "products")):
        steps.run(f"logits, {attention}", "logits.py", "--models", models, "--attention", attention,
                  "--compare", GOLDEN / "logits.json", needs=needs)


def avx2_order(steps, folder, choir):
    """The order of CPUs with AVX2 only, which PyTorch takes on every host that is held to it."""
    made = folder / "demo-reference-avx2.safetensors"
    held = {"order": "torch-avx2"}
    steps.run("logits, order torch-avx2", "logits.py", "--models", folder / "logits-models", "--compare",
              GOLDEN / "logits-avx2.json", **held)
    steps.run("reference of the demo model, order torch-avx2", "reference.py", "--model", DEMO, "--prompts",
              GOLDEN / "demo-reference.jsonl", "--layers", "0", "--decode", 8, "--out", made, **held)
    steps.command("golden reference of the demo model, order torch-avx2",
                  [choir, "verify", "--candidate", made, "--reference", GOLDEN / made.name])
    steps.run("bars of parity, order torch-avx2", "bars.py", "--choir", choir, "--dtypes", "bf16", show=True, **held)


def golden_reference(steps, folder, choir, what, name, shape, ids, layers="0,2"):
    """choir verify: golden/NAME-reference of a random model of shapes/SHAPE against one made here."""
    model, made, prompts = folder / name, folder / f"{name}-reference.safetensors", folder / f"{name}-reference.jsonl"
    subprocess.run([str(find_write_model()), str(HERE / "shapes" / f"{shape}.json"), "1", str(model)], check=True)
    prompts.write_text(json.dumps({"ids": ids}) + "\n")
    steps.run(f"reference of {what}", "reference.py", "--model", model, "--prompts", prompts, "--layers", layers,
              "--decode", 1, "--attention", "eager", "--runs", "prefill,decode", "--out", made)
    steps.command(f"golden reference of {what}",
                  [choir, "verify", "--candidate", made, "--reference", GOLDEN / made.name], needs="products")


def parity(steps, folder, choir):
    """choir verify: the golden reference of the demo model against one made here, and the bars."""
    made = folder / "demo-reference.safetensors"
    steps.run("reference of the demo model", "reference.py", "--model", DEMO, "--prompts", GOLDEN / "demo-reference.jsonl",
              "--layers", "0,5", "--decode", 2, "--out", made)
    steps.command("golden reference of the demo model",
                  [choir, "verify", "--candidate", made, "--reference", GOLDEN / made.name], needs="sdpa")
    ids = [1, 2, 3, 500, 7]
    golden_reference(steps, folder, choir, "a Qwen3 model", "qwen3", "qwen3", ids)
    golden_reference(steps, folder, choir, "a Llama model", "llama", "llama", ids)
    # Of these rows one chooses another set of experts if equal ones go by index.
    ids = [79, 32, 94, 45, 88, 94, 83, 67, 3, 59, 31, 83, 6, 20, 14, 47, 60, 31, 48, 69]
    golden_reference(steps, folder, choir, "a mixture of experts", "qwen3-moe", "qwen3_moe_small", ids, layers="0")
    # Where PyTorch's sdpa is another one, bars.py has the emulator compute it.
    steps.run("bars of parity", "bars.py", "--choir", choir, needs="products", show=True)


def quantised(steps, choir):
    """Quantised checkpoints of every layout, and those that `choir quantize` writes."""
    if importlib.util.find_spec("compressed_tensors") is None:
        steps.left_out.append("quantised checkpoints (need pip install compressed-tensors)")
        return
    steps.run("quantised checkpoints", "quantised.py", "check", "--choir", choir, "--isas", "avx2", show=True)
    steps.run("the int4 chain", "quantised.py", "chain", "--choir", choir, needs="products")
    steps.run("quantised activations", "quantised.py", "activations", "--choir", choir, needs="products")
    steps.run("choir quantize", "quantize.py", "--choir", choir, needs="products")


def harness(steps, folder, choir):
    """lm-evaluation-harness through Choir and through its own hf backend."""
    if choir is None or importlib.util.find_spec("lm_eval") is None:
        steps.left_out.append("lm_eval (needs a build, and pip install \"lm_eval[hf]\")")
        return
    for dtype, needs in (("f32", None), ("bf16", "products")):
        steps.run(f"lm_eval through Choir, {dtype}", "lm_eval_compare.py", "--choir", choir, "--dtypes", dtype, needs=needs)
    mixture = folder / "lm-eval-mixture"
    steps.run("random mixture of experts", "make_model.py", "--config", HERE / "shapes" / "qwen3_moe.json", "--out", mixture,
              "--vocab", 2048, "--set", "num_experts=24", "--set", "eos_token_id=2047", "--tokenizer", DEMO)
    steps.run("lm_eval through Choir, a mixture of experts, f32", "lm_eval_compare.py", "--choir", choir, "--model", mixture,
              "--ranks", 3, "--items", 4, "--dtypes", "f32")
    packed = folder / "lm-eval-packed"
    steps.command("quantised demo model", [choir, "quantize", "--quiet", "--model", DEMO, "--out", packed, "--group", 64,
                                           "--layout", "compressed-tensors"])
    steps.run("lm_eval through Choir, int4, bf16", "lm_eval_compare.py", "--choir", choir, "--model", packed, "--ranks", 3,
              "--items", 4, "--dtypes", "bf16", needs="products")
    steps.run("lm_eval's requests", "lm_eval_requests.py", "--choir", choir)
    if importlib.util.find_spec("openai") is None or importlib.util.find_spec("tenacity") is None:
        steps.left_out.append("clients of a server (need pip install openai \"lm_eval[api]\")")
    else:
        steps.run("clients of a server", "serve_clients.py", "--choir", choir)


def all_steps(steps, folder, quick):
    def remake(name, script, *arguments, golden, **options):
        made = folder / golden.name
        steps.run(name, script, *[made if x is None else x for x in arguments], made=made, golden=golden, **options)

    steps.run("sampler", "sampler.py", "--compare", GOLDEN / "sampler.json")
    remake("choice of experts", "router.py", "--out", None, golden=GOLDEN / "router.json")
    remake("tokenizer", "tokenizer.py", "golden", DEMO, None, "--random", 100, golden=GOLDEN / "tokenizer" / "demo.jsonl")
    remake("Llama 3's kind of tokenizer", "tokenizer.py", "golden", GOLDEN / "tokenizer" / "llama3-small", None,
           "--random", 60, golden=GOLDEN / "tokenizer" / "llama3-small.jsonl")
    remake("SentencePiece's kind of tokenizer", "tokenizer.py", "golden", GOLDEN / "tokenizer" / "mistral-small", None,
           "--random", 60, golden=GOLDEN / "tokenizer" / "mistral-small.jsonl")
    remake("added tokens", "tokenizer_directories.py", "golden", None,
           golden=GOLDEN / "tokenizer" / "directories.jsonl")
    remake("chat templates", "chat.py", "golden", None, golden=GOLDEN / "tokenizer" / "chat.jsonl")
    steps.run("tokenizer against Hugging Face", "tokenizer.py", "compare", DEMO)
    steps.run("chat templates against Hugging Face", "chat.py", "compare")

    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"ids": [5]}\n{"ids": [7, 1000, 3, 3, 900, 12, 77]}\n{"ids": ' + str(list(range(100, 140))) + "}\n")
    odd, reference = folder / "odd", folder / "odd-f64.safetensors"
    steps.run("random model", "make_model.py", "--config", HERE / "shapes" / "odd.json", "--out", odd)
    steps.run("float64 reference", "reference.py", "--model", odd, "--prompts", prompts, "--dtype", "f64", "--out", reference)
    steps.run("float64 reference against numpy", "check_reference.py", "--model", odd, "--reference", reference)
    random_weights(steps, folder)
    if quick:
        steps.left_out += ["facts", "bars of parity", "greedy replies"]
        return
    if steps.makes_torch("orders of operations"):
        steps.run("orders of operations", "facts.py")
    choir = sorted(ROOT.glob("build*/choir"), key=lambda path: path.stat().st_mtime)
    if choir:
        steps.run("unusual checkpoints", "checkpoints.py", "--choir", choir[-1], "--store")
        if steps.makes_torch("golden references and bars"):
            parity(steps, folder, choir[-1])
        avx2_order(steps, folder, choir[-1])
        if steps.makes_torch("quantised checkpoints"):
            quantised(steps, choir[-1])
    else:
        steps.left_out.append("bars of parity (build the tree first: no build*/choir)")
    harness(steps, folder, choir[-1] if choir else None)
    if steps.makes_torch("greedy replies"):
        remake("greedy replies", "greedy.py", "--out", None, golden=GOLDEN / "demo-greedy.jsonl", needs="sdpa")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    host.limit()
    # What starts mpirun may run as root, as in many containers.
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    steps = Steps()
    if host.describe():
        print(host.describe())
    with tempfile.TemporaryDirectory() as folder:
        all_steps(steps, Path(folder), args.quick)
    for name in steps.left_out:
        print(f"left out: {name}")
    print("failed: " + ", ".join(steps.failed) if steps.failed else "all that this host must hold does")
    sys.exit(bool(steps.failed))


if __name__ == "__main__":
    main()
