"""
Which Mayastor there is, where the settings leave that open: asked until one of them says that it is there.

The answer is kept for the life of the process. Until there is one, all that is known is why not: that is told to
whoever asks, and nothing is read, admitted or written.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from common.backoff import Backoff
from common.clock import Clock
from common.kube.api import KubeApi, KubeError, Resource
from common.logs import Logger
from common.placement import Move, Pool, Refusal
from common.resources.migration import BackendKind
from migrator.backends.base import Backend, BackendError, Capabilities, Listener, Reading, Result, VolumeWrite
from migrator.backends.mayastor_volume import lacking_field
from migrator.backends.rest.answers import RestError
from migrator.backends.rest.client import RestClient
from migrator.core.model import VolumeSeen
from migrator.core.refusals import Subject

PATIENCE_SECONDS: Final = 10.0
"""For so long the first of the candidates may be out of reach before another one that is there is taken."""


class Presence(StrEnum):
    """Whether a Mayastor is there."""

    THERE = "There"
    NOT_THERE = "NotThere"
    UNKNOWN = "Unknown"
    """It did not answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of asking."""

    presence: Presence
    why: str = ""
    """Of all but THERE."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that may be the one."""

    backend: Backend
    ask: Callable[[], Awaitable[Found]]
    run: Callable[[], Coroutine[None, None, None]]
    """Runs it and what belongs to it, forever."""


async def rest_there(client: RestClient) -> Found:
    """Ask whether Mayastor answers at the client's URL; one that wants another token does."""
    try:
        await client.nodes()
    except RestError as error:
        if error.refused.kind or error.refused.status == 401:
            return Found(Presence.THERE)
        answered = error.refused.status != 0
        return Found(Presence.NOT_THERE if answered else Presence.UNKNOWN, str(error))
    return Found(Presence.THERE)


async def resources_there(api: KubeApi, group: str, version: str) -> Found:
    """Ask whether MayastorVolume is served, in a form that can be used."""
    why = f"no kind MayastorVolume in group {group}"
    try:
        for each in (version,) if version else await api.served_versions(group):
            schema = await api.served_schema(Resource(group, each, "mayastorvolumes", "MayastorVolume", True))
            if schema is None:
                continue
            lacking = lacking_field(schema)
            if lacking is None:
                return Found(Presence.THERE)
            why = f"MayastorVolume {group}/{each} has no {lacking}"
    except KubeError as error:
        return Found(Presence.UNKNOWN, str(error))
    return Found(Presence.NOT_THERE, why)


class ChoosingBackend:
    """None of them at first, then the one that was chosen."""

    def __init__(self, candidates: Sequence[Candidate], *, clock: Clock, rng: random.Random, log: Logger) -> None:
        """`candidates`, the one to be taken first if it is there first."""
        self._candidates = candidates
        self._clock = clock
        self._rng = rng
        self._log = log
        self._listeners: list[Listener] = []
        self._settled = asyncio.Event()
        self._chosen: Backend | None = None
        self._why = "still asking which Mayastor there is"

    # --- choosing ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        chosen = await self._choose()
        self._chosen = chosen.backend
        for listener in self._listeners:
            chosen.backend.listen(listener)
        self._settled.set()
        self._log.info("backend chosen", backend=chosen.backend.kind)
        self._tell()
        await chosen.run()

    async def _choose(self) -> Candidate:
        backoff = Backoff(self._rng, first_seconds=1.0, cap_seconds=30.0)
        patient_until = self._clock.monotonic() + PATIENCE_SECONDS
        while True:
            found = await asyncio.gather(*(candidate.ask() for candidate in self._candidates))
            chosen = _first_there(found, patient=self._clock.monotonic() < patient_until)
            if chosen is not None:
                return self._candidates[chosen]
            why = "; ".join(each.why for each in found if each.why)
            if why != self._why:
                self._log.warning("no Mayastor yet", why=why)
                self._why = why
                self._tell()
            await self._clock.sleep(min(backoff.next_seconds(), PATIENCE_SECONDS))

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(frozenset(), frozenset())

    def _one(self) -> Backend:
        if self._chosen is None:
            raise BackendError(f"it is not known yet which Mayastor there is: {self._why}")
        return self._chosen

    # --- as a backend --------------------------------------------------------------------------------------------

    @property
    def kind(self) -> BackendKind:
        """Which it is. Raises BackendError before that is known: then nothing may be admitted."""
        return self._one().kind

    @property
    def capabilities(self) -> Capabilities:
        if self._chosen is None:
            return Capabilities("auto", can_migrate=False, detail=self._why, known=False)
        return self._chosen.capabilities

    @property
    def read_gap_seconds(self) -> float:
        """As of the one that was chosen. Raises BackendError before."""
        return self._one().read_gap_seconds

    @property
    def volumes(self) -> Mapping[str, VolumeSeen]:
        return self._chosen.volumes if self._chosen is not None else {}

    @property
    def pools(self) -> Mapping[str, Pool]:
        return self._chosen.pools if self._chosen is not None else {}

    @property
    def synced(self) -> bool:
        return self._chosen is not None and self._chosen.synced

    @property
    def age_seconds(self) -> float:
        return self._chosen.age_seconds if self._chosen is not None else float("inf")

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)
        if self._chosen is not None:
            self._chosen.listen(listener)

    def refusals(self, subject: Subject) -> tuple[Refusal, ...]:
        return self._one().refusals(subject)

    def refusals_of_moves(self, subject: Subject, moves: Sequence[Move]) -> tuple[Refusal, ...]:
        return self._one().refusals_of_moves(subject, moves)

    async def take_over(self) -> None:
        await self._settled.wait()
        await self._one().take_over()

    async def read(self, volume: str, pools: Iterable[str]) -> Reading:
        return await self._one().read(volume, pools)

    async def perform(self, write: VolumeWrite, seen: VolumeSeen | None) -> Result:
        return await self._one().perform(write, seen)


def _first_there(found: Sequence[Found], *, patient: bool) -> int | None:
    """Choose the first that is there; while there is patience, only if all before it are known not to be."""
    for index, each in enumerate(found):
        if each.presence is Presence.THERE:
            return index
        if each.presence is Presence.UNKNOWN and patient:
            return None
    return None
