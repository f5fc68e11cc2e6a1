"""
Mayastor of today as a backend: what is where, told under the names of PersistentVolumes.

The REST API names a volume by its uuid, which a PersistentVolume has as its volumeHandle; all others here name it by
the PersistentVolume. What is told is without levers of ours: a pool is not cordoned because a move of ours is on its
way, and its labels are those that it will have again.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.backoff import Backoff
from common.clock import Clock
from common.logs import Logger
from common.placement import Move, Pool, Refusal
from common.resources.migration import BackendKind
from migrator.backends.base import BackendError, Capabilities, Listener, Reading, Result, VolumeWrite
from migrator.backends.rest import shapes
from migrator.backends.rest.abilities import find_marks
from migrator.backends.rest.answers import Meaning, RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.facts import NexusIndex, pool_of, rest_node, rest_pool, rest_volume, volume_seen
from migrator.backends.rest.placements import RestCopy
from migrator.core.model import Outcome, RestSeen, VolumeSeen
from migrator.core.refusals import Subject, of_person
from migrator.core.steering.abilities import Abilities, Marks, abilities_of
from migrator.core.steering.cluster import RestCluster, RestVolume
from migrator.core.steering.feasibility import plan_moves, refusals_of_targets, refusals_of_volume
from migrator.core.steering.levers import PASSING, Lever, without

NOT_BUILT: Final = "moves over the REST API are not built yet: this version only shows where everything is"
MARKS_SECONDS: Final = 600.0
"""What a control plane can do is asked again so often: it may have been upgraded."""
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PV_PREFIX: Final = "pvc-"


@dataclass(frozen=True, slots=True)
class Survey:
    """A fresh look at one volume and at all that steering it rests on; without levers of ours."""

    volume: RestVolume | None
    """None: there is no such volume."""
    cluster: RestCluster
    """With the volume as it was read; the other volumes are those of the copy."""
    as_read: RestCluster
    """With the levers that are pulled."""


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


class RestBackend:
    """The backend."""

    def __init__(
        self,
        client: RestClient,
        *,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        names: Names,
        cache_seconds: float = 30.0,
        resource_labels: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
        levers: Callable[[], Iterable[Lever]] = tuple,
    ) -> None:
        """
        `cache_seconds`: how old Mayastor's answers may be. `resource_labels`: labels of DiskPool resources by pool,
        as far as they can be read. `levers`: those of ours that may be pulled now.
        """
        self._client = client
        self._clock = clock
        self._rng = rng
        self._log = log
        self._names = names
        self._cache_seconds = cache_seconds
        self._resource_labels = resource_labels
        self._levers = levers
        self._listeners: list[Listener] = []
        self._copy = RestCopy(client, cache_seconds=cache_seconds, clock=clock, rng=rng, log=log)
        self._capabilities = Capabilities(
            self.kind, can_migrate=False, detail=f"still asking {client.url}", known=False
        )
        self._marks: Marks | None = None
        self._marks_at = 0.0
        self._volumes: dict[str, VolumeSeen] = {}
        self._pools: dict[str, Pool] = {}

    # --- the copy ------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> BackendKind:
        return BackendKind.REST

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def read_gap_seconds(self) -> float:
        return self._cache_seconds

    @property
    def volumes(self) -> Mapping[str, VolumeSeen]:
        return self._volumes

    @property
    def pools(self) -> Mapping[str, Pool]:
        return self._pools

    @property
    def synced(self) -> bool:
        return self._copy.synced

    @property
    def age_seconds(self) -> float:
        return self._copy.age_seconds

    @property
    def marks(self) -> Marks | None:
        """What the control plane has shown of its age; None before it was asked."""
        return self._marks

    @property
    def cluster(self) -> RestCluster:
        """The copy as steering looks at it, without levers of ours."""
        return without(self._copy.now.cluster(), self._levers())

    @property
    def abilities(self) -> Abilities:
        """What may be relied upon; before it was asked, what every version can."""
        return abilities_of(self._marks or Marks())

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy.run(self._after_round))
            tasks.create_task(self._keep_marks())

    def renamed(self) -> None:
        """Names, labels of DiskPool resources, or levers of ours are not what they were: tell what that changes."""
        self._show()

    def hurry(self) -> None:
        """Read everything again now."""
        self._copy.hurry()

    def _after_round(self) -> None:
        self._show()
        self._judge()

    def _show(self) -> None:
        """Bring what is shown up to the copy; tell of that alone which differs."""
        now, cluster = self._copy.now, self.cluster
        named = {self._names.name_of(uuid): volume for uuid, volume in now.volumes.items()}
        volumes = {
            name: volume_seen(volume, name, published=volume.uuid in now.published) for name, volume in named.items()
        }
        labels = self._resource_labels()
        pools = {name: pool_of(pool, cluster, labels.get(name, {})) for name, pool in cluster.pools.items()}
        different = _different(self._volumes, volumes), _different(self._pools, pools)
        self._volumes, self._pools = volumes, pools
        if any(different):
            self._tell(*different)

    def _tell(self, volumes: frozenset[str], pools: frozenset[str]) -> None:
        for listener in self._listeners:
            listener(volumes, pools)

    # --- what it can do ------------------------------------------------------------------------------------------

    async def _keep_marks(self) -> None:
        """Ask what the control plane can do, once there was a whole round, and again now and then."""
        backoff = Backoff(self._rng, first_seconds=1.0, cap_seconds=30.0)
        await self._copy.wait_synced()
        while True:
            wait = MARKS_SECONDS
            try:
                self._marks = await find_marks(self._client, self._copy.now.raw_nodes)
                backoff.reset()
            except RestError as error:
                self._log.warning("what Mayastor can do is not known", why=str(error))
                wait = backoff.next_seconds()
            await self._clock.sleep(wait)

    def _judge(self) -> None:
        """Say what can be done; told only where it is something else than before."""
        if not self._copy.synced:
            why = self._copy.problem or f"still asking {self._client.url}"
            now = Capabilities(self.kind, can_migrate=False, detail=why, known=False)
        else:
            now = Capabilities(self.kind, can_migrate=False, detail=NOT_BUILT)
        if now != self._capabilities:
            self._capabilities = now
            self._tell(frozenset(), frozenset())

    # --- one volume ----------------------------------------------------------------------------------------------

    async def survey(self, volume: str) -> Survey:
        """Look at a volume afresh, with its targets, and at all pools and nodes. Raises BackendError."""
        found, _ = await self._look(volume)
        return found

    async def read(self, volume: str, pools: Iterable[str]) -> Reading:
        found, published = await self._look(volume)
        cluster, labels = found.cluster, self._resource_labels()
        held = {replica.pool for replica in found.volume.replicas} if found.volume is not None else set()
        known = {
            name: pool_of(cluster.pools[name], cluster, labels.get(name, {}))
            for name in sorted({*pools, *held})
            if name in cluster.pools
        }
        seen = volume_seen(found.volume, volume, published=published) if found.volume is not None else None
        return Reading(seen, known, RestSeen(cluster, found.volume, self.abilities, found.as_read))

    async def _look(self, name: str) -> tuple[Survey, bool]:
        uuid = self._names.uuid_of(name)
        if uuid is None:
            raise BackendError(f"volume {name} has no uuid as its volumeHandle: Mayastor's REST API cannot find it")
        try:
            async with asyncio.TaskGroup() as tasks:
                nodes = tasks.create_task(self._client.nodes())
                pools = tasks.create_task(self._client.pools())
                found = tasks.create_task(self._volume_and_nexuses(uuid))
        except* RestError as errors:
            raise BackendError(f"volume {name} could not be read: {_first(errors)}") from errors
        volume, index = found.result()
        fresh = rest_volume(volume, index) if volume is not None else None
        others = [other for other in self._copy.now.volumes.values() if other.uuid != uuid]
        whole = RestCluster.of(
            [*others, *([fresh] if fresh is not None else [])],
            (rest_pool(pool) for pool in pools.result()),
            (rest_node(node) for node in nodes.result()),
        )
        published = volume is not None and volume.state.target is not None
        return Survey(fresh, without(whole, self._levers()), whole), published

    async def _volume_and_nexuses(self, uuid: str) -> tuple[shapes.Volume | None, NexusIndex]:
        try:
            volume = await self._client.volume(uuid)
        except RestError as error:
            if error.meaning is Meaning.GONE:
                return None, NexusIndex(())
            raise
        # In this order: a target that comes in between is then seen as one too many, never overlooked.
        return volume, NexusIndex(await self._client.nexuses())

    def refusals(self, subject: Subject) -> tuple[Refusal, ...]:
        volume, cluster = self._known(subject.name), self.cluster
        by_person = of_person(subject)
        if volume is None:
            return by_person
        of_volume = (*by_person, *refusals_of_volume(cluster, volume))
        return of_volume or refusals_of_targets(cluster, volume, self.abilities)

    def refusals_of_moves(self, subject: Subject, moves: Sequence[Move]) -> tuple[Refusal, ...]:
        volume, cluster = self._known(subject.name), self.cluster
        by_person = of_person(subject)
        if volume is None or by_person:
            return by_person
        plan = plan_moves(cluster, volume, moves, self.abilities)
        return (plan,) if isinstance(plan, Refusal) and plan.reason not in PASSING else ()

    def _known(self, name: str) -> RestVolume | None:
        uuid = self._names.uuid_of(name)
        return self._copy.now.volumes.get(uuid) if uuid is not None else None

    async def take_over(self) -> None:
        """Not built yet."""

    async def perform(self, write: VolumeWrite, seen: VolumeSeen | None) -> Result:
        name = seen.name if seen is not None else "no volume"
        return Result(Outcome.REFUSED, f"{type(write).__name__} of {name}: {NOT_BUILT}")


def _first(errors: BaseExceptionGroup[RestError]) -> BaseException:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _different(before: Mapping[str, object], now: Mapping[str, object]) -> frozenset[str]:
    return frozenset(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
