"""
Whole moves over Mayastor's REST API on virtual time: the control plane asked in process, the records in a store, and
a process that executes and may die before or after each of its writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import random
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, Body, KubeError, Resource
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import MOVE_MEMORY, PARKED
from common.resources.migration import (
    AdmittedSettings,
    BackendKind,
    MigrationSpec,
    MigrationState,
    MoveSource,
    MoveSpec,
    VolumeMigration,
)
from migrator.annotations import ClusterObjects
from migrator.backends.base import BackendError, Result
from migrator.backends.rest.answers import Meaning, Refused, RestError
from migrator.backends.rest.backend import Names, RestBackend
from migrator.backends.rest.client import RestClient
from migrator.core.model import Outcome, SwitchOff
from migrator.core.steering.abilities import Ability
from migrator.core.steering.cluster import ours
from migrator.core.steering.levers import Lever
from migrator.executor import Execution, Executor
from migrator.held_levers import levers_of
from migrator.journal import Journal, JournalLostError, admitted, decode_migration
from migrator.records import record_body, record_name
from sandbox.fronts.mayastor_rest.app import MayastorRestFront, NoAnswerError, encode, front_settings
from sandbox.fronts.mayastor_rest.contract import validate_exchange
from sandbox.fronts.mayastor_rest.requests import JSON, Request
from sandbox.world.control.counts import drop
from sandbox.world.direct import DirectKubeApi
from sandbox.world.kinds import CRDS
from sandbox.world.storage import Copy, SimPool, SimReplica, SimVolume
from sandbox.world.store import Store
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import quick
from tests.moves.cluster import GIB, QUIET, definitions
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.process import Process, SimClock, never

UUID: Final = "11111111-2222-4333-8444-555555555555"
PV: Final = f"pvc-{UUID}"
CACHE, OPERATION, LEASE = 3.0, 5.0, 4.0
POLL: Final = 2.0
TICK: Final = 0.2
"""So often the world is looked at while a process runs."""


def a_pool(name: str, node: str, tier: str, *, gib: int = 500) -> SimPool:
    return SimPool(name=name, node=node, capacity_bytes=gib * GIB, labels={"tier": tier, "site": "a"})


POOLS: Final = (
    a_pool("sata-1", "node-1", "cold"),
    a_pool("sata-2", "node-2", "cold"),
    a_pool("nvme-2", "node-2", "hot"),
    a_pool("nvme-3", "node-3", "hot"),
)


def a_volume(
    pools: tuple[str, ...] = ("sata-1",),
    *,
    uuid: str = UUID,
    gib: int = 10,
    target_node: str | None = "node-4",
    inclusion: Mapping[str, str] | None = None,
) -> SimVolume:
    """A volume with a complete replica on each of these pools, published on a node."""
    replicas = tuple(
        SimReplica(uuid=f"{index:08x}-0000-4000-8000-{uuid[-12:]}", pool=pool, copy=Copy.COMPLETE, since=0.0)
        for index, pool in enumerate(pools, 1)
    )
    return SimVolume(
        name=uuid,
        size_bytes=gib * GIB,
        replica_count=len(pools),
        inclusion=dict(inclusion) if inclusion else None,
        target_node=target_node,
        replicas=replicas,
    )


async def unmoved(_what: str) -> None:
    """Nothing happens."""


@dataclass
class Writes:
    """All that a process sends, counted; the process may die just before or just after one of them."""

    sent: list[str] = field(default_factory=list)
    dies_at: int = -1
    after: bool = False
    before_write: Callable[[str], Awaitable[object]] = unmoved
    """Is waited for before each takes effect."""
    on_write: Callable[[str], object] = lambda _what: None
    """Is told of each when it has taken effect."""

    async def send(self, process: Process, what: str, act: Callable[[], Awaitable[Any]]) -> Any:
        index = len(self.sent)
        self.sent.append(what)
        if index == self.dies_at and not self.after:
            await die(process)
        await self.before_write(what)
        answer = await act()
        self.on_write(what)
        if index == self.dies_at and self.after:
            await die(process)
        return answer


async def die(process: Process) -> None:
    process.kill()
    await never()


class CountedKube(DirectKubeApi):
    """The store's API as one process has it."""

    def __init__(self, store: Store, process: Process, writes: Writes) -> None:
        super().__init__(store)
        self._process = process
        self._writes = writes

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Body,
        namespace: str | None = None,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> msgspec.Raw:
        call = super().patch
        answer: msgspec.Raw = await self._writes.send(
            self._process,
            f"PATCH {resource.plural}/{name} {subresource}".strip(),
            lambda: call(resource, name, body, namespace, subresource=subresource, dry_run=dry_run),
        )
        return answer


class DirectRestClient(RestClient):
    """The client without sockets; every exchange is held to the contract, if any is."""

    def __init__(self, front: MayastorRestFront, process: Process, writes: Writes, *, by_contract: bool = True) -> None:
        super().__init__("http://mayastor", None, None, None, OPERATION)  # type: ignore[arg-type]
        self._by_contract = by_contract
        self._front = front
        self._process = process
        self._writes = writes

    async def _exchange(
        self, session: Any, method: str, path: str, data: bytes | None, headers: dict[str, str], what: str
    ) -> tuple[int, bytes]:
        if method == "GET":
            return await self._ask(method, path, data, what)
        answer: tuple[int, bytes] = await self._writes.send(
            self._process, f"{method} {path}", lambda: self._ask(method, path, data, what)
        )
        return answer

    async def _ask(self, method: str, path: str, data: bytes | None, what: str) -> tuple[int, bytes]:
        request = Request(method, f"/v0/{path}", data or b"", {"content-type": JSON} if data else {})
        try:
            async with asyncio.timeout(OPERATION):
                answer = await self._front._answer(request)
            if answer is None:
                raise NoAnswerError(path)
        except (TimeoutError, NoAnswerError) as error:
            told = f"no answer: {type(error).__name__}"
            raise RestError(what, Refused(Meaning.OUTCOME_UNKNOWN, 0, told=told)) from error
        body = encode(answer)
        if self._by_contract:
            hold_to_contract(method, f"/v0/{path}", data, answer.status, body)
        return answer.status, body


@functools.lru_cache(maxsize=4096)
def hold_to_contract(method: str, path: str, data: bytes | None, status: int, body: bytes) -> None:
    """Validate an exchange; the same one again is as right as it was."""
    sent = msgspec.json.decode(data) if data else None
    validate_exchange(method, path, sent, status, msgspec.json.decode(body) if body else None)


Happening = Callable[["Scene", VolumeMigration], Awaitable[None]]


class Scene:
    """A cluster behind REST, its Kubernetes, and the process that executes."""

    def __init__(
        self,
        loop: VirtualLoop,
        *volumes: SimVolume,
        version: MayastorVersion = MayastorVersion.OPENEBS_4_3,
        pools: Iterable[SimPool] = POOLS,
        nodes: Iterable[str] = ("node-4",),
        seed: int = 1,
        pool_cordon_counts: bool = False,
        by_contract: bool = True,
        **control: Any,
    ) -> None:
        self.loop = loop
        self.by_contract = by_contract
        """Whether exchanges are held to the contract, which takes as long as all else together."""
        self.clock = SimClock(loop)
        self.store = Store(now=self.clock.now, rng=random.Random(seed))
        for definition in definitions():
            self.store.create(CRDS, definition)
        self.world = DirectKubeApi(self.store)
        base = front_settings(version)
        self.front = MayastorRestFront(
            clock=self.clock,
            rng=random.Random(seed),
            settings=replace(
                base,
                control=replace(quick(base.control), **control),
                cache_seconds=CACHE,
                pool_cordon_counts=pool_cordon_counts,
            ),
            nodes=nodes,
            pools=tuple(pools),
            volumes=volumes or (a_volume(),),
        )
        self.before = self.front.plane
        self.off: set[Ability] = set()
        self.writes = Writes()
        self.seed = seed
        self.tick_seconds = TICK
        self.lives = 0
        self.processes: list[Process] = []
        """Kept, the dead ones too: what one was about must not be cleared away by running it."""
        self.lever_since: dict[str, float] = {}
        self.happening: Happening | None = None
        """What goes on beside the migration, looked at at every tick."""
        self.problems: list[str] = []
        """What must not be and was seen: a lever that stood too long, a complete copy that was lost."""

    # --- the migration -------------------------------------------------------------------------------------------

    async def admit(
        self,
        *moves: tuple[str, str],
        uuid: str = UUID,
        preservation: bool = False,
        dry_run: bool = False,
        timeout: float = 120.0,
    ) -> str:
        """Record a migration of moves from pool to pool, and let it in; return its name."""
        name = f"pvc-{uuid}"
        volume = self.front.volumes[uuid]
        await self.world.create(PERSISTENT_VOLUMES, pv_body(name, uuid, volume.size_bytes))
        spec = MigrationSpec(
            request_id=f"r-{uuid}",
            pv_name=name,
            volume_handle=uuid,
            moves=tuple(MoveSpec(MoveSource(source), target) for source, target in moves or (("sata-1", "nvme-3"),)),
        )
        record = decode_migration(await self.world.create(VOLUME_MIGRATIONS, record_body(spec)))
        settings = AdmittedSettings(
            dry_run=dry_run,
            preservation=preservation,
            timeout_seconds=timeout,
            poll_seconds=POLL,
            read_gap_seconds=CACHE * 1.1,
            backend=BackendKind.REST,
            operation_seconds=OPERATION,
            lease_seconds=LEASE,
        )
        await Journal(self.world, record).store(admitted(record.status, settings, self.clock.now()))
        return record_name(spec.request_id)

    async def live(self, name: str, *, dies_at: int = -1, after: bool = False) -> bool:
        """Execute as one process does, to the migration's end or the process's; tell whether it lived to see it."""
        self.lives += 1
        self.writes.dies_at, self.writes.after = dies_at, after
        process = Process("migrator", f"life-{self.lives}", SimClock(self.loop))
        self.processes.append(process)
        task = process.start(self.loop, self._execute(process, name))
        while not task.done() and not process.dead:
            self._watch()
            if self.happening is not None:
                await self.happening(self, await self.record(name))
            await asyncio.sleep(self.tick_seconds)
        if task.done():
            task.result()
        return not process.dead

    async def _execute(self, process: Process, name: str) -> None:
        client = DirectRestClient(self.front, process, self.writes, by_contract=self.by_contract)
        api = CountedKube(self.store, process, self.writes)
        rng = random.Random(self.seed)
        backend = RestBackend(
            client,
            clock=process.clock,
            rng=rng,
            log=QUIET,
            names=Names(),
            cache_seconds=CACHE,
            operation_seconds=OPERATION,
            lease_seconds=LEASE,
            lever_seconds=10.0,
            may_write=lambda: True,
            levers=self._held,
            off=lambda: frozenset(self.off),
        )
        running = [asyncio.ensure_future(backend.run()), asyncio.ensure_future(backend.take_over())]
        shared = Execution(api, backend, ClusterObjects(api), Held(), process.clock, QUIET, switch_off=self._switch_off)
        try:
            while not (await self.record(name)).status.state.terminal:
                try:
                    await Executor(shared, await self.record(name), process.identity).run()
                except (KubeError, BackendError, JournalLostError):
                    await process.clock.sleep(0.5)
        except Exception:
            await _stopped(running)
            raise
        await _stopped(running)  # and no `finally`: of who is killed nothing more must run

    async def live_on(self, name: str) -> None:
        """Execute by processes that do not die, to the end."""
        while True:
            if await self.live(name):
                return
            await asyncio.sleep(0.5)

    def _held(self) -> tuple[Lever, ...]:
        records = [decode_migration(item) for item in self.store.list_page(VOLUME_MIGRATIONS).items]
        return tuple(lever for record in records if record.active for lever in levers_of(record))

    async def _switch_off(self, write: SwitchOff) -> Result:
        self.off |= set(write.abilities)
        return Result(Outcome.DONE)

    async def record(self, name: str) -> VolumeMigration:
        return decode_migration(await self.world.get(VOLUME_MIGRATIONS, name))

    # --- the world -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        plane = self.front.plane
        now = self.loop.time()
        standing = {f"{name} {label}" for name, node in plane.nodes.items() for label in node.cordons if ours(label)}
        standing |= {
            f"{name} {key}={value}"
            for name, pool in plane.storage.pools.items()
            for key, value in pool.labels.items()
            if ours(value)
        }
        self.lever_since = {key: self.lever_since.get(key, now) for key in standing}
        for key, since in self.lever_since.items():
            if now - since > 10.0 + self.tick_seconds and self.lives <= 1:
                self.problems.append(f"{key} stands for {now - since:.1f} s")
        for volume in plane.storage.volumes.values():
            if not any(replica.copy is Copy.COMPLETE for replica in volume.replicas):
                self.problems.append(f"the last complete copy of {volume.name} is gone")

    def lose_replica(self, pool: str, uuid: str = UUID) -> None:
        """The control plane disowns the replica on a pool."""
        volume = self.front.volumes[uuid]
        replica = next(each for each in volume.replicas if each.pool == pool)
        self.front.api.change(lambda plane: drop(plane, volume, replica)[0])

    def pools_of(self, uuid: str = UUID) -> list[str]:
        return sorted(replica.pool for replica in self.front.volumes[uuid].replicas)

    async def ended(self, name: str, reason: Reason | set[Reason], *, pools: Iterable[str], uuid: str = UUID) -> None:
        """Check the end: why, where the replicas are, and that nothing of ours is left."""
        record = await self.record(name)
        allowed = reason if isinstance(reason, set) else {reason}
        assert Reason(record.status.reason) in allowed, f"{record.status.reason}: {record.status.message}"
        assert self.problems == []
        await asyncio.sleep(60.0)
        assert self.pools_of(uuid) == sorted(pools), record.status.message
        volume = self.front.volumes[uuid]
        assert volume.replica_count == len(list(pools))
        assert all(replica.copy is Copy.COMPLETE for replica in volume.replicas)
        self.nothing_left()
        annotations = msgspec.json.decode(await self.world.get(PERSISTENT_VOLUMES, f"pvc-{uuid}"))["metadata"].get(
            "annotations", {}
        )
        state = record.status.state
        if record.status.reason != Reason.DRY_RUN:
            ends = [end.result for end in read_memory(annotations.get(MOVE_MEMORY))]
            assert ends == [f"{state}({record.status.reason})"]
        parked = state is MigrationState.FAILED or record.status.reason == Reason.SOURCE_PRESERVED
        assert (PARKED in annotations) == parked

    def nothing_left(self) -> None:
        """Cordons and labels are as before."""
        now = self.front.plane
        for name, node in now.nodes.items():
            assert node.cordons == self.before.nodes[name].cordons, f"node {name}"
        for name, pool in now.storage.pools.items():
            assert dict(pool.labels) == dict(self.before.storage.pools[name].labels), f"pool {name}"
            assert now.pools[name].constraints == self.before.pools[name].constraints, f"pool {name}"


async def _stopped(running: Sequence[asyncio.Future[None]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


class Held:
    """A lease that is simply held."""

    held = True


def pv_body(name: str, uuid: str, size: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": str(size)},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "mayastor",
            "csi": {"driver": "io.openebs.csi-mayastor", "volumeHandle": uuid},
        },
    }


def told(story: Callable[[VirtualLoop], Awaitable[None]], seed: int = 1) -> None:
    """Run a story on virtual time."""
    with _nothing_said_of_the_dead():
        failures = _run(story, seed)
    assert failures == []


def _run(story: Callable[[VirtualLoop], Awaitable[None]], seed: int) -> list[str]:
    loop = VirtualLoop(random.Random(seed))

    async def main() -> None:
        await story(loop)

    run(loop, main())
    return list(loop.failures)


@contextlib.contextmanager
def _nothing_said_of_the_dead() -> Iterator[None]:
    """What a dead process was about is cleared away here, without a word of its never having been finished."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _said: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
            gc.collect()
    finally:
        sys.unraisablehook = hook
