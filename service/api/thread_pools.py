"""Thread pools: where requests are worked on, so that one kind of request cannot keep another one waiting.

Starlette runs every route that is a plain function in one pool, here that of people. Routes that are coroutines choose
a pool themselves. It must not know what the work is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request

#: For people's requests, which mostly wait for the database or MLflow. The threads of all pools together have fewer
#: connections than the database's pool allows.
PEOPLE_THREADS = 16
#: Of these, for requests that may write, which wait for the database's write lock: the others read meanwhile.
#: Further ones wait for their turn without a thread.
PEOPLE_WRITERS = PEOPLE_THREADS // 2
#: For heartbeats. A heartbeat takes 5 to 10 ms.
HEARTBEAT_THREADS = 8
#: For the question whether the service is ready, which must not wait for requests that wait for the database.
READINESS_THREADS = 2
#: To write the metrics, which takes milliseconds.
METRICS_THREADS = 1
#: To record acts that their routes did not, such as a body that is too large.
AUDIT_THREADS = 2
#: For the question who sends a request, which takes a millisecond.
IDENTITY_THREADS = 4

T = TypeVar("T")


@dataclass(frozen=True)
class ThreadPools:
    """The pools besides Starlette's own, and whose turn it is to write."""

    heartbeats: CapacityLimiter
    readiness: CapacityLimiter
    metrics: CapacityLimiter
    identity: CapacityLimiter
    audit: CapacityLimiter
    writers: CapacityLimiter

    @classmethod
    def create(cls) -> ThreadPools:
        """Must be called in the event loop. Sets the size of Starlette's pool too."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = PEOPLE_THREADS
        return cls(
            heartbeats=CapacityLimiter(HEARTBEAT_THREADS),
            readiness=CapacityLimiter(READINESS_THREADS),
            metrics=CapacityLimiter(METRICS_THREADS),
            identity=CapacityLimiter(IDENTITY_THREADS),
            audit=CapacityLimiter(AUDIT_THREADS),
            writers=CapacityLimiter(PEOPLE_WRITERS),
        )


async def run(pool: CapacityLimiter, work: Callable[[], T]) -> T:
    """The result of `work`, which is done in a thread of the pool."""
    return await anyio.to_thread.run_sync(work, limiter=pool)


async def _pools(request: Request) -> ThreadPools:
    pools: ThreadPools = request.app.state.thread_pools
    return pools


CurrentPools = Annotated[ThreadPools, Depends(_pools)]
