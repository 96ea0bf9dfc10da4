"""launch/choir_lm_eval*.py without lm_eval: requests by hf's rules, and a worker that misbehaves.

    lm_eval_bridge.py CHOIR
"""

import sys
import threading
import unittest
from pathlib import Path

CHOIR = sys.argv.pop()
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "launch"))
import choir_lm_eval_requests as requests_of  # noqa: E402
from choir_lm_eval_worker import Worker, WorkerError  # noqa: E402

MODEL = {"repetition_penalty": 1.1, "top_k": 20, "top_p": 0.8}
HELLO = 'print(\'{"info": {"max_context": 8}}\', flush=True); import sys, os, time; line = sys.stdin.readline();'


def settings(**given):
    return {"until": ["####"], "max_gen_toks": 4, "do_sample": False, **given}


class Requests(unittest.TestCase):
    def refused(self, words, call, *args):
        with self.assertRaises(requests_of.RequestError) as raised:
            call(*args)
        self.assertIn(words, str(raised.exception))

    def generate(self, prompt, given, room=16):
        self.warned = []
        return requests_of.generated(prompt, given, room, MODEL, "<eos>", "request 3", self.warned.append)

    def test_prompts_are_cut_from_the_left_and_never_by_nothing(self):
        prompt = list(range(1, 15))
        self.assertEqual(self.generate(prompt, settings())["prompt_ids"], prompt[-12:])
        self.assertEqual(len(self.warned), 1)
        self.assertEqual(self.generate(prompt, settings(max_gen_toks=15))["prompt_ids"], prompt[-1:])
        self.assertEqual(self.generate(prompt[:12], settings())["prompt_ids"], prompt[:12])
        self.assertEqual(self.warned, [])
        for most in (16, 17, 1000):
            self.refused(f"request 3: Invalid configuration: requested max tokens to generate ({most})", self.generate, prompt,
                         settings(max_gen_toks=most))
        self.assertEqual(self.generate(prompt[:3], settings(max_length=5))["max_tokens"], 2)
        self.refused("max_length 3 leaves no room", self.generate, prompt[:3], settings(max_length=3))

    def test_sampling_is_what_transformers_would_do(self):
        asked = self.generate([1], settings())
        self.assertEqual(asked["until"], ["####", "<eos>"])
        self.assertEqual(asked["repetition_penalty"], 1.1)
        self.assertNotIn("temperature", asked)
        asked = self.generate([1], {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 1e-6, "top_p": 0.5})
        self.assertEqual((asked["temperature"], asked["top_p"], asked["top_k"]), (1e-6, 0.5, 20))
        self.refused("temperature has to be above 0", self.generate, [1], settings(do_sample=True))
        self.refused("unknown field 'temprature'; allowed are", self.generate, [1], settings(temprature=1))
        self.refused("num_beams: choir can do 1 only, found 4", self.generate, [1], settings(num_beams=4))
        self.generate([1], settings(num_beams=1))

    def test_scores_need_tokens_of_their_own(self):
        warned = []
        score = lambda context, continuation: requests_of.scored(context, continuation, 4, "request 3", warned.append)  # noqa: E731
        self.assertEqual(score([1, 2], [3]), {"op": "loglikelihood", "context_ids": [1, 2], "continuation_ids": [3]})
        self.assertEqual(score([1, 2, 3, 4], [5, 6])["context_ids"], [2, 3, 4])
        self.assertEqual(len(warned), 1)
        self.refused("request 3: the continuation has no tokens of its own after the 2", score, [1, 2], [])
        self.refused("request 3: the context has no tokens", score, [], [1])
        self.refused("5 tokens, a sequence at most 4", score, [1], [1, 2, 3, 4, 5])

    def test_a_lone_surrogate_is_no_text(self):
        self.refused("request 3: not valid Unicode: a lone surrogate at character 1", requests_of.check_text, "a\ud83d",
                     "request 3")

    def test_a_final_message_is_continued(self):
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Well, "}]
        asked = requests_of.chat_request(messages, False)
        text = "|".join(message["content"] for message in asked["messages"]) + "<end>"
        self.assertEqual(requests_of.chat_text(text, messages, False), "a|Well, ")
        self.assertEqual(requests_of.chat_text("x", messages, True), "x")


class Misbehaving(unittest.TestCase):
    """A call ends with a message, whatever comes instead of an answer."""

    def fails(self, code, words, n=1):
        failure, workers = [], []

        def call():
            try:
                workers.append(Worker([sys.executable, "-c", code]))
                workers[0].ask([{"op": "info"}] * n)
            except WorkerError as error:
                failure.append(str(error))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(60)
        for worker in workers:
            worker.kill()
        self.assertFalse(thread.is_alive(), f"still waiting: {words}")
        self.assertEqual(len(failure), 1)
        self.assertIn(words, failure[0])

    def test_every_end(self):
        self.fails("pass", "ended with status 0 before it was ready")
        self.fails("print('hello', flush=True)", "expected its first line to be")
        self.fails(HELLO + 'print(\'{"id": null, "error": {"message": "bad line"}}\', flush=True); time.sleep(99)',
                   "without the id of a request: bad line")
        self.fails(HELLO + 'print(\'{"ids": [1]}\', flush=True); time.sleep(99)', "without the id")
        self.fails(HELLO + 'print(\'{"id": [0]}\', flush=True); time.sleep(99)', "without the id")
        self.fails(HELLO + "print('oops', flush=True); time.sleep(99)", "not JSON")
        self.fails(HELLO + "print('[0]', flush=True); time.sleep(99)", "no object")
        self.fails(HELLO + "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush(); time.sleep(99)", "not JSON")
        self.fails(HELLO + 'sys.stdout.write(\'{"id": 0, "te\'); sys.stdout.flush()', "half an answer")
        self.fails(HELLO + "sys.exit(3)", "ended with status 3 before it had answered")
        self.fails(HELLO + "os.kill(os.getpid(), 9)", "was ended by signal 9")
        self.fails(HELLO + 'print(\'{"id": 0, "error": {"message": "too long"}}\', flush=True); time.sleep(99)',
                   "request 1 of 2: too long", n=2)

    def test_one_that_reads_nothing(self):
        self.fails("print('{\"info\": {}}', flush=True); import os; os.close(0); os._exit(5)", "ended with status 5", n=100000)


class WithChoir(unittest.TestCase):
    def test_the_program_itself(self):
        worker = Worker([CHOIR, "worker", "--quiet", "--threads", "1"])
        text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        ids = worker.ask([{"op": "tokenize", "text": text}])[0]["ids"]
        info = worker.info
        asked = requests_of.generated(ids, settings(), info["max_context"], info["generation"], info["eos_text"], "it", print)
        self.assertEqual(len(worker.ask([asked])[0]["tokens"]), 4)
        with self.assertRaises(WorkerError) as raised:
            worker.ask([asked, {**asked, "temprature": 1}], lambda i: f"item {i}")
        self.assertIn('item 1: line 4: generate_until: unknown field "temprature"', str(raised.exception))
        worker.close()


if __name__ == "__main__":
    unittest.main(warnings="ignore")
