"""
The emulator and kube-apiserver side by side: whatever a client does, it cannot tell which of them answers.

The other tests of the contract ask what we thought of. Here a seeded stream of good, odd and bad calls goes to both,
and every answer of the one is held against that of the other.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from common.kube.api import KubeApi, KubeError
from sandbox.real.control_plane import ControlPlane
from tests.contract.clusters import (
    MAYASTOR_VOLUMES,
    WIDGETS,
    Cluster,
    decoded,
    direct_cluster,
    real_cluster,
    watched,
    without_noise,
)

STREAMS: Final = 12
"""Different streams, each in a namespace of its own."""
STEPS: Final = 60
NAMES: Final = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Pair:
    """The two, at the same beginning."""

    emulator: Cluster
    real: Cluster


@pytest_asyncio.fixture
async def pair(control_plane: ControlPlane) -> AsyncIterator[Pair]:
    """Both servers, each with an empty namespace."""
    async with direct_cluster() as emulator, real_cluster(control_plane) as real:
        yield Pair(emulator, real)


async def outcome(call: Awaitable[msgspec.Raw | None]) -> Any:
    """What a caller can see of an answer, but for what differs by nature."""
    try:
        raw = await call
    except KubeError as error:
        return (type(error).__name__, error.outcome_unknown)
    return None if raw is None else without_noise(decoded(raw))


# -- specs: mostly sensible values, some that are not, in every field that the schema has

Rng = random.Random
FIELDS: Final[dict[str, Callable[[Rng], Any]]] = {
    "word": lambda rng: rng.choice(["abc", "zz", "a", "toolong", "ABC", 5, None, "ab\n", ""]),
    "count": lambda rng: rng.choice([1, 3, 5, 10, 11, 0, -1, 5.0, 5.5, "5", None, True, 2**70]),
    "ratio": lambda rng: rng.choice([0.5, 0, 1, 0.999, 1.0, "0.5", None]),
    "even": lambda rng: rng.choice([2, 3, 4.0, -2, 0, None]),
    "flag": lambda rng: rng.choice([True, False, None, "true", 0]),
    "choice": lambda rng: rng.choice(["A", "B", "C", None, 1]),
    "list": lambda rng: rng.choice([[], None, {}, [{"a": "1"}], [{"a": "1", "b": None, "c": 3}], [{}], [None], [1]]),
    "map": lambda rng: rng.choice([{}, {"a": 1}, {"a": None}, {"a": "x"}, {"a": 1, "b": 2, "c": 3}, [], None]),
    "either": lambda rng: rng.choice([1, "1", 1.5, None, [], True, 3.0]),
    "anything": lambda rng: rng.choice([{}, {"a": None}, {"a": [None, {"b": None}]}, {"a": {"b": 1.0}}, [], None]),
    "nullable": lambda rng: rng.choice(["x", None, 1]),
    "when": lambda rng: rng.choice(
        ["2026-02-02T10:30:00Z", "2026-02-02T10:30:00", "2026-02-02", "2026-13-02T10:30:00Z", None, 1]
    ),
    "nested": lambda rng: rng.choice([{}, {"deep": "x"}, {"deep": None}, {"deep": 1}, {"other": 1}, None, "x"]),
    "unique": lambda rng: rng.choice([[], ["a"], ["a", "b"], ["a", "a"], [1], None]),
    "keyed": lambda rng: rng.choice([[], [{"type": "a"}], [{"type": "a"}, {"type": "a"}], [{"value": "x"}], None]),
    "unknown": lambda rng: rng.choice([1, None, {"a": 1}]),
}


def a_spec(rng: Rng, fields: int) -> dict[str, Any]:
    return {name: FIELDS[name](rng) for name in rng.sample(sorted(FIELDS), rng.randint(0, fields))}


async def test_both_make_the_same_of_any_spec(pair: Pair) -> None:
    rng = random.Random(20260202)
    refused = 0
    for number in range(400):
        spec = {"word": "abc", **a_spec(rng, 3)}
        body = {"metadata": {"name": "w"}, "spec": spec}
        answers = [
            await outcome(one.api.create(WIDGETS, body, one.namespace, dry_run=True))
            for one in (pair.emulator, pair.real)
        ]
        assert answers[0] == answers[1], f"spec {number}: {spec}"
        refused += isinstance(answers[0], tuple)
    assert 80 < refused < 320, "the specs are too good, or too bad, to show anything"


# -- lives: calls of every kind on a few objects, with preconditions that hold and some that do not

Act = Callable[[Cluster], Awaitable[Any]]


class Client:
    """One client of one cluster, which remembers what it saw."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.api: KubeApi = cluster.api
        self.seen: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}

    async def do(self, step: Step) -> Any:
        """Do one step; return what it came to."""
        known = self.seen[step.name]
        remembered = known[-1 if step.fresh else 0]["metadata"] if known else {}
        precondition = {"resourceVersion": remembered["resourceVersion"]} if step.guarded and remembered else {}
        body = {**step.body, "metadata": {**step.body.get("metadata", {}), **precondition}}
        namespace = self.cluster.namespace
        call: Awaitable[msgspec.Raw | None]
        match step.verb:
            case "create":
                body["metadata"] = {**step.body["metadata"], "name": step.name}
                call = self.api.create(WIDGETS, body, namespace, dry_run=step.dry_run)
            case "patch":
                call = self.api.patch(
                    WIDGETS, step.name, body, namespace, subresource=step.subresource, dry_run=step.dry_run
                )
            case "delete":
                version = remembered.get("resourceVersion", "") if step.guarded else ""
                uid = remembered.get("uid", "") if step.guarded else ""
                call = self._delete(step.name, uid, version)
            case _:
                call = self.api.get(WIDGETS, step.name, namespace)
        return await self._remembered(step, call)

    async def _delete(self, name: str, uid: str, version: str) -> None:
        await self.api.delete(WIDGETS, name, self.cluster.namespace, uid=uid, resource_version=version)

    async def _remembered(self, step: Step, call: Awaitable[msgspec.Raw | None]) -> Any:
        kept: list[dict[str, Any]] = []

        async def remember() -> msgspec.Raw | None:
            raw = await call
            if raw is not None:
                kept.append(decoded(raw))
            return raw

        result = await outcome(remember())
        moved = None
        if kept and not step.dry_run:
            known = self.seen[step.name]
            version = kept[0]["metadata"]["resourceVersion"]
            moved = not known or known[-1]["metadata"]["resourceVersion"] != version
            known.append(kept[0])
        return result, moved


@dataclass(frozen=True, slots=True)
class Step:
    """One call."""

    verb: str
    name: str
    body: dict[str, Any]
    subresource: str = ""
    dry_run: bool = False
    guarded: bool = False
    """Whether it carries the resourceVersion that was seen: the last one, or the first."""
    fresh: bool = True


def a_step(rng: Rng) -> Step:
    name = rng.choice(NAMES)
    guarded, fresh = rng.random() < 0.3, rng.random() < 0.7
    dry_run = rng.random() < 0.1
    finalizers: list[Any] = [None, [], ["test/a"], ["test/b", "test/a"]]
    roll = rng.random()
    if roll < 0.2:
        metadata = {key: value for key, value in a_metadata(rng).items() if value is not None}
        metadata["finalizers"] = rng.choice(finalizers) or []
        return Step("create", name, {"metadata": metadata, "spec": {"word": "abc", **a_spec(rng, 1)}}, dry_run=dry_run)
    if roll < 0.45:
        return Step("patch", name, {"spec": a_spec(rng, 2)}, dry_run=dry_run, guarded=guarded, fresh=fresh)
    if roll < 0.6:
        status = {"phase": rng.choice(["x", "y", None, 1]), "count": rng.choice([1, 2, None])}
        return Step("patch", name, {"status": status}, "status", dry_run, guarded, fresh)
    if roll < 0.75:
        metadata = a_metadata(rng)
        if rng.random() < 0.5:
            metadata["finalizers"] = rng.choice(finalizers)
        return Step("patch", name, {"metadata": metadata}, dry_run=dry_run, guarded=guarded, fresh=fresh)
    if roll < 0.9:
        return Step("delete", name, {}, guarded=guarded, fresh=fresh)
    return Step("get", name, {})


def a_metadata(rng: Rng) -> dict[str, Any]:
    labels: dict[str, Any] = rng.choice(
        [{"tier": "hot"}, {"tier": "cold"}, {"tier": None}, {"tier": "not a value"}, {}]
    )
    return {"labels": labels, "annotations": {"test/n": str(rng.randint(0, 2))}}


@pytest.mark.parametrize("seed", range(STREAMS))
async def test_both_lead_the_same_life(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    clients = [Client(pair.emulator), Client(pair.real)]
    beginnings = [await client.cluster.now() for client in clients]
    for number in range(STEPS):
        step = a_step(rng)
        answers = [await client.do(step) for client in clients]
        assert answers[0] == answers[1], f"step {number}: {step}"
    histories = [await _history(client, since) for client, since in zip(clients, beginnings, strict=True)]
    assert histories[0] == histories[1]
    assert len(histories[0]) > 3, "the life is too dull to show anything"


async def _history(client: Client, since: str) -> list[Any]:
    """Everything that a watch tells of the life, up to an object that marks its end."""
    end = {"metadata": {"name": "the-end"}, "spec": {"word": "end"}}
    await client.api.create(WIDGETS, end, client.cluster.namespace)
    told: list[Any] = []
    watch = client.api.watch(WIDGETS, client.cluster.namespace, resource_version=since, label_selector="")
    for kind, body in await watched(watch, 10_000, until=lambda body: body["metadata"]["name"] == "the-end"):
        told.append((kind, body["metadata"]["name"], without_noise(body)))
    return told


TOPOLOGIES: Final[tuple[Any, ...]] = (
    None,
    {},
    {"pool": None},
    {"pool": {"labelled": {"inclusion": {"tier": "cold"}}}},
    {"pool": {"labelled": {"inclusion": {"pool": "pool-nvme-1", "tier": None}}}},
    {"pool": {"labelled": {"inclusion": None}}},
    {"node": {"labelled": {"inclusion": {"zone": "a"}}}},
    {"pool": {"labelled": {"inclusion": {"tier": 1}}}},
    {"elsewhere": {}},
)


@pytest.mark.parametrize("seed", range(4))
async def test_both_make_the_same_of_a_volumes_topology(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    body = {"metadata": {"name": "v"}, "spec": {"numReplicas": 1}}
    for one in (pair.emulator, pair.real):
        await one.api.create(MAYASTOR_VOLUMES, body, one.namespace)
    for _ in range(40):
        spec: dict[str, Any] = {"topology": rng.choice(TOPOLOGIES)}
        if rng.random() < 0.5:
            spec["numReplicas"] = rng.choice([1, 2, 0, 1.0])
        dry_run = rng.random() < 0.3
        answers = [
            await outcome(one.api.patch(MAYASTOR_VOLUMES, "v", {"spec": spec}, one.namespace, dry_run=dry_run))
            for one in (pair.emulator, pair.real)
        ]
        assert answers[0] == answers[1], spec
