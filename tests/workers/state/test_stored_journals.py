"""Journals of commit 3675ee6, written and folded by its own code: the same figures come out, and they can be resumed.

`stored/journals/expected.json` holds what that version's table said of each journal.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from search_spaces.objective import Objective
from search_spaces.protocol import Winner
from search_spaces.storage.base import Entry
from search_spaces.storage.folder import FolderStorage
from workers.state.events import WINNER_0_1, decode, decode_all, encode
from workers.state.recorder import Recorder

STORED = Path(__file__).parents[1] / "stored" / "journals"
EXPECTED: dict[str, dict[str, Any]] = json.loads((STORED / "expected.json").read_text())


@pytest.fixture(params=sorted(EXPECTED))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def storage(tmp_path: Path, name: str) -> FolderStorage:
    shutil.copy(STORED / f"{name}.jsonl", tmp_path / "journal.jsonl")
    return FolderStorage(tmp_path)


def test_an_old_journal_gives_the_figures_that_the_old_version_gave(name: str, storage: FolderStorage) -> None:
    expected = EXPECTED[name]
    recorder = Recorder(storage.journal, Objective(), 99, lambda: 1e10, lambda: 0.0)
    table, best = recorder.table, recorder.table.best()
    updates = [recorder.update_of(number).model_dump(mode="json") for number in sorted(table.trials)]
    assert [
        {field: update[field] for field in known} for update, known in zip(updates, expected["trials"], strict=True)
    ] == expected["trials"]
    assert [repr(trial.curve) for trial in table.trials.values()] == expected["curves"]
    assert [trial.source for trial in table.trials.values()] == expected["sources"]
    assert [[trial, epoch] for trial, epoch, _ in table.history()] == expected["history"]
    assert (best and best.number) == expected["best"]
    later = dict.fromkeys(Winner.model_fields.keys() - WINNER_0_1)  # what version 0.1 did not know
    winner = later | expected["winner"] if expected["winner"] else None
    assert (table.winner and table.winner.model_dump(mode="json")) == winner
    assert recorder.clock.slot_seconds() == pytest.approx(expected["slot_seconds"])
    assert recorder.clock.elapsed_s() == pytest.approx(expected["elapsed_s"])
    recorder.close()


def test_events_are_stored_with_the_keys_of_the_old_version(storage: FolderStorage) -> None:
    """So an older version can read the journal of a newer one that has no new state and no new kind of error."""
    entries = list(storage.journal.entries())
    assert [_without_nan(encode(event)) for event in decode_all(entries)] == [_without_nan(entry) for entry in entries]


def test_the_repaired_journal_keeps_its_lines(name: str, storage: FolderStorage) -> None:
    before = storage.journal.path.read_bytes()
    storage.journal.open_writer(99).close()
    assert storage.journal.path.read_bytes() == storage.journal.copy.read_bytes() == before


def test_an_event_of_a_newer_version_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert decode({"at": 1.0, "event": "moved", "trial": 3, "to": "node-7"}) is None
    assert "event 'moved' of a newer version is ignored" in caplog.text


def test_a_field_of_a_newer_version_is_ignored() -> None:
    entry = {"at": 1.0, "event": "released", "trial": 3, "held_s": 2.0}
    event = decode(entry | {"why": "a reason"})
    assert event is not None
    assert encode(event) == entry


def _without_nan(entry: Entry) -> str:
    return json.dumps(entry, sort_keys=True)  # NaN is not equal to itself, but its text is
