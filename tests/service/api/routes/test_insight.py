"""Why a winner won: over REST, by the SDK, and in `rung insight` and `rung show`."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
import yaml
from typer.testing import CliRunner

from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import (
    Finalist,
    Finding,
    Interval,
    NextSpec,
    PathStep,
    Replication,
    TrainedStep,
    TrialFindings,
)
from search_spaces.insight import Path as InsightPath
from search_spaces.layout import ExperimentFolder
from search_spaces.replicates import replicate_number
from search_spaces.validation import validate
from service.cli import app
from service.client import Client
from service.explanation import explain
from service.settings import Settings
from tests.support.insights import hiding_scores, insight
from tests.support.world import World


@pytest.fixture
def ended(world: World) -> str:
    return world.ended()


def write(settings: Settings, experiment_id: str, text: str) -> None:
    path = ExperimentFolder(Path(settings.storage_root) / experiment_id).insight_report
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def runner(world: World) -> CliRunner:
    return CliRunner(env={"RUNG_URL": str(world.client.base_url)})


@pytest.mark.stores
def test_there_is_an_insight_once_the_search_is_completed(world: World, settings: Settings) -> None:
    one = world.started()
    address = f"/api/v1/experiments/{one}/insight"
    write(settings, one, insight().model_dump_json())  # of an earlier end, before it was extended
    running = world.client.get(address)
    assert running.status_code == 409
    assert runner(world).invoke(app, ["insight", one]).exit_code == 1
    assert running.json()["detail"] == f"experiment {one} is RUNNING: it has an insight once its search is completed"
    world.beat(one, {"phase": "completed"})
    assert world.client.get(address).json() == insight().model_dump(mode="json")
    with Client(str(world.client.base_url)) as rung:
        assert rung.insight(one) == insight()


def test_a_canceled_experiment_has_none(world: World) -> None:
    one = world.started()
    world.cancel(one)
    world.beat(one, {"phase": "canceled"})
    answer = world.client.get(f"/api/v1/experiments/{one}/insight")
    assert answer.status_code == 409
    assert answer.json()["detail"].endswith("only a completed one has an insight")


def test_an_experiment_of_an_older_version_says_why_it_has_none(world: World, settings: Settings, ended: str) -> None:
    answer = world.client.get(f"/api/v1/experiments/{ended}/insight")
    assert answer.status_code == 404
    assert "an older version of Rung completed it" in answer.json()["detail"]
    write(settings, ended, "{")
    assert world.client.get(f"/api/v1/experiments/{ended}/insight").status_code == 503


def test_files_that_are_not_there_are_no_missing_insight(world: World, settings: Settings, ended: str) -> None:
    write(settings, ended, insight().model_dump_json())
    storage = Path(settings.storage_root)
    mounted = storage.rename(storage.with_name("mounted-elsewhere"))
    answer = world.client.get(f"/api/v1/experiments/{ended}/insight")
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith(f"the insight of {ended} cannot be read")
    mounted.rename(storage)
    assert world.client.get(f"/api/v1/experiments/{ended}/insight").status_code == 200


def test_the_insight_fits_on_one_screen(world: World, settings: Settings, ended: str) -> None:
    assert runner(world).invoke(app, ["insight", ended]).exit_code == 2
    write(settings, ended, insight().model_dump_json())
    lines = runner(world).invoke(app, ["insight", ended]).stdout.splitlines()
    assert lines[1:] == [
        "  winner    trial 17 has the best validation_accuracy of 40 trials: 0.9954 at epoch 14",
        "  with      optimizer.lr 0.4912",
        "  matters   optimizer.lr 62 % (48 to 75) of the differences at epoch 1, 40 trials",
        "  noise     batch_size: no more than chance of the differences at epoch 1, 40 trials",
        "  expected  0.9890 (0.9810 to 0.9960) of a trial chosen in this way, by 216 validation images",
        "  test      0.9944 (0.9800 to 0.9990) of 360 test images",
        "  ties      2 of 39 other trials cannot be distinguished from trial 17: 3, 5",
        "  curves    the winner, improving: the accuracy still rose",
        "  curves    of the trials that were examined: 3 diverged, 1 improving",
        "  space     the rate is at its bound",
        f"  next      optimizer.lr up to 3: rung insight {ended} --next > next.yaml",
    ]


def test_trials_without_a_value_are_named_beside_those_with_one(world: World, settings: Settings, ended: str) -> None:
    chosen = insight().choice.model_copy(update={"trials": 10, "without_value": 2})
    write(settings, ended, insight(choice=chosen).model_dump_json())
    winner = runner(world).invoke(app, ["insight", ended]).stdout.splitlines()[1]
    assert "of 10 trials with a value (of 12): 0.9954 at epoch 14" in winner


def test_the_next_spec_is_valid_yaml(world: World, settings: Settings, ended: str) -> None:
    write(settings, ended, insight().model_dump_json())
    printed = runner(world).invoke(app, ["insight", ended, "--next"]).stdout
    assert printed.startswith("# optimizer.lr up to 3\n")
    assert validate(yaml.safe_load(printed)).name == "first-next"
    write(settings, ended, insight(next=NextSpec()).model_dump_json())
    refused = runner(world).invoke(app, ["insight", ended, "--next"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "suggest no change" in refused.stderr


def test_what_led_from_the_defaults_to_the_winner_is_shown_and_can_be_trained(
    world: World, settings: Settings, ended: str
) -> None:
    write(settings, ended, insight().model_dump_json())
    refused = runner(world).invoke(app, ["insight", ended, "--path"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    steps = [
        PathStep(names=["batch_size"], gain=-0.001, low=-0.01, high=0.01),
        PathStep(names=["optimizer.lr"], gain=0.02, low=0.01, high=0.03),
    ]
    spec = ExperimentSpec(name="first-path").model_dump(mode="json")
    path = InsightPath(epoch=1, start=0.9, end=0.919, steps=steps, spec=spec)
    write(settings, ended, insight(path=path).model_dump_json())
    assert (
        "  path      from the defaults, 0.9 by the forest at epoch 1, to 0.919: optimizer.lr +0.0200 (+0.0100 to "
        "+0.0300), batch_size -0.0010 (-0.0100 to +0.0100); "
        f"rung insight {ended} --path > path.yaml trains it"
    ) in runner(world).invoke(app, ["insight", ended]).stdout
    printed = runner(world).invoke(app, ["insight", ended, "--path"]).stdout
    assert validate(yaml.safe_load(printed)).name == "first-path"


def test_a_path_that_was_trained_has_a_line_for_each_configuration(
    world: World, settings: Settings, ended: str
) -> None:
    rate = Interval(value=0.1, low=0.08, high=0.12)
    steps = [
        TrainedStep(trial=0, names=[], values=[0.8, 0.82], mean=0.81),
        TrainedStep(trial=1, names=["optimizer.lr"], values=[0.9, 0.92], mean=0.91, gain=rate),
        TrainedStep(trial=2, names=["batch_size"], values=[]),
    ]
    write(settings, ended, insight(trained=steps).model_dump_json())
    lines = runner(world).invoke(app, ["insight", ended]).stdout.splitlines()
    assert [line for line in lines if line.startswith("  trained")] == [
        "  trained   trial 0: 0.81, the mean of 2 runs",
        "  trained   trial 1: 0.91, the mean of 2 runs; optimizer.lr +0.1000 (+0.0800 to +0.1200)",
        "  trained   trial 2, batch_size: no run completed",
    ]


def test_show_says_in_one_line_how_sure_the_result_is(world: World, settings: Settings, ended: str) -> None:
    assert "insight" not in runner(world).invoke(app, ["show", ended]).stdout
    write(settings, ended, insight().model_dump_json())
    assert (
        "  insight   test 0.9944 (0.9800 to 0.9990) of 360 test images; 2 of 39 other trials cannot be distinguished "
        f"from trial 17; `rung insight {ended}` says why\n"
    ) in runner(world).invoke(app, ["show", ended]).stdout


def test_the_choice_of_the_trial_does_not_explain_a_low_test_accuracy(
    world: World, settings: Settings, ended: str
) -> None:
    sure = insight().sureness.model_copy(update={"overtuned": True})
    write(settings, ended, insight(sureness=sure, next=NextSpec()).model_dump_json())
    told = " ".join(runner(world).invoke(app, ["insight", ended]).output.split())
    assert "either the test images or their labels differ from those of validation" in told
    assert "next compare images and labels of test and validation" in told
    assert "the test accuracy is lower than expected;" in runner(world).invoke(app, ["show", ended]).output


def test_no_more_than_there_is_follows_from_trials_that_are_all_alike() -> None:
    sure = insight().sureness.model_copy(update={"compared": 3})
    *_, last = explain(insight(sureness=sure, next=NextSpec(), curves=[]), "x")
    assert last.text == "no trial can be distinguished from the winner: try another space, or more images"


@pytest.mark.parametrize("compared", [3, 40])
def test_what_to_do_next_does_not_contradict_the_curves_of_the_winner(compared: int) -> None:
    given = insight()
    faded = TrialFindings(
        trial=given.choice.trial, findings=[Finding(kind="faded", text="the schedule ended learning", figures={})]
    )
    sure = given.sureness.model_copy(update={"compared": compared})
    *_, last = explain(insight(sureness=sure, next=NextSpec(), curves=[faded], space=[]), "x")
    assert last.text == "the winner is faded: see what its curves ask for, above"


def test_without_findings_it_is_reported_that_short_curves_were_not_examined() -> None:
    sure = insight().sureness.model_copy(update={"ties": None})
    *_, last = explain(insight(sureness=sure, next=NextSpec(), curves=[], space=[], replication=None), "x")
    assert last.text == "nothing that was found asks for a change; curves of fewer than five epochs are not examined"


def test_warnings_about_the_images_are_part_of_the_explanation() -> None:
    facts = explain(insight(), "x", ["dataset: 28 images of test are identical to images of train", "searcher: short"])
    assert [fact.text for fact in facts if fact.label == "warning"] == [
        "dataset: 28 images of test are identical to images of train"
    ]


def test_show_and_insight_say_that_an_accuracy_hides_classes(world: World, settings: Settings, ended: str) -> None:
    scores = hiding_scores()
    write(settings, ended, insight(scores=scores, warning=scores.warning()).model_dump_json())
    said = "the validation accuracy of 0.77 hides a balanced accuracy of 0.27: 3 classes are seldom recognized"
    assert said in runner(world).invoke(app, ["show", ended]).stdout
    lines = runner(world).invoke(app, ["insight", ended]).stdout.splitlines()
    assert (
        "  classes   on the test images: balanced accuracy 0.2718, macro F1 0.2700, calibration error 0.0500" in lines
    )
    assert any(line.startswith(f"  warning   {said}") for line in lines)


def test_insight_says_how_the_finalists_did_with_fresh_seeds(world: World, settings: Settings, ended: str) -> None:
    finalists = [
        Finalist(trial=12, runs=[5000120, 5000121], values=[0.985, 0.987], mean=0.986, sd=0.0014),
        Finalist(trial=17, runs=[5000170, 5000171], values=[0.98, 0.982], mean=0.981, sd=0.0014),
    ]
    difference = Interval(value=0.005, low=-0.002, high=0.012)
    replication = Replication(chosen=12, finalists=finalists, expected=0.9855, difference=difference)
    write(settings, ended, insight(replication=replication).model_dump_json())
    assert (
        "  seeds     trial 12 won by the mean over 2 fresh seeds: 0.986 (sd 0.0014), against 0.981 of trial 17; the "
        "difference is 0.50 (-0.20 to 1.20) percentage points; with one more seed, 0.9855 is to be expected on the "
        "same images"
    ) in runner(world).invoke(app, ["insight", ended]).stdout.splitlines()


@pytest.mark.parametrize(
    ("values", "chosen", "how"),
    [
        ([[0.985, 0.987], [0.987, 0.985]], 12, "because its number is the lowest"),
        ([[0.1 + 0.2, 0.3], [0.3, 0.3]], 17, "by a difference that is only of rounding"),
    ],
)
def test_finalists_of_the_same_mean_are_a_tie(
    world: World, settings: Settings, ended: str, values: list[list[float]], chosen: int, how: str
) -> None:
    other = 29 - chosen
    finalists = [
        Finalist(
            trial=trial, runs=[replicate_number(trial, seed) for seed in range(2)], values=of, mean=fmean(of), sd=0
        )
        for trial, of in zip((chosen, other), values, strict=True)
    ]
    choice = insight().choice.model_copy(update={"trial": chosen, "run": replicate_number(chosen, 1)})
    replication = Replication(chosen=chosen, finalists=finalists, expected=0.98)
    write(settings, ended, insight(choice=choice, replication=replication).model_dump_json())
    mean = f"{fmean(values[0]):.4f}"
    tie = f"a tie: trials 12 and 17 have the same mean over 2 fresh seeds, {mean}, and trial {chosen} was chosen {how}"
    lines = runner(world).invoke(app, ["insight", ended]).stdout.splitlines()
    assert f"  seeds     {tie}; with one more seed, 0.98 is to be expected on the same images" in lines
    won = f"  winner    trial {chosen} of 40 trials ties for the best mean validation_accuracy over fresh seeds;"
    assert [line for line in lines if line.startswith(won)]
    [line] = [line for line in runner(world).invoke(app, ["show", ended]).stdout.splitlines() if "  insight  " in line]
    assert tie in line


def test_insight_of_one_fresh_seed_expects_nothing_of_another(world: World, settings: Settings, ended: str) -> None:
    finalists = [
        Finalist(trial=trial, runs=[5000000 + 10 * trial], values=[mean], mean=mean, sd=None)
        for trial, mean in ((12, 0.986), (17, 0.981))
    ]
    write(settings, ended, insight(replication=Replication(chosen=12, finalists=finalists)).model_dump_json())
    assert (
        "  seeds     trial 12 won by the mean over 1 fresh seed: 0.986, against 0.981 of trial 17; one seed does not "
        "tell how much seeds differ"
    ) in runner(world).invoke(app, ["insight", ended]).stdout.splitlines()


def test_insight_says_that_the_other_finalists_diverged(world: World, settings: Settings, ended: str) -> None:
    left = Finalist(trial=12, runs=[5000120, 5000121], values=[0.985, 0.987], mean=0.986, sd=0.0014)
    replication = Replication(chosen=12, finalists=[left], expected=0.986)
    write(settings, ended, insight(replication=replication).model_dump_json())
    assert (
        "  seeds     trial 12 won by the mean over 2 fresh seeds: 0.986 (sd 0.0014); every other finalist diverged "
        "with a fresh seed, or was not trained with all of them; with one more seed, 0.986 is to be expected on the "
        "same images"
    ) in runner(world).invoke(app, ["insight", ended]).stdout.splitlines()


def test_the_winner_by_fresh_seeds_is_distinguished_from_the_best_of_the_search(
    world: World, settings: Settings, ended: str
) -> None:
    finalists = [
        Finalist(trial=number, runs=[replicate_number(number, 0)], values=[value], mean=value, sd=None)
        for number, value in ((17, 0.99), (12, 0.98))
    ]
    replication = Replication(chosen=17, finalists=finalists, expected=0.99)
    choice = insight().choice
    new = choice.model_copy(update={"run": replicate_number(17, 0), "best_of_search": 12})
    for chosen, replicated, line in (
        (
            new,
            replication,
            "trial 17 of 40 trials has the best mean validation_accuracy over fresh seeds; registered is seed 0: "
            "0.9954 at epoch 14; the best in the search was trial 12",
        ),
        (  # as an earlier version stored it
            choice,
            replication.model_copy(update={"chosen": 12}),
            "trial 12 won by fresh seeds; what follows is of trial 17, the best in the search of 40 trials: 0.9954 at "
            "epoch 14; only the test accuracy is of the winner",
        ),
    ):
        write(settings, ended, insight(choice=chosen, replication=replicated).model_dump_json())
        assert f"  winner    {line}" in runner(world).invoke(app, ["insight", ended]).stdout.splitlines()
