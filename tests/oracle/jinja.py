#!/usr/bin/env python3
"""Writes what transformers makes of chat templates, for tests/test_jinja.c and tests/test_chat_templates.c.

    tests/oracle/jinja.py snippets tests/golden/jinja-snippets.json
    tests/oracle/jinja.py templates tests/golden/chat-templates [--more DIR]

snippets: the file is a list of {"template", "vars"}; each gets the "text" or the "error" of the environment that
transformers compiles chat templates with. vars is JSON as text, so that its numbers stay as they are written.

templates: renders conversations.jsonl of the folder through each *.jinja in it (and in DIR: templates whose licences do
not let them be copied here) as apply_chat_template does, and writes expected.json: for each template and conversation the
64-bit FNV-1a hash of the text in UTF-8, or {"error": message}. The clock stands at 2026-01-01 00:00:00."""
import argparse
import datetime
import json
import pathlib

import jinja2
import transformers.utils.chat_template_utils as templates


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1)


templates.datetime = Clock


def message_of(error):
    if isinstance(error, RecursionError):
        return "maximum recursion depth exceeded"
    return error.message if isinstance(error, jinja2.TemplateSyntaxError) else str(error)


def snippet(template, variables):
    try:
        return {"text": templates._cached_compile_jinja_template(template).render(**json.loads(variables))}
    except Exception as error:  # noqa: BLE001: each kind of failure is a result
        return {"error": message_of(error)}


def write_snippets(path):
    snippets = json.loads(path.read_text(encoding="utf-8"))
    lines = [json.dumps({"template": s["template"], "vars": s["vars"], **snippet(s["template"], s["vars"])})
             for s in snippets]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{len(lines)} snippets")


def render(template, line):
    """What PreTrainedTokenizerBase.apply_chat_template does before and around render_jinja_template."""
    variables = dict(line)
    messages = variables.pop("messages")
    if not messages:
        return {"error": "Cannot apply chat template to an empty conversation. Provide at least one message."}
    messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    variables.setdefault("add_generation_prompt", True)
    try:
        rendered, _ = templates.render_jinja_template([messages], chat_template=template, **variables)
        return {"text": rendered[0]}
    except Exception as error:  # noqa: BLE001
        return {"error": message_of(error)}


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def write_templates(folder, more):
    lines = [json.loads(line) for line in (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()]
    paths = sorted([*folder.glob("*.jinja"), *(more.glob("*.jinja") if more else [])], key=lambda path: path.name)
    expected = {}
    for path in paths:
        if path.name in expected:
            continue
        results = [render(path.read_text(encoding="utf-8"), line) for line in lines]
        expected[path.name] = [
            fnv1a(r["text"].encode("utf-8")) if "text" in r else r for r in results
        ]
    rows = [f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(r) for r in results) + "\n]"
            for name, results in expected.items()]
    (folder / "expected.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    errors = sum(isinstance(r, dict) for results in expected.values() for r in results)
    print(f"{len(expected)} templates, {len(lines)} conversations, {errors} errors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["snippets", "templates"])
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--more", type=pathlib.Path, help="a folder of further templates")
    args = parser.parse_args()
    if args.what == "snippets":
        write_snippets(args.path)
    else:
        write_templates(args.path, args.more)


if __name__ == "__main__":
    main()
