"""
A fresh look at one volume and at all that steering it rests on, and what is to be left out of every look.

Whoever looks while levers of ours are pulled sees the cluster twice: as it is, and as it is without them. A lever that
was let go is left out a little longer, because an answer may be older than its going.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from common.clock import Clock
from migrator.backends.base import BackendError
from migrator.backends.rest import shapes
from migrator.backends.rest.answers import Meaning, RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.facts import NexusIndex, rest_node, rest_pool, rest_volume
from migrator.core.growing import Growing, with_growing
from migrator.core.model import Outcome, Purpose, SetReplicaCount
from migrator.core.steering.cluster import RestCluster, RestNode, RestPool, RestVolume
from migrator.core.steering.levers import Lever, without

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PV_PREFIX: Final = "pvc-"


@dataclass(frozen=True, slots=True)
class Names:
    """How volumes are called; without any PersistentVolume, pvc-<uuid> is."""

    pv_name: Callable[[str], str | None] = lambda _handle: None
    """The PersistentVolume's name, by volumeHandle; None if there is none."""
    handle: Callable[[str], str | None] = lambda _name: None
    """The volumeHandle, by the PersistentVolume's name; None if there is none."""

    def name_of(self, uuid: str) -> str:
        return self.pv_name(uuid) or f"{_PV_PREFIX}{uuid}"

    def uuid_of(self, name: str) -> str | None:
        """Return None for a name that no uuid belongs to."""
        text = (self.handle(name) or name.removeprefix(_PV_PREFIX)).lower()
        return text if _UUID.fullmatch(text) else None


class Ours:
    """The levers of ours that a look may show."""

    def __init__(self, clock: Clock, *sources: Callable[[], Iterable[Lever]]) -> None:
        """`sources` name those that may be pulled at the moment."""
        self._clock = clock
        self._sources = sources
        self._last: frozenset[Lever] = frozenset()
        self._gone: dict[Lever, float] = {}
        """When each was first found not to be named any more."""

    def at(self, began: float) -> tuple[Lever, ...]:
        """List those that a look may show which began then, by the clock's monotonic time."""
        named = dict.fromkeys(lever for source in self._sources for lever in source())
        now = self._clock.monotonic()
        self._gone |= dict.fromkeys(self._last - named.keys(), now)
        self._last = frozenset(named)
        fading = [lever for lever, since in self._gone.items() if since >= began]
        return tuple(dict.fromkeys((*named, *fading)))

    def forget(self, before: float) -> None:
        """No look will be asked about that began earlier than this."""
        self._gone = {lever: since for lever, since in self._gone.items() if since >= before}


class LatelyGrown:
    """Volumes that this process has given a replica, of which neither the copy nor a journal need tell yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._grown: dict[str, tuple[Growing, float]] = {}

    def __call__(self) -> tuple[Growing, ...]:
        return tuple(growing for growing, _ in self._grown.values())

    def asked(self, volume: str, write: SetReplicaCount) -> None:
        """A call is about to be made; whether it ever will be known what came of it is not known."""
        if write.purpose is Purpose.SCALE_UP:
            growing = Growing(volume, write.replica_count, write.concerns)
            self._grown[volume] = growing, self._clock.monotonic()

    def answered(self, volume: str, write: SetReplicaCount, outcome: Outcome) -> None:
        """A call was answered, or given up."""
        done = outcome in {Outcome.DONE, Outcome.ALTERED}
        grown = done or outcome is Outcome.UNKNOWN if write.purpose is Purpose.SCALE_UP else not done
        if not grown:
            self._grown.pop(volume, None)

    def forget(self, before: float) -> None:
        """Whoever was asked earlier than this, by the clock's monotonic time, is in the copy as it is by now."""
        self._grown = {volume: found for volume, found in self._grown.items() if found[1] >= before}


@dataclass(frozen=True, slots=True)
class Things:
    """All pools and nodes."""

    pools: Mapping[str, RestPool] = field(default_factory=dict)
    nodes: Mapping[str, RestNode] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Survey:
    """A fresh look at one volume and at all that steering it rests on; without levers of ours."""

    volume: RestVolume | None
    """None: there is no such volume."""
    cluster: RestCluster
    """With the volume as it was read; the other volumes are those of the copy, and what is known better of ours."""
    as_read: RestCluster
    """With the levers that are pulled."""
    published: bool = False
    """It has a target, at work or not."""


class Surveyor:
    """Looks."""

    def __init__(
        self,
        client: RestClient,
        names: Names,
        ours: Ours,
        clock: Clock,
        known: Callable[[], RestCluster],
        growing: Callable[[], Iterable[Growing]],
    ) -> None:
        """`known`: the copy, with the levers that are pulled. `growing`: volumes of which it may not know enough."""
        self._client = client
        self._names = names
        self._ours = ours
        self._clock = clock
        self._known = known
        self._growing = growing

    async def look(self, name: str) -> Survey:
        """Look at a volume, by its PersistentVolume's name, and at what is around it. Raises BackendError."""
        uuid = self._names.uuid_of(name)
        if uuid is None:
            raise BackendError(f"volume {name} has no uuid as its volumeHandle: Mayastor's REST API cannot find it")
        began = self._clock.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                nodes = tasks.create_task(self._client.nodes())
                pools = tasks.create_task(self._client.pools())
                found = tasks.create_task(self._volume_and_nexuses(uuid))
        except* RestError as errors:
            raise BackendError(f"volume {name} could not be read: {_first(errors)}") from errors
        volume, index = found.result()
        fresh = rest_volume(volume, index) if volume is not None else None
        whole = self._known().renewed(
            uuid,
            fresh,
            (rest_pool(pool) for pool in pools.result()),
            (rest_node(node) for node in nodes.result()),
        )
        whole = with_growing(whole, self._growing())
        published = volume is not None and volume.state.target is not None
        return Survey(fresh, without(whole, self._ours.at(began)), whole, published)

    async def things(self) -> Things:
        """Look at pools and nodes, as they are with the levers that are pulled. Raises RestError."""
        nodes = [rest_node(node) for node in await self._client.nodes()]
        pools = [rest_pool(pool) for pool in await self._client.pools()]
        return Things({pool.name: pool for pool in pools}, {node.name: node for node in nodes})

    async def _volume_and_nexuses(self, uuid: str) -> tuple[shapes.Volume | None, NexusIndex]:
        try:
            volume = await self._client.volume(uuid)
        except RestError as error:
            if error.meaning is Meaning.GONE:
                return None, NexusIndex(())
            raise
        # In this order: a target that comes in between is then seen as one too many, never overlooked.
        return volume, NexusIndex(await self._client.nexuses())


def _first(errors: BaseExceptionGroup[RestError]) -> BaseException:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
