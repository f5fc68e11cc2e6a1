"""
Mayastor by its MayastorVolume resources, as the specification has them.

Every patch carries the resourceVersion of the read it rests on and is a difference with explicit nulls, since a merge
patch merges maps. Every answer is compared with what was meant: a schema that prunes a field answers 200 as well.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from common.backoff import Backoff
from common.clock import Clock
from common.kube.api import (
    KubeApi,
    KubeError,
    NotFoundError,
    Resource,
)
from common.kube.reflector import Reflector
from common.logs import Logger
from common.placement import Move, Pool, Refusal
from common.resources.migration import BackendKind
from common.resources.pool import DiskPool
from common.resources.volume import MayastorVolume
from migrator.backends.base import BackendError, Capabilities, Listener, Reading, ResourceWrite, Result, VolumeWrite
from migrator.backends.mayastor_volume import (
    difference,
    lacking_field,
    outcome_of,
    patch_body,
    replicas_of,
    volume_seen,
)
from migrator.core.model import (
    Outcome,
    ProbeVolume,
    VolumeSeen,
)
from migrator.core.refusals import Subject, of_moves, of_relation, of_volume

READ_GAP_SECONDS: Final = 1.0
_volume = msgspec.json.Decoder(MayastorVolume)
_pool = msgspec.json.Decoder(DiskPool)


class CrdBackend:
    """The backend; versions are found out, where the settings leave them open, when `run` begins."""

    def __init__(
        self,
        api: KubeApi,
        *,
        group: str,
        version: str,
        namespace: str,
        clock: Clock,
        rng: random.Random,
        log: Logger,
    ) -> None:
        self._api = api
        self._group = group
        self._version = version
        self._namespace = namespace
        self._clock = clock
        self._rng = rng
        self._log = log
        self._listeners: list[Listener] = []
        self._capabilities = Capabilities(
            self.kind, can_migrate=False, detail="still looking for MayastorVolumes", known=False
        )
        self._volumes_at = self._resource(version, "mayastorvolumes", "MayastorVolume")
        self._pools_at = self._resource(version, "diskpools", "DiskPool")
        self._volume_copy: Reflector[MayastorVolume] | None = None
        self._pool_copy: Reflector[DiskPool] | None = None
        self._volumes: dict[str, VolumeSeen] = {}
        self._pools: dict[str, Pool] = {}

    # --- the copy ------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> BackendKind:
        return BackendKind.CRD

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def read_gap_seconds(self) -> float:
        return READ_GAP_SECONDS

    @property
    def volumes(self) -> Mapping[str, VolumeSeen]:
        return self._volumes

    @property
    def pools(self) -> Mapping[str, Pool]:
        return self._pools

    @property
    def synced(self) -> bool:
        copies = (self._volume_copy, self._pool_copy)
        return all(copy is not None and copy.synced for copy in copies)

    @property
    def age_seconds(self) -> float:
        copies = (self._volume_copy, self._pool_copy)
        return max(copy.age_seconds if copy is not None else float("inf") for copy in copies)

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def run(self) -> None:
        await self._discover()
        self._volume_copy = Reflector(
            self._api,
            self._volumes_at,
            MayastorVolume,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
            namespace=self._namespace,
            on_change=self._on_volume,
        )
        self._pool_copy = Reflector(
            self._api,
            self._pools_at,
            DiskPool,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
            namespace=self._namespace,
            on_change=self._on_pool,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._volume_copy.run())
            tasks.create_task(self._pool_copy.run())

    async def _discover(self) -> None:
        """Find the served versions; ask again until there are any that will do."""
        backoff = Backoff(self._rng, first_seconds=1.0, cap_seconds=30.0)
        while True:
            try:
                problem = await self._find_versions()
                known = True
            except KubeError as error:
                problem, known = str(error), False
            if problem is None:
                self._capabilities = Capabilities(self.kind, can_migrate=True)
                self._tell(frozenset(), frozenset())
                return
            if self._capabilities.detail != problem:
                self._log.warning("no migrations with this Mayastor", why=problem)
            self._capabilities = Capabilities(self.kind, can_migrate=False, detail=problem, known=known)
            self._tell(frozenset(), frozenset())
            await self._clock.sleep(backoff.next_seconds())

    async def _find_versions(self) -> str | None:
        versions = (self._version,) if self._version else await self._api.served_versions(self._group)
        problem = f"no kind MayastorVolume in group {self._group}: is Mayastor of this form installed?"
        volumes = pools = None
        for version in versions:
            at = self._resource(version, "mayastorvolumes", "MayastorVolume")
            schema = await self._api.served_schema(at)
            if schema is not None and volumes is None:
                lacking = lacking_field(schema)
                if lacking is None:
                    volumes = at
                else:
                    problem = f"MayastorVolume {at.api_version} has no {lacking}: UnsupportedMayastorVolume"
        # The two kinds have had different versions in the past.
        for version in versions if not self._version else (*versions, *await self._api.served_versions(self._group)):
            at = self._resource(version, "diskpools", "DiskPool")
            if pools is None and await self._api.served_schema(at) is not None:
                pools = at
        if volumes is None:
            return problem
        if pools is None:
            return f"no kind DiskPool in group {self._group}"
        self._volumes_at, self._pools_at = volumes, pools
        return None

    def _resource(self, version: str, plural: str, kind: str) -> Resource:
        return Resource(self._group, version, plural, kind, namespaced=True)

    def _on_volume(self, _key: str, old: MayastorVolume | None, new: MayastorVolume | None) -> None:
        name = _name(old, new)
        if new is None:
            self._volumes.pop(name, None)
        else:
            self._volumes[name] = volume_seen(new, self._pools)
        self._tell(frozenset({name}), frozenset())

    def _on_pool(self, _key: str, old: DiskPool | None, new: DiskPool | None) -> None:
        name = _name(old, new)
        before = self._pools.pop(name, None)
        after = self._understood(new) if new is not None else None
        if after is not None:
            self._pools[name] = after
        same_node = (before.node if before is not None else None) == (after.node if after is not None else None)
        self._tell(frozenset() if same_node else self._moved(name), frozenset({name}))

    def _moved(self, pool: str) -> frozenset[str]:
        """A pool's node became known: the replicas on it have theirs from there."""
        copy = self._volume_copy.items.values() if self._volume_copy is not None else ()
        concerned = {v.metadata.name: v for v in copy if v.status and any(r.pool == pool for r in v.status.replicas)}
        self._volumes.update({name: volume_seen(volume, self._pools) for name, volume in concerned.items()})
        return frozenset(concerned)

    def _understood(self, pool: DiskPool) -> Pool:
        try:
            return pool.pool()
        except ValueError as error:
            self._log.warning("pool cannot be used", pool=pool.metadata.name, why=str(error))
            return Pool(name=pool.metadata.name, node=None)

    def _tell(self, volumes: frozenset[str], pools: frozenset[str]) -> None:
        for listener in self._listeners:
            listener(volumes, pools)

    # --- one volume ----------------------------------------------------------------------------------------------

    async def read(self, volume: str, pools: Iterable[str]) -> Reading:
        if not self._volumes_at.version:  # what is not found at an unknown place is not gone
            raise BackendError(f"MayastorVolume {volume} could not be read: {self._capabilities.detail}")
        raw = await self._ask(f"MayastorVolume {volume}", self._api.get(self._volumes_at, volume, self._namespace))
        item = _decoded(_volume, raw, f"MayastorVolume {volume}") if raw is not None else None
        names = {*pools, *(replica.pool for replica in replicas_of(item))}
        found = await asyncio.gather(*(self._read_pool(name) for name in sorted(names)))
        known = {pool.name: pool for pool in found if pool is not None}
        return Reading(volume_seen(item, known) if item is not None else None, known)

    async def _read_pool(self, name: str) -> Pool | None:
        raw = await self._ask(f"DiskPool {name}", self._api.get(self._pools_at, name, self._namespace))
        return self._understood(_decoded(_pool, raw, f"DiskPool {name}")) if raw is not None else None

    async def _ask(self, what: str, call: Awaitable[msgspec.Raw]) -> msgspec.Raw | None:
        try:
            return await call
        except NotFoundError:
            return None
        except KubeError as error:
            raise BackendError(f"{what} could not be read: {error}") from error

    def refusals(self, subject: Subject) -> tuple[Refusal, ...]:
        found = list(of_volume(subject))
        for pool in self._pools.values():
            if pool.name not in {replica.pool for replica in subject.replicas}:
                found.extend(of_relation(subject, pool, self._pools))
        return tuple(found)

    def refusals_of_moves(self, subject: Subject, moves: Sequence[Move]) -> tuple[Refusal, ...]:
        return of_moves(subject, moves, self._pools)

    async def take_over(self) -> None:
        """Nothing to do: preconditions and the fence see to what a leader before may still write."""

    async def perform(self, write: VolumeWrite, seen: VolumeSeen | None) -> Result:
        if seen is None or not isinstance(write, ResourceWrite):
            raise TypeError(f"{type(write).__name__} is no write of the crd backend")
        body = patch_body(write, seen)
        probing = isinstance(write, ProbeVolume)
        try:
            raw = await self._api.patch(self._volumes_at, seen.name, body, self._namespace, dry_run=probing)
        except KubeError as error:
            return Result(outcome_of(error), str(error))
        try:
            after = volume_seen(_volume.decode(raw), {})
        except (msgspec.MsgspecError, ValueError) as error:
            return Result(Outcome.UNKNOWN, f"the answer could not be read: {error}")
        differs = difference(write, seen, after)
        outcome = Outcome.DONE if differs is None else Outcome.ALTERED
        return Result(outcome, differs or "", after.spec, after.version)


def _decoded(decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw, what: str) -> Any:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BackendError(f"{what} cannot be understood: {error}") from error


def _name(old: MayastorVolume | DiskPool | None, new: MayastorVolume | DiskPool | None) -> str:
    item = new if new is not None else old
    if item is None:
        raise ValueError("a change of nothing")
    return item.metadata.name
