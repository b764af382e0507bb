"""A slot outside Ray, on real digits: what it saves and logs, how it resumes after a crash, is reused and stopped."""

from __future__ import annotations

import logging
import math
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import BEST, LAST, NAMES, PREVIOUS
from search_spaces.protocol import METRICS
from search_spaces.storage.base import open_storage
from tests.support.trial_slots import SPEC, TRIAL_LOG, begun, folder_of, names, said, timeless
from workers.data import splits
from workers.failures.classification import TrialError
from workers.state import checkpoints
from workers.state.outcomes import load_outcomes
from workers.training import loop
from workers.trial import parallel_training, worker

STOP, VALIDATION = "stop", "validation.json"
SIGN = r"epoch (\d+): (\d+) of (\d+) batches"


def ask_to_stop(config: dict[str, Any]) -> None:
    open_storage(config["storage"]).stop_signal(config["trial"]).ask()


def test_an_epoch_a_step_with_all_its_figures(config: Callable[..., dict[str, Any]]) -> None:
    told = config()
    slot = begun(told)
    first, second = slot.step(), slot.step()
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert set(METRICS) <= set(first["reported"])
    assert "epoch" not in first["reported"]
    assert all(isinstance(first[name], float) for name in first["reported"])
    assert first["diverged"] is False
    assert second["validation_accuracy"] > 0.3
    assert names(told) == {BEST, LAST, PREVIOUS, SPEC, VALIDATION}


def test_which_images_the_best_epoch_got_right_is_kept(config: Callable[..., dict[str, Any]]) -> None:
    told = config()
    slot = begun(told)
    results = [slot.step() for _ in range(3)]
    accuracies = [result["validation_accuracy"] for result in results]
    best = accuracies.index(max(accuracies))
    artifacts, files = open_storage(told["storage"]).artifacts, NAMES.trial(told["trial"])
    found = load_outcomes(artifacts, files, best + 1)
    assert found is not None
    assert sum(found.right) / len(found.right) == results[best]["validation_accuracy"]
    assert found.loss == results[best]["validation_loss"]
    checkpoints.prune(artifacts, [told["trial"]], (), "none")
    assert load_outcomes(artifacts, files, best + 1) == found, "it stays when the checkpoints are deleted"
    assert not artifacts.exists(files.best)


def test_a_long_epoch_logs_its_progress(config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = config(), config(name="long")
    begun(short).step()
    assert "batches" not in said(short)
    monkeypatch.setattr(worker, "PROGRESS_LOG_S", 0.0)
    slot = begun(long)
    slot.step(), slot.step()
    signs = [(int(epoch), int(done), int(all_)) for epoch, done, all_ in re.findall(SIGN, said(long))]
    batches = signs[0][2]
    assert batches > 9
    for epoch in (1, 2):
        trained = [done for number, done, _ in signs if number == epoch]
        assert trained[:batches] == list(range(batches))
        assert set(trained[batches:]) == {batches}, "while it is evaluated"


def test_an_epoch_is_left_when_asked(config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "STOP_POLL_S", 0.0)
    whole = begun(config(name="whole"))
    expected = [timeless(whole.step()) for _ in range(2)]
    told = config()
    slot = begun(told)
    ask_to_stop(told)
    left = slot.step()
    assert (left["epoch"], left["reported"], left["diverged"]) == (0, [], False)
    assert ExperimentSpec(name="x").objective.metric in left, "Tune refuses a result without it"
    assert names(told) == {SPEC, STOP}
    assert timeless(slot.step()) == expected[0], "one request ends one epoch"
    ask_to_stop(told)
    before = (folder_of(told) / LAST).read_bytes()
    assert timeless(slot.step()) == expected[0]
    assert (folder_of(told) / LAST).read_bytes() == before
    again = begun(told)  # the earlier request is still there, but not for it
    assert timeless(again.step()) == expected[0]
    assert timeless(again.step()) == expected[1]


def test_an_epoch_that_ends_before_the_next_look_leaves_no_trace(config: Callable[..., dict[str, Any]]) -> None:
    """It may be the best one, but nobody learns of it: the best weights stay those of a reported epoch."""
    told = config()
    slot = begun(told)
    first = timeless(slot.step())
    before = {name: (folder_of(told) / name).read_bytes() for name in (BEST, LAST)}
    slot._next_look = math.inf  # no batch looks
    ask_to_stop(told)
    assert timeless(slot.step()) == first
    assert {name: (folder_of(told) / name).read_bytes() for name in (BEST, LAST)} == before
    assert slot.step()["epoch"] == 1, "resumed, it reports what is saved"
    assert slot.step()["validation_accuracy"] > first["validation_accuracy"], "which would have been saved"


def test_a_requested_stop_is_noticed_when_the_data_are_loaded(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = config()
    slot = begun(told)
    load = splits.load

    def long(*given: Any, **options: Any) -> Any:
        ask_to_stop(told)
        return load(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(splits, "load", long)
        patched.setattr(parallel_training, "Training", None)  # nothing is trained, nor made ready for it
        left = slot.step()
    assert left["epoch"] == 0
    assert names(told) == {SPEC, STOP}
    assert timeless(slot.step()) == timeless(begun(config(name="whole")).step())


def test_a_worker_that_left_an_epoch_trains_the_next_trial(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STOP_POLL_S", 0.0)
    expected = begun(config(1, "fresh")).step()
    told, next_ = config(0, "left"), config(1, "next")
    slot = begun(told)
    ask_to_stop(told)
    assert slot.step()["epoch"] == 0
    assert slot.reset_config(next_)
    assert timeless(slot.step()) == timeless(expected)
    slot.cleanup()
    assert "stopped in epoch" in said(told)
    assert "trial 1 begins" in said(next_)


def test_the_log_has_the_output_of_the_trial(
    config: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    told = config()
    slot = begun(told)
    slot.step()
    build = slot._training._loss  # type: ignore[union-attr]

    def talkative(*arguments: Any) -> Any:
        print("a model prints")
        print("and complains", file=sys.stderr)
        logging.getLogger("plugin").info("and logs")
        warnings.warn("and warns", UserWarning, stacklevel=1)
        if slot._training is not None and slot._training.epoch == 2:
            raise ValueError("and breaks")
        return build(*arguments)

    slot._training._loss = talkative  # type: ignore[union-attr,method-assign]
    with pytest.warns(UserWarning, match="and warns"):
        slot.step()
    with pytest.warns(UserWarning, match="and warns"), pytest.raises(TrialError, match="and breaks"):
        slot.step()
    heard = said(told)
    assert re.search(r"epoch 1: .*validation_accuracy 0\.\d+", heard)
    for text in ("a model prints\n", "and complains\n", "INFO plugin and logs\n", "ValueError: and breaks\n"):
        assert text in heard
    assert "in talkative" in heard, "with its traceback"
    assert "a model prints" in capsys.readouterr().out, "and goes where it went before"
    assert (folder_of(told) / TRIAL_LOG).stat().st_mode & 0o777 == 0o600


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise KeyError("text")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("caf\udce9 \ud800!"), "ValueError: caf? ?!"),
        (OSError(5, "cannot be read", "caf\udce9"), "OSError: [Errno 5] cannot be read: 'caf\\udce9'"),
        (UnspeakableError(), "UnspeakableError: its text cannot be read: KeyError"),
        (ValueError("x" * 10**7), f"ValueError: {'x' * 488}"),
        (type("X" * 10**5, (Exception,), {})("y"), f"{'X' * 100}: y"),
    ],
    ids=["text", "name of a file", "no text", "long text", "long name"],
)
def test_an_exception_of_any_text_can_be_sent_and_stored(
    config: Callable[..., dict[str, Any]], error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray sends the traceback as UTF-8."""
    told = config()
    slot = begun(told)
    slot.step()

    def break_down(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(slot._training, "_loss", break_down)
    with pytest.raises(TrialError) as raised:
        slot.step()
    assert raised.value.failure.reason == reason
    assert raised.value.failure.reason.isprintable()
    sent = "".join(traceback.format_exception(raised.value)).encode()
    assert len(sent) < 10**4
    assert "in break_down" in said(told)
    assert (folder_of(told) / TRIAL_LOG).stat().st_size < 10**6
    assert begun(told).step()["epoch"] == 1
    assert "resumes after epoch 1" in said(told)


def test_unusual_images_are_logged(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"data/pictures/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8 + 9 * (number == 7)), 10 * number).save(path)
    (path.parent / "notes.txt").touch()
    folder = {"name": "image_folder", "path": "pictures", "size": 8, "color": "grey"}
    told, again = config(dataset=folder), config(1, "again", dataset=folder)
    for one in (told, again):  # the second finds the pictures decoded
        begun(one).step()
        assert "b/notes.txt" in said(one)
        assert "b/7.png (8x17)" in said(one)


def test_a_reused_worker_trains_as_a_fresh_one(config: Callable[..., dict[str, Any]]) -> None:
    fresh = begun(config(1, "fresh")).step()
    slot = begun(config(0, "before"))
    other = slot.step()
    data = slot._loaded
    assert slot.reset_config(config(1, "after"))
    reused = slot.step()
    assert timeless(reused) == timeless(fresh)
    assert timeless(reused) != timeless(other)
    assert slot._loaded is data
    slot.cleanup()


def test_the_best_weights_are_those_of_the_best_epoch(config: Callable[..., dict[str, Any]]) -> None:
    told = config()
    slot = begun(told)
    values: list[float] = []
    saved: list[dict[str, torch.Tensor]] = []
    for _ in range(4):
        values.append(slot.step()["validation_accuracy"])
        saved.append(torch.load(folder_of(told) / LAST, weights_only=True)["training"]["model"])
    best = torch.load(folder_of(told) / BEST, weights_only=True)
    first = values.index(max(values))
    assert best["epoch"] == first + 1
    assert all(torch.equal(weights, saved[first][key]) for key, weights in best["model"].items())


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_trial_trains_on_its_cores(
    cpus: int, config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Watched(loop.Training):
        def run_epoch(self) -> dict[str, float]:
            seen.append(torch.get_num_threads())
            return super().run_epoch()

    monkeypatch.setattr(parallel_training, "Training", Watched)
    torch.set_num_threads(3 - cpus)
    begun(config(resources={"cpus_per_trial": cpus})).step()
    assert seen == [cpus]
