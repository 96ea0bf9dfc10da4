#!/usr/bin/env python3
"""Added tokens of model directories whose files say different things: compares Choir's ids with those of
transformers' AutoTokenizer.

    python tokenizer_directories.py golden OUT.jsonl     (makes tests/golden/tokenizer/directories.jsonl)
    python tokenizer_directories.py compare DIR          (another tokenizer's files in the same variants)

A line of the golden file: "base", a folder of golden/tokenizer, else the demo model's; "name"; "remove", files of the demo model that are left out; "files", changes of
others by the path of a value ("a/0/b"; "" is the whole file, null with "delete" removes the key); "cases",
[text, ids, ids with add_special_tokens, text of the ids without special tokens]; or "refused": true where
transformers does not load it."""
import argparse
import json
import os
import shutil
import sys
import tempfile

from tokenizer import ROOT, Choir

DELETE = {"delete": True}
DEMO = os.path.join(ROOT, "configs/demo")
LLAMA = os.path.join(ROOT, "tests/golden/tokenizer/llama3-small")  # another class, without vocab.json
TEXT = os.path.join(ROOT, "tests/golden/tokenizer/mistral-small")  # tokens that are texts


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False,
            "special": False} | flags


def typed(content, **flags):
    return {"__type": "AddedToken"} | token(content, **flags)


def variants(first):
    """first: the id behind the vocabulary and the added tokens of the directory."""
    config, listed = "tokenizer_config.json", "added_tokens_decoder/"
    no_list = {"added_tokens_decoder": DELETE}

    def entry(i, content, **flags):
        return {f"{listed}{first + i}": token(content, **flags)}

    def in_json(*tokens):
        return {"tokenizer.json": {f"added_tokens/{'+' * (i + 1)}": {"id": first + i} | t
                                   for i, t in enumerate(tokens)}}

    yield "as it is", [], {}
    yield "listed, special", [], {config: entry(0, "<x>", special=True)}
    yield "listed, not special", [], {config: entry(0, "<x>")}
    for flag in ("lstrip", "rstrip", "single_word", "normalized"):
        yield f"listed, {flag}", [], {config: entry(0, "<x>", **{flag: True}) | entry(1, "yy", **{flag: True})}
        yield f"listed, special, {flag}", [], {config: entry(0, "<x>", special=True, **{flag: True})}
    yield "listed, all flags", [], {config: entry(0, "yy", lstrip=True, rstrip=True, single_word=True,
                                                  normalized=True)}
    yield "flags that are not given", [], {config: {f"{listed}{first}": {"content": "<e\u0301>"},
                                                    f"{listed}{first + 1}": {"content": "<x>", "special": True}}}
    yield "normalized contents", [], {config: entry(0, "<e\u0301>", normalized=True) | entry(1, "<o\u0301>")}
    yield "single word", [], {config: entry(0, "\u00e9", single_word=True) | entry(1, "12", single_word=True)}
    yield "an id with a gap", [], {config: entry(5, "<x>")}
    yield "ids in another order", [], {config: entry(1, "<x>") | entry(0, "<y>")}
    yield "a token of the vocabulary", [], {config: entry(0, "the") | entry(1, "\u0120the")}
    yield "flags of a named token", [], {config: {"added_tokens_decoder/<end>/lstrip": True}}
    yield "flags of a special token without a name", [], {config: {
        "added_tokens_decoder/<end>/lstrip": True, "eos_token": "<|endoftext|>",
        "additional_special_tokens": []}}
    yield "only in tokenizer.json", [], in_json(token("<x>"))
    yield "flags in tokenizer.json and the list", [], {config: entry(0, "<x>", rstrip=True)} | in_json(
        token("<x>", lstrip=True))
    yield "tokenizer.json without a list", [], {config: no_list} | in_json(token("<x>", rstrip=True))
    yield "no tokenizer_config.json", ["tokenizer_config.json"], in_json(token("<x>"))
    yield "twice in tokenizer.json", [], {config: no_list} | in_json(token("<x>"), token("<x>", lstrip=True))
    yield "an empty content", [], {config: no_list} | in_json(token(""), token("<x>"))
    yield "extra tokens", [], {config: {"extra_special_tokens": ["<x>", "<y>"]}}
    yield "additional tokens", [], {config: {"additional_special_tokens": ["<y>", "<x>"]}}
    yield "extra and additional tokens", [], {config: {"extra_special_tokens": ["<x>"],
                                                       "additional_special_tokens": ["<y>"]}}
    yield "extra tokens by name", [], {config: {"extra_special_tokens": {"image_token": "<x>"}}}
    yield "an extra token as an object", [], {config: {"extra_special_tokens": [typed("<x>", lstrip=True)]}}
    yield "a name of the user's own", [], {config: {"image_token": "<y>"}}
    yield "bos as a string", [], {config: {"bos_token": "<x>"}}
    yield "bos as an object", [], {config: {"bos_token": typed("<x>", lstrip=True)}}
    yield "bos that is listed as not special", [], {config: {"bos_token": "<x>"} | entry(0, "<x>", rstrip=True)}
    yield "pad that is not there", [], {config: {"pad_token": "<pad>", "unk_token": "<pad>"}}
    yield "no names", [], {config: {"eos_token": DELETE, "pad_token": DELETE, "unk_token": DELETE}}
    both = {"bos_token": token("<x>", lstrip=True), "extra_special_tokens": ["<y>"]}
    yield "special_tokens_map.json beside a list", [], {"special_tokens_map.json": {"": both}}
    yield "special_tokens_map.json without a list", [], {config: no_list, "special_tokens_map.json": {"": both}}
    yield "older special_tokens_map.json", [], {
        config: no_list | {"additional_special_tokens": DELETE},
        "special_tokens_map.json": {"": {"additional_special_tokens": ["<y>"], "image_token": "<x>"}}}
    yield "added_tokens.json beside a list", [], {"added_tokens.json": {"": {"<x>": first}}}
    yield "added_tokens.json without a list", [], {config: no_list | {"bos_token": "<y>"},
                                                   "added_tokens.json": {"": {"<x>": first, "<y>": first + 1}}}
    yield "split_special_tokens", [], {config: {"split_special_tokens": True} | entry(0, "<x>")}
    vocab = ["tokenizer.json"]
    yield "vocab.json", vocab, {config: entry(0, "<x>", special=True)}
    yield "vocab.json alone", [*vocab, config], {}
    yield "vocab.json without a list", vocab, {config: no_list}
    yield "vocab.json and older lists", vocab, {config: no_list, "added_tokens.json": {
        "": {"<x>": first, "<|im_end|>": first - 1, "<|endoftext|>": first - 3, "<|im_start|>": first - 2}}}
    yield "vocab.json, bos and eos around", vocab, {config: {"add_bos_token": True, "add_eos_token": True,
                                                             "bos_token": "<x>"}}
    yield "another class", [], {config: {"tokenizer_class": "LlamaTokenizerFast"} | entry(0, "<x>")}
    template = {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                                                                      {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [first - back], "tokens": [name]}
                           for name, back in (("<|im_start|>", 2), ("<|im_end|>", 1))}}
    yield "tokens around a text", [], {"tokenizer.json": {"post_processor": template}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    yield "tokens around a text, in a sequence", [], {"tokenizer.json": {"post_processor": {
        "type": "Sequence", "processors": [byte_level, template]}}}


def text_variants():
    """Of tokens that are texts: how spaces are marked and go, and LlamaTokenizer's own rules."""
    def marks(scheme, split=False):
        return {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581",
                                                      "prepend_scheme": scheme, "split": split}}
    for scheme in ("never", "first", "always"):
        yield f"Metaspace, {scheme}", [], {"tokenizer.json": marks(scheme)}
    yield "Metaspace that splits", [], {"tokenizer.json": marks("always", True)}
    yield "Metaspace of older files", [], {"tokenizer.json": {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}}}
    yield "Metaspace in a sequence", [], {"tokenizer.json": {"normalizer": None, "pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [marks("first")["pre_tokenizer"]]}}}
    yield "Metaspace behind a normalizer", [], {"tokenizer.json": {"pre_tokenizer": marks("first")["pre_tokenizer"]}}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    yield "replaced only", [], {"tokenizer.json": {"normalizer": replace}}
    yield "NFC before", [], {"tokenizer.json": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFC"}, replace, {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": "yy"},
                                                                         "content": ""}]}}}
    decoders = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    yield "no strip", [], {"tokenizer.json": {"decoder/decoders": decoders}}
    yield "three spaces go", [], {"tokenizer.json": {"decoder/decoders": [
        *decoders, {"type": "Strip", "content": " ", "start": 3, "stop": 0}]}}
    yield "ignore_merges", [], {"tokenizer.json": {"model/ignore_merges": True}}
    llama, config = {"": {"model_type": "llama"}}, "tokenizer_config.json"
    for name, keys in (("", {}), (", legacy", {"legacy": True}), (", no prefix space", {"add_prefix_space": False}),
                       (", no names", {"bos_token": DELETE, "eos_token": DELETE, "added_tokens_decoder": DELETE})):
        yield f"LlamaTokenizer{name}", [], {"config.json": llama, config: {"tokenizer_class": "LlamaTokenizer"} | keys}
    yield "LlamaTokenizer of Mistral", [], {config: {"tokenizer_class": "LlamaTokenizer", "legacy": True}}
    yield "the general class of a Llama", [], {"config.json": llama}


TEXTS = ["a <x> b<x>c <y>  yy  ayy yy1 (yy)_yy yy\u0301", "<|im_start|>user\nHi <|im_end|> \n<pad><x><x>the then",
         "<\u00e9> <e\u0301> <o\u0301>\u3000<\u00f3> \u00e9 \u00e9a \u00e9- e\u0301 12 a12 12. <|endoftext|>", ""]
TEXT_TEXTS = ["     five spaces", " <s> \u2581a", "\U0001f600\u4e2d\u0001 <0x41>"]


def set_path(value, path, new):
    if path == "":
        return new
    key, _, rest = path.partition("/")
    if isinstance(value, list):
        if set(key) == {"+"}:
            value.append(new)
        else:
            value[int(key)] = set_path(value[int(key)], rest, new) if rest else new
    elif not rest and new == DELETE:
        value.pop(key, None)
    else:
        value[key] = set_path(value.get(key, {}), rest, new) if rest else new
    return value


def make(base, folder, remove, files, end):
    for name in ("config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        if name not in remove:
            shutil.copyfile(os.path.join(base, name) if os.path.exists(os.path.join(base, name))
                            else os.path.join(DEMO, name), os.path.join(folder, name))
    for name, changes in files.items():
        path, value = os.path.join(folder, name), {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                value = json.load(file)
        for key, new in changes.items():
            value = set_path(value, key.replace("<end>", end), new)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)


def cases_of(folder, texts):
    from transformers import AutoTokenizer
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in texts:
        ids = theirs.encode(text, add_special_tokens=False)
        yield text, ids, theirs.encode(text), theirs.decode(ids, skip_special_tokens=True)


def run_base(base):
    """Lines of a base's variants, and how many cases differ."""
    with open(os.path.join(base, "tokenizer_config.json"), encoding="utf-8") as file:
        ids = {int(i): t["content"] for i, t in json.load(file)["added_tokens_decoder"].items()}
    first = max(ids) + 1
    end = next(str(i) for i, content in ids.items() if content in ("<|im_end|>", "<|eot_id|>", "[/INST]"))
    lines, bad = [], 0
    for name, remove, files in [*variants(first), *(text_variants() if base == TEXT else [])]:
        if base != DEMO and "vocab.json" in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            make(base, folder, remove, files, end)
            cases = [list(case) for case in cases_of(folder, TEXTS + (TEXT_TEXTS if base == TEXT else []))]
            ours = Choir(folder)
            for text, expected, _, skipped in cases:
                found = ours.encode(text.encode())
                if found != expected or ours.decode(found, True) != skipped:
                    bad += 1
                    print(f"{name}: {text!r}\n    theirs {expected} {skipped!r}\n    ours   {found}")
            ours.close()
        files = {f: {k.replace("<end>", end): v for k, v in changes.items()} for f, changes in files.items()}
        lines.append(({} if base == DEMO else {"base": os.path.basename(base)}) | {"name": name, "remove": remove, "files": files, "cases": cases})
    return lines, bad


def run(args):
    results = [run_base(base) for base in ([os.path.abspath(args.path)] if args.what == "compare" else [DEMO, LLAMA, TEXT])]
    lines, bad = [line for result in results for line in result[0]], sum(result[1] for result in results)
    print(f"{len(lines)} directories, {bad} mismatches")
    if args.what == "golden":
        with open(args.path, "w", encoding="utf-8") as out:
            for line in lines:
                out.write(json.dumps(line) + "\n")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["golden", "compare"])
    parser.add_argument("path")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
