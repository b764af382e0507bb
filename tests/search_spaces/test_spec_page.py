"""docs/spec.md: its tables are those of the JSON Schema, and it lists every block, domain and state."""

from __future__ import annotations

from search_spaces.domains import KEYWORDS
from search_spaces.protocol import TrialState
from service.contract.states import State
from tests.support.spec_page import BLOCKS, FAMILIES, PAGE, fill, tables

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_match_the_schema() -> None:
    assert fill(TEXT) == TEXT, "run `python -m tests.support.spec_page`"


def test_every_block_has_a_table() -> None:
    assert tables(TEXT) == {*BLOCKS, *FAMILIES, "default_augmentation", "changes"}


def test_every_domain_is_listed() -> None:
    assert all(f"| `{{{keyword}: [" in TEXT for keyword in KEYWORDS)


def test_every_state_is_listed() -> None:
    experiments, trials = TEXT.split("## States of an experiment")[1].split("## States of a trial")
    assert all(f"`{state}`" in experiments for state in State)
    assert all(f"| `{state}` |" in trials for state in TrialState)


def test_a_changed_table_is_noticed() -> None:
    assert fill(TEXT.replace("| `max_epochs` |", "| `epochs` |")) == TEXT
    assert fill(TEXT.replace("| `max_epochs` |", "| `epochs` |")) != TEXT.replace("| `max_epochs` |", "| `epochs` |")
