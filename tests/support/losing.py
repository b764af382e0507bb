"""Losing: a way to the service on which requests and answers get lost, in the order given."""

from __future__ import annotations

import httpx


class Losing(httpx.BaseTransport):
    """`keys` are the idempotency keys of the requests, `timeouts` what the client would wait for each answer."""

    def __init__(self, *losses: str) -> None:
        self._losses = list(losses)
        self._inner = httpx.HTTPTransport()
        self.keys: list[str] = []
        self.timeouts: list[float] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers.get("idempotency-key", ""))
        self.timeouts.append(request.extensions["timeout"]["read"])
        loss = self._losses.pop(0) if self._losses else ""
        if loss == "refused":
            raise httpx.ConnectError("connection refused")
        if loss == "starting":
            return httpx.Response(503, text="starting")
        response = self._inner.handle_request(request)
        if loss == "late":
            response.close()
            raise httpx.ReadTimeout("timed out")
        if loss == "answer":
            response.close()
            raise httpx.ReadError("connection reset")
        return response

    def close(self) -> None:
        self._inner.close()
