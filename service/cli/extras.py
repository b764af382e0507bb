"""Extras: the optional parts of Rung that a command needs.

The distribution's own metadata says what belongs to an extra, so that pyproject.toml stays the only list of it.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import ClassVar

from service.contract.errors import RungError


class MissingExtraError(RungError):
    """The command needs packages that the base install does not have."""

    code: ClassVar[str] = "missing-extra"
    status: ClassVar[int] = 501
    title: ClassVar[str] = "An optional part of Rung is not installed"


def require(command: str, *extras: str) -> None:
    """Raise MissingExtraError, with the command that installs them, where packages of `extras` are not installed."""
    missing = {extra: packages for extra in extras if (packages := missing_packages(extra))}
    if missing:
        parts = " and ".join(missing)
        noun = "extras" if len(missing) > 1 else "extra"
        packages = sorted({package for found in missing.values() for package in found})
        raise MissingExtraError(
            f"`rung {command}` needs the {noun} {parts}; install with `pip install 'rung[{','.join(missing)}]'` "
            f"(missing packages: {', '.join(packages)})"
        )


def missing_packages(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    of_extra = [line for line in requires("rung") or () if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in of_extra]
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
