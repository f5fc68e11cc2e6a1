"""
A small storage cluster in memory, and a clock that lets it work whenever somebody waits: whole moves in milliseconds.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import yaml

from common.kube.api import (
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    VOLUME_MIGRATIONS,
    Body,
    KubeError,
    Resource,
    UnreachableError,
)
from common.logs import make_logger
from common.resources.migration import (
    AdmittedSettings,
    MigrationSpec,
    MoveSource,
    MoveSpec,
    PolicyRef,
    VolumeMigration,
)
from migrator.annotations import ClusterObjects
from migrator.backends.base import BackendError
from migrator.backends.crd import CrdBackend
from migrator.core.model import End
from migrator.executor import Execution, Executor
from migrator.journal import Journal, JournalLostError, admitted, decode_migration
from migrator.records import record_body, record_name
from sandbox.world.direct import DirectKubeApi
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES, Driver, DriverSettings
from sandbox.world.kinds import CRDS
from sandbox.world.mayastor import Copy, Settings, SimPool, SimReplica, SimVolume
from sandbox.world.store import Store

ROOT = Path(__file__).parents[2]
CRD_FOLDERS = (ROOT / "helm/couchestor/crds", ROOT / "sandbox/crds")
START = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
GIB = 2**30
VOLUME = "pvc-abc123"
SOURCE, TARGET = "pool-sata-1", "pool-nvme-1"
TICK = 0.2
NAMESPACE = "mayastor"


@functools.cache
def definitions() -> tuple[Mapping[str, Any], ...]:
    """Read the definitions once: YAML is slow, and many clusters are made."""
    files = [file for folder in CRD_FOLDERS for file in sorted(folder.glob("*.yaml"))]
    return tuple(document for file in files for document in yaml.safe_load_all(file.read_text()))


class Crash(BaseException):
    """The process dies here."""


class WorkingClock:
    """Time that passes only while somebody sleeps, and then for the whole cluster."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.on_tick: Callable[[], Awaitable[None]] | None = None
        self.skew = timedelta(0)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed) + self.skew

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        end = self.elapsed + max(seconds, 0.001)
        while self.elapsed < end:
            self.elapsed = min(end, self.elapsed + TICK)
            if self.on_tick is not None:
                await self.on_tick()


@dataclass(frozen=True, slots=True)
class Sent:
    """One write that was sent."""

    verb: str
    resource: Resource
    name: str
    body: Mapping[str, Any]
    subresource: str = ""
    dry_run: bool = False


@dataclass
class WatchedApi(DirectKubeApi):
    """The store's API as one process has it: every write is noted, and any may go wrong."""

    store: Store
    sent: list[Sent] = field(default_factory=list)
    before: Callable[[int, Sent], None] = lambda _index, _sent: None
    after: Callable[[int, Sent], None] = lambda _index, _sent: None
    noticed: Callable[[], None] = lambda: None
    """What goes on beside is done as soon as a write took effect, whatever becomes of its answer."""

    def __post_init__(self) -> None:
        DirectKubeApi.__init__(self, self.store)

    async def _write(self, sent: Sent, act: Callable[[], Awaitable[Any]]) -> Any:
        index = len(self.sent)
        self.sent.append(sent)
        self.before(index, sent)
        answer = await act()
        self.noticed()
        self.after(index, sent)
        return answer

    async def create(
        self, resource: Resource, body: Body, namespace: str | None = None, *, dry_run: bool = False
    ) -> msgspec.Raw:
        call = super().create
        sent = Sent("create", resource, str(body["metadata"].get("name", "")), body, "", dry_run)
        answer: msgspec.Raw = await self._write(sent, lambda: call(resource, body, namespace, dry_run=dry_run))
        return answer

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
        sent = Sent("patch", resource, name, body, subresource, dry_run)
        answer: msgspec.Raw = await self._write(
            sent, lambda: call(resource, name, body, namespace, subresource=subresource, dry_run=dry_run)
        )
        return answer


class Held:
    """A lease that is simply held, or not."""

    held = True


def a_pool(name: str, node: str, tier: str, *, capacity: int = 500 * GIB, reserved: int = 0) -> SimPool:
    return SimPool(
        name=name, node=node, capacity_bytes=capacity, labels={"tier": tier, "site": "a"}, reserved_bytes=reserved
    )


def a_volume(
    name: str = VOLUME,
    pools: tuple[str, ...] = (SOURCE,),
    *,
    size: int = 10 * GIB,
    inclusion: Mapping[str, str] | None = None,
    target_node: str | None = "node-1",
) -> SimVolume:
    replicas = tuple(SimReplica(uuid=f"{name}-{pool}", pool=pool, copy=Copy.COMPLETE, since=0.0) for pool in pools)
    return SimVolume(
        name=name,
        size_bytes=size,
        replica_count=len(pools),
        inclusion=inclusion,
        target_node=target_node,
        replicas=replicas,
    )


POOLS = (
    a_pool(SOURCE, "node-1", "cold"),
    a_pool("pool-sata-2", "node-2", "cold"),
    a_pool(TARGET, "node-2", "hot", reserved=200 * GIB),
    a_pool("pool-nvme-2", "node-3", "hot"),
)
FAST = Settings(rebuild_bytes_per_second=4 * GIB)


class Cluster:
    """Store, Mayastor and time; `migrate` executes as one process does, and may be called again after a crash."""

    def __init__(self, *, settings: Settings = FAST, uuids: bool = True, seed: int = 1) -> None:
        self.clock = WorkingClock()
        self.store = Store(now=self.clock.now, rng=random.Random(seed))
        for definition in definitions():
            self.store.create(CRDS, definition)
        self.world = DirectKubeApi(self.store)
        self.driver = Driver(
            self.world,
            clock=self.clock,
            rng=random.Random(seed),
            settings=settings,
            driver_settings=DriverSettings(namespace=NAMESPACE, tick_seconds=TICK, report_uuids=uuids),
        )
        self.lease = Held()
        self.sent: list[Sent] = []
        self.on_tick: list[Callable[[], Awaitable[None]]] = []
        """What else happens as time passes."""
        self.on_write: list[Callable[[], None]] = []
        """What else happens as soon as something was written."""
        self.processes = 0
        self.clock.on_tick = self._tick

    async def _tick(self) -> None:
        await self.driver.tick()
        for happen in tuple(self.on_tick):
            await happen()

    def _noticed(self) -> None:
        for happen in tuple(self.on_write):
            happen()

    async def install(self, *volumes: SimVolume, pools: tuple[SimPool, ...] = POOLS) -> None:
        await self.driver.install(pools, volumes)
        for volume in volumes:
            await self.world.create(PERSISTENT_VOLUMES, pv_body(volume.name, volume.size_bytes))

    async def admit(
        self,
        *,
        volume: str = VOLUME,
        source: str = SOURCE,
        target: str = TARGET,
        moves: tuple[tuple[str, str], ...] = (),
        request_id: str = "r-1",
        policy: PolicyRef | None = None,
        not_after: datetime | None = None,
        dry_run: bool = False,
        preservation: bool = False,
        timeout: float = 600.0,
    ) -> str:
        """Record a migration (of one replica, or of all these moves) and let it in; return its name."""
        spec = MigrationSpec(
            request_id=request_id,
            pv_name=volume,
            volume_handle=f"{volume}-uuid",
            moves=tuple(MoveSpec(MoveSource(one), other) for one, other in moves or ((source, target),)),
            policy_ref=policy,
            not_after=not_after,
        )
        raw = await self.world.create(VOLUME_MIGRATIONS, record_body(spec))
        settings = AdmittedSettings(
            dry_run=dry_run, preservation=preservation, timeout_seconds=timeout, poll_seconds=2.0, read_gap_seconds=1.0
        )
        record = decode_migration(raw)
        await Journal(self.world, record).store(admitted(record.status, settings, self.clock.now()))
        return record_name(request_id)

    def api(self, **disturbances: Any) -> WatchedApi:
        """Give a new process its API."""
        return WatchedApi(self.store, self.sent, noticed=self._noticed, **disturbances)

    async def execute(self, name: str, api: WatchedApi) -> End:
        """Execute a migration as one process does, once; whatever goes wrong passes through."""
        self.processes += 1
        backend = CrdBackend(
            api,
            group="openebs.io",
            version="v1",
            namespace=NAMESPACE,
            clock=self.clock,
            rng=random.Random(1),
            log=QUIET,
        )
        shared = Execution(api, backend, ClusterObjects(api), self.lease, self.clock, QUIET)
        return await Executor(shared, await self.record(name), f"process-{self.processes}").run()

    async def migrate(self, name: str, api: WatchedApi | None = None) -> None:
        """Execute a migration to its end, beginning anew after errors; a Crash ends the process and passes through."""
        api = api or self.api()
        while not (await self.record(name)).status.state.terminal:
            try:
                await self.execute(name, api)
            except (KubeError, BackendError, JournalLostError):
                await self.clock.sleep(0.5)

    async def record(self, name: str) -> VolumeMigration:
        return decode_migration(await self.world.get(VOLUME_MIGRATIONS, name))

    async def volume(self, name: str = VOLUME) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await self.world.get(MAYASTOR_VOLUMES, name, NAMESPACE))
        return found

    async def pv(self, name: str = VOLUME) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await self.world.get(PERSISTENT_VOLUMES, name))
        return found

    async def pools_of(self, name: str = VOLUME) -> list[str]:
        return [replica["pool"] for replica in (await self.volume(name))["status"]["replicas"]]

    async def edit(self, name: str = VOLUME, **spec: Any) -> None:
        """Somebody changes a volume's spec."""
        await self.world.patch(MAYASTOR_VOLUMES, name, {"spec": spec}, NAMESPACE)

    async def policy(self, name: str = "database-tiering", **spec: Any) -> PolicyRef:
        """Create a policy, or change it; return a reference to it as it is then."""
        try:
            raw = await self.world.patch(STORAGE_POLICIES, name, {"spec": spec})
        except KubeError:
            raw = await self.world.create(STORAGE_POLICIES, {"metadata": {"name": name}, "spec": spec})
        meta = msgspec.json.decode(raw)["metadata"]
        return PolicyRef(name, meta["uid"], meta["generation"])

    def patches(self, name: str = VOLUME) -> list[dict[str, Any]]:
        """List what was sent to a volume for good, without the resourceVersion."""
        plural = MAYASTOR_VOLUMES.plural
        made = (sent for sent in self.sent if sent.resource.plural == plural and sent.name == name)
        return [without_version(sent.body) for sent in made if not sent.dry_run]

    def sent_to_volume(self, name: str = VOLUME) -> list[Sent]:
        """List all that was sent to a volume, tried without effect or for good."""
        plural = MAYASTOR_VOLUMES.plural
        return [sent for sent in self.sent if sent.resource.plural == plural and sent.name == name]


def without_version(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body as the specification compares it."""
    meta = {key: value for key, value in body.get("metadata", {}).items() if key != "resourceVersion"}
    rest = {key: value for key, value in body.items() if key != "metadata"}
    return {**rest, "metadata": meta} if meta else rest


def pv_body(name: str, size: int, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "annotations": dict(annotations or {})},
        "spec": {
            "capacity": {"storage": str(size)},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "mayastor",
            "csi": {"driver": "io.openebs.csi-mayastor", "volumeHandle": f"{name}-uuid"},
        },
    }


QUIET = make_logger("test", level="ERROR", json=True)
DISKPOOLS = DISK_POOLS
LOST = UnreachableError("no answer")
