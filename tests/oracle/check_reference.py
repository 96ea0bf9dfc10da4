"""Checks the layout and the mathematics of a float64 reference against numpy.

    check_reference.py --model DIR --reference REF.safetensors

Every component of REF (made by reference.py --dtype f64) is recomputed in numpy from the
components that it is made of, and the logits also from the tokens alone. The largest
difference, relative to the largest value of the component, must stay below 1e-12.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

LIMIT = 1e-12


class Model:
    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                self.weights.update({name: file.get_tensor(name).double().numpy() for name in file.keys()})
        config = self.config
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.dim = config.get("head_dim") or config["hidden_size"] // self.heads
        exponent = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        theta = config["rope_theta"]
        self.inverse = np.float32(1) / np.float32(np.float64(theta) ** exponent)

    def linear(self, name, x):
        y = x @ self.weights[f"model.{name}.weight"].T
        return y + self.weights.get(f"model.{name}.bias", 0.0)

    def norm(self, name, x):
        mean = (x * x).mean(-1, keepdims=True)
        return self.weights[f"model.{name}.weight"] * x / np.sqrt(mean + self.config["rms_norm_eps"])

    def rotate(self, x, heads):
        """x: [S, heads * d]."""
        rows = x.reshape(len(x), heads, self.dim)
        angle = np.arange(len(x))[:, None] * self.inverse.astype(np.float64)
        cosine, sine = (np.concatenate([f(angle)] * 2, -1)[:, None] for f in (np.cos, np.sin))
        half = self.dim // 2
        other = np.concatenate([-rows[..., half:], rows[..., :half]], -1)
        return (rows * cosine + other * sine).reshape(x.shape)

    def split(self, x, heads):
        """[S, heads * d] to [query heads, S, d], with KV heads repeated."""
        x = x.reshape(len(x), heads, self.dim).transpose(1, 0, 2)
        return x.repeat(self.heads // heads, 0)

    def attention_weights(self, q, k):
        scores = self.split(q, self.heads) @ self.split(k, self.kv_heads).transpose(0, 2, 1) * self.dim ** -0.5
        scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def layer(self, number, get):
        """Yields (name, value) of a layer's components in order; get(name) is the value
        that the later ones use: the reference's, or the one just computed."""
        at = f"layers.{number}."
        yield "normalized_input", self.norm(at + "input_layernorm", get("input"))
        for name in ("q_proj", "k_proj", "v_proj"):
            yield name, self.linear(f"{at}self_attn.{name}", get("normalized_input"))
        yield "q_rope", self.rotate(get("q_proj"), self.heads)
        yield "k_rope", self.rotate(get("k_proj"), self.kv_heads)
        yield "attn_weights", self.attention_weights(get("q_rope"), get("k_rope"))
        output = get("attn_weights") @ self.split(get("v_proj"), self.kv_heads)
        yield "attn_output", output.transpose(1, 0, 2).reshape(output.shape[1], -1)
        yield "o_proj", self.linear(at + "self_attn.o_proj", get("attn_output"))
        yield "hidden_after_attn", get("input") + get("o_proj")
        yield "normalized_after_attn", self.norm(at + "post_attention_layernorm", get("hidden_after_attn"))
        yield "gate_proj", self.linear(at + "mlp.gate_proj", get("normalized_after_attn"))
        yield "up_proj", self.linear(at + "mlp.up_proj", get("normalized_after_attn"))
        yield "mlp_activation", get("gate_proj") / (1 + np.exp(-get("gate_proj"))) * get("up_proj")
        yield "mlp_output", self.linear(at + "mlp.down_proj", get("mlp_activation"))
        yield "layer_output", get("hidden_after_attn") + get("mlp_output")

    def logits(self, x):
        tied = self.config.get("tie_word_embeddings", False)
        return x @ self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def check_prompt(model, reference, prefix, worst):
    """Compares one prompt's components, each from the reference's own, and the whole chain."""
    def compare(name, value):
        theirs = reference.get_tensor(prefix + name).numpy()
        assert theirs.shape == value.shape, f"{prefix}{name}: {theirs.shape}, expected {value.shape}"
        short = name.split(".")[-1]
        worst[short] = max(worst.get(short, 0.0), np.abs(theirs - value).max() / np.abs(value).max())

    ids = reference.get_tensor(prefix + "ids").numpy()
    chain = model.weights["model.embed_tokens.weight"][ids]
    compare("embedding_output", chain)
    own = reference.get_tensor(prefix + "embedding_output").numpy()
    for number in range(model.config["num_hidden_layers"]):
        at = f"layer.{number}."
        inputs = {"input": own}
        for name, value in model.layer(number, lambda name: inputs[name]):
            compare(at + name, value)
            inputs[name] = reference.get_tensor(prefix + at + name).numpy()
        own, values = inputs["layer_output"], {"input": chain}
        for name, value in model.layer(number, lambda name: values[name]):
            values[name] = value
        chain = values["layer_output"]
    compare("final_norm", model.norm("norm", own))
    compare("logits", model.logits(reference.get_tensor(prefix + "final_norm").numpy()))
    logits = model.logits(model.norm("norm", chain))
    for name in ("logits", "stepwise_logits", "sdpa.logits", "sdpa.stepwise_logits"):
        difference = np.abs(reference.get_tensor(prefix + name).numpy() - logits).max() / np.abs(logits).max()
        worst[f"{name} from the tokens"] = max(worst.get(f"{name} from the tokens", 0.0), difference)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    args = parser.parse_args()
    model, worst = Model(args.model), {}
    with safe_open(args.reference, "pt") as reference:
        for number in range(int(reference.metadata()["prompts"])):
            check_prompt(model, reference, f"prompt.{number}.", worst)
    for name, value in worst.items():
        print(f"{name:40} {value:9.2e} {'' if value < LIMIT else 'FAILED'}")
    sys.exit(any(value >= LIMIT for value in worst.values()))


if __name__ == "__main__":
    main()
