"""choir serve, asked as its clients ask it: python3 tests/serve_checks.py URL [TestClass...]

CHOIR_SERVE_KEY: the key of a server that has one; CHOIR_SERVE_TEXT: what choir generate says to PROMPT and SAMPLING.
"""

import os
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve_client import Client  # noqa: E402

URL = sys.argv.pop(1)
PROMPT = "ROMEO:"
SAMPLING = {"max_tokens": 24, "temperature": 0.8, "top_p": 0.9, "seed": 7}
CHAT = [{"role": "user", "content": "Julia had 38 cookies. She ate half of them. How many were left?"}]


class Answers(unittest.TestCase):
    client = Client(URL)

    def text(self, **fields):
        return self.client.post("/v1/completions", {"prompt": PROMPT, **SAMPLING, **fields})["choices"][0]["text"]

    def refused(self, path, body, param, status=400):
        got, _, answer = self.client.ask("POST", path, body)
        self.assertEqual(got, status, answer)
        self.assertEqual(answer["error"]["param"], param)
        self.assertTrue(answer["error"]["message"])

    def test_a_server_says_what_it_is(self):
        self.assertEqual(self.client.ask("GET", "/health")[::2], (200, {"status": "ok"}))
        model = self.client.ask("GET", "/v1/models")[2]["data"][0]
        self.assertEqual(model["id"], "demo")
        self.assertEqual(model["max_model_len"], 1024)
        self.assertIn("version", self.client.ask("GET", "/version")[2])
        self.assertEqual(self.client.ask("HEAD", "/health")[::2], (200, ""))

    def test_an_answer_is_that_of_generate(self):
        self.assertEqual(self.text(), os.environ["CHOIR_SERVE_TEXT"])

    def test_a_stream_adds_up_to_the_answer(self):
        pieces = self.client.stream("/v1/completions", {"prompt": PROMPT, **SAMPLING})
        self.assertEqual("".join(p["choices"][0]["text"] for p in pieces), self.text())
        self.assertEqual(pieces[-1]["choices"][0]["finish_reason"], "length")
        self.assertTrue(all("usage" not in p for p in pieces))
        chat = {"messages": CHAT, "temperature": 0, "max_tokens": 30}
        whole = self.client.post("/v1/chat/completions", chat)
        pieces = self.client.stream("/v1/chat/completions", {**chat, "stream_options": {"include_usage": True}})
        deltas = [p["choices"][0]["delta"] for p in pieces[:-1]]
        self.assertEqual(deltas[0], {"role": "assistant", "content": ""})
        self.assertEqual(deltas[-1], {})
        self.assertEqual("".join(d.get("content", "") for d in deltas), whole["choices"][0]["message"]["content"])
        self.assertEqual(pieces[-1]["choices"], [])
        self.assertEqual(pieces[-1]["usage"], whole["usage"])
        self.assertEqual({p["id"] for p in pieces}, {pieces[0]["id"]})
        self.assertEqual({p["system_fingerprint"] for p in pieces}, {whole["system_fingerprint"]})

    def test_the_order_of_choices_is_that_of_prompts(self):
        both = self.client.post("/v1/completions", {"prompt": [PROMPT, "JULIET:"], "n": 2, **SAMPLING})
        self.assertEqual([c["index"] for c in both["choices"]], [0, 1, 2, 3])
        texts = [c["text"] for c in both["choices"]]
        self.assertEqual(texts[0], self.text())
        self.assertEqual(texts[2:], [c["text"] for c in self.client.post(
            "/v1/completions", {"prompt": "JULIET:", "n": 2, **SAMPLING})["choices"]])
        self.assertNotEqual(texts[0], texts[1])
        pieces = self.client.stream("/v1/completions", {"prompt": [PROMPT, "JULIET:"], "n": 2, **SAMPLING})
        for i, text in enumerate(texts):
            self.assertEqual("".join(p["choices"][0]["text"] for p in pieces if p["choices"][0]["index"] == i), text)

    def test_without_a_seed_answers_differ(self):
        fields = {"prompt": PROMPT, "max_tokens": 40, "temperature": 1.5}
        texts = {self.client.post("/v1/completions", fields)["choices"][0]["text"] for _ in range(4)}
        self.assertGreater(len(texts), 1)

    def test_stops_end_an_answer_before_them(self):
        whole = self.text(temperature=0)
        stop = whole[6:9]
        fields = {"prompt": PROMPT, **SAMPLING, "temperature": 0, "stop": [stop, "never"]}
        choice = self.client.post("/v1/completions", fields)["choices"][0]
        self.assertEqual((choice["text"], choice["finish_reason"]), (whole[: whole.index(stop)], "stop"))
        pieces = self.client.stream("/v1/completions", fields)
        self.assertEqual("".join(p["choices"][0]["text"] for p in pieces), choice["text"])

    def test_log_probabilities_of_answer_and_prompt(self):
        fields = {"prompt": PROMPT, **SAMPLING, "max_tokens": 5, "logprobs": 3, "echo": True}
        choice = self.client.post("/v1/completions", fields)["choices"][0]
        logprobs = choice["logprobs"]
        self.assertEqual("".join(logprobs["tokens"]), choice["text"])
        self.assertEqual({len(v) for v in logprobs.values()}, {len(logprobs["tokens"])})
        self.assertIsNone(logprobs["token_logprobs"][0])
        for token, own, top, at in list(zip(*(logprobs[k] for k in (
                "tokens", "token_logprobs", "top_logprobs", "text_offset"))))[1:]:
            self.assertEqual(top[token], own)
            self.assertLessEqual(own, max(top.values()))
            self.assertIn(len(top), (3, 4))
            self.assertTrue(choice["text"][at:].startswith(token))
        # The same of prompts alone, which is how answers are scored.
        scored = self.client.post("/v1/completions", {**fields, "max_tokens": 0})["choices"][0]
        n = len(scored["logprobs"]["tokens"])
        self.assertEqual(scored["logprobs"]["token_logprobs"], logprobs["token_logprobs"][:n])
        self.assertEqual(scored["text"], PROMPT)
        chat = {"messages": CHAT, "temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
        content = self.client.post("/v1/chat/completions", chat)["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), 6)
        for token in content:
            self.assertEqual(token["top_logprobs"][0]["logprob"], token["logprob"])
            self.assertEqual(bytes(token["bytes"]).decode(), token["token"])
        pieces = self.client.stream("/v1/chat/completions", chat)
        told = [t for p in pieces if p["choices"][0]["logprobs"] for t in p["choices"][0]["logprobs"]["content"]]
        self.assertEqual(told, content)

    def test_streams_begin_with_what_is_asked_of_the_prompt(self):
        prompts = {"prompt": [PROMPT, "JULIET:"], "n": 2, **SAMPLING, "max_tokens": 5}
        for asked in ({"echo": True}, {"echo": True, "logprobs": 2}, {"prompt_logprobs": 1},
                      {"echo": True, "logprobs": 0, "prompt_logprobs": 3}, {"echo": True, "logprobs": 1, "max_tokens": 0}):
            fields = {**prompts, **asked}
            whole = self.client.post("/v1/completions", fields)["choices"]
            pieces = [p["choices"][0] for p in self.client.stream("/v1/completions", fields)]
            for i, choice in enumerate(whole):
                own = [p for p in pieces if p["index"] == i]
                self.assertEqual("".join(p["text"] for p in own), choice["text"])
                self.assertEqual(own[0].get("prompt_logprobs"), choice.get("prompt_logprobs"))
                for name, values in (choice["logprobs"] or {}).items():
                    told = [p["logprobs"][name] for p in own if p["logprobs"]]
                    self.assertEqual(None if values is None else [v for t in told for v in t], values)
                if "echo" in asked:
                    self.assertEqual(own[0]["text"], [PROMPT, "JULIET:"][i // 2])
        chat = {"messages": CHAT, "temperature": 0, "max_tokens": 4, "prompt_logprobs": 2}
        first = self.client.stream("/v1/chat/completions", chat)[0]["choices"][0]
        self.assertEqual(first["delta"]["role"], "assistant")
        self.assertEqual(
            first["prompt_logprobs"], self.client.post("/v1/chat/completions", chat)["choices"][0]["prompt_logprobs"])

    def test_penalties_and_biases_move_an_answer(self):
        fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 60, "ignore_eos": True, "logprobs": 0}
        a, b = 1000, 1001

        def tokens(**given):
            return self.client.post("/v1/completions", {**fields, **given})["choices"][0]["logprobs"]["tokens"]

        only = tokens(logit_bias={a: 100})
        self.assertEqual(len(set(only)), 1)
        self.assertEqual(set(tokens(logit_bias={a: 100, b: 60}, presence_penalty=2)), set(only))
        # Two a time: the first is overtaken after about 20 of its kind.
        both = tokens(logit_bias={a: 100, b: 60}, frequency_penalty=2)
        self.assertEqual(len(set(both)), 2)
        self.assertTrue(5 < both.index(next(t for t in both if t != both[0])) < 50)
        self.assertNotIn(tokens()[0], tokens(logit_bias={self.id_of(tokens()[0]): -100}))
        self.assertNotEqual(tokens(), tokens(frequency_penalty=2))
        self.assertNotEqual(tokens(), tokens(presence_penalty=2))

    def id_of(self, text):
        """By what is printed of a prompt."""
        fields = {"prompt": "x" + text, "prompt_logprobs": 0, "max_tokens": 0}
        listed = self.client.post("/v1/completions", fields)["choices"][0]["prompt_logprobs"]
        self.assertIsNone(listed[0])
        return next(i for i, t in listed[1].items() if t["decoded_token"] == text)

    def test_ids_and_text_are_one_prompt(self):
        fields = {**SAMPLING, "logits_digest": True, "logprobs": 0, "echo": True}
        by_text = self.client.post("/v1/completions", {"prompt": PROMPT, **fields})["choices"][0]
        self.assertRegex(by_text["logits_digest"], "^[0-9a-f]{16}$")
        again = self.client.post("/v1/completions", {"prompt": PROMPT, **fields})["choices"][0]
        self.assertEqual(by_text, again)

    def test_text_becomes_ids_and_text_again(self):
        answer = self.client.post("/tokenize", {"prompt": "ROMEO: héllo"})
        self.assertEqual((answer["count"], answer["max_model_len"]), (len(answer["tokens"]), 1024))
        self.assertEqual(self.client.post("/detokenize", {"tokens": answer["tokens"]}), {"prompt": "ROMEO: héllo"})
        chat = self.client.post("/tokenize", {"messages": CHAT})
        usage = self.client.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 1})["usage"]
        self.assertEqual(chat["count"], usage["prompt_tokens"])
        self.refused("/tokenize", {"prompt": 1}, "prompt")
        self.refused("/detokenize", {"tokens": [99999999]}, "tokens")

    def test_tools_are_for_the_template(self):
        tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
        chat = {"messages": CHAT, "temperature": 0, "max_tokens": 8}
        plain = self.client.post("/v1/chat/completions", chat)
        path = "/v1/chat/completions"
        self.refused(path, {**chat, "tools": [{"type": "x"}]}, "tools")
        self.refused(path, {**chat, "tools": tools, "tool_choice": "required"}, "tool_choice")
        self.refused(path, {**chat, "tool_choice": "auto"}, "tool_choice")
        none = self.client.post(path, {**chat, "tools": tools, "tool_choice": "none"})
        self.assertEqual(none["choices"], plain["choices"])
        given = self.client.ask("POST", path, {**chat, "tools": tools})
        if os.environ.get("CHOIR_SERVE_TOOLS"):
            self.assertGreater(given[2]["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"])
            turn = [*CHAT, {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "2"}]
            text = self.client.post("/detokenize", {"tokens": self.client.post(
                "/tokenize", {"messages": turn, "tools": tools})["tokens"]})["prompt"]
            self.assertIn('{"name": "add", "arguments": {"a": 1}}', text)
            pieces = self.client.stream(path, {**chat, "tools": tools})
            told = "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)
            self.assertEqual(told, given[2]["choices"][0]["message"]["content"])
        else:
            self.assertEqual((given[0], given[2]["error"]["param"]), (400, "tools"))

    def test_what_is_wrong_is_named(self):
        completion, chat = "/v1/completions", "/v1/chat/completions"
        self.refused(completion, "{", None)
        self.refused(completion, {"prompt": PROMPT, "temprature": 1}, "temprature")
        self.refused(completion, {"prompt": PROMPT, "top_p": 2}, "top_p")
        self.refused(completion, {"prompt": [99999999]}, "prompt")
        self.refused(completion, {"prompt": ""}, "prompt")
        self.refused(completion, {"prompt": "x " * 2000}, "prompt")
        self.refused(completion, {"prompt": PROMPT, "model": "other"}, None, 404)
        self.refused(chat, {"messages": CHAT, "response_format": {"type": "json_object"}}, "response_format")
        self.refused(chat, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages")
        self.refused("/v1/embeddings", {"input": "x"}, None)
        self.refused("/v1/nothing", {}, None, 404)
        status, headers, _ = self.client.ask("GET", completion)
        self.assertEqual((status, headers["Allow"]), (405, "POST"))

    def test_metrics_count_what_was_done(self):
        def read():
            text = self.client.ask("GET", "/metrics")[2]
            return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
                    for line in text.splitlines() if not line.startswith("#")}

        before = read()
        self.client.stream("/v1/completions", {"prompt": PROMPT, **SAMPLING, "n": 2, "ignore_eos": True})
        after = read()

        def grown(name):
            found = [after[k] - before[k] for k in after if k.startswith(f"choir:{name}{{")]
            self.assertTrue(found, name)
            return sum(found)

        self.assertEqual(grown("generation_tokens_total"), 48)
        self.assertEqual(grown("request_success_total"), 2)
        self.assertEqual(grown("time_to_first_token_seconds_count"), 2)
        self.assertEqual(grown("inter_token_latency_seconds_count"), 2 * 22)
        self.assertGreater(grown("rank_seconds_total"), 0)
        # The answers of n share the blocks of their prompt, and so does a later one.
        long = {"prompt": list(range(1000, 1140)), **SAMPLING, "max_tokens": 2}
        for n, shared in ((3, 2 * 128), (1, 128)):
            before = read()
            self.client.post("/v1/completions", {**long, "n": n})
            after = read()
            # A request may be counted after it is answered.
            end = time.monotonic() + 60
            while any(v for k, v in after.items() if k.startswith("choir:num_requests")) and time.monotonic() < end:
                time.sleep(0.01)
                after = read()
            self.assertEqual(grown("prefix_cache_queries_total"), 140 * n)
            self.assertEqual(grown("prefix_cache_hits_total"), shared)
        self.assertEqual(sum(v for k, v in after.items() if k.startswith("choir:num_requests")), 0)

    def test_what_is_no_http_is_refused(self):
        for data in (b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
                     b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 100000 + b"\r\n\r\n"):
            got = self.client.raw(data)
            self.assertIn(got[:10], (b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 5", b""), (data[:60], got[:200]))
        self.assertEqual(self.client.ask("GET", "/health")[0], 200)

    def test_the_page_is_there_and_takes_no_script_from_elsewhere(self):
        for path, kind in (("/", "text/html"), ("/page/app.js", "text/javascript"), ("/page/style.css", "text/css")):
            status, headers, text = self.client.ask("GET", path)
            self.assertEqual((status, headers["Content-Type"].split(";")[0]), (200, kind))
            self.assertIn("script-src 'self'", headers["Content-Security-Policy"])
            self.assertNotIn("://", text.replace("http://127.0.0.1", ""))

    def test_a_timeout_is_an_error(self):
        fields = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "timeout": 0.001}
        self.assertEqual(self.client.ask("POST", "/v1/completions", fields)[0], 408)


class Reasoning(unittest.TestCase):
    """Of a server whose template begins an answer with <think>."""

    def test_what_stands_before_its_end_is_no_content(self):
        client = Client(URL)
        chat = {"messages": CHAT, "temperature": 0, "max_tokens": 12}
        message = client.post("/v1/chat/completions", chat)["choices"][0]["message"]
        self.assertEqual(message["content"], "")
        self.assertTrue(message["reasoning_content"])
        pieces = client.stream("/v1/chat/completions", chat)
        told = "".join(p["choices"][0]["delta"].get("reasoning_content", "") for p in pieces)
        self.assertEqual(told, message["reasoning_content"])


class Fairness(unittest.TestCase):
    """Of a server with --api-key a --api-key b --max-batch 1."""

    def test_a_client_with_one_request_does_not_wait_for_all_of_another_s(self):
        done = []

        def ask(key, tokens):
            fields = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
            Client(URL, key).post("/v1/completions", fields)
            done.append(key)

        # So long that some still wait when the other client comes, however slow it is. They end with this process.
        for _ in range(12):
            threading.Thread(target=ask, args=("a", 900), daemon=True).start()
        end = time.monotonic() + 60
        while Client(URL, "b").ask("GET", "/stats")[2]["waiting"] < 6 and time.monotonic() < end:
            time.sleep(0.005)
        ask("b", 1)
        self.assertLess(done.index("b"), 12, done)


class Limits(unittest.TestCase):
    """Of a server with a key, --allow-origin https://a.example, --max-body 1, --receive-seconds 2, --max-queue 0."""

    client = Client(URL, os.environ.get("CHOIR_SERVE_KEY"))

    def test_only_a_key_opens(self):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            status, answered, answer = Client(URL).ask("GET", "/v1/models", headers=headers)
            self.assertEqual((status, answer["error"]["type"]), (401, "authentication_error"))
            self.assertEqual(answered["WWW-Authenticate"], "Bearer")
        self.assertEqual(Client(URL).ask("GET", "/health")[0], 200)
        self.assertEqual(self.client.ask("GET", "/v1/models")[0], 200)

    def test_only_the_origin_allowed_may_ask(self):
        status, headers, _ = self.client.ask("GET", "/v1/models", headers={"Origin": "https://a.example"})
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, "https://a.example"))
        self.assertEqual(self.client.ask("GET", "/v1/models", headers={"Origin": "https://b.example"})[0], 403)
        own = {"Origin": "http://" + self.client.host}
        self.assertEqual(self.client.ask("GET", "/v1/models", headers=own)[0], 200)
        status, headers, _ = Client(URL).ask("OPTIONS", "/v1/models", headers={"Origin": "https://a.example"})
        self.assertEqual((status, headers["Access-Control-Allow-Methods"]), (204, "GET, POST, OPTIONS"))

    def test_a_body_that_is_too_long_is_refused(self):
        status, _, answer = self.client.ask("POST", "/v1/completions", "x" * (1 << 20) + "y")
        self.assertEqual(status, 413, answer)
        key = self.client.headers["Authorization"].encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: " + key
        chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"80000\r\n" + b"x" * 0x80000 + b"\r\n"
        chunks += b"80001\r\n" + b"x" * 0x80001 + b"\r\n0\r\n\r\n"
        self.assertEqual(self.client.raw(head + b"\r\n" + chunks)[:12], b"HTTP/1.1 413")

    def test_a_request_that_does_not_arrive_is_refused(self):
        for data in (b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: x\r\n",
                     b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"):
            self.assertEqual(self.client.raw(data, 30)[:12], b"HTTP/1.1 408", data)

    def test_a_full_queue_is_an_error_that_says_when_to_come_again(self):
        status, headers, answer = self.client.ask("POST", "/v1/completions", {"prompt": PROMPT})
        self.assertEqual((status, answer["error"]["code"]), (429, "queue_full"))
        self.assertGreater(int(headers["Retry-After"]), 0)


if __name__ == "__main__":
    unittest.main()
