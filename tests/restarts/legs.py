"""
What is moved while everything dies: thirty volumes in the wrong tier, on two clusters.

Most are plain; some have two replicas, some are cancelled in a phase of their move, and of one on each cluster every
copy fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.placement import Tier
from common.resources.migration import BackendKind, MigrationState
from sandbox.demo.scenario import POLICIES, POLICY, DemoVolume, Moves, Scenario, a_pool
from sandbox.world.storage import SimPool


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of the thirty: those on one backend."""

    backend: BackendKind
    scenario: Scenario
    kills: int
    cancelled: Mapping[str, MigrationState]
    """Volumes whose move is cancelled as soon as it enters a state."""
    outages: Mapping[str, int]
    """After how many ends each of what the services stand on breaks down."""


def moves(name: str, *pools: str, to: Tier, gib: int = 20, failing: bool = False, **more: Any) -> DemoVolume:
    hot = 9000.0 if len(pools) == 1 else 12_000.0  # those of several replicas go first, into the thick of it
    iops = hot if to is Tier.HOT else 40.0
    expected = Moves(to, frozenset(), "it is in the wrong tier")
    return DemoVolume(name, pools, gib, iops, expected, failing=failing, **more)


def crd_volumes() -> Iterator[DemoVolume]:
    for n in range(12):
        yield moves(f"pvc-hot-{n}", f"cold-{n % 4 + 1}", to=Tier.HOT, gib=15 + n)
    for n in range(5):
        yield moves(f"pvc-cold-{n}", f"hot-{n % 4 + 1}", to=Tier.COLD)
    for n in range(2):
        yield moves(f"pvc-two-{n}", f"cold-{2 * n + 1}", f"cold-{2 * n + 2}", to=Tier.HOT, gib=15)
    yield moves("pvc-failing", "cold-2", to=Tier.HOT, gib=15, failing=True)


def crd_pools() -> Iterator[SimPool]:
    for n in range(1, 5):
        yield a_pool(f"cold-{n}", f"node-{n}", Tier.COLD, 4000)
        yield a_pool(f"hot-{n}", f"node-{n + 4}", Tier.HOT, 2000)


def rest_volumes() -> Iterator[DemoVolume]:
    for n, pool in enumerate(("cold-a1", "cold-b1", "cold-a2", "cold-b2", "cold-a3", "cold-b1")):
        yield moves(f"pvc-hot-{n}", pool, to=Tier.HOT, topology={"fleet": pool[-2]})
    for n, pool in enumerate(("hot-a1", "hot-b2")):
        yield moves(f"pvc-cold-{n}", pool, to=Tier.COLD, topology={"fleet": pool[-2]})
    yield moves("pvc-two", "cold-a3", "cold-a4", to=Tier.HOT, topology={"fleet": "a"})
    yield moves("pvc-failing", "cold-b1", to=Tier.HOT, topology={"fleet": "b"}, failing=True)


def rest_pools() -> Iterator[SimPool]:
    """
    Two fleets, apart from each other: what steers a volume closes nothing of the other fleet's.

    One has pools of both tiers on a node, so that it takes more than closing nodes to leave Mayastor no choice.
    """
    for n in range(1, 5):
        yield a_pool(f"cold-a{n}", f"node-{n}", Tier.COLD, 4000, fleet="a")
    for n in (1, 2):
        yield a_pool(f"hot-a{n}", f"node-{n}", Tier.HOT, 2000, fleet="a")
        yield a_pool(f"cold-b{n}", f"node-{n + 4}", Tier.COLD, 4000, fleet="b")
        yield a_pool(f"hot-b{n}", f"node-{n + 6}", Tier.HOT, 2000, fleet="b")


SPEC: Final = {**POLICIES[POLICY], "samplingWindow": "2s", "maxConcurrentMigrations": 6}
LEGS: Final = (
    Leg(
        BackendKind.CRD,
        Scenario(tuple(crd_pools()), tuple(crd_volumes()), {POLICY: SPEC}, rebuild_gib_per_second=15.0),
        kills=11,
        cancelled={
            "pvc-hot-3": MigrationState.ANALYZING,
            "pvc-hot-6": MigrationState.WAITING_SYNC,
            "pvc-cold-2": MigrationState.SCALING_DOWN,
        },
        outages={"kube-apiserver": 2, "etcd": 5, "prometheus": 9},
    ),
    Leg(
        BackendKind.REST,
        Scenario(tuple(rest_pools()), tuple(rest_volumes()), {POLICY: SPEC}, rebuild_gib_per_second=15.0),
        kills=7,
        cancelled={"pvc-hot-2": MigrationState.WAITING_SYNC, "pvc-hot-5": MigrationState.SCALING_DOWN},
        outages={"etcd": 1, "kube-apiserver": 3},
    ),
)
