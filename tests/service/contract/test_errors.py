"""Errors survive the wire: the document of each becomes the same exception again."""

from __future__ import annotations

import json

import pytest

from search_spaces.problems import Problem
from service.contract.errors import (
    CLASSES,
    BadRequestError,
    InternalError,
    RungError,
    ValidationFailedError,
    from_document,
    of_status,
    summary,
)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_way_to_the_client(cls: type[RungError]) -> None:
    error = cls("why", [Problem("lr", "> 0 required", -1.0)])
    document = json.loads(json.dumps(error.document(), allow_nan=False))
    again = from_document(document, cls.status)
    assert type(again) is cls
    assert (again.detail, again.problems) == ("why", error.problems)


def test_codes_and_statuses_are_unique() -> None:
    assert len({cls.code for cls in CLASSES}) == len({cls.status for cls in CLASSES}) == len(CLASSES)


def test_responses_of_other_programs_are_classified_by_status() -> None:
    assert type(from_document({}, 418)) is BadRequestError
    assert type(from_document({"detail": "bad gateway", "errors": "none"}, 502)) is InternalError
    assert of_status(503).code == "unavailable"


def test_values_that_json_cannot_hold_are_replaced_by_text() -> None:
    values = [float("nan"), float("inf"), "\ud800", b"\xff", "x" * 10_000, {"a": [float("nan")]}, 10**400]
    document = RungError("x", [Problem("f", "r", value) for value in values]).document()
    assert len(json.dumps(document, allow_nan=False, ensure_ascii=False).encode()) < 2_000


def test_the_summary_names_the_first_problem_and_counts_the_others() -> None:
    assert summary([Problem("a", "b required"), Problem("c", "d")]) == "a: b required (and 1 more)"
    assert summary([Problem("", "b required")]) == "b required"
    assert summary([]) == "the request is invalid"


def test_the_text_of_an_error_has_the_detail_and_every_problem() -> None:
    sort = Problem("sort", "must be one of epoch, best_value", "x")
    assert str(ValidationFailedError("trials cannot be sorted by this", [sort])) == (
        'trials cannot be sorted by this\nsort: must be one of epoch, best_value (got "x")'
    )
    problems = [sort, Problem("", "the body must be an object")]
    assert str(ValidationFailedError(summary(problems), problems)).splitlines() == [
        str(sort),
        "the body must be an object",
    ]
    assert str(ValidationFailedError("no problems")) == "no problems"
