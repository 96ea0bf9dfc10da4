"""choir serve with the clients that people use: OpenAI's Python client, LangChain, and lm-evaluation-harness.

    serve_clients.py --choir PROGRAM [--items N] [--ranks N]

lm_eval's local-completions and local-chat-completions over HTTP have to give, on every item, what lm_eval through
the pipe of choir worker gives: the same texts, and the same bits of log-likelihoods. Of rolling log-likelihoods only texts of one
window are compared, since lm_eval's windows are a token shorter over HTTP. Needs openai and lm_eval[hf,api]; langchain-openai is
used where it is installed.
"""

import argparse
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from lm_eval_compare import ROOT, evaluate, write_tasks

MESSAGES = [{"role": "user", "content": "Tom had 10 apples. He ate 3. How many were left?"}]
FIELDS = {"model": "demo", "temperature": 0, "max_tokens": 60}
MPIRUN = ["mpirun", "--quiet", "--oversubscribe", "--bind-to", "none"]


class Server:
    def __init__(self, choir, ranks):
        command = [*MPIRUN, "-n", str(ranks), choir, "serve", "--port", "0", "--dot", "chain"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"http://\S+", line):
                self.url = found.group() + "/v1"
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def close(self):
        self.process.terminate()
        self.process.wait()


def curl(url):
    """The command of the README."""
    body = {"messages": MESSAGES, "seed": 7, **FIELDS}
    answer = subprocess.run(["curl", "-sf", url + "/chat/completions", "-d", json.dumps(body)], check=True, stdout=subprocess.PIPE).stdout
    assert "7" in json.loads(answer)["choices"][0]["message"]["content"], answer
    print("curl: as it should be")


def openai_client(url):
    import openai

    client = openai.OpenAI(base_url=url, api_key="none")
    assert [m.id for m in client.models.list()] == ["demo"]
    whole = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=3, **FIELDS)
    text = whole.choices[0].message.content
    assert "7" in text and whole.choices[0].finish_reason == "stop", whole
    assert whole.choices[0].logprobs.content[0].top_logprobs[0].token
    pieces = list(client.chat.completions.create(messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **FIELDS))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == text
    assert pieces[-1].usage == whole.usage
    several = client.completions.create(model="demo", prompt=["ROMEO:", "JULIET:"], n=2, seed=3, max_tokens=5, logprobs=2, echo=True)
    assert [c.text.split(":")[0] for c in several.choices] == ["ROMEO", "ROMEO", "JULIET", "JULIET"]
    for wrong, kind in ((lambda: client.completions.create(model="nope", prompt="x"), openai.NotFoundError),
                        (lambda: client.completions.create(model="demo", prompt="x", top_p=2), openai.BadRequestError),
                        (lambda: client.embeddings.create(model="demo", input="x"), openai.BadRequestError)):
        try:
            wrong()
        except kind as error:
            assert error.message
        else:
            raise AssertionError(kind)
    print("openai: as it should be")
    return text


def langchain(url, text):
    if importlib.util.find_spec("langchain_openai") is None:
        print("LangChain: not installed, left out")
        return
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=url, api_key="none", **FIELDS)
    assert chat.invoke(MESSAGES).content == text
    assert "".join(chunk.content for chunk in chat.stream(MESSAGES)) == text
    print("LangChain: as it should be")


def harness(args, url, folder):
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    sys.path.insert(0, str(ROOT / "launch"))
    import choir_lm_eval

    demo = str(ROOT / "configs" / "demo")
    tasks = write_tasks(folder, args.items)
    write_short_texts(folder / "choir_rolling.jsonl")
    pipe = choir_lm_eval.define_model()(path=Path(demo), ranks=args.ranks, choir=args.choir, dot="chain", threads=1,
                                        mpirun=" ".join(MPIRUN))
    expected = evaluate(pipe, folder, tasks)
    expected_chat = evaluate(pipe, folder, ["choir_generate"], apply_chat_template=True)
    pipe.worker.close()
    http = LocalCompletionsAPI(model="demo", base_url=url + "/completions", tokenizer_backend="huggingface", tokenizer=demo,
                               num_concurrent=4, max_length=1024, tokenized_requests=True)
    chat = LocalChatCompletion(model="demo", base_url=url + "/chat/completions", num_concurrent=4, max_length=1024)
    return (same("local-completions", evaluate(http, folder, tasks), expected) and
            same("local-chat-completions", evaluate(chat, folder, ["choir_generate"], apply_chat_template=True), expected_chat))


def write_short_texts(path):
    plays = (ROOT / "configs" / "tasks" / "data" / "plays.txt").read_text()
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (plays[:300], plays[1000:2000], "O")))


def same(name, found, expected):
    assert found.keys() == expected.keys() and expected
    different = [key for key in expected if normal(found[key]) != normal(expected[key])]
    print(f"lm_eval {name}: {len(expected)} answers, {len(different)} differ from the pipe's")
    for key in different[:5]:
        print(key, found[key], expected[key])
    return not different


def normal(answer):
    """A text, a sum of a rolling request, or (log-likelihood, greedy)."""
    if isinstance(answer, (tuple, list)):
        return (float(answer[0]), *(bool(value) for value in answer[1:]))
    return answer if isinstance(answer, str) else float(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choir", required=True)
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    server = Server(args.choir, args.ranks)
    try:
        curl(server.url)
        langchain(server.url, openai_client(server.url))
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HF_HOME"] = folder
            good = harness(args, server.url, Path(folder))
    finally:
        server.close()
    sys.exit(not good)


if __name__ == "__main__":
    main()
