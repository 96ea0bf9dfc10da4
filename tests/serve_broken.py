"""Broken requests of many kinds at a server: python3 tests/serve_broken.py URL [SECONDS]

Every one is answered with a 4xx, or its connection ends, within the seconds (60), and the server goes on. A request that is whole,
cut after every one of its bytes, is no request, and so is one whose client hangs up while it is answered.
"""

import json
import random
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve_client import Client  # noqa: E402

client = Client(sys.argv[1])
limit = float(sys.argv[2]) if len(sys.argv) > 2 else 60
name, port = client.host.rsplit(":", 1)


def post(body, path="/v1/completions", head=""):
    body = body if isinstance(body, bytes) else body.encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


GOOD = post(json.dumps({"prompt": "ROMEO:", "max_tokens": 300, "ignore_eos": True, "stream": True}))
VALUES = ["-1", "1e999", "null", "true", '"x"', "[]", "{}", "[[]]", "[null]", '"\\ud800"', "9" * 400, "-0", '"' + "a" * 70000 + '"']
FIELDS = ["prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "stream", "stream_options", "logprobs",
          "echo", "logit_bias", "presence_penalty", "timeout", "model", "best_of", "suffix", "messages", "tools", "x" * 300]


def bodies():
    yield from ("", "{", "}", "[]", "nul", '{"prompt"', '{"prompt":}', "{'prompt': 'x'}", '{"prompt": "x"} {}', "\0", "\xff\xfe",
                '{"prompt": "x", "prompt": "y"}', "[" * 5000, '{"a":' * 3000, '{"prompt": "' + "\x01" + '"}')
    yield b'{"prompt": "\xff\xfe"}'
    for field in FIELDS:
        for value in VALUES:
            yield f'{{"{field}": {value}' + ("" if field == "prompt" else ', "prompt": [1]' * (field != "messages")) + ', "zzz": 1}'


def heads():
    yield from (b"\r\n\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET  /  HTTP/1.1\r\nHost: x\r\n\r\n",
                b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 9000 + b"\r\n", b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def refused(data):
    begun = time.monotonic()
    got = client.raw(data, limit)
    took = time.monotonic() - begun
    assert got == b"" or got[:8] in (b"HTTP/1.1", b"HTTP/1.0") and got[9:10] in b"45", (data[:200], got[:300])
    assert took < limit, (data[:200], took)


count = 0
for case in [*(post(body) for body in bodies()), *heads()]:
    refused(case)
    count += 1

# Cut after each byte, the client gone, on many connections at once.
for at in range(1, len(GOOD), 1):
    with socket.create_connection((name, int(port))) as s:
        s.sendall(GOOD[:at])
for _ in range(40):
    with socket.create_connection((name, int(port))) as s:
        s.sendall(GOOD)
        s.recv(random.Random(_).randrange(1, 2000))
end = time.monotonic() + limit
while client.ask("GET", "/stats")[2]["running"] > 0:
    assert time.monotonic() < end, "an answer goes on without its client"
    time.sleep(0.02)
answer = client.post("/v1/completions", {"prompt": "ROMEO:", "max_tokens": 3, "temperature": 0})
assert answer["usage"]["completion_tokens"] == 3
print(f"{count} broken requests, {len(GOOD) - 1} cut ones, 40 clients that hung up: the server goes on")
