"""`python -m tests.gpu`: every check that needs a GPU, in one command that takes less than eight minutes.

It needs a checkout, and torch, torchvision, pydantic, pyyaml, numpy, scikit-learn, pillow and pytest. It needs neither
ray nor mlflow, which are blocked. It checks the imports, runs the tests marked gpu, measures the training loop against
a bare loop, several processes on one GPU, and one trial on all GPUs, and writes `gpu.json` and `gpu.md` into `--out`.
Without a CUDA device it reports that after the import checks. The exit status is 0 unless a check failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tests.gpu.blocked

ROOT = Path(__file__).parents[2]
MODULES = (
    *("workers.training.loop", "workers.data.splits", "workers.reproduce", "workers.trial.device"),
    *("workers.packing.trainer", "workers.trial.group_member"),
)
#: Distribution -> the name under which it is imported.
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "numpy": "numpy",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "pytest": "pytest",
}
TESTS_LIMIT_S = 150


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="Check and measure training on a GPU.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="folder of gpu.json and gpu.md")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="cpu runs small measurements, to test them; default: cuda if present"
    )
    parser.add_argument("--list-files", action="store_true", help="print the files of the project that this needs")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    if missing := [name for name, module in NEEDED.items() if not _importable(module)]:
        print(f"not installed in {sys.executable}: {', '.join(missing)}", file=sys.stderr)
        return 1
    versions = check_imports()
    if options.list_files:
        print("\n".join(files()))
        return 0
    print(f"imports: ok without {', '.join(sorted(tests.gpu.blocked.BLOCKED))} ({_described(versions)})", flush=True)
    device, reason = _device(options.device)
    if device is None:
        print(f"no CUDA device: {reason}. The tests marked gpu and the measurements were not run.")
        return 0
    results: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "device": device, "versions": versions}
    results["machine"] = machine(device)
    results["tests"] = run_marked_tests()
    _log(f"tests marked gpu: {results['tests']}")
    from tests.gpu.loops import loop_table
    from tests.gpu.packing import packing_table, probe_row
    from tests.gpu.several import several_row

    results["loops"] = loop_table(device, _log)
    results["packing"] = packing_table(device, _log)
    results["probe"] = probe_row(device, _log)
    results["several"] = several_row(device, _log)
    results["seconds"] = round(time.perf_counter() - started, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "gpu.md").write_text(markdown(results), encoding="utf-8")
    print(f"{markdown(results)}\nwritten to {options.out}/gpu.json and gpu.md", flush=True)
    failures = failed_checks(results)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def check_imports() -> dict[str, str]:
    """Import the code that trains and run one epoch on the CPU without the blocked packages. Returns the versions."""
    for module in MODULES:
        importlib.import_module(module)
    from search_spaces.experiment import ExperimentSpec
    from workers.data.splits import load
    from workers.training.loop import Training

    space = {"model": {"kind": "cnn", "width": 2, "depth": 1}, "augmentation": {"crop_padding": 1, "mixup_alpha": 0.2}}
    spec = ExperimentSpec.model_validate({"name": "imports", "search_space": space}).bind({})
    with tempfile.TemporaryDirectory() as folder:
        digits = load(spec.dataset, 0, Path(folder), Path(folder) / "cache", download=False)
        Training(spec, digits, "cpu").run_epoch()
    loaded = sorted(tests.gpu.blocked.BLOCKED & set(sys.modules))
    if loaded:
        raise ImportError(f"the blocked packages {', '.join(loaded)} were imported")
    versions = {name: str(importlib.import_module(module).__version__) for name, module in NEEDED.items()}
    return {"python": platform.python_version(), **versions}


def files() -> list[str]:
    """The files of the project that this command needs, relative to the checkout, to copy them to a GPU machine."""
    from tests.gpu import loops, packing, several

    modules = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    paths = {Path(str(module.__file__)).resolve() for module in (*modules, loops, packing, several)}
    needed = {path for path in paths if path.is_relative_to(ROOT) and path.is_file() and ".venv" not in path.parts}
    packages = {parent / "__init__.py" for path in needed for parent in path.parents}
    needed |= {path for path in packages if path.exists()}
    needed |= {*marked_files(), *(ROOT / "tests" / "gpu").glob("*.py"), ROOT / "tests" / "gpu" / "marked.ini"}
    return sorted(path.relative_to(ROOT).as_posix() for path in needed if path.is_relative_to(ROOT))


def marked_files() -> list[Path]:
    """The files with tests marked gpu; other test files would import blocked packages."""
    return [path for path in sorted((ROOT / "tests" / "workers").rglob("test_*.py")) if "mark.gpu" in path.read_text()]


def run_marked_tests() -> dict[str, Any]:
    """Run the tests marked gpu in their own process. Returns their counts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.gpu.blocked", "-p", "no:cacheprovider"]
        command += ["--noconftest", "-c", str(ROOT / "tests" / "gpu" / "marked.ini"), f"--rootdir={ROOT}"]
        command += [f"--junitxml={report}", *map(str, marked_files())]
        try:
            run = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # plugins may import blocked packages
                capture_output=True,
                text=True,
                timeout=TESTS_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"status": 1, "error": f"took longer than {TESTS_LIMIT_S} s"}
        if not report.exists():
            return {"status": run.returncode, "error": (run.stdout + run.stderr).strip()[-2000:]}
        suite = next(ElementTree.parse(report).iter("testsuite"))
        counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
        result: dict[str, Any] = {"status": run.returncode, **counts, "seconds": float(suite.attrib["time"])}
        if run.returncode:
            result["error"] = (run.stdout + run.stderr).strip()[-2000:]
        return result


def machine(device: str) -> dict[str, Any]:
    import torch

    if device == "cpu":
        return {"name": platform.processor() or platform.machine(), "note": "a rehearsal on the CPU measures nothing"}
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}


def failed_checks(results: dict[str, Any]) -> list[str]:
    failures = []
    if results["tests"]["status"]:
        failures.append(f"tests marked gpu: {results['tests'].get('error')}")
    elif results["device"] == "cuda" and (results["tests"]["skipped"] or not results["tests"]["tests"]):
        run, skipped = results["tests"]["tests"], results["tests"]["skipped"]
        failures.append(f"tests marked gpu: all must run on a GPU (got {run} tests, of which {skipped} were skipped)")
    for row in results["packing"]:
        if "error" in row:
            failures.append(f"{row['processes']} processes on one GPU: {row['error']}")
        elif not row.get("cap_enforced", True):
            failures.append(f"{row['processes']} processes on one GPU: a process could use more memory than its share")
    if "error" in results.get("probe", {}):
        failures.append(f"the probe of gpus_per_trial: auto: {results['probe']['error']}")
    several = results.get("several", {})
    if not several.get("agrees", not several):
        why = several.get("error") or f"the losses differ by {several['difference']:.2g} from those of one"
        failures.append(f"a trial on {several['processes']} GPUs: {why}")
    return failures


def markdown(results: dict[str, Any]) -> str:
    """The tables for docs/benchmarks.md."""
    name, tests_run = results["machine"]["name"], results["tests"]
    lines = [
        f"{name}, {_described(results['versions'])}, {results['date']}, `make gpu` in {results['seconds']:.0f} s.",
        f"Tests marked gpu: {tests_run.get('tests', 0)} run, {tests_run.get('skipped', 0)} skipped, "
        f"{tests_run.get('failures', 0) + tests_run.get('errors', 0)} failed.",
        "",
        "| ResNet-9, 3x32x32 | batch | images/s | of the bare loop |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['loop']} | {row['batch']} | {row['images_per_second']:,.0f} | {row['ratio']:.2f} |"
        for row in results["loops"]
    ]
    lines += [
        "",
        "| processes on one GPU | images/s together | times one process | largest peak memory | share | capped |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    lines += [_packing_row(row) for row in results["packing"]]
    if "trials" in results["probe"]:
        lines += ["", f"With `gpus_per_trial: auto`, {results['probe']['trials']} such trials would share this GPU."]
    if "speedup" in (several := results["several"]):
        speed = f"{several['images_per_second']:,.0f} images/s, {several['speedup']:.2f} times one"
        lines += ["", f"One trial on {several['processes']} GPUs: {speed}; losses within {several['difference']:.2g}."]
    return "\n".join(lines) + "\n"


def _packing_row(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {row['processes']} | failed: {row['error']} | | | | |"
    peak, share = (f"{row[key] / 2**20:,.0f} MiB" if key in row else "-" for key in ("peak_bytes", "share_bytes"))
    capped = {True: "yes", False: "no"}[row["cap_enforced"]] if "cap_enforced" in row else "-"
    speed = f"{row['images_per_second']:,.0f} | {row['speedup']:.2f}"
    return f"| {row['processes']} | {speed} | {peak} | {share} | {capped} |"


def _device(requested: str | None) -> tuple[str | None, str]:
    """The device to use, or None and why there is no GPU."""
    import torch

    if requested == "cpu":
        return "cpu", ""
    if torch.cuda.is_available():
        return "cuda", ""
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
    return None, f"torch {torch.__version__} {built} and finds none"


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _described(versions: dict[str, str]) -> str:
    return f"Python {versions['python']}, torch {versions['torch']}"


def _log(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
