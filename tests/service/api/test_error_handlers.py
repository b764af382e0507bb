"""Failures of the database as a client sees them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, text

from service.context import AppContext
from tests.support.postgres import Postgres
from tests.support.world import World

EXPERIMENTS = "/api/v1/experiments"


def test_a_full_disk_of_the_database_changes_nothing_and_says_so(world: World, context: AppContext) -> None:
    running = world.started()
    before = [item["id"] for item in world.client.get(EXPERIMENTS).json()["items"]]
    with context.database.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    context.database.close()  # the limit holds for new connections
    limit = [pages + 2]

    @event.listens_for(context.database.engine, "connect")
    def _limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={limit[0]}")

    answers = [world.client.post(EXPERIMENTS, json={"name": f"n{n}", "labels": ["a" * 60]}) for n in range(20)]
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused
    for answer in refused:
        assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json")
        assert answer.json()["detail"] == "the disk of the database is full; nothing was changed"
    line = world.line(0, parameters={f"p{n}": "x" * 500 for n in range(50)})
    assert world.beat(running, {"phase": "searching", "trials": [line]}).status_code == 507
    listed = [item["id"] for item in world.client.get(EXPERIMENTS).json()["items"]]
    assert sorted(listed) == sorted(before + accepted)
    assert world.client.get(f"{EXPERIMENTS}/{running}/trials").json()["items"] == []
    limit[0] = 10**6
    context.database.close()
    assert world.beat(running, {"phase": "searching", "trials": [line]}).status_code == 200
    assert world.show(running)["trials"] == {"RUNNING": 1}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_is_away_is_503_and_comes_back(world: World, postgres: Postgres) -> None:
    one = world.submit()
    postgres.stop("immediate")
    for answer in (world.client.get(f"{EXPERIMENTS}/{one}"), world.client.post(EXPERIMENTS, json={"name": "x"})):
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.headers["retry-after"] == "2"
    ready = world.client.get("/readyz")
    assert (ready.status_code, ready.json()["database"]["ok"]) == (503, False)
    postgres.start()
    assert [item["id"] for item in world.client.get(EXPERIMENTS).json()["items"]] == [one]
