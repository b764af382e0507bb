"""MLflow view: a prepared page of MLflow that shows the trials of one experiment or of several.

Owns its content, in the form in which MLflow 3.17 stores a saved view: a tag of MLflow's experiment whose value is a
compressed JSON document. The driver writes the view of its experiment, the service that of a comparison. An MLflow of
another version that does not understand it opens its usual page. It must not know how the tag is written.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from search_spaces.objective import Objective
from search_spaces.protocol import Tag

#: Before the key of a view: the tag of MLflow's experiment.
TAG_PREFIX = "mlflow.sharedViewState."
#: Before the id of the experiment: the key of its view.
KEY_PREFIX = "rung-"
#: Parameters with an axis in the parallel coordinates, and with a chart of their own: more cannot be read.
MOST_AXES, MOST_SCATTERS = 10, 4
MOST_COLUMNS = 40
#: The section of MLflow's that it adds charts of all other metrics to. It stays closed.
OTHER_METRICS, SYSTEM_METRICS = "Model metrics", "System metrics"
CURVES, HYPERPARAMETERS = "Curves", "Hyperparameters"


def view_key(experiment_id: str) -> str:
    """The key of the view of one experiment, from which its address follows."""
    return KEY_PREFIX + experiment_id


def run_path(mlflow_experiment_id: str, run_id: str, workspace: str | None = None) -> str:
    """The address of a run below that of MLflow."""
    query = f"?{urlencode(_within(workspace))}" if workspace else ""
    return f"/#/experiments/{mlflow_experiment_id}/runs/{run_id}{query}"


def view_path(mlflow_experiment_id: str, key: str, workspace: str | None = None) -> str:
    """The address of a view below that of MLflow."""
    query = urlencode({"viewStateShareKey": key, "compareRunsMode": "CHART", **_within(workspace)})
    return f"/#/experiments/{mlflow_experiment_id}/runs?{query}"


def comparison_path(mlflow_experiment_ids: Sequence[str], run_ids: Sequence[str], workspace: str | None = None) -> str:
    """The address of MLflow's comparison of runs: their parameters and metrics side by side."""
    query = {"runs": _json(run_ids), "experiments": _json(sorted(set(mlflow_experiment_ids))), **_within(workspace)}
    return f"/#/compare-runs?{urlencode(query)}"


def charts_path(
    mlflow_experiment_ids: Sequence[str], run_ids: Sequence[str], objective: Objective, workspace: str | None = None
) -> str:
    """The address of MLflow's charts of some runs, the best first."""
    homes = sorted(set(mlflow_experiment_ids))
    query = {
        "searchFilter": f"attributes.run_id IN ({', '.join(map(repr, run_ids))})",
        "orderByKey": _column("metrics", f"best_{objective.metric}"),
        "orderByAsc": str(objective.mode == "min").lower(),
        "startTime": "ALL",
        "compareRunsMode": "CHART",
        **_within(workspace),
    }
    if len(homes) == 1:
        return f"/#/experiments/{homes[0]}/runs?{urlencode(query)}"
    return f"/#/compare-experiments/s?{urlencode({'experiments': _json(homes), **query})}"


def _within(workspace: str | None) -> dict[str, str]:
    """The part of a query by which MLflow's pages open in a workspace."""
    return {"workspace": workspace} if workspace else {}


def trials_of(parent_run_id: str) -> str:
    """The filter for the trials of one experiment."""
    return f"tags.`mlflow.parentRunId` = '{parent_run_id}'"


def view_tag(name: str, filter_: str, objective: Objective, searched: Sequence[str], at_ms: int) -> str:
    """The value of the tag: a view called `name` of the runs that pass the filter, the best first.

    `searched` are the searched hyperparameters, the most important first. `at_ms`: Unix milliseconds.
    """
    state = json.dumps(_state(filter_, objective, list(searched)), separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(state.encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": at_ms, "state": f"deflate;{packed}"})


def read_view(tag: str) -> dict[str, Any]:
    """The document in the value of a tag."""
    packed = json.loads(tag)["state"].removeprefix("deflate;")
    document: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return document


def _state(filter_: str, objective: Objective, searched: list[str]) -> dict[str, Any]:
    best = f"best_{objective.metric}"
    columns = [
        _column("metrics", best),
        *(_column("params", name) for name in searched[:MOST_COLUMNS]),
        _column("tags", Tag.TRIAL_STATE),
        _column("tags", Tag.STOP_REASON),
        _column("metrics", "best_epoch"),
    ]
    return {
        "searchFilter": filter_,
        "orderByKey": _column("metrics", best),
        "orderByAsc": objective.mode == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": [_column("attributes", "Run Name"), *columns],
        "columnWidths": {_column("metrics", best): 190, _column("tags", Tag.STOP_REASON): 420},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": _charts(objective.metric, best, searched),
        "compareRunSections": [
            _section(CURVES),
            _section(HYPERPARAMETERS) | {"columns": 2, "cardHeight": 420},  # parallel coordinates need the space
            _section(OTHER_METRICS, is_open=False),
            _section(SYSTEM_METRICS, is_open=False),
        ],
        "isAccordionReordered": True,
        "groupBy": None,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "chartsSearchFilter": "",
    }


def _charts(metric: str, best: str, searched: list[str]) -> list[dict[str, Any]]:
    others = [name for name in ("validation_accuracy", "validation_loss", "train_loss") if name != metric]
    axes = searched[:MOST_AXES]
    parallel = {"type": "PARALLEL", "selectedParams": axes, "selectedMetrics": [best], "showAllRuns": True}
    return [
        *(_line(name, [name]) for name in (metric, *others)),
        *([_chart(HYPERPARAMETERS, "parallel", parallel)] if axes else []),
        _chart(HYPERPARAMETERS, best, {"type": "BAR", "metricKey": best}),
        *(
            _chart(
                HYPERPARAMETERS,
                f"scatter {name}",
                {
                    "type": "SCATTER",
                    "xaxis": {"key": name, "type": "PARAM"},
                    "yaxis": {"key": best, "type": "METRIC"},
                    "displayName": f"{best} by {name}",
                },
            )
            for name in searched[:MOST_SCATTERS]
        ),
    ]


def _line(name: str, metrics: list[str]) -> dict[str, Any]:
    shown = {"type": "LINE", "metricKey": name, "selectedMetricKeys": metrics, "xAxisKey": "step"}
    return _chart(CURVES, name, shown)


def _chart(section: str, uuid: str, shown: dict[str, Any]) -> dict[str, Any]:
    return {"uuid": uuid, "metricSectionId": section, "deleted": False, "isGenerated": False, **shown}


def _section(name: str, *, is_open: bool = True) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": is_open, "isReordered": False, "deleted": False}


def _json(values: Sequence[str]) -> str:
    return json.dumps(list(values), separators=(",", ":"))


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
