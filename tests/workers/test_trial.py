"""A slot outside Ray, on real digits: what it saves, how it goes on after a crash, how it is reused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import METRICS
from workers.trial import BEST, LAST, SPEC, Slot

Begin = Callable[..., Slot]
CLOCKED = {"epoch_seconds", "images_per_second"}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tmp_path: Path, experiment: Callable[..., ExperimentSpec]) -> Callable[..., dict[str, Any]]:
    """A folder with the bound spec of trial `number`, and what Tune hands to the slot."""

    def build(number: int = 0, name: str = "trial", **changes: Any) -> dict[str, Any]:
        spec = experiment(**changes)
        sample = {"optimizer": 0, "optimizer[0].lr": 0.003, "batch_size": 1, "label_smoothing": 0.1}
        folder = tmp_path / name
        folder.mkdir()
        (folder / SPEC).write_text(spec.bind(sample, number).model_dump_json())
        roots = {"data_root": str(tmp_path / "data"), "cache_root": str(tmp_path / "cache")}
        return {"trial": number, "folder": str(folder), **roots}

    return build


def begun(config: dict[str, Any]) -> Slot:
    slot = Slot.__new__(Slot)  # Tune's constructor wants a session; `setup` is all that is ours
    slot.setup(config)
    return slot


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
    assert sorted(path.name for path in Path(told["folder"]).iterdir()) == [BEST, LAST, SPEC]


def test_a_killed_trial_goes_on_bit_for_bit(config: Callable[..., dict[str, Any]]) -> None:
    whole = begun(config(name="whole"))
    expected = [whole.step() for _ in range(4)]
    told = config(name="killed")
    results = []
    for _ in range(2):  # two lives of two epochs each
        slot = begun(told)
        if results:
            assert slot.step() == results[-1]  # told again, for a driver that had died
        results += [slot.step(), slot.step()]
    assert [timeless(result) for result in results] == [timeless(result) for result in expected]
    folders = Path(told["folder"]), Path(told["folder"]).with_name("whole")
    ours, theirs = (torch.load(folder / BEST, weights_only=True) for folder in folders)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other"])
def test_a_damaged_checkpoint_costs_its_epochs_alone(
    config: Callable[..., dict[str, Any]], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = config()
    first = begun(told).step()
    last = Path(told["folder"]) / LAST
    content = last.read_bytes()
    if damage == "other":
        torch.save({"training": {"model": {}}}, last)
    else:
        last.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": b"\x93" * 5000}[damage])
    again = begun(told).step()
    assert timeless(again) == timeless(first)
    assert "cannot be read, the trial begins anew" in caplog.text


def test_a_reused_slot_trains_as_a_fresh_one(config: Callable[..., dict[str, Any]]) -> None:
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
    saved: dict[float, dict[str, torch.Tensor]] = {}
    for _ in range(4):
        value = slot.step()["validation_accuracy"]
        state = torch.load(Path(told["folder"]) / LAST, weights_only=True)["training"]["model"]
        saved.setdefault(value, state)
    best = torch.load(Path(told["folder"]) / BEST, weights_only=True)
    assert all(torch.equal(best[key], saved[max(saved)][key]) for key in best)


def test_a_save_that_fails_leaves_the_last_one_whole(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = config()
    slot = begun(told)
    slot.step()
    last = Path(told["folder"]) / LAST
    before = last.read_bytes()

    def full(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        slot.step()
    assert last.read_bytes() == before
    assert sorted(path.name for path in last.parent.iterdir()) == [BEST, LAST, SPEC]
