"""Models of the GPTQ and AWQ layouts, as Hugging Face computes them on a CPU without AVX512_BF16.

gptqmodel calls aten's operator there, for int4 and groups that it takes. All other matrices are dequantised, which is
what Choir promises of them (docs/quantised.md). Nothing but torch and transformers is needed.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

BF16, F16 = torch.bfloat16, torch.float16
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
METHODS = ("gptq", "awq", "auto-round")


def group_index(k, group):
    return torch.arange(k) // (k if group in (-1, None) else group)


def unpack_words(words, bits=4):
    """[rows, words] -> [rows, words * 32 / bits], low bits first."""
    parts = (words.to(torch.int64) % 2**32).unsqueeze(-1) >> (torch.arange(32 // bits) * bits) & (2**bits - 1)
    return parts.reshape(words.shape[0], -1)


def unpack_awq(words):
    columns = unpack_words(words).reshape(words.shape[0], -1, 8)
    return columns[..., torch.argsort(torch.tensor(AWQ_ORDER))].reshape(words.shape[0], -1)


class Matrix:
    """Codes [K, N], zeros [groups, N], scales [groups, N] and the group of each input of a matrix."""

    def __init__(self, tensors, module, config):
        bits, group = config["bits"], config["group_size"]
        codes, zeros = tensors[f"{module}.qweight"], tensors[f"{module}.qzeros"]
        self.scales = tensors[f"{module}.scales"].to(F16)
        if config["quant_method"] == "awq" or "awq" in config.get("packing_format", ""):
            self.q, self.z = unpack_awq(codes), unpack_awq(zeros)
            self.groups = group_index(self.q.shape[0], group)
        else:
            if config.get("checkpoint_format") != "gptq_v2":
                zeros = (zeros.to(torch.int64) + (0x11111111 if bits == 4 else 0x01010101)) % 2**32
            self.q, self.z = unpack_words(codes.T, bits).T, unpack_words(zeros, bits)
            self.groups = tensors.get(f"{module}.g_idx", group_index(self.q.shape[0], group)).to(torch.int64)
        even = self.q.shape[0] == group * self.scales.shape[0]
        self.in_chain = bits == 4 and group in (32, 64, 128, 256) and even and self.q.shape[1] % 16 == 0

    def dense(self):
        weights = self.scales.float()[self.groups] * (self.q - self.z[self.groups]).float()
        return weights.to(F16).to(BF16).T.contiguous()


class Int4Linear(torch.nn.Module):
    """aten's operator, then the bias in f16."""

    def __init__(self, matrix, bias):
        super().__init__()
        scales = matrix.scales.to(BF16)
        self.order = torch.argsort(matrix.groups, stable=True)
        self.group = matrix.q.shape[0] // scales.shape[0]
        offsets = ((8 - matrix.z).float() * scales.float()).to(BF16)
        self.offsets = torch.stack([scales, offsets], -1).contiguous()
        codes = matrix.q[self.order].T.contiguous().to(torch.int32)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        self.bias = None if bias is None else bias.to(F16)

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])[:, self.order].contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self.group, self.offsets)
        if self.bias is not None:
            y = (y.float() + self.bias.float()).to(BF16)
        return y.reshape(*x.shape[:-1], -1)


def quantization_of(folder):
    """The quantization_config of a directory whose method is one of METHODS, or None."""
    config = json.loads((Path(folder) / "config.json").read_text()).get("quantization_config")
    return config if config and config["quant_method"] in METHODS else None


def load(folder, attention):
    """The model in bf16."""
    quantization = quantization_of(folder)
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=BF16, attn_implementation=attention)
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    known = model.state_dict().keys()
    model.load_state_dict({name: value for name, value in tensors.items() if name in known}, strict=False)
    for name, module in list(model.named_modules()):
        if f"{name}.qweight" not in tensors:
            continue
        matrix, bias = Matrix(tensors, name, quantization), module.bias
        if matrix.in_chain:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, Int4Linear(matrix, None if bias is None else tensors[f"{name}.bias"]))
        else:
            module.weight.data = matrix.dense()
    model.tie_weights()
    return model
