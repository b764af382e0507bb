"""FlakyProxy: an HTTP proxy before MLflow that answers 500 to a share of all requests.

Owns which requests fail: by chance, from a seed. Every second of them is obeyed before its answer is lost. It counts
all requests. It must not know what they mean.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import urlsplit

#: Headers that belong to one connection, and those that the proxy writes itself.
OWN_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "host", "content-length", "date", "server"})


class FlakyProxy:
    """`share` may be changed at any time. `requests` has the number of requests by method and path without ids."""

    def __init__(self, target: str, share: float, seed: int = 7) -> None:
        self.share = share
        self.requests: Counter[str] = Counter()
        self.failed = 0
        self.url = ""
        self._target = urlsplit(target)
        self._random = Random(seed)
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[FlakyProxy]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fails, obeyed = proxy._decide(f"{self.command} {urlsplit(self.path).path}")
                failed: tuple[int, dict[str, str], bytes] = 500, {}, b"flaky"
                status, headers, answer = failed
                if obeyed:
                    found = proxy._forward(self.command, self.path, dict(self.headers), body)
                    status, headers, answer = failed if fails else found
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names of the base class

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _decide(self, name: str) -> tuple[bool, bool]:
        """Whether a request fails, and whether it reaches the target."""
        with self._lock:
            self.requests[name] += 1
            fails = self._random.random() < self.share
            self.failed += fails
            return fails, not fails or self.failed % 2 == 0

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        kept = {name: value for name, value in headers.items() if name.lower() not in OWN_HEADERS}
        connection = http.client.HTTPConnection(str(self._target.hostname), self._target.port, timeout=60)
        try:
            connection.request(method, path, body or None, kept)
            response = connection.getresponse()
            content = response.read()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in OWN_HEADERS}
            return response.status, kept, content
        except OSError:
            return 502, {}, b"MLflow does not answer"
        finally:
            connection.close()
