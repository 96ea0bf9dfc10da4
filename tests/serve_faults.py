"""Streams that are open when something happens to their server: python3 tests/serve_faults.py URL N SECONDS EXPECTED COMMAND...

Opens N streams, runs the command when all have begun, and expects every stream to end within the seconds: by an error event
(EXPECTED: error), by a connection that breaks (broken), by either (over), or whole (done), after which the server takes no new request.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve_client import Client  # noqa: E402

url, n, seconds, expected, command = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5:]
client = Client(url)
begun = threading.Barrier(n + 1)
ends = [None] * n


def follow(i):
    tokens = 400 if expected == "done" else 900
    fields = {"prompt": f"ROMEO: {i}", "max_tokens": tokens, "ignore_eos": True, "stream": True, "seed": i}
    try:
        connection, response = client.open("POST", "/v1/completions", fields)
        lines = (line for line in response if line.startswith(b"data: "))
        next(lines)
        begun.wait(60)
        last = b"{}"
        try:
            for line in lines:
                last = line[6:].strip()
        except (http.client.HTTPException, ConnectionError):
            pass
        ends[i] = "done" if last == b"[DONE]" else "error" if "error" in json.loads(last) else "broken"
    except Exception as error:  # noqa: BLE001
        ends[i] = repr(error)
        begun.abort()


threads = [threading.Thread(target=follow, args=(i,)) for i in range(n)]
for thread in threads:
    thread.start()
begun.wait(60)
start = time.monotonic()
subprocess.run(command, check=True)
if expected == "done":
    wait = time.monotonic() + 20
    try:
        while client.ask("GET", "/health")[2].get("status") == "ok" and time.monotonic() < wait:
            time.sleep(0.01)
        status, _, answer = client.ask("POST", "/v1/completions", {"prompt": "x"})
        assert (status, answer["error"]["code"]) == (503, "draining"), (status, answer)
    except OSError:
        pass  # all streams have ended, and the server with them
for thread in threads:
    thread.join(120)
took = time.monotonic() - start
assert all(end == expected or (expected == "over" and end in ("error", "broken")) for end in ends), ends
assert took < seconds, took
print(f"{n} streams ended after {took:.2f} s: {expected}")
