"""
A backend at work on the simulated REST API, asked in process: time passes only where a test lets it, whatever the
machine is busy with. Every exchange is held to the contract.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from common.clock import within
from common.placement import Refusal
from migrator.backends.base import Result
from migrator.backends.rest.answers import Meaning, Refused, RestError
from migrator.backends.rest.backend import Names, RestBackend
from migrator.backends.rest.client import RestClient
from migrator.core.model import Outcome, Purpose, ReleaseLevers, SetReplicaCount, VolumeSeen
from migrator.core.steering.abilities import Ability
from migrator.core.steering.adding import plan_add
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool, Lever
from migrator.core.steering.removing import plan_removal, plan_reverse
from sandbox.fronts.mayastor_rest.app import encode
from sandbox.fronts.mayastor_rest.contract import validate_exchange
from sandbox.fronts.mayastor_rest.requests import Request
from sandbox.world.storage import SimPool
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import HOT, OTHER, POOLS, VOLUME, RestCluster, a_pool
from tests.moves.cluster import QUIET

PV = "pvc-of-mine"
OTHER_PV = "pvc-of-others"
NAMES = Names(
    pv_name={VOLUME: PV, OTHER: OTHER_PV}.get,
    handle={PV: VOLUME, OTHER_PV: OTHER}.get,
)
MARK = "couchestor-m1"
CACHE = 30.0
TAKE_OVER_SECONDS = 30.0
"""Of the operation and of the lease together."""
LEVER_SECONDS = 10.0
PLANS = {Purpose.SCALE_UP: plan_add, Purpose.SCALE_DOWN: plan_removal, Purpose.REMOVE_NEW: plan_reverse}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call that was answered."""

    method: str
    path: str
    status: int
    at: float

    @property
    def writes(self) -> bool:
        return self.method != "GET"


class InProcessClient(RestClient):
    """The client without its sockets; deadlines go by the cluster's clock."""

    def __init__(self, cluster: RestCluster, operation_seconds: float = 15.0) -> None:
        session: Any = None
        super().__init__("http://in-process", session, session, None, operation_seconds)
        self._cluster = cluster
        self.exchanges: list[Exchange] = []
        self.before: Callable[[str, str], Awaitable[object]] | None = None
        """Awaited before each call is sent: method and path."""

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        what: str,
    ) -> tuple[int, bytes]:
        if self.before is not None:
            await self.before(method, path)
        try:
            return await within(self._cluster.clock, self._seconds, self._asked(method, path, data, headers, what))
        except TimeoutError as error:
            raise RestError(what, Refused(Meaning.OUTCOME_UNKNOWN, 0, told="no answer in time")) from error

    async def _asked(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], what: str
    ) -> tuple[int, bytes]:
        lowered = {name.lower(): value for name, value in headers.items()}
        answer = await self._cluster.front._answer(Request(method, f"/v0/{path}", data or b"", lowered))
        if answer is None:
            raise RestError(what, Refused(Meaning.OUTCOME_UNKNOWN, 0, told="the connection broke"))
        body = encode(answer)
        sent, received = (msgspec.json.decode(each) if each else None for each in (data, body))
        validate_exchange(method, f"/v0/{path}", sent, answer.status, received)
        self.exchanges.append(Exchange(method, f"/{path}", answer.status, self._cluster.clock.monotonic()))
        return answer.status, body


@dataclass(slots=True)
class Lease:
    """The lease, as a test has it."""

    held: bool = True
    asked: int = 0
    lost_after: int | None = None
    """It is lost once it was asked for so often."""

    def __call__(self) -> bool:
        self.asked += 1
        if self.lost_after is not None and self.asked > self.lost_after:
            self.held = False
        return self.held


@dataclass(slots=True)
class Desk:
    """A backend, and what it is told of the migrator around it."""

    cluster: RestCluster
    client: InProcessClient
    backend: RestBackend
    lease: Lease
    held: list[Lever] = field(default_factory=list)
    """Levers of migrations under way."""
    left: list[Lever] = field(default_factory=list)
    """Of ended ones."""
    off: set[Ability] = field(default_factory=set)

    async def take_over(self) -> None:
        """Become the leader, to whom nothing was left."""
        await self.driven(self.backend.take_over())

    async def driven(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something, letting time pass as far as it needs it to."""
        return await drive(self.cluster, asyncio.ensure_future(work))

    async def read(self, name: str = PV) -> VolumeSeen:
        seen = (await self.driven(self.backend.read(name, ()))).volume
        assert seen is not None
        return seen

    async def planned(self, purpose: Purpose, concerns: str, *, mark: str = MARK, name: str = PV) -> SetReplicaCount:
        """The write that brings one replica more to a pool, or takes the one on a pool away."""
        rest = (await self.driven(self.backend.read(name, ()))).rest
        assert rest is not None
        volume = rest.volume
        assert volume is not None
        count = volume.replica_count + (1 if purpose is Purpose.SCALE_UP else -1)
        if purpose is not Purpose.SCALE_UP:
            replica = volume.on_pool(concerns)
            assert replica is not None
            concerns = replica.identity
        plan = PLANS[purpose](rest.cluster, volume, concerns, rest.abilities, mark)
        assert not isinstance(plan, Refusal), plan
        return SetReplicaCount(purpose, count, plan.levers, tuple(plan.relies_on), concerns, mark)

    async def perform(self, write: SetReplicaCount | ReleaseLevers, name: str = PV) -> Result:
        return await self.driven(self.backend.perform(write, await self.read(name)))

    def begin(self, write: SetReplicaCount | ReleaseLevers, seen: VolumeSeen) -> asyncio.Task[Result]:
        return asyncio.ensure_future(self.backend.perform(write, seen))

    # --- what is there -------------------------------------------------------------------------------------------

    @property
    def marks_left(self) -> set[str]:
        """What of ours is on nodes and pools, by short names."""
        plane = self.cluster.front.plane
        cordons = {f"{node.name}:{label}" for node in plane.nodes.values() for label in node.cordons}
        labels = {
            f"{pool.name}:{key}={value}"
            for pool in plane.storage.pools.values()
            for key, value in pool.labels.items()
            if value.startswith("couchestor")
        }
        return (
            cordons | labels | {f"{name}:closed" for name, entry in plane.pools.items() if entry.constraints.replicas}
        )

    def labels(self, pool: str) -> dict[str, str]:
        return dict(self.cluster.front.state.pools[pool].labels)

    @property
    def replicas(self) -> set[str]:
        """The pools that have a replica of the volume."""
        return {replica.pool for replica in self.cluster.front.volumes[VOLUME].replicas}

    @property
    def writes(self) -> list[str]:
        """All that was written, in order."""
        return [f"{each.method} {each.path}" for each in self.client.exchanges if each.writes]

    @property
    def counted(self) -> list[str]:
        """The calls that change a replica count."""
        return [each for each in self.writes if "replica_count" in each]


async def drive(cluster: RestCluster, task: asyncio.Task[T], *, step: float = 0.25, limit: float = 600.0) -> T:
    """Let a task go on, and time pass whenever it waits for that."""
    for _ in range(int(limit / step)):
        await settle(task)
        if task.done():
            return await task
        await cluster.clock.advance(step)
    raise AssertionError(f"not done within {limit} s")


async def settle(task: asyncio.Task[Any] | None = None) -> None:
    """Let all go on as far as they get without time passing."""
    for _ in range(200):
        await asyncio.sleep(0)
        if task is not None and task.done():
            return


def a_desk(cluster: RestCluster, **settings: Any) -> Desk:
    client = InProcessClient(cluster)
    lease = Lease()
    held: list[Lever] = []
    left: list[Lever] = []
    off: set[Ability] = set()
    backend = RestBackend(
        client,
        clock=cluster.clock,
        rng=random.Random(1),
        **{
            "log": QUIET,
            "names": NAMES,
            "cache_seconds": CACHE,
            "operation_seconds": 15.0,
            "lease_seconds": TAKE_OVER_SECONDS - 15.0,
            "lever_seconds": LEVER_SECONDS,
            "levers": lambda: tuple(held),
            "left_behind": lambda: tuple(left),
            "off": lambda: frozenset(off),
            "may_write": lease,
            **settings,
        },
    )
    return Desk(cluster, client, backend, lease, held, left, off)


async def informed(cluster: RestCluster, **settings: Any) -> Desk:
    """A desk of somebody who knows what the control plane can do."""
    desk = a_desk(cluster, **settings)
    task = asyncio.ensure_future(desk.backend.run())
    while desk.backend.marks is None:
        await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    desk.client.exchanges.clear()
    return desk


async def leading(cluster: RestCluster, **settings: Any) -> Desk:
    """A desk of a leader that has taken over as well."""
    desk = await informed(cluster, **settings)
    await desk.take_over()
    desk.client.exchanges.clear()
    return desk


def kinds(write: SetReplicaCount) -> list[type[CordonNode | LabelPool | CordonPool]]:
    return [type(lever) for lever in write.levers]


def refused(result: Result, outcome: Outcome) -> str:
    """Check the outcome of a write that did not happen; return what is told."""
    assert result.outcome is outcome, result
    assert result.detail
    return result.detail


# --- scenes ---------------------------------------------------------------------------------------------------------

TWO_ON_N2: Final = (*POOLS, a_pool("p2b", "n2"))


async def one_replica(
    version: MayastorVersion = MayastorVersion.LATE_2024,
    *,
    pools: Iterable[SimPool] = POOLS,
    target: str = "n1",
    hot: bool = False,
) -> Desk:
    """A leader and a volume on p1."""
    cluster = RestCluster(version, pools=pools)
    more: dict[str, Any] = {"topology": HOT} if hot else {}
    await cluster.create(on="p1", **more)
    await cluster.publish(target)
    return await leading(cluster)


async def two_replicas(version: MayastorVersion, *, target: str, hot: bool = False) -> Desk:
    """A leader and a volume on p1 and p2, all synced."""
    cluster = RestCluster(version)
    more: dict[str, Any] = {"topology": HOT} if hot else {}
    await cluster.two_replicas("p1", target, also="p2", **more)
    return await leading(cluster)
