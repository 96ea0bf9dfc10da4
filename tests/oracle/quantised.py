"""Quantised checkpoints of every layout that Choir reads, and what their weights are.

    quantised.py golden                              writes golden/quantised.safetensors, int4 and activations
    quantised.py references                          writes golden/quantised/: small models, and reference.py's of each
    quantised.py write --model DIR --kind KIND --out DIR [--plain DIR]
    quantised.py check --choir PROGRAM [--ranks 1,2,3] [--kinds KIND,...] [--isas scalar,avx2,avx512] [--config FILE,...]
    quantised.py chain --choir PROGRAM [--ranks 1,2,3] [--kinds KIND,...]
    quantised.py activations --choir PROGRAM [--ranks 1,2,3] [--kinds KIND,...]

write converts a model directory (bf16), by rounding to nearest; --plain gets the same weights dequantised to bf16.
check does this for every kind on random weights, and such whose sums cancel: Choir's logits of both directories must be equal
at each number of ranks and on each instruction set, and for the kinds that transformers loads without further packages, its
weights must be the dequantised ones. --config takes the first layer of real shapes in place of the small odd ones.

chain compares Choir's logits of int4 with those of transformers' model whose linear layers are aten's operator.
activations compares them with transformers' own forward of kinds that quantise activations.

Codes, scales and zeros are made here in a few lines of torch for each layout, apart from Choir's reader. The weights
are what docs/quantised.md says: gptqmodel's R_bf16(R_f16(s (q - z))), compressed-tensors' R(R(q - z) R(s)), and
R(f32(q) f32(s)) of FP8 with blocks.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import int4_model
import torch
from int4_model import AWQ_ORDER, group_index
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BF16, F16, F32, F8 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn


def gptq(bits=4, group=128, **options):
    return dict(method="gptq", bits=bits, group=group, **options)


def packed(bits, strategy, group=None, **options):
    return dict(method="packed", bits=bits, strategy=strategy, group=group, **options)


KINDS = {
    "gptq-int4": gptq(),
    "gptq-int4-g64-v2": gptq(group=64, v2=True),
    "gptq-int4-asym": gptq(group=32, asym=True),
    "gptq-int4-act-order": gptq(group=32, asym=True, act_order=True),
    "gptq-int4-whole": gptq(group=-1),
    "gptq-int4-g16": gptq(group=16),
    "gptq-int8": gptq(bits=8),
    "gptq-int8-asym-act-order": gptq(bits=8, group=32, asym=True, act_order=True),
    "gptq-int4-wrapping": gptq(group=32, asym=True, any_zeros=True),
    "auto-round-gptq": gptq(auto_round=True),
    "awq": dict(method="awq", group=128, asym=True),
    "awq-bf16-scales": dict(method="awq", group=32, asym=True, scale=BF16),
    "awq-symmetric": dict(method="awq", group=64),
    "packed-int4": packed(4, "group", 8),
    "packed-int4-f16": packed(4, "group", 8, scale=F16),
    "packed-int4-asym": packed(4, "group", 8, asym=True),
    "packed-int4-channel": packed(4, "channel"),
    "packed-int8": packed(8, "channel"),
    "packed-int8-asym": packed(8, "group", 8, asym=True, scale=F32),
    "int8": dict(method="int8", scale=F32),
    "fp8-channel": dict(method="fp8", strategy="channel"),
    "fp8-tensor": dict(method="fp8", strategy="tensor", scale=F32),
    "fp8-blocks": dict(method="fp8", strategy="block", scale=F32),
    "fp8-inv": dict(method="fp8-inv", scale=F32),
    "fp8-inv-bf16": dict(method="fp8-inv", scale=BF16),
    "fp8-inv-tensor": dict(method="fp8-inv", scale=F32, whole=True),
    "fp8-inv-exponents": dict(method="fp8-inv", scale=torch.uint8),
}
# What transformers loads with the packages of requirements.txt (compressed-tensors cannot load asymmetric ones).
LOADED = ["packed-int4", "packed-int4-f16", "packed-int4-channel", "packed-int8", "int8", "fp8-channel", "fp8-tensor",
          "fp8-inv", "fp8-inv-bf16", "fp8-inv-tensor"]


def pack_words(values, bits):
    """[rows, n] of unsigned numbers -> [rows, ceil(n bits/32)] i32, low bits first."""
    per = 32 // bits
    values = torch.nn.functional.pad(values.to(torch.int64), (0, -values.shape[1] % per))
    parts = values.reshape(values.shape[0], -1, per) << (torch.arange(per) * bits)
    words = parts.sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def affine(w, bits, groups, asym, scale_type, signed=False, whole=False):
    """(q unsigned, s [N, G], z [N, G]) by rounding to nearest within groups of inputs. whole: all groups have the same
    scale, and codes the same number of values below zero and above, so that opposite weights stay opposite."""
    n, count = w.shape[0], int(groups.max()) + 1
    low = torch.zeros(n, count).scatter_reduce(1, groups.expand(n, -1), w, "amin")
    high = torch.zeros(n, count).scatter_reduce(1, groups.expand(n, -1), w, "amax")
    top = 2**bits - 1
    if asym:
        s = ((high - low).clamp(min=1e-4) / top).to(scale_type)
        z = torch.round(-low / s.float()).clamp(0 if signed else 1, top).to(torch.int64)
    else:
        s = (torch.maximum(high, -low).clamp(min=1e-4) * 2 / top).to(scale_type)
        if whole:
            s = s.amax(1, keepdim=True).expand(s.shape).contiguous()
        z = torch.full((n, count), 2 ** (bits - 1))
    q = torch.round(w / s.float()[:, groups]).to(torch.int64) + z[:, groups]
    return q.clamp(1 if whole else 0, top), s, z


def write_gptq(w, kind, generator):
    bits, n, k = kind["bits"], *w.shape
    groups = group_index(k, kind["group"])
    if kind.get("act_order"):
        groups = groups[torch.randperm(k, generator=generator)]
    q, s, z = affine(w, bits, groups, kind.get("asym") and not kind.get("whole"), F16, whole=kind.get("whole"))
    ones = 0x11111111 if bits == 4 else 0x01010101
    zeros = pack_words(z.T, bits)
    if kind.get("any_zeros"):  # words whose fields carry into each other
        stored = torch.randint(-2**31, 2**31, zeros.shape, generator=generator)
        fields = ((stored + ones) % 2**32).unsqueeze(-1) >> (torch.arange(32 // bits) * bits) & (2**bits - 1)
        z = fields.reshape(zeros.shape[0], -1).T
        zeros = stored.to(torch.int32)
    elif not kind.get("v2"):
        stored = (zeros.to(torch.int64) - ones) % 2**32
        zeros = torch.where(stored >= 2**31, stored - 2**32, stored).to(torch.int32)
    tensors = {"qweight": pack_words(q.T.T, bits).T.contiguous(), "qzeros": zeros, "scales": s.T.contiguous()}
    if not kind.get("auto_round"):
        tensors["g_idx"] = groups.to(torch.int32)
    return tensors, (s.float()[:, groups] * (q - z[:, groups]).float()).to(F16).to(BF16)


def write_awq(w, kind, generator):
    groups = group_index(w.shape[1], kind["group"])
    q, s, z = affine(w, 4, groups, kind.get("asym"), kind.get("scale", F16))
    order = torch.cat([torch.tensor(AWQ_ORDER) + 8 * i for i in range(w.shape[0] // 8)])
    tensors = {"qweight": pack_words(q.T[:, order], 4), "qzeros": pack_words(z.T[:, order], 4), "scales": s.T.contiguous()}
    return tensors, (s.to(F16).float()[:, groups] * (q - z[:, groups]).float()).to(F16).to(BF16)


def write_packed(w, kind, generator):
    groups = group_index(w.shape[1], kind["group"])
    q, s, z = affine(w, kind["bits"], groups, kind.get("asym"), kind.get("scale", BF16), signed=True)
    tensors = {"weight_packed": pack_words(q, kind["bits"]), "weight_scale": s,
               "weight_shape": torch.tensor(w.shape, dtype=torch.int64)}
    if kind.get("asym"):
        tensors["weight_zero_point"] = pack_words(z.T, kind["bits"]).T.contiguous()
    return tensors, (q - z[:, groups]).to(BF16) * s.to(BF16)[:, groups]


def write_int8(w, kind, generator):
    q, s, z = affine(w, 8, group_index(w.shape[1], None), False, kind.get("scale", BF16))
    q = q - 128
    return {"weight": q.to(torch.int8), "weight_scale": s}, q.to(BF16) * s.to(BF16)


def grid_of(w, rows, columns):
    """The largest magnitude of each block, and a way to spread it over the matrix again."""
    n, k = w.shape
    r, c = torch.arange(n) // rows, torch.arange(k) // columns
    most = torch.stack([torch.stack([w[r == i][:, c == j].abs().max() for j in range(int(c.max()) + 1)])
                        for i in range(int(r.max()) + 1)])
    return most, lambda grid: grid[r][:, c]


def write_fp8(w, kind, generator):
    n, k = w.shape
    rows, columns = {"channel": (1, k), "tensor": (n, k), "block": (128, 128)}[kind["strategy"]]
    most, spread = grid_of(w, rows, columns)
    s = (most / 448).to(kind.get("scale", BF16))
    q = (w / spread(s.float())).clamp(-448, 448).to(F8)
    stored = s.reshape(1) if kind["strategy"] == "tensor" else s
    return {"weight": q, "weight_scale": stored}, q.to(BF16) * spread(s.to(BF16))


def write_fp8_inv(w, kind, generator):
    """Blocks are what a grid that divides the matrix evenly gives."""
    n, k = w.shape
    cut = [next(size for size in range(128, 0, -1) if d % size == 0) for d in (n, k)]
    most, spread = grid_of(w, *((n, k) if kind.get("whole") else cut))
    if kind["scale"] == torch.uint8:
        stored = torch.ceil(torch.log2(most / 448) + 127).to(torch.uint8)
        s = torch.exp2(stored.float() - 127)
    else:
        stored = (most / 448).to(kind["scale"])
        s = stored.float()
    q = (w / spread(s)).clamp(-448, 448).to(F8)
    return ({"weight": q, "weight_scale_inv": stored.reshape(()) if kind.get("whole") else stored},
            (q.float() * spread(s)).to(BF16))


WRITERS = {"gptq": write_gptq, "awq": write_awq, "packed": write_packed, "int8": write_int8, "fp8": write_fp8,
           "fp8-inv": write_fp8_inv}


def compressed_group(kind, targets):
    method = kind["method"]
    weights = {"num_bits": kind.get("bits", 8), "type": "float" if method == "fp8" else "int",
               "symmetric": not kind.get("asym", False), "strategy": kind.get("strategy", "channel"),
               "group_size": kind.get("group"), "dynamic": False, "actorder": None}
    if kind.get("strategy") == "block":
        weights["block_structure"] = [128, 128]
    # int-quantized is for models with quantised activations alone
    inputs = kind.get("inputs", TOKEN if method == "int8" else None)
    names = {"packed": "pack-quantized", "int8": "int-quantized", "fp8": "float-quantized" if inputs else "naive-quantized"}
    return {"targets": targets, "format": names[method], "weights": weights, "input_activations": inputs,
            "output_activations": None}


def compressed_config(groups):
    """groups: (kind, targets)"""
    groups = [compressed_group(*group) for group in groups]
    return {"quant_method": "compressed-tensors", "format": groups[0]["format"] if len(groups) == 1 else "mixed-precision",
            "quantization_status": "compressed", "ignore": ["lm_head"], "kv_cache_scheme": None, "sparsity_config": {},
            "transform_config": {}, "config_groups": {f"group_{number}": group for number, group in enumerate(groups)}}


def quantization_config(kind):
    method, group = kind["method"], kind.get("group")
    if method == "gptq" and kind.get("auto_round"):
        return {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": kind["bits"],
                "group_size": group, "sym": True, "data_type": "int"}
    if method == "gptq":
        version = {"checkpoint_format": "gptq_v2"} if kind.get("v2") else {}
        return {"quant_method": "gptq", "bits": kind["bits"], "group_size": group, "sym": not kind.get("asym", False),
                "desc_act": kind.get("act_order", False), "lm_head": False, **version}
    if method == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm",
                "zero_point": kind.get("asym", False), "modules_to_not_convert": None}
    if method == "fp8-inv":
        return {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "modules_to_not_convert": ["lm_head"],
                "weight_block_size": None if kind.get("whole") else [128, 128]}
    if method == "mixed":
        return compressed_config([(kind, [f"re:.*{name}$" for name in names]) for names, kind in kind["of"].items()])
    return compressed_config([(kind, ["Linear"])])


# ---- A model directory ----------------------------------------------------------


def is_quantised(name):
    return name.endswith("_proj.weight")


def write(source, kind, out, plain=None):
    tensors, dense = {}, {}
    for number, (name, tensor) in enumerate(sorted(load_file(Path(source) / "model.safetensors").items())):
        if kind.get("biases") and name.endswith(".bias"):  # in f16, and not in bf16
            tensor = (torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)) * 0.5).to(F16)
        dense[name] = tensor
        if not is_quantised(name):
            tensors[name] = tensor
            continue
        module = name.removesuffix(".weight")
        of = kind if kind["method"] != "mixed" else next(
            of for names, of in kind["of"].items() if module.rpartition(".")[2] in names)
        of = of | {"whole": of.get("whole", False) or module.rpartition(".")[2] in kind.get("opposite", [])}
        made, dense[name] = WRITERS[of["method"]](tensor.float(), of, torch.Generator().manual_seed(number))
        tensors |= {f"{module}.{part}": value for part, value in made.items()}
    config = json.loads((Path(source) / "config.json").read_text())
    for folder, weights, extra in [(out, tensors, {"quantization_config": quantization_config(kind)}), (plain, dense, {})]:
        if folder is None:
            continue
        shutil.copytree(source, folder, dirs_exist_ok=True)
        save_file({name: value.contiguous() for name, value in weights.items()}, Path(folder) / "model.safetensors",
                  metadata={"format": "pt"})
        (Path(folder) / "config.json").write_text(json.dumps(config | extra, indent=2))


# ---- Checks ---------------------------------------------------------------------


def compare_weights(folder, plain):
    """Prints how many weights of transformers' differ from the dequantised ones, and of how many."""
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=BF16)
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    dense = load_file(Path(plain) / "model.safetensors")
    pairs = [(dense[name], value) for name, value in model.state_dict().items() if is_quantised(name)]
    print(sum(int((a != b).sum()) for a, b in pairs), sum(a.numel() for a, _ in pairs))


def logits(choir, folder, ranks, out, order="dequantize", ids=tuple(i * 37 % 1000 for i in range(40)), isa=None):
    command = ["mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       **({} if ranks > 1 else {"OMPI_MCA_ess_singleton_isolated": "1"}), **({"CHOIR_ISA": isa} if isa else {}))
    subprocess.run([*command, choir, "generate", "--quiet", "--model", folder, "--ids", ",".join(map(str, ids)), "--max-tokens", "0",
                    "--quantised-order", order, "--dot", "chain", "--attention", "eager",
                    "--logits-out", out], check=True, env=environment, stdin=subprocess.DEVNULL)
    return hashlib.sha256(Path(out).read_bytes()).hexdigest()


def compare_chain(choir, folder, ranks, out):
    """Differing elements of logits: Choir's prompt and decode against a model with aten's operator."""
    return compare_logits(choir, folder, int4_model.load(folder, "eager"), ranks, out)


def compare_activations(choir, folder, ranks, out):
    """The same against transformers' forward of the quantised model."""
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=BF16, attn_implementation="eager")
    compare_logits(choir, folder, model, ranks, out)


def compare_logits(choir, folder, model, ranks, out):
    import numpy
    ids = [i * 37 % 1000 for i in range(40)]
    with torch.no_grad():
        expected = model.eval()(torch.tensor([ids])).logits[0].float().numpy()
    differ = []
    for r in ranks:
        logits(choir, folder, r, out, "torch", ids)
        found = numpy.load(out)
        differ.append(int((found != expected[-len(found):]).sum()))
    print(*differ, len(found) * expected.shape[1])
    return sum(differ)


# Kinds whose activations are quantised, and how.
TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
F8_TOKEN = TOKEN | {"type": "float"}
ACTIVATIONS = {
    "int8": ("int8", TOKEN),
    "int8-asym": ("int8", TOKEN | {"symmetric": False}),
    "fp8": ("fp8-channel", F8_TOKEN),
    "fp8-group": ("fp8-channel", F8_TOKEN | {"strategy": "group", "group_size": 128}),
}


def golden_activations():
    """Rows as compressed-tensors quantises and dequantises them."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(48, 256, generator=generator) * torch.logspace(-38, 2.5, 48).unsqueeze(1)
    x[1::8, 1::2] = -x[1::8, 0::2]
    x[2::8] = x[2::8].abs()
    x[3::8] = -x[3::8].abs()
    x[4], x[5, :128], x[6, 128:] = 0, 0, 0
    x = x.to(BF16)
    tensors = {"x": x}
    for name, (_, inputs) in ACTIVATIONS.items():
        arguments = QuantizationArgs(**inputs)
        scale, zero = compute_dynamic_scales_and_zp(x.unsqueeze(0), arguments, None)
        tensors[name] = fake_quantize(x.unsqueeze(0), scale, zero, arguments).squeeze(0).contiguous()
    save_file(tensors, ROOT / "tests" / "golden" / "activations.safetensors")


def check_activations(choir, ranks, kinds):
    """Random models and such whose sums cancel; a process each, as host.py's flag comes before torch."""
    failed = 0
    environment = dict(os.environ, ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        odd = json.loads((HERE / "shapes" / "odd.json").read_text())
        (folder / "even.json").write_text(json.dumps(odd | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 384}))
        for name, extra in [("random", []), ("cancelling", ["--cancelling"])]:
            subprocess.run([sys.executable, HERE / "make_model.py", "--config", folder / "even.json", "--out",
                            folder / name, *extra], check=True, stdout=subprocess.DEVNULL)
            for kind in kinds:
                weights, inputs = ACTIVATIONS[kind]
                write(folder / name, KINDS[weights] | {"inputs": inputs}, folder / "quantised")
                run = subprocess.run([sys.executable, __file__, "activations-of", "--choir", choir, "--ranks",
                                      ",".join(map(str, ranks)), "--model", folder / "quantised", "--out",
                                      folder / "logits.npy"], check=True, stdout=subprocess.PIPE, text=True, env=environment)
                *differ, count = run.stdout.split()[-len(ranks) - 1:]
                print(f"{kind}, {name}: of {count} logits differ at ranks {ranks}: {', '.join(differ)}", flush=True)
                failed += sum(map(int, differ))
    return failed


CHAINS = ["gptq-int4", "gptq-int4-g64-v2", "gptq-int4-asym", "gptq-int4-act-order", "auto-round-gptq", "awq",
          "awq-bf16-scales", "awq-symmetric"]


def check_chain(choir, ranks, kinds):
    """In a shape whose matrices aten takes, cancelling and not; a process each, as host.py's flag comes before torch."""
    failed = 0
    environment = dict(os.environ, ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        odd = json.loads((HERE / "shapes" / "odd.json").read_text())
        config = odd | {"hidden_size": 256, "head_dim": 64, "num_attention_heads": 6, "intermediate_size": 384}
        (folder / "even.json").write_text(json.dumps(config))
        for name, extra in [("random", []), ("cancelling", ["--cancelling"])]:
            subprocess.run([sys.executable, HERE / "make_model.py", "--config", folder / "even.json", "--out",
                            folder / name, *extra], check=True, stdout=subprocess.DEVNULL)
            for kind in kinds:
                write(folder / name, KINDS[kind], folder / "quantised", folder / "plain")
                run = subprocess.run([sys.executable, __file__, "chain-of", "--choir", choir, "--ranks",
                                      ",".join(map(str, ranks)), "--kind", kind, "--model", folder / "quantised",
                                      "--plain", folder / "plain", "--out", folder / "logits.npy"], check=True,
                                     stdout=subprocess.PIPE, text=True, env=environment)
                *differ, count = run.stdout.split()[-len(ranks) - 1:]
                print(f"{kind}, {name}: of {count} logits differ at ranks {ranks}: {', '.join(differ)}", flush=True)
                failed += sum(map(int, differ))
    return failed


def small_shapes(folder):
    """Two shapes with odd sizes, of which compressed-tensors unpacks the second: inputs in multiples of 32."""
    odd = json.loads((HERE / "shapes" / "odd.json").read_text())
    for name, config in [("odd", odd), ("even", odd | {"hidden_size": 256, "head_dim": 48, "intermediate_size": 224})]:
        (folder / f"{name}.json").write_text(json.dumps(config))
    return [(folder / "odd.json", lambda name: name not in LOADED), (folder / "even.json", lambda name: name in LOADED)]


def check(choir, ranks, kinds, isas, configs):
    """Random models and such whose sums cancel, before they are quantised."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shapes = [(Path(config), lambda name: True) for config in configs] or small_shapes(folder)
        sizes = ["--layers", "1", "--vocab", "1000"] if configs else []
        for config, takes in shapes:
            for data in ("random", "cancelling"):
                source = folder / f"{config.stem}-{data}"
                subprocess.run([sys.executable, HERE / "make_model.py", "--config", config, *sizes, "--out", source,
                                *(["--cancelling"] if data == "cancelling" else [])], check=True, stdout=subprocess.DEVNULL)
                for name in filter(takes, kinds):
                    failed += check_kind(choir, ranks, isas, name, source, folder)
                shutil.rmtree(source)
    return failed


def check_kind(choir, ranks, isas, name, source, folder):
    write(source, KINDS[name], folder / name, folder / "plain")
    plain = logits(choir, folder / "plain", 1, folder / "logits.npy")
    # of these the default order has other bits: the int4 chain, quantised activations
    other = KINDS[name].get("bits", 4) == 4 and KINDS[name]["method"] in ("gptq", "awq")
    order = "dequantize" if other or KINDS[name]["method"] == "int8" else "torch"
    differ = [r for r in ranks if logits(choir, folder / name, r, folder / "logits.npy", order) != plain]
    differ += [isa for isa in isas if logits(choir, folder / name, 1, folder / "logits.npy", order, isa=isa) != plain]
    failed, told = len(differ), ""
    if name in LOADED:
        # a process of its own: what compressed-tensors keeps of one model disturbs the next
        run = subprocess.run([sys.executable, __file__, "weights", "--model", folder / name, "--plain",
                              folder / "plain"], check=True, stdout=subprocess.PIPE, text=True)
        wrong, count = run.stdout.split()[-2:]
        told = f"; transformers: {wrong} of {count} weights differ"
        failed += int(wrong)
    print(f"{name}, {source.name}: logits differ from the dequantised model's at {differ or 'none'} of {ranks} ranks, {isas}{told}",
          flush=True)
    shutil.rmtree(folder / name)
    return failed


def golden():
    """One matrix of each kind: its tensors, its weights, and the config that it belongs to."""
    tensors, metadata = {}, {}
    for number, (name, kind) in enumerate(KINDS.items()):
        generator = torch.Generator().manual_seed(number)
        w = torch.randn(72, 104, generator=generator) * 0.1
        made, weights = WRITERS[kind["method"]](w, kind, generator)
        tensors |= {f"{name}.{part}": value.contiguous() for part, value in made.items()}
        tensors[f"{name}.expected"] = weights.contiguous()
        metadata[name] = json.dumps(quantization_config(kind))
    save_file(tensors, ROOT / "tests" / "golden" / "quantised.safetensors", metadata=metadata)


# Of a layer: the kinds of its matrices. Small models that `choir verify` and mpi_defects read.
REFERENCES = {
    "int4": gptq(group=32, asym=True, act_order=True, biases=True, opposite=["down_proj"]),
    "int8": gptq(bits=8, group=32),
    "fp8": dict(method="fp8-inv", scale=F32),
    "mixed": dict(method="mixed", of={
        ("q_proj", "k_proj", "v_proj"): dict(method="int8", inputs=TOKEN),
        ("o_proj",): dict(method="fp8", strategy="channel", inputs=F8_TOKEN),
        ("gate_proj", "up_proj"): dict(method="fp8", strategy="block"),
        ("down_proj",): packed(4, "group", 32)}),
}


def references():
    odd = json.loads((HERE / "shapes" / "odd.json").read_text())
    folder = ROOT / "tests" / "golden" / "quantised"
    for name, kind in REFERENCES.items():
        config = odd | {"hidden_size": 256 if name == "fp8" else 160, "head_dim": 16, "num_attention_heads": 4,
                        "num_key_value_heads": 2, "intermediate_size": 96, "num_hidden_layers": 1, "max_window_layers": 1,
                        "vocab_size": 96, "bos_token_id": 90, "eos_token_id": 91, "tie_word_embeddings": name != "int4"}
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            (scratch / "config.json").write_text(json.dumps(config))
            (scratch / "prompts.jsonl").write_text(json.dumps({"ids": [i * 37 % 89 for i in range(9)]}) + "\n")
            subprocess.run([sys.executable, HERE / "make_model.py", "--config", scratch / "config.json", "--out",
                            scratch / "model", *(["--cancelling"] if name == "int4" else [])], check=True,
                           stdout=subprocess.DEVNULL)
            shutil.rmtree(folder / name, ignore_errors=True)
            write(scratch / "model", kind, scratch / "quantised")
            (folder / name).mkdir(parents=True)
            for file in ("config.json", "model.safetensors"):
                shutil.copy(scratch / "quantised" / file, folder / name / file)
            subprocess.run([sys.executable, HERE / "reference.py", "--model", folder / name, "--prompts",
                            scratch / "prompts.jsonl", "--attention", "eager", "--decode", "3", "--out",
                            folder / f"{name}-reference.safetensors"], check=True,
                           env=dict(os.environ, ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16"))


def int4_case(n, k, group, zeros, cancelling, rows, generator):
    """Codes, scales, zeros and inputs, and aten's product."""
    q = torch.randint(0, 16, (n, k), generator=generator)
    x = torch.randn(rows, k, generator=generator).to(BF16)
    s = (torch.rand(n, k // group, generator=generator) * 0.1 + 0.01).to(BF16)
    z = torch.randint(0, 16, s.shape, generator=generator) if zeros else torch.full(s.shape, 8)
    if cancelling:  # pairs of a group have opposite weights and equal inputs
        q = q.clamp(min=1)
        order = torch.cat([g + torch.randperm(group, generator=generator) for g in range(0, k, group)])
        q[:, order[1::2]] = 16 - q[:, order[0::2]]
        x[:, order[1::2]] = x[:, order[0::2]]
    offsets = ((8 - z).float() * s.float()).to(BF16)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1)
    y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group, torch.stack([s.T, offsets.T], -1).contiguous())
    return {"codes": q.to(torch.uint8), "scales": s.float(), "zeros": z.to(torch.uint8), "x": x, "y": y}


def golden_int4():
    """Products by aten's operator, whose order the int4 chain is."""
    tensors = {}
    for number, (group, k) in enumerate([(32, 96), (64, 128), (128, 256), (256, 256)]):
        for zeros in (0, 1):
            for cancelling in ([0] if zeros else [0, 1]):
                generator = torch.Generator().manual_seed(100 + number)
                case = int4_case(80, k, group, zeros, cancelling, 14, generator)
                tensors |= {f"{group}.{zeros}.{cancelling}.{name}": value.contiguous() for name, value in case.items()}
    save_file(tensors, ROOT / "tests" / "golden" / "int4.safetensors")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["golden", "references", "write", "check", "weights", "chain", "chain-of", "activations",
                                         "activations-of"])
    parser.add_argument("--model")
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--out")
    parser.add_argument("--plain")
    parser.add_argument("--choir")
    parser.add_argument("--ranks", default="1,2,3")
    parser.add_argument("--isas", default="", help="instruction sets beside the host's")
    parser.add_argument("--config", default="", help="files of real shapes, for check")
    parser.add_argument("--kinds", default=",".join(dict.fromkeys([*KINDS, *ACTIVATIONS])))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "golden":
        golden()
        golden_int4()
        golden_activations()
    elif args.what == "references":
        references()
    elif args.what == "write":
        write(args.model, KINDS[args.kind], args.out, args.plain)
    elif args.what == "chain":
        kinds = [kind for kind in args.kinds.split(",") if kind in CHAINS]
        sys.exit(check_chain(args.choir, [int(r) for r in args.ranks.split(",")], kinds) != 0)
    elif args.what == "chain-of":
        compare_chain(args.choir, args.model, [int(r) for r in args.ranks.split(",")], args.out)
    elif args.what == "activations":
        kinds = [kind for kind in args.kinds.split(",") if kind in ACTIVATIONS] if args.kinds else []
        sys.exit(check_activations(args.choir, [int(r) for r in args.ranks.split(",")], kinds or list(ACTIVATIONS)) != 0)
    elif args.what == "activations-of":
        compare_activations(args.choir, args.model, [int(r) for r in args.ranks.split(",")], args.out)
    elif args.what == "weights":
        compare_weights(args.model, args.plain)
    else:
        kinds = [kind for kind in args.kinds.split(",") if kind in KINDS]
        isas, configs = ([word for word in words.split(",") if word] for words in (args.isas, args.config))
        sys.exit(check(args.choir, [int(r) for r in args.ranks.split(",")], kinds, isas, configs) != 0)


if __name__ == "__main__":
    main()
