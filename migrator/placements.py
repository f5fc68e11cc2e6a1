"""
Where everything is, as it is told to whoever watches: volumes, pools, and what must be refused.

The copy comes from the backend, from PersistentVolumes and from the records of migrations, since a volume under way is
shown with the topology that it had before our steering. Each watcher has a set of names that changed since it was last
served; a slow one gets the latest of each, never a growing queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isfinite

from common.clock import Clock
from common.placement import Pool, Refusal, VolumePlacement
from common.reasons import Reason
from common.resources.meta import PARKED
from common.resources.migration import VolumeMigration
from common.resources.volume import PersistentVolume
from migrator.annotations import pv_seen
from migrator.backends.base import Backend
from migrator.core import refusals
from migrator.core.admission import Surroundings
from migrator.core.model import VolumeSeen
from migrator.core.steering import labels

SETTLE_SECONDS = 0.05


@dataclass(slots=True)
class Watcher:
    """What one watcher has not been told yet."""

    volumes: set[str] = field(default_factory=set)
    pools: set[str] = field(default_factory=set)
    capabilities: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, volumes: frozenset[str], pools: frozenset[str], *, capabilities: bool) -> None:
        """Remember what changed."""
        self.volumes |= volumes
        self.pools |= pools
        self.capabilities |= capabilities
        self.changed.set()

    def take(self) -> tuple[set[str], set[str], bool]:
        """Hand over what changed."""
        taken = (self.volumes, self.pools, self.capabilities)
        self.volumes, self.pools, self.capabilities = set(), set(), False
        self.changed.clear()
        return taken


class Placements:
    """The copy of where everything is."""

    def __init__(
        self,
        backend: Backend,
        *,
        volumes: Callable[[], Mapping[str, PersistentVolume]],
        synced: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`volumes` is a copy of the PersistentVolumes, by name; migrations are told by `on_migration`."""
        self._backend = backend
        self._pvs = volumes
        self._others_synced = synced
        self._clock = clock
        self._watching: dict[int, Watcher] = {}
        self._handles: dict[str, str] = {}
        self._places: dict[str, object] = {}
        """By pool, what its refusals rest on."""
        self._active: dict[str, VolumeMigration] = {}
        backend.listen(self.note)

    @property
    def synced(self) -> bool:
        """Whether everything there is has been seen once."""
        return self._backend.synced and self._others_synced()

    @property
    def backend(self) -> Backend:
        """Where the copy comes from."""
        return self._backend

    # --- changes -------------------------------------------------------------------------------------------------

    def note(self, volumes: frozenset[str], pools: frozenset[str]) -> None:
        """
        Tell all watchers that these changed; nothing named means that what the backend can do did.

        That, and a pool's labels and node, concern every volume that might move, or go there.
        """
        capabilities = not volumes and not pools
        told = {name: _place(self._backend.pools.get(name)) for name in pools}
        if capabilities or any(self._places.get(name) != place for name, place in told.items()):
            volumes = frozenset(self._backend.volumes)
        self._places.update(told)
        for watcher in self._watching.values():
            watcher.note(volumes, pools, capabilities=capabilities)

    def on_pv(self, name: str, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        """A PersistentVolume changed."""
        for volume in (old, new):
            if volume is not None and self._handles.get(volume.volume_handle) == name:
                del self._handles[volume.volume_handle]
        if new is not None:
            self._handles[new.volume_handle] = name
        self.note(frozenset({name}), frozenset())

    def on_migration(self, name: str, old: VolumeMigration | None, new: VolumeMigration | None) -> None:
        """A migration began or ended: its volume is shown differently from now on."""
        names = frozenset(record.spec.pv_name for record in (old, new) if record is not None)
        for pv_name in names:
            if pv_name in self._active and self._active[pv_name].metadata.name == name:
                del self._active[pv_name]
        if new is not None and new.active:
            self._active[new.spec.pv_name] = new
        began_or_ended = (old is not None and old.active) != (new is not None and new.active)
        noted = (old.status.original_topology if old else None) != (new.status.original_topology if new else None)
        if names and (began_or_ended or noted):
            self.note(names, frozenset())

    def subscribe(self) -> tuple[int, Watcher]:
        """Begin to watch: everything there is counts as changed."""
        watcher = Watcher(volumes=set(self._backend.volumes), pools=set(self._backend.pools))
        key = max(self._watching, default=0) + 1
        self._watching[key] = watcher
        watcher.changed.set()
        return key, watcher

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watching)

    def unsubscribe(self, key: int) -> None:
        """Watch no longer."""
        self._watching.pop(key, None)

    async def changed(self, watcher: Watcher, *, waiting: bool) -> None:
        """Wait until there is something to tell; `waiting` for the copy to be whole, which no change announces."""
        while not watcher.changed.is_set() and not (waiting and self.synced):
            if not waiting:
                await watcher.changed.wait()
                return
            await self._clock.sleep(SETTLE_SECONDS)

    def observed_at(self) -> datetime | None:
        """Tell when Mayastor last said anything; None if it never did."""
        age = self._backend.age_seconds
        return self._clock.now() - timedelta(seconds=age) if isfinite(age) else None

    # --- questions -----------------------------------------------------------------------------------------------

    def name_of(self, volume: str) -> str | None:
        """Return the PV name of a volume that is named by it or by its volumeHandle; None if it is not known."""
        if volume in self._backend.volumes or volume in self._pvs():
            return volume
        return self._handles.get(volume)

    def handle_of(self, pv_name: str) -> str:
        """Return a volume's handle; its name where no PersistentVolume tells another."""
        pv = self._pvs().get(pv_name)
        return pv.volume_handle if pv is not None else pv_name

    def pv_of(self, handle: str) -> str | None:
        """Return the name of the PersistentVolume that has this volumeHandle; None if there is none."""
        return self._handles.get(handle)

    def known_handle(self, pv_name: str) -> str | None:
        """Return the volumeHandle of a PersistentVolume; None if there is no such."""
        pv = self._pvs().get(pv_name)
        return pv.volume_handle if pv is not None else None

    def pv(self, pv_name: str) -> PersistentVolume | None:
        """Return the copy of a PersistentVolume."""
        return self._pvs().get(pv_name)

    def active_migration(self, pv_name: str) -> VolumeMigration | None:
        """Return the migration that is under way for a volume."""
        return self._active.get(pv_name)

    def subject(self, pv_name: str, seen: VolumeSeen) -> refusals.Subject:
        """Tell of a volume what refusals want to know, its spec as it is without any steering of ours."""
        pv = self._pvs().get(pv_name)
        known = pv_seen(pv) if pv is not None else None
        size = seen.size_bytes if seen.size_bytes is not None else (known.size_bytes if known else None)
        record = self._active.get(pv_name)
        status = record.status if record is not None else None
        count = status.original_replica_count if status is not None else None
        topology = status.original_topology if status is not None else None
        return refusals.Subject(
            name=pv_name,
            replica_count=seen.spec.replica_count if count is None else count,
            replicas=seen.replicas,
            topology=seen.spec.topology if topology is None else topology,
            size_bytes=size,
            being_deleted=seen.being_deleted,
            parked=known.annotations.get(PARKED) if known is not None else None,
        )

    def placement(self, pv_name: str) -> VolumePlacement | None:
        """Tell where a volume is; None if there is none."""
        seen = self._backend.volumes.get(pv_name)
        if seen is None:
            return None
        subject = self.subject(pv_name, seen)
        try:
            inclusion = labels.inclusion_of(subject.topology)
        except ValueError:
            inclusion = None
        return VolumePlacement(
            pv_name=pv_name,
            volume_handle=self.handle_of(pv_name),
            replica_count=subject.replica_count,
            replicas=seen.replicas,
            size_bytes=subject.size_bytes,
            published=seen.published,
            pool_inclusion=inclusion,
            refusals=tuple(self._refusals(subject)),
        )

    def _refusals(self, subject: refusals.Subject) -> Iterator[Refusal]:
        """
        List what a plan could not see by itself: all that concerns the volume, and what lies between it and a pool.

        What a pool is (offline, cordoned, full) is told with the pool.
        """
        capabilities = self._backend.capabilities
        if not capabilities.can_migrate:
            yield Refusal(Reason.BACKEND_UNABLE, capabilities.detail)
        active = self._active.get(subject.name)
        if active is not None:
            yield Refusal(Reason.ALREADY_MIGRATING, f"{active.metadata.name} is under way")
            return
        yield from self._backend.refusals(subject)

    def pool(self, name: str) -> Pool | None:
        """Tell of a pool; None if there is none."""
        return self._backend.pools.get(name)

    def surroundings(self, policy_caps: Mapping[str, int]) -> Surroundings:
        """Tell admission what it wants to know."""
        sizes = {}
        for name, seen in self._backend.volumes.items():
            size = self.subject(name, seen).size_bytes
            if size is not None:
                sizes[name] = size
        return Surroundings(
            pools=self._backend.pools,
            size_bytes=sizes,
            holds={name: seen.pools for name, seen in self._backend.volumes.items()},
            policy_caps=policy_caps,
        )


def _place(pool: Pool | None) -> object:
    return (pool.node, tuple(sorted(pool.labels.items()))) if pool is not None else None
