import json
import math

import pytest
from pydantic import ValidationError

from search_spaces.controls import Controls
from search_spaces.protocol import (
    MAX_PARAMETERS,
    MAX_TEXT,
    MAX_UPDATES,
    Directives,
    Heartbeat,
    LaunchConfig,
    Message,
    TrialState,
    TrialUpdate,
    Winner,
)
from search_spaces.resources import Budget

CONTROLS = Controls(num_samples=9, budget=Budget(gpu_hours=2.0, wall_clock=60.0))


def test_text_that_databases_or_json_cannot_store_is_changed_so_that_they_can() -> None:
    names = {"model.argument\0": "x\ud800", "flag": True, "n": 3, "lr": 0.5}
    line = TrialUpdate(trial=0, state=TrialState.ERROR, stop_reason="a\0b\ud800c é", parameters=names)
    beat = Heartbeat(phase="failed", reason="\udcff!", trials=[line])
    assert (beat.reason, beat.trials[0].stop_reason) == ("?!", "ab?c é")
    assert repr(beat.trials[0].parameters) == repr({"model.argument": "x?", "flag": True, "n": 3, "lr": 0.5})
    assert Heartbeat.model_validate_json(beat.model_dump_json()) == beat


@pytest.mark.parametrize("loss", [0.25, math.inf, math.nan])
def test_a_winner_can_be_reported_with_any_test_loss(loss: float) -> None:
    winner = Winner(trial=0, value=0.5, test_accuracy=0.75, test_loss=loss)
    assert winner.test_loss == (0.25 if loss == 0.25 else None)
    beat = Heartbeat(phase="completed", winner=winner)
    assert Heartbeat.model_validate_json(beat.model_dump_json()) == beat


@pytest.mark.parametrize(
    "message",
    [
        Heartbeat(phase="completed", controls=CONTROLS),
        Directives(slots=1, controls=CONTROLS),
        LaunchConfig(
            experiment_id="x", attempt=1, attempt_id="exp-x-a1", service_url="", token="", slots=1, controls=CONTROLS,
            mlflow_tracking_uri="", storage="", data_root="", cache_root="",
        ),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_unknown_fields_of_a_newer_version_are_ignored_at_every_depth(message: Message) -> None:
    document = json.loads(message.model_dump_json())
    for place in (document, document["controls"], document["controls"]["budget"]):
        place["tomorrow"] = 1
    assert type(message).model_validate_json(json.dumps(document)) == message
    assert type(message).model_validate(document | {"controls": None}).model_dump()["controls"] is None


def test_invalid_controls_are_refused_in_messages_too() -> None:
    with pytest.raises(ValueError, match="num_samples"):
        Directives.model_validate({"slots": 1, "controls": {"num_samples": 0}})


def test_texts_are_cut_and_not_refused() -> None:
    beat = Heartbeat(phase="failed", reason="x" * (MAX_TEXT + 1))
    assert (len(beat.reason), beat.reason[-4:]) == (MAX_TEXT, "x...")
    assert Heartbeat(phase="failed", reason="x" * MAX_TEXT).reason == "x" * MAX_TEXT


LINE = '{"trial": 0, "state": "RUNNING", "%s": {%s}}'
NAMES = ",".join(f'"{number}": []' for number in range(MAX_PARAMETERS + 1))
HOSTILE = {
    "trials that are none": ",".join(["1"] * 10**6),
    "empty trials": ",".join(["{}"] * MAX_UPDATES),
    "more trials than allowed": ",".join([LINE % ("metrics", "")] * (MAX_UPDATES + 1)),
    "more parameters than allowed": LINE % ("parameters", NAMES),
    "more metrics than allowed": LINE % ("metrics", NAMES),
    "a longer sample than allowed": LINE % ("sample", NAMES),
}


@pytest.mark.parametrize("trials", HOSTILE.values(), ids=HOSTILE)
def test_few_errors_are_made_of_a_heartbeat_however_much_is_wrong(trials: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Heartbeat.model_validate_json(f'{{"phase": "searching", "trials": [{trials}]}}')
    assert refused.value.error_count() <= 2


def test_each_wrong_parameter_of_the_first_wrong_trial_is_one_error() -> None:
    wrong = LINE % ("parameters", ",".join(f'"{number}": []' for number in range(MAX_PARAMETERS)))
    with pytest.raises(ValidationError) as refused:
        Heartbeat.model_validate_json(f'{{"phase": "searching", "trials": [{wrong}, {wrong}]}}')
    assert refused.value.error_count() == MAX_PARAMETERS
