"""The baseline of `test_search.py`: the same search, written as Ray Tune's documentation shows it.

It uses a function trainable, ASHA, `MLflowLoggerCallback`, two CPUs and an MLflow store on SQLite. Network, data,
batch size and epochs equal those of Rung's run. The last line printed is the duration of the process in seconds.
"""

from __future__ import annotations

import sys
import time

# The clock starts before the imports, because a user waits for them too.
# ruff: noqa: E402
BEGAN = time.perf_counter()

from typing import Any

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler

EPOCHS, BATCH = 8, 64


def train(config: dict[str, Any]) -> None:
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional

    from search_spaces.models import CNN
    from search_spaces.normalization import Batch
    from workers.models.build import build_model

    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    targets = torch.tensor(labels)
    parts = torch.arange(len(inputs)) % 10
    training, validation = torch.where((parts % 5 != 0) & (parts != 1))[0], torch.where(parts == 1)[0]
    model = build_model(CNN(width=16, depth=2), Batch(), 1, 10, 8)
    if config["optimizer"] == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=0.9, nesterov=True)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for batch in torch.split(training[torch.randperm(len(training))], BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            hits = model(inputs[validation]).argmax(1) == targets[validation]
        tune.report({"validation_accuracy": hits.float().mean().item(), "epoch": epoch})


def main(tracking_uri: str, storage: str) -> None:
    ray.init(num_cpus=2, include_dashboard=False)
    tune.Tuner(
        train,
        param_space={"optimizer": tune.choice(["adam", "sgd"]), "lr": tune.loguniform(1e-3, 1e-1)},
        tune_config=tune.TuneConfig(
            metric="validation_accuracy",
            mode="max",
            num_samples=60,
            scheduler=ASHAScheduler(time_attr="epoch", max_t=EPOCHS, grace_period=1, reduction_factor=3),
        ),
        run_config=tune.RunConfig(
            storage_path=storage,
            callbacks=[MLflowLoggerCallback(tracking_uri=tracking_uri, experiment_name="plain")],
        ),
    ).fit()
    print(f"{time.perf_counter() - BEGAN:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
