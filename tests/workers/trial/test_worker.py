"""A slot outside Ray, on real digits: what it saves and logs, how it resumes after a crash, is reused and stopped."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from search_spaces.datasets.report import DataReport
from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.layout import BEST, LAST, NAMES, PREVIOUS, ExperimentFolder
from search_spaces.protocol import METRICS, ErrorKind
from search_spaces.storage.base import MAX_DOCUMENT_BYTES, open_storage
from search_spaces.stored import read_trial_spec
from tests.support.trial_slots import SPEC, TRIAL_LOG, begun, folder_of, names
from workers.data import splits
from workers.failures.classification import TrialError
from workers.state import checkpoints
from workers.state.outcomes import load_outcomes
from workers.training import loop
from workers.trial import worker

STOP, VALIDATION = "stop", "validation.json"
SIGN = r"epoch (\d+): (\d+) of (\d+) batches"
CLOCKED = {"epoch_seconds", "images_per_second"}


def ask_to_stop(config: dict[str, Any]) -> None:
    open_storage(config["storage"]).stop_signal(config["trial"]).ask()


def said(config: dict[str, Any]) -> str:
    return (folder_of(config) / TRIAL_LOG).read_text()


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in CLOCKED}


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


def test_the_first_trial_tells_what_the_data_are(
    config: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    found = DataReport.model_validate_json(path.read_bytes())
    assert (found.name, len(found.classes), found.images("test")) == ("digits", 10, 359)
    before = path.stat().st_mtime_ns
    begun(config(number=1)).step()
    assert path.stat().st_mtime_ns == before, "a second trial that finds the same writes nothing"
    path.write_text("{")
    begun(config(number=2)).step()
    assert DataReport.model_validate_json(path.read_bytes()) == found, "a damaged one is replaced"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"train_sha256": "0" * 64}, "its training images are others"),
        ({"train_sha256": "0" * 64, "validation_sha256": "0"}, "its training and validation images are others"),
        ({"test_sha256": "0" * 64}, "its test images are others"),
        ({"counts": {"train": [9], "validation": [1], "test": [2]}}, "instead of 9 train, 1 validation, 2 test"),
        ({"classes": ["cat", "dog"]}, "its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 instead of cat, dog"),
    ],
)
def test_a_trial_is_not_trained_on_other_data_than_those_it_is_compared_with(
    config: Callable[..., dict[str, Any]], changed: dict[str, Any], why: str
) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    found = DataReport.model_validate_json(path.read_bytes())
    path.write_text(found.model_copy(update=changed).model_dump_json())
    for one in (told, config(number=1)):  # also where it resumes
        with pytest.raises(TrialError) as raised:
            begun(one).step()
        failure = raised.value.failure
        assert failure.kind is ErrorKind.DATA or failure.node is not None
        assert "has other data than earlier trials of this experiment" in failure.reason
        assert why in failure.reason
    path.write_text(found.model_dump_json())
    assert begun(told).step()["epoch"] == 1


def pictures(folder: Path, replaced: int | None = None) -> None:
    """A train set of 20 pictures of two classes; the content of one may be another than at first."""
    for number in range(20):
        path = folder / f"{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * number + (number == replaced)).save(path)


@pytest.mark.parametrize("replaced", range(0, 20, 4))
def test_a_replaced_picture_is_noticed_whatever_split_it_is_in(
    config: Callable[..., dict[str, Any]], tmp_path: Path, replaced: int
) -> None:
    folder = {"name": "image_folder", "path": "pictures", "size": 8, "color": "gray", "validation_fraction": 0.5}
    pictures(tmp_path / "data/pictures")
    told = config(dataset=folder)
    begun(told).step()
    (tmp_path / f"data/pictures/{'ab'[replaced % 2]}/{replaced}.png").unlink()
    pictures(tmp_path / "data/pictures", replaced)
    with pytest.raises(TrialError, match=r"its (training|validation|test) images are others") as raised:
        begun(told).step()
    assert raised.value.failure.kind is ErrorKind.DATA


LOSSES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "missing": lambda path: path.unlink(),
    "too large": lambda path: os.truncate(path, MAX_DOCUMENT_BYTES + 1),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_other_data_are_noticed_though_the_report_is_lost(
    config: Callable[..., dict[str, Any]], tmp_path: Path, lost: str
) -> None:
    folder = {"name": "image_folder", "path": "pictures", "size": 8, "color": "gray", "validation_fraction": 0.5}
    pictures(tmp_path / "data/pictures")
    told = config(dataset=folder)
    told["data"] = begun(told).step()["data"]
    path = ExperimentFolder(Path(told["storage"])).data_report
    before = path.read_bytes()
    LOSSES[lost](path)
    assert begun(told).step()["data"] == told["data"], "the same data are no matter"
    assert path.read_bytes() == before
    LOSSES[lost](path)
    for name, other in (("a", "c"), ("b", "a"), ("c", "b")):
        (tmp_path / "data/pictures" / name).rename(tmp_path / "data/pictures" / other)
    with pytest.raises(TrialError, match=r"has other data than .*: its training and validation and test images") as it:
        begun(told).step()
    assert it.value.failure.kind is ErrorKind.DATA
    (tmp_path / "data/pictures/a").rename(tmp_path / "data/pictures/c")
    (tmp_path / "data/pictures/b").rename(tmp_path / "data/pictures/a")
    (tmp_path / "data/pictures/c").rename(tmp_path / "data/pictures/x")
    with pytest.raises(TrialError, match="its classes have other names"):
        begun(told).step()


@pytest.mark.parametrize("misplaced", ["file", "folder"])
def test_a_link_in_the_place_of_the_report_is_a_failure_of_the_storage(
    config: Callable[..., dict[str, Any]], tmp_path: Path, misplaced: str
) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    moved = path if misplaced == "file" else path.parent
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrialError, match=r"cannot use RUNG_STORAGE_ROOT .*data/dataset\.json") as raised:
        begun(told).step()
    assert raised.value.failure.kind is ErrorKind.NODE


def test_a_report_of_a_version_without_digests_is_completed(config: Callable[..., dict[str, Any]]) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    found = path.read_text()
    earlier = {name: value for name, value in json.loads(found).items() if name.partition("_")[0] != "train"}
    del earlier["validation_sha256"]
    path.write_text(json.dumps(earlier))
    assert begun(told).step()["epoch"] == 1
    assert path.read_text() == found


def test_a_killed_trial_resumes_bit_for_bit(config: Callable[..., dict[str, Any]]) -> None:
    whole = begun(config(name="whole"))
    expected = [whole.step() for _ in range(4)]
    told = config(name="killed")
    results = []
    for _ in range(2):  # two lives of two epochs each
        slot = begun(told)
        if results:
            assert slot.step() == results[-1]  # reported again, for a driver that had died
        results += [slot.step(), slot.step()]
    assert [timeless(result) for result in results] == [timeless(result) for result in expected]
    folders = folder_of(told), folder_of(told | {"storage": str(Path(told["storage"]).with_name("whole"))})
    ours, theirs = (torch.load(folder / BEST, weights_only=True) for folder in folders)
    assert ours["epoch"] == theirs["epoch"]
    assert all(torch.equal(ours["model"][key], weights) for key, weights in theirs["model"].items())


def test_a_trial_of_version_0_1_resumes_with_the_spec_of_today(tmp_path: Path) -> None:
    """The checkpoint holds the older spec, whose random streams the trial keeps."""
    stored = Path(__file__).parents[1] / "stored" / "checkpoint"
    told = {"trial": 0, "storage": str(tmp_path), "epoch": 2, "data_root": str(tmp_path), "cache_root": str(tmp_path)}
    told |= {"marker": "", "version": ""}
    folder_of(told).mkdir(parents=True)
    shutil.copy(stored / LAST, folder_of(told))
    today = read_trial_spec((stored / SPEC).read_bytes()).model_copy(update={"random_streams": 2})
    (folder_of(told) / SPEC).write_text(today.model_dump_json())
    slot = begun(told)
    assert [slot.step()["epoch"] for _ in range(2)] == [2, 3]
    assert f"resumes after epoch 2 from {LAST}" in said(told)
    assert read_trial_spec((folder_of(told) / SPEC).read_bytes()).random_streams == 1


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "other":
        torch.save({"training": {"model": {}}}, path)
        return
    if how == "one bit":  # of a weight; torch itself would read it
        weight = torch.load(path, weights_only=True)["training"]["model"].popitem()[1].numpy().tobytes()
        content[content.index(weight)] ^= 1
    path.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "noise": b"\x93" * 5000, "one bit": content}[how]
    )


@pytest.mark.parametrize("how", ["cut", "empty", "noise", "other", "one bit", "absent"])
def test_a_damaged_checkpoint_costs_only_its_epoch(config: Callable[..., dict[str, Any]], how: str) -> None:
    whole = begun(config(name="whole"))
    expected = [timeless(whole.step()) for _ in range(4)]
    told = config()
    slot = begun(told)
    for _ in range(3):
        slot.step()
    last, previous = folder_of(told) / LAST, folder_of(told) / PREVIOUS
    last.unlink() if how == "absent" else damage(last, how)
    slot = begun(told)
    assert timeless(slot.step()) == expected[1], "reported again, from the epoch before"
    assert "resumes after epoch 2 from previous.pt" in said(told)
    assert timeless(slot.step()) == expected[2]
    assert torch.load(previous, weights_only=True)["training"]["epoch"] == 2, "a damaged one never replaces it"
    assert timeless(slot.step()) == expected[3]


def test_without_an_undamaged_checkpoint_a_trial_starts_again(config: Callable[..., dict[str, Any]]) -> None:
    told = config()
    slot = begun(told)
    first = slot.step()
    slot.step()
    for name in (LAST, PREVIOUS):
        damage(folder_of(told) / name, "cut")
    assert timeless(begun(told).step()) == timeless(first)
    assert "last.pt cannot be read" in said(told)
    assert "previous.pt cannot be read" in said(told)
    assert said(told).count("trial 0 begins, on cpu with 1 thread") == 2


def test_a_checkpoint_of_another_spec_is_not_used(config: Callable[..., dict[str, Any]]) -> None:
    """Its number may be given to another configuration when the journal is cut."""
    told, other = config(0), config(1, "other")
    begun(told).step()
    expected = begun(other).step()
    (folder_of(told) / SPEC).write_text((folder_of(other) / SPEC).read_text())
    assert timeless(begun(told).step()) == timeless(expected)
    assert "its spec is another one" in said(told)


def test_a_trial_of_the_version_before_resumes_and_stays_marked(config: Callable[..., dict[str, Any]]) -> None:
    told = config(0)
    path = folder_of(told) / SPEC
    mark = {"random_streams": 1}
    path.write_text(TrialSpec.model_validate_json(path.read_text()).model_copy(update=mark).model_dump_json())
    begun(told).step()
    path.write_text(path.read_text().replace('"random_streams":1', '"random_streams":2'))  # as the searcher writes it
    resumed = begun(told | {"epoch": 1})
    assert (resumed.step()["epoch"], resumed.step()["epoch"]) == (1, 2)
    assert TrialSpec.model_validate_json(path.read_text()).random_streams == 1


@pytest.mark.parametrize(("known", "first"), [(1, 2), (0, 1)])
def test_a_checkpoint_ahead_of_the_journal_is_not_used(
    config: Callable[..., dict[str, Any]], known: int, first: int
) -> None:
    """A journal that lost its end needs every epoch: from the one before, or from the first on."""
    told = config()
    slot = begun(told)
    expected = [timeless(slot.step()) for _ in range(3)]
    again = begun(told | {"epoch": known})
    assert timeless(again.step()) == expected[first - 1]
    assert f"last.pt cannot be used: it is of epoch 3, but the journal has {known}" in said(told)
    assert timeless(again.step()) == expected[first]


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

    def long(*given: Any) -> Any:
        ask_to_stop(told)
        return load(*given)

    with monkeypatch.context() as patched:
        patched.setattr(splits, "load", long)
        patched.setattr(loop, "Training", None)  # nothing is trained, nor made ready for it
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

    monkeypatch.setattr(loop, "Training", Watched)
    torch.set_num_threads(3 - cpus)
    begun(config(resources={"cpus_per_trial": cpus})).step()
    assert seen == [cpus]
