"""
Steering by labels: one inclusion in the volume's topology says which replicas may stay.

Mayastor adds a replica only to a pool whose labels match the inclusion, and when one has to go, takes first one whose
pool does not match. So an inclusion that every replica to stay matches, and no replica to go, leaves Mayastor no wrong
choice. Every pool answers to the key `pool` with its own name, besides the labels it carries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, Final

from common.placement import Pool
from migrator.core.model import ABSENT, canonical

POOL_KEY: Final = "pool"
_PATH: Final = ("pool", "labelled", "inclusion")


def labels_of(pool: Pool) -> dict[str, str]:
    """Tell what an inclusion is compared with."""
    return {**pool.labels, POOL_KEY: pool.name}


def admits(inclusion: Mapping[str, str] | None, pool: Pool) -> bool:
    """Tell whether a replica may be on that pool; no inclusion admits all."""
    labels = labels_of(pool)
    return all(labels.get(key) == value for key, value in (inclusion or {}).items())


def inclusion_of(topology: str) -> dict[str, str] | None:
    """
    Read the inclusion out of a topology's canonical text; None where there is none.

    Raises ValueError if what is there is not a map of texts: nobody can tell what Mayastor makes of that.
    """
    node: Any = json.loads(topology)
    for key in _PATH:
        if node is None:
            return None
        if not isinstance(node, dict):
            raise ValueError(f"spec.topology: {key} is not in a map")  # noqa: TRY004
        node = node.get(key)
    if node is None:
        return None
    if not isinstance(node, dict) or not all(isinstance(value, str) for value in node.values()):
        raise ValueError("spec.topology.pool.labelled.inclusion is not a map of texts")
    return node


def with_inclusion(topology: str, inclusion: Mapping[str, str]) -> str:
    """Return the topology with this inclusion in the place of its own, and everything else as it was."""
    whole: Any = json.loads(topology)
    root: dict[str, Any] = dict(whole) if isinstance(whole, dict) else {}
    node = root
    for key in _PATH[:-1]:
        below = node.get(key)
        node[key] = dict(below) if isinstance(below, dict) else {}
        node = node[key]
    node[_PATH[-1]] = dict(inclusion)
    return canonical(root)


def separating(stay: Iterable[Pool], go: Iterable[Pool]) -> dict[str, str] | None:
    """
    Find an inclusion that all pools of `stay` match and none of `go`; None if no labels do it.

    One pool is named by itself. Of several, the smallest set of common labels that will do, in alphabetical order, so
    that the same question always has the same answer.
    """
    staying, going = list(stay), list(go)
    if not staying:
        return None
    if len({pool.name for pool in staying}) == 1:
        name = staying[0].name
        return None if any(pool.name == name for pool in going) else {POOL_KEY: name}
    common = set(labels_of(staying[0]).items())
    for pool in staying[1:]:
        common &= set(labels_of(pool).items())
    pairs = sorted(common)
    if not pairs or any(admits(dict(pairs), pool) for pool in going):
        return None  # not even all common labels together keep the others out
    for size in (1, 2):
        for chosen in combinations(pairs, size):
            if not any(admits(dict(chosen), pool) for pool in going):
                return dict(chosen)
    return dict(pairs)


def separates(topology: str, stay: Iterable[Pool], go: Iterable[Pool]) -> bool:
    """Tell whether a volume's topology, as it is now, leaves exactly `stay`."""
    if topology == ABSENT:
        return False
    try:
        inclusion = inclusion_of(topology)
    except ValueError:
        return False
    return (
        inclusion is not None
        and all(admits(inclusion, pool) for pool in stay)
        and not any(admits(inclusion, pool) for pool in go)
    )
