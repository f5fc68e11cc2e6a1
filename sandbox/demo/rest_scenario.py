"""
The same demo where Mayastor keeps its volumes behind its REST API, as it does today: what is different there.

That API can neither be told which pool gets a new replica nor which replica goes; the migrator has to leave it no
choice. So each volume is made as its storage class would make it, with a label that all pools of the tiers have, or
with the nodes that may have it: both leave something to steer by. Most volumes fare as they do with MayastorVolumes.
Those here do not, or are there to show what only this API has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from common.placement import Tier
from common.reasons import Reason
from sandbox.demo.scenario import DEMO, DemoVolume, Scenario, Stays, a_pool, cold, hot
from sandbox.world.mayastor import SimPool

MAIN: Final = {"fleet": "main"}
"""The label that the storage class asks for: nothing of a tier."""
OLD: Final = {"fleet": "old"}
MAIN_NODES: Final = ("node-1", "node-2", "node-3", "node-4")


def _pools() -> Iterator[SimPool]:
    for pool in DEMO.pools:
        yield replace(pool, labels={**pool.labels, **MAIN})
    yield a_pool("pool-sata-4", "node-4", Tier.COLD, 4000, 500, rack="d", **MAIN)
    # Apart from the rest: no node or pool is closed for a moment while a volume there is not whole.
    yield a_pool("pool-old-5", "node-5", Tier.COLD, 2000, 200, rack="e", **OLD)
    yield a_pool("pool-old-6", "node-6", Tier.COLD, 2000, 200, rack="f", **OLD)


DIFFERENT: Final[Mapping[str, DemoVolume]] = {
    volume.name: volume
    for volume in (
        DemoVolume(
            "pvc-search", ("pool-sata-2",), 60, 12_500,
            hot("pool-nvme-1", why="12,500 IOPS on SATA; it has no labels to steer by, so pool-sata-1 is closed"),
            nodes=MAIN_NODES,
        ),
        DemoVolume(
            "pvc-queue", ("pool-sata-3", "pool-sata-4"), 20, 9900,
            hot("pool-nvme-1", "pool-nvme-2", why="9,900 IOPS on SATA; both of its replicas move, one after the other"),
        ),
        DemoVolume(
            "pvc-archive", ("pool-nvme-1",), 60, 22,
            cold("pool-sata-2", "pool-sata-3", "pool-sata-4", why="22 IOPS on NVMe; pool-sata-1 is on its own node"),
        ),
        DemoVolume(
            "pvc-buildcache", ("pool-nvme-2",), 45, 140,
            cold("pool-sata-1", "pool-sata-3", "pool-sata-4", why="140 IOPS on NVMe; no labels, and none needed"),
            measured=DEMO.volume("pvc-buildcache").measured, nodes=MAIN_NODES,
        ),
        DemoVolume(
            "pvc-campaign", ("pool-nvme-2",), 30, 7900,
            cold("pool-sata-1", "pool-sata-3", "pool-sata-4", why="it dies: hot at first, then 15 IOPS"),
            later=DEMO.volume("pvc-campaign").later,
        ),
        replace(
            DEMO.volume("pvc-oldwiki"),
            expected=Stays(Reason.NOT_PUBLISHED, "cold on NVMe, but not published: nobody could tell a copy's health"),
        ),
        DemoVolume(
            "pvc-inventory", ("pool-old-5", "pool-old-6"), 80, 7200,
            Stays(Reason.VOLUME_UNHEALTHY, "hot on SATA, but one of its replicas is not synced: mending comes first"),
            topology=OLD, stalled=True,
        ),
    )
}  # fmt: skip

MORE: Final = (
    DemoVolume(
        "pvc-payroll", ("pool-sata-2",), 40, 8800,
        Stays(Reason.HAS_SNAPSHOTS, "hot on SATA, but its snapshots would stay behind with the old replica"),
        snapshots=2,
    ),
)  # fmt: skip


def _as_made(volume: DemoVolume) -> DemoVolume:
    """With what its storage class asks for."""
    if volume.nodes or volume.topology == OLD:
        return volume
    return replace(volume, topology={**MAIN, **(volume.topology or {})})


REST_DEMO: Final = Scenario(
    pools=tuple(_pools()),
    volumes=tuple(_as_made(DIFFERENT.get(volume.name, volume)) for volume in (*DEMO.volumes, *MORE)),
    policies=DEMO.policies,
    # Faster than with MayastorVolumes: what steers Mayastor concerns whole nodes, so one copy is made at a time.
    rebuild_gib_per_second=40.0,
)
