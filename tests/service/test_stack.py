"""What `rung up` decides before and beside its children; the children themselves are started in tests/e2e."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service import stack

OK, AWAY = {"ok": True, "why": ""}, {"ok": False, "why": "not asked yet"}


@pytest.mark.parametrize(
    ("status", "changes", "ready"),
    [
        (200, {}, True),
        (200, {"ray": AWAY}, False),
        (200, {"mlflow": AWAY}, False),
        (503, {"ready": False}, False),
    ],
)
def test_the_stack_is_ready_when_its_service_sees_ray_and_mlflow(
    status: int, changes: dict[str, Any], ready: bool
) -> None:
    said = {"ready": True, "database": OK, "ray": OK, "mlflow": OK, **changes}
    assert stack.sees_all(httpx.Response(status, json=said)) is ready


def test_the_stack_is_ready_when_its_service_sees_a_node() -> None:
    assert not stack.sees_a_node(httpx.Response(200, json={"nodes": []}))
    assert stack.sees_a_node(httpx.Response(200, json={"nodes": [{"name": "a"}]}))
