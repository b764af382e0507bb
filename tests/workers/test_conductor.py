"""The conductor: orders, goal and budget end the right trials with the right words; nothing stops Tune's loop."""

from __future__ import annotations

import itertools
import math
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune.schedulers import TrialScheduler

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import ErrorKind, Orders, TrialState
from workers import idle, journal
from workers.checkpoints import BEST, LAST
from workers.conductor import Conductor
from workers.progress import Progress
from workers.searcher import Searcher
from workers.trial import STOP

OpenProgress = Callable[..., Progress]
Build = Callable[..., ExperimentSpec]


class Tune:
    """The part of Tune's controller that the conductor meets, driving the same hooks in the same order."""

    def __init__(self, conductor: Conductor, searcher: Searcher) -> None:
        self._conductor, self._searcher = conductor, searcher
        self.live: list[Any] = []
        self.started = 0

    def get_live_trials(self) -> list[Any]:
        return self.live

    def start(self, waits: bool = False) -> Any:
        """A trial that is handed out, and takes a slot unless it `waits` for one."""
        self.started += 1
        name = f"t{self.started}"
        config = self._searcher.suggest(name)
        if not isinstance(config, dict):
            return config
        trial = SimpleNamespace(
            trial_id=name, config=config, status="PENDING", error_file=None, pickled_error_file=None
        )
        if not waits:
            self._conductor.on_trial_start(0, [], trial)
            trial.status = "RUNNING"
        self.live.append(trial)
        return trial

    def report(self, trial: Any, epoch: int, value: float, **more: Any) -> str:
        result = {"epoch": epoch, "validation_accuracy": value, "epoch_seconds": 1.0, "diverged": False} | more
        result["reported"] = ["epoch_seconds", "validation_accuracy"]
        decision = self._conductor.asha.on_trial_result(self, trial, result)
        self._conductor.on_trial_result(0, [], trial, result)
        if decision == TrialScheduler.STOP:
            self.stop_trial(trial)
        return decision

    def finish(self, trial: Any, value: float) -> None:
        """All epochs; those that were told before are told again."""
        epochs = itertools.count(1)
        while self.report(trial, next(epochs), value) != TrialScheduler.STOP:
            pass

    def fail(self, trial: Any, error: BaseException | None = None, folder: Path | None = None) -> None:
        """As Tune does it: the exception is pickled, its text is added to another file."""
        if error is not None and folder is not None:
            trial.pickled_error_file, trial.error_file = str(folder / "error.pkl"), str(folder / "error.txt")
            Path(trial.pickled_error_file).write_bytes(cloudpickle.dumps(error))
            Path(trial.error_file).write_text(f"Failure # 1 (occurred at ...)\n{error}\n")
        self.live.remove(trial)
        self._searcher.on_trial_complete(trial.trial_id, error=True)
        self._conductor.on_trial_error(0, [], trial)

    def stop_trial(self, trial: Any) -> None:
        self._searcher.on_trial_complete(trial.trial_id)
        self._conductor.on_trial_complete(0, [], trial)
        self.live.remove(trial)


class Service:
    """What the heartbeat knows."""

    def __init__(self) -> None:
        self.orders = Orders(slots=4)
        self.fenced = False
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


class Search:
    """One attempt, without Ray."""

    def __init__(self, spec: ExperimentSpec, progress: Progress, folder: Path) -> None:
        self.service = Service()
        self.progress = progress
        self.conductor = Conductor(
            spec, progress, lambda: self.service.orders, lambda: self.service.fenced, self.service.changed
        )
        self.searcher = Searcher(
            spec, progress, folder / "trials", {}, self.conductor.num_samples, self.conductor.slots, lambda: None
        )
        self.conductor.conduct(self.searcher)
        self.tune = Tune(self.conductor, self.searcher)


@pytest.fixture
def search(tmp_path: Path, experiment: Build, open_progress: OpenProgress) -> Callable[..., Search]:
    def begin(attempt: int = 1, **changes: Any) -> Search:
        spec = experiment(**changes)
        return Search(spec, open_progress(attempt, spec.objective), tmp_path)

    return begin


def states(search: Search) -> list[str]:
    return [trial.state for trial in search.progress.trials.values()]


def test_a_result_is_recorded_with_its_outcome(search: Callable[..., Search]) -> None:
    now = search()
    trial = now.tune.start()
    assert now.tune.report(trial, 1, 0.5) == TrialScheduler.CONTINUE
    for epoch in (2, 3):
        now.tune.report(trial, epoch, 0.6)
    assert now.tune.report(trial, 4, 0.7) == TrialScheduler.STOP
    row = now.progress.trials[0]
    assert (row.state, row.stop_reason, row.curve) == ("COMPLETED", "all 4 epochs done", [0.5, 0.6, 0.6, 0.7])
    assert row.metrics == {"epoch_seconds": 1.0, "validation_accuracy": 0.7}
    assert now.service.changes == 5
    assert now.conductor.ending is None


@pytest.mark.parametrize(
    ("order", "phase", "state"), [("cancel", "canceled", "CANCELED"), ("pause", "paused", "PAUSED")]
)
def test_an_order_ends_all(search: Callable[..., Search], tmp_path: Path, order: Any, phase: str, state: str) -> None:
    now = search()
    for _ in range(2):
        now.tune.start()
    now.service.orders = Orders(slots=4, stop=order)
    now.conductor.look(now.tune)
    assert now.conductor.ending is not None
    assert (now.conductor.ending.phase, now.conductor.ending.reason) == (phase, f"{order} ordered")
    assert now.tune.live == []
    assert states(now) == [state, state]
    assert len(list(tmp_path.rglob(STOP))) == 2
    assert now.conductor.slots() == 0
    assert now.tune.start() == "FINISHED"


def test_an_order_is_heard_while_no_trial_runs(search: Callable[..., Search]) -> None:
    now = search()
    now.service.orders = Orders(slots=0)
    assert now.tune.start() is None
    now.service.orders = Orders(slots=0, stop="pause")
    assert now.tune.start() == "FINISHED"
    assert now.conductor.ending is not None
    assert now.conductor.ending.phase == "paused"


def test_a_fenced_attempt_lets_go_and_writes_nothing(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    now.tune.start()
    size = (tmp_path / "journal.jsonl").stat().st_size
    now.service.fenced = True
    now.conductor.look(now.tune)
    assert now.conductor.ending is not None
    assert now.conductor.ending.phase == "fenced"
    assert now.tune.live == []
    assert states(now) == ["PAUSED"]
    assert (tmp_path / "journal.jsonl").stat().st_size == size
    assert list(tmp_path.rglob(STOP)) == [], "the folder is another attempt's"


@pytest.fixture
def two(search: Callable[..., Search]) -> tuple[Search, Any, Path]:
    """An attempt that does not know yet that another goes on; its trial; the other's `stop` in the same folder."""
    old = search(1)
    trial = old.tune.start()
    old.tune.report(trial, 1, 0.5)
    taken = search(2).tune.start()
    assert taken.config["folder"] == trial.config["folder"]
    return old, trial, Path(taken.config["folder"]) / STOP


def test_a_trial_that_another_attempt_called_away_is_let_go(two: tuple[Search, Any, Path]) -> None:
    """Its slot left the epoch and tells of the one before again: another step would train in the other's folder."""
    old, trial, _ = two
    assert old.tune.report(trial, 1, 0.5) == TrialScheduler.STOP
    assert old.conductor.ending is not None
    assert old.conductor.ending.phase == "fenced"
    assert old.tune.live == []


@pytest.mark.parametrize("orders", [{"stop": "cancel"}, {"stop": "pause"}, {"cancel_trials": [0]}])
def test_an_attempt_that_learns_late_calls_no_trial_of_its_successors_away(
    two: tuple[Search, Any, Path], orders: dict[str, Any]
) -> None:
    old, _, stop = two
    before = stop.stat().st_mtime_ns
    old.service.orders = Orders(slots=4, **orders)
    old.conductor.look(old.tune)
    assert old.conductor.ending is not None
    assert old.conductor.ending.phase == "fenced"
    assert old.tune.live == []
    assert stop.stat().st_mtime_ns == before


def test_a_trial_that_had_no_slot_yet_is_not_called_away_from_a_successor(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    """That it gives back what it never had needs no entry in the journal."""
    old = search(1)
    old.tune.start(waits=True)
    stop = Path(search(2).tune.start().config["folder"]) / STOP
    before = stop.stat().st_mtime_ns
    old.service.orders = Orders(slots=4, stop="pause")
    old.conductor.look(old.tune)
    assert stop.stat().st_mtime_ns == before


def test_one_trial_is_canceled_and_the_search_goes_on(search: Callable[..., Search]) -> None:
    now = search()
    first, second = now.tune.start(), now.tune.start()
    now.service.orders = Orders(slots=4, cancel_trials=[0, 77])
    now.conductor.look(now.tune)
    assert now.tune.live == [second]
    assert states(now) == ["CANCELED", "RUNNING"]
    assert now.progress.trials[0].stop_reason == "canceled on request"
    assert now.conductor.ending is None
    assert (Path(first.config["folder"]) / STOP).exists()
    assert not (Path(second.config["folder"]) / STOP).exists()
    assert now.tune.start().config["trial"] == 2


def test_a_waiting_trial_is_canceled_too(search: Callable[..., Search]) -> None:
    now = search()
    now.tune.start()
    now.progress.released(0)
    after = search(2)
    after.service.orders = Orders(slots=4, cancel_trials=[0])
    assert after.tune.start().config["trial"] == 1
    assert states(after) == ["CANCELED", "RUNNING"]


def test_slots_are_the_smaller_of_grant_and_wish(search: Callable[..., Search]) -> None:
    assert search().conductor.slots() == 4
    assert search(2, resources={"max_concurrent_trials": 3}).conductor.slots() == 3
    assert search(3, resources={"max_concurrent_trials": 30}).conductor.slots() == 4


@pytest.mark.parametrize(
    ("objective", "short", "reached"),
    [
        ({"metric": "validation_accuracy", "goal": 0.9}, 0.89, 0.9),
        ({"metric": "validation_loss", "goal": 0.2}, 0.21, 0.2),
    ],
)
def test_a_goal_that_is_reached_ends_the_search(
    search: Callable[..., Search], objective: dict[str, Any], short: float, reached: float
) -> None:
    now = search(objective=objective)
    trial, _ = now.tune.start(), now.tune.start()
    for epoch, value in enumerate((short, math.nan, reached), start=1):
        if math.isfinite(value):
            now.progress.epoch(0, now.progress.trials[0].epoch + 1, {objective["metric"]: value})
        now.conductor.look(now.tune)
        assert (now.conductor.ending is not None) == (value == reached), epoch
    assert now.conductor.ending is not None
    assert now.conductor.ending.phase == "completed"
    assert now.conductor.ending.reason == f"goal {objective['goal']:g} reached: trial 0 has {reached:.4f}"
    assert trial not in now.tune.live
    assert states(now) == ["COMPLETED", "CANCELED"]
    assert now.progress.trials[0].stop_reason == f"goal {objective['goal']:g} reached at epoch 2"


def test_the_trial_that_reaches_the_goal_ends_apart_from_its_epoch(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    """So that ASHA, replayed over the epochs, decides as it did. One that had given its slot back ends likewise."""
    now = search(objective={"goal": 0.9})
    trial, _ = now.tune.start(), now.tune.start()
    now.tune.report(trial, 1, 0.5)
    now.service.orders = Orders(slots=1)
    now.tune.report(trial, 2, 0.95)
    now.conductor.look(now.tune)
    over = now.conductor.ending
    assert over is not None
    assert over.of_trial(0) == (TrialState.COMPLETED, "goal 0.9 reached at epoch 2")
    assert over.of_trial(1) == (TrialState.CANCELED, "goal 0.9 reached: trial 0 has 0.9500")
    assert states(now) == ["PAUSED", "CANCELED"]
    now.progress.ended(0, *over.of_trial(0))
    told = [entry for entry in journal.entries(tmp_path / "journal.jsonl") if entry.get("trial") == 0]
    assert [entry["event"] for entry in told] == ["suggested", "epoch", "epoch", "released", "ended"]
    assert "state" not in told[2]


@pytest.mark.parametrize(
    "fewer",
    [{"slots": 1}, {"slots": 3, "controls": Controls(num_samples=12, max_concurrent_trials=1)}],
    ids=["ordered", "asked for"],
)
def test_with_fewer_slots_the_trial_whose_epoch_ends_gives_its_own_back(
    search: Callable[..., Search], tmp_path: Path, fewer: dict[str, Any]
) -> None:
    now = search()
    first, second, third = (now.tune.start() for _ in range(3))
    now.tune.report(first, 1, 0.5)
    now.service.orders = Orders(**fewer)
    now.conductor.look(now.tune)
    assert now.tune.live == [first, second, third], "no epoch in flight is lost"
    assert now.tune.report(second, 1, 0.6) == TrialScheduler.STOP
    assert now.tune.report(first, 2, 0.6) == TrialScheduler.STOP
    assert now.tune.report(third, 1, 0.7) == TrialScheduler.CONTINUE
    assert states(now) == ["PAUSED", "PAUSED", "RUNNING"]
    assert now.tune.live == [third]
    assert now.tune.start() is None
    now.progress.close()
    after = search(2)
    assert [after.tune.start().config["trial"] for _ in range(4)] == [0, 1, 2, 3]
    assert [
        entry["trial"] for entry in journal.entries(tmp_path / "journal.jsonl") if entry["event"] == "released"
    ] == [
        1,
        0,
    ]
    assert after.conductor.asha.rungs() == now.conductor.asha.rungs()


def test_a_trial_that_ends_with_its_epoch_gives_nothing_back(search: Callable[..., Search]) -> None:
    now = search(asha={"max_t": 1})
    trials = [now.tune.start() for _ in range(3)]
    now.service.orders = Orders(slots=1)
    for trial in trials:
        now.tune.report(trial, 1, 0.5)
    assert states(now) == ["COMPLETED"] * 3


def test_trials_too_many_that_have_no_slot_are_called_back_first(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    running, *waiting = now.tune.start(), now.tune.start(waits=True), now.tune.start(waits=True)
    size = (tmp_path / "journal.jsonl").stat().st_size
    now.service.orders = Orders(slots=2)
    now.conductor.look(now.tune)
    assert now.tune.live == [running, waiting[0]]
    assert states(now) == ["RUNNING", "RUNNING", "PENDING"]
    now.service.orders = Orders(slots=0)
    now.conductor.look(now.tune)
    assert now.tune.live == [running]
    assert (tmp_path / "journal.jsonl").stat().st_size == size
    now.service.orders = Orders(slots=4)
    assert [now.tune.start().config["trial"] for _ in range(3)] == [1, 2, 3]


def test_the_epoch_after_the_goal_is_called_off_before_it_begins(search: Callable[..., Search]) -> None:
    """Tune has it begin before the next look, and one that is short would be over by then."""
    now = search(objective={"goal": 0.9})
    trial = now.tune.start()
    now.tune.report(trial, 1, 0.5)
    assert not (Path(trial.config["folder"]) / STOP).exists()
    assert now.tune.report(trial, 2, 0.95) == TrialScheduler.CONTINUE
    assert (Path(trial.config["folder"]) / STOP).exists()


@pytest.mark.parametrize(
    ("wanted", "slots", "ended", "given"),
    [
        (3, 2, 1, 0),  # the idle slot is for the third
        (3, 1, 1, 1),  # which may not have it
        (2, 2, 1, 1),  # no third is wanted
        (2, 2, 0, 1),
    ],
)
def test_an_idle_slot_is_given_back_where_no_trial_is_to_have_it(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, wanted: int, slots: int, ended: int, given: int
) -> None:
    now = search(searcher={"kind": "random", "num_samples": wanted})
    trials = [now.tune.start() for _ in range(2)]
    now.conductor.look(now.tune)
    for trial in trials[:ended]:
        now.tune.finish(trial, 0.5)
    now.service.orders = Orders(slots=slots)
    asked: list[Any] = []
    monkeypatch.setattr(idle, "give_back", asked.append)
    now.conductor.on_step_end(1, [])
    assert asked == [now.tune] * given


def test_an_idle_slot_is_kept_for_a_trial_that_waits(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = search(searcher={"kind": "random", "num_samples": 1})
    now.conductor.look(now.tune)
    now.tune.fail(now.tune.start(), ActorDiedError(), tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr(idle, "give_back", asked.append)
    now.conductor.on_step_end(1, [])
    assert asked == []


def test_a_diverged_value_reaches_no_goal(search: Callable[..., Search]) -> None:
    now = search(objective={"goal": 0.5})
    now.tune.report(now.tune.start(), 1, 0.9, diverged=True)
    now.conductor.look(now.tune)
    assert states(now) == ["DIVERGED"]
    assert now.conductor.ending is None


def test_a_spent_wall_clock_ends_the_search(search: Callable[..., Search], stopwatch: Any) -> None:
    now = search(budget={"wall_clock": "1h"})
    stopwatch.seconds += 9999
    now.tune.start()
    stopwatch.seconds += 3599
    now.conductor.look(now.tune)
    assert now.conductor.ending is None
    stopwatch.seconds += 2
    now.conductor.look(now.tune)
    assert now.conductor.ending is not None
    assert now.conductor.ending.reason == "budget.wall_clock of 3600 s is spent: 3601 s have passed"


@pytest.mark.parametrize(("gpus", "spent"), [(0.5, True), (0.25, False), (0, False)])
def test_spent_gpu_hours_end_the_search(
    search: Callable[..., Search], stopwatch: Any, gpus: float, spent: bool
) -> None:
    now = search(budget={"gpu_hours": 1}, resources={"gpus_per_trial": gpus})
    now.tune.start()
    stopwatch.seconds += 7200  # of an epoch in flight
    now.conductor.look(now.tune)
    assert (now.conductor.ending is not None) == spent
    if now.conductor.ending:
        assert now.conductor.ending.reason == "budget.gpu_hours of 1 is spent: all trials together held 1"


def test_slot_hours_are_summed_over_trials_and_attempts(search: Callable[..., Search], stopwatch: Any) -> None:
    now = search(budget={"slot_hours": 3})
    for _ in range(2):
        now.tune.start()
    stopwatch.seconds += 3600
    now.conductor.look(now.tune)
    assert now.conductor.ending is None
    now.service.orders = Orders(slots=4, stop="pause")
    now.conductor.look(now.tune)
    after = search(2, budget={"slot_hours": 3})
    after.tune.start()
    stopwatch.seconds += 3599
    after.conductor.look(after.tune)
    assert after.conductor.ending is None
    stopwatch.seconds += 1
    after.conductor.look(after.tune)
    assert after.conductor.ending is not None
    assert after.conductor.ending.reason == "budget.slot_hours of 3 is spent: all trials together held 3"


def test_controls_are_obeyed_live_in_place_of_the_spec(search: Callable[..., Search], experiment: Build) -> None:
    now = search(searcher={"kind": "random", "num_samples": 2}, objective={"goal": 0.5})
    asked = Controls.of(experiment(searcher={"kind": "random", "num_samples": 2}, objective={"goal": 0.5}))

    def order(**changes: Any) -> None:
        controls = Controls.model_validate(asked.model_dump() | changes)
        now.service.orders = Orders(slots=4, controls=controls)

    first, second = now.tune.start(), now.tune.start()
    assert now.tune.start() is None  # two were asked for
    order(num_samples=4, goal=0.9)
    third = now.tune.start()
    assert third.config["trial"] == 2
    order(num_samples=4, goal=0.9, max_concurrent_trials=3)
    assert now.tune.start() is None
    order(num_samples=3, goal=0.9)
    assert now.tune.start() is None
    now.tune.report(first, 1, 0.7)  # beyond the spec's goal
    now.conductor.look(now.tune)
    assert now.conductor.ending is None
    for trial in (first, second, third):
        now.tune.finish(trial, 0.8)
    assert now.tune.start() == "FINISHED"
    assert now.searcher.done
    assert now.searcher.exhausted()
    order(num_samples=5, goal=0.9)
    assert not now.searcher.exhausted()
    order(num_samples=5, goal=0.75)
    now.conductor.look(now.tune)
    assert now.conductor.ending is not None
    assert now.conductor.ending.reason == "goal 0.75 reached: trial 0 has 0.8000"
    order(num_samples=5, goal=0.99)
    now.conductor.look(now.tune)
    assert now.conductor.obeyed.goal == 0.75, "what the search ended under, not what was asked for since"


def test_a_grid_has_no_more_than_its_combinations(search: Callable[..., Search], experiment: Build) -> None:
    changes: dict[str, Any] = {"searcher": "grid", "search_space": {"batch_size": {"choice": [16, 32, 64]}}}
    now = search(**changes)
    controls = Controls.of(experiment(**changes)).model_copy(update={"num_samples": 9})
    now.service.orders = Orders(slots=9, controls=controls)
    assert now.conductor.num_samples() == 3
    for trial in [now.tune.start() for _ in range(3)]:
        now.tune.finish(trial, 0.5)
    assert now.tune.start() == "FINISHED"
    assert now.searcher.exhausted()


def test_failed_trials_spend_the_budget_of_failures(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(budget={"failures": 2})
    trials = [now.tune.start() for _ in range(3)]
    now.tune.report(trials[2], 1, 0.5)
    now.tune.fail(trials[0], ValueError("no such layer"), tmp_path)
    now.conductor.look(now.tune)
    assert now.conductor.ending is None
    now.tune.fail(trials[1], ValueError("no such layer"), tmp_path)
    now.conductor.look(now.tune)
    assert now.conductor.ending is not None
    assert now.conductor.ending.phase == "completed"
    assert now.conductor.ending.reason == ("budget.failures of 2 is spent: 2 trials failed; the first: no such layer")
    assert states(now) == ["ERROR", "ERROR", "CANCELED"]


def test_a_search_of_failures_alone_has_failed(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(budget={"failures": 1})
    now.tune.fail(now.tune.start(), ValueError("no such layer"), tmp_path)
    now.conductor.look(now.tune)
    assert now.conductor.ending is not None
    assert now.conductor.ending.phase == "failed"


def test_a_failed_trial_keeps_its_cause_and_spares_the_others(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    failed, _ = now.tune.start(), now.tune.start()
    failed.error_file = str(tmp_path / "error.txt")
    Path(failed.error_file).write_bytes(b"Traceback\n  \xff\nValueError: no such layer\n\n")
    now.tune.fail(failed)
    now.conductor.look(now.tune)
    assert states(now) == ["ERROR", "RUNNING"]
    line = now.progress.line(0)
    assert (line.stop_reason, line.error_kind, line.restarts) == ("ValueError: no such layer", "CODE", 0)
    assert now.tune.start().config["trial"] == 2


def test_a_lost_trial_goes_on_until_its_restarts_are_spent(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(max_restarts=2)
    trial = now.tune.start()
    now.tune.report(trial, 1, 0.5)
    for restarts in (1, 2):
        now.tune.fail(trial, ActorDiedError(), tmp_path)
        assert (states(now), now.progress.line(0).restarts) == (["PENDING"], restarts)
        trial = now.tune.start()
        assert trial.config["trial"] == 0
        now.tune.report(trial, 1, 0.5)  # told again from its checkpoint
        now.tune.report(trial, 1 + restarts, 0.6)
    now.tune.fail(trial, ActorDiedError(), tmp_path)
    line = now.progress.line(0)
    assert (line.state, line.error_kind, line.epoch) == ("ERROR", ErrorKind.LOST, 3)
    assert line.stop_reason.startswith("LOST after 2 restarts: The actor died")
    assert now.conductor.asha.rungs()[2] == {0: 0.6}


def test_a_trial_that_fills_the_disk_waits_and_blocks_the_experiment(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    now = search()
    trial, other = now.tune.start(), now.tune.start()
    full = RayTaskError("train", "Traceback\nOSError: [Errno 28] No space left on device", OSError(28, "No space left"))
    now.tune.fail(trial, full.as_instanceof_cause(), tmp_path)
    now.conductor.look(now.tune)
    ending = now.conductor.ending
    assert ending is not None
    assert (ending.phase, ending.blocked) == ("paused", True)
    assert ending.reason == "the disk is full: trial 0: OSError: [Errno 28] No space left on device"
    assert states(now) == ["PAUSED", "PAUSED"]
    assert other not in now.tune.live
    assert search(2).tune.start().config["trial"] == 0


def test_rungs_after_a_crash_equal_rungs_before(search: Callable[..., Search], open_progress: OpenProgress) -> None:
    """Trials cross, and one diverges with a finite accuracy between two others at the same rung."""
    now = search()
    trials = [now.tune.start() for _ in range(4)]
    now.tune.report(trials[2], 1, 0.6)
    now.tune.report(trials[1], 1, 0.9)
    now.tune.report(trials[3], 1, 0.95, diverged=True)
    now.tune.report(trials[0], 1, 0.1)
    now.tune.report(trials[1], 2, 0.92)
    before = now.conductor.asha.rungs()
    assert before[1] == {2: 0.6, 1: 0.9, 3: 0.6, 0: 0.1}
    now.progress.close()
    after = search(2)
    assert after.conductor.asha.rungs() == before
    resumed = after.tune.start()
    assert resumed.config["trial"] == 1  # the others have ended, or were told worse
    assert after.tune.report(resumed, 2, 0.92) == TrialScheduler.CONTINUE
    assert after.conductor.asha.rungs() == before
    assert after.progress.trials[1].curve == [0.9, 0.92]


def test_only_the_best_weights_stay(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(asha={"max_t": 1})
    for value in (0.5, 0.7, 0.6, 0.8):
        trial = now.tune.start()
        for name in (LAST, BEST):
            (Path(trial.config["folder"]) / name).write_bytes(b"weights")
        now.tune.report(trial, 1, value)
    assert [path.parent.name for path in tmp_path.rglob(BEST)] == ["00003"]
    assert list(tmp_path.rglob(LAST)) == []


def test_a_running_trials_files_are_left_alone(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    trial = now.tune.start()
    folder = Path(trial.config["folder"])
    (folder / LAST).write_bytes(b"state")
    now.service.orders = Orders(slots=4, stop="pause")
    now.conductor.look(now.tune)
    assert (folder / LAST).exists()


def test_files_that_cannot_be_removed_stop_nothing(search: Callable[..., Search]) -> None:
    now = search(asha={"max_t": 1})
    trial = now.tune.start()
    (Path(trial.config["folder"]) / LAST).mkdir()  # unlink raises
    now.tune.report(trial, 1, 0.5)
    assert states(now) == ["COMPLETED"]


def test_a_full_disk_pauses_the_experiment(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search()
    trial, other = now.tune.start(), now.tune.start()
    size = (tmp_path / "journal.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        now.tune.report(trial, 1, 0.5)
        now.tune.fail(other)
        now.conductor.look(now.tune)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert now.conductor.ending is not None
    assert now.conductor.ending.phase == "paused"
    assert now.conductor.ending.reason.startswith("the journal cannot be written: ")
    assert trial not in now.tune.live
    now.progress.close()
    after = search(2)
    assert [trial.number for trial in after.progress.waiting()] == [0, 1]
    assert after.progress.trials[0].curve == []
