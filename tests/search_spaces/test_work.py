"""The work that a document may cause is bounded by its size, whatever it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import search_spaces
from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.parsing import MAX_BYTES, read
from search_spaces.problems import MAX_PROBLEMS, SpecError
from search_spaces.sampling import combinations
from search_spaces.spec import members
from search_spaces.validation import validate, warnings
from tests.support.work import executed_lines

#: Lines of this package per byte of a document, twice what the worst of these documents needs.
LINES_PER_BYTE = 30
#: To report MAX_PROBLEMS problems, which a short document may have too.
LINES_OF_A_REPORT = 50_000
#: For an alternative, however short: all fields that it leaves out have defaults, which are checked and written. There
#: are at most 1,000 in a choice.
LINES_PER_ALTERNATIVE = 800

Build = Callable[[int], Any]


def largest(build: Build) -> bytes:
    """The longest of the documents `build(0)`, `build(1)` ... within the limit of size, or one not much shorter.

    Their sizes grow evenly, or not at all after some point.
    """

    def size(count: int) -> int:
        return len(json.dumps(build(count), separators=(",", ":")))

    count = MAX_BYTES // max(1, (size(200) - size(100)) // 100)
    while size(count) > MAX_BYTES:
        count = count * 9 // 10
    return json.dumps(build(count), separators=(",", ":")).encode()


def check(body: bytes) -> None:
    """All that a service does with a document before it stores it. What is reported must be short."""
    try:
        document = read(body, "application/json")
        spec = validate(document)
    except SpecError as error:
        refused = error
    else:
        assert len(warnings(spec, document)) <= MAX_PROBLEMS + 1
        assert spec.num_samples > 0
        spec.model_dump(mode="json")
        return
    assert len(refused.problems) <= MAX_PROBLEMS + 1
    assert len(str(refused)) < 100_000


def assert_bounded(body: bytes) -> None:
    most = LINES_OF_A_REPORT + LINES_PER_BYTE * len(body) + LINES_PER_ALTERNATIVE * body.count(b"{")
    assert executed_lines(lambda: check(body), search_spaces) <= most


def space(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "search_space": fields}


def choice(item: Any, count: int) -> dict[str, Any]:
    return {"choice": [item] * min(count, 1_000)}


FINE = {"quniform": [0, 9_999, 0.1]}
DIVISORS = [number for number in range(1, 841) if 840 % number == 0]
FIELDS = tuple(SearchSpace.model_fields)

HOSTILE: dict[str, Build] = {
    "stepped ranges": lambda n: space(scheduler=choice({"kind": "constant", "warmup_epochs": FINE}, n)),
    "wide ranges": lambda n: space(
        model=choice({"kind": "cnn", "width": {"int_range": [1, 1024]}, "hidden": {"int_range": [0, 4096]}}, n),
        normalization={"kind": "group", "groups": {"choice": DIVISORS}},
    ),
    "widths and groups": lambda n: space(
        model=choice({"kind": "cnn", "width": choice(840, 9), "hidden": choice(2520, 5)}, n),
        normalization=choice({"kind": "group", "groups": {"choice": DIVISORS}}, 9),
    ),
    "many groups": lambda n: space(normalization=choice({"kind": "group", "groups": {"int_range": [1, 8]}}, n)),
    "empty alternatives": lambda n: space(**{name: choice({}, n) for name in FIELDS}),
    "empty augmentations": lambda n: {**space(augmentation=choice({}, n)), "searcher": "grid"},
    "names of alternatives": lambda n: space(
        model=choice("cnn", n),
        optimizer=choice("adam", n),
        scheduler=choice("cosine", n),
        normalization=choice("batch", n),
    ),
    "misspelled names": lambda n: space(**{name: choice("adma", n) for name in FIELDS}),
    "misspelled fields": lambda n: space(**{f"optimizr{number}": 1 for number in range(n)}),
    "misspelled fields of the root": lambda n: {"name": "x", **{f"serch_space{number}": 1 for number in range(n)}},
    "wrong arguments": lambda n: space(
        model={"kind": "plugin", "name": "p", "arguments": {f"-{number}": 1 for number in range(n)}}
    ),
    "wrong values in every alternative": lambda n: space(
        model=choice({"kind": "cnn", "width": choice("a", 20), "depth": choice("a", 20)}, n)
    ),
    "empty ranges": lambda n: space(
        model=choice({"kind": "cnn", "width": {"int_range": []}, "depth": {"choice": []}}, n)
    ),
    "choices in choices": lambda n: space(optimizer=choice({"choice": [{"choice": [1]}]}, n)),
    "more alternatives than allowed": lambda n: space(batch_size={"choice": [16] * n}),
    "warnings": lambda n: space(scheduler=choice({"kind": "cosine", "t_max": 3}, n)),
    "a continuous grid": lambda n: {
        **space(optimizer=choice({"kind": "sgd", "lr": {"uniform": [0.1, 1]}}, n)),
        "searcher": "grid",
    },
    "a grid beyond numbers": lambda n: {
        **space(augmentation=choice({"rotation": {"quniform": [0, 99, 0.001]}, "shear": FINE}, n)),
        "searcher": "grid",
    },
    "milestones": lambda n: space(scheduler=choice({"kind": "multistep", "milestones": [{"choice": [0.5]}] * 3}, n)),
    "problems of version 1": lambda n: {
        "version": 1,
        **space(scheduler=choice({"kind": "warm_restarts", "cycle_epochs": "a", "cycle_mult": "b"}, n)),
    },
    "choices of version 1": lambda n: {
        "version": 1,
        **space(scheduler={"choice": [{"choice": [{"kind": "step", "step_epochs": 0}]}] * n}),
    },
    "labels": lambda n: {"name": "x", "labels": [1] * n},
    "a long path": lambda n: {"k" * (n // 2): [[1] * (n // 4)]},
    "long names": lambda n: space(**{str(number) * (n // 9): 1 for number in range(9)}),
}


@pytest.mark.parametrize("build", HOSTILE.values(), ids=HOSTILE)
def test_the_work_for_a_hostile_document_is_bounded(build: Build) -> None:
    assert_bounded(largest(build))


NUMBERS = st.sampled_from([-1, 0, 0.5, 1, 7, 64, 840, 4096, 10**6, 1e-9, "a", None, True, [], {}])
DOMAINS = st.one_of(
    NUMBERS,
    st.builds(choice, NUMBERS, st.integers(0, 30)),
    st.sampled_from(
        [
            FINE,
            {"quniform": [0, 1, 0.001]},
            {"int_range": [1, 1024]},
            {"int_range": [8, 80_000, 8]},
            {"log_int_range": [1, 1024]},
            {"uniform": [0, 1]},
            {"loguniform": [0.1, 1]},
            {"uniform": [1]},
            {"unifrom": [0, 1]},
        ]
    ),
)
DOMAINS_OF_DOMAINS = DOMAINS | st.builds(choice, DOMAINS, st.integers(0, 30))


def alternatives(family: str) -> st.SearchStrategy[Any]:
    """What may stand for a field of the search space: its members with any of their fields, or anything else."""
    written = [DOMAINS_OF_DOMAINS]
    for member in members(SearchSpace.model_fields[family].annotation):
        fields = {name: DOMAINS_OF_DOMAINS for name in member.model_fields if name != "kind"}
        tag = {"kind": st.just(member.model_fields["kind"].default)} if "kind" in member.model_fields else {}
        written.append(st.fixed_dictionaries(tag, optional=fields))
    return st.one_of(written)


@given(
    alternatives=st.fixed_dictionaries({}, optional={name: alternatives(name) for name in FIELDS}),
    searcher=st.sampled_from(["grid", "tpe", "random"]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_work_for_any_document_is_bounded(alternatives: dict[str, Any], searcher: str) -> None:
    assert_bounded(
        largest(
            lambda n: {**space(**{name: choice(item, n) for name, item in alternatives.items()}), "searcher": searcher}
        )
    )


def test_the_next_combination_of_a_grid_costs_no_more_where_ranges_are_finer() -> None:
    def lines(step: float) -> int:
        fine = {"quniform": [0, 1, step]}
        names = ("brightness", "contrast", "sharpness", "horizontal_flip")
        spec = ExperimentSpec.model_validate(space(augmentation=dict.fromkeys(names, fine)))
        return executed_lines(lambda: list(islice(combinations(spec.search_space), 10)), search_spaces)

    assert lines(0.0001) <= 1.1 * lines(0.1)


def test_a_key_that_is_given_twice_is_found_at_once() -> None:
    names = ",".join(f'"{number}":1' for number in range(6_000))
    with pytest.raises(SpecError, match="'5999' twice"):
        read(f'{{{names},"5999":1}}'.encode(), "application/json")


YAMLS = {
    "a list": "a: [{}1]".format("1," * 32_000),
    "a block list": "a:\n{}".format("- x\n" * 16_000),
    "a mapping": "\n".join(f"k{number}: {number}" for number in range(5_000)),
    "nested lists": "a: [{}1]".format("[[[[]]]]," * 7_000),
    "quoted texts": "a: [{}1]".format("''," * 21_000),
    "a folded text": "a: >\n{}".format(" x\n" * 21_000),
    "keys without values": "{{a{}}}".format("".join(f",b{number}" for number in range(8_000))),
}


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_the_work_to_read_yaml_is_bounded_by_its_size(text: str) -> None:
    assert len(text) <= MAX_BYTES
    lines = executed_lines(lambda: read(text.encode(), "application/yaml"), yaml, search_spaces)
    assert lines <= LINES_PER_BYTE * len(text)
