"""The line of a text that names an error: of exceptions as libraries write them, and at the end of logs."""

from __future__ import annotations

import textwrap

import pytest

from search_spaces.tracebacks import last_error, own_line

TRACEBACK = """\
Traceback (most recent call last):
  File "/x/driver.py", line 3, in main
    fit()
    ^^^^^
RuntimeError: CUDA error: device-side assert triggered
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
OTHER = """\
Traceback (most recent call last):
  File "/x/a.py", line 3, in a
KeyError: 'lr'

During handling of the above exception, another exception occurred:

"""
RAYS = """\
\x1b[36mray::TrialWorker.step()\x1b[39m (pid=7, ip=10.0.0.1)
  File "/x/worker.py", line 9, in step
    raise ValueError("no such layer")
ValueError: no such layer
"""
RECORD = "2026-11-29 02:00:00,123 {} workers.attempt {}\n"
WARNING = RECORD.format("WARNING", "MLflow did not accept the newest events")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n  \n", ""),
        ("no such layer", "no such layer"),
        (
            "CUDA error: device-side assert triggered\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
            "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n",
            "CUDA error: device-side assert triggered",
        ),
        (
            "Error(s) in loading state_dict for CNN:\n\tsize mismatch for head.weight\n\tsize mismatch for head.bias",
            "Error(s) in loading state_dict for CNN: size mismatch for head.weight",
        ),
        (TRACEBACK, "RuntimeError: CUDA error: device-side assert triggered"),
        (OTHER + TRACEBACK, "RuntimeError: CUDA error: device-side assert triggered"),
        (RAYS, "ValueError: no such layer"),
        ("Traceback:\n  somewhere\nKeyError: 'x'\n", "KeyError: 'x'"),
        ('Traceback (most recent call last):\n  File "cut", line 1', 'File "cut", line 1'),
    ],
)
def test_the_own_line_of_an_exception_is_not_what_follows_it(text: str, line: str) -> None:
    assert own_line(text) == line


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", ""),
        (WARNING, ""),
        (RECORD.format("INFO", "trial 3 takes a slot"), ""),
        (RECORD.format("ERROR", "the attempt failed: OSError"), "the attempt failed: OSError"),
        (WARNING + TRACEBACK, "RuntimeError: CUDA error: device-side assert triggered"),
        (TRACEBACK + WARNING, ""),
        (WARNING + "Killed\n", "Killed"),
        ("python: can't open file 'x'\n", "python: can't open file 'x'"),
        (
            WARNING + "Fatal Python error: Segmentation fault\n\nThread 0x7f (most recent call first):\n"
            '  File "/x/y.py", line 3 in z\n',
            "Fatal Python error: Segmentation fault",
        ),
    ],
)
def test_a_log_ends_with_an_error_or_with_something_that_need_not_be_a_cause(log: str, error: str) -> None:
    assert last_error(textwrap.dedent(log)) == error
