"""Requests and answers that get lost on the way: the SDK repeats what is safe to repeat."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import Client, UnreachableError
from service.client.transport import NoAnswerError
from service.contract.errors import (
    InternalError,
    RungError,
    ValidationFailedError,
)
from tests.support.https_server import https_server
from tests.support.losing import Losing

SPEC = {"name": "first"}


def test_the_error_for_an_unreachable_service_has_its_address_and_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nothing answers
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as rung, pytest.raises(UnreachableError) as caught:
            rung.health()
    assert caught.value.detail.startswith(f"no Rung service answers at {url} (")
    assert "--url" not in caught.value.detail, "options belong to the command line"


def test_a_host_that_does_not_exist_is_unreachable() -> None:
    with pytest.raises(UnreachableError), Client("http://nowhere.invalid") as rung:
        rung.health()


@pytest.mark.parametrize(
    ("status", "headers", "body", "error"),
    [
        (200, {"content-type": "text/html"}, b"<html>", UnreachableError),
        (200, {"content-type": "application/json"}, b"{}", UnreachableError),
        (200, {"content-type": "application/json"}, b"[1]", UnreachableError),
        (200, {"content-type": "application/json", "content-encoding": "gzip"}, b"no gzip", UnreachableError),
        (502, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>", UnreachableError),
        (503, {"content-type": "text/html"}, b"busy", UnreachableError),
        (504, {"content-type": "text/html"}, b"", UnreachableError),
        (500, {"content-type": "text/html"}, b"", InternalError),
        (200, {"content-type": "application/json"}, b"[" * 200_000, UnreachableError),
        (422, {"content-type": "application/problem+json"}, b"not json", UnreachableError),
        (422, {"content-type": "application/problem+json"}, b'["odd"]', ValidationFailedError),
        (404, {"content-type": "application/json"}, b'{"detail": "Not Found"}', UnreachableError),
        (405, {"content-type": "text/html"}, b"", UnreachableError),
        (308, {"location": "https://rung.test/"}, b"", UnreachableError),
    ],
)
def test_other_services_at_the_address(status: int, headers: Any, body: bytes, error: type[RungError]) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, headers=headers, stream=httpx.ByteStream(body)))
    with Client("http://rung.test", transport=transport) as rung, pytest.raises(error):
        rung.get("22222222")


def test_a_certificate_that_is_not_accepted_is_named(tmp_path: Path) -> None:
    with https_server(tmp_path, "rung.test") as (port, _):
        url = f"https://localhost:{port}"
        with (
            Client(url) as rung,
            pytest.raises(UnreachableError, match=f"the certificate of {url} is not accepted") as no,
        ):
            rung.health()
    assert "SSL_CERT_FILE" in str(no.value)
    assert not isinstance(no.value, NoAnswerError), "which would advise to start a service"


def test_an_answer_that_is_cut_off_is_not_reported_as_no_service() -> None:
    """Who believed that would start another service, or submit an experiment again that was accepted."""

    class Cut(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b'{"id": '
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Cut()))
    with Client("http://rung.test", transport=transport) as rung, pytest.raises(UnreachableError) as cut:
        rung.get("22222222")
    assert str(cut.value).startswith("the answer of http://rung.test was cut off (peer closed connection")
    assert not isinstance(cut.value, NoAnswerError)


def test_pages_that_do_not_end_are_not_those_of_rung() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"items": [], "next_cursor": "more"}))
    with Client("http://rung.test", transport=transport) as rung, pytest.raises(UnreachableError, match="do not end"):
        list(rung.list())


def test_a_submission_survives_a_restart_of_the_service(client: httpx.Client, rung: Client) -> None:
    lossy = Losing("answer", "refused", "starting", "answer")
    with Client(str(client.base_url), transport=lossy) as shaky:
        first = shaky.submit(SPEC)
        second = shaky.submit(SPEC)
    assert [view.id for view in rung.list()] == [second.id, first.id]
    assert len(set(lossy.keys[:5])) == 1
    assert lossy.keys[5] not in {"", lossy.keys[0]}, "each submission has a key of its own"


def test_a_continuation_survives_a_restart_of_the_service(client: httpx.Client, rung: Client) -> None:
    source = rung.submit(SPEC)
    rung.cancel(source.id)
    lossy = Losing("answer", "refused", "starting")
    with Client(str(client.base_url), transport=lossy) as shaky:
        continuation = shaky.continue_from(source.id)
    assert [view.id for view in rung.list()] == [continuation.id, source.id]
    assert len(lossy.keys) == 4
    assert len(set(lossy.keys)) == 1


def test_a_submission_that_times_out_after_it_was_stored_makes_one_experiment(
    client: httpx.Client, rung: Client
) -> None:
    lossy = Losing("late")
    with Client(str(client.base_url), transport=lossy) as shaky:
        made = shaky.submit(SPEC)
    assert [view.id for view in rung.list()] == [made.id]
    assert len(lossy.keys) == 2
    assert len(set(lossy.keys)) == 1


def test_a_submission_is_retried_for_a_limited_time(client: httpx.Client) -> None:
    lossy = Losing(*["refused"] * 50)
    with Client(str(client.base_url), transport=lossy, submit_retry_s=0.5) as shaky, pytest.raises(UnreachableError):
        shaky.submit(SPEC)
    assert 1 < len(lossy.keys) < 50


def test_a_refused_submission_is_not_sent_again(client: httpx.Client) -> None:
    way = Losing()
    with Client(str(client.base_url), transport=way) as rung, pytest.raises(ValidationFailedError):
        rung.submit({"name": 7})
    assert len(way.keys) == 1


def test_watching_continues_after_the_service_was_unreachable(client: httpx.Client) -> None:
    lossy = Losing("", "refused", "starting")
    with Client(str(client.base_url), transport=lossy) as rung:
        experiment = rung.submit(SPEC)
        view = next(rung.watch(experiment.id, interval_s=0.01))
    assert view.id == experiment.id
    assert len(lossy.keys) == 4
