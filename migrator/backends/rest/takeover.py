"""
What a new leader clears away before it pulls levers: whatever one before it may have left.

A leader that was cut off may still be at a write, and a write that nobody answered may still take effect; so the first
look comes after both have had their time, even where nothing seems to be left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from common.backoff import Backoff
from common.clock import Clock
from common.logs import Logger
from migrator.backends.rest.acting import NOT_LEADING, Actor
from migrator.backends.rest.answers import RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.pulling import MayWrite, let_go, named, still_pulled
from migrator.backends.rest.survey import Surveyor, Things
from migrator.core.steering.cluster import RestCluster
from migrator.core.steering.levers import CordonPool, Lever, strays

AGAIN_SECONDS: Final = 300.0
"""Pause between two looks for what ended migrations have left."""


class Clearing:
    """Clears away. Levers of migrations under way are left to them."""

    def __init__(
        self,
        client: RestClient,
        surveyor: Surveyor,
        actor: Actor,
        *,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        may_write: MayWrite,
        held: Callable[[], Iterable[Lever]],
        left_behind: Callable[[], Iterable[Lever]],
        wait_seconds: float,
    ) -> None:
        """
        `held`: levers of migrations under way. `left_behind`: those of ended ones that may still be pulled.
        `wait_seconds`: after so long nothing of a leader before takes effect any more.
        """
        self._client = client
        self._surveyor = surveyor
        self._actor = actor
        self._clock = clock
        self._rng = rng
        self._log = log
        self._may_write = may_write
        self._held = held
        self._left_behind = left_behind
        self._wait_seconds = wait_seconds

    async def run(self) -> None:
        """Clear away, and only then let levers be pulled."""
        self._actor.may_pull = False
        await self._clock.sleep(self._wait_seconds)
        backoff = Backoff(self._rng, first_seconds=0.5, cap_seconds=30.0)
        while (why := await self._clear()) is not None:
            pause = backoff.next_seconds()
            self._log.warning("levers of a leader before are not cleared away", why=why, again_seconds=round(pause, 3))
            await self._clock.sleep(pause)
        self._actor.may_pull = True

    async def keep_clear(self) -> None:
        """Look now and then for what could not be let go when its migration ended, forever."""
        while True:
            await self._clock.sleep(AGAIN_SECONDS)
            if self._actor.may_pull and self._may_write():
                why = await self._clear()
                if why is not None:
                    self._log.warning("levers of ended migrations are not cleared away", why=why)

    async def _clear(self) -> str | None:
        """Look, let go what is left, and look again; return why that is not done, if it is not."""
        async with self._actor.turn:
            try:
                left = self._left(await self._surveyor.things())
                for lever in left:
                    if not self._may_write():
                        return NOT_LEADING
                    await let_go(self._client, lever)
                    self._log.info("let go of what a leader before left", lever=named((lever,)))
                left = self._left(await self._surveyor.things()) if left else ()
            except RestError as error:
                return str(error)
        return f"still there: {named(left)}" if left else None

    def _left(self, things: Things) -> tuple[Lever, ...]:
        found = strays(RestCluster.of((), things.pools.values(), things.nodes.values()), self._held())
        # A pool's cordon has no owner: after the migration's end it may be somebody's, and its record has told of it.
        behind = [lever for lever in self._left_behind() if not isinstance(lever, CordonPool)]
        return (*found, *still_pulled(behind, things))
