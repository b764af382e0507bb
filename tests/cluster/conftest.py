"""Fixtures of the rows on several hosts: one site for all of them, and a search that nothing disturbed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.host import why_missing
from tests.cluster.site import Site
from tests.faults.experiments import serial, wait_for_end

#: Of each search of the rows: more would only take longer.
TRIALS = 3


@pytest.fixture(scope="session")
def shared_site() -> Iterator[Site]:
    if missing := why_missing():
        pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="rung-site-"))
    folder.chmod(0o711)
    with Site(folder) as site:
        yield site
    shutil.rmtree(folder)


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The site with everything running, whatever an earlier test left."""
    shared_site.restore()
    return shared_site


@pytest.fixture(scope="session")
def undisturbed(shared_site: Site) -> str:
    """The id of a completed search, one trial at a time."""
    shared_site.restore()
    submitted = shared_site.rung.submit(serial("undisturbed", trials=TRIALS))
    return wait_for_end(shared_site, submitted.id).id
