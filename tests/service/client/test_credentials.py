"""Which token a client sends, and where: two real servers, and the files of a person's home folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.client import Client
from service.client.private_files import PrivateFileError
from service.client.token_store import StoredToken, TokenStore, origin_of
from service.client.transport import UnreachableError
from service.contract.home_files import OWNER_TOKEN, STACK
from tests.support.recording_server import Recorded, recording

HEALTHY = {"GET /healthz": (200, {"status": "ok"})}


@pytest.fixture
def own() -> Iterator[Recorded]:
    """The server that the person signed in to."""
    with recording(HEALTHY) as server:
        yield server


@pytest.fixture
def other() -> Iterator[Recorded]:
    """A server of somebody else, on another port of the same machine."""
    with recording(HEALTHY) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder in which nobody has signed in."""
    for name in ("RUNG_TOKEN", "RUNG_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


@pytest.fixture
def store(home: Path) -> TokenStore:
    return TokenStore(home / "config" / "rung")


def ask(*urls: str) -> None:
    for url in urls:
        with Client(url) as client:
            client.ping()


def run_stack(home: Path, url: str, pid: int) -> None:
    """What `rung up` leaves in a home folder."""
    (home / "home" / STACK).write_text(json.dumps({"pid": pid, "service": url}))
    (home / "home" / OWNER_TOKEN).write_text("rung_p_owner\n")
    (home / "home" / OWNER_TOKEN).chmod(0o600)


def test_a_token_goes_to_the_origin_that_issued_it(own: Recorded, other: Recorded, store: TokenStore) -> None:
    store.put(own.url, StoredToken("rung_p_mine"))
    ask(own.url, f"{own.url}/", other.url, own.url.replace("127.0.0.1", "localhost"))
    assert own.tokens == ["Bearer rung_p_mine", "Bearer rung_p_mine", None]
    assert other.tokens == [None]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_token_along(own: Recorded, other: Recorded, store: TokenStore, status: int) -> None:
    store.put(own.url, StoredToken("rung_p_mine"))
    own.answers = {"GET /healthz": (status, f"{other.url}/healthz")}
    with pytest.raises(UnreachableError):
        ask(own.url)
    assert (own.tokens, other.tokens) == (["Bearer rung_p_mine"], [])


def test_each_origin_has_its_own_token(own: Recorded, other: Recorded, store: TokenStore) -> None:
    store.put(own.url, StoredToken("rung_p_mine"))
    store.put(other.url, StoredToken("rung_p_theirs"))
    store.remove(own.url)
    store.put(own.url, StoredToken("rung_p_new", expires_at="2027-01-01T00:00:00Z"))
    ask(own.url, other.url)
    assert (own.tokens, other.tokens) == (["Bearer rung_p_new"], ["Bearer rung_p_theirs"])
    store.remove(other.url)
    ask(other.url)
    assert other.tokens[-1] is None


def test_the_variable_wins_for_the_origin_of_its_url_only(
    own: Recorded, other: Recorded, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(own.url, StoredToken("rung_p_mine"))
    store.put(other.url, StoredToken("rung_p_theirs"))
    monkeypatch.setenv("RUNG_TOKEN", "rung_s_ci")
    monkeypatch.setenv("RUNG_URL", f"{own.url}/")
    ask(own.url, other.url)
    assert (own.tokens, other.tokens) == (["Bearer rung_s_ci"], ["Bearer rung_p_theirs"])
    monkeypatch.delenv("RUNG_URL")
    ask(own.url)
    assert own.tokens[-1] == "Bearer rung_p_mine", "without RUNG_URL the variable is for the default URL"


def test_without_a_url_the_variable_is_for_the_running_stack(
    own: Recorded, other: Recorded, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stack(home, own.url, os.getpid())
    monkeypatch.setenv("RUNG_TOKEN", "rung_s_ci")
    ask(own.url, other.url)
    assert (own.tokens, other.tokens) == (["Bearer rung_s_ci"], [None])


def test_a_token_that_is_passed_is_sent_and_an_empty_one_sends_nothing(own: Recorded, store: TokenStore) -> None:
    store.put(own.url, StoredToken("rung_p_mine"))
    for token in ("rung_p_given", ""):
        with Client(own.url, token) as client:
            client.ping()
    assert own.tokens == ["Bearer rung_p_given", None]


def test_the_owner_token_goes_to_the_running_stack_of_this_person(own: Recorded, other: Recorded, home: Path) -> None:
    run_stack(home, own.url, os.getpid())
    ask(own.url, other.url, own.url.replace("127.0.0.1", "localhost"))
    assert own.tokens == ["Bearer rung_p_owner", None]
    assert other.tokens == [None]


def test_the_port_of_a_stack_that_was_killed_may_be_somebody_elses(own: Recorded, home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    for pid in (ended.pid, 0, -1, 2**80):
        run_stack(home, own.url, pid)
        ask(own.url)
    assert own.tokens == [None] * 4


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_file_that_others_can_read_or_change_is_refused(
    own: Recorded, home: Path, store: TokenStore, mode: int
) -> None:
    store.put(own.url, StoredToken("rung_p_mine"))
    store.path.chmod(mode)
    with pytest.raises(PrivateFileError, match=rf"{store.path} must be readable by you only \(its mode is 0{mode:o}\)"):
        Client(own.url)
    store.path.unlink()
    run_stack(home, own.url, os.getpid())
    (home / "home" / OWNER_TOKEN).chmod(mode)
    with pytest.raises(PrivateFileError, match="owner_token must be readable by you only"):
        Client(own.url)
    assert own.requests == []


def test_a_link_or_a_folder_is_no_token_file(own: Recorded, home: Path, store: TokenStore) -> None:
    store.put(own.url, StoredToken("rung_p_mine"))
    store.path.rename(home / "elsewhere")
    store.path.symlink_to(home / "elsewhere")
    with pytest.raises(PrivateFileError):
        Client(own.url)
    store.path.unlink()
    store.path.mkdir()
    with pytest.raises(PrivateFileError, match="must be a regular file"):
        Client(own.url)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"version": 1}', b'{"version": 1, "origins": {"http://x": 1}}', b"\xff", b"[" * 9999],
)
def test_a_damaged_file_says_what_to_do(own: Recorded, store: TokenStore, content: bytes) -> None:
    store.put(own.url, StoredToken("x"))
    store.path.write_bytes(content)
    with pytest.raises(PrivateFileError, match=str(store.path)):
        Client(own.url)


def test_a_file_of_a_later_version_is_left_as_it_is(own: Recorded, store: TokenStore) -> None:
    store.put(own.url, StoredToken("x"))
    store.path.write_text('{"version": 2}')
    with pytest.raises(PrivateFileError, match="must have version 1"):
        store.put(own.url, StoredToken("y"))
    assert store.path.read_text() == '{"version": 2}'


def test_the_file_and_its_folder_are_private(store: TokenStore) -> None:
    before = os.umask(0)
    try:
        store.put("https://rung.example", StoredToken("rung_p_mine"))
    finally:
        os.umask(before)
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700


def test_two_processes_that_sign_in_at_once_keep_both_tokens(store: TokenStore) -> None:
    code = (
        "import sys; from pathlib import Path; from service.client.token_store import StoredToken, TokenStore\n"
        "store = TokenStore(Path(sys.argv[1]))\n"
        "for n in range(20): store.put(f'https://{sys.argv[2]}-{n}.example', StoredToken('x'))\n"
    )
    command = [sys.executable, "-c", code, str(store.path.parent)]
    processes = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(json.loads(store.path.read_text())["origins"]) == 40


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Rung.Example/api/", "https://rung.example"),
        ("https://rung.example:443", "https://rung.example"),
        ("https://rung.example.:8443/", "https://rung.example:8443"),
        ("http://user:secret@rung.example", "http://rung.example"),
        ("http://[::1]:80/x", "http://[::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin
