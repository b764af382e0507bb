"""RayLauncher against answers that Ray's dashboard gives on its bad days."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from service.launcher import ALIVE, JobStatus, RayLauncher, RayUnreachable
from service.settings import Settings


def launcher(settings: Settings, status: int, document: dict[str, Any]) -> RayLauncher:
    """A launcher whose Ray answers everything in the same way."""
    found = RayLauncher(settings)
    answer = SimpleNamespace(status_code=status, text=str(document), json=lambda: document)
    found._client = SimpleNamespace(_do_request=lambda *_, **__: answer)
    return found


@pytest.mark.parametrize("document", [{"status": "HIBERNATING"}, {"submission_id": "x"}])
def test_a_status_that_nobody_knows_is_no_verdict(settings: Settings, document: dict[str, Any]) -> None:
    assert launcher(settings, 200, document).status("exp-x-a1") in ALIVE


def test_a_job_that_ray_does_not_have_is_unknown(settings: Settings) -> None:
    assert launcher(settings, 404, {}).status("exp-x-a1") is JobStatus.UNKNOWN


def test_a_log_that_ray_cannot_read_is_no_log(settings: Settings) -> None:
    with pytest.raises(RayUnreachable, match="500"):
        launcher(settings, 500, {"msg": "UnicodeDecodeError"}).logs("exp-x-a1")
