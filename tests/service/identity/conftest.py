"""One OpenID provider process for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.openid_provider import OpenIdProvider, openid_provider


@pytest.fixture(scope="module")
def running_provider() -> Iterator[OpenIdProvider]:
    with openid_provider() as provider:
        yield provider


@pytest.fixture
def provider(running_provider: OpenIdProvider) -> OpenIdProvider:
    """A provider that behaves."""
    running_provider.behave()
    return running_provider
