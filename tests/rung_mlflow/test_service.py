"""What Rung's service says of tokens, and for how long it is remembered."""

from __future__ import annotations

import httpx
import pytest

from rung_mlflow.service import MOST_NEW, MOST_REMEMBERED, OUTAGE_S, REMEMBERED_S, Service, UnansweredError
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


def test_a_service_that_does_not_answer_is_asked_once_in_a_while() -> None:
    """Also about tokens that it knew: what they open may have changed."""
    now = 0.0
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        service = Service(server.url, lambda: now)
        service.workspaces("", "known")
        url = server.url
    now = REMEMBERED_S + 1
    asked = 0

    def count(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        raise httpx.ReadTimeout("timed out", request=request)

    service._client = httpx.Client(base_url=url, transport=httpx.MockTransport(count))
    for token in ("new", "known", "newer"):
        with pytest.raises(UnansweredError, match="timed out"):
            service.workspaces("", token)
    assert asked == 1
    now += OUTAGE_S
    with pytest.raises(UnansweredError):
        service.workspaces("", "new")
    assert asked == 2


def test_strangers_make_few_requests_and_keep_nobody_out_who_is_known() -> None:
    now = 0.0
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        service = Service(server.url, lambda: now)
        assert service.workspaces("", "known")
        now = REMEMBERED_S + 1
        server.answers[f"GET {PEOPLE}"] = (401, {})
        refused = 0
        for number in range(10 * MOST_NEW):
            try:
                service.workspaces("", f"guess {number}")
            except UnansweredError:
                refused += 1
        assert (len(server.requests), refused) == (1 + MOST_NEW, 9 * MOST_NEW)
        server.answers[f"GET {PEOPLE}"] = (200, VISION)
        assert service.workspaces("", "known")
        now += 1.0
        assert service.workspaces("", "new")


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


def test_strangers_push_out_nobody_who_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is pushed out would be one of many unknown tokens then."""
    monkeypatch.setattr("rung_mlflow.service.MOST_REMEMBERED", 2)
    now = 0.0
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        service = Service(server.url, lambda: now)
        for token in ("known", "stranger"):
            service.workspaces("", token)
        now = REMEMBERED_S + 1
        for token in ("known", "other", "known"):
            service.workspaces("", token)
        assert server.tokens == [f"Bearer {token}" for token in ("known", "stranger", "known", "other")]


def test_the_url_of_the_service_may_end_in_a_slash() -> None:
    with recording({f"GET {PEOPLE}": (200, VISION)}) as server:
        assert Service(f"{httpx.URL(server.url)}/").workspaces("", "one") == VISION["workspaces"]
