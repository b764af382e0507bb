"""The rows of the fault table whose storage is a bucket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from search_spaces.storage.base import open_storage
from service.contract.schemas import ExperimentView
from tests.faults.experiments import driver_of, serial, wait_for_end, wait_for_epochs
from tests.faults.invariants import assert_nothing_lost, finished
from tests.faults.proxy import Proxy
from tests.faults.stand import Stand, free_ports, running_stand
from tests.support.postgres import why_missing
from tests.support.s3_server import BUCKET, running_s3

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.faults,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(why_missing()), reason=why_missing() or ""),
]

TRIALS = 3
UNREACHABLE_S = 60.0
WRITES = (b"PUT ", b"POST ", b"DELETE ")
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class BucketProxy(Proxy):
    """The way to the bucket. While `read_only` is set, it answers writes as a store does that forbids them."""

    read_only = False

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if self.read_only and block.startswith(WRITES):
                    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
                    source.sendall(head + b"Content-Length: %d\r\n\r\n" % len(DENIED) + DENIED)
                    source.settimeout(1.0)
                    while source.recv(1 << 16):  # the rest of the request: a reset would discard the answer
                        pass
                sink.sendall(block)
        for one in (source, sink):
            one.close()


@pytest.fixture(scope="module")
def way() -> Iterator[BucketProxy]:
    """The way to a bucket, which this process and all that it starts use."""
    with running_s3() as variables, pytest.MonkeyPatch.context() as patch:
        proxy = BucketProxy(next(free_ports(1)), (int(variables["AWS_ENDPOINT_URL"].rpartition(":")[2]),))
        for name, value in {**variables, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(name, value)
        yield proxy
        proxy.close()


@pytest.fixture(scope="module")
def bucket_stand(way: BucketProxy) -> Iterator[Stand]:
    with running_stand(STORAGE_ROOT=f"s3://{BUCKET}/team") as stand:
        yield stand


@pytest.fixture(scope="module")
def undisturbed_in_bucket(bucket_stand: Stand) -> str:
    return wait_for_end(bucket_stand, bucket_stand.rung.submit(serial("undisturbed", trials=TRIALS)).id).id


def test_kill_of_a_driver_whose_storage_is_a_bucket(bucket_stand: Stand, undisturbed_in_bucket: str) -> None:
    stand = bucket_stand
    submitted = stand.rung.submit(serial("driver-killed", trials=TRIALS))
    wait_for_epochs(stand, submitted.id, 2)
    assert "epoch 1: " in stand.rung.logs(submitted.id, trial=0).text, "while it runs"
    before = finished(stand, submitted.id)
    os.kill(driver_of(stand, submitted.id), signal.SIGKILL)
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=undisturbed_in_bucket, before=before)
    assert view.attempt == 2
    assert stand.rung.logs(submitted.id, attempt=1).text
    used = stand.rung.storage(submitted.id).bytes_by_kind
    assert all(used[kind] for kind in ("checkpoints", "model", "logs", "journal")), used
    assert not (stand.home / "storage").exists()
    stand.rung.delete(submitted.id)
    left = open_storage(stand.address(submitted.id)).artifacts
    stand.wait_until(lambda: not list(left.list()), "the files are deleted")


def test_kill_of_the_service_whose_storage_is_a_bucket(bucket_stand: Stand, undisturbed_in_bucket: str) -> None:
    stand = bucket_stand
    submitted = stand.rung.submit(serial("service-killed", trials=TRIALS))
    wait_for_epochs(stand, submitted.id, 2)
    before = finished(stand, submitted.id)
    stand.kill("service")
    time.sleep(5)
    stand.start("service")
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=undisturbed_in_bucket, before=before)
    assert view.attempt == 1


def test_a_bucket_that_is_unreachable_for_a_minute(
    bucket_stand: Stand, way: BucketProxy, undisturbed_in_bucket: str
) -> None:
    """Requests are repeated for less than that, so the experiment waits for a person."""
    submitted = bucket_stand.rung.submit(serial("bucket-unreachable", trials=TRIALS))
    wait_for_epochs(bucket_stand, submitted.id, 2)
    before = finished(bucket_stand, submitted.id)
    way.cut()
    try:
        time.sleep(UNREACHABLE_S)
    finally:
        way.mend()
    assert_resumed(bucket_stand, wait_for_end(bucket_stand, submitted.id))
    assert_nothing_lost(bucket_stand, submitted.id, TRIALS, like=undisturbed_in_bucket, before=before)


def test_a_bucket_that_is_read_only_for_a_time(
    bucket_stand: Stand, way: BucketProxy, undisturbed_in_bucket: str
) -> None:
    submitted = bucket_stand.rung.submit(serial("bucket-read-only", trials=TRIALS))
    wait_for_epochs(bucket_stand, submitted.id, 2)
    before = finished(bucket_stand, submitted.id)
    way.read_only = True
    try:
        view = wait_for_end(bucket_stand, submitted.id)
    finally:
        way.read_only = False
    assert "the credentials do not allow it" in view.reason
    assert_resumed(bucket_stand, view)
    assert_nothing_lost(bucket_stand, submitted.id, TRIALS, like=undisturbed_in_bucket, before=before)


def assert_resumed(stand: Stand, view: ExperimentView) -> None:
    """A paused experiment is resumed by a person, and ends."""
    assert view.state == "PAUSED", (view.state, view.reason)
    stand.rung.resume(view.id)
    stand.wait_until(lambda: stand.rung.get(view.id).state != "PAUSED", "the experiment resumes")
    wait_for_end(stand, view.id)
