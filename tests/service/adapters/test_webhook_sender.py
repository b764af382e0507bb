"""One request to a webhook's target: real receivers that refuse, hang, redirect and drip, and names that change."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from service.adapters import connection_race, webhook_sender
from service.adapters.webhook_sender import MAX_BODY_BYTES, WebhookSender
from service.domain.deliveries import Result
from service.webhook_targets import Address, AllowedTargets
from tests.support.https_server import https_server
from tests.support.webhook_receiver import WebhookReceiver, webhook_receiver

TIMEOUT_S = 0.7
NAME = "hooks.example.test"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_race, "STAGGER_S", 0.1)


@pytest.fixture(scope="module")
def running_receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as found:
        yield found


@pytest.fixture
def receiver(running_receiver: WebhookReceiver) -> WebhookReceiver:
    running_receiver.behave()
    return running_receiver


class Names:
    """A name server: what it answers, one answer after the other, the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ip_address(one) for one in answer.split()]


def sender(names: Names | None = None, allowed: str = "127.0.0.1") -> WebhookSender:
    resolver = webhook_sender.resolve if names is None else names
    return WebhookSender(AllowedTargets.parse(allowed), resolver, timeout_s=TIMEOUT_S)


def post(to: WebhookSender, url: str, body: bytes = b"{}") -> Result:
    return to.send(url, body, {"webhook-id": "msg_1", "Content-Type": "application/json"})


def test_a_body_arrives_as_it_was_sent(receiver: WebhookReceiver) -> None:
    before = len(receiver.received())
    body = b"{" + b" " * (MAX_BODY_BYTES - 2) + b"}"
    assert post(sender(), f"{receiver.url}/a?b=c", body) == Result(True, "answered 200", 200)
    one = receiver.received()[before]
    assert (one.path, one.id, one.body) == ("/a?b=c", "msg_1", body.decode())
    assert one.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert "cookie" not in one.headers
    assert "authorization" not in one.headers


def test_a_body_that_is_too_large_is_not_sent(receiver: WebhookReceiver) -> None:
    before = len(receiver.received())
    result = post(sender(), receiver.url, b"x" * (MAX_BODY_BYTES + 1))
    assert result.outcome == "its body must have at most 16384 bytes (got 16385)"
    assert len(receiver.received()) == before


@pytest.mark.parametrize(("status", "delivered"), [(201, True), (204, True), (400, False), (410, False), (503, False)])
def test_only_a_success_is_one(receiver: WebhookReceiver, status: int, delivered: bool) -> None:
    receiver.behave(status=status)
    assert post(sender(), receiver.url) == Result(delivered, f"answered {status}", status)


@pytest.mark.parametrize(("status", "delivered"), [(200, True), (503, False)])
def test_interim_answers_are_not_the_answer(receiver: WebhookReceiver, status: int, delivered: bool) -> None:
    receiver.behave("hint", status)
    assert post(sender(), receiver.url) == Result(delivered, f"answered {status}", status)


def test_interim_answers_without_end_are_no_answer(receiver: WebhookReceiver) -> None:
    receiver.behave("hints")
    assert post(sender(), receiver.url).outcome == "ended the connection without a valid answer"


def test_no_redirect_is_followed(receiver: WebhookReceiver) -> None:
    receiver.behave("redirect")
    before = len(receiver.received())
    assert post(sender(), f"{receiver.url}/first").outcome == "answered 302: redirects are not followed"
    assert [one.path for one in receiver.received()[before:]] == ["/first"]


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_try_ends_whatever_the_receiver_does(receiver: WebhookReceiver, how: str) -> None:
    receiver.behave(how)
    begun, threads = time.monotonic(), threading.active_count()
    assert post(sender(), receiver.url).outcome == f"did not answer within {TIMEOUT_S} s"
    assert time.monotonic() - begun < TIMEOUT_S + 20  # on a busy machine; what hangs here never answers
    assert threading.active_count() <= threads, "nothing stays behind"


def test_a_receiver_that_ends_the_connection(receiver: WebhookReceiver) -> None:
    receiver.behave("drop")
    assert post(sender(), receiver.url).outcome == "ended the connection without a valid answer"


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert post(sender(), f"http://127.0.0.1:{bound.getsockname()[1]}/").outcome == "could not be reached"


def test_the_connection_goes_to_the_address_that_was_checked(receiver: WebhookReceiver) -> None:
    names = Names("127.0.0.1", "10.9.9.9")
    before = len(receiver.received())
    url = f"http://{NAME}:{receiver.port}/x"
    assert post(sender(names, f"{NAME},127.0.0.1"), url).delivered
    assert names.asked == [(NAME, receiver.port)], "the name is resolved once for a try"
    assert receiver.received()[before].headers["host"] == f"{NAME}:{receiver.port}"


def test_a_name_that_begins_to_lead_inside_is_refused(receiver: WebhookReceiver) -> None:
    """The rebinding of a name: public while it is checked, this machine afterwards."""
    names = Names("93.184.216.34", "127.0.0.1", "93.184.216.34 127.0.0.1")
    before = len(receiver.received())
    to = WebhookSender(AllowedTargets(), names, timeout_s=0.05)
    url = f"https://{NAME}:{receiver.port}/x"
    assert "public" not in post(to, url).outcome, "the first address is tried, and not reached in time"
    for _ in range(2):
        refused = post(to, url)
        assert (refused.delivered, refused.status) == (False, None)
        assert refused.outcome.startswith("its URL must have public addresses only")
        assert "127.0.0.1" not in refused.outcome, "who manages a team learns no address from it"
    assert len(receiver.received()) == before


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0"])
def test_no_notation_of_this_machine_gets_through(receiver: WebhookReceiver, host: str) -> None:
    before = len(receiver.received())
    refused = post(sender(allowed=""), f"https://{host}:{receiver.port}/x")
    assert refused.outcome.startswith(("its URL must have public addresses", "its host name could not be resolved"))
    assert len(receiver.received()) == before


def test_a_name_that_nobody_knows() -> None:
    def unknown(host: str, port: int) -> list[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    assert (
        post(WebhookSender(AllowedTargets(), unknown), "https://x.test/").outcome
        == "its host name could not be resolved"
    )


def test_the_next_address_is_tried(receiver: WebhookReceiver) -> None:
    names = Names("127.0.0.2 127.0.0.1")
    assert post(sender(names, f"{NAME}"), f"http://{NAME}:{receiver.port}/x").delivered


def test_an_address_that_swallows_packets_takes_no_time_from_the_next(receiver: WebhookReceiver) -> None:
    names = Names("127.0.0.2 127.0.0.1")
    with swallowing("127.0.0.2", receiver.port):
        assert post(sender(names, f"{NAME}"), f"http://{NAME}:{receiver.port}/x").outcome == "answered 200"
        alone = post(sender(Names("127.0.0.2"), f"{NAME}"), f"http://{NAME}:{receiver.port}/x")
        assert alone.outcome.startswith("did not answer within ")


@contextmanager
def swallowing(host: str, port: int) -> Iterator[None]:
    """A server whose queue of connections is full: Linux drops further ones without an answer."""
    with ExitStack() as opened:
        server = opened.enter_context(socket.socket())
        server.bind((host, port))
        server.listen(0)
        while True:
            waiting = opened.enter_context(socket.socket())
            waiting.settimeout(0.2)
            try:
                waiting.connect((host, port))
            except TimeoutError:
                break
        yield


def test_the_certificate_must_be_that_of_the_name(tmp_path: Path) -> None:
    with https_server(tmp_path, NAME) as (port, trusted):
        allowed = AllowedTargets.parse(f"{NAME},other.example.test")
        names = Names("127.0.0.1")
        knowing = WebhookSender(allowed, names, ssl.create_default_context(cafile=str(trusted)), timeout_s=5)
        assert post(knowing, f"https://{NAME}:{port}/x") == Result(True, "answered 200", 200)
        wrong = post(knowing, f"https://other.example.test:{port}/x").outcome
        assert wrong.startswith("its certificate is not valid: Hostname mismatch"), wrong
        stranger = WebhookSender(allowed, names, ssl.create_default_context(), timeout_s=5)
        assert post(stranger, f"https://{NAME}:{port}/x").outcome.startswith("its certificate is not valid: self")


def test_a_server_without_tls(receiver: WebhookReceiver) -> None:
    outcome = post(sender(), f"https://127.0.0.1:{receiver.port}/x").outcome
    assert outcome in ("no encrypted connection could be made", f"did not answer within {TIMEOUT_S} s")
