#!/usr/bin/env python3
"""Compares Choir's tokenizer with Hugging Face `tokenizers`, id by id.

    python tokenizer.py compare DIR... [--text FILE]... [--random N] [--seed S]
    python tokenizer.py speed DIR --text FILE
    python tokenizer.py golden DIR OUT.jsonl     (makes tests/golden/tokenizer/*.jsonl)
    python tokenizer.py patterns                 (regular expressions other than Qwen2's)

A DIR holds tokenizer.json, vocab.json, merges.txt and tokenizer_config.json, and both forms are compared.
Choir's code is compiled into a shared library in a temporary directory and called from here."""
import argparse
import ctypes
import glob
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Fail(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("message", ctypes.c_char * 1024)]


class Ids(ctypes.Structure):
    _fields_ = [("ids", ctypes.POINTER(ctypes.c_int32)), ("count", ctypes.c_size_t),
                ("capacity", ctypes.c_size_t)]


class Buffer(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


class Detokenizer(ctypes.Structure):
    _fields_ = [("pending", ctypes.c_ubyte * 8), ("n_pending", ctypes.c_size_t), ("run", Buffer),
                ("n_stripped", ctypes.c_size_t), ("began", ctypes.c_bool)]


def build_library(folder):
    """libchoirtext.so of engine/text and what it needs of engine/base."""
    sources = sorted(glob.glob(os.path.join(ROOT, "engine/base/*.c")) +
                     glob.glob(os.path.join(ROOT, "engine/text/**/*.c"), recursive=True))
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "jansson", "libpcre2-8", "libutf8proc"],
                           check=True, capture_output=True, text=True).stdout.split()
    path = os.path.join(folder, "libchoirtext.so")
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-O3", "-D_GNU_SOURCE", "-fPIC", "-shared",
                    "-I" + ROOT, "-o", path, *sources, *flags], check=True)
    return path


class Choir:
    """A tokenizer of ours."""
    library = None

    def __init__(self, directory):
        if Choir.library is None:
            with tempfile.TemporaryDirectory() as folder:
                Choir.library = ctypes.CDLL(build_library(folder))
            Choir.library.tokenizer_size.restype = ctypes.c_size_t
        self.handle = ctypes.c_void_p()
        fail = Fail()
        if self.library.tokenizer_open(ctypes.byref(self.handle), directory.encode(),
                                       ctypes.byref(fail)) != 0:
            raise RuntimeError(fail.message.decode("utf-8", "replace"))

    def close(self):
        self.library.tokenizer_close(self.handle)

    def encode(self, data, special=True):
        fail, ids = Fail(), Ids()
        status = self.library.tokenizer_encode(self.handle, data, ctypes.c_size_t(len(data)),
                                               ctypes.c_bool(special), ctypes.byref(ids),
                                               ctypes.byref(fail))
        if status != 0:
            raise RuntimeError(fail.message.decode("utf-8", "replace"))
        out = ids.ids[:ids.count]
        self.library.tokenizer_ids_clear(ctypes.byref(ids))
        return out

    def decode(self, ids, skip_special):
        """The text, checked to be the same when streamed, with only whole characters on the way."""
        fail, stream, buffer = Fail(), Detokenizer(), Buffer()
        pieces = []
        for i in ids:
            self.library.detokenizer_push(ctypes.byref(stream), self.handle, ctypes.c_int32(i),
                                          ctypes.c_bool(skip_special), ctypes.byref(buffer),
                                          ctypes.byref(fail))
            if buffer.bytes:
                pieces.append(ctypes.string_at(buffer.text, buffer.bytes).decode("utf-8"))
            buffer.bytes = 0
        self.library.detokenizer_flush(ctypes.byref(stream), self.handle, ctypes.byref(buffer), ctypes.byref(fail))
        self.library.detokenizer_clear(ctypes.byref(stream))
        if buffer.bytes:
            pieces.append(ctypes.string_at(buffer.text, buffer.bytes).decode("utf-8"))
        self.library.text_buffer_clear(ctypes.byref(buffer))
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        array = (ctypes.c_int32 * max(1, len(ids)))(*ids)
        status = self.library.tokenizer_decode(self.handle, array, ctypes.c_size_t(len(ids)),
                                               ctypes.c_bool(skip_special), ctypes.byref(text),
                                               ctypes.byref(size), ctypes.byref(fail))
        if status != 0:
            raise RuntimeError(fail.message.decode("utf-8", "replace"))
        whole = ctypes.string_at(text, size.value).decode("utf-8")
        ctypes.CDLL(None).free(text)
        assert whole == "".join(pieces), ids
        return whole


RANGES = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF),
          (0xE00, 0xEFF), (0x1100, 0x11FF), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x1E00, 0x1FFF),
          (0x2000, 0x206F), (0x20D0, 0x2BFF), (0x3000, 0x30FF), (0x3131, 0x318E), (0x4E00, 0x9FFF),
          (0xA640, 0xA8FF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFE2F),
          (0xFF00, 0xFFEF), (0x10000, 0x11FFF), (0x16100, 0x16FFF), (0x1CC00, 0x1DFFF),
          (0x1E000, 0x1E95F), (0x1F000, 0x1FAFF), (0x20000, 0x323AF), (0xE0000, 0xE01EF)]
SPACES = [" ", "  ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "\u00a0", "\u0085", "\u1680", "\u180e",
          "\u2003", "\u2028", "\u202f", "\u3000", "\u200b", "\ufeff", "\x0b", "\x0c", "\x1c", "\x00"]
WORDS = ["the", "Hello", "don't", "WE'LL", "I'M", "'s", "'ſ", "'T", "''d", "12", "1234567890", "3.14",
         "x=y", "//", "...", "!?", "--", "naïve", "Ångström", "Å", "a\u0300\u0323", "각", "ᄀ",
         "ᅡ", "ᆨ", "क्षि", "นี้", "👩‍👩‍👧", "🇩🇪", "1️⃣", "ﷺ", "ǆ", "ß", "İ", "ﬁ", "²", "Ⅷ", "½", "٣", "中文", "日本語",
         "ひらがな", "한국어", "العربية", "עברית", "_", "\u0344", "\u0f73\u0f71", "\U0001d15e", "\u2126"]


def random_text(rng, specials):
    parts = []
    for _ in range(rng.choice([1, 2, 5, 12, 30])):
        kind = rng.random()
        if kind < 0.15:
            parts.append("".join(chr(c) for c in (rng.randrange(0x110000) for _ in range(rng.randint(1, 8)))
                                 if not 0xD800 <= c < 0xE000))
        elif kind < 0.45:
            low, high = rng.choice(RANGES)
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 10))))
        elif kind < 0.55:
            parts.append("".join(chr(rng.choice([rng.randint(0x300, 0x36F), rng.randint(0x41, 0x5A),
                                                 rng.randint(0x1AB0, 0x1AFF), rng.randint(0x591, 0x5C7),
                                                 rng.randint(0x1100, 0x11FF), rng.randint(0xAC00, 0xD7A3)]))
                                 for _ in range(rng.randint(1, 40))))
        elif kind < 0.70:
            parts.append("".join(rng.choice(SPACES) for _ in range(rng.choice([1, 1, 2, 3, 8, 200]))))
        elif kind < 0.95:
            parts.append(rng.choice(["", " "]) + rng.choice(WORDS))
        else:
            parts.append(rng.choice(specials))
    return "".join(parts)


def random_bytes(rng, specials):
    """Mostly text, with bytes that are not UTF-8 in between."""
    data = bytearray(random_text(rng, specials).encode())
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 6)):
            at = rng.randint(0, len(data))
            if rng.random() < 0.5:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
            elif data:
                del data[min(at, len(data) - 1)]
    return bytes(data)


def special_texts(specials):
    """Every added token alone, doubled, cut, glued to words, spaces, marks and each other."""
    around = ["", " ", "  ", "\n", "a", "1", "'s", "\u0301", "é", "中", "<", "<|", "|>", ">", "\r\n", "\u3000"]
    for token in specials:
        for left, right in itertools.product(around, around):
            yield left + token + right
        yield token * 3
        yield token[:-1]
        yield token[1:]
        yield token[:-1] + token
        yield token[: len(token) // 2] + " " + token[len(token) // 2:]
        yield token.upper()
        for other in specials:
            yield token + other
            yield token + " " + other
            yield token[:-1] + other


def code_point_texts():
    """Every code point among letters, digits, spaces, marks, alone and behind an apostrophe."""
    for c in range(0x110000):
        if not 0xD800 <= c < 0xE000:
            s = chr(c)
            yield f"a{s}b {s} '{s} 1{s}2  {s}{s}\n{s}\u0301!{s}\u0345{s}\u0334e{s}"


class Comparison:
    def __init__(self, name, ours, theirs):
        self.name, self.ours, self.theirs = name, ours, theirs
        self.mismatches = 0

    def check(self, what, texts, decode=False):
        count = bad = 0
        for data in texts:
            data = data if isinstance(data, bytes) else data.encode()
            text = data.decode("utf-8", "replace")
            count += 1
            for special in (True, False):
                self.theirs.encode_special_tokens = not special
                expected = self.theirs.encode(text, add_special_tokens=False).ids
                found = self.ours.encode(data, special)
                if found != expected:
                    bad += 1
                    if bad < 4:
                        print(f"  MISMATCH special={special} {text!r}\n    theirs {expected}\n    ours   {found}")
            if decode:
                self.theirs.encode_special_tokens = False
                for skip in (True, False):
                    if self.ours.decode(found, skip) != self.theirs.decode(found, skip_special_tokens=skip):
                        bad += 1
                        if bad < 4:
                            print(f"  DECODE MISMATCH {found}")
        self.mismatches += bad
        print(f"{self.name}: {what}: {count} texts, {bad} mismatches", flush=True)


def random_ids(rng, size, n):
    for _ in range(n):
        yield [rng.randrange(size) for _ in range(rng.randint(1, 30))]


def compare_decoding(comparison, rng, theirs, n):
    size = theirs.get_vocab_size()
    bad = 0
    for ids in random_ids(rng, size, n):
        for skip in (True, False):
            bad += comparison.ours.decode(ids, skip) != theirs.decode(ids, skip_special_tokens=skip)
    comparison.mismatches += bad
    print(f"{comparison.name}: decoding random ids: {n} sequences, {bad} mismatches", flush=True)


def forms(directory, folder):
    """The two forms of a directory, each alone in a folder of its own."""
    json_form, vocab_form = os.path.join(folder, "json"), os.path.join(folder, "vocab")
    os.mkdir(json_form)
    os.mkdir(vocab_form)
    shutil.copy(os.path.join(directory, "tokenizer.json"), json_form)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(os.path.join(directory, name), vocab_form)
    return (("tokenizer.json", json_form), ("vocab.json + merges.txt", vocab_form))


def compare(args):
    mismatches = 0
    for directory in args.directories:
        if args.auto:
            from transformers import AutoTokenizer
            theirs = AutoTokenizer.from_pretrained(directory).backend_tokenizer
        else:
            theirs = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        with open(os.path.join(directory, "tokenizer.json"), encoding="utf-8") as file:
            specials = [token["content"] for token in json.load(file)["added_tokens"]]
        with tempfile.TemporaryDirectory() as folder:
            for form, path in forms(directory, folder):
                rng = random.Random(args.seed)
                ours = Choir(path)
                c = Comparison(f"{directory} [{form}]", ours, theirs)
                for name in args.text:
                    with open(name, "rb") as file:
                        whole = file.read()
                    c.check(os.path.basename(name) + ", each line", whole.splitlines(keepends=True))
                    c.check(os.path.basename(name) + ", whole", [whole])
                c.check("random texts", (random_bytes(rng, specials) for _ in range(args.random)), True)
                c.check("added tokens in odd places", special_texts(specials))
                if args.code_points:
                    c.check("every code point", code_point_texts())
                compare_decoding(c, rng, theirs, 2000)
                mismatches += c.mismatches
                ours.close()
    print("0 mismatches in all" if mismatches == 0 else f"{mismatches} MISMATCHES")
    return 1 if mismatches else 0


def speed(args):
    directory = args.directories[0]
    Choir(directory).close()  # compiles
    with tempfile.TemporaryDirectory() as folder:
        for form, path in forms(directory, folder):
            opening = []
            for _ in range(3):
                begin = time.perf_counter()
                ours = Choir(path)
                opening.append(time.perf_counter() - begin)
                ours.close()
            print(f"opening {form}: {min(opening):.3f} s")
    ours = Choir(directory)
    mega = 10 * 1000 * 1000
    cases = [(os.path.basename(name), open(name, "rb").read()) for name in args.text]
    cases += [("10 MB of " + repr(unit), (unit * (mega // len(unit.encode()) + 1)).encode()[:mega])
              for unit in ("a", " ", "\n", "7", "ab", "!", " \n", "é", "中", "e\u0301", "\u0301\u0334", "'s", "a ")]
    for name, data in cases:
        times = []
        for _ in range(5 if len(data) < mega else 1):
            fail, ids = Fail(), Ids()
            begin = time.perf_counter()
            status = ours.library.tokenizer_encode(ours.handle, data, ctypes.c_size_t(len(data)),
                                                   ctypes.c_bool(True), ctypes.byref(ids),
                                                   ctypes.byref(fail))
            times.append(time.perf_counter() - begin)
            assert status == 0, fail.message
            count = ids.count
            ours.library.tokenizer_ids_clear(ctypes.byref(ids))
        print(f"{name}: {len(data) / min(times) / 1e6:.2f} MB/s ({count} ids, {min(times):.3f} s)")
    return 0


def golden(args):
    """A sample of what `compare` looks at. Lines {"hex", "special", "ids"}: the text's bytes, whether special
    tokens are recognised, its ids; and {"decode", "skip", "text"}: ids, whether special ones are left out."""
    directory, out = args.directories
    theirs = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    with open(os.path.join(directory, "tokenizer.json"), encoding="utf-8") as file:
        specials = [token["content"] for token in json.load(file)["added_tokens"]]
    rng = random.Random(args.seed)
    texts = [w.encode() for w in WORDS] + [s.encode() for s in SPACES]
    texts += [t.encode() for t in itertools.islice(special_texts(specials), 0, None, 37)]
    texts += [random_bytes(rng, specials) for _ in range(args.random)]
    texts += [b"", b"a" * 500, b" " * 700, b"7" * 50, b"ab" * 200 + b"\n" * 200 + b" x"]
    with open(out, "w", encoding="utf-8") as file:
        for data in texts:
            for special in (True, False):
                theirs.encode_special_tokens = not special
                ids = theirs.encode(data.decode("utf-8", "replace"), add_special_tokens=False).ids
                if special or any(s.encode() in data for s in specials):
                    file.write(json.dumps({"hex": data.hex(), "special": special, "ids": ids},
                                          separators=(",", ":")) + "\n")
        theirs.encode_special_tokens = False
        for ids in random_ids(rng, theirs.get_vocab_size(), args.random // 4):
            ids.insert(rng.randrange(len(ids)), theirs.token_to_id(rng.choice(specials)))
            for skip in (True, False):
                text = theirs.decode(ids, skip_special_tokens=skip)
                file.write(json.dumps({"decode": ids, "skip": skip, "text": text}, ensure_ascii=False,
                                      separators=(",", ":")) + "\n")
    return 0


PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "digits in threes": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
                        r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "marks with letters": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| "
                          r"?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gaps": r"\p{M}+|[a-f]++|\p{N}{2,}|[^\p{P}]".replace(r"[^\p{P}]", r"\s\S"),
    "any case": r"(?i:k|[r-t]+|don't)|\P{L}",
}


def patterns(args):
    """A small tokenizer for each pattern: the bytes and a few merges."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
    rng = random.Random(args.seed)
    mismatches = 0
    for name, pattern in PATTERNS.items():
        if args.only not in (None, name):
            continue
        theirs = Tokenizer(models.BPE())
        theirs.normalizer = normalizers.NFC()
        theirs.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        theirs.decoder = decoders.ByteLevel()
        texts = [random_text(rng, ["x"]) for _ in range(2000)]
        theirs.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        from tokenizers import AddedToken
        theirs.add_tokens([AddedToken("<l>", lstrip=True, normalized=False),
                           AddedToken("<r>", rstrip=True, normalized=False),
                           AddedToken("<b>", lstrip=True, rstrip=True, normalized=True),
                           AddedToken("e\u0301!", normalized=True), AddedToken("<l>x", normalized=False),
                           AddedToken(" <sp>", normalized=False), AddedToken("\u00e9", normalized=False)])
        theirs.add_special_tokens([AddedToken("<s>", normalized=False), AddedToken("<s>>", normalized=True),
                                   AddedToken("<r><s>", normalized=False, rstrip=True)])
        specials = ["<l>", "<r>", "<b>", "e\u0301!", "é!", "<l>x", "<s>", "<s>>", " <sp>", "<r>  <sp>", "<r><s>", "é"]
        with tempfile.TemporaryDirectory() as folder:
            theirs.save(os.path.join(folder, "tokenizer.json"))
            ours = Choir(folder)
        c = Comparison(name, ours, theirs)
        c.check("random texts", (random_bytes(rng, specials) for _ in range(args.random)), True)
        c.check("added tokens in odd places", special_texts(specials))
        if args.code_points:
            c.check("every code point", code_point_texts())
        ours.close()
        mismatches += c.mismatches
    return 1 if mismatches else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compare", "speed", "golden", "patterns"])
    parser.add_argument("directories", nargs="*")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--random", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--code-points", action="store_true", help="also every code point (slow)")
    parser.add_argument("--auto", action="store_true", help="compare with transformers' AutoTokenizer")
    parser.add_argument("--only", help="of the patterns, the one of this name")
    args = parser.parse_args()
    return {"compare": compare, "speed": speed, "golden": golden, "patterns": patterns}[args.what](args)


if __name__ == "__main__":
    sys.exit(main())
