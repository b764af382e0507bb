"""Every response of the service, checked against what the OpenAPI document says of it."""

from __future__ import annotations

import re
from typing import Any

import httpx

from service.api.headers import HEADERS


class DocumentedResponses:
    """A hook for responses of an HTTP client. It fails for a status, a media type or a header that is not documented.

    Requests that no operation describes are not checked: another method, or an unknown path.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._operations = {
            (method.upper(), re.compile(re.sub(r"{\w+}", "[^/]+", path))): operation
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }

    def __call__(self, response: httpx.Response) -> None:
        request = response.request
        for (method, path), operation in self._operations.items():
            if request.method == method and path.fullmatch(request.url.path):
                self._check(response, operation)

    def _check(self, response: httpx.Response, operation: dict[str, Any]) -> None:
        name, documented = operation["operationId"], operation["responses"].get(str(response.status_code))
        if documented is None:
            raise AssertionError(f"{name} answers {response.status_code}, which is not documented")
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if media_type not in documented.get("content", {"": None}):  # without content, none is sent
            raise AssertionError(f"{name} answers {response.status_code} as {media_type}, which is not documented")
        expected = {header.lower() for header in documented.get("headers", ())}
        undocumented = {header.lower() for header in HEADERS if header in response.headers} - expected
        if undocumented:
            raise AssertionError(f"{name} sends {undocumented}, which its {response.status_code} does not document")
