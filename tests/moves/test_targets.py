"""Where a volume's replicas go that a person wants in a tier: all that are outside, in an order that can be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.placement import Move, Pool, Refusal, Replica, ReplicaHealth
from common.reasons import Reason
from migrator.core.refusals import Subject
from migrator.core.targets import MAX_TRIES, choose_moves

GIB = 2**30
Refuse = Callable[[Sequence[Move]], Refusal | None]


def a_pool(name: str, tier: str = "hot", free: int = 100) -> Pool:
    return Pool(name, f"node-of-{name}", {"tier": tier}, online=True, capacity_bytes=free * GIB)


def a_volume(*pools: str) -> Subject:
    replicas = tuple(Replica(pool, ReplicaHealth.SYNCED, uuid=f"on-{pool}") for pool in pools)
    return Subject("pvc", len(pools), replicas, size_bytes=10 * GIB)


def anything(_moves: Sequence[Move]) -> Refusal | None:
    return None


def ways(moves: tuple[Move, ...] | Refusal) -> list[tuple[str, str]]:
    assert not isinstance(moves, Refusal), moves
    return [(move.source_pool, move.target_pool) for move in moves]


def refused(moves: tuple[Move, ...] | Refusal) -> Refusal:
    assert isinstance(moves, Refusal), moves
    return moves


def test_each_replica_outside_goes_to_the_roomiest_pool_that_is_left() -> None:
    pools = [a_pool("h1", free=50), a_pool("h2", free=90), a_pool("h3", free=70), a_pool("c1", "cold", free=500)]
    moves = choose_moves("hot", a_volume("c1", "h1", "c2"), pools, {}, anything)
    assert ways(moves) == [("c1", "h2"), ("c2", "h3")]
    assert not isinstance(moves, Refusal)
    assert [move.source_uuid for move in moves] == ["on-c1", "on-c2"]


def test_what_is_promised_to_others_counts_as_taken() -> None:
    pools = [a_pool("h1", free=50), a_pool("h2", free=90)]
    assert ways(choose_moves("hot", a_volume("c1"), pools, {"h2": 60 * GIB}, anything)) == [("c1", "h1")]
    full = refused(choose_moves("hot", a_volume("c1"), pools, {"h1": 45 * GIB, "h2": 85 * GIB}, anything))
    assert full.reason is Reason.NO_POOL_WITH_SPACE
    assert "45Gi of them reserved" in full.detail


def test_a_pool_that_is_refused_is_passed_over_and_named_only_if_none_is_left() -> None:
    def refuse(moves: Sequence[Move]) -> Refusal | None:
        pool = moves[-1].target_pool
        return Refusal(Reason.SAME_NODE, f"{pool} is beside it", pool) if pool in {"h1", "h2"} else None

    pools = [a_pool("h1", free=900), a_pool("h2", free=800), a_pool("h3", free=20)]
    assert ways(choose_moves("hot", a_volume("c1"), pools, {}, refuse)) == [("c1", "h3")]
    none = refused(choose_moves("hot", a_volume("c1"), pools[:2], {}, refuse))
    assert none == Refusal(Reason.SAME_NODE, "no pool of tier hot will do: h1 is beside it; h2 is beside it")


def test_an_order_is_found_in_which_an_earlier_move_makes_way_for_a_later_one() -> None:
    def refuse(moves: Sequence[Move]) -> Refusal | None:
        """The pool beside c1 can be had when c1 has been left, as on the node of that one."""
        if moves[-1].target_pool == "beside-c1" and all(move.source_pool != "c1" for move in moves[:-1]):
            return Refusal(Reason.SAME_NODE, "its node has a replica", "beside-c1")
        return None

    pools = [a_pool("beside-c1", free=900), a_pool("h", free=50)]
    assert ways(choose_moves("hot", a_volume("c1", "c2"), pools, {}, refuse)) == [("c1", "h"), ("c2", "beside-c1")]
    assert ways(choose_moves("hot", a_volume("c0", "c1"), pools, {}, refuse)) == [("c1", "h"), ("c0", "beside-c1")]


@pytest.mark.parametrize(
    ("subject", "pools", "reason"),
    [
        (a_volume("c1"), [a_pool("c1", "cold")], Reason.NO_POOL_IN_TIER),
        (a_volume("h1"), [a_pool("h1")], Reason.ALREADY_IN_TIER),
        (a_volume("c1", "c2"), [a_pool("h1")], Reason.NO_POOL_IN_TIER),
    ],
)
def test_why_there_is_none_is_said(subject: Subject, pools: list[Pool], reason: Reason) -> None:
    assert refused(choose_moves("hot", subject, pools, {}, anything)).reason is reason


def test_it_is_given_up_after_so_many_tries_whatever_the_number_of_replicas() -> None:
    asked = 0

    def refuse(moves: Sequence[Move]) -> Refusal | None:
        nonlocal asked
        asked += 1
        return Refusal(Reason.REMOVAL_NOT_STEERABLE, "no", moves[-1].target_pool) if len(moves) > 7 else None

    subject = a_volume(*(f"c{n}" for n in range(16)))
    none = choose_moves("hot", subject, [a_pool(f"h{n}") for n in range(30)], {}, refuse)
    assert refused(none).reason is Reason.REMOVAL_NOT_STEERABLE
    assert asked <= MAX_TRIES


@given(
    st.sets(st.sampled_from(["c1", "c2", "h1", "h2"]), min_size=1, max_size=3),
    st.sets(st.tuples(st.sampled_from(["c1", "c2"]), st.sampled_from(["h1", "h2", "h3"]), st.integers(0, 1))),
)
def test_wherever_there_is_a_way_one_is_found_and_it_is_allowed_step_by_step(
    held: set[str], forbidden: set[tuple[str, str, int]]
) -> None:
    def refuse(moves: Sequence[Move]) -> Refusal | None:
        last = moves[-1]
        targets = [move.target_pool for move in moves]
        if last.target_pool in held or len(set(targets)) < len(targets):
            return Refusal(Reason.SAME_POOL, "held", last.target_pool)
        if (last.source_pool, last.target_pool, len(moves) - 1) in forbidden:
            return Refusal(Reason.SAME_NODE, "forbidden", last.target_pool)
        return None

    def possible(moves: tuple[Move, ...], left: frozenset[str]) -> bool:
        if not left:
            return True
        wider = ((*moves, Move(source, target)) for source in left for target in ("h1", "h2", "h3"))
        return any(possible(way, left - {way[-1].source_pool}) for way in wider if refuse(way) is None)

    pools = [a_pool(name) for name in ("h1", "h2", "h3")]
    outside = frozenset(held & {"c1", "c2"})
    found = choose_moves("hot", a_volume(*sorted(held)), pools, {}, refuse)
    if isinstance(found, Refusal):
        assert not outside or not possible((), outside)
        return
    assert {move.source_pool for move in found} == outside
    for number in range(1, len(found) + 1):
        assert refuse(found[:number]) is None
