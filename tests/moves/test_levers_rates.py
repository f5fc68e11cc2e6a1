"""
How many moves of one-replica volumes each version allows, among those for which a working set of levers exists.

What a version could be steered to do is found by brute force in the model of that very version, as if it were known; a
control plane whose io-engines tell their version loses nothing against that. One that tells nothing is treated as if it
could be of any age, and keeps the moves that are right in all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest

from common.placement import Move, Refusal
from migrator.core.steering.feasibility import TARGET_CHECKS, Way, plan_moves, refusals_of_volume
from sandbox.world.choosing import Ties, first_to_go
from sandbox.world.versions import MayastorVersion, removal_order
from tests.moves.levers_model import (
    OURS,
    VERSIONS,
    VOLUME,
    Scene,
    all_levers,
    grown,
    pulled,
    seen,
    some_set_adds,
    somebody_closed,
    subsets,
)
from tests.moves.levers_scenes import Bytes, scene

MOVES = 300


@dataclass
class Tally:
    """Of the moves that nothing speaks against but steering."""

    asked: int = 0
    working: int = 0
    allowed: int = 0


def wished(rng: Random, version: MayastorVersion, *, told: bool) -> Scene:
    """A random one-replica move in a cluster of a version."""
    found = scene(Bytes([rng.randrange(256) for _ in range(240)]), count=1)
    state = found.state
    if not version.traits.pool_cordon:
        state = replace(state, pools={name: replace(pool, cordoned=False) for name, pool in state.pools.items()})
    return replace(found, state=state, version=version, engine_told=told)


def steerable(wish: Scene) -> bool:
    """Whether brute force finds levers for both ways, knowing the version."""
    if not some_set_adds(wish):
        return False
    then = grown(wish)
    if any(somebody_closed(then, replica.pool) for replica in then.volume.replicas if replica.uuid != wish.source):
        return False
    last = (*(replica.uuid for replica in then.volume.replicas if replica.uuid != wish.source), wish.source)
    state, order = replace(then.state, registry=last), removal_order(wish.version)
    for levers in subsets(all_levers(then, [replica.pool for replica in then.volume.replicas])):
        after = pulled(state, levers)
        if first_to_go(after, after.volumes[VOLUME], Random(0), order, Ties.REGISTRY).uuid == wish.source:
            return True
    return False


def tally(version: MayastorVersion, *, told: bool) -> Tally:
    rng, count = Random(f"{version}"), Tally()
    while count.asked < MOVES:
        wish = wished(rng, version, told=told)
        cluster = seen(wish.state)
        volume = cluster.volumes[VOLUME]
        way = Way(cluster, volume, volume.replicas[0], cluster.pools[wish.target])
        if refusals_of_volume(cluster, volume) or any(check.refuse(way) for check in TARGET_CHECKS):
            continue
        moves = [Move(volume.replicas[0].pool, wish.target)]
        allowed = not isinstance(plan_moves(cluster, volume, moves, wish.abilities, mark=OURS), Refusal)
        works = steerable(wish)
        assert works or not allowed, wish
        count.asked += 1
        count.working += works
        count.allowed += allowed
    return count


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_that_is_known_allows_every_move_that_can_be_steered(version: MayastorVersion) -> None:
    count = tally(version, told=True)
    assert count.working > 0
    assert count.allowed == count.working, count


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_that_is_not_known_allows_what_is_right_in_all(version: MayastorVersion) -> None:
    told, untold = tally(version, told=True).allowed, tally(version, told=False).allowed
    # The oldest has nothing to tell, and the newest tells it by the calls that it knows.
    loses_nothing = version in {MayastorVersion.LATE_2024, MayastorVersion.OPENEBS_4_4}
    assert untold == told if loses_nothing else 0 < untold < told
