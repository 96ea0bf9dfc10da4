"""Many connections and many requests: python3 tests/serve_many.py URL PROCESS CONNECTIONS ACTIVE REQUESTS [MIB]

Opens CONNECTIONS that stay open, lets ACTIVE of them stream answers at once, and asks again on every one. Then sends REQUESTS in
turn. No answer may be an error; PROCESS, the server's, may have grown by at most MIB after the first fifth of the requests.
"""

import http.client
import json
import resource
import sys
import threading
import time
import urllib.parse
from pathlib import Path

HOST = urllib.parse.urlsplit(sys.argv[1]).netloc
PROCESS, CONNECTIONS, ACTIVE, REQUESTS = map(int, sys.argv[2:6])
MOST_MIB = float(sys.argv[6]) if len(sys.argv) > 6 else float("inf")


def memory_mib():
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{PROCESS}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1024


def ask(connection, method, path, fields=None):
    connection.request(method, path, json.dumps(fields) if fields else None)
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200, (response.status, text)
    return text


def answer_of(i, **fields):
    return {"prompt": f"ROMEO {i}:", "seed": i, "ignore_eos": True, **fields}


def stream(connection, i, ends):
    text = ask(connection, "POST", "/v1/completions", answer_of(i, max_tokens=64, stream=True))
    ends[i] = text.endswith("data: [DONE]\n\n") and text.count("data: {") >= 64


_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, CONNECTIONS + 256), most))
before = memory_mib()
connections = [http.client.HTTPConnection(HOST, timeout=300) for _ in range(CONNECTIONS)]
for connection in connections:
    ask(connection, "GET", "/health")
opened, begin, ends = memory_mib(), time.monotonic(), [False] * ACTIVE
threads = [threading.Thread(target=stream, args=(connection, i, ends)) for i, connection in enumerate(connections[:ACTIVE])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(ends), ends
seconds = time.monotonic() - begin
for connection in connections:
    ask(connection, "GET", "/health")
    assert connection.sock is not None, "the server has closed a connection"
print(f"{CONNECTIONS} connections, {ACTIVE} active: {64 * ACTIVE / seconds:.0f} tokens/s; {before:.1f} MiB without, {opened:.1f} with "
      f"open connections, {memory_mib():.1f} after the answers")
for connection in connections[1:]:
    connection.close()

begin, early = time.monotonic(), 0
for i in range(REQUESTS):
    ask(connections[0], "POST", "/v1/completions", answer_of(i, max_tokens=2))
    if i == REQUESTS // 5:
        early = memory_mib()
grown = memory_mib() - early
print(f"{REQUESTS} requests in turn: {REQUESTS / (time.monotonic() - begin):.0f}/s; {early:.1f} MiB after a fifth, {grown:+.2f} MiB since")
assert grown <= MOST_MIB, grown
