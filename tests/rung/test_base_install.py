"""The base install, from a wheel in a fresh environment: it has the SDK, the command line and the validation of specs.

Needs a package index for `pip`; skips with pip's reason where it reaches none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: What only the extras bring.
HEAVY = {
    *("torch", "torchvision", "ray", "mlflow", "mlflow-skinny", "optuna", "numpy", "matplotlib", "pillow"),
    *("scikit-learn", "sqlalchemy", "alembic", "fastapi", "uvicorn", "psycopg", "grpcio", "pydantic-settings"),
}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the base install only."""
    folder = tmp_path_factory.mktemp("base")
    pip = (sys.executable, "-m", "pip")
    index = run(*pip, "download", "--no-deps", "--dest", folder / "probe", "setuptools>=77", cwd=folder)
    if index.returncode != 0:
        pytest.skip(f"pip reaches no package index: {index.stderr.strip().splitlines()[-1]}")
    source = folder / "source"  # a copy: the build writes beside the source
    for package in ("rung", "search_spaces", "service", "workers"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    built = run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("rung-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    done = run(*pip, "--python", python, "install", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    return python.parent


def test_it_installs_nothing_of_the_server_or_the_workers(installed: Path) -> None:
    listed = run(sys.executable, "-m", "pip", "--python", installed / "python", "list", "--format=json", cwd=installed)
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert {"rung", "httpx", "pydantic", "typer"} <= names
    assert HEAVY.isdisjoint(names)


def test_the_sdk_is_imported(installed: Path) -> None:
    code = "import rung; rung.Client('http://127.0.0.1:9').close(); print(rung.__version__)"
    done = run(installed / "python", "-c", code, cwd=installed)
    assert done.returncode == 0, done.stderr
    version = run(installed / "rung", "--version", cwd=installed)
    assert version.stdout == f"rung {done.stdout}"


def test_specs_are_validated_without_a_service(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("name: first\nsearch_space: {optimizer: {kind: sgd, lr: -1}}\n")
    valid = run(installed / "rung", "validate", "--offline", "preset:digits-quick", cwd=tmp_path)
    assert valid.returncode == 0, valid.stderr
    invalid = run(installed / "rung", "validate", "--offline", "spec.yaml", cwd=tmp_path)
    assert invalid.returncode == 2
    assert invalid.stderr.startswith("search_space.optimizer.lr: ")
    schema = json.loads(run(installed / "rung", "schema", cwd=tmp_path).stdout)
    assert "search_space" in schema["properties"]


@pytest.mark.parametrize(
    ("command", "extras"),
    [(("up",), "server,worker"), (("explain", "schedulers"), "worker"), (("reproduce", "22222222", "0"), "worker")],
)
def test_commands_that_need_an_extra_report_which(installed: Path, command: tuple[str, ...], extras: str) -> None:
    refused = run(installed / "rung", *command, cwd=installed)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"rung: `rung {command[0]}` needs the ")
    assert f"pip install 'rung[{extras}]'" in refused.stderr
    assert "torch" in refused.stderr
