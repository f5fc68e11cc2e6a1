"""
What a seed stands for: the cluster, the settings of the processes, the weather.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from sandbox.world.choosing import Ties
from sandbox.world.mayastor import Copy, Settings, SimPool, SimReplica, SimVolume
from sandbox.world.versions import MayastorVersion
from tests.simulation.facts import Rules
from tests.simulation.faults import WEATHERS, Weather
from tests.simulation.rest_world import NODES, Mayastor

GIB: Final = 2**30
HELD_SHARE: Final = 0.4
"""For so much of their time levers stay pulled after a call was sent, at the least."""
MIXED: Final = 0.4
"""Share of clusters in which a node has pools of both kinds."""


class BackendName(StrEnum):
    """How Mayastor is spoken to in a schedule."""

    CRD = "crd"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    timeout: float
    poll: float
    lease: float
    renew: float
    retry: float
    admission: float
    reconcile: float
    cooldown: float
    horizon: float
    """For how long things go wrong, at least."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is settled before a schedule begins."""

    seed: int
    backend: BackendName
    weather: Weather
    rules: Rules
    timing: Timing
    storage: Settings
    pods: tuple[str, ...]
    policy_cap: int
    mayastor: Mayastor
    operation_seconds: float
    lever_seconds: float
    pools: tuple[SimPool, ...]
    volumes: tuple[SimVolume, ...]

    @property
    def tiers(self) -> Mapping[str, str]:
        """The tier of each pool."""
        return {pool.name: pool.labels["tier"] for pool in self.pools}


def backend_of(seed: int) -> BackendName:
    """Every other seed is the other backend's, so that a campaign has as many of each."""
    return BackendName.CRD if seed % 2 == 0 else BackendName.REST


def draw(seed: int, backend: BackendName | None = None) -> Plan:
    """Draw everything from the seed."""
    rng = Random(f"plan {seed}")
    chosen = backend or backend_of(seed)
    lease = rng.choice((6.0, 9.0))
    timing = Timing(
        timeout=rng.choice((60.0, 120.0, 240.0)),
        poll=rng.choice((2.0, 5.0)),
        lease=lease,
        renew=round(lease * rng.choice((0.6, 0.7, 0.8)), 1),
        retry=round(lease / 4, 1),
        admission=rng.choice((2.0, 5.0)),
        reconcile=rng.choice((20.0, 40.0)),
        cooldown=rng.choice((60.0, 150.0, 600.0)),
        horizon=rng.choice((25.0, 40.0, 60.0)),
    )
    mayastor = Mayastor(
        version=rng.choice((*MayastorVersion, MayastorVersion.OPENEBS_4_3, MayastorVersion.OPENEBS_4_4)),
        cache_seconds=rng.choice((4.0, 4.0, 6.0)),
        pool_cordon_counts=rng.random() < 0.5,
        away_seconds=rng.choice((20.0, 600.0)),
        ties=rng.choice((Ties.CHANCE, Ties.REGISTRY)),
    )
    lever = rng.choice((8.0, 10.0))
    rules = Rules(
        total=rng.choice((2, 2, 3, 5)),
        per_pool=rng.choice((1, 2, 3)),
        per_node=rng.choice((1, 2, 3)),
        read_gap=mayastor.cache_seconds if chosen is BackendName.REST else 1.0,
        decided_within=HELD_SHARE * lever if chosen is BackendName.REST else float("inf"),
        preservation=rng.random() < 0.04,
    )
    storage = Settings(
        rebuild_bytes_per_second=rng.choice((0.5, 1.0, 4.0)) * GIB,
        create_seconds=rng.choice((0.1, 0.5, 2.0)),
        heal_after_seconds=rng.choice((None, None, None, 30.0)),
        rebuild_unpublished=rng.random() < 0.7,
    )
    # Each version can be steered by something else, and a schedule is to have moves.
    version = mayastor.version if chosen is BackendName.REST else None
    by_labels = version is MayastorVersion.EARLY_2025
    pools = _pools(rng, of_one_site=by_labels)
    return Plan(
        seed=seed,
        backend=chosen,
        weather=rng.choice(WEATHERS),
        rules=rules,
        timing=timing,
        storage=storage,
        pods=(
            *(f"migrator-{index}" for index in range(rng.choice((2, 2, 3) if chosen is BackendName.CRD else (2,)))),
            *(f"planner-{index}" for index in range(rng.choice((1, 1, 2)))),
        ),
        policy_cap=rng.choice((1, 2, 4)),
        mayastor=mayastor,
        operation_seconds=rng.choice((4.0, 6.0)),
        lever_seconds=lever,
        pools=pools,
        volumes=_volumes(rng, pools, single=version is MayastorVersion.LATE_2024, bound=0.8 if by_labels else 0.3),
    )


def _pools(rng: Random, *, of_one_site: bool) -> tuple[SimPool, ...]:
    """Three fast pools, four others; a node may have both kinds, but most have one."""
    made = []
    nodes = rng.sample(NODES, 7)
    homes = {"hot": nodes[:3], "cold": nodes[3:]}
    if rng.random() < MIXED:
        homes["cold"][0] = homes["hot"][0]
    for tier in ("hot", "cold"):
        for index, node in enumerate(homes[tier], start=1):
            made.append(
                SimPool(
                    name=f"{tier}-{index}",
                    node=node,
                    capacity_bytes=rng.choice((200, 500)) * GIB,
                    labels={"tier": tier, "site": "a" if of_one_site else rng.choice(("a", "a", "a", "b"))},
                )
            )
    return tuple(made)


def _volumes(rng: Random, pools: tuple[SimPool, ...], *, single: bool, bound: float) -> tuple[SimVolume, ...]:
    """Eight or nine volumes, most of one replica; `bound` is the share of those whose topology names a site."""
    made = []
    for _ in range(rng.choice((8, 8, 9))):
        count = rng.choice((1,) if single else (1, 1, 1, 1, 1, 1, 2, 2, 3))
        tier = rng.choice(("hot", "cold", "cold"))
        homes: list[SimPool] = []
        for pool in rng.sample(pools, len(pools)):
            fits = pool.labels["tier"] == tier and pool.node not in {home.node for home in homes}
            if fits and len(homes) < count:
                homes.append(pool)
        made.append(_volume(rng, tuple(homes), bound))
    return tuple(made)


def _volume(rng: Random, homes: tuple[SimPool, ...], share: float) -> SimVolume:
    identity = uuid.UUID(int=rng.getrandbits(128), version=4)
    size = rng.choice((1, 4, 10, 20)) * GIB
    replicas = tuple(
        SimReplica(
            uuid=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            pool=home.name,
            copy=Copy.COMPLETE,
            since=0.0,
            copied_bytes=float(size),
        )
        for home in homes
    )
    sites = {home.labels["site"] for home in homes}
    bound = len(sites) == 1 and rng.random() < share
    return SimVolume(
        name=f"pvc-{identity}",
        size_bytes=size,
        replica_count=len(homes),
        inclusion={"site": next(iter(sites))} if bound else None,
        target_node=rng.choice(NODES) if rng.random() < 0.9 else None,
        replicas=replicas,
    )
