"""A backend that watches the simulated REST API over a socket, and short words for waiting until it has."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from migrator.backends.rest.abilities import find_marks
from migrator.backends.rest.backend import Names, RestBackend
from migrator.backends.rest.placements import RestCopy
from tests.contract.rest_cluster import VOLUME
from tests.moves.cluster import QUIET
from tests.moves.rest_stage import Stage

PV = "pvc-of-mine"
NAMES = Names(
    pv_name={VOLUME: PV}.get,
    handle={PV: VOLUME}.get,
)
CACHE = 30.0


def a_copy(stage: Stage, **settings: Any) -> RestCopy:
    return RestCopy(
        stage.client,
        **{"cache_seconds": CACHE, **settings},
        clock=stage.cluster.clock,
        rng=random.Random(1),
        log=QUIET,
    )


def a_backend(stage: Stage, **settings: Any) -> RestBackend:
    return RestBackend(
        stage.client,
        **{"names": NAMES, "cache_seconds": CACHE, **settings},
        clock=stage.cluster.clock,
        rng=random.Random(1),
        log=QUIET,
    )


async def asked(backend: RestBackend) -> RestBackend:
    """Let a backend that does not run find out what Mayastor can do."""
    backend._marks = await find_marks(backend._client, await backend._client.nodes())
    return backend


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for comes over a socket
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(backend: RestBackend) -> AsyncIterator[RestBackend]:
    task = asyncio.ensure_future(backend.run())
    try:
        await until(lambda: backend.synced and backend.marks is not None)
        yield backend
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def next_round(backend: RestBackend) -> None:
    """Let the poller come round once more."""
    before = backend._copy.rounds
    backend.hurry()
    await until(lambda: backend._copy.rounds > before)


def uuid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"
