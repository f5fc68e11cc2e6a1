"""Whatever is asked of the simulated Mayastor, and whatever goes wrong: what must hold of its answers and its truth."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sandbox.fronts.mayastor_rest.api import ApiSettings, RestApi
from sandbox.fronts.mayastor_rest.app import encode, install
from sandbox.fronts.mayastor_rest.contract import validate_exchange
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.fronts.mayastor_rest.requests import Request
from sandbox.world.control.plane import ControlSettings, DataPlane, Plane, settings_of
from sandbox.world.mayastor import Faults as RebuildFaults
from sandbox.world.mayastor import Settings as StorageSettings
from sandbox.world.storage import Copy, SimVolume, State
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import GIB, HOT, a_pool

NODES = ("n1", "n2", "n3", "n4")
POOLS = (
    a_pool("p1", "n1", gib=25),
    a_pool("p1b", "n1", "cold", gib=25),
    a_pool("p2", "n2", gib=25),
    a_pool("p3", "n3", "cold", gib=25),
    a_pool("p4", "n4", gib=25),
)
VOLUMES = tuple(f"{i}{i}{i}{i}{i}{i}{i}{i}-0000-4000-8000-000000000000" for i in range(1, 4))
HEADERS = {"content-type": "application/json"}

volume = st.sampled_from(VOLUMES)
node = st.sampled_from(NODES)
pool = st.sampled_from([each.name for each in POOLS])
acts = st.one_of(
    st.tuples(st.just("count"), volume, st.integers(0, 4)),
    st.tuples(st.just("count"), volume, st.integers(1, 3)),
    st.tuples(st.just("publish"), volume, node),
    st.tuples(st.just("unpublish"), volume, st.none()),
    st.tuples(st.just("tidy"), volume, st.none()),
    st.tuples(st.just("child"), volume, st.integers(0, 2)),
    st.tuples(st.just("cordon"), node, st.booleans()),
    st.tuples(st.just("pool cordon"), pool, st.booleans()),
    st.tuples(st.just("label"), pool, st.sampled_from(["hot", "cold"])),
    st.tuples(st.just("drain"), node, st.none()),
    st.tuples(st.just("lose"), node, st.booleans()),
    st.tuples(st.just("fail rebuilds"), volume, st.booleans()),
    st.tuples(st.just("fault"), st.sampled_from(list(Effect)), st.sampled_from(list(DataPlane))),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 7.0, 40.0]), st.none()),
)


class World:
    """The API, asked at moments of its own; every exchange is held to the contract."""

    def __init__(self, version: MayastorVersion, seed: int, cache_seconds: float) -> None:
        storage = StorageSettings(rebuild_unpublished=False, rebuild_bytes_per_second=float(GIB))
        control = settings_of(ControlSettings(version=version, storage=storage, away_seconds=3.0, max_rebuilds=2))
        rng = Random(seed)
        plane = install(Plane(State(pools={}, volumes={})), (), POOLS, (), rng)
        self.api = RestApi(plane, ApiSettings(control, cache_seconds), rng)
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.api.advance(self.now)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        self.wait(0.0)
        data = b"" if body is None else msgspec.json.encode(body)
        ticket = self.api.submit(Request(method, f"/v0{path}", data, HEADERS))
        if ticket.ready_at is None:
            return None
        self.wait(max(0.0, ticket.ready_at - self.now))
        answer = ticket.answer()
        if answer is None:
            return None
        encoded = encode(answer)
        decoded = msgspec.json.decode(encoded) if encoded else None
        validate_exchange(method, f"/v0{path}", body, answer.status, decoded)
        return decoded

    def perform(self, act: tuple[str, Any, Any]) -> None:
        match act:
            case ("count", name, count):
                self.ask("PUT", f"/volumes/{name}/replica_count/{count}")
            case ("publish", name, where):
                body = {"publish_context": {}, "protocol": "nvmf", "node": where, "republish": True}
                self.ask("PUT", f"/volumes/{name}/target", body)
            case ("unpublish", name, _):
                self.ask("DELETE", f"/volumes/{name}/target")
            case ("tidy", name, _):
                self.ask("DELETE", f"/volumes/{name}/shutdown_targets")
            case ("child", name, index):
                self._remove_child(name, index)
            case ("cordon", name, on):
                self.ask("PUT" if on else "DELETE", f"/nodes/{name}/cordon/mine")
            case ("pool cordon", name, on):
                limits = {"replicas": True, "snapshots": False, "restores": False}
                self.ask("PUT" if on else "DELETE", f"/pools/{name}/cordon", limits)
            case ("label", name, value):
                self.ask("PUT", f"/pools/{name}/label/tier={value}?overwrite=true")
            case ("drain", name, _):
                self.ask("PUT", f"/nodes/{name}/drain/away")
            case ("wait", seconds, _):
                self.wait(seconds)
            case _:
                self._behind_its_back(act)

    def _behind_its_back(self, act: tuple[str, Any, Any]) -> None:
        match act:
            case ("lose", name, lost):
                self.api.change(lambda plane: replace(plane, storage=_losing(plane.storage, name, lost)))
            case ("fail rebuilds", name, on):
                control = self.api.settings.control
                faults = RebuildFaults(failing_rebuilds=frozenset({name}) if on else frozenset())
                self.api.set_control(replace(control, storage=replace(control.storage, faults=faults)))
            case ("fault", effect, step):
                self.api.faults.inject(Fault(effect, step=step, seconds=9.0))

    def _remove_child(self, name: str, index: int) -> None:
        target = self.api.plane.volumes[name].target
        if target is None or index >= len(target.children):
            return
        uri = self.api.view().uri(target.children[index], target.node)
        quoted = uri.replace(":", "%3A").replace("/", "%2F").replace("?", "%3F").replace("=", "%3D")
        self.ask("DELETE", f"/nexuses/{target.uuid}/children/{quoted}")

    def read_all(self) -> None:
        for path in ("/nodes", "/pools", "/nexuses", "/replicas", "/specs", "/volumes?max_entries=0"):
            self.ask("GET", path)

    def check(self) -> None:
        state = self.api.plane.storage
        for each in state.volumes.values():
            assert has_a_copy(each), f"{each.name} lost its last complete copy"
            nodes = [state.pools[replica.pool].node for replica in each.replicas]
            assert len(nodes) == len(set(nodes)), f"{each.name} has two replicas on one node"
            target = self.api.plane.volumes[each.name].target
            assert (target.node if target else None) == each.target_node
            children = set(target.children) if target else set()
            assert children <= {replica.uuid for replica in each.replicas}
            if target:
                assert children == {replica.uuid for replica in each.replicas if replica.attached}
        for name, each_pool in state.pools.items():
            held = [each.size_bytes for each in state.volumes.values() for r in each.replicas if r.pool == name]
            held += [left.size_bytes for left in state.leftovers.values() if left.pool == name and left.exists]
            assert state.used_bytes(name) == sum(held) <= each_pool.capacity_bytes
        uuids = [replica.uuid for each in state.volumes.values() for replica in each.replicas]
        assert sorted([*uuids, *state.leftovers]) == sorted(state.registry), "the registry has every replica once"


def has_a_copy(each: SimVolume) -> bool:
    return any(replica.copy is Copy.COMPLETE for replica in each.replicas)


def _losing(state: State, name: str, lost: bool) -> State:
    return replace(state, lost_nodes=state.lost_nodes | {name} if lost else state.lost_nodes - {name})


def a_world(version: MayastorVersion, seed: int, cache_seconds: float) -> World:
    world = World(version, seed, cache_seconds)
    for index, name in enumerate(VOLUMES):
        topology = {"topology": HOT} if index == 0 else {}
        body = {"policy": {"self_heal": index != 1}, "replicas": 1, "size": 10 * GIB, "thin": False, **topology}
        world.ask("PUT", f"/volumes/{name}", body)
    return world


@effort(max_examples=150, deadline=None)
@given(
    version=st.sampled_from(list(MayastorVersion)),
    seed=st.integers(0, 1000),
    cache_seconds=st.sampled_from([0.0, 30.0]),
    doings=st.lists(acts, max_size=40),
)
def test_a_complete_copy_is_left_answers_keep_the_contract_and_space_is_accounted(
    version: MayastorVersion, seed: int, cache_seconds: float, doings: list[tuple[str, Any, Any]]
) -> None:
    world = a_world(version, seed, cache_seconds)
    for act in doings:
        world.perform(act)
        world.check()
    world.api.faults.clear()
    world.read_all()


@effort(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), doings=st.lists(acts, max_size=30))
def test_when_all_is_well_again_every_published_volume_becomes_whole(
    seed: int, doings: list[tuple[str, Any, Any]]
) -> None:
    world = a_world(MayastorVersion.OPENEBS_4_3, seed, 0.0)
    for act in doings:
        if act[0] not in {"label", "drain"}:
            world.perform(act)
    world.api.faults.clear()
    for name in NODES:
        world._behind_its_back(("lose", name, False))
        world.ask("DELETE", f"/nodes/{name}/cordon/mine")
    world._behind_its_back(("fail rebuilds", VOLUMES[0], False))
    for name in VOLUMES:
        world.ask("DELETE", f"/volumes/{name}/shutdown_targets")
    world.wait(300.0)
    world.check()
    for name in VOLUMES:
        each = world.api.plane.storage.volumes[name]
        if each.self_heal and each.target_node is not None and each.replica_count <= 2:
            shown = world.ask("GET", f"/volumes/{name}")
            assert shown["state"]["status"] == "Online", shown
            assert len(each.replicas) == each.replica_count
    assert not world.api.plane.storage.leftovers, "nothing is left behind"


@effort(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), doings=st.lists(acts, max_size=25))
def test_the_same_seed_and_requests_give_the_same_plane(seed: int, doings: list[tuple[str, Any, Any]]) -> None:
    planes = []
    for _ in range(2):
        world = a_world(MayastorVersion.OPENEBS_4_4, seed, 30.0)
        for act in doings:
            world.perform(act)
        planes.append((world.api.plane, world.api.cache.seen))
    assert planes[0] == planes[1]
