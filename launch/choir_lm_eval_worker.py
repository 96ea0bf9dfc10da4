"""A `choir worker` and its pipes, for other programs: requests go out at once, answers are matched by id.

Whatever the worker does, a call ends: with the answers, or with an error that says what came instead.
"""

import itertools
import json
import os
import shlex
import subprocess
import threading


class WorkerError(RuntimeError):
    """The worker cannot go on, or a request failed; then its text names the request."""


def describe_end(status):
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


class Worker:
    def __init__(self, command):
        environment = {"OMPI_MCA_mpi_yield_when_idle": "1", **os.environ}
        self.name = shlex.join(command)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.answers, self.awaited, self.ids = {}, set(), itertools.count()
        self.arrived, self.failure = threading.Condition(), None
        hello = self.process.stdout.readline()
        try:
            if not hello.endswith(b"\n"):
                raise WorkerError(f"{self.name}: {describe_end(self.process.wait())} before it was ready")
            self.info = json.loads(hello)["info"]
        except (ValueError, KeyError, TypeError):
            self.kill()
            raise WorkerError(f"{self.name}: expected its first line to be {{\"info\": ...}}, found {hello[:200]!r}") from None
        threading.Thread(target=self.read, daemon=True).start()

    # What comes in

    def take_line(self, line):
        """Keeps an answer, or returns what is wrong with the line."""
        if not line.endswith(b"\n"):
            return f"choir worker: half an answer: {line[:200]!r}"
        try:
            answer = json.loads(line)
        except ValueError:
            return f"choir worker: an answer that is not JSON: {line[:200]!r}"
        if not isinstance(answer, dict):
            return f"choir worker: an answer that is no object: {line[:200]!r}"
        number, error = answer.pop("id", None), answer.get("error")
        with self.arrived:
            if isinstance(number, int) and number in self.awaited:
                self.awaited.discard(number)
                self.answers[number] = answer
                self.arrived.notify_all()
                return None
        if isinstance(error, dict) and "message" in error:
            return f"choir worker: an answer without the id of a request: {error['message']}"
        return f"choir worker: an answer without the id of a request: {line[:200]!r}"

    def read(self):
        failure = None
        try:
            for line in self.process.stdout:
                failure = self.take_line(line)
                if failure is not None:
                    break
        except Exception as error:  # whatever it is, those who wait hear of it
            failure = f"choir worker: {error}"
        if failure is not None:
            self.process.kill()  # its answers can no longer be told apart
        status = self.process.wait()
        with self.arrived:
            self.failure = failure or f"choir worker {describe_end(status)} before it had answered"
            self.arrived.notify_all()

    # What goes out

    def send(self, request):
        number = next(self.ids)
        with self.arrived:
            self.awaited.add(number)
        # Valid UTF-8 or an error: a lone surrogate would be an escape that no JSON reader takes.
        line = json.dumps({"id": number, **request}, ensure_ascii=False).encode("utf-8") + b"\n"
        self.process.stdin.write(line)
        return number

    def ask(self, requests, name=None):
        """Answers in the order of the requests. name(i): what messages call request i."""
        ids = []
        try:
            for request in requests:
                ids.append(self.send(request))
            self.process.stdin.flush()
        except OSError:
            with self.arrived:
                self.arrived.wait_for(lambda: self.failure is not None, 10)
            raise WorkerError(self.failure or "choir worker: no longer takes requests") from None
        return [self.take(number, name(i) if name else f"request {i + 1} of {len(ids)}")
                for i, number in enumerate(ids)]

    def take(self, number, name):
        with self.arrived:
            self.arrived.wait_for(lambda: number in self.answers or self.failure is not None)
            if number not in self.answers:
                raise WorkerError(self.failure)
            answer = self.answers.pop(number)
        error = answer.get("error")
        if error is not None:
            message = error.get("message") if isinstance(error, dict) else None
            raise WorkerError(f"choir worker: {name}: {message or error}")
        return answer

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        if self.process.poll() is None:
            try:
                self.process.stdin.close()
            except OSError:
                pass
            self.process.wait()
