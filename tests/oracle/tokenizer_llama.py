#!/usr/bin/env python3
"""Llama 3's tokenizer: makes a directory as the hub's of its tokenizer.model, and compares Choir's ids and texts with
those of transformers' AutoTokenizer.

    python tokenizer_llama.py make TOKENIZER.MODEL DIR
    python tokenizer_llama.py small DIR
    python tokenizer_llama.py compare DIR [--text FILE]... [--random N] [--seed S]

TOKENIZER.MODEL is llama3/tokenizer.model of the PyPI package llama-models; no file of it is part of this repository.
`small` makes a tokenizer of the same kind from 600 tokens of its own. Compared are ids with and without special tokens,
ids with add_special_tokens (BOS in front), texts of ids, and that a chat template's own BOS is the only one."""
import argparse
import base64
import ctypes
import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from tokenizer import Choir, Comparison, Fail, Ids, compare_decoding, random_bytes, random_text, special_texts

NAMED = {0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 3: "reserved_special_token_1",
         4: "finetune_right_pad_id", 5: "reserved_special_token_2", 6: "start_header_id", 7: "end_header_id",
         8: "eom_id", 9: "eot_id", 10: "python_tag"}
TEMPLATE = ("{{- bos_token }}{% for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
            "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}")


def read_ranks(path):
    lines = Path(path).read_bytes().split(b"\n")
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def special_names(n):
    return [f"<|{NAMED.get(i, f'reserved_special_token_{i - 8}')}|>" for i in range(n)]


def write(tokenizer, names, folder):
    """tokenizer.json and tokenizer_config.json as Meta's directories have them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    bos = (names[0], tokenizer.token_to_id(names[0]))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False, use_regex=True),
        processors.TemplateProcessing(single=f"{names[0]}:0 $A:0", pair=f"{names[0]}:0 $A:0 {names[0]}:1 $B:1",
                                      special_tokens=[bos])])
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {"added_tokens_decoder": {str(tokenizer.token_to_id(name)): {"content": name} | flags for name in names},
              "bos_token": names[0], "chat_template": TEMPLATE, "clean_up_tokenization_spaces": True,
              "eos_token": names[1], "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
              "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}\n')


def make(args):
    TikTokenConverter.load_tiktoken_bpe = staticmethod(read_ranks)
    write(TikTokenConverter(args.paths[0]).converted(), special_names(256), args.paths[1])


def small(args):
    """Whole words that the merges do not lead to, as ignore_merges makes them matter."""
    rng = random.Random(args.seed)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(TikTokenConverter().pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([random_text(rng, ["x"]) for _ in range(300)], trainers.BpeTrainer(
        vocab_size=580, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    whole = json.loads(tokenizer.to_str())
    vocabulary = whole["model"]["vocab"]
    for word in ("Hello", "\u0120Hello", "123", "\u0120\u00c3\u0127ngstr\u00c3\u00b6m", "don", "naive", "\u0120..."):
        vocabulary.setdefault(word, len(vocabulary))
    write(Tokenizer.from_str(json.dumps(whole)), special_names(12), args.paths[0])


def encode_whole(ours, data):
    fail, ids = Fail(), Ids()
    status = ours.library.tokenizer_encode_whole(ours.handle, data, ctypes.c_size_t(len(data)), ctypes.byref(ids),
                                                 ctypes.byref(fail))
    assert status == 0, fail.message
    found = ids.ids[:ids.count]
    ours.library.tokenizer_ids_clear(ctypes.byref(ids))
    return found


def compare(args):
    folder = args.paths[0]
    auto, ours, rng = AutoTokenizer.from_pretrained(folder), Choir(folder), random.Random(args.seed)
    theirs = auto.backend_tokenizer
    specials = [t["content"] for t in json.loads(Path(folder, "tokenizer.json").read_text())["added_tokens"]][:12]
    specials += ["<|endoftext|>"]
    c = Comparison(folder, ours, theirs)
    for name in args.text:
        whole = Path(name).read_bytes()
        c.check(Path(name).name + ", each line", whole.splitlines(keepends=True))
        c.check(Path(name).name + ", whole", [whole])
    texts = [random_bytes(rng, specials) for _ in range(args.random)]
    c.check("random texts", texts, True)
    c.check("added tokens in odd places", special_texts(specials))
    compare_decoding(c, rng, theirs, 2000)
    bad = 0
    for data in texts[:2000]:
        text = data.decode("utf-8", "replace")
        ids = auto(text)["input_ids"]
        bad += encode_whole(ours, data) != ids or ours.decode(ids, True) != auto.decode(ids, skip_special_tokens=True)
    print(f"{folder}: transformers, BOS in front and text of ids: 2000 texts, {bad} mismatches")
    chat = [{"role": "user", "content": "Hello 1234"}]
    ids = auto.apply_chat_template(chat, return_dict=False)
    found = ours.encode(auto.apply_chat_template(chat, tokenize=False).encode())
    one = found == ids and found.count(auto.bos_token_id) == 1
    print(f"{folder}: a chat's ids {'are equal, with one BOS' if one else 'DIFFER'}")
    return 1 if c.mismatches or bad or not one else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "small", "compare"])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--random", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    return {"make": make, "small": small, "compare": compare}[args.what](args)


if __name__ == "__main__":
    sys.exit(main())
