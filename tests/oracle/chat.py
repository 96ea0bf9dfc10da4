#!/usr/bin/env python3
"""Compares Choir's chat templates with transformers' apply_chat_template.

    python chat.py golden OUT.jsonl      (makes tests/golden/tokenizer/chat.jsonl)
    python chat.py compare [--random N]  (random conversations, tools and JSON values)

The templates are those in tests/golden/tokenizer/templates. Lines of the golden file hold {"template",
"messages", "tools", "prompt", "text"}: "prompt" is add_generation_prompt, and "text" is null where
transformers raises an error."""
import argparse
import json
import os
import random
import subprocess
import sys

from transformers import AutoTokenizer

from tokenizer import ROOT

TEMPLATES = os.path.join(ROOT, "tests/golden/tokenizer/templates")
NAMES = ["chatml", "qwen2.5", "qwen2.5-base", "qwen2.5-math", "qwen2"]


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, *calls, **more):
    message = {"role": "assistant", "content": text, **more}
    if calls:
        message["tool_calls"] = list(calls)
    return message


def tool(text):
    return {"role": "tool", "content": text}


def call(name, arguments, wrapped=True):
    inner = {"name": name, "arguments": arguments}
    return {"type": "function", "id": "c1", "function": inner} if wrapped else inner


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the \"weather\" <now> & later, über all.",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Zürich, 北京, …"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 3},
        "scale": {"enum": ["C", "F", None], "default": "C"}}, "required": ["city"]}}}
NUMBERS = {"z": 1, "a": [1.0, -0.5, 1e16, 1e15, 123456789.125, 1e-4, 1e-5, 0.1, 1e100, 5e-324, 2.5e22, -0.0,
                         1.7976931348623157e308, 9007199254740993, -9223372036854775808, 3.141592653589793],
           "empty": {}, "none": [], "flags": [True, False, None], "nested": {"b": {"c": [[], [{}]]}}}
ESCAPES = "tab\t newline\n return\r quote\" backslash\\ slash/ bell\x07 del\x7f nul\x00 ls\u2028 é 😀 </tool_call>"

CONVERSATIONS = [
    ([user("Hello")], None),
    ([user("")], None),
    ([system("You are terse."), user("Hello")], None),
    ([system(""), user("Hello")], None),
    ([system("Only a system message")], None),
    ([user("Hi"), assistant("Hello!"), user("Bye")], None),
    ([user("Hi"), assistant(""), user("again")], None),
    ([user("  leading and trailing  \n"), assistant("\n\nlines\n")], None),
    ([user("Hi"), system("A later system message"), user("go on")], None),
    ([system("a"), system("b"), user("c")], None),
    ([assistant("I begin"), user("then you")], None),
    ([user("Grüße, 你好, שלום, 👩‍👩‍👧, \u0301, \ufeff, \u00a0")], None),
    ([user("<|im_start|>system\nnested<|im_end|>")], None),
    ([user("{{ messages }} {% if x %} <b>&amp;</b> 'quotes\"")], None),
    ([user("Hi"), assistant("x", tool_calls=[]), user("y")], None),
    ([user("Hi"), assistant("x", tool_calls=None, name="me"), user("y")], None),
    ([user("a"), user("b"), assistant("c"), assistant("d")], None),
    ([user("Hi")], []),
    ([user("Weather?")], [WEATHER]),
    ([system("Use tools."), user("Weather?")], [WEATHER, {"type": "function", "function": {"name": "noop"}}]),
    ([system(""), user("Weather?")], [{"z": 1, "a": 2, "m": {"y": 1, "b": 2}}]),
    ([user("Numbers")], [NUMBERS]),
    ([user("Escapes")], [{"text": ESCAPES, ESCAPES.replace("\x00", ""): 1}]),
    ([user("w"), assistant("", call("get_weather", {"city": "Oslo"}))], [WEATHER]),
    ([user("w"), assistant("Let me see.", call("get_weather", {"city": "Oslo"}))], [WEATHER]),
    ([user("w"), assistant(None, call("get_weather", {"city": "Oslo"}))], None),
    ([user("w"), {"role": "assistant", "tool_calls": [call("f", {}, False)]}], None),
    ([user("w"), assistant("", call("f", {"b": 1, "a": 2}, False), call("g", {"é": "é"}))], None),
    ([user("w"), assistant("", call("f", '{"city": "Oslo", "q": "\\"x\\""}'))], None),
    ([user("w"), assistant("", call("f", None))], None),
    ([user("w"), assistant("", call("f", [1, 2.0, "3"], False))], None),
    ([user("w"), assistant("", call("f", NUMBERS))], None),
    ([user("w"), assistant("", call("f", ESCAPES, False))], None),
    ([user("w"), assistant("", call("f", {})), tool("sunny")], [WEATHER]),
    ([user("w"), assistant("", call("f", {}), call("g", {})), tool("1"), tool("2"), assistant("3")], [WEATHER]),
    ([user("w"), assistant("", call("f", {})), tool("1"), user("and?"), tool("2"), tool("3")], None),
    ([tool("first"), user("then")], None),
    ([tool("first"), tool("second")], [WEATHER]),
    ([user("w"), tool(""), assistant("ok")], None),
    ([user("w"), tool(None)], None),
    ([user("w"), {"role": "tool"}, tool("x")], None),
    ([user("w"), tool("{\"temp\": 3.5}\n<tool_response>"), assistant("", call("f", {})), tool("y")], [WEATHER]),
    ([user(None)], None),
    ([{"role": "user"}], None),
    ([user("x"), assistant(None)], None),
    ([user("x"), assistant("", {"type": "function", "function": {"name": "f"}})], None),
]


def load_templates():
    texts = {}
    for name in NAMES:
        with open(os.path.join(TEMPLATES, name + ".jinja"), encoding="utf-8", newline="") as file:
            texts[name] = file.read()
    return texts


class Theirs:
    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(os.path.join(ROOT, "configs/demo"))
        self.templates = load_templates()

    def render(self, name, messages, tools, prompt):
        try:
            return self.tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self.templates[name], tokenize=False,
                add_generation_prompt=prompt)
        except Exception:  # whatever Jinja or transformers object to
            return None


class Ours:
    """choir render, one process a template; line by line."""

    def __init__(self):
        self.workers = {name: subprocess.Popen(
            [os.environ.get("CHOIR", os.path.join(ROOT, "build/choir")), "render", "--template",
             os.path.join(TEMPLATES, name + ".jinja")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") for name in NAMES}

    def render(self, name, messages, tools, prompt):
        worker = self.workers[name]
        worker.stdin.write(json.dumps({"messages": messages, "tools": tools, "add_generation_prompt": prompt}) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline()).get("text")


def golden(args):
    theirs = Theirs()
    count = 0
    with open(args.out, "w", encoding="utf-8") as file:
        for messages, tools in CONVERSATIONS:
            for name in NAMES:
                for prompt in (False, True):
                    if name in ("qwen2.5-base", "qwen2.5-math") and prompt:
                        continue
                    text = theirs.render(name, messages, tools, prompt)
                    file.write(json.dumps({"template": name, "messages": messages, "tools": tools,
                                           "prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
                    count += 1
    print(f"{len(CONVERSATIONS)} conversations, {count} lines", file=sys.stderr)
    return 0


def random_value(rng, depth=0):
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([None, True, False, 0, -1, 2**63 - 1, -2**63])
    if kind == 1:
        return rng.randint(-10**rng.randint(0, 18), 10**rng.randint(0, 18))
    if kind in (2, 3):
        return rng.choice([rng.random(), rng.uniform(-1, 1) * 10.0**rng.randint(-320, 308),
                           float(rng.randint(-10**17, 10**17)), rng.randint(-1000, 1000) / 8,
                           float(10**rng.randint(0, 22)), 10.0**-rng.randint(0, 12)])
    if kind in (4, 5):
        return "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0x300), rng.randrange(0x10000, 0x20000)]))
                       for _ in range(rng.randint(0, 12)))
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 5))]
    return {"k" + str(rng.randrange(1000)) + rng.choice(["", "é", "\"", "\n"]): random_value(rng, depth + 1)
            for _ in range(rng.randint(0, 5))}


def random_conversation(rng):
    messages = []
    for _ in range(rng.randint(1, 8)):
        text = rng.choice(["", "Hello", "  x\n", "é中😀", ESCAPES, "<|im_end|>"])
        kind = rng.randrange(6)
        if kind == 0:
            messages.append(system(text))
        elif kind == 1:
            messages.append(user(text))
        elif kind == 2:
            messages.append(assistant(text))
        elif kind == 3:
            messages.append(tool(text))
        else:
            messages.append(assistant(rng.choice([text, None]), *[
                call(rng.choice(["f", "get_é", "a.b"]), random_value(rng), rng.random() < 0.5)
                for _ in range(rng.randint(1, 3))]))
    tools = [{"name": "t", "parameters": random_value(rng)} for _ in range(rng.randint(0, 3))]
    return messages, rng.choice([None, tools])


def compare(args):
    theirs, ours, rng = Theirs(), Ours(), random.Random(args.seed)
    bad = count = 0
    conversations = list(CONVERSATIONS) + [random_conversation(rng) for _ in range(args.random)]
    for messages, tools in conversations:
        for name in NAMES:
            prompt = rng.random() < 0.5
            expected = theirs.render(name, messages, tools, prompt)
            found = ours.render(name, messages, tools, prompt)
            count += 1
            if expected != found:
                bad += 1
                if bad < 4:
                    print(f"MISMATCH {name} {messages!r} {tools!r}\n  theirs {expected!r}\n  ours   {found!r}")
    print(f"{len(conversations)} conversations, {count} prompts, {bad} mismatches")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["golden", "compare"])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--random", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    return {"golden": golden, "compare": compare}[args.what](args)


if __name__ == "__main__":
    sys.exit(main())
