from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.support.s3_server import BUCKET, running_s3

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[None]:
    with running_s3() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def s3_root(s3_server: None) -> str:
    """The address of a root in a bucket, in which nothing is."""
    return f"s3://{BUCKET}/tests-{os.getpid()}/{next(NUMBERS)}"
