"""The project's own description of Mayastor's REST API: it admits what was recorded, and nothing that differs."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.fronts.mayastor_rest.contract import ContractError, contract, validate_exchange
from sandbox.world.versions import MayastorVersion
from tests.contract.recordings.reference import (
    BESIDE_THE_CHECKOUT,
    VARIABLE,
    Exchange,
    Request,
    Response,
    read_recordings,
    recordings_file,
)
from tests.contract.rest_cluster import HOT, POOLS, VOLUME, RestCluster, a_pool

REPLICA = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


@pytest.fixture(scope="module")
def recordings() -> list[Exchange]:
    path: Path | None = recordings_file()
    if path is None:
        pytest.skip(f"the recorded exchanges are not at hand ({VARIABLE} or {BESIDE_THE_CHECKOUT})")
    return read_recordings(path)


@pytest.fixture(scope="module", params=["recorded", "simulated"])
def exchanges(request: pytest.FixtureRequest) -> list[Exchange]:
    """The largest answer of each call and status: of those that were recorded, and of the simulator's."""
    if request.param == "recorded":
        return one_of_each(request.getfixturevalue("recordings"))
    return one_of_each(asyncio.run(simulated()))


async def simulated() -> list[Exchange]:
    """Answers of the simulator, in the middle of a rebuild."""
    cluster, told = RestCluster(MayastorVersion.OPENEBS_4_4, pools=(*POOLS, a_pool("p4", "n4"))), list[Exchange]()

    async def ask(method: str, path: str, body: object = None) -> None:
        status, answer = await cluster.ask(method, path, body)
        told.append(Exchange(path, Request(method, f"/v0{path}", body), Response(status, answer)))

    cordon = {"replicas": True, "snapshots": False, "restores": False}
    await cluster.two_replicas("p1", "n1", also="p2", topology=HOT)
    await ask("PUT", "/nodes/n3/cordon/mine")
    await ask("PUT", "/pools/p3/cordon", cordon)
    await ask("PUT", f"/volumes/{VOLUME}/replica_count/3")
    await cluster.wait(3.0)
    for path in ("nodes", "pools", "nexuses", "replicas", "specs", "volumes?max_entries=0"):
        await ask("GET", f"/{path}")
    for path in (f"volumes/{VOLUME}", f"volumes/{VOLUME}/rebuild-history", "pools/p3", "nodes/n3", "pools/no"):
        await ask("GET", f"/{path}")
    await ask("PUT", f"/volumes/{VOLUME}/replica_count/5")
    await ask("DELETE", "/pools/p1")
    return told


def a_volume() -> dict[str, Any]:
    usage = {"capacity": 8, "allocated": 8, "allocated_snapshots": 0, "allocated_all_snapshots": 0}
    return {
        "spec": {
            "num_replicas": 1,
            "size": 8,
            "status": "Created",
            "uuid": VOLUME,
            "policy": {"self_heal": True},
            "thin": False,
            "num_snapshots": 0,
        },
        "state": {
            "size": 8,
            "status": "Online",
            "uuid": VOLUME,
            "replica_topology": {REPLICA: {"node": "n1", "pool": "p1", "state": "Online", "usage": usage}},
            "usage": usage
            | {"allocated_replica": 8, "total_allocated": 8, "total_allocated_replicas": 8}
            | {"total_allocated_snapshots": 0},
        },
    }


def check(exchange: Exchange, body: object) -> None:
    request, status = exchange.request, exchange.response.status
    validate_exchange(request.method, request.path, request.body, status, body)


def refused(exchange: Exchange, body: object) -> bool:
    try:
        check(exchange, body)
    except ContractError:
        return True
    return False


def test_every_recorded_exchange_is_one_of_the_contract(recordings: list[Exchange]) -> None:
    unknown = 0
    for exchange in recordings:
        check(exchange, exchange.response.body)
        unknown += contract().operation(exchange.request.method, exchange.request.path) is None
    assert len(recordings) == 856
    # A path nobody knows, a method nobody knows, a label without and one with an empty value.
    assert unknown == 4


def test_every_call_of_the_contract_was_recorded(recordings: list[Exchange]) -> None:
    found = (contract().operation(exchange.request.method, exchange.request.path) for exchange in recordings)
    recorded = {operation.name for operation in found if operation is not None}
    # Only OpenEBS 4.4 has the pool's cordon; the recorded control plane is older, and was asked for one of the two.
    assert {operation.name for operation in contract().operations} - recorded == {"uncordonPool"}


def test_an_answer_with_a_value_of_another_type_is_refused(exchanges: list[Exchange]) -> None:
    tried = 0
    for exchange in exchanges:
        for place, wrong in wrong_types(exchange.response.body):
            assert refused(exchange, wrong), f"{exchange.name}: {place} of another type was admitted"
            tried += 1
    assert tried > 300


def test_an_answer_with_a_field_nobody_knows_is_refused(exchanges: list[Exchange]) -> None:
    tried = 0
    for exchange in exchanges:
        for place, wrong in additions(exchange.response.body):
            if place.endswith(("labels", "inclusion", "exclusion")):
                continue  # these are maps of anything to anything
            assert refused(exchange, wrong), f"{exchange.name}: an unknown field in {place} was admitted"
            tried += 1
    assert tried > 60


OPTIONAL = {
    "target", "labels", "cordondrainstate", "topology", "affinity_group", "max_snapshots", "next_token", "protocol",
    "child-status", "rebuild-progress", "rebuildProgress", "usage", "node_nqn", "version", "committed", "poolUuid",
    "space", "volume", "cordon_drain", "imports", "allocated_bytes_all_snapshots", "node_topology", "pool_topology",
}  # fmt: skip
"""What may be missing, in some place; all else that was recorded must be there."""
MAPS = ("labels", "inclusion", "exclusion", "replica_topology")


def test_an_answer_without_a_required_field_is_refused(exchanges: list[Exchange]) -> None:
    tried = 0
    for exchange in exchanges:
        for place, key, wrong in removals(exchange.response.body):
            if key in OPTIONAL or place.endswith(MAPS):
                continue
            if key == "state" and exchange.request.path.startswith(("/v0/pools", "/v0/nodes")):
                continue  # a pool or a node whose state nobody knows
            assert refused(exchange, wrong), f"{exchange.name}: {place} without {key} was admitted"
            tried += 1
    assert tried > 150


def test_a_status_of_another_kind_is_refused() -> None:
    error = {"details": "", "message": "SvcError :: VolumeNotFound: Volume 'x' not found", "kind": "NotFound"}
    validate_exchange("GET", f"/v0/volumes/{VOLUME}", None, 404, error)
    with pytest.raises(ContractError, match="kind"):
        validate_exchange("GET", f"/v0/volumes/{VOLUME}", None, 409, error)
    with pytest.raises(ContractError, match="no such status"):
        validate_exchange("GET", f"/v0/volumes/{VOLUME}", None, 418, error)


def test_a_state_that_mayastor_does_not_have_yet_is_refused_here_so_that_it_is_noticed() -> None:
    volume = a_volume()
    validate_exchange("GET", f"/v0/volumes/{VOLUME}", None, 200, volume)
    volume["state"]["status"] = "Resilvering"
    with pytest.raises(ContractError, match="Resilvering"):
        validate_exchange("GET", f"/v0/volumes/{VOLUME}", None, 200, volume)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v0/volumes", None),
        ("GET", "/v0/volumes?max_entries=many", None),
        ("GET", "/v0/volumes?max_entries=0&page=3", None),
        ("GET", "/v0/volumes/not-a-uuid", None),
        ("PUT", f"/v0/volumes/{VOLUME}/replica_count/256", None),
        ("PUT", f"/v0/volumes/{VOLUME}", {"replicas": "1", "size": 8}),
        ("PUT", f"/v0/volumes/{VOLUME}", {"size": 8}),
        ("PUT", f"/v0/volumes/{VOLUME}/target", {"protocol": "nvmf"}),
        ("PUT", "/v0/nodes/n1/cordon/mine", {"label": "mine"}),
        ("PUT", "/v0/pools/p1/label/tier=hot?overwrite=yes", None),
        ("PUT", "/v0/pools/p1/cordon", {"replicas": True}),
    ],
)
def test_a_malformed_request_that_was_accepted_is_refused(method: str, path: str, body: object) -> None:
    operation = contract().operation(method, path)
    assert operation is not None
    answers: dict[str, object] = {"/v0/volumes": {"entries": []}, "/v0/nodes/n1/cordon/mine": {}, "/v0/pools/p1": {}}
    node = {"id": "n1", "spec": {"grpcEndpoint": "", "id": "n1"}}
    pool = {"id": "p1", "spec": {"disks": [], "id": "p1", "node": "n1", "status": "Created"}}
    answer: object = a_volume()
    if operation.name == "listVolumes":
        answer = answers["/v0/volumes"]
    elif "Node" in operation.name:
        answer = node
    elif "Pool" in operation.name:
        answer = pool
    with pytest.raises(ContractError):
        validate_exchange(method, path, body, 200, answer)


def test_only_an_empty_404_answers_what_nobody_knows() -> None:
    validate_exchange("GET", "/v0/nothing", None, 404, "")
    validate_exchange("POST", f"/v0/volumes/{VOLUME}", None, 404, None)
    validate_exchange("PUT", "/v0/pools/p1/cordon", {"replicas": True}, 404, "")
    with pytest.raises(ContractError, match="not a call"):
        validate_exchange("GET", "/v0/nothing", None, 200, {})
    with pytest.raises(ContractError, match="no body"):
        validate_exchange("GET", f"/v0/volumes/{VOLUME}", None, 404, "")


def one_of_each(recordings: list[Exchange]) -> list[Exchange]:
    """The largest answer of each call and status, so that every field there is comes up."""
    largest: dict[tuple[str, int], Exchange] = {}
    for exchange in recordings:
        operation = contract().operation(exchange.request.method, exchange.request.path)
        if operation is None or exchange.response.body in ("", None):
            continue
        key = (operation.name, exchange.response.status)
        known = largest.get(key)
        if known is None or len(str(exchange.response.body)) > len(str(known.response.body)):
            largest[key] = exchange
    return list(largest.values())


def places(body: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value in an answer with the way to it; of a list the first two items only."""
    yield path, body
    if isinstance(body, dict):
        for key, value in body.items():
            yield from places(value, (*path, key))
    elif isinstance(body, list):
        for index, value in enumerate(body[:2]):
            yield from places(value, (*path, index))


def changed(body: Any, path: tuple[str | int, ...], value: object) -> Any:
    if not path:
        return value
    result = copy.deepcopy(body)
    at = result
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return result


def wrong_types(body: Any) -> Iterator[tuple[str, Any]]:
    for path, value in places(body):
        yield dotted(path), changed(body, path, 17.5 if isinstance(value, dict | list) else {"wrong": True})


def additions(body: Any) -> Iterator[tuple[str, Any]]:
    for path, value in places(body):
        if isinstance(value, dict):
            yield dotted(path), changed(body, path, value | {"surprise": "yes"})


def removals(body: Any) -> Iterator[tuple[str, str, Any]]:
    for path, value in places(body):
        if isinstance(value, dict):
            for key in value:
                rest = {name: item for name, item in value.items() if name != key}
                yield dotted(path), key, changed(body, path, rest)


def dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(step) for step in path)
