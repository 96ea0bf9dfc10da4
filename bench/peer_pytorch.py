"""Prefill and decode speed of Hugging Face transformers on PyTorch, random weights in a Qwen2 shape.

    peer_pytorch.py --config CONFIG.json [--dtype bf16|f32] [--attention sdpa|eager] [--threads N]
                    [--prompt-tokens N] [--gen-tokens N] [--warmup N] [--repeat N]

Prints one line of JSON for each repetition: prefill_tokens_per_s and decode_tokens_per_s, and what ran.
One repetition is a prefill of the prompt into an empty cache, with logits of its last token, and then
--gen-tokens steps of one token each; tokens are drawn beforehand, so no sampling is timed. Every
repetition, warm-up too, is the whole of that. Needs torch and transformers.
"""

import argparse
import json
import sys
import time

BLOCK_VALUES = 10_000_019


def parse():
    parser = argparse.ArgumentParser(description="Times Hugging Face transformers on a Qwen2 shape.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=24)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    for name in ("threads", "prompt_tokens", "gen_tokens", "repeat"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected a whole number from 1")
    return args


def fill(parameter, block):
    """Random values from one block: drawing a billion numbers would take longer than the measurement."""
    flat = parameter.data.view(-1)
    for begin in range(0, flat.numel(), block.numel()):
        part = flat[begin:begin + block.numel()]
        part.copy_(block[:part.numel()])


def make_model(torch, transformers, args):
    """The model in args.dtype; embedding and lm_head share memory where tied."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # transformers 4
        from transformers.modeling_utils import no_init_weights
    with open(args.config, encoding="utf-8") as file:
        shape = json.load(file)
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    # The type that the config names would win over the default one.
    shape.pop("torch_dtype", None)
    config = transformers.Qwen2Config(**{**shape, "dtype": dtype})
    torch.set_default_dtype(dtype)
    with no_init_weights():
        model = transformers.Qwen2ForCausalLM._from_config(
            config, dtype=dtype, attn_implementation=args.attention)
    torch.set_default_dtype(torch.float32)
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if parameter.dtype != dtype:
            sys.exit(f"peer_pytorch: {name}: expected {dtype}, transformers made {parameter.dtype}")
    block = torch.empty(BLOCK_VALUES, dtype=dtype).uniform_(-0.05, 0.05)
    for parameter in model.parameters():
        fill(parameter, block)
    return model.eval()


def measure(torch, model, prompt, tokens):
    """(prefill, decode) in tokens a second."""
    start = time.perf_counter()
    out = model(prompt, use_cache=True, logits_to_keep=1)
    prefilled = time.perf_counter()
    for token in tokens:
        model(token, past_key_values=out.past_key_values, use_cache=True)
    return prompt.numel() / (prefilled - start), len(tokens) / (time.perf_counter() - prefilled)


def main():
    args = parse()
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"peer_pytorch: {sys.executable}: {error}; it needs torch and transformers")
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    try:
        model = make_model(torch, transformers, args)
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"peer_pytorch: {args.config}: {error}")
    vocab = model.config.vocab_size
    prompt = torch.randint(0, vocab, (1, args.prompt_tokens))
    tokens = torch.randint(0, vocab, (args.gen_tokens, 1, 1)).unbind()
    with torch.inference_mode():
        for repetition in range(args.warmup + args.repeat):
            prefill, decode = measure(torch, model, prompt, tokens)
            if repetition >= args.warmup:
                print(json.dumps({
                    "engine": "transformers",
                    "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
                    "dtype": args.dtype, "attention": args.attention, "threads": torch.get_num_threads(),
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode}), flush=True)


if __name__ == "__main__":
    main()
