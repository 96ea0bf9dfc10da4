#!/usr/bin/env python3
"""Writes engine/text/unicode_data.c and engine/text/unicode_case.c: the character properties that tokenization depends on.

The ids of a text depend on which Unicode version decided what a letter is and what composes. Hugging
Face `tokenizers` carries two versions of its own (one in its regular expressions, an older one in its
normaliser), so the properties are measured from that library rather than taken from a Unicode release:

    python unicode_tables.py DATA.c CASE.c
"""
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
LETTER, NUMBER, MARK, SPACE, TRIGGER, FIRST, WORD, UPPER, LOWER = 1, 2, 3, 4, 8, 16, 32, 64, 128
ALTERNATING = UPPER | LOWER


def matching(pattern):
    """Code points that the regular expression matches, as the library's Split sees them."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    for begin in range(0, len(CODE_POINTS), 1 << 16):
        chunk = CODE_POINTS[begin:begin + (1 << 16)]
        left = set()
        for piece, _ in split.pre_tokenize_str("".join(map(chr, chunk))):
            left.update(map(ord, piece))
        found.update(c for c in chunk if c not in left)
    return found


def words():
    """Code points next to which an added token with single_word is not found."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_tokens([AddedToken("a", single_word=True, normalized=False)])
    token = tokenizer.token_to_id("a")
    return {c for c in CODE_POINTS if token not in tokenizer.encode("a" + chr(c)).ids}


def normalisation():
    """(trigger, first): characters that NFC may change, reorder or compose with what stands before them,
    and other characters that such a one may compose with or that have a decomposition."""
    nfc = normalizers.NFC().normalize_str
    nfd = normalizers.NFD().normalize_str
    trigger, first = set(), set()
    for c in CODE_POINTS:
        s = chr(c)
        before, after = "\u0345" + s, s + "\u0334"
        if nfc(before) != before or nfc(after) != after:
            trigger.add(c)
        if nfd(s) != s:
            first.add(c)
        parts = unicodedata.normalize("NFD", s)
        if len(parts) > 1:  # the last composition step is whole + last, whole = NFC of the others
            whole, last = unicodedata.normalize("NFC", parts[:-1]), parts[-1]
            if len(whole) == 1 and nfc(whole + last) == s:
                first.add(ord(whole))
                trigger.add(ord(last))
    return trigger, first - trigger


def cases(letters):
    """Ranges of letters (first, last, flags) that are upper or title case, or lower case; of ALTERNATING the first is
    upper case and every other one."""
    upper, lower, other = (matching(p) for p in (r"[\p{Lu}\p{Lt}]", r"\p{Ll}", r"[\p{Lm}\p{Lo}]"))
    assert upper | lower | other == letters and not upper & lower and not (upper | lower) & other
    ranges = []
    for c in sorted(upper | lower):
        kind = UPPER if c in upper else LOWER
        last = ranges[-1] if ranges and ranges[-1][1] == c - 1 else None
        if last and last[2] == kind:
            last[1] = c
        elif last and last[0] == c - 1 and last[2] == UPPER or last and last[2] == ALTERNATING and (c - last[0]) % 2 == (kind == LOWER):
            last[1:] = [c, ALTERNATING]
        else:
            ranges.append([c, c, kind])
    return ranges


def write(path, head, ranges, tail):
    lines, line = [], "   "
    for a, b, f in ranges:
        item = f" {{0x{a:X}, 0x{b:X}, {f}}},"
        if len(line) + len(item) > 100:
            lines.append(line)
            line = "   "
        line += item
    lines.append(line)
    with open(path, "w") as out:
        out.write(head + "\n".join(lines) + "\n};\n" + tail)
    print(f"{path}: {len(ranges)} ranges", file=sys.stderr)


def main():
    flags = [0] * 0x110000
    for value, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (MARK, r"\p{M}"), (SPACE, r"\s")):
        for c in matching(pattern):
            assert flags[c] == 0, hex(c)
            flags[c] = value
    for c in words():
        flags[c] |= WORD
    trigger, first = normalisation()
    for c in trigger:
        flags[c] |= TRIGGER
    for c in first:
        flags[c] |= FIRST
    ranges = []
    for c, f in enumerate(flags):
        if f and ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == f:
            ranges[-1][1] = c
        elif f:
            ranges.append([c, c, f])
    write(sys.argv[1], HEAD % "ranges", ranges, TAIL.replace("%s", "ranges"))
    letters = {c for c in CODE_POINTS if flags[c] & 7 == LETTER}
    write(sys.argv[2], HEAD % "cases", cases(letters), TAIL.replace("%s", "cases"))


HEAD = """/* Made by tests/oracle/unicode_tables.py; not to be edited by hand. */
#include "engine/text/unicode.h"

/* clang-format off */
const unicode_range_t unicode_%s[] = {
"""
TAIL = """/* clang-format on */

const size_t unicode_n_%s = sizeof unicode_%s / sizeof unicode_%s[0];
"""

if __name__ == "__main__":
    main()
