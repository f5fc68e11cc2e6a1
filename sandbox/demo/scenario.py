"""
The demo's cluster, and what ought to become of each of its volumes.

Everything here is written by hand. What a volume is expected to do, and why, is what a storage administrator would say
on looking at it; no code of the planner had a part in it. The demo fails if the services disagree with this page.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from common.placement import Tier
from common.reasons import Reason
from sandbox.world.mayastor import Copy, SimPool, SimReplica, SimVolume
from sandbox.world.workloads import Measured, Noise, Workload

GIB: Final = 2**30
SEED: Final = 20_260_202
CLASS: Final = "mayastor"
POLICY: Final = "database-tiering"
HIGH: Final = 5000
LOW: Final = 500
NODES: Final = ("node-1", "node-2", "node-3")


@dataclass(frozen=True, slots=True)
class Stays:
    """A volume that is to stay where it is."""

    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Moves:
    """A volume that is to move."""

    to: Tier
    pools: frozenset[str]
    """Where it can go: pools of the tier on a node that does not hold it already."""
    why: str


@dataclass(frozen=True, slots=True)
class RollsBack:
    """A volume whose move is to fail, to leave nothing behind, and not to be tried again at once."""

    end: Reason
    """Why the migration is aborted."""
    reason: Reason
    """Why the volume stays after that."""
    why: str


@dataclass(frozen=True, slots=True)
class DemoVolume:
    """One volume of the demo: what it is, what happens to it, and what is to become of it."""

    name: str
    pools: tuple[str, ...]
    size_gib: int
    iops: float
    expected: Stays | Moves | RollsBack
    later: tuple[float, float] | None = None
    """(seconds into the story, I/O operations a second from then on)."""
    measured: Measured = Measured.GAUGE
    exact: bool = False
    """Without noise, for a score that is a watermark to the last digit."""
    attached: bool = True
    moved_ago: timedelta | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    topology: Mapping[str, str] | None = None
    """The labels that a pool of it must have."""
    nodes: tuple[str, ...] = ()
    """The only nodes that may have it; empty: any. Of the REST API alone."""
    snapshots: int = 0
    """Of the REST API alone."""
    storage_class: str = CLASS
    stalled: bool = False
    """Its last replica is not complete, and its rebuild does not go on."""
    failing: bool = False
    """Every rebuild of it fails half-way."""

    @property
    def handle(self) -> str:
        """The CSI volumeHandle."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.demo"))

    @property
    def node(self) -> str:
        """Where its pod runs: on one of the nodes, and not by its replicas' place."""
        return NODES[uuid.UUID(self.handle).int % len(NODES)]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A cluster, its policies, and its volumes."""

    pools: tuple[SimPool, ...]
    volumes: tuple[DemoVolume, ...]
    policies: Mapping[str, Mapping[str, Any]]
    """StoragePolicy specs by name."""
    rebuild_gib_per_second: float = 15.0

    @property
    def expected_moves(self) -> dict[str, Moves]:
        return {v.name: v.expected for v in self.volumes if isinstance(v.expected, Moves)}

    @property
    def used_without_metrics(self) -> frozenset[str]:
        """Volumes that nobody may take for cold."""
        return frozenset(v.name for v in self.volumes if v.attached and v.measured is Measured.NOTHING)

    def volume(self, name: str) -> DemoVolume:
        """Find one by its name. Raises StopIteration."""
        return next(volume for volume in self.volumes if volume.name == name)

    def tier_of(self, pool: str) -> Tier:
        return next(Tier(p.labels["tier"]) for p in self.pools if p.name == pool)


def a_pool(name: str, node: str, tier: Tier, capacity_gib: int, used_gib: int = 0, **labels: str) -> SimPool:
    return SimPool(name, node, capacity_gib * GIB, labels={"tier": tier.value, **labels}, reserved_bytes=used_gib * GIB)


POOLS: Final = (
    a_pool("pool-nvme-1", "node-1", Tier.HOT, 500, 120, rack="a"),
    a_pool("pool-nvme-2", "node-2", Tier.HOT, 500, 100, rack="b"),
    a_pool("pool-sata-1", "node-1", Tier.COLD, 4000, 600, rack="a"),
    a_pool("pool-sata-2", "node-2", Tier.COLD, 4000, 500, rack="b"),
    a_pool("pool-sata-3", "node-3", Tier.COLD, 4000, 400, rack="c"),
)

POLICIES: Final[Mapping[str, Mapping[str, Any]]] = {
    POLICY: {
        "highWatermarkIOPS": HIGH,
        "lowWatermarkIOPS": LOW,
        "storageClassName": CLASS,
        "samplingWindow": "3s",
        "cooldownPeriod": "1h",
        "maxConcurrentMigrations": 4,
        "migrationTimeout": "5m",
    }
}


def hot(*pools: str, why: str) -> Moves:
    return Moves(Tier.HOT, frozenset(pools), why)


def cold(*pools: str, why: str) -> Moves:
    return Moves(Tier.COLD, frozenset(pools), why)


VOLUMES: Final = (
    # Hot, and on slow disks.
    DemoVolume(
        "pvc-orders", ("pool-sata-3",), 45, 9200,
        hot("pool-nvme-1", "pool-nvme-2", why="9,200 IOPS on SATA; node-3 has none of the NVMe pools, so both will do"),
    ),
    DemoVolume(
        "pvc-sessions", ("pool-sata-1",), 30, 7400,
        hot("pool-nvme-2", why="7,400 IOPS on SATA, by counters; pool-nvme-1 is on the node that holds it already"),
        measured=Measured.COUNTERS,
    ),
    DemoVolume(
        "pvc-search", ("pool-sata-2",), 60, 12_500,
        hot("pool-nvme-1", why="12,500 IOPS on SATA; pool-nvme-2 is on the node that holds it already"),
    ),
    DemoVolume(
        "pvc-flashsale", ("pool-sata-3",), 30, 60,
        hot("pool-nvme-1", "pool-nvme-2", why="it wakes: asleep at first and rightly on SATA, then 8,600 IOPS"),
        later=(4.0, 8600),
    ),
    DemoVolume(
        "pvc-invoices", ("pool-sata-1",), 30, 6900,
        RollsBack(
            Reason.REBUILD_FAILED, Reason.BACKING_OFF,
            "hot on SATA, but its copy fails half-way: all is put back, and it is not tried again at once",
        ),
        failing=True,
    ),
    # Cold, and on fast disks.
    DemoVolume(
        "pvc-archive", ("pool-nvme-1",), 60, 22,
        cold("pool-sata-2", "pool-sata-3", why="22 IOPS on NVMe; pool-sata-1 is on the node that holds it already"),
    ),
    DemoVolume(
        "pvc-buildcache", ("pool-nvme-2",), 45, 140,
        cold("pool-sata-1", "pool-sata-3", why="140 IOPS on NVMe, by counters; pool-sata-2 is on its own node"),
        measured=Measured.COUNTERS,
    ),
    DemoVolume(
        "pvc-oldwiki", ("pool-nvme-1",), 30, 0,
        cold("pool-sata-2", "pool-sata-3", why="no samples, and no node has it attached: nobody uses it"),
        measured=Measured.NOTHING, attached=False,
    ),
    DemoVolume(
        "pvc-campaign", ("pool-nvme-2",), 30, 7900,
        cold("pool-sata-1", "pool-sata-3", why="it dies: hot at first and rightly on NVMe, then 15 IOPS"),
        later=(3.0, 15),
    ),
    # Where they belong.
    DemoVolume(
        "pvc-billing", ("pool-nvme-1",), 40, 8100, Stays(Reason.ALREADY_IN_TIER, "hot, and on NVMe"),
    ),
    DemoVolume(
        "pvc-backups", ("pool-sata-3",), 500, 8,
        Stays(Reason.ALREADY_IN_TIER, "cold, and on SATA"), measured=Measured.COUNTERS,
    ),
    # Neither hot nor cold.
    DemoVolume(
        "pvc-mail", ("pool-sata-1",), 120, 1500,
        Stays(Reason.BETWEEN_WATERMARKS, "1,500 IOPS is between 500 and 5,000"),
    ),
    DemoVolume(
        "pvc-crm", ("pool-nvme-1",), 50, 3100,
        Stays(Reason.BETWEEN_WATERMARKS, "3,100 IOPS is between 500 and 5,000, by counters"),
        measured=Measured.COUNTERS,
    ),
    DemoVolume(
        "pvc-ledger", ("pool-nvme-2",), 30, LOW,
        Stays(Reason.BETWEEN_WATERMARKS, "exactly the low watermark is not below it"), exact=True,
    ),
    DemoVolume(
        "pvc-telemetry", ("pool-sata-2",), 200, HIGH,
        Stays(Reason.BETWEEN_WATERMARKS, "exactly the high watermark is not above it"), exact=True,
    ),
    # Moved not long ago.
    DemoVolume(
        "pvc-reports", ("pool-nvme-2",), 40, 110,
        Stays(Reason.COOLING_DOWN, "cold on NVMe, but moved 10 minutes ago and the cooldown is an hour"),
        moved_ago=timedelta(minutes=10),
    ),
    DemoVolume(
        "pvc-catalog", ("pool-sata-1",), 35, 9000,
        Stays(Reason.COOLING_DOWN, "hot on SATA, but moved 25 minutes ago and the cooldown is an hour"),
        moved_ago=timedelta(minutes=25),
    ),
    # No place to go.
    DemoVolume(
        "pvc-datalake", ("pool-sata-3",), 900, 15_000,
        Stays(Reason.NO_POOL_WITH_SPACE, "hot on SATA, but 900 GiB is more than either NVMe pool holds in all"),
    ),
    DemoVolume(
        "pvc-exports", ("pool-sata-1",), 40, 6400,
        Stays(Reason.NO_POOL_IN_TOPOLOGY, "hot on SATA, but its own topology admits cold pools only"),
        topology={"tier": "cold"},
    ),
    DemoVolume(
        "pvc-sensors", ("pool-sata-2",), 25, 7700,
        Stays(Reason.NO_POOL_ON_OTHER_NODE, "hot on SATA, but bound to rack b, whose NVMe pool is on its own node"),
        topology={"rack": "b"},
    ),
    # Not to be touched.
    DemoVolume(
        "pvc-inventory", ("pool-sata-2", "pool-sata-1"), 80, 7200,
        Stays(Reason.VOLUME_UNHEALTHY, "hot on SATA, but one of its two replicas is not synced: mending comes first"),
        stalled=True,
    ),
    DemoVolume(
        "pvc-queue", ("pool-nvme-1", "pool-sata-3"), 60, 9900,
        Stays(
            Reason.MULTI_REPLICA_NOT_STEERABLE,
            "hot, and one of its two replicas is on SATA: both pools share no label that pool-nvme-2 has not",
        ),
    ),
    DemoVolume(
        "pvc-audit", ("pool-nvme-1",), 30, 40,
        Stays(Reason.NO_DATA_ATTACHED, "in use and without metrics: its exporter fails, and unknown is not cold"),
        measured=Measured.NOTHING,
    ),
    DemoVolume(
        "pvc-vault", ("pool-nvme-2",), 20, 12,
        Stays(Reason.PINNED, "cold on NVMe, but a person pinned it there"),
        annotations={"storage.billyronks.io/pin": "hot"},
    ),
    DemoVolume(
        "pvc-licences", ("pool-nvme-1",), 20, 30,
        Stays(Reason.PARKED, "cold on NVMe, but a migration of it failed once and a person has yet to look"),
        annotations={"storage.billyronks.io/parked": "ReplicaLeft"},
    ),
    DemoVolume(
        "pvc-scratch", ("pool-sata-3",), 50, 9000,
        Stays(Reason.NOT_WATCHED, "hot on SATA, but of a storage class that no policy watches"),
        storage_class="mayastor-manual",
    ),
)  # fmt: skip

DEMO: Final = Scenario(POOLS, VOLUMES, POLICIES)


def sim_volume(volume: DemoVolume) -> SimVolume:
    """The volume as the model of Mayastor has it."""
    size = volume.size_gib * GIB
    replicas = tuple(
        SimReplica(
            uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{pool}.{volume.name}")),
            pool=pool,
            copy=Copy.PARTIAL if volume.stalled and pool == volume.pools[-1] else Copy.COMPLETE,
            since=0.0,
            copied_bytes=0.3 * size if volume.stalled and pool == volume.pools[-1] else float(size),
        )
        for pool in volume.pools
    )
    return SimVolume(
        name=volume.name,
        size_bytes=size,
        replica_count=len(volume.pools),
        inclusion=volume.topology,
        target_node=volume.node if volume.attached else None,
        replicas=replicas,
        allowed_nodes=frozenset(volume.nodes) or None,
        # Else the control plane puts another copy in the place of a failed one, and who is first would be chance.
        self_heal=not volume.failing,
    )


def workload(volume: DemoVolume) -> Workload:
    """What its application does."""
    levels = ((0.0, volume.iops), *([volume.later] if volume.later else []))
    noise = Noise.seeded(SEED, volume.name, amplitude=0.0 if volume.exact else 0.01)
    return Workload(volume.name, levels, volume.measured, noise, read_share=0.7)
