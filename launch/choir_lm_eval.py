#!/usr/bin/env python3
"""Choir as a model of lm-evaluation-harness (pip install lm_eval).

    python launch/choir_lm_eval.py --model choir --model_args path=DIR,ranks=4 --tasks ...

takes lm_eval's own arguments. After

    python launch/choir_lm_eval.py --install

the command lm_eval itself knows the model too: lm_eval --model choir --model_args path=DIR,ranks=4 ...

model_args: path (model directory, or Org/Name in the hub's cache; without it Choir's demo model), ranks
(1), mesh (1xRANKS: replicas x ranks of each), dtype (bf16, f32, f64), order, attention, dot, threads,
kv_tokens, batch_size (sequences at once of a replica), max_gen_toks (256), prefix_token_id, chat_template
(a file, or the name of one of the model's templates), template_vars (JSON), choir (the program; default:
found beside this file's folder or on the PATH), mpirun (the command that starts ranks, with its own arguments:
"mpirun --hostfile hosts"; for one rank none is used).

The work is done by `choir worker`: JSON lines over pipes, described in docs/eval.md. Texts become
tokens and log-probabilities there, so neither PyTorch nor a tokenizer is needed here.
"""

import functools
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent


def find_choir(given):
    if given:
        return str(given)
    for path in (HERE.parent / "build" / "choir", HERE.parent / "bin" / "choir"):
        if path.exists():
            return str(path)
    found = shutil.which("choir")
    if found is None:
        raise FileNotFoundError("choir: expected the program in build/ or on the PATH; model_args choir=PATH names it")
    return found


class Worker:
    """A `choir worker` and its pipes. Requests go out at once, answers are matched by id."""

    def __init__(self, command):
        environment = {"OMPI_MCA_mpi_yield_when_idle": "1", **os.environ}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8", env=environment)
        self.answers, self.ids = {}, itertools.count()
        self.arrived, self.ended = threading.Condition(), False
        hello = self.process.stdout.readline()
        if not hello:
            raise RuntimeError(f"{shlex.join(command)}: ended with status {self.process.wait()} before it was ready")
        self.info = json.loads(hello)["info"]
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            with self.arrived:
                self.answers[answer.pop("id")] = answer
                self.arrived.notify_all()
        with self.arrived:
            self.ended = True
            self.arrived.notify_all()

    def ask(self, requests):
        """Answers in the order of the requests."""
        ids = []
        for request in requests:
            ids.append(next(self.ids))
            self.process.stdin.write(json.dumps({"id": ids[-1], **request}) + "\n")
        self.process.stdin.flush()
        return [self.take(i) for i in ids]

    def take(self, number):
        with self.arrived:
            self.arrived.wait_for(lambda: number in self.answers or self.ended)
            if number not in self.answers:
                raise RuntimeError(f"choir worker ended with status {self.process.wait()}")
            answer = self.answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"choir worker: {answer['error']['message']}")
        return answer

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()


def worker_command(path=None, ranks=1, mesh=None, choir=None, mpirun="mpirun --bind-to none", **flags):
    command = [] if int(ranks) == 1 else [*shlex.split(str(mpirun)), "-n", str(ranks)]
    command += [find_choir(choir), "worker"]
    if path:
        command += ["--model", str(path)]
    if mesh:
        command += ["--mesh", str(mesh)]
    for flag, value in flags.items():
        command += [] if value is None else [f"--{flag.replace('_', '-')}", str(value)]
    return command


@functools.lru_cache
def define_model():
    """The model's class, which lm_eval knows from now on."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    import lm_eval.models  # noqa: F401  the others stay known

    @register_model("choir")
    class Choir(TemplateLM):
        def __init__(self, path=None, pretrained=None, ranks=1, mesh=None, dtype="bf16", order=None, attention=None,
                     dot=None, threads=None, kv_tokens=None, batch_size=None, max_batch_size=None, device=None,
                     max_gen_toks=256, prefix_token_id=None, choir=None, mpirun="mpirun --bind-to none",
                     chat_template=None, template_vars=None):
            super().__init__()
            dtype = {"bfloat16": "bf16", "float32": "f32", "float64": "f64"}.get(dtype, dtype)
            max_batch = batch_size if str(batch_size).isdigit() and int(batch_size) > 1 else None
            self.path = str(path or pretrained or "choir-demo")
            self.worker = Worker(worker_command(path or pretrained, ranks, mesh, choir, mpirun, dtype=dtype, order=order,
                                                attention=attention, dot=dot, threads=threads, kv_tokens=kv_tokens,
                                                max_batch=max_batch, chat_template=chat_template,
                                                template_vars=json.dumps(template_vars)
                                                if isinstance(template_vars, dict) else template_vars))
            self.max_length = self.worker.info["max_context"]
            self.max_gen_toks, self.given_prefix = int(max_gen_toks), prefix_token_id
            self.tokens = {}

        # Tokens

        @property
        def eot_token_id(self):
            return self.worker.info["stop_ids"][0]

        @property
        def prefix_token_id(self):
            return self.eot_token_id if self.given_prefix is None else int(self.given_prefix)

        def tok_encode(self, string, add_special_tokens=None, **kwargs):
            if string not in self.tokens:
                self.encode_all([string])
            return list(self.tokens[string])

        def encode_all(self, texts):
            """Puts the ids of many texts where tok_encode finds them, in one go through the pipe."""
            new = list(dict.fromkeys(text for text in texts if text not in self.tokens))
            answers = self.worker.ask({"op": "tokenize", "text": text} for text in new)
            self.tokens.update((text, answer["ids"]) for text, answer in zip(new, answers))

        @property
        def tokenizer_name(self):
            return self.path.replace("/", "__")

        def chat_template(self, chat_template=False):
            return "" if chat_template in (False, None) else "as choir renders it"

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            request = {"op": "chat", "messages": chat_history, "add_generation_prompt": add_generation_prompt}
            return self.worker.ask([request])[0]["text"]

        # Requests

        def loglikelihood(self, requests, disable_tqdm=False):
            texts = []
            for context, continuation in (request.args for request in requests):
                texts += [continuation] if context == "" else [context.rstrip(), context + continuation]
            self.encode_all(texts)
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        def _loglikelihood_tokens(self, requests, disable_tqdm=False, **kwargs):
            asked = []
            for _, context, continuation in requests:
                # As much of the end as the model takes.
                n = len(continuation)
                ids = (context + continuation)[-(self.max_length + 1):]
                asked.append({"op": "loglikelihood", "context_ids": ids[:-n], "continuation_ids": ids[-n:]})
            results = []
            for (key, _, _), answer in zip(requests, self.worker.ask(asked)):
                logprob = float("-inf") if answer["logprob"] is None else answer["logprob"]
                results.append((logprob, answer["greedy"]))
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, results[-1])
            return results

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            asked = [{"op": "loglikelihood_rolling", "text": request.args[0], "window": self.max_length,
                      "prefix_id": self.prefix_token_id} for request in requests]
            results = []
            for request, answer in zip(requests, self.worker.ask(asked)):
                results.append(float("-inf") if answer["logprob"] is None else answer["logprob"])
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, results[-1])
            return results

        def generate_until(self, requests, disable_tqdm=False):
            self.encode_all(request.args[0] for request in requests)
            asked = []
            for context, given in (request.args for request in requests):
                settings = normalize_gen_kwargs(given, self.max_gen_toks)
                most = settings["max_gen_toks"]
                prompt = self.tok_encode(context)[-(self.max_length - most):]
                asked.append({"op": "generate_until", "prompt_ids": prompt, "max_tokens": most,
                              "until": [stop for stop in settings["until"] if stop],
                              "temperature": settings["temperature"] or 0,
                              **{key: settings[key] for key in ("top_p", "top_k", "min_p", "repetition_penalty", "seed")
                                 if key in settings}})
            results = [answer["text"] for answer in self.worker.ask(asked)]
            for request, text in zip(requests, results):
                self.cache_hook.add_partial("generate_until", request.args, text)
            return results

    return Choir


def install():
    """Lets every start of lm_eval in this Python find the model."""
    import sysconfig

    target = Path(sysconfig.get_paths()["purelib"]) / "choir_lm_eval.pth"
    starts = "any(a.endswith(('lm_eval', 'lm-eval')) for a in sys.orig_argv)"
    target.write_text(f"import sys; {starts} and (sys.path.append({str(HERE)!r}), __import__('choir_lm_eval').define_model())\n")
    print(f"wrote {target}; remove it to undo this")


def main():
    if sys.argv[1:] == ["--install"]:
        install()
        return
    define_model()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
