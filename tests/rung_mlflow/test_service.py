"""What Rung's service says of tokens, and for how long it is remembered."""

from __future__ import annotations

import httpx
import pytest

from rung_mlflow.service import MOST_REMEMBERED, REMEMBERED_S, Service, UnansweredError
from tests.support.recording_server import recording

PEOPLE, ATTEMPTS = "/api/v1/auth/mlflow", "/api/v1/attempts/exp-k3v9q2mz-a1/mlflow"
VISION = {"workspaces": {"vision": "vision~member"}}


def test_an_answer_is_remembered_for_a_while() -> None:
    now = 0.0
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        service = Service(server.url, lambda: now)
        for _ in range(3):
            assert service.workspaces("any name", "one") == VISION["workspaces"]
        assert service.workspaces("any name", "two") == VISION["workspaces"]
        assert server.tokens == ["Bearer one", "Bearer two"]
        server.answers[f"GET {PEOPLE}"] = (401, {})
        now = REMEMBERED_S - 1
        assert service.workspaces("any name", "one") == VISION["workspaces"]
        now = REMEMBERED_S + 1
        assert service.workspaces("any name", "one") is None


def test_a_driver_is_asked_for_by_its_attempt_and_its_token_opens_nothing_as_a_persons() -> None:
    with recording({f"GET {ATTEMPTS}": (200, VISION), f"GET {PEOPLE}": (401, {})}) as server:
        service = Service(server.url)
        assert service.workspaces("exp-k3v9q2mz-a1", "secret") == VISION["workspaces"]
        assert service.workspaces("alice", "secret") is None
        assert service.workspaces("exp-k3v9q2mz-a1/../..", "secret") is None
        assert [request.path for request in server.requests] == [ATTEMPTS, PEOPLE]


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_a_token_that_opens_nothing_is_asked_about_once(status: int) -> None:
    with recording({f"GET {PEOPLE}": (status, {})}) as server:
        service = Service(server.url)
        assert [service.workspaces("", "bad") for _ in range(2)] == [None, None]
        assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [(500, {}), (200, {}), (200, []), (200, {"workspaces": []}), (302, PEOPLE)])
def test_what_is_no_answer_of_the_service_is_not_remembered(answer: tuple[int, object]) -> None:
    with recording({f"GET {PEOPLE}": answer}) as server:
        service = Service(server.url)
        with pytest.raises(UnansweredError):
            service.workspaces("", "one")
        server.answers[f"GET {PEOPLE}"] = (200, VISION)
        assert service.workspaces("", "one") == VISION["workspaces"]


def test_a_service_that_is_gone_answers_nothing() -> None:
    with recording({}) as server:
        url = server.url
    with pytest.raises(UnansweredError):
        Service(url).workspaces("", "one")


@pytest.mark.parametrize("token", ["a\nb", "é", "\ud800", ""])
def test_what_can_be_no_token_costs_no_request(token: str) -> None:
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        found = Service(server.url).workspaces("", token)
        assert (found, server.requests) == (None, [])


def test_a_bounded_number_of_tokens_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rung_mlflow.service.MOST_REMEMBERED", 2)
    assert MOST_REMEMBERED > 2
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        service = Service(server.url)
        for token in ("one", "two", "three", "three", "one"):
            service.workspaces("", token)
        assert server.tokens == [f"Bearer {token}" for token in ("one", "two", "three", "one")]


def test_the_url_of_the_service_may_end_in_a_slash() -> None:
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        assert Service(f"{httpx.URL(server.url)}/").workspaces("", "one") == VISION["workspaces"]
