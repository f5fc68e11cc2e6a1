"""
Mayastor of today as a backend: what is where, told under the names of PersistentVolumes.

The REST API names a volume by its uuid, which a PersistentVolume has as its volumeHandle; all others here name it by
the PersistentVolume. What is told is without levers of ours: a pool is not cordoned because a move of ours is on its
way, and its labels are those that it will have again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from common.backoff import Backoff
from common.clock import Clock
from common.logs import Logger
from common.placement import Move, Pool, Refusal
from common.resources.migration import BackendKind
from migrator.backends.base import BackendError, Capabilities, Listener, Reading, Result, VolumeWrite
from migrator.backends.rest.abilities import find_marks, lacking_calls
from migrator.backends.rest.acting import Actor
from migrator.backends.rest.answers import RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.facts import pool_of, volume_seen
from migrator.backends.rest.placements import RestCopy
from migrator.backends.rest.pulling import MayWrite, Puller
from migrator.backends.rest.stray_labels import StrayLabels
from migrator.backends.rest.survey import LatelyGrown, Names, Ours, Survey, Surveyor
from migrator.backends.rest.takeover import Clearing
from migrator.core.growing import Growing
from migrator.core.model import ReleaseLevers, RestSeen, SetReplicaCount, VolumeSeen
from migrator.core.refusals import Subject, of_person
from migrator.core.steering.abilities import Abilities, Ability, Marks, abilities_of
from migrator.core.steering.cluster import RestCluster, RestVolume
from migrator.core.steering.feasibility import plan_moves, refusals_of_volume
from migrator.core.steering.levers import PASSING, Lever, without
from migrator.core.steering.many import refusals_of_targets

__all__ = ["Names", "RestBackend"]

MARKS_SECONDS: Final = 600.0
"""What a control plane can do is asked again so often: it may have been upgraded."""
TWO_READS: Final = 1.1
"""So many times the age of answers two reads are apart that are surely two."""
OLD_ROUNDS: Final = 5.0
OLD_SECONDS: Final = 30.0
"""A copy older than this, and than so many times the age of answers, tells nothing of other volumes any more."""
FADING_SECONDS: Final = 300.0
"""No look that is still of interest began so long before the copy's."""


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
        operation_seconds: float = 15.0,
        lease_seconds: float = 15.0,
        lever_seconds: float = 10.0,
        resource_labels: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
        levers: Callable[[], Iterable[Lever]] = tuple,
        left_behind: Callable[[], Iterable[Lever]] = tuple,
        growing: Callable[[], Iterable[Growing]] = tuple,
        off: Callable[[], frozenset[Ability]] = frozenset,
        may_write: MayWrite = lambda: False,
    ) -> None:
        """
        `cache_seconds`: how old Mayastor's answers may be. `operation_seconds`: an unanswered write takes effect within
        this, if ever. `lease_seconds`: so long a leader before may still write. `lever_seconds`: so long levers are
        pulled at the most. `resource_labels`: labels of DiskPool resources by pool, as far as they can be read.
        `levers`: those of migrations under way that may be pulled now, on any leader; say so by `levers_changed` when
        they are others. `left_behind`: those of ended migrations that may still be pulled. `growing`: volumes to which
        migrations under way have given a replica. `off`: what is not to be relied upon in this cluster. `may_write`:
        whether the lease is surely ours; asked before each write.
        """
        self._client = client
        self._clock = clock
        self._rng = rng
        self._log = log
        self._names = names
        self._cache_seconds = cache_seconds
        self._resource_labels = resource_labels
        self._off = off
        self._may_write = may_write
        self._left_behind = left_behind
        self._stray_labels = StrayLabels(log)
        self._listeners: list[Listener] = []
        self._copy = RestCopy(client, cache_seconds=cache_seconds, clock=clock, rng=rng, log=log)
        self._capabilities = Capabilities(
            self.kind, can_migrate=False, detail=f"still asking {client.url}", known=False
        )
        self._marks: Marks | None = None
        self._marks_at = 0.0
        self._lacking: tuple[str, ...] = ()
        """Calls that it does not know and without which nothing can be moved."""
        self._marks_problem = ""
        self._volumes: dict[str, VolumeSeen] = {}
        self._pools: dict[str, Pool] = {}
        self._cluster: RestCluster | None = None
        """The copy without levers of ours; None: they, or the copy, may be others by now."""
        self._put_together: tuple[RestCluster, Sequence[Lever], RestCluster] | None = None
        """The copy and the levers that it was last made of, and what came of them."""
        self._ours = Ours(clock, levers, lambda: self._actor.pulled)
        grown = self._grown = LatelyGrown(clock)
        surveyor = Surveyor(
            client, names, self._ours, clock, lambda: self._copy.cluster, lambda: (*growing(), *grown())
        )
        puller = Puller(client, surveyor, clock=clock, rng=rng, log=log)
        self._actor = Actor(
            client,
            surveyor,
            puller,
            grown,
            clock=clock,
            log=log,
            abilities=lambda: self.abilities,
            may_write=may_write,
            held=levers,
            lever_seconds=lever_seconds,
            copy_age=lambda: self._copy.age_seconds,
            oldest_copy=max(OLD_ROUNDS * cache_seconds, OLD_SECONDS),
            on_levers=self.levers_changed,
        )
        self._surveyor = surveyor
        self._clearing = Clearing(
            client,
            surveyor,
            self._actor,
            clock=clock,
            rng=rng,
            log=log,
            may_write=may_write,
            held=levers,
            left_behind=left_behind,
            wait_seconds=operation_seconds + lease_seconds,
        )

    # --- the copy ------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> BackendKind:
        return BackendKind.REST

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def read_gap_seconds(self) -> float:
        return TWO_READS * self._cache_seconds

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
    def stray_labels(self) -> int:
        """How many labels of pools are ours and in no journal; 0 where we do not lead."""
        return len(self._stray_labels)

    @property
    def cluster(self) -> RestCluster:
        """The copy as steering looks at it, without levers of ours; the very same object where nothing changed."""
        if self._cluster is None:
            as_read, ours = self._copy.cluster, self._ours.at(self._copy.began)
            if self._put_together is None or self._put_together[0] is not as_read or self._put_together[1] != ours:
                self._put_together = as_read, ours, without(as_read, ours)
            self._cluster = self._put_together[2]
        return self._cluster

    @property
    def abilities(self) -> Abilities:
        """What may be relied upon; before it was asked, what every version can."""
        return _abilities_of(self._marks or Marks(), self._off())

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy.run(self._after_round))
            tasks.create_task(self._keep_marks())
            tasks.create_task(self._clearing.keep_clear())

    def renamed(self) -> None:
        """Names, or labels of DiskPool resources, are not what they were: tell what that changes."""
        self._show()

    def levers_changed(self) -> None:
        """Levers of ours that may be pulled are others: tell what that changes, which should be nothing."""
        self._cluster = None
        self._show_pools()

    def hurry(self) -> None:
        """Read everything again now."""
        self._copy.hurry()

    def _after_round(self) -> None:
        self._cluster = None
        self._ours.forget(self._copy.began - FADING_SECONDS)
        self._grown.forget(self._copy.began - self._cache_seconds)
        self._show()
        self._judge()
        self._find_stray_labels()

    def _find_stray_labels(self) -> None:
        """Whoever leads has read all journals."""
        if self._may_write():
            known = (*self._ours.at(self._copy.began), *self._left_behind())
            self._stray_labels.look(self._copy.rounds, self._copy.now.pools, known)
        else:
            self._stray_labels.forget()

    def _show(self) -> None:
        """Bring what is shown up to the copy; tell of that alone which differs."""
        now = self._copy.now
        named = {self._names.name_of(uuid): volume for uuid, volume in now.volumes.items()}
        volumes = {
            name: volume_seen(volume, name, published=volume.uuid in now.published) for name, volume in named.items()
        }
        different, self._volumes = _different(self._volumes, volumes), volumes
        self._show_pools(different)

    def _show_pools(self, volumes: frozenset[str] = frozenset()) -> None:
        """The same for pools, and tell of these volumes as well."""
        cluster, labels = self.cluster, self._resource_labels()
        pools = {name: pool_of(pool, cluster, labels.get(name, {})) for name, pool in cluster.pools.items()}
        different, self._pools = _different(self._pools, pools), pools
        if volumes or different:
            self._tell(volumes, different)

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
                lacking = await lacking_calls(self._client)
                self._marks = await find_marks(self._client, self._copy.now.raw_nodes)
                self._lacking, self._marks_problem = lacking, ""
                backoff.reset()
            except RestError as error:
                self._log.warning("what Mayastor can do is not known", why=str(error))
                self._marks_problem = str(error)
                wait = backoff.next_seconds()
            self._judge()
            await self._clock.sleep(wait)

    def _judge(self) -> None:
        """Say what can be done; told only where it is something else than before."""
        asking = f"still asking {self._client.url}"
        if not self._copy.synced:
            now = Capabilities(self.kind, can_migrate=False, detail=self._copy.problem or asking, known=False)
        elif self._marks is None:
            now = Capabilities(self.kind, can_migrate=False, detail=self._marks_problem or asking, known=False)
        elif self._lacking:
            why = f"the control plane at {self._client.url} does not know {', '.join(self._lacking)}"
            now = Capabilities(self.kind, can_migrate=False, detail=why)
        else:
            now = Capabilities(self.kind, can_migrate=True)
        if now != self._capabilities:
            self._capabilities = now
            self._tell(frozenset(), frozenset())

    # --- one volume ----------------------------------------------------------------------------------------------

    async def survey(self, volume: str) -> Survey:
        """Look at a volume afresh, with its targets, and at all pools and nodes. Raises BackendError."""
        return await self._surveyor.look(volume)

    async def read(self, volume: str, pools: Iterable[str]) -> Reading:
        if self._marks is None:
            # Decided upon the oldest rules, what newer ones allow would be given up.
            raise BackendError(f"what Mayastor can do is not known yet: {self._marks_problem or 'still asking'}")
        found = await self._surveyor.look(volume)
        cluster, labels = found.cluster, self._resource_labels()
        held = {replica.pool for replica in found.volume.replicas} if found.volume is not None else set()
        known = {
            name: pool_of(cluster.pools[name], cluster, labels.get(name, {}))
            for name in sorted({*pools, *held})
            if name in cluster.pools
        }
        seen = volume_seen(found.volume, volume, published=found.published) if found.volume is not None else None
        return Reading(seen, known, RestSeen(cluster, found.volume, self.abilities, found.as_read))

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

    # --- writes --------------------------------------------------------------------------------------------------

    async def take_over(self) -> None:
        await self._clearing.run()

    async def perform(self, write: VolumeWrite, seen: VolumeSeen | None) -> Result:
        match write:
            case ReleaseLevers():
                return await self._actor.release(write)
            case SetReplicaCount() if seen is not None:
                return await self._actor.set_replica_count(write, seen)
            case _:
                raise TypeError(f"{type(write).__name__} is no write of the rest backend, or lacks a volume")


_abilities_of: Final = lru_cache(maxsize=8)(abilities_of)
"""Asked for each volume, and changed by an upgrade or a person alone."""


def _different(before: Mapping[str, object], now: Mapping[str, object]) -> frozenset[str]:
    return frozenset(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
