from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.support import azurite, gcs_server, s3_server

#: Of each scheme: a server, and an empty bucket of it.
SERVERS = {
    "s3": (s3_server.running_s3, s3_server.BUCKET),
    "gs": (gcs_server.running_gcs, gcs_server.BUCKET),
    "az": (azurite.running_azurite, azurite.CONTAINER),
}
NUMBERS = itertools.count()


@pytest.fixture(scope="session", params=SERVERS)
def bucket_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a bucket that exists, in each object store."""
    running, bucket = SERVERS[request.param]
    with running() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield f"{request.param}://{bucket}"


@pytest.fixture
def object_root(bucket_address: str) -> str:
    """The address of a root in a bucket, in which nothing is."""
    return f"{bucket_address}/tests-{os.getpid()}/{next(NUMBERS)}"
