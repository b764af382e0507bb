"""The command line against the real service: what it prints, in lines and in JSON, and its exit status."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from search_spaces.protocol import Heartbeat, TrialState, TrialUpdate, Winner
from search_spaces.replicates import replicate_number
from service.cli import app
from service.cli.rendering import watch
from service.client import Client
from service.scheduling.reconciler import Reconciler
from tests.support.driver import Driver
from tests.support.memory_launcher import MemoryLauncher
from tests.support.world import World

Run = Callable[..., Result]
SPEC = "name: first\nsearcher: {kind: random, num_samples: 3}\n"


@pytest.fixture
def run(client: httpx.Client, tmp_path: Path) -> Run:
    def invoke(*arguments: str, **options: Any) -> Result:
        environment = {"RUNG_URL": str(client.base_url), "RUNG_HOME": str(tmp_path)}
        return CliRunner(env=environment).invoke(app, arguments, **options)

    return invoke


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return str(path)


@pytest.fixture
def finished(client: httpx.Client, reconciler: Reconciler, launcher: MemoryLauncher) -> str:
    """An experiment with three ended trials and a winner."""
    with Client(str(client.base_url)) as rung:
        experiment = rung.submit(SPEC)
    reconciler.reconcile_once()
    (launch,) = launcher.launches.values()
    trials = [
        TrialUpdate(
            trial=number,
            state=TrialState.COMPLETED if number == 1 else TrialState.EARLY_STOPPED,
            stop_reason="all 8 epochs done" if number == 1 else "rung at epoch 8: validation_accuracy is too low",
            epoch=8,
            best_value=value,
            best_epoch=number + 5,
            metrics={"validation_accuracy": value},
            parameters={"optimizer.kind": "adam", "optimizer.lr": 0.001 * (number + 1), "batch_size": 64},
        )
        for number, value in enumerate([0.5, 0.9, 0.7])
    ]
    winner = Winner(trial=1, value=0.9, test_accuracy=0.88, test_loss=0.3)
    for message in (Heartbeat(phase="searching", trials=trials), Heartbeat(phase="completed", winner=winner)):
        Driver(client, launch).send(message).raise_for_status()
    return experiment.id


@pytest.mark.parametrize("content", ["other.yaml", "preset:digits-quick"])
def test_the_content_of_a_spec_file_is_never_taken_for_a_path_or_a_preset(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: httpx.Client, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text(SPEC)
    (tmp_path / "spec.yaml").write_text(content)
    for command in (["submit"], ["validate"], ["validate", "--offline"]):
        for given in ("spec.yaml", "-"):
            result = run(*command, given, input=content)
            assert result.exit_code == 2, result.output
            assert "must be" in result.stderr
    assert client.get("/api/v1/experiments").json()["items"] == []


def test_validate(run: Run, spec: str) -> None:
    with open(spec, "a") as file:
        file.write("search_space: {label_smoothing: {uniform: [0, 0.1]}}\n")
    for options in ((), ("--offline",)):
        result = run("validate", spec, *options)
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "valid: first, 3 trials")
        assert ("epochs" in result.stdout) is (options == ()), "a forecast needs the service"
        answer = json.loads(run("validate", spec, "--json", *options).stdout)
        assert answer["spec"]["dataset"]["name"] == "digits"


def test_a_bad_spec_prints_a_line_for_each_problem(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nsearch_space: {optimizer: {kind: sgd, lr: -1, momentun: 0.9}}\n")
    lines = [
        "search_space.optimizer.lr: must be greater than 0 (got -1)",
        "search_space.optimizer.momentun: is not a known field; did you mean 'momentum'? (got 0.9)",
    ]
    for command in (("validate",), ("validate", "--offline"), ("submit",), ("submit", "--watch")):
        result = run(command[0], str(path), *command[1:])
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.splitlines() == lines
    problem = json.loads(run("submit", str(path), "--json").stderr)
    assert problem["status"] == 422
    assert [error["value"] for error in problem["errors"]] == [-1, 0.9]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.yaml", b"a: [1\nb: 2", "line 2"),
        ("broken.json", b'{"name": "x",}', "line 1, column 14"),
        ("nan.json", b'{"name": "x", "seed": NaN}', "finite"),
        ("latin.yaml", b"name: \xe9", "UTF-8"),
        ("empty.yaml", b"", "empty"),
        ("big.yaml", b"#" + b"x" * 5_000_000, "bytes"),
    ],
)
def test_documents_that_cannot_be_read(run: Run, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    for options in ((), ("--offline",)):
        result = run("validate", str(tmp_path / name), *options)
        assert result.exit_code == 2
        assert said in result.stderr


def test_missing_files_are_reported(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        result = run("submit", str(path))
        assert result.exit_code == 2
        assert str(path) in result.stderr


def test_submit_and_look(run: Run, spec: str) -> None:
    view = json.loads(run("submit", spec, "--json").stdout)
    assert run("submit", "-", input=SPEC.encode()).exit_code == 0
    assert run("submit", "-", input=b'{"name": "json"}').exit_code == 0
    assert run("submit", "-", input=b"{name: flow, seed: 3}").exit_code == 0
    shown = run("show", view["id"])
    assert shown.stdout.startswith(f"first ({view['id']}) QUEUED")
    assert json.loads(run("show", view["id"], "--json").stdout)["id"] == view["id"]
    listed = json.loads(run("list", "--json").stdout)
    assert [one["name"] for one in listed] == ["flow", "json", "first", "first"]
    assert view["id"] in run("list", "--state", "queued", "--limit", "5").stdout
    unknown = run("list", "--state", "asleep").stderr
    assert unknown.startswith("state: must be one of QUEUED, RUNNING, ")
    assert unknown.endswith('DELETING (got "asleep")\n')
    canceled = run("cancel", view["id"], "--json")
    assert json.loads(canceled.stdout)["state"] == "CANCELED"


@pytest.mark.parametrize("arguments", [("preset:digits-quick",), ("digits-quick", "--preset")])
def test_submit_a_preset(run: Run, arguments: tuple[str, ...]) -> None:
    assert json.loads(run("submit", *arguments, "--json").stdout)["num_samples"] == 32


def test_an_unknown_preset_names_the_nearest(run: Run) -> None:
    for command in (("submit", "preset:digit-quick"), ("presets", "digit-quick"), ("validate", "preset:digit-quick")):
        result = run(*command)
        assert result.exit_code == 2
        assert "digits-quick" in result.stderr


def test_the_trials_that_a_limit_hides_are_counted(run: Run, finished: str) -> None:
    assert run("trials", finished, "--limit", "2").stderr == "1 more trial: --all shows them, --limit N shows N\n"
    assert run("trials", finished, "--limit", "1").stderr.startswith("2 more trials: ")
    every = run("trials", finished, "--limit", "1", "--all")
    assert (len(every.stdout.splitlines()), every.stderr) == (4, "")


def test_replicates_are_limited_on_request_only(run: Run, world: World) -> None:
    one = world.started()
    numbers = [0, *(replicate_number(0, seed) for seed in range(3))]
    world.beat(one, {"phase": "searching", "trials": [world.line(number) for number in numbers]})
    for arguments, shown in (([], 3), (["--limit", "2"], 2), (["--limit", "2", "--all"], 3)):
        assert len(json.loads(run("trials", one, "--replicates", "--json", *arguments).stdout)) == shown


def test_a_running_experiment_says_that_ray_is_unreachable(run: Run, world: World) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching", "reason": "1 of 3 trials failed"})
    world.launcher.unreachable = True
    world.reconciler.reconcile_once()
    why = "1 of 3 trials failed; Ray does not answer; the log of the service says why"
    assert json.loads(run("show", one, "--json").stdout)["reason"] == why
    assert why in run("show", one).stdout
    world.launcher.unreachable = False
    world.reconciler.reconcile_once()
    assert "Ray does not answer" not in run("show", one).stdout


def test_trials_come_best_first(run: Run, finished: str) -> None:
    rows = [line.split() for line in run("trials", finished).stdout.splitlines()]
    assert rows[0] == ["trial", "state", "epoch", "accuracy", "at", "lr", "reason"]
    assert [row[0] for row in rows[1:]] == ["1", "2", "0"]
    assert rows[1] == ["1", "COMPLETED", "8", "0.9", "6", "0.002", "all", "8", "epochs", "done"]
    assert "  trial 1   COMPLETED after epoch 8, best at epoch 6: all 8 epochs done" in run("show", finished).stdout
    worst = json.loads(run("trials", finished, "--sort", "validation_accuracy", "--limit", "1", "--json").stdout)
    assert [trial["trial"] for trial in worst] == [0]
    wrong = run("trials", finished, "--sort", "accuracy")
    assert wrong.exit_code == 2
    assert "validation_accuracy" in wrong.stderr


def test_watching_what_has_ended(run: Run, finished: str) -> None:
    result = run("watch", finished)
    assert result.exit_code == 0
    assert "COMPLETED" in result.stdout
    assert "best      trial 1, validation_accuracy 0.9" in result.stdout
    assert "test      accuracy 0.88" in result.stdout
    quiet = run("watch", finished, "--json")
    assert json.loads(quiet.stdout)["state"] == "COMPLETED"


def test_submit_with_watch_prints_the_id_first(run: Run, client: httpx.Client, tmp_path: Path) -> None:
    flipped = tmp_path / "flipped.yaml"
    flipped.write_text(SPEC + "search_space: {augmentation: {horizontal_flip: 0.5}}\n")
    with ThreadPoolExecutor(1) as pool, Client(str(client.base_url)) as rung:
        watched = pool.submit(run, "submit", str(flipped), "--watch")
        while not (submitted := list(rung.list())):
            assert not watched.done(), watched.result().stderr
        rung.cancel(submitted[0].id)
        result = watched.result()
    assert result.exit_code == 1
    first, second, *_ = result.stderr.splitlines()
    assert first == f"first ({submitted[0].id})"
    assert second.startswith("warning: search_space.augmentation.horizontal_flip")


@pytest.mark.parametrize("command", ["resume", "continue"])
def test_what_is_queued_again_can_be_watched(run: Run, spec: str, client: httpx.Client, command: str) -> None:
    one = json.loads(run("submit", spec, "--json").stdout)["id"]
    run("pause", one)
    with ThreadPoolExecutor(1) as pool, Client(str(client.base_url)) as rung:
        watched = pool.submit(run, command, one, "--watch")
        while not (queued := [view.id for view in rung.list() if view.state == "QUEUED"]):
            assert not watched.done(), watched.result().stderr
        rung.cancel(queued[0])
        result = watched.result()
    assert result.exit_code == 1
    assert f"({queued[0]})" in result.stderr.splitlines()[0]
    assert "CANCELED" in result.stdout
    assert (queued[0] == one) == (command == "resume")


def test_a_preset_name_without_the_prefix_is_suggested(run: Run) -> None:
    result = run("submit", "digits-quick")
    assert result.exit_code == 2
    assert "did you mean preset:digits-quick?" in result.stderr


def test_watching_what_fails_is_a_failure(run: Run, spec: str) -> None:
    experiment = json.loads(run("submit", spec, "--json").stdout)["id"]
    run("cancel", experiment)
    assert run("watch", experiment).exit_code == 1


def test_the_live_picture_has_a_leaderboard(client: httpx.Client, finished: str) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with Client(str(client.base_url)) as rung:
        view = watch(rung, finished, console)
    assert view.state == "COMPLETED"
    picture = screen.getvalue()
    assert "3/3 trials" in picture
    assert "EARLY_STOPPED" in picture
    assert "0.002" in picture
    assert "rung at epoch 8: is too low" in picture


def test_curves_without_mlflow_say_so(run: Run, finished: str) -> None:
    result = run("curves", finished, "1")
    assert result.exit_code == 2
    assert "no curve yet" in result.stderr


def test_ids_that_do_not_exist(run: Run) -> None:
    actions = ("pause", "resume", "cancel", "archive", "unarchive", "delete", "continue")
    for command in ("show", "trials", "watch", *actions, "change"):
        more = ("priority=1",) if command == "change" else ()
        result = run(command, "22222222", *more)
        assert result.exit_code == 2, command
        assert result.stderr == "rung: there is no experiment '22222222'\n"
        assert json.loads(run(command, "22222222", *more, "--json").stderr)["status"] == 404


def test_pause_change_resume(run: Run, spec: str) -> None:
    one = json.loads(run("submit", spec, "--json").stdout)["id"]
    assert json.loads(run("pause", one, "--json").stdout)["state"] == "PAUSED"
    watched = run("watch", one)
    assert (watched.exit_code, f"`rung resume {one}`" in watched.stderr) == (1, True)
    changed = run(
        "change", one, "num_samples=9", "budget.slot_hours=1.5", "budget.wall_clock=2h", "goal=0.98765", "--json"
    )
    controls = json.loads(changed.stdout)["controls"]
    assert (controls["num_samples"], controls["goal"]) == (9, 0.98765)
    assert (controls["budget"]["slot_hours"], controls["budget"]["wall_clock"]) == (1.5, 7200)
    said = "controls  priority=0 num_samples=9 max_concurrent_trials=null max_restarts=3 goal=0.98765 "
    assert said + "budget.slot_hours=1.5 budget.wall_clock=7200\n" in run("show", one).stdout
    changed = run("change", one, "budget=null", "priority=7").stdout
    assert "controls  priority=7 num_samples=9 " in changed
    assert "goal=0.98765 budget=null\n" in changed
    assert json.loads(run("change", one, "goal=null", "--json").stdout)["controls"]["goal"] is None
    assert run("resume", one).stdout.startswith(f"first ({one}) QUEUED: resumed on request")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("prioritty=1",), "prioritty: is not a known field; did you mean 'priority'?"),
        (("priority",), "FIELD=VALUE: must be a field, = and a value (got 'priority')"),
        (("=1",), "FIELD=VALUE: must be a field"),
        (("budget..x=1",), "FIELD=VALUE: must be a field"),
        (("priority=[",), "priority: line 1"),
        (("priority=1\ngoal: 2",), "priority: must be one YAML value"),
        (("priority=1", "priority=2"), "priority: must be given once"),
        (("budget=1", "budget.failures=2"), "budget.failures: must be given once"),
        (("searcher.num_samples=4",), "searcher: cannot change after submission; of it, only num_samples can change; "),
        (("seed=4",), "seed: cannot change after submission; `rung change` changes priority, num_samples, "),
        (("goal=.nan",), "goal: must be a finite number (got nan)"),
        (("revision=x",), "revision: is not a known field"),
        (("num_samples=0",), "num_samples: must be at least 1"),
    ],
)
def test_invalid_changes_are_rejected(run: Run, spec: str, fields: tuple[str, ...], said: str) -> None:
    one = json.loads(run("submit", spec, "--json").stdout)["id"]
    result = run("change", one, *fields)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert json.loads(run("change", one, *fields, "--json").stderr)["status"] == 422


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("usage", "--csv", "--json"), "--csv and --json"),
        (("validate", "-", "--offline", "--team", "vision"), "--offline and --team"),
        (("submit", "-", "--dry-run", "--watch"), "--dry-run and --watch"),
        (("logs", "x", "--trial", "2", "--attempt", "1"), "--trial and --attempt"),
    ],
)
def test_no_option_is_ignored_beside_another(run: Run, command: tuple[str, ...], names: str) -> None:
    result = run(*command, input="name: x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{names} must not be given together" in result.stderr


HUGE = "9" * 401


def test_a_number_that_cannot_be_used_hides_no_other_problem(run: Run, finished: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_text(f"name: x\npriority: .nan\nseed: {HUGE}\nmax_restarts: -1\nbudget: {{gpu_hours: 1e400}}\n")
    said = [
        "max_restarts: must be at least 0 (got -1)",
        "priority: must be a finite number (got nan)",
        "seed: must be less than 2147483648 (got more than 100 digits)",
        "budget.gpu_hours: must be a finite number (got inf)",
    ]
    for options in ((), ("--offline",)):
        assert run("validate", str(path), *options).stderr.splitlines() == said
    changed = run("change", finished, "priority=1e400", f"max_restarts={HUGE}", "num_samples=0")
    assert changed.stderr.splitlines() == [
        "num_samples: must be at least 1 (got 0)",
        "priority: must be a finite number (got inf)",
        "max_restarts: must be at most 100 (got more than 100 digits)",
    ]
    fork = run("continue", finished, "priority=1e400", "max_epochs=4", "searcher.num_samples=0").stderr.splitlines()
    assert sorted(line.partition(":")[0] for line in fork) == ["max_epochs", "priority", "searcher.num_samples"]
    assert (
        "dataset, search_space, max_epochs, early_stopping, objective.metric, objective.mode and seed must" in fork[-1]
    )


def test_continue_archive_delete(run: Run, finished: str) -> None:
    fork = json.loads(run("continue", finished, "name=second", "searcher.num_samples=4", "--json").stdout)
    assert (fork["name"], fork["source_id"], fork["num_samples"]) == ("second", finished, 7)
    short = ("num_samples=4", "goal=0.9", "max_concurrent_trials=2", "budget.slot_hours=3")
    other = json.loads(run("continue", finished, *short, "--json").stdout)
    controls = other["controls"]
    assert (controls["num_samples"], controls["goal"], controls["max_concurrent_trials"]) == (7, 0.9, 2)
    assert controls["budget"]["slot_hours"] == 3
    run("cancel", other["id"])
    both = run("continue", finished, "num_samples=4", "searcher.num_samples=5")
    assert (both.exit_code, both.stderr) == (2, "searcher.num_samples: must be given once\n")
    assert f"continues {finished}" in run("show", fork["id"]).stdout
    run("cancel", fork["id"])
    assert run("continue", finished, "seed=3").stderr.startswith("seed: must be as in the source experiment")
    assert f"({finished}) COMPLETED, archived" in run("archive", finished).stdout
    assert finished not in run("list").stdout
    assert finished in run("list", "--archived").stdout
    assert "archived" not in run("unarchive", finished).stdout
    kept = run("delete", finished, input="n\n")
    assert (kept.exit_code, "Delete first" in kept.stderr) == (1, True)
    assert run("show", finished, "--json").exit_code == 0
    assert json.loads(run("delete", finished, "--yes", "--json").stdout)["state"] == "DELETING"
    assert run("delete", fork["id"], input="y\n").exit_code == 0
    assert run("resume", finished).exit_code == 1


def test_a_running_experiment_is_not_deleted(run: Run, spec: str, reconciler: Reconciler) -> None:
    one = json.loads(run("submit", spec, "--json").stdout)["id"]
    reconciler.reconcile_once()
    refused = run("delete", one, "--yes")
    assert (refused.exit_code, "cancel it first" in refused.stderr) == (1, True)


def test_one_trial_is_canceled(run: Run, world: World) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching", "trials": [world.line(0), world.line(1)]})
    assert run("cancel", one, "--trial", "1").stdout == f"trial 1 of {one} is RUNNING; cancellation requested\n"
    assert json.loads(run("cancel", one, "--trial", "1", "--json").stdout)["cancel_asked_at"]
    assert run("cancel", one, "--trial", "7").exit_code == 2
    assert world.beat(one, {"phase": "searching"}).json()["cancel_trials"] == [1]


def test_one_trial_is_singular(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("name: one\nsearcher: {kind: random, num_samples: 1}\n")
    assert run("validate", "--offline", str(path)).stdout == "valid: one, 1 trial\n"
    one = json.loads(run("submit", str(path), "--json").stdout)["id"]
    run("cancel", one)
    assert "with 0 trials permanently?" in run("delete", one, input="n\n").stderr
    assert "0/1 trial  " in run("watch", one).stdout


def test_plots_are_not_drawn_into_what_is_no_folder(run: Run) -> None:
    for out in ("/dev/null/plots", "/proc/plots"):
        result = run("explain", "schedulers", "--out", out)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"--out: must be a folder that can be written to (got {out}: ")


@pytest.mark.parametrize("spec", ["/dev/zero", "-"])
def test_a_spec_that_never_ends_is_not_read_to_its_end(spec: str, tmp_path: Path) -> None:
    env = {"RUNG_URL": "http://127.0.0.1:9", "RUNG_HOME": str(tmp_path)}
    result = CliRunner(env=env).invoke(app, ["validate", "--offline", spec], input=b"#" * 2**20)
    assert result.exit_code == 2
    assert "document: must have at most 65536 bytes (got more)" in result.stderr
