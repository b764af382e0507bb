"""Packing: several processes train on one GPU at the same time, each within its share of the GPU's memory; and what
the probe of `gpus_per_trial: auto` says of that GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tests.gpu.loops import SIZES, spec_of
from workers.packing.probe import ProbeError, Roots, measure

START_LIMIT_S = 100.0  # imports, the first CUDA context and the choice of convolutions, eight at a time


class PackingError(Exception):
    """A process that shared the GPU failed."""


def packing_table(device: str, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each number of processes: their images per second in all, and the ratio to one process."""
    rows: list[dict[str, Any]] = []
    for processes in SIZES[device].processes:
        try:
            results = run_together(device, processes)
        except PackingError as error:
            rows.append({"processes": processes, "error": str(error)})
            log(f"{processes} processes: {error}")
            continue
        speed = sum(result["images_per_second"] for result in results)
        row: dict[str, Any] = {"processes": processes, "images_per_second": speed}
        row["speedup"] = speed / rows[0].get("images_per_second", speed) if rows else 1.0
        if device == "cuda":
            row["peak_bytes"] = max(result["peak_bytes"] for result in results)
            row["share_bytes"] = results[0]["share_bytes"]
            row["cap_enforced"] = all(result["cap_enforced"] for result in results)
        rows.append(row)
        log(f"{processes} processes: {speed:,.0f} images/s together, {row['speedup']:.2f} times those of one")
    return rows


def probe_row(device: str, log: Callable[[str], None]) -> dict[str, Any]:
    """What a search measures before its first trial, for the network of the table, with images of the digits."""
    size = SIZES[device]
    with tempfile.TemporaryDirectory() as folder:
        roots = Roots(Path(folder), Path(folder) / "cache")
        try:
            spec = spec_of(device, size.sharing_batch, "none")
            found = measure(spec, roots, max(size.processes), size.measured_s, log)
        except ProbeError as error:
            return {"error": str(error)}
    return found.model_dump(mode="json")


def run_together(device: str, processes: int) -> list[dict[str, Any]]:
    """The result of each process. Raises PackingError if one fails, or if they take too long."""
    seconds = SIZES[device].sharing_s
    command = [
        sys.executable,
        "-c",
        "import tests.gpu.blocked, runpy; runpy.run_module('tests.gpu.loops', None, '__main__')",
    ]
    started = [
        subprocess.Popen(
            [*command, device, repr(1 / processes), repr(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    watchdog = threading.Timer(START_LIMIT_S + 3 * seconds, lambda: [process.kill() for process in started])
    watchdog.start()
    try:
        for process in started:
            if _line(process.stdout) != "ready":
                raise PackingError(_end(process))
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = []
        for process in started:
            line = _line(process.stdout)
            if not line:
                raise PackingError(_end(process))
            results.append(json.loads(line))
        return results
    finally:
        watchdog.cancel()
        for process in started:
            process.kill()
            process.communicate()


def _line(stream: IO[str] | None) -> str:
    return stream.readline().strip() if stream is not None else ""


def _end(process: subprocess.Popen[str]) -> str:
    """How a process ended: its last line on standard error."""
    _, errors = process.communicate()
    lines = errors.strip().splitlines() or ["no error message"]
    return f"a process ended with status {process.returncode}: {lines[-1]}"
