"""A server that gives prepared answers and records what it was sent: methods, paths, bodies and tokens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.handlers import QuietHandler, handling


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    authorization: str | None


@dataclass
class Recorded:
    """The URL of the server, the answers by `METHOD /path`, and the requests so far.

    An answer is a status and a JSON document, or a status and an address for a redirect.
    """

    url: str
    answers: dict[str, tuple[int, Any]]
    requests: list[Request] = field(default_factory=list)

    @property
    def tokens(self) -> list[str | None]:
        return [request.authorization for request in self.requests]


@contextlib.contextmanager
def recording(answers: Mapping[str, tuple[int, Any]]) -> Iterator[Recorded]:
    """A server that runs for the length of the block; what it has no answer for is a problem of status 404."""
    found = Recorded("", dict(answers))

    class Handler(QuietHandler):
        def respond(self) -> None:
            split = urlsplit(self.path)
            sent = self.body()
            body = json.loads(sent) if sent.startswith(b"{") else sent.decode()
            authorization = self.headers.get("Authorization")
            query = dict(parse_qsl(split.query))
            found.requests.append(Request(self.command, split.path, query, body, authorization))
            missing = {"type": "urn:rung:problem:not-found", "detail": f"there is no {split.path}", "status": 404}
            status, document = found.answers.get(f"{self.command} {split.path}", (404, missing))
            if 300 <= status < 400:
                self.send_response(status)
                self.send_header("Location", document)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(status)
            content = b"" if status == 204 else json.dumps(document).encode()
            kind = "application/json" if status < 400 else "application/problem+json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with handling(Handler) as found.url:
        yield found
