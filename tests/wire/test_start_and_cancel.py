"""
StartMigration twice and CancelMigration in each phase, as an administrator calls them: on both backends, by grpcurl
and by a client of gRPC. What becomes of the volume is seen in the storage itself, not in what the service says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.migrator.v1 import migrator_pb2_grpc
from google.protobuf.json_format import MessageToDict, ParseDict

from common.resources.migration import BackendKind
from migrator.servicer import SERVICE
from sandbox.demo.eyes import Look, of_plane, of_resources
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.fronts.proxy import When
from sandbox.real.tools import tool
from sandbox.world.storage import Copy, SimReplica, SimVolume
from sandbox.world.versions import MayastorVersion
from tests.contract import rest_cluster
from tests.contract.rest_cluster import GIB, RestCluster
from tests.moves import cluster as crd_cluster
from tests.real import require_real
from tests.wire import rest_stage as rest
from tests.wire.migrator_stage import BRISK, DEADLINE, SLOW, stage

Call = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Calls a method of the migrator, with its request and its answer as JSON has them."""

BACKENDS = pytest.mark.parametrize("backend", list(BackendKind))
CALLERS = pytest.mark.parametrize("caller", ["grpc", "grpcurl"])
REPLICA = "99999999-2222-4333-8444-555555555555"


@dataclass(frozen=True, slots=True)
class Ground:
    """A migrator, and a volume of one replica that is to be moved."""

    address: str
    stub: migrator_pb2_grpc.MigratorServiceAsyncStub
    volume: str
    target: str
    look: Look
    go_on: Callable[[], None] = lambda: None
    """Lets the removal of the old replica go on, where it is held and does not do so by itself."""

    async def until(self, name: str, wanted: Callable[[pb.Migration], bool]) -> pb.Migration:
        """Wait until a migration is as wanted."""
        async with asyncio.timeout(DEADLINE):
            while True:
                found = (await self.stub.GetMigration(pb.GetMigrationRequest(name=name), timeout=10)).migration
                if wanted(found):
                    return found
                await asyncio.sleep(0.02)

    async def until_ended(self, name: str) -> tuple[str, str]:
        """Wait for its end, and return state and reason."""
        ended = await self.until(name, lambda migration: migration.HasField("ended_at"))
        return pb.MigrationState.Name(ended.state), ended.reason


@asynccontextmanager
async def on_resources(tmp_path: Path, *, slow: bool, lingers: bool) -> AsyncIterator[Ground]:
    def removal(method: str, url: str, body: Any) -> bool:
        here = method == "PATCH" and f"/mayastorvolumes/{crd_cluster.VOLUME}" in url
        return here and body.get("spec", {}).get("numReplicas") == 1

    async with stage(tmp_path, mayastor=SLOW if slow else BRISK) as running:
        held = running.proxy.hold(removal, When.AFTER) if lingers else None
        yield Ground(
            address=f"127.0.0.1:{running.ports.grpc}",
            stub=running.stub,
            volume=crd_cluster.VOLUME,
            target=crd_cluster.TARGET,
            look=of_resources(running.api, lambda: running.driver.state),
            go_on=held.release if held is not None else lambda: None,
        )


@asynccontextmanager
async def on_rest(tmp_path: Path, *, slow: bool, lingers: bool) -> AsyncIterator[Ground]:
    pools = [rest_cluster.a_pool(f"p{n}", f"n{n}", tier, gib=500) for n, tier in ((1, "cold"), (2, "hot"), (3, "cold"))]
    size = (200 if slow else 1) * GIB
    replica = SimReplica(REPLICA, "p1", Copy.COMPLETE, 0.0, float(size))
    volume = SimVolume(rest_cluster.VOLUME, size, 1, target_node="n2", replicas=(replica,))
    cluster = rest.in_real_time(RestCluster(MayastorVersion.OPENEBS_4_3, pools=pools), volume)

    # Nothing can be held there: a call that is not answered in time is taken for lost.
    operation, cache = (2.0, 1.5) if lingers else (1.0, 0.2)
    if lingers:
        path = f"{rest_cluster.VOLUME}/replica_count/1$"
        cluster.front.inject(Fault(Effect.SLOW, "PUT", path, seconds=1.5))
    brisk: dict[str, Any] = {
        "lease_duration_seconds": 1.0,
        "lease_renew_seconds": 0.8,
        "mayastor_operation_seconds": operation,
        "mayastor_cache_seconds": cache,
    }
    async with rest.rest_stage(tmp_path, cluster, **brisk) as running:
        await running.placed()
        yield Ground(
            address=f"127.0.0.1:{running.ports.grpc}",
            stub=running.migrator,
            volume=rest.PV,
            target="p2",
            look=of_plane(lambda: cluster.front.plane, {rest_cluster.VOLUME: rest.PV}),
        )


def ground(
    backend: BackendKind, tmp_path: Path, *, slow: bool = False, lingers: bool = False
) -> AbstractAsyncContextManager[Ground]:
    """Open the one or the other; `slow`: a copy takes longer than any test, `lingers`: a removal takes seconds."""
    open_one = {BackendKind.CRD: on_resources, BackendKind.REST: on_rest}[backend]
    return open_one(tmp_path, slow=slow, lingers=lingers)


def calling(caller: str, on: Ground) -> Call:
    """Speak by the one or the other."""
    return by_grpcurl(on) if caller == "grpcurl" else by_grpc(on)


def by_grpcurl(on: Ground) -> Call:
    async def call(method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            tool("grpcurl"), "-plaintext", "-d", msgspec.json.encode(request), on.address, f"{SERVICE}/{method}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        answer: dict[str, Any] = msgspec.json.decode(output)
        return answer

    return call


def by_grpc(on: Ground) -> Call:
    async def call(method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        message = ParseDict(dict(request), getattr(pb, f"{method}Request")())
        answer = await getattr(on.stub, method)(message, timeout=10)
        return MessageToDict(answer, preserving_proto_field_name=True)

    return call


def needs(caller: str) -> None:
    if caller == "grpcurl":
        require_real("grpcurl")


async def start(call: Call, on: Ground, request_id: str = "by-hand-1") -> str:
    answer = await call("StartMigration", {"request_id": request_id, "volume": on.volume, "pool": on.target})
    return str(answer["migration"]["name"])


def in_state(state: pb.MigrationState.ValueType) -> Callable[[pb.Migration], bool]:
    return lambda migration: migration.state == state


@BACKENDS
@CALLERS
async def test_one_request_id_starts_one_migration_however_often_it_is_sent(
    backend: BackendKind, caller: str, tmp_path: Path
) -> None:
    needs(caller)
    async with ground(backend, tmp_path) as on:
        call = calling(caller, on)
        first, second = await asyncio.gather(start(call, on), start(call, on))
        assert first == second
        assert await on.until_ended(first) == ("MIGRATION_STATE_COMPLETED", "Moved")
        assert await start(call, on) == first, "also when it has long been done"
        listed = await call("ListMigrations", {})
        assert [migration["name"] for migration in listed["migrations"]] == [first]
        seen = (await on.look()).volumes[on.volume]
        assert (seen.replica_count, set(seen.pools)) == (1, {on.target})


@BACKENDS
@CALLERS
@pytest.mark.parametrize("state", [None, pb.MIGRATION_STATE_WAITING_SYNC], ids=["at once", "while the copy is made"])
async def test_a_cancel_before_scaling_down_leaves_the_volume_as_it_was(
    backend: BackendKind, caller: str, state: pb.MigrationState.ValueType | None, tmp_path: Path
) -> None:
    needs(caller)
    async with ground(backend, tmp_path, slow=True) as on:
        call = calling(caller, on)
        before = await on.look()
        name = await start(call, on)
        if state is not None:
            await on.until(name, in_state(state))
            assert (await on.look()).volumes[on.volume].replica_count == 2
        answer = await call("CancelMigration", {"name": name})
        assert answer["effect"] == "CANCEL_EFFECT_ROLLS_BACK", answer
        assert await on.until_ended(name) == ("MIGRATION_STATE_ABORTED", "Cancelled")
        assert await on.look() == before
        again = await call("CancelMigration", {"name": name})
        assert again["effect"] == "CANCEL_EFFECT_ALREADY_ENDED"


@BACKENDS
@CALLERS
async def test_a_cancel_in_scaling_down_or_after_it_is_told_that_the_move_finishes(
    backend: BackendKind, caller: str, tmp_path: Path
) -> None:
    needs(caller)
    async with ground(backend, tmp_path, lingers=True) as on:
        call = calling(caller, on)
        before = await on.look()
        name = await start(call, on)
        await on.until(name, in_state(pb.MIGRATION_STATE_SCALING_DOWN))
        answer = await call("CancelMigration", {"name": name})
        assert answer["effect"] == "CANCEL_EFFECT_FINISHES_FORWARD", answer
        assert "too late to go back in ScalingDown: it finishes" in answer["detail"]
        on.go_on()
        assert await on.until_ended(name) == ("MIGRATION_STATE_COMPLETED", "Moved")
        late = await call("CancelMigration", {"name": name})
        assert late["effect"] == "CANCEL_EFFECT_ALREADY_ENDED"
        assert "Completed (Moved)" in late["detail"]
        after = await on.look()
        seen = after.volumes[on.volume]
        assert (seen.written, set(seen.pools)) == (before.volumes[on.volume].written, {on.target})
        assert after.settings == before.settings, "nothing on nodes and pools is left of the steering"
