"""Doctor: the command that examines an installation, and says what to do."""

from __future__ import annotations

import shutil
import textwrap
import time
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import (
    FAILED,
    UNREACHABLE,
    AsJson,
    Token,
    Url,
    app,
    connect,
    home_folder,
    print_json,
    report_errors,
)

if TYPE_CHECKING:
    from service.client import Client
    from service.contract.checkup import Checkup, Finding


@app.command()
def doctor(
    nodes: Annotated[
        bool, typer.Option("--nodes/--no-nodes", help="also examine each node, by a short job on the cluster")
    ] = True,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Examine the installation.

    Looks at the service, its database, Ray, MLflow, the storage, the data, each node of the cluster and this machine,
    and says what to do. Exit status: 0 without problems, 1 with problems, 3 if the service does not answer. It ends
    within four minutes, whatever hangs.
    """
    from service.contract.checkup import Verdict

    findings: list[Finding] = []
    with report_errors(as_json), connect(url, token) as client:
        answered = _examine_service(client, findings, nodes, quiet=as_json)
        _examine_machine(findings)
    if as_json:
        print_json({"findings": [finding.model_dump(mode="json") for finding in findings]})
    else:
        width = max(40, shutil.get_terminal_size().columns)
        for line in lines(findings, width):
            echo(line)
    if not answered:
        raise typer.Exit(UNREACHABLE)
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise typer.Exit(FAILED)


def _examine_service(client: Client, findings: list[Finding], nodes: bool, quiet: bool) -> bool:
    """Add what the service finds. Returns whether it answers."""
    from service.client.transport import UnreachableError
    from service.contract.checkup import Part, problem
    from service.contract.errors import RungError

    try:
        before = time.time()
        checkup = client.checkup()
        findings += [*checkup.findings, *_compare(checkup, before, time.time())]
    except UnreachableError as error:
        remedy = (
            "start it with `rung up` or `python -m service.app`, or check --url / RUNG_URL; its log says why it ended"
        )
        findings.append(problem(Part.SERVICE, str(error), remedy))
        return False
    if nodes:
        if not quiet:
            echo("examining the nodes ...", err=True)
        try:
            findings += client.checkup_nodes().findings
        except RungError as error:
            findings.append(
                problem(Part.NODE, f"the nodes could not be examined: {error}", "look at the service's log")
            )
    return True


def _compare(checkup: Checkup, before: float, after: float) -> list[Finding]:
    """What the service's answer says beside what this machine has."""
    from importlib.metadata import version

    from service.contract.checkup import CLOCK_S, Part, clock_difference_s, warning

    found = []
    if checkup.version != version("rung"):
        detail = f"this command line has Rung {version('rung')}, the service {checkup.version}"
        found.append(warning(Part.MACHINE, detail, "install the same version here"))
    if abs(ahead_s := clock_difference_s(checkup.at.timestamp(), before, after)) > CLOCK_S:
        detail = f"the clock of the service differs from this machine's by at least {abs(ahead_s):.0f} s"
        found.append(warning(Part.MACHINE, detail, "synchronize the clocks (chrony, ntpd)"))
    return found


def _examine_machine(findings: list[Finding]) -> None:
    """Add what is seen here."""
    import platform
    from importlib.metadata import version

    from service.cli.extras import missing_packages
    from service.contract.checkup import Part, free_space, ok

    extras = [extra for extra in ("server", "worker") if not missing_packages(extra)]
    having = f" with {' and '.join(extras)}" if extras else ", the base install"
    findings.append(ok(Part.MACHINE, f"Rung {version('rung')}{having}, on Python {platform.python_version()}"))
    home = home_folder()
    if home.is_dir():
        free = shutil.disk_usage(home).free
        findings.append(free_space(Part.MACHINE, f"the disk of the home folder {home}", free, "free some space"))


def lines(findings: list[Finding], width: int) -> list[str]:
    """The findings as text, each with what to do below it."""
    from collections import Counter

    from search_spaces.phrases import counted
    from service.contract.checkup import Part, Verdict

    verdict, part = max(map(len, Verdict)) + 2, max(map(len, Part)) + 2
    margin = " " * (verdict + part)
    written: list[str] = []
    for finding in findings:
        first = f"{finding.verdict:<{verdict}}{finding.part:<{part}}"
        written += textwrap.wrap(finding.detail, width, initial_indent=first, subsequent_indent=margin)
        if finding.remedy:
            written += textwrap.wrap(
                f"-> {finding.remedy}", width, initial_indent=margin, subsequent_indent=margin + "   "
            )
    counts = Counter(finding.verdict for finding in findings)
    total = ", ".join(counted(counts[one], one.value) for one in (Verdict.PROBLEM, Verdict.WARNING) if counts[one])
    return [*written, "", total or "everything works"]
