#!/usr/bin/env python3
"""Choir as a model of lm-evaluation-harness (pip install lm_eval).

    python launch/choir_lm_eval.py --model choir --model_args path=DIR,ranks=4 --tasks ...

takes lm_eval's own arguments. After

    python launch/choir_lm_eval.py --install

the command lm_eval itself knows the model too: lm_eval --model choir --model_args path=DIR,ranks=4 ...

model_args: path (model directory; without it Choir's demo model), ranks (1), mesh (1xRANKS: replicas x
ranks of each), dtype (bf16, f32, f64), order, attention, dot, threads, kv_tokens, batch_size (sequences
at once of a replica), max_gen_toks (256), prefix_token_id, choir (the program; default: found beside
this file's folder or on the PATH), mpirun (the command that starts ranks, with its own arguments:
"mpirun --hostfile hosts"; for one rank none is used).

The work is done by `choir worker`: JSON lines over pipes, described in docs/eval.md. Texts become
tokens and log-probabilities there, so neither PyTorch nor a tokenizer is needed here. What lm_eval asks
becomes what the worker is asked in choir_lm_eval_requests.py, by the rules of lm_eval's own `hf` model.
"""

import functools
import logging
import shlex
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.append(str(HERE))

import choir_lm_eval_requests as requests_of  # noqa: E402
from choir_lm_eval_worker import Worker, WorkerError  # noqa: E402


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

    warn = logging.getLogger("lm_eval.models.choir").warning

    def number(logprob):
        return float("-inf") if logprob is None else logprob

    def name_of(kind, i, n, *texts):
        return f"{kind} request {i + 1} of {n} ({', '.join(requests_of.shown(text) for text in texts)})"

    @register_model("choir")
    class Choir(TemplateLM):
        def __init__(self, path=None, pretrained=None, ranks=1, mesh=None, dtype="bf16", order=None, attention=None,
                     dot=None, threads=None, kv_tokens=None, batch_size=None, max_batch_size=None, device=None,
                     max_gen_toks=256, prefix_token_id=None, choir=None, mpirun="mpirun --bind-to none"):
            super().__init__()
            dtype = {"bfloat16": "bf16", "float32": "f32", "float64": "f64"}.get(dtype, dtype)
            max_batch = batch_size if str(batch_size).isdigit() and int(batch_size) > 1 else None
            self.path = str(path or pretrained or "choir-demo")
            self.worker = Worker(worker_command(path or pretrained, ranks, mesh, choir, mpirun, dtype=dtype, order=order,
                                                attention=attention, dot=dot, threads=threads, kv_tokens=kv_tokens,
                                                max_batch=max_batch))
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
            try:
                return self.render(chat_history, add_generation_prompt)
            except WorkerError:
                warn("Failed to apply chat template. removing the system role in chat history.")
                without = [message for message in chat_history if message["role"] != "system"]
                return self.render(without, add_generation_prompt)

        def render(self, messages, add_generation_prompt):
            request = requests_of.chat_request(messages, add_generation_prompt)
            text = self.worker.ask([request], lambda i: "chat template")[0]["text"]
            return requests_of.chat_text(text, messages, add_generation_prompt)

        # Requests

        def loglikelihood(self, requests, disable_tqdm=False):
            texts, pairs = [], []
            for i, (context, continuation) in enumerate(request.args for request in requests):
                where = name_of("loglikelihood", i, len(requests), context, continuation)
                pairs.append((context, continuation, where))
                requests_of.check_text(context, where)
                requests_of.check_text(continuation, where)
                texts += [continuation] if context == "" else [context.rstrip(), context + continuation]
            self.encode_all(texts)
            asked = [((context, continuation), *self.encode_request(context, continuation, where), where)
                     for context, continuation, where in pairs]
            return self.score(asked)

        def encode_request(self, context, continuation, where):
            """Ids as TemplateLM.loglikelihood makes them."""
            if context != "":
                return self._encode_pair(context, continuation)
            ids = self.tok_encode(continuation)
            if not ids:
                raise requests_of.RequestError(f"{where}: the continuation has no tokens")
            return ([self.prefix_token_id], ids) if ids[0] != self.prefix_token_id else (ids[:1], ids[1:])

        def _loglikelihood_tokens(self, requests, disable_tqdm=False, **kwargs):
            return self.score([(*request, f"loglikelihood request {i + 1} of {len(requests)}")
                               for i, request in enumerate(requests)])

        def score(self, requests):
            """requests: (key, ids of the context, ids of the continuation, what messages call it)."""
            asked = [requests_of.scored(context, continuation, self.max_length, where, warn)
                     for _, context, continuation, where in requests]
            results = []
            answers = self.worker.ask(asked, lambda i: requests[i][3])
            for (key, *_), answer in zip(requests, answers):
                results.append((number(answer["logprob"]), answer["greedy"]))
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, results[-1])
            return results

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            names = [name_of("loglikelihood_rolling", i, len(requests), request.args[0])
                     for i, request in enumerate(requests)]
            asked = [{"op": "loglikelihood_rolling", "text": requests_of.check_text(request.args[0], where),
                      "window": self.max_length, "prefix_id": self.prefix_token_id}
                     for request, where in zip(requests, names)]
            results = []
            for request, answer in zip(requests, self.worker.ask(asked, lambda i: names[i])):
                results.append(number(answer["logprob"]))
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, results[-1])
            return results

        def generate_until(self, requests, disable_tqdm=False):
            names = [name_of("generate_until", i, len(requests), request.args[0]) for i, request in enumerate(requests)]
            self.encode_all(requests_of.check_text(request.args[0], where) for request, where in zip(requests, names))
            model, eos = self.worker.info["generation"], self.worker.info.get("eos_text")
            asked = []
            for request, where in zip(requests, names):
                context, given = request.args
                if not isinstance(given, dict):
                    raise requests_of.RequestError(f"{where}: expected generation_kwargs of type dict, found {type(given)}")
                settings = normalize_gen_kwargs(given, self.max_gen_toks)
                asked.append(requests_of.generated(self.tok_encode(context), settings, self.max_length, model, eos,
                                                   where, warn))
            results = [answer["text"] for answer in self.worker.ask(asked, lambda i: names[i])]
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
