"""Azure Blob Storage server: Azurite, Microsoft's emulator, which npm installs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from tests.support.s3_server import free_port

CONTAINER = "rung-tests"
#: Those of all Azurites, as documented.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2023-11-03"  # of the protocol


@contextmanager
def running_azurite() -> Iterator[Mapping[str, str]]:
    """A server with an empty container CONTAINER. Yields the environment variables by which clients reach it."""
    if (program := shutil.which("azurite-blob")) is None:
        pytest.skip("no Azurite: npm install --global azurite")
    port = free_port()
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    server = subprocess.Popen(
        [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options], stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        _create_container(url, server)
        yield {
            "AZURE_STORAGE_ENDPOINT": url,
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }
    finally:
        server.kill()
        server.wait()


def _create_container(url: str, server: subprocess.Popen[bytes]) -> None:
    """As soon as the server answers."""
    deadline = time.monotonic() + 240
    while True:
        date = formatdate(usegmt=True)
        signed = [
            "PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{VERSION}", f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}",
            "restype:container",
        ]  # fmt: skip
        digest = hmac.digest(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256)
        request = urllib.request.Request(
            f"{url}/{CONTAINER}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": VERSION,
                "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            },
        )
        try:
            urllib.request.urlopen(request, timeout=30).close()
            return
        except OSError:
            if time.monotonic() > deadline or server.poll() is not None:
                raise
            time.sleep(0.1)
