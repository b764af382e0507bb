"""A trial that resumes: from which checkpoint, with which spec, and to the same bits as one that was never killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.experiment import TrialSpec
from search_spaces.layout import BEST, LAST, PREVIOUS
from search_spaces.stored import read_trial_spec
from tests.support.trial_slots import SPEC, begun, folder_of, said, timeless


def test_a_killed_trial_resumes_bit_for_bit(config: Callable[..., dict[str, Any]]) -> None:
    whole = begun(config(name="whole"))
    expected = [whole.step() for _ in range(4)]
    told = config(name="killed")
    results = []
    for _ in range(2):  # two lives of two epochs each
        slot = begun(told)
        if results:
            assert slot.step() == results[-1] | {"resumed_after": 2}  # reported again, for a driver that had died
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
    told |= {"marker": "", "version": "", "share": 1.0}
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
