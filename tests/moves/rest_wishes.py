"""
Random clusters behind the REST API with one move that is wished for, and what is true of it whatever the product says.

The clusters are those that the levers are tried on (levers_scenes), brought to life in the simulated control plane. Two
kinds of judgement are made of them: facts, for which no move is made however well it could be steered, and whether any
set of levers would do, found by trying them in the model of that very version.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from common.reasons import Reason
from migrator.core.steering.levers import Lever
from sandbox.world.choosing import RemovalRule, Ties, first_to_go, node_matches
from sandbox.world.control.plane import ControlSettings
from sandbox.world.mayastor import Faults
from sandbox.world.storage import Copy, SimReplica, SimVolume, State
from sandbox.world.versions import MayastorVersion, removal_order
from tests.moves import levers_model, levers_scenes
from tests.moves.levers_model import VOLUME, all_levers, grown, lacks_something, pulled, some_set_adds, subsets
from tests.moves.levers_scenes import Bytes
from tests.moves.rest_moves import UUID, Scene
from tests.simulation.loop import VirtualLoop

Wish = levers_model.Scene

FEWEST_NODES = 3
PLAIN_ONE_IN = 4
LOCAL_ONE_IN = 3
"""So often the volume is in use where its new replica comes: all that the oldest version goes by."""
MOST_TRIED = 9
"""Levers of which every set is tried; of more, those that are on the source, which is known to find as much."""
REBUILD_BYTES_PER_SECOND = 5.0 * levers_scenes.GIB
SETTLE_SECONDS = 1.0


def a_wish(rng: Random, version: MayastorVersion) -> Wish:
    """
    Draw a cluster of a version, with at least three nodes that have pools, and a move in it.

    Most of them come down to the levers; what is a matter of plain facts is drawn now and then.
    """
    plain = not rng.randrange(PLAIN_ONE_IN)
    while True:
        drawn = [rng.randrange(256) for _ in range(240)]
        drawn[-1] = levers_model.VERSIONS.index(version)  # the first that is drawn
        wish = replace(levers_scenes.scene(Bytes(drawn)), engine_told=True)
        wish = replace(wish, state=_lasting(wish.state))
        if not rng.randrange(LOCAL_ONE_IN):
            wish = wish.with_volume(replace(wish.volume, target_node=wish.state.pools[wish.target].node))
        enough = len({pool.node for pool in wish.state.pools.values()}) >= FEWEST_NODES
        if enough and bool(facts_against(wish)) == plain:
            return wish


def _lasting(state: State) -> State:
    """
    A state that does not change by itself: the volume is whole, and who lacks something goes on lacking it.

    Nothing is asked for that the API could not tell of.
    """
    moved = state.volumes[VOLUME]
    whole = tuple(replace(each, copy=Copy.COMPLETE) for each in moved.replicas)
    nodes = None if moved.allowed_nodes is not None else moved.node_inclusion
    volumes = {VOLUME: replace(moved, replicas=whole, node_inclusion=nodes)}
    others = (volume for volume in state.volumes.values() if volume.name != VOLUME)
    for number, volume in enumerate(others, 1):
        volumes[_uuid(number)] = _neighbour(state, volume, number)
    return replace(state, volumes=volumes)


def _uuid(number: int) -> str:
    return f"22222222-2222-4333-8444-{number:012x}"


def _neighbour(state: State, volume: SimVolume, number: int) -> SimVolume:
    first, *rest = volume.replicas
    replicas = (replace(first, copy=Copy.COMPLETE), *rest)
    alive = sorted({pool.node for pool in state.pools.values()} - state.lost_nodes)
    target = alive[number % len(alive)]
    # What an unpublished volume lacks nobody tells; what one has that cannot be read is lost to it for good.
    hidden = volume.target_node is None and all(state.reachable(each.pool) for each in replicas)
    return replace(
        volume,
        name=_uuid(number),
        replicas=tuple(
            replace(each, uuid=f"{index:08x}-{_uuid(number)[9:]}") for index, each in enumerate(replicas, 1)
        ),
        target_node=None if hidden else target,
        self_heal=False,
    )


async def come_alive(loop: VirtualLoop, wish: Wish, seed: int, *, pool_cordon_counts: bool, by_contract: bool) -> Scene:
    """Let a simulated control plane have this cluster; its volume is UUID."""
    state, volume = wish.state, wish.volume
    uuids = {each.uuid: f"{index:08x}-0000-4000-8000-{UUID[-12:]}" for index, each in enumerate(volume.replicas, 1)}
    moved = replace(volume, name=UUID, replicas=tuple(replace(r, uuid=uuids[r.uuid]) for r in volume.replicas))
    others = (other for other in state.volumes.values() if other.name != VOLUME)
    scene = Scene(
        loop,
        moved,
        *others,
        version=wish.version,
        pools=state.pools.values(),
        nodes=sorted({pool.node for pool in state.pools.values()}),
        seed=seed,
        pool_cordon_counts=pool_cordon_counts,
        by_contract=by_contract,
    )
    for node, labels in state.node_labels.items():
        for key, value in labels.items():
            await _ask(scene, f"/v0/nodes/{node}/label/{key}={value}")
    for node in sorted(state.cordoned_nodes):
        await _ask(scene, f"/v0/nodes/{node}/cordon/{levers_model.THEIRS}")
    for node in sorted(state.lost_nodes):
        scene.front.set_node_lost(node, lost=True)
    scene.front.set_control(_lasting_control)
    await scene.clock.sleep(SETTLE_SECONDS)
    scene.front.restart()
    scene.before = scene.front.plane
    scene.tick_seconds = SETTLE_SECONDS
    return scene


async def _ask(scene: Scene, path: str) -> None:
    status, answer = await scene.front.ask("PUT", path)
    assert status == 200, answer


def _lasting_control(control: ControlSettings) -> ControlSettings:
    stalled = Faults(stalled_rebuilds=frozenset(_uuid(number) for number in range(1, 9)))
    storage = replace(control.storage, rebuild_bytes_per_second=REBUILD_BYTES_PER_SECOND, faults=stalled)
    return replace(control, storage=storage)


def as_it_is(wish: Wish, scene: Scene) -> Wish:
    """The same wish, of the cluster as it has become."""
    state = scene.front.state
    moved = state.volumes[UUID]
    volumes = {VOLUME if name == UUID else name: volume for name, volume in state.volumes.items()}
    source = next(each.uuid for each in moved.replicas if each.pool == source_pool(wish))
    return replace(wish, state=replace(state, volumes={**volumes, VOLUME: replace(moved, name=VOLUME)}), source=source)


def source_pool(wish: Wish) -> str:
    return next(replica.pool for replica in wish.volume.replicas if replica.uuid == wish.source)


# --- facts ---------------------------------------------------------------------------------------------------------


def facts_against(wish: Wish) -> frozenset[Reason]:
    """Whatever speaks against the move that no lever could change, or that is respected: looked up in the model."""
    state, volume, target = wish.state, wish.volume, wish.state.pools[wish.target]
    kept = [each for each in volume.replicas if each.uuid != wish.source]
    matching = target.matches(volume.inclusion) and node_matches(state, volume, target.node)
    pool_nodes = {pool.node for pool in state.pools.values()}
    against = {
        Reason.NOT_PUBLISHED: volume.target_node is None or state.target_lost(volume),
        Reason.VOLUME_UNHEALTHY: not all(each.usable for each in volume.replicas) or state.target_lost(volume),
        Reason.AFFINITY_GROUP_MINIMUM: volume.affinity_group is not None and len(volume.replicas) == 1,
        Reason.NO_FREE_NODE: pool_nodes <= wish.nodes,
        Reason.SAME_POOL: any(each.pool == target.name for each in volume.replicas),
        Reason.SAME_NODE: target.node in wish.nodes,
        Reason.POOL_NOT_ONLINE: not state.reachable(target.name),
        Reason.POOL_CORDONED: levers_model.somebody_closed(wish, target.name),
        Reason.TOPOLOGY_FORBIDS: not matching,
        Reason.NO_POOL_WITH_SPACE: state.free_bytes(target.name) <= volume.size_bytes,
        Reason.CORDONED_BY_OTHER: any(levers_model.somebody_closed(wish, each.pool) for each in kept),
    }
    return frozenset(reason for reason, holds in against.items() if holds)


def somebody_is_short(wish: Wish) -> bool:
    """Whether any other volume lacks something."""
    return any(lacks_something(volume) for name, volume in wish.state.volumes.items() if name != VOLUME)


# --- levers --------------------------------------------------------------------------------------------------------


def can_be_steered(wish: Wish) -> bool:
    """
    Whether there are levers both for the new replica to land on the target and for the source to go, in this version.

    Where nobody knows whether a pool's cordon counts, it has to come out right either way.
    """
    orders = [removal_order(wish.version, pool_cordon_counts=counts) for counts in (False, True)]
    return some_set_adds(wish) and _some_set_removes(grown(wish), orders)


def can_surely_be_steered(wish: Wish) -> bool:
    """The same in every version that shows the same marks: a control plane may be newer than its io-engines."""
    return some_set_adds(wish) and _some_set_removes(grown(wish), wish.orders)


def _some_set_removes(then: Wish, orders: Iterable[tuple[RemovalRule, ...]]) -> bool:
    levers = all_levers(then, {replica.pool for replica in then.volume.replicas})
    if len(levers) > MOST_TRIED:
        levers = all_levers(then, [source_pool(then)])
    last = _with_source_last(then)
    distinct = set(orders)
    return any(_goes(last, then, levers, distinct) for levers in subsets(levers))


def _with_source_last(then: Wish) -> State:
    """Where nothing else decides, the source then stays."""
    stay = tuple(replica.uuid for replica in then.volume.replicas if replica.uuid != then.source)
    return replace(then.state, registry=(*stay, then.source))


def _goes(state: State, then: Wish, levers: Iterable[Lever], orders: Iterable[tuple[RemovalRule, ...]]) -> bool:
    after = pulled(state, levers)
    return all(_first(after, order).uuid == then.source for order in orders)


def _first(state: State, order: tuple[RemovalRule, ...]) -> SimReplica:
    return first_to_go(state, state.volumes[VOLUME], Random(0), order, Ties.REGISTRY)
