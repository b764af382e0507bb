"""The SDK, connected to the real service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.client import Client


@pytest.fixture
def rung(client: httpx.Client) -> Iterator[Client]:
    with Client(str(client.base_url)) as rung:
        yield rung
