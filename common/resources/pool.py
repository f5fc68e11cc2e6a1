"""
DiskPool, in each of the shapes that its versions have.

The earliest says everything in status.state, capacity and used as quantities; later ones report pool_status beside
the state of the resource itself, and sizes in bytes. Where pool_status is served it is the one that tells of the pool.
"""

from __future__ import annotations

import msgspec

from common.placement import Pool
from common.quantities import parse_bytes
from common.resources.meta import ObjectMeta


class Labelled(msgspec.Struct, frozen=True):
    """spec.topology.labelled, from v1beta2 on."""

    labelled: dict[str, str] | None = None


class DiskPoolSpec(msgspec.Struct, frozen=True):
    """spec."""

    node: str | None = None
    topology: Labelled | None = None


class DiskPoolStatus(msgspec.Struct, frozen=True):
    """status, the union of all versions."""

    state: str | None = None
    pool_status: str | None = None
    capacity: str | int | None = None
    used: str | int | None = None


class DiskPool(msgspec.Struct, frozen=True):
    """A DiskPool."""

    metadata: ObjectMeta
    spec: DiskPoolSpec | None = None
    status: DiskPoolStatus | None = None

    def pool(self) -> Pool:
        """
        Understand it; a pool without a status is not online and has no space.

        Raises ValueError for sizes that are none.
        """
        spec, status = self.spec or DiskPoolSpec(), self.status or DiskPoolStatus()
        topology = (spec.topology.labelled if spec.topology else None) or {}
        health = status.pool_status if status.pool_status is not None else status.state
        return Pool(
            name=self.metadata.name,
            node=spec.node,
            labels={**topology, **(self.metadata.labels or {})},
            online=health == "Online",
            capacity_bytes=parse_bytes(status.capacity or 0),
            used_bytes=parse_bytes(status.used or 0),
        )
