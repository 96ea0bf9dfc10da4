"""choir serve with the clients that people use: OpenAI's Python client, LangChain, and lm-evaluation-harness.

    serve_clients.py --choir PROGRAM [--items N] [--ranks N]

lm_eval's local-completions and local-chat-completions over HTTP have to give, on every item, what lm_eval through
the pipe of choir worker gives: the same texts, and the same bits of log-likelihoods. Needs openai and lm_eval[hf]; langchain-openai
is used where it is installed.
"""

import argparse
import importlib.util
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
    tasks = [task for task in write_tasks(folder, args.items) if task != "choir_rolling"]
    pipe = choir_lm_eval.define_model()(path=Path(demo), ranks=args.ranks, choir=args.choir, dot="chain", threads=1,
                                        mpirun=" ".join(MPIRUN))
    expected = evaluate(pipe, folder, tasks)
    pipe.worker.close()
    http = LocalCompletionsAPI(model="demo", base_url=url + "/completions", tokenizer_backend="huggingface", tokenizer=demo,
                               num_concurrent=4, max_length=1024, tokenized_requests=True)
    found = evaluate(http, folder, tasks)
    assert found.keys() == expected.keys() and expected
    different = [key for key in expected if normal(found[key]) != normal(expected[key])]
    print(f"lm_eval local-completions: {len(expected)} answers, {len(different)} differ from the pipe's")
    for key in different[:5]:
        print(key, found[key], expected[key])
    chat = LocalChatCompletion(model="demo", base_url=url + "/chat/completions", num_concurrent=4, max_length=1024)
    import lm_eval
    from lm_eval.tasks import TaskManager

    result = lm_eval.simple_evaluate(model=chat, tasks=["choir_generate"], apply_chat_template=True, bootstrap_iters=0, verbosity="ERROR",
                                     task_manager=TaskManager(include_path=str(folder)), limit=4, log_samples=True)
    answers = [s["resps"][0][0] for s in result["samples"]["choir_generate"]]
    assert len(answers) == 4 and all(answers), answers
    print("lm_eval local-chat-completions: as it should be")
    return not different


def normal(answer):
    return answer if isinstance(answer, str) else (float(answer[0]), bool(answer[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choir", required=True)
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    server = Server(args.choir, args.ranks)
    try:
        langchain(server.url, openai_client(server.url))
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HF_HOME"] = folder
            good = harness(args, server.url, Path(folder))
    finally:
        server.close()
    sys.exit(not good)


if __name__ == "__main__":
    main()
