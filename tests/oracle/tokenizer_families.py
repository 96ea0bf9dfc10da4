#!/usr/bin/env python3
"""Tokenizers of Llama 3 and Mistral: makes directories as the hub's of their own files, and compares Choir's ids and
texts with those of `tokenizers` and of transformers' AutoTokenizer.

    python tokenizer_families.py llama3 TOKENIZER.MODEL DIR
    python tokenizer_families.py tekken TEKKEN.JSON DIR
    python tokenizer_families.py sentencepiece TOKENIZER.MODEL DIR [--form prepend|first|always|split]
    python tokenizer_families.py small DIR
    python tokenizer_families.py small-text DIR [--form ...]
    python tokenizer_families.py compare DIR [--text FILE]... [--random N] [--seed S] [--code-points]

TOKENIZER.MODEL of llama3 is llama3/tokenizer.model of the PyPI package llama-models; TEKKEN.JSON and the model of
sentencepiece are in the package mistral-common. No file of them is part of this repository: `small` makes a tokenizer of
Llama 3's kind from 600 tokens of its own, `small-text` one of SentencePiece's kind. Such a tokenizer.json marks spaces in its
normalizer (prepend) or by Metaspace: at the beginning of a text, of every part between added tokens, or splitting there.
Compared are ids with and without special tokens, ids with add_special_tokens (BOS in front), texts of ids, and
that a chat template's own BOS is the only one."""
import argparse
import base64
import ctypes
import json
import random
import sys
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.tokenization_utils_base import generate_merges

from tokenizer import Choir, Comparison, Fail, Ids, code_point_texts, compare_decoding, random_bytes, random_text, special_texts

NAMED = {0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 3: "reserved_special_token_1",
         4: "finetune_right_pad_id", 5: "reserved_special_token_2", 6: "start_header_id", 7: "end_header_id",
         8: "eom_id", 9: "eot_id", 10: "python_tag"}
TEMPLATE = ("{{- bos_token }}{% for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
            "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}")


CHAT = ("{{- bos_token }}{% for message in messages %}{{- '[INST] ' + message['content'] | trim + '[/INST]' }}"
        "{% endfor %}")


def read_ranks(path):
    lines = Path(path).read_bytes().split(b"\n")
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def special_names(n):
    return [f"<|{NAMED.get(i, f'reserved_special_token_{i - 8}')}|>" for i in range(n)]


def write(tokenizer, names, folder, model_type="llama", bos=0, template=TEMPLATE):
    """tokenizer.json and tokenizer_config.json as directories of the hub have them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    first = names[bos]
    around = processors.TemplateProcessing(single=f"{first}:0 $A:0", pair=f"{first}:0 $A:0 {first}:1 $B:1",
                                           special_tokens=[(first, tokenizer.token_to_id(first))])
    tokenizer.post_processor = around if model_type == "mistral" else processors.Sequence(
        [processors.ByteLevel(trim_offsets=False, use_regex=True), around])
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {"added_tokens_decoder": {str(tokenizer.token_to_id(name)): {"content": name} | flags for name in names},
              "bos_token": first, "chat_template": template, "clean_up_tokenization_spaces": True,
              "eos_token": names[bos + 1], "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
              "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps(
        {"model_type": model_type, "architectures": [f"{model_type.capitalize()}ForCausalLM"]}) + "\n")


def tekken(args):
    """As transformers converts it; what it adds (BOS, a template) is as Nemo's directory has it."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from transformers.integrations.mistral.tokenizer import MistralConverter
    described = json.loads(Path(args.paths[0]).read_text())
    described.setdefault("special_tokens", [  # older files do not name them
        {"rank": t["rank"], "token_str": str(getattr(t["token_str"], "value", t["token_str"]))}
        for t in Tekkenizer.DEPRECATED_SPECIAL_TOKENS])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tekken.json"
        path.write_text(json.dumps(described))
        converter = MistralConverter(str(path))
    write(converter.converted(), [t.content for t in converter.additional_special_tokens], args.paths[1], "mistral", 1, CHAT)


def mark_spaces(tokenizer, form):
    if form == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement="\u2581", prepend_scheme="always" if form == "split" else form, split=form == "split")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(content=" ", left=1)])


def sentencepiece(args):
    """As transformers' converter of such a model, and the hub's directories of Mistral 7B."""
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(args.paths[0])
    vocabulary = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    tokenizer = Tokenizer(models.BPE(vocabulary, generate_merges(vocabulary), unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    mark_spaces(tokenizer, args.form)
    names = [model.id_to_piece(i) for i in range(len(vocabulary)) if model.is_control(i) or model.is_unknown(i)]
    write(tokenizer, names, args.paths[1], "mistral", 1, CHAT)


def small_text(args):
    """Characters of some scripts and words of them; all others fall back to bytes."""
    rng = random.Random(args.seed)
    texts = ["\u2581".join(["the", "Hello", "don't", "na\u00efve", "\u00c5ngstr\u00f6m", "\u4e2d\u6587", "x=y", "12", "3.14"])] * 3
    texts += ["\u2581" + random_text(rng, ["x"]).replace(" ", "\u2581").replace("\0", "") for _ in range(120)]
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=620, limit_alphabet=180, show_progress=False))
    whole = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += [t for t in whole["vocab"] if t not in tokens] + ["[INST]", "[/INST]"]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m) for m in whole["merges"]],
                                     unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    mark_spaces(tokenizer, args.form)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=True), AddedToken("<l>", lstrip=True, rstrip=True, normalized=False)])
    write(tokenizer, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], args.paths[0], "mistral", 1, CHAT)


def llama3(args):
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
    specials += ["<|endoftext|>", "<0x41>", "\u2581", " \u2581"]
    c = Comparison(folder, ours, theirs)
    for name in args.text:
        whole = Path(name).read_bytes()
        c.check(Path(name).name + ", each line", whole.splitlines(keepends=True))
        c.check(Path(name).name + ", whole", [whole])
    texts = [random_bytes(rng, specials) for _ in range(args.random)]
    c.check("random texts", texts, True)
    c.check("added tokens in odd places", special_texts(specials))
    if args.code_points:
        c.check("every code point", code_point_texts())
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
    what = {"llama3": llama3, "tekken": tekken, "sentencepiece": sentencepiece, "small": small, "small-text": small_text,
            "compare": compare}
    parser.add_argument("what", choices=what)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--random", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--form", choices=["prepend", "first", "always", "split"], default="prepend")
    parser.add_argument("--code-points", action="store_true", help="also every code point (slow)")
    args = parser.parse_args()
    return what[args.what](args)


if __name__ == "__main__":
    sys.exit(main())
