"""An MLflow with searches of several sizes, and where its prepared views are."""

from __future__ import annotations

import os
from dataclasses import dataclass

from search_spaces.mlflow_view import view_path
from workers.tracking.mlflow_ids import MlflowIds

#: Numbers of trials; `RUNG_TEST_VIEW_TRIALS=8,64,1000` also shows a thousand, which takes minutes to send.
SIZES = [int(size) for size in os.environ.get("RUNG_TEST_VIEW_TRIALS", "8,64").split(",")]
#: A folder that receives screenshots, for `docs`.
PICTURES = os.environ.get("RUNG_TEST_PICTURES")


@dataclass(frozen=True)
class Shown:
    """An MLflow with searches, by their number of trials."""

    address: str
    searches: dict[int, MlflowIds]

    def view(self, size: int, mode: str = "CHART") -> str:
        ids = self.searches[size]
        path = view_path(str(ids.experiment), str(ids.view))
        return self.address + path.replace("compareRunsMode=CHART", f"compareRunsMode={mode}")
