"""Logs: output is in the file at once, up to a limit, and no problem with the file is an error."""

from __future__ import annotations

import io
import logging
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from search_spaces.storage.folder import FolderArtifacts
from search_spaces.tracebacks import last_error
from workers.trial.logs import LogFile, captured

SPEAKER = """
import sys, logging, threading
from pathlib import Path
from search_spaces.storage.folder import FolderArtifacts
from workers.trial.logs import LogFile, captured
path = Path(sys.argv[1])
with captured(LogFile(FolderArtifacts(path.parent.parent), path.relative_to(path.parent.parent))):
    print("said")
    logging.getLogger("mine").info("logged")
    logging.getLogger("ray").warning("of a library")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    print("final line", flush=True)
    threading.Event().wait()
"""


def test_a_killed_process_leaves_all_of_its_output(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "x.log"
    process = subprocess.Popen(
        [sys.executable, "-c", SPEAKER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "final line\n":
            break
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    text = path.read_text()
    for said in ("said\n", "INFO mine logged\n", "WARNING ray of a library\n", "ZeroDivisionError", "final line\n"):
        assert said in text
    assert "ZeroDivisionError" in errors, "and goes where it went before"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_crashed_process_leaves_its_stack_traces(tmp_path: Path) -> None:
    crash = "import sys, faulthandler; from pathlib import Path; from workers.trial import logs\n"
    crash += "from search_spaces.storage.folder import FolderArtifacts\n"
    crash += "path = Path(sys.argv[1])\n"
    crash += "with logs.process_log(FolderArtifacts(path.parent), Path(path.name)):\n    faulthandler._sigsegv()\n"
    done = subprocess.run([sys.executable, "-c", crash, str(tmp_path / "x.log")], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in (tmp_path / "x.log").read_text()


def test_the_driver_has_its_own_log(tmp_path: Path) -> None:
    """It records whatever goes wrong first: here the launch config is missing."""
    command = [sys.executable, "-m", "workers.driver", str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    path = tmp_path / "logs/driver-a3.log"
    for text in (path.read_text(), done.stderr):
        missing = f"sees RUNG_STORAGE_ROOT {tmp_path.parent}, but {tmp_path / 'launch-a3.json'} is gone from it"
        assert last_error(text).startswith(f"node {platform.node()} {missing}")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_is_appended_to_and_ends_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    for life in range(4):
        log = LogFile(FolderArtifacts(tmp_path), Path("x.log"), limit_bytes=1000)
        for number in range(6):
            log.write(f"{life} {number} {'x' * 60}\n")
        log.close()
    lines = path.read_text().splitlines()
    assert lines[6].startswith("1 0 "), "what was there stays"
    assert lines[-1] == "... this log ends here: its limit of 1000 bytes is reached"
    assert sum("ends here" in line for line in lines) == 1
    assert 900 < path.stat().st_size < 1100


def test_a_long_line_is_cut_and_the_log_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(FolderArtifacts(tmp_path), Path("x.log"), limit_bytes=2**20)
    with captured(log):
        print("before")
        print("x" * 2**22)
        for _ in range(2**7):
            print("y" * 2**15, end="")
        print()
        logging.getLogger("mine").warning("many lines\n%s", "z\n" * 2**20)
        print("after")
    with pytest.raises(ValueError, match="w"), captured(log):
        raise ValueError("w\n" * 2**20)
    log.write("the next trial\n")
    log.close()
    text = (tmp_path / "x.log").read_text()
    lines = text.splitlines()
    assert [line[:3] for line in lines[:3]] == ["bef", "xxx", "yyy"]
    for line in lines[1:3]:
        assert line.endswith(f" ... {2**22 - 2**16} characters of this line left out")
    assert "WARNING mine many lines\nz\n" in text
    assert "ValueError: w\nw\n" in text
    assert text.count("characters were left out") == 2
    assert "after" in lines
    assert (lines[-1], "ends here" in text) == ("the next trial", False)
    assert "z" * 2 not in capsys.readouterr().out


def test_what_fits_is_kept_of_a_text_that_reaches_the_limit(tmp_path: Path) -> None:
    log = LogFile(FolderArtifacts(tmp_path), Path("x.log"), limit_bytes=1000)
    log.write("".join(f"{number}\n" for number in range(10**5)))
    log.close()
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert lines[:-1] == [str(number) for number in range(277)]
    assert lines[-1] == "... this log ends here: its limit of 1000 bytes is reached"


def test_a_progress_bar_is_in_the_log(tmp_path: Path) -> None:
    log = LogFile(FolderArtifacts(tmp_path), Path("x.log"))
    for number in range(10**4):
        log.write(f"\r{number} of 10000 batches")
    log.close()
    assert "\r9999 of 10000 batches\n" in (tmp_path / "x.log").read_bytes().decode()
    assert "left out" not in (tmp_path / "x.log").read_text()


def test_a_stream_prints_what_it_has_no_character_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="latin-1", write_through=True))
    log = LogFile(FolderArtifacts(tmp_path), Path("x.log"))
    with captured(log):
        print("caf\udce9 \u732b")
    log.close()
    assert printed.getvalue() == b"caf\\udce9 \\u732b\n"
    assert (tmp_path / "x.log").read_text() == "caf\\udce9 \u732b\n"


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    log = LogFile(FolderArtifacts(tmp_path), Path("x.log"))
    threads = [threading.Thread(target=lambda n=n: [log.write(f"{n * 9}\n") for _ in range(300)]) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.write("without an end")
    log.close()
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert {line: lines.count(line) for line in lines} == {n * 9: 300 for n in "abcd"} | {"without an end": 1}


def test_neither_a_full_disk_nor_an_absent_folder_raises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (tmp_path / "file").touch()
    for path in (Path("/dev/full"), tmp_path / "file" / "x.log"):
        log = LogFile(FolderArtifacts(path.parent), Path(path.name))
        with captured(log):
            print("still here")
        log.close()
    assert capsys.readouterr().out == "still here\n" * 2


def test_streams_and_handlers_are_restored(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = sys.stdout, sys.stderr, root.level, list(root.handlers), list(logging.getLogger("ray").handlers)
    log = LogFile(FolderArtifacts(tmp_path), Path("x.log"))
    with pytest.raises(KeyError), captured(log):
        {}["broken"]
    log.close()
    assert "KeyError: 'broken'" in (tmp_path / "x.log").read_text()
    assert before == (
        sys.stdout, sys.stderr, root.level, list(root.handlers), list(logging.getLogger("ray").handlers)
    )  # fmt: skip
