"""Searchers: who proposes the next trial. The proposing itself is in `workers/search/searcher.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.spec import ByName, Discriminated, Spec

#: Of one experiment.
MAX_TRIALS = 100_000

NumSamples = Annotated[Integer, Field(ge=1, le=MAX_TRIALS, description="number of trials")]


class Random(Spec):
    """Every domain drawn independently."""

    kind: Literal["random"] = "random"
    num_samples: NumSamples = 20


class Grid(Spec):
    """Every combination of finite domains once, in the order of the spec. Continuous domains are errors."""

    kind: Literal["grid"] = "grid"
    num_samples: NumSamples | None = Field(None, description="only the first so many combinations; default: all")


class TPE(Spec):
    """Tree-structured Parzen estimators (Bergstra et al., 2011) through Optuna; conditional domains apart."""

    kind: Literal["tpe"] = "tpe"
    num_samples: NumSamples = 20
    startup_trials: Annotated[Integer, Field(ge=1)] = Field(10, description="random trials before the model is used")


Searcher = Annotated[Random | Grid | TPE, Discriminated, ByName]
