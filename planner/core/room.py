"""
Where a volume's replicas can go: pools of the wanted tier, and slots to move in.

A new replica needs a pool that is online and not cordoned, that the volume's own topology and the migrator admit, on a
node that has no replica of the volume, with space left after all promises and the head-room. Replicas of a volume are
alike, so taking the roomiest pool of each node in turn finds places for all of them whenever there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from common.placement import Move, Pool, Tier
from common.quantities import counted, format_bytes
from common.reasons import Reason
from planner.core.case import Case, Held
from planner.core.tiers import replicas_outside

_NAMED: Final = 5
"""Pools that a sentence names at most."""
NOT_ASKED = "not asked: its heat wants no other tier, or its replicas or size are not known"
_CAPS: Final = frozenset(
    {Reason.MIGRATIONS_PAUSED, Reason.POLICY_CAP, Reason.GLOBAL_CAP, Reason.POOL_CAP, Reason.NODE_CAP}
)


@dataclass(frozen=True, slots=True)
class Room:
    """What was found: the moves, or why there are none."""

    moves: tuple[Move, ...] = ()
    held: Held | None = None
    detail: str = ""


def pool_in_tier(case: Case) -> Room:
    """Find a pool for every replica that is to move, whether or not there are slots."""
    return _rooms(case, capped=False)


def slot(case: Case) -> Room:
    """Find the moves that caps allow now: of the policy, of all, of each pool (source and target), of each node."""
    view, ledger = case.view, case.view.ledger
    if case.view.backend.max_concurrent == 0 and view.backend.can_migrate:
        return Room(held=Held(Reason.MIGRATIONS_PAUSED, "the migrator's cap of concurrent migrations is 0"))
    if ledger.of_policy >= view.policy.max_concurrent:
        detail = f"{ledger.of_policy} of {view.policy.max_concurrent} migrations of policy {view.policy.name} are taken"
        return Room(held=Held(Reason.POLICY_CAP, detail))
    if ledger.total >= view.backend.max_concurrent:
        detail = f"{ledger.total} of {view.backend.max_concurrent} concurrent migrations are taken"
        return Room(held=Held(Reason.GLOBAL_CAP, detail))
    return _source_cap(case) or _rooms(case, capped=True)


def slot_free(case: Case) -> Held | None:
    """
    Refuse for want of a slot, and for nothing else.

    Where no pool can take the volume anyway, that is the check's before it to say, and is not said twice.
    """
    held = slot(case).held
    if held is None or held.reason in _CAPS or pool_in_tier(case).held is None:
        return held
    return None


def _source_cap(case: Case) -> Room | None:
    if case.placement is None or case.wants is None:
        return None
    sources = [replica.pool for replica in replicas_outside(case.placement, case.wants, case.view.tiers)]
    return next((Room(held=held) for name in sources if (held := _full(case, name)) is not None), None)


def _full(case: Case, pool: str) -> Held | None:
    """Refuse a pool, as source or target, that is touched by as many migrations as it or its node may be."""
    ledger, backend = case.view.ledger, case.view.backend
    if ledger.pools[pool] >= backend.max_per_pool:
        taken = counted(ledger.pools[pool], "migration")
        return Held(Reason.POOL_CAP, f"pool {pool} takes part in {taken}, the cap is {backend.max_per_pool}")
    for node in ledger.nodes_of((pool,)):
        if ledger.nodes[node] >= backend.max_per_node:
            taken = counted(ledger.nodes[node], "migration")
            return Held(Reason.NODE_CAP, f"node {node} takes part in {taken}, the cap is {backend.max_per_node}")
    return None


def _rooms(case: Case, *, capped: bool) -> Room:
    """Choose a pool for each replica, the roomiest first, no two on one node."""
    placement, wants, size = case.placement, case.wants, case.size_bytes
    if placement is None or wants is None or size is None:
        return Room(detail=NOT_ASKED)
    refused = _refused_pools(case)
    taken = _nodes_of_replicas(case)
    pools = set(placement.pools)
    moves: list[Move] = []
    for replica in replicas_outside(placement, wants, case.view.tiers):
        pool, full = _roomiest(case, wants, size, refused.keys() | pools, taken, capped=capped)
        if pool is None:
            return Room(held=full or _why_none(case, wants, size, refused, len(moves)))
        moves.append(Move(replica.pool, pool.name, replica.uuid))
        pools.add(pool.name)
        if pool.node is not None:
            taken.add(pool.node)
    if not moves:
        return Room(detail=f"no replica is outside tier {wants}")
    told = ", ".join(f"{move.source_pool} to {move.target_pool}" for move in moves)
    return Room(tuple(moves), detail=told)


def _roomiest(
    case: Case, tier: Tier, size: int, closed: Set[str], taken: Set[str], *, capped: bool
) -> tuple[Pool | None, Held | None]:
    """Return the pool with most space that one replica can go to; else which cap stood in the way, if one did."""
    ledger = case.view.ledger
    blocked: Held | None = None
    for pool in ledger.roomiest(tier):
        if ledger.available(pool) < size:
            break  # the rest has less still
        if pool.name in closed or pool.node in taken or not admitted(case, pool):
            continue
        full = _full(case, pool.name) if capped else None
        if full is None:
            return pool, None
        blocked = blocked or full
    return None, blocked


def admitted(case: Case, pool: Pool) -> bool:
    """Tell whether the volume's own topology admits a pool; its inclusion key `pool` means the pool's name."""
    inclusion = case.placement.pool_inclusion if case.placement is not None else None
    if not inclusion:
        return True
    return all((pool.name if key == "pool" else pool.labels.get(key)) == value for key, value in inclusion.items())


def _refused_pools(case: Case) -> Mapping[str, Held]:
    refusals = case.placement.refusals if case.placement is not None else ()
    return {item.target_pool: Held(item.reason, item.detail) for item in refusals if item.target_pool is not None}


def _nodes_of_replicas(case: Case) -> set[str]:
    """Name the nodes that hold a replica; an unknown node equals none."""
    placement = case.placement
    if placement is None:
        return set()
    nodes = {replica.node for replica in placement.replicas if replica.node is not None}
    unknown = [replica.pool for replica in placement.replicas if replica.node is None]
    return nodes | case.view.ledger.nodes_of(unknown)


def _why_none(case: Case, tier: Tier, size: int, refused: Mapping[str, Held], found: int) -> Held:
    """Say at which step the last pool fell out."""
    ledger, tiers = case.view.ledger, case.view.tiers
    total = sum(1 for of in tiers.values() if of is tier)
    if total == 0:
        return Held(Reason.NO_POOL_IN_TIER, _why_empty(case, tier))
    online = ledger.roomiest(tier)
    if not online:
        return Held(Reason.NO_POOL_ONLINE, f"none of {counted(total, f'{tier} pool')} is online and uncordoned")
    left = [pool for pool in online if admitted(case, pool)]
    if not left:
        inclusion = (case.placement.pool_inclusion if case.placement else None) or {}
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(inclusion.items()))
        return Held(
            Reason.NO_POOL_IN_TOPOLOGY,
            f"the volume's topology ({wanted}) admits none of {counted(len(online), f'{tier} pool')}",
        )
    nodes = _nodes_of_replicas(case)
    pools = case.placement.pools if case.placement is not None else frozenset()
    beside = [pool for pool in left if pool.node in nodes or pool.name in pools]
    left = [pool for pool in left if pool not in beside]
    if not left:
        told = sorted({refused[pool.name].reason for pool in beside if pool.name in refused})
        says = f"; the migrator would refuse: {', '.join(told)}" if told else ""
        return Held(
            Reason.NO_POOL_ON_OTHER_NODE,
            f"every admissible {tier} pool is on a node that has a replica of it ({', '.join(sorted(nodes))}){says}",
        )
    open_to_it = [pool for pool in left if pool.name not in refused]
    if not open_to_it:
        return refused[left[0].name]
    fitting = [pool for pool in open_to_it if ledger.available(pool) >= size]
    if fitting:
        return Held(
            Reason.NO_POOL_ON_OTHER_NODE,
            f"its replicas need {case.replicas_to_move} {tier} pools on nodes of their own, there are {found}",
        )
    return _no_space(case, open_to_it, tier, size)


def _why_empty(case: Case, tier: Tier) -> str:
    """Say why a tier has no pool at all: there is none, none matches, or those that do match the other tier as well."""
    placements, selector = case.view.world.placements, case.policy.pools(tier)
    if placements is None or not placements.pools:
        return "the migrator has told of no pool"
    shared = sorted(pool.name for pool in placements.pools.values() if selector.admits(pool.labels))
    if not shared:
        known = counted(len(placements.pools), "pool")
        return f"none of {known} matches the {tier} tier's selector ({selector})"
    return f"the selectors of both tiers match {', '.join(shared[:_NAMED])}, which are thereby of neither"


def _no_space(case: Case, pools: list[Pool], tier: Tier, size: int) -> Held:
    """Tell a tier that is being emptied from one that has no space for this volume."""
    ledger = case.view.ledger
    free = format_bytes(max(0, ledger.available(pools[0])))
    roomiest = f"the roomiest {tier} pool, {pools[0].name}, has {free} after promises and head-room"
    detail = f"needs {format_bytes(size)}; {roomiest}"
    if any(ledger.available(pool) + ledger.leaving[pool.name] >= size for pool in pools):
        return Held(Reason.TIER_FULL, f"{detail}; moves under way or planned make room")
    return Held(Reason.NO_POOL_WITH_SPACE, detail)


def could_hold(case: Case) -> bool:
    """Tell whether some pool of the wanted tier could take the volume, were it emptied."""
    size = case.size_bytes
    if case.wants is None or size is None:
        return False
    ledger = case.view.ledger
    return any(ledger.usable(pool) >= size and admitted(case, pool) for pool in ledger.roomiest(case.wants))
