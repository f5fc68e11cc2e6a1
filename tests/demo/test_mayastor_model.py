"""The model of Mayastor: the stories of one move, of what goes wrong with it, and what must hold whatever happens."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sandbox.world.mayastor import (
    Change,
    ChangeKind,
    Copy,
    Faults,
    RemovalRule,
    Settings,
    SimPool,
    SimReplica,
    SimVolume,
    State,
    candidates,
    first_to_go,
    step,
)

GIB = 2**30
FAST = Settings(rebuild_bytes_per_second=GIB, create_seconds=1.0)


def a_pool(name: str, node: str, tier: str = "hot", *, capacity: int = 100 * GIB, reserved: int = 0) -> SimPool:
    return SimPool(name, node, capacity, labels={"tier": tier}, reserved_bytes=reserved)


def a_cluster(*volumes: SimVolume, pools: tuple[SimPool, ...] = ()) -> State:
    pools = pools or (a_pool("nvme-1", "n1"), a_pool("nvme-2", "n2"), a_pool("sata-3", "n3", "cold"))
    return State(pools={pool.name: pool for pool in pools}, volumes={volume.name: volume for volume in volumes})


def a_copy(pool: str, copy: Copy = Copy.COMPLETE, uuid: str = "") -> SimReplica:
    return SimReplica(
        uuid or f"on-{pool}", pool, copy, since=0.0, copied_bytes=10 * GIB if copy is Copy.COMPLETE else 0
    )


def a_volume(*replicas: SimReplica, count: int = 1, inclusion: dict[str, str] | None = None) -> SimVolume:
    return SimVolume("v", 10 * GIB, count, inclusion, target_node="n1", replicas=replicas)


def after(state: State, seconds: float, settings: Settings = FAST, seed: int = 1, tick: float = 0.25) -> State:
    rng, end = Random(seed), state.at + seconds
    while state.at < end:
        state, _ = step(state, min(end, state.at + tick), rng, settings)
    return state


def wanting(state: State, **changes: object) -> State:
    return replace(state, volumes={"v": replace(state.volumes["v"], **changes)})  # type: ignore[arg-type]


def copies(state: State) -> dict[str, Copy]:
    return {replica.pool: replica.copy for replica in state.volumes["v"].replicas}


def test_one_more_replica_is_made_on_the_pool_that_the_topology_names_and_synced_at_the_set_rate() -> None:
    state = wanting(a_cluster(a_volume(a_copy("sata-3"))), replica_count=2, inclusion={"pool": "nvme-2"})
    state = after(state, 0.5)
    assert copies(state) == {"sata-3": Copy.COMPLETE, "nvme-2": Copy.CREATING}
    state = after(state, 5.5)
    assert copies(state) == {"sata-3": Copy.COMPLETE, "nvme-2": Copy.PARTIAL}
    (new,) = [r for r in state.volumes["v"].replicas if r.pool == "nvme-2"]
    # Placed at the first tick, online a second later, a GiB of its ten each second from then on.
    assert state.volumes["v"].progress(new) == pytest.approx((6.0 - 0.25 - 1.0) / 10)
    state = after(state, 6.0)
    assert copies(state) == {"sata-3": Copy.COMPLETE, "nvme-2": Copy.COMPLETE}


def test_the_replica_that_does_not_match_the_topology_goes_though_it_is_the_local_one() -> None:
    both = a_volume(a_copy("nvme-1"), a_copy("sata-3"), inclusion={"tier": "cold"})
    assert copies(after(a_cluster(both), 1.0)) == {"sata-3": Copy.COMPLETE}


def test_without_a_topology_the_replica_that_is_not_local_goes() -> None:
    assert copies(after(a_cluster(a_volume(a_copy("nvme-1"), a_copy("sata-3"))), 1.0)) == {"nvme-1": Copy.COMPLETE}


def test_the_unsynced_replica_goes_before_any_other_rule_counts() -> None:
    both = a_volume(a_copy("sata-3"), a_copy("nvme-1", Copy.PARTIAL), inclusion={"tier": "hot"})
    assert copies(after(a_cluster(both), 0.5)) == {"sata-3": Copy.COMPLETE}


def test_a_version_without_the_topology_rule_keeps_the_local_replica_whatever_the_topology() -> None:
    both = a_volume(a_copy("nvme-1"), a_copy("sata-3"), inclusion={"tier": "cold"})
    old = replace(FAST, removal_order=(RemovalRule.NOT_LOCAL,))
    assert copies(after(a_cluster(both), 1.0, old)) == {"nvme-1": Copy.COMPLETE}


def test_where_no_rule_decides_it_is_chance_and_the_seed_repeats_it() -> None:
    both = replace(a_volume(a_copy("nvme-1"), a_copy("nvme-2")), target_node=None)
    state = a_cluster(both)
    gone = [first_to_go(state, both, Random(seed), FAST).pool for seed in range(40)]
    assert set(gone) == {"nvme-1", "nvme-2"}
    assert gone == [first_to_go(state, both, Random(seed), FAST).pool for seed in range(40)]


def test_a_node_with_a_replica_gets_no_second_one_and_a_full_or_lost_pool_none_at_all() -> None:
    pools = (
        a_pool("nvme-1", "n1"),
        a_pool("same-node", "n1"),
        a_pool("full", "n2", reserved=91 * GIB),
        a_pool("lost", "n3"),
        replace(a_pool("cordoned", "n4"), cordoned=True),
        a_pool("other-tier", "n5", "cold"),
        a_pool("good", "n6"),
    )
    volume = a_volume(a_copy("nvme-1"), count=2, inclusion={"tier": "hot"})
    state = replace(a_cluster(volume, pools=pools), lost_nodes=frozenset({"n3"}))
    assert [pool.name for pool in candidates(state, volume)] == ["good"]


def test_a_volume_that_no_pool_can_take_stays_as_it_is() -> None:
    state = after(a_cluster(a_volume(a_copy("sata-3"), count=2, inclusion={"pool": "no-such"})), 5.0)
    assert copies(state) == {"sata-3": Copy.COMPLETE}


def test_a_rebuild_that_fails_stays_failed_and_is_what_scaling_down_takes() -> None:
    faulty = replace(FAST, faults=Faults(failing_rebuilds=frozenset({"v"})))
    state = after(a_cluster(a_volume(a_copy("sata-3"), count=2, inclusion={"tier": "hot"})), 12.0, faulty)
    assert sorted(copies(state).values()) == [Copy.COMPLETE, Copy.FAILED]
    assert copies(after(wanting(state, replica_count=1), 1.0, faulty)) == {"sata-3": Copy.COMPLETE}


def test_a_stalled_rebuild_goes_on_when_the_fault_is_gone() -> None:
    stalled = replace(FAST, faults=Faults(stalled_rebuilds=frozenset({"v"}), at_progress=0.3))
    state = after(a_cluster(a_volume(a_copy("sata-3"), count=2, inclusion={"pool": "nvme-1"})), 60.0, stalled)
    (new,) = [r for r in state.volumes["v"].replicas if r.pool == "nvme-1"]
    assert new.copy is Copy.PARTIAL
    assert state.volumes["v"].progress(new) == pytest.approx(0.3)
    assert copies(after(state, 8.0)) == {"sata-3": Copy.COMPLETE, "nvme-1": Copy.COMPLETE}


def test_a_replica_that_was_away_copies_what_it_missed_before_it_counts_again() -> None:
    state = a_cluster(a_volume(a_copy("nvme-1"), a_copy("nvme-2"), count=2))
    away = replace(state, pools={**state.pools, "nvme-2": replace(state.pools["nvme-2"], online=False)})
    away = after(away, 1.0)
    assert away.volumes["v"].usable == 1
    back = after(replace(away, pools=state.pools), 0.5)
    assert copies(back)["nvme-2"] is Copy.PARTIAL
    assert copies(after(back, 1.0))["nvme-2"] is Copy.COMPLETE


def test_the_only_replica_comes_back_whole_since_nobody_could_write() -> None:
    state = a_cluster(a_volume(a_copy("sata-3")))
    away = after(replace(state, lost_nodes=frozenset({"n3"})), 5.0)
    assert away.volumes["v"].usable == 0
    back = after(replace(away, lost_nodes=frozenset()), 0.25)
    assert back.volumes["v"].usable == 1


def test_self_healing_replaces_a_lost_replica_by_a_new_one_with_another_uuid() -> None:
    healing = replace(FAST, heal_after_seconds=2.0)
    state = a_cluster(a_volume(a_copy("nvme-1"), a_copy("nvme-2"), count=2))
    lost = after(replace(state, lost_nodes=frozenset({"n2"})), 20.0, healing)
    assert copies(lost) == {"nvme-1": Copy.COMPLETE, "sata-3": Copy.COMPLETE}
    assert "on-nvme-2" not in {replica.uuid for replica in lost.volumes["v"].replicas}


def test_self_healing_gives_nothing_up_while_nothing_can_take_its_place() -> None:
    healing = replace(FAST, heal_after_seconds=2.0)
    state = a_cluster(a_volume(a_copy("nvme-1"), a_copy("nvme-2"), count=2, inclusion={"tier": "hot"}))
    lost = after(replace(state, lost_nodes=frozenset({"n2"})), 20.0, healing)
    assert set(copies(lost)) == {"nvme-1", "nvme-2"}


def test_an_unpublished_volume_is_rebuilt_only_by_versions_that_do_so() -> None:
    volume = replace(a_volume(a_copy("sata-3"), count=2, inclusion={"pool": "nvme-1"}), target_node=None)
    old = replace(FAST, rebuild_unpublished=False)
    assert copies(after(a_cluster(volume), 30.0, old))["nvme-1"] is Copy.PARTIAL
    assert copies(after(a_cluster(volume), 30.0))["nvme-1"] is Copy.COMPLETE


def test_a_new_volume_has_all_its_replicas_at_once_and_complete() -> None:
    state, changes = step(a_cluster(a_volume(count=2)), 0.1, Random(3), FAST)
    assert list(copies(state).values()) == [Copy.COMPLETE, Copy.COMPLETE]
    assert [change.kind for change in changes] == [ChangeKind.ADDED, ChangeKind.ADDED]


def test_every_change_is_told() -> None:
    state = wanting(a_cluster(a_volume(a_copy("sata-3"))), replica_count=2, inclusion={"pool": "nvme-1"})
    rng = Random(1)
    told: list[Change] = []
    for now in (1, 3, 20):
        state, changes = step(state, float(now), rng, FAST)
        told += changes
    state, changes = step(wanting(state, replica_count=1), 21.0, rng, FAST)
    told += changes
    story = [(change.kind, change.pool) for change in told]
    assert story == [
        (ChangeKind.ADDED, "nvme-1"),
        (ChangeKind.ONLINE, "nvme-1"),
        (ChangeKind.SYNCED, "nvme-1"),
        (ChangeKind.REMOVED, "sata-3"),
    ]


def test_time_that_goes_back_is_no_time() -> None:
    state = after(a_cluster(a_volume(a_copy("sata-3"), count=2, inclusion={"pool": "nvme-1"})), 5.0)
    same, changes = step(state, 1.0, Random(1), FAST)
    assert (same.at, same.volumes, changes) == (state.at, state.volumes, ())


POOLS = tuple(a_pool(f"{tier}-{n}", f"n{n}", tier, capacity=35 * GIB) for n in range(1, 4) for tier in ("hot", "cold"))
Act = tuple[str, Any, Any]
ACTS = st.one_of(
    st.tuples(st.just("count"), st.sampled_from(["v0", "v1", "v2"]), st.integers(1, 4)),
    st.tuples(
        st.just("topology"),
        st.sampled_from(["v0", "v1", "v2"]),
        st.sampled_from([None, {"tier": "hot"}, {"tier": "cold"}, {"pool": "hot-2"}, {"pool": "cold-3"}]),
    ),
    st.tuples(st.just("pool"), st.sampled_from([pool.name for pool in POOLS]), st.booleans()),
    st.tuples(st.just("node"), st.sampled_from(["n1", "n2", "n3"]), st.booleans()),
    st.tuples(st.just("fault"), st.sampled_from(["v0", "v1", "v2"]), st.sampled_from(["fail", "stall", "none"])),
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.3, 2.0, 15.0]), st.none()),
)


def perform(state: State, settings: Settings, act: Act) -> tuple[State, Settings]:
    match act:
        case ("count", str(name), int(count)):
            return _with(state, replace(state.volumes[name], replica_count=count)), settings
        case ("topology", str(name), labels):
            assert labels is None or isinstance(labels, dict)
            return _with(state, replace(state.volumes[name], inclusion=labels)), settings
        case ("pool", str(name), bool(online)):
            return replace(state, pools={**state.pools, name: replace(state.pools[name], online=online)}), settings
        case ("node", str(node), bool(lost)):
            nodes = state.lost_nodes | {node} if lost else state.lost_nodes - {node}
            return replace(state, lost_nodes=nodes), settings
        case ("fault", str(name), kind):
            names = frozenset({name})
            faults = Faults(
                failing_rebuilds=names if kind == "fail" else frozenset(),
                stalled_rebuilds=names if kind == "stall" else frozenset(),
            )
            return state, replace(settings, faults=faults)
    return state, settings


def _with(state: State, volume: SimVolume) -> State:
    return replace(state, volumes={**state.volumes, volume.name: volume})


@effort(max_examples=300, deadline=None)
@given(
    acts=st.lists(ACTS, max_size=40),
    seed=st.integers(0, 2**32),
    heal=st.sampled_from([None, 1.0]),
    order=st.permutations(list(RemovalRule)),
)
def test_whatever_happens_a_complete_copy_is_left_and_space_is_accounted(
    acts: list[Act], seed: int, heal: float | None, order: list[RemovalRule]
) -> None:
    volumes = [SimVolume(f"v{i}", 10 * GIB, 1, replicas=(a_copy(POOLS[i].name, uuid=f"first-{i}"),)) for i in range(3)]
    state = a_cluster(*volumes, pools=POOLS)
    settings = replace(FAST, heal_after_seconds=heal, removal_order=tuple(order))
    rng = Random(seed)
    for act in acts:
        state, settings = perform(state, settings, act)
        now = state.at + (act[1] if act[0] == "time" else 0.2)
        state, _ = step(state, now, rng, settings)
        for volume in state.volumes.values():
            assert any(r.copy is Copy.COMPLETE for r in volume.replicas), f"{volume.name} lost its last complete copy"
            nodes = [state.pools[r.pool].node for r in volume.replicas]
            assert len(nodes) == len(set(nodes)), f"{volume.name} has two replicas on one node"
        for name, pool in state.pools.items():
            held = sum(v.size_bytes for v in state.volumes.values() for r in v.replicas if r.pool == name)
            assert state.used_bytes(name) == held <= pool.capacity_bytes


@effort(max_examples=50, deadline=None)
@given(acts=st.lists(ACTS, max_size=25), seed=st.integers(0, 2**32))
def test_the_same_seed_tells_the_same_story(acts: list[Act], seed: int) -> None:
    def story() -> tuple[State, list[Change]]:
        volumes = [SimVolume(f"v{i}", 10 * GIB, 1) for i in range(3)]
        state, settings, rng = a_cluster(*volumes, pools=POOLS), FAST, Random(seed)
        told: list[Change] = []
        for act in acts:
            state, settings = perform(state, settings, act)
            state, changes = step(state, state.at + 1.0, rng, settings)
            told += changes
        return state, told

    assert story() == story()
