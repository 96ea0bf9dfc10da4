"""Runs Hugging Face on some prompts and writes everything it computed to one file.

    reference.py --model DIR --prompts FILE.jsonl --dtype bf16|f32|f64 --out REF.safetensors
                 [--layers 0,5-7] [--decode N] [--attention eager,sdpa]
                 [--runs prefill,decode,stepwise,generate] [--threads N] [--sdpa torch|emulated]

With CHOIR_ORACLE_ORDER=torch-avx2 in the environment PyTorch is held to that order (host.py).

FILE.jsonl holds one object a line, {"text": "..."} (tokenized as it stands, special
tokens recognised; with "special_tokens": true also those that the tokenizer puts around a text, such as BOS)
or {"ids": [...]}. Every prompt runs alone (batch of one, no padding).

The file REF is a safetensors file. K is the number of the prompt from 0, S its tokens, D
the value of --decode, L a layer; A is eager or sdpa. Values have the type of --dtype,
ids are I64. Rows are tokens, in order; all tensors are contiguous.

    prompt.K.text            [bytes]     the prompt in UTF-8 (U8); only for text prompts
    prompt.K.ids             [S]         its tokens
    prompt.K.new_ids         [D]         what eager generate() chose after it, greedily,
                                         with end tokens ignored

  Components of one forward over the whole prompt, eager attention:

    prompt.K.embedding_output                 [S, hidden]
    prompt.K.layer.L.normalized_input         [S, hidden]      output of input_layernorm
    prompt.K.layer.L.q_proj                   [S, heads * d]   with bias
    prompt.K.layer.L.k_proj, v_proj           [S, KV heads * d]
    prompt.K.layer.L.q_norm                   [S, heads * d]   of models that normalise heads (Qwen3)
    prompt.K.layer.L.k_norm                   [S, KV heads * d]
    prompt.K.layer.L.q_rope                   [S, heads * d]   after rotation
    prompt.K.layer.L.k_rope                   [S, KV heads * d]
    prompt.K.layer.L.attn_weights             [heads, S, T]    after softmax, T = S
    prompt.K.layer.L.attn_output              [S, heads * d]   input of o_proj
    prompt.K.layer.L.o_proj                   [S, hidden]
    prompt.K.layer.L.hidden_after_attn        [S, hidden]      after the residual addition
    prompt.K.layer.L.normalized_after_attn    [S, hidden]
    prompt.K.layer.L.gate_proj, up_proj       [S, MLP]
    prompt.K.layer.L.mlp_activation           [S, MLP]         silu(gate) * up, input of down_proj
    prompt.K.layer.L.mlp_output               [S, hidden]      output of down_proj; of a mixture: the sum

  In layers with a mixture, in place of gate_proj, up_proj and mlp_activation; C experts are chosen, row
  s * C + j of a pair is token s and the j-th of its list:

    prompt.K.layer.L.router_logits            [S, experts]
    prompt.K.layer.L.chosen_experts           [S, C]           their numbers (F32), most probable first
    prompt.K.layer.L.routing_weights          [S, C]
    prompt.K.layer.L.expert_gate_proj, expert_up_proj, expert_activation   [S * C, MLP of an expert]
    prompt.K.layer.L.expert_down_proj         [S * C, hidden]
    prompt.K.layer.L.expert_output            [S * C, hidden]  times the weight

    prompt.K.layer.L.layer_output             [S, hidden]      after the residual addition
    prompt.K.final_norm                       [S, hidden]
    prompt.K.logits                           [S, vocabulary]

  The same components of one decode step (S = 1, T = prompt + 1): new_ids[0] after the
  whole prompt, with a cache:

    prompt.K.decode.embedding_output ... prompt.K.decode.final_norm

  (its logits are row 0 of decode_logits)

  Further logits, eager attention:

    prompt.K.decode_logits       [D, vocabulary]  row i: after the prompt in one forward with
                                                  a cache, then new_ids[0..i] one at a time
    prompt.K.stepwise_logits     [S, vocabulary]  the prompt itself fed one token at a time
    prompt.K.generate_logits     [D, vocabulary]  output_logits of generate(): row i chose
                                                  new_ids[i]

  With sdpa attention, the same kinds with the prefix prompt.K.sdpa:

    prompt.K.sdpa.new_ids, logits, decode_logits, stepwise_logits, generate_logits
    prompt.K.sdpa.layer.L.attn_output, prompt.K.sdpa.decode.layer.L.attn_output
    prompt.K.sdpa.layer.L.q_rope, k_rope, v_proj (what attention was given; with a cache
    prompt.K.sdpa.decode.layer.L.k_rope and v_proj are those of the new token alone)

The metadata of the file (strings): format = "choir-reference 1", dtype, attention, sdpa, runs,
layers, decode, threads, prompts (their number), special_tokens (0,2: of prompts tokenized with them), model_digest, config (config.json), torch,
transformers, tokenizers, safetensors, numpy, onednn, onednn_max_cpu_isa, onednn_bf16 (1: oneDNN multiplies bf16
on this CPU, within that limit), mkl, mkl_enable_instructions, cpu_model, cpu_flags, torch_capability (the instruction
set that PyTorch's own kernels use).

model_digest is XXH3 of 64 bits, seed 0, in 16 hexadecimal digits, over all tensors in byte
order of their names: the name, then the tensor's bytes as stored.

Quantised checkpoints are loaded as transformers loads them (FP8, compressed-tensors), or as int4_model.py does it (GPTQ,
AWQ: aten's operator), in bf16 alone.

f64 is truly float64. Hugging Face casts to float32 in RMSNorm, softmax and the rotary
tables whatever the model's type; here these three are replaced. The inverse
frequencies stay the float32 values that every mode shares; the angle is the float64
product of the position and the frequency.
"""

import argparse
import importlib
import json
import os
import struct
import sys
from importlib.metadata import version
from pathlib import Path

import host as oracle_host

oracle_host.hold_to_avx2()

import int4_model
import torch
import transformers
import transformers.integrations.moe as moe
import xxhash
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}
RUNS = ["prefill", "decode", "stepwise", "generate"]


# --- float64 -------------------------------------------------------------------


def rms_norm_f64(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def rotary_f64(self, x, position_ids):
    angle = position_ids[..., None].double() * self.inv_freq.double()
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling


def eager_f64(module, query, key, value, attention_mask, scaling, **_):
    groups = module.num_key_value_groups
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float64)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def router_f64(self, x):
    logits = torch.nn.functional.linear(x.reshape(-1, self.hidden_dim), self.weight)
    values, experts = torch.topk(torch.softmax(logits, dim=-1), self.top_k, dim=-1)
    return logits, values / values.sum(dim=-1, keepdim=True) if self.norm_topk_prob else values, experts


def modeling_of(folder):
    """The module of transformers that implements the model."""
    kind = AutoConfig.from_pretrained(folder).model_type
    return importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")


def patch_f64(modeling):
    for name, value in vars(modeling).items():
        if name.endswith("RMSNorm"):
            value.forward = rms_norm_f64
        elif name.endswith("RotaryEmbedding"):
            value.forward = torch.no_grad()(rotary_f64)
        elif name.endswith("TopKRouter"):
            value.forward = router_f64
    moe._can_use_grouped_mm = lambda *_: False  # it has no float64
    modeling.eager_attention_forward = eager_f64


# --- capture ---------------------------------------------------------------------


class Capture:
    """Collects components of the forward calls made while a prefix is set.
    only: names of layer components to keep, or None for all, also those outside of layers."""

    def __init__(self, model, layers):
        self.layers, self.prefix, self.only, self.layer, self.store = layers, None, None, None, {}
        core = model.model
        self.output(core.embed_tokens, "embedding_output")
        self.output(core.norm, "final_norm")
        for number, layer in enumerate(core.layers):
            attention, mlp = layer.self_attn, layer.mlp
            layer.register_forward_pre_hook(lambda *_, number=number: setattr(self, "layer", number))
            self.output(layer.input_layernorm, "normalized_input", number)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                self.output(getattr(attention, name), name, number)
            for name in ("q_norm", "k_norm"):  # [1, S, heads, d] -> [S, heads * d]
                if hasattr(attention, name):
                    getattr(attention, name).register_forward_hook(
                        lambda _m, _x, y, name=name, number=number: self.keep(name, y.flatten(2), number))
            self.input(attention.o_proj, "attn_output", number)
            attention.register_forward_hook(
                lambda _m, _x, y, number=number: self.keep("attn_weights", y[1], number) if y[1] is not None else None)
            self.input(layer.post_attention_layernorm, "hidden_after_attn", number)
            self.output(layer.post_attention_layernorm, "normalized_after_attn", number)
            if hasattr(mlp, "experts"):
                self.experts(mlp, number)
            else:
                self.output(mlp.gate_proj, "gate_proj", number)
                self.output(mlp.up_proj, "up_proj", number)
                self.input(mlp.down_proj, "mlp_activation", number)
            self.output(mlp, "mlp_output", number)
            self.output(layer, "layer_output", number)

        modeling = sys.modules[type(model).__module__]
        rotate = modeling.apply_rotary_pos_emb

        def rotate_and_keep(q, k, *args, **kwargs):
            q, k = rotate(q, k, *args, **kwargs)
            for name, value in (("q_rope", q), ("k_rope", k)):  # [1, heads, S, d] -> [S, heads * d]
                self.keep(name, value.transpose(1, 2).flatten(2), self.layer)
            return q, k

        grouped = moe._grouped_linear
        self.products = []  # of the experts of a layer: (input, output) of gate_up, and of down

        def multiply_and_keep(x, *args, **kwargs):
            self.products.append((x, grouped(x, *args, **kwargs)))
            return self.products[-1][1]

        def undo():
            modeling.apply_rotary_pos_emb, moe._grouped_linear = rotate, grouped

        modeling.apply_rotary_pos_emb, moe._grouped_linear = rotate_and_keep, multiply_and_keep
        self.undo = undo

    def experts(self, mlp, number):
        def keep_choice(_module, _input, output):
            for name, value in zip(("router_logits", "routing_weights", "chosen_experts"), output):
                self.keep(name, value[None].float() if name == "chosen_experts" else value[None], number)

        def keep_pairs(_module, args, _output):
            _, chosen, weights = args
            # rows are sorted by expert: back to pairs
            back = torch.argsort(torch.sort(chosen.reshape(-1))[1])
            (_, both), (activation, down) = (tuple(part[back] for part in product) for product in self.products)
            self.products.clear()
            for name, value in (*zip(("expert_gate_proj", "expert_up_proj"), both.chunk(2, dim=-1)),
                                ("expert_activation", activation), ("expert_down_proj", down),
                                ("expert_output", down * weights.reshape(-1, 1))):
                self.keep(name, value[None], number)

        mlp.gate.register_forward_hook(keep_choice)
        mlp.experts.register_forward_hook(keep_pairs)

    def output(self, module, name, layer=None):
        module.register_forward_hook(lambda _m, _x, y: self.keep(name, y, layer))

    def input(self, module, name, layer):
        module.register_forward_pre_hook(lambda _m, x: self.keep(name, x[0], layer))

    def keep(self, name, value, layer):
        if self.prefix is None or (self.only is not None and name not in self.only):
            return
        if layer is None:
            self.store[self.prefix + name] = value[0].clone()
        elif layer in self.layers:
            self.store[f"{self.prefix}layer.{layer}.{name}"] = value[0].contiguous().clone()

    def during(self, prefix, only=None):
        """A context in which components are kept under a prefix."""
        capture = self

        class Context:
            def __enter__(self):
                capture.prefix, capture.only = prefix, only

            def __exit__(self, *_):
                capture.prefix = None

        return Context()


# --- runs ------------------------------------------------------------------------


def forward(model, ids, cache=None):
    """Logits [tokens, vocabulary] and the cache after a forward over some ids."""
    result = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return result.logits[0], result.past_key_values


def stepwise(model, ids, cache=None):
    rows = []
    for token in ids:
        logits, cache = forward(model, [token], cache)
        rows.append(logits)
    return torch.cat(rows)


def generate(model, ids, count):
    """The greedy continuation of exactly count tokens, and the logits that chose them."""
    prompt = torch.tensor([ids])
    result = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count,
        return_dict_in_generate=True, output_logits=True)
    return result.sequences[0, len(ids):].tolist(), torch.cat(result.logits)


def run_prompt(model, capture, attention, ids, runs, count, prefix):
    """All runs of one prompt with one attention; tensors go to the capture's store."""
    store = capture.store
    only = None if attention == "eager" else {"attn_output", "q_rope", "k_rope", "v_proj"}
    if count and {"decode", "generate"} & set(runs):
        new_ids, logits = generate(model, ids, count)
        store[prefix + "new_ids"] = torch.tensor(new_ids)
        if "generate" in runs:
            store[prefix + "generate_logits"] = logits
    with capture.during(prefix if "prefill" in runs else None, only):
        logits, cache = forward(model, ids)
    if "prefill" in runs:
        store[prefix + "logits"] = logits
    if count and "decode" in runs:
        with capture.during(prefix + "decode.", only):
            first, cache = forward(model, new_ids[:1], cache)
        rest = [stepwise(model, new_ids[1:], cache)] if count > 1 else []
        store[prefix + "decode_logits"] = torch.cat([first] + rest)
    if "stepwise" in runs:
        store[prefix + "stepwise_logits"] = stepwise(model, ids)


def load(folder, dtype, attention, emulated):
    """emulated: sdpa is that of emulator.c, for hosts whose PyTorch adds otherwise there (host.py)."""
    if emulated and attention == "sdpa" and dtype == "bf16":
        import emulator  # registers the attention
        attention = "emulated-avx2" if oracle_host.order() == "torch-avx2" else "emulated-torch"
    if int4_model.quantization_of(folder):
        model = int4_model.load(folder, attention).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation=attention).eval()
    if model.model.rotary_emb.inv_freq.dtype != torch.float32:
        raise SystemExit("the inverse frequencies are not float32: this is another model")
    # end tokens do not end a reference, and no sampling setting of the checkpoint applies
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return model


# --- metadata --------------------------------------------------------------------


def model_digest(folder):
    """See the top of this file."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    places = []
    for name in names:
        with open(folder / name, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        places += [(key.encode(), folder / name, 8 + length + value["data_offsets"][0], value["data_offsets"])
                   for key, value in header.items() if key != "__metadata__"]
    digest = xxhash.xxh3_64()
    for name, path, at, (start, end) in sorted(places):
        digest.update(name)
        with open(path, "rb") as file:
            file.seek(at)
            left = end - start
            while left:
                part = file.read(min(left, 1 << 24))
                digest.update(part)
                left -= len(part)
    return digest.hexdigest()


def host():
    """CPU model and flags, versions and instruction sets."""
    facts = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    build = torch.__config__.show()

    def line(start):
        return next((text.strip(" -") for text in build.splitlines() if start in text), "none")

    return {
        "cpu_model": " ".join(facts.get(key, "") for key in ("vendor_id", "model name")) +
                     f" family {facts.get('cpu family')} model {facts.get('model')}",
        "cpu_flags": facts.get("flags", ""), "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": line("MKL-DNN"), "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "onednn_bf16": str(int(torch.ops.mkldnn._is_mkldnn_bf16_supported())),
        "mkl": line("Math Kernel Library"), "mkl_enable_instructions": os.environ.get("MKL_ENABLE_INSTRUCTIONS", ""),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy")}}


def parse_layers(text, count):
    """The set of layers named by a list such as 0,5-7."""
    if text is None:
        return set(range(count))
    layers = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        layers |= set(range(int(first), int(last or first) + 1))
    if not layers <= set(range(count)):
        raise SystemExit(f"--layers {text}: the model has layers 0 to {count - 1}")
    return layers


def read_prompts(args):
    """(text or None, ids, whether the tokenizer's special tokens are around them)."""
    tokenizer = None
    for line in args.prompts.read_text(encoding="utf-8").splitlines():
        prompt = json.loads(line)
        if "ids" in prompt:
            yield None, prompt["ids"], False
            continue
        tokenizer = tokenizer or Tokenizer.from_file(str(args.model / "tokenizer.json"))
        whole = prompt.get("special_tokens", False)
        yield prompt["text"], tokenizer.encode(prompt["text"], add_special_tokens=whole).ids, whole


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", help="whose components to keep, such as 0,5-7; default all")
    parser.add_argument("--decode", type=int, default=8, help="tokens to decode after each prompt")
    parser.add_argument("--attention", default="eager,sdpa")
    parser.add_argument("--runs", default=",".join(RUNS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sdpa", choices=["torch", "emulated"], default="torch")
    args = parser.parse_args()
    runs, attentions = args.runs.split(","), args.attention.split(",")
    if not set(runs) <= set(RUNS) or not set(attentions) <= {"eager", "sdpa"}:
        raise SystemExit(f"--runs is a list of {RUNS}, --attention of eager and sdpa")

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.dtype == "f64":
        patch_f64(modeling_of(args.model))
    tensors, prompts = {}, list(read_prompts(args))
    for number, (text, ids, _) in enumerate(prompts):
        tensors[f"prompt.{number}.ids"] = torch.tensor(ids)
        if text is not None:
            tensors[f"prompt.{number}.text"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    for attention in attentions:
        model = load(args.model, args.dtype, attention, args.sdpa == "emulated")
        capture = Capture(model, parse_layers(args.layers, model.config.num_hidden_layers))
        for number, (_, ids, _) in enumerate(prompts):
            prefix = f"prompt.{number}." + ("sdpa." if attention == "sdpa" else "")
            run_prompt(model, capture, attention, ids, runs, args.decode, prefix)
        capture.undo()
        tensors.update(capture.store)

    metadata = {
        "format": "choir-reference 1", "dtype": args.dtype, "attention": args.attention, "sdpa": args.sdpa, "runs": args.runs,
        "layers": ",".join(map(str, sorted(capture.layers))), "decode": str(args.decode), "threads": str(args.threads),
        "prompts": str(len(prompts)), "special_tokens": ",".join(str(k) for k, prompt in enumerate(prompts) if prompt[2]), "model_digest": model_digest(args.model),
        "config": (args.model / "config.json").read_text(encoding="utf-8"), **host()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, args.out, metadata=metadata)
    print(f"{args.out}: {len(tensors)} tensors, {sum(t.nbytes for t in tensors.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
