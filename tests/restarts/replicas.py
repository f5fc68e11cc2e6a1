"""
Two migrators, whole but for their sockets, on one cluster; and between each of them and the API server a line that can
be cut, or hold a single request back until long after whoever sent it was given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from common.kube.api import LEASES, PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, Resource, UnreachableError
from common.logs import make_logger
from common.metrics import new_registry
from common.resources.memory import read_memory
from common.resources.meta import MOVE_MEMORY
from common.resources.migration import (
    MigrationSpec,
    MigrationState,
    MoveSource,
    MoveSpec,
    PolicyRef,
    VolumeMigration,
)
from migrator.__main__ import Settings, limits_of, rules_of
from migrator.app import Migrator
from migrator.journal import decode_migration
from migrator.metrics import MigratorMetrics
from migrator.records import record_body, record_name
from sandbox.world.calls import Call, ConnectionLostError
from sandbox.world.driver import Driver, DriverSettings
from sandbox.world.kinds import CRDS
from sandbox.world.mayastor import Settings as MayastorSettings
from sandbox.world.mayastor import SimPool, SimVolume
from sandbox.world.store import Store
from tests.clock import ManualClock
from tests.moves.cluster import GIB, NAMESPACE, Sent, WatchedApi, a_pool, a_volume, definitions, pv_body

LEASE = "couchestor-migrator"
DURATION, RENEW, RETRY = 15.0, 10.0, 2.0
STEP = 0.25
FAST = MayastorSettings(rebuild_bytes_per_second=10 * GIB, create_seconds=0.5)
SLOW = MayastorSettings(rebuild_bytes_per_second=0.01 * GIB, create_seconds=0.5)
POOLS = tuple(
    a_pool(f"{tier}-{n}", f"node-{tier}-{n}", tier, capacity=10_000 * GIB) for tier in ("cold", "hot") for n in range(4)
)


@dataclass
class Line(WatchedApi):
    """What one process has of the API server."""

    cut: bool = False
    """Nothing comes through any more."""
    cut_for: frozenset[Resource] = frozenset()
    holds: Callable[[Sent], bool] | None = None
    """The first write that it is true of stays on the way until `release`, whatever becomes of its sender."""
    gives_up: bool = False
    """Whether the sender of what is held is told at once that there was no answer."""
    held: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Task[Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._before = self._broken

    async def _broken(self, call: Call) -> None:
        if self.cut or call.resource in self.cut_for:
            raise ConnectionLostError

    async def _write(self, sent: Sent, act: Callable[[], Awaitable[Any]]) -> Any:
        if self.holds is None or not self.holds(sent):
            return await super()._write(sent, act)
        self.holds = None
        self.arrived = asyncio.create_task(self._deliver(sent, act))
        self.held.set()
        if self.gives_up:
            raise UnreachableError("no answer")
        return await asyncio.shield(self.arrived)

    async def _deliver(self, sent: Sent, act: Callable[[], Awaitable[Any]]) -> Any:
        await self.let_go.wait()
        cut, self.cut, self.cut_for = (self.cut, self.cut_for), False, frozenset()  # it is beyond the place of the cut
        try:
            return await super()._write(sent, act)
        finally:
            self.cut, self.cut_for = cut

    async def release(self) -> BaseException | None:
        """Let it arrive at last; return what it was answered, None for yes."""
        assert self.arrived is not None
        self.let_go.set()
        await asyncio.wait({self.arrived})
        return self.arrived.exception()


@dataclass
class Replica:
    """One migrator."""

    name: str
    line: Line
    app: Migrator
    log: io.StringIO
    up: bool = True

    @property
    def leads(self) -> bool:
        return self.app.leader.leads and self.app.lease.held

    async def stop(self) -> None:
        """End in good order, as on SIGTERM."""
        self.up = False
        await self.app.__aexit__(None, None, None)

    async def die(self) -> None:
        """End without another word."""
        self.line.cut = True
        await self.stop()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [msgspec.json.decode(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


class Town:
    """A cluster with its storage at work, and time that is moved by hand."""

    def __init__(self, mayastor: MayastorSettings = FAST, **settings: Any) -> None:
        self.clock = ManualClock()
        self.store = Store(now=self.clock.now, rng=random.Random(7))
        for definition in definitions():
            self.store.create(CRDS, definition)
        self.api = WatchedApi(self.store)
        self.driver = Driver(
            self.api,
            clock=self.clock,
            rng=random.Random(7),
            settings=mayastor,
            driver_settings=DriverSettings(namespace=NAMESPACE, tick_seconds=STEP),
        )
        self.settings = settings
        self.replicas: list[Replica] = []
        self.most: dict[str, int] = {}
        """The most migrations that were seen active at once, by what is counted."""
        self._driving: asyncio.Task[None] | None = None

    async def install(self, *volumes: SimVolume, pools: tuple[SimPool, ...] = POOLS) -> None:
        await self.driver.install(pools, volumes)
        for volume in volumes:
            await self.api.create(PERSISTENT_VOLUMES, pv_body(volume.name, volume.size_bytes))
        self._driving = asyncio.create_task(self.driver.run())

    async def close(self) -> None:
        for replica in self.replicas:
            if replica.up:
                await replica.stop()
        if self._driving is not None:
            self._driving.cancel()
            await asyncio.gather(self._driving, return_exceptions=True)

    async def replica(self, name: str, **changed: Any) -> Replica:
        """Start a migrator."""
        settings = Settings(
            **{
                "identity": name,
                "lease_duration_seconds": DURATION,
                "lease_renew_seconds": RENEW,
                "lease_retry_seconds": RETRY,
                "sync_poll_interval_seconds": 2.0,
                **self.settings,
                **changed,
            }
        )
        log, line = io.StringIO(), Line(self.store)
        logger = make_logger("migrator", level="INFO", json=True, stream=log, clock=self.clock)
        app = Migrator(
            settings,
            line,
            rules_of(settings),
            limits_of(settings),
            MigratorMetrics(new_registry()),
            logger,
            self.clock,
            random.Random(name),
        )
        await app.__aenter__()
        replica = Replica(name, line, app, log)
        self.replicas.append(replica)
        return replica

    async def leader(self, name: str, **changed: Any) -> Replica:
        """Start a migrator, and wait until it leads."""
        replica = await self.replica(name, **changed)
        await self.until(lambda: replica.leads, what=f"{name} leads")
        return replica

    # --- time ----------------------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Let time pass, and count at every moment what is active."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 1e-9:
            await self.clock.advance(min(STEP, left))
            self._count()

    async def until(self, holds: Callable[[], Any], *, seconds: float = 300.0, what: str = "") -> None:
        """Let time pass until something holds. Raises AssertionError."""
        end = self.clock.monotonic() + seconds
        while not holds():
            if self.clock.monotonic() > end:
                logs = "\n".join(f"--- {replica.name}\n{replica.log.getvalue()}" for replica in self.replicas)
                raise AssertionError(f"not within {seconds:g} s: {what}\n{logs}")
            await self.advance(STEP)

    def _count(self) -> None:
        active = [record for record in self.records() if record.active]
        keys = ["all"] * len(active) + [f"volume {record.spec.pv_name}" for record in active]
        keys += [f"pool {pool}" for r in active for m in r.spec.moves for pool in {m.source.pool, m.target_pool}]
        keys += [f"policy {record.spec.policy_ref.name}" for record in active if record.spec.policy_ref is not None]
        for key in keys:
            self.most[key] = max(self.most.get(key, 0), keys.count(key))

    # --- what there is -------------------------------------------------------------------------------------------

    async def ask(self, volume: str, source: str, target: str, *, request: str = "", **spec: Any) -> str:
        """Write a request down, as any replica would; return its name."""
        policy = spec.pop("policy", None)
        body = record_body(
            MigrationSpec(
                request_id=request or volume,
                pv_name=volume,
                volume_handle=f"{volume}-uuid",
                moves=(MoveSpec(MoveSource(source), target),),
                policy_ref=PolicyRef(policy, "uid") if policy else None,
                **spec,
            )
        )
        await self.api.create(VOLUME_MIGRATIONS, body)
        return record_name(request or volume)

    def record(self, name: str) -> VolumeMigration:
        return decode_migration(self.store.get(VOLUME_MIGRATIONS, name))

    def records(self) -> list[VolumeMigration]:
        return [decode_migration(item) for item in self.store.list_page(VOLUME_MIGRATIONS).items]

    def state(self, name: str) -> MigrationState:
        return self.record(name).status.state

    def ended(self, *names: str) -> bool:
        return all(self.state(name).terminal for name in names)

    def ends(self, volume: str) -> list[str]:
        """List what a PersistentVolume remembers of ends."""
        annotations = msgspec.json.decode(self.store.get(PERSISTENT_VOLUMES, volume))["metadata"].get("annotations", {})
        return [end.result for end in read_memory(annotations.get(MOVE_MEMORY))]

    def holder(self) -> str:
        """Tell who holds the lease."""
        lease = msgspec.json.decode(self.store.get(LEASES, LEASE, "default"))
        return str(lease["spec"].get("holderIdentity") or "")


@contextlib.asynccontextmanager
async def a_town(*volumes: SimVolume, mayastor: MayastorSettings = FAST, **settings: Any) -> AsyncIterator[Town]:
    """Set up a cluster; whatever runs in it is stopped at the end."""
    town = Town(mayastor, **settings)
    try:
        await town.install(*(volumes or [a_volume(f"pvc-{n}", (f"cold-{n}",), size=GIB) for n in range(4)]))
        yield town
    finally:
        await town.close()


def admits(name: str) -> Callable[[Sent], bool]:
    """Recognise the admission of a migration on its way."""

    def is_it(sent: Sent) -> bool:
        status = sent.body.get("status", {})
        return sent.resource == VOLUME_MIGRATIONS and sent.name == name and status.get("state") == "Analyzing"

    return is_it
