"""
PersistentVolumes and policies as the migrator meets them: read afresh, and told how a migration ended.

A PersistentVolume outlives every record of a migration, so what must not be lost (cooldown, memory, a volume that a
person must look at) stands in its annotations.
"""

from __future__ import annotations

import msgspec

from common.kube.api import PERSISTENT_VOLUMES, STORAGE_POLICIES, KubeApi, KubeError, NotFoundError
from common.quantities import parse_bytes
from common.resources.memory import format_time, remembering
from common.resources.meta import LAST_MIGRATION, MOVE_MEMORY, PARKED, ObjectMeta
from common.resources.volume import PersistentVolume
from migrator.backends.base import BackendError, Result
from migrator.backends.mayastor_volume import outcome_of
from migrator.core.ending import is_told, memory_entry
from migrator.core.model import AnnotatePv, Outcome, PolicySeen, PvSeen


class _PolicySpec(msgspec.Struct, frozen=True, rename="camel"):
    enabled: bool = True
    max_concurrent_migrations: int | None = None


class _Policy(msgspec.Struct, frozen=True):
    """As much of a StoragePolicy as the migrator needs."""

    metadata: ObjectMeta
    spec: _PolicySpec = _PolicySpec()


_pv = msgspec.json.Decoder(PersistentVolume)
_policy = msgspec.json.Decoder(_Policy)


def pv_seen(volume: PersistentVolume) -> PvSeen:
    """Understand a PersistentVolume."""
    meta, capacity = volume.metadata, (volume.spec.capacity or {}).get("storage")
    try:
        size = parse_bytes(capacity) if capacity is not None else None
    except ValueError:
        size = None
    return PvSeen(meta.uid, meta.resource_version, dict(meta.annotations or {}), size, volume.volume_handle)


class ClusterObjects:
    """PersistentVolumes and policies on a Kubernetes API."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def volume(self, name: str) -> PersistentVolume | None:
        """Read a PersistentVolume afresh; None if there is none. Raises BackendError."""
        try:
            return _pv.decode(await self._api.get(PERSISTENT_VOLUMES, name))
        except NotFoundError:
            return None
        except (KubeError, msgspec.MsgspecError) as error:
            raise BackendError(f"PersistentVolume {name} could not be read: {error}") from error

    async def policy(self, name: str) -> PolicySeen | None:
        """Read a policy afresh; None if there is none. Raises BackendError."""
        found = await self._read_policy(name)
        if found is None:
            return None
        return PolicySeen(found.metadata.uid, found.metadata.generation, found.spec.enabled)

    async def policy_cap(self, name: str) -> int | None:
        """Read how many migrations a policy allows at once; None if it is gone or says nothing. Raises BackendError."""
        found = await self._read_policy(name)
        return found.spec.max_concurrent_migrations if found is not None else None

    async def _read_policy(self, name: str) -> _Policy | None:
        try:
            return _policy.decode(await self._api.get(STORAGE_POLICIES, name))
        except NotFoundError:
            return None
        except (KubeError, msgspec.MsgspecError) as error:
            raise BackendError(f"StoragePolicy {name} could not be read: {error}") from error

    async def annotate(self, name: str, write: AnnotatePv, seen: PvSeen) -> Result:
        """Tell a PersistentVolume, as it was read, how a migration ended."""
        annotations: dict[str, str] = {
            MOVE_MEMORY: remembering(seen.annotations.get(MOVE_MEMORY), memory_entry(write)),
        }
        if write.last_migration:
            annotations[LAST_MIGRATION] = format_time(write.time)
        if write.parked:
            annotations[PARKED] = write.parked
        body = {"metadata": {"resourceVersion": seen.version, "annotations": annotations}}
        try:
            after = _pv.decode(await self._api.patch(PERSISTENT_VOLUMES, name, body))
        except KubeError as error:
            return Result(outcome_of(error), str(error))
        except msgspec.MsgspecError as error:
            return Result(Outcome.UNKNOWN, f"the answer could not be read: {error}")
        if not is_told(after.metadata.annotations or {}, write):
            return Result(Outcome.REFUSED, "the annotations were not kept")
        return Result(Outcome.DONE, version=after.metadata.resource_version)
