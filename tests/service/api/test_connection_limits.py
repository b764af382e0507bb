"""Connection limits: which connections make room for others, and what that costs however many there are."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.connection_limits import ConnectionLimits

#: Uvicorn's default backlog: so many connections were accepted in one turn of the loop.
IN_ONE_TURN = 2048


class Work:
    """How often anything was asked of any connection."""

    def __init__(self) -> None:
        self.count = 0


class Connection:
    """One whose end is noticed only in a later turn of the loop: `drop` tells nobody."""

    def __init__(self, work: Work, address: str) -> None:
        self.work, self.address, self.is_driver, self.drops = work, address, False, 0

    def __getattribute__(self, name: str) -> Any:
        if name in {"address", "is_driver"}:
            self.work.count += 1
        return super().__getattribute__(name)

    def drop(self) -> None:
        self.drops += 1


def opened(limits: ConnectionLimits, count: int, addresses: int, work: Work) -> list[Connection]:
    made = [Connection(work, f"10.0.{number % addresses}.1") for number in range(count)]
    assert all(map(limits.admit, made))
    return made


@pytest.mark.parametrize(("addresses", "stay"), [(1, 64), (100, 500)])
def test_connections_of_one_turn_make_room_for_each_other(addresses: int, stay: int) -> None:
    made = opened(ConnectionLimits(500, 64), IN_ONE_TURN, addresses, Work())
    assert sorted({one.drops for one in made}) == [0, 1]
    assert [one.drops for one in made[-stay:]] == [0] * stay, "the newest stay"
    assert sum(one.drops for one in made) == IN_ONE_TURN - stay


@pytest.mark.parametrize("addresses", [1, 50])
def test_the_work_of_an_admission_does_not_depend_on_the_number_of_connections(addresses: int) -> None:
    costs = []
    for most in (100, 5000):
        work = Work()
        limits = ConnectionLimits(most, most)
        opened(limits, most, addresses, work)
        before = work.count
        opened(limits, 1, addresses, work)
        costs.append(work.count - before)
    assert costs[0] == costs[1] < 30


def test_what_works_or_is_a_drivers_makes_room_for_nobody() -> None:
    limits, work = ConnectionLimits(3, 2), Work()
    busy, driver = opened(limits, 2, 1, work)
    limits.end_wait(busy)
    limits.exempt(driver)
    driver.is_driver = True
    waiting = Connection(work, busy.address)
    assert limits.admit(waiting)
    assert limits.admit(Connection(work, "10.0.9.1"))
    assert [one.drops for one in (busy, driver, waiting)] == [0, 0, 1]
    last = Connection(work, busy.address)
    assert limits.admit(last), "the one of the other address waits"
    limits.end_wait(last)
    assert not limits.admit(Connection(work, busy.address)), "all of its address work"
    assert [one.drops for one in (busy, driver, last)] == [0, 0, 0]
