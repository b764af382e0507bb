"""The files for Prometheus and Grafana name metrics that exist, and an alert fires when something really breaks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.api import scrapes
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.metrics import Scraped, scrape
from tests.support.reconciling import reconcile_for
from tests.support.world import World

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docker" / "monitoring"
METRIC = re.compile(r"\b(?:rung|process)_[a-z0-9_]+\b")
MATCHER = re.compile(r'(\w+)="([^"$]+)"')
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus)")


@pytest.fixture(autouse=True)
def _each_scrape_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "FRESH_S", 0.0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"driver_start_s": 60.0})


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query")


def full_scrape(world: World) -> Scraped:
    """Every metric that a service has."""
    world.started()
    return scrape(world.client)


def test_every_metric_and_label_that_the_files_name_exists(world: World) -> None:
    found = full_scrape(world)
    expressions = [*(rule["expr"] for rule in rules()), *dashboard_expressions()]
    named = {name for expression in expressions for name in METRIC.findall(expression)}
    assert len(named) > 20
    assert named - found.names() == set()
    pairs = {pair for _, labels in found.samples for pair in labels} | {("job", "rung"), ("method", "GET")}
    used = {pair for expression in expressions for pair in MATCHER.findall(expression)}
    assert used - pairs == set()


def test_every_metric_of_rung_is_documented(world: World) -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    families = {family.name for family in full_scrape(world).families if family.name.startswith("rung_")}
    assert {name for name in families if f"`{name}" not in page} == set()


def test_every_alert_has_an_entry_in_the_runbook_and_every_entry_an_alert() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    entries = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert entries == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    for text in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        assert [f"**{word}.**" in text for word in ("Means", "Look", "Do")] == [True] * 3, text[:40]


def promtool(*arguments: str) -> str:
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_accepts_the_files_and_the_rules_do_what_their_tests_say() -> None:
    promtool("check", "config", str(MONITORING / "prometheus.yml"))
    promtool("check", "rules", "--lint-fatal", str(MONITORING / "rules.yml"))
    promtool("test", "rules", str(MONITORING / "rules_test.yml"))


@needs_promtool
def test_promtool_accepts_what_a_service_says(world: World) -> None:
    full_scrape(world)
    text = world.client.get("/metrics").text
    done = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("rung_")]
    assert [line for line in ours if "error" in line] == []


@needs_promtool
def test_alerts_fire_for_what_a_service_says_when_its_storage_is_gone_and_its_drivers_die(
    world: World, context: AppContext, clock: Clock, settings: Settings, tmp_path: Path
) -> None:
    reconciler = Reconciler(context, clock, clock.monotonic)
    for _ in range(3):
        world.started()
    works = scrape(world.client)
    Path(settings.storage_root).rename(tmp_path / "elsewhere")
    reconcile_for(reconciler, clock, settings.lease_s + settings.driver_start_s + 10)
    broken = scrape(world.client)
    fired = firing(tmp_path, [works, broken])
    assert {"RungStorageUnreachable", "RungAttemptsLost"} <= fired
    assert fired <= {"RungStorageUnreachable", "RungAttemptsLost", "RungMlflowUnreachable", "RungDiskLow"}
    assert firing(tmp_path, [works, works]) <= {"RungMlflowUnreachable", "RungDiskLow"}, "this test has no MLflow"


def firing(folder: Path, found: list[Scraped]) -> set[str]:
    """The alerts that fire in the end, if a service says for two minutes what each scrape has, and for twenty more what
    the last one has."""
    keys = {key for one in found for key in one.samples}
    series = [
        {
            "series": f"{name}{{{', '.join(sorted(f'{label}={json.dumps(value)}' for label, value in labels))}}}",
            "values": " ".join(_repeated(one.samples.get((name, labels))) for one in (*found, *found[-1:] * 10)),
        }
        for name, labels in keys
    ]
    tests = [{"eval_time": "20m", "alertname": rule["alert"], "exp_alerts": []} for rule in rules()]
    document = {
        "rule_files": [str(MONITORING / "rules.yml")],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [*series, {"series": 'up{job="rung"}', "values": "1x100"}],
                "alert_rule_test": tests,
            }
        ],
    }
    path = folder / "alerts.yml"
    path.write_text(json.dumps(document))
    done = subprocess.run([str(PROMTOOL), "test", "rules", str(path)], capture_output=True, text=True, check=False)
    fired = set(re.findall(r"alertname: ?(\w+)", done.stdout + done.stderr))
    assert bool(fired) == bool(done.returncode), done.stdout + done.stderr
    return fired


def _repeated(value: float | None) -> str:
    """A value eight times, in the notation of promtool."""
    return "_x7" if value is None else f"{value:.6f}x7"
