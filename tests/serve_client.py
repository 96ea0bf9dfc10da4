"""What the tests of choir serve ask it with: Python's standard library alone."""

import http.client
import json
import socket
import urllib.parse


class Client:
    def __init__(self, url, key=None):
        self.host = urllib.parse.urlsplit(url).netloc
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def open(self, method, path, body=None, headers=None, timeout=120):
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection.request(method, path, body, {**self.headers, **(headers or {})})
        return connection, connection.getresponse()

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and body, of JSON where it is JSON."""
        connection, response = self.open(method, path, body, headers)
        text = response.read().decode()
        connection.close()
        try:
            return response.status, response.headers, json.loads(text)
        except ValueError:
            return response.status, response.headers, text

    def post(self, path, body):
        status, _, answer = self.ask("POST", path, body)
        assert status == 200, (status, answer)
        return answer

    def stream(self, path, body):
        """The pieces of a stream, whose end has to be there."""
        connection, response = self.open("POST", path, {**body, "stream": True})
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        text = response.read().decode()
        connection.close()
        events = text.split("\n\n")
        assert events[-1] == "" and events[-2] == "data: [DONE]", text[-300:]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def raw(self, data, timeout=60):
        """What comes back for some bytes, until the server closes or nothing comes any more."""
        name, port = self.host.rsplit(":", 1)
        with socket.create_connection((name, int(port)), timeout=timeout) as s:
            s.sendall(data)
            got = b""
            try:
                while chunk := s.recv(65536):
                    got += chunk
                    if b"\r\n\r\n" in got and b"Content-Length" in got:
                        head, rest = got.split(b"\r\n\r\n", 1)
                        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                        if len(rest) >= length:
                            break
            except (ConnectionError, TimeoutError):
                pass
            return got
