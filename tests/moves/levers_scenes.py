"""
Random clusters with a move that is wished for: small enough to try everything on, odd enough to find what was not
thought of.

A scene is read off a string of bytes, zero being the plainest choice, so that thousands are made in a moment and a
failing one shrinks to a plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hypothesis import strategies as st

from sandbox.world.storage import Copy, SimPool, SimReplica, SimVolume, State
from tests.moves.levers_model import VERSIONS, VOLUME, Scene

T = TypeVar("T")
GIB = 2**30
SIZE = 10 * GIB
ROOM, FULL = 0, 95 * GIB
INCLUSIONS: tuple[dict[str, str] | None, ...] = (
    None,
    {"tier": "hot"},
    None,
    {"tier": "hot", "zone": "a"},
    {"tier": ""},
    {"tier": "hot"},
    {"openebs.io/kind": ""},
    {"zone": "", "tier": "hot"},
)
VALUES: dict[str, tuple[str | None, ...]] = {
    "tier": ("hot", None, "cold", "hot"),
    "zone": (None, "a", "b", "a"),
    "openebs.io/kind": (None, None, None, "x"),
}


@dataclass
class Bytes:
    """Choices, one a byte; when there are no more, the plainest."""

    left: list[int]

    def choose(self, options: Sequence[T]) -> T:
        byte = self.left.pop() if self.left else 0
        return options[byte % len(options)]

    def one_in(self, many: int) -> bool:
        return self.choose(range(many)) == many - 1

    def between(self, low: int, high: int) -> int:
        return self.choose(range(low, high + 1))


def scenes() -> st.SearchStrategy[Scene]:
    return st.binary(min_size=40, max_size=240).map(lambda text: scene(Bytes(list(reversed(text)))))


def scene(draw: Bytes, count: int | None = None) -> Scene:
    """Read a scene off a source of choices; `count`: how many replicas the volume is to have."""
    version = draw.choose(VERSIONS)
    pools = _pools(draw, cordons=version.traits.pool_cordon)
    nodes = sorted({pool.node for pool in pools.values()})
    volume = _volume(draw, pools, nodes, draw.choose((1, 1, 1, 2, 2, 3)) if count is None else count)
    target = _target(draw, pools, volume)
    pools = _fitting(draw, pools, volume, target)
    others = {name: _neighbour(draw, name, pools, volume) for name in ("v1", "v2", "v3", "v4")[: draw.between(0, 4)]}
    held = {pools[replica.pool].node for replica in volume.replicas}
    state = State(
        pools,
        {VOLUME: volume, **others},
        lost_nodes=frozenset(node for node in nodes if node not in held and draw.one_in(12)),
        cordoned_nodes=frozenset(node for node in nodes if draw.one_in(10)),
        node_labels={node: {"rack": draw.choose(("r1", "r1", "r2"))} for node in nodes},
    )
    source = draw.choose(volume.replicas).uuid
    return Scene(state, version, engine_told=not draw.one_in(4), source=source, target=target)


def _pools(draw: Bytes, *, cordons: bool) -> dict[str, SimPool]:
    pools: dict[str, SimPool] = {}
    for node in range(1, draw.between(2, 6) + 1):
        for letter in "abc"[: draw.between(1, 3)]:
            name = f"pool-{node}{letter}"
            chosen = {key: draw.choose(values) for key, values in VALUES.items()}
            pools[name] = SimPool(
                name,
                f"node-{node}",
                100 * GIB,
                {key: value for key, value in chosen.items() if value is not None},
                reserved_bytes=draw.choose((ROOM, ROOM, ROOM, ROOM, ROOM, FULL)),
                online=not draw.one_in(14),
                cordoned=cordons and draw.one_in(12),
                name_is_label=False,
            )
    return pools


def _volume(draw: Bytes, pools: dict[str, SimPool], nodes: list[str], count: int) -> SimVolume:
    taken: list[SimReplica] = []
    free = list(nodes)
    for number in range(min(count, len(nodes))):
        node = draw.choose(free)
        free.remove(node)
        pool = draw.choose([pool for pool in pools.values() if pool.node == node])
        copy = Copy.PARTIAL if draw.one_in(40) else Copy.COMPLETE
        taken.append(SimReplica(f"r{number + 1}", pool.name, copy, 0.0, float(SIZE)))
    allowed = frozenset(node for node in nodes if not draw.one_in(4)) if draw.one_in(10) else None
    return SimVolume(
        VOLUME,
        SIZE,
        len(taken),
        inclusion=draw.choose(INCLUSIONS),
        target_node=None if draw.one_in(20) else draw.choose(nodes),
        replicas=tuple(taken),
        allowed_nodes=allowed,
        node_inclusion={"rack": "r1"} if draw.one_in(10) else None,
        affinity_group="group" if draw.one_in(5) else None,
        thin=draw.one_in(8),
    )


def _target(draw: Bytes, pools: dict[str, SimPool], volume: SimVolume) -> str:
    held = {pools[replica.pool].node for replica in volume.replicas}
    elsewhere = [name for name, pool in pools.items() if pool.node not in held]
    return draw.choose(elsewhere if elsewhere and not draw.one_in(16) else list(pools))


def _fitting(draw: Bytes, pools: dict[str, SimPool], volume: SimVolume, target: str) -> dict[str, SimPool]:
    """Let the volume's pools and the target be in its topology and in use, mostly."""
    fitted = dict(pools)
    for name in dict.fromkeys((*(replica.pool for replica in volume.replicas), target)):
        pool = fitted[name] if name == target and draw.one_in(16) else replace(fitted[name], online=True)
        if not draw.one_in(8):
            wanted = {key: value or "x" for key, value in (volume.inclusion or {}).items()}
            pool = replace(pool, labels={**pool.labels, **wanted})
        if name == target and not draw.one_in(8):
            pool = replace(pool, reserved_bytes=ROOM)
        fitted[name] = pool
    return fitted


def _neighbour(draw: Bytes, name: str, pools: dict[str, SimPool], volume: SimVolume) -> SimVolume:
    replicas: list[SimReplica] = []
    for number in range(draw.between(1, 2)):
        pool = draw.choose(list(pools))
        copy = Copy.PARTIAL if draw.one_in(8) else Copy.COMPLETE
        replicas.append(SimReplica(f"{name}-{number}", pool, copy, 0.0))
    return SimVolume(
        name,
        GIB,
        len(replicas),
        inclusion=draw.choose(INCLUSIONS),
        target_node=None if draw.one_in(4) else "node-1",
        replicas=tuple(replicas),
        affinity_group="group" if draw.choose((True, False)) else None,
        thin=True,
    )
