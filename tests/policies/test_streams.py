"""What the planner hears of the migrator and the scorer, and what it makes of silence."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from couchestor.migrator.v1 import migrator_pb2, migrator_pb2_grpc
from couchestor.scorer.v1 import scorer_pb2

from common.logs import make_logger
from common.metrics import new_registry
from common.placement import Pool, Refusal, Replica, ReplicaHealth, VolumePlacement
from common.reasons import Reason
from common.rpc.channel import open_channel
from common.rpc.server import GrpcServer
from planner import migrator_client, scorer_client
from planner.core.world import HeatQuality
from planner.migrator_client import PlacementStream, backend_from, placement_from, pool_from
from planner.scorer_client import HeatReader, heat_from
from tests.clock import ManualClock
from tests.policies.cluster import Stage, a_stage, fake_services

HOUR = timedelta(hours=1)
PATIENCE = 60.0
Message = migrator_pb2.WatchPlacementsResponse


class Teller(migrator_pb2_grpc.MigratorServiceServicer):
    """Tells placements message by message, as a test hands them over; None ends the stream."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()

    async def WatchPlacements(self, _request: Any, _context: Any) -> AsyncIterator[Message]:
        while (message := await self.messages.get()) is not None:
            yield message


@dataclass
class Listening:
    """A stream that is being followed."""

    teller: Teller
    stream: PlacementStream
    clock: ManualClock
    known: list[float]
    """When placements became known."""

    async def hear(self, *messages: Message | None) -> None:
        for message in messages:
            self.teller.messages.put_nowait(message)
        await self.until(self.teller.messages.empty)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for comes over a socket
                await asyncio.sleep(0.005)

    @property
    def volumes(self) -> set[str] | None:
        placements, _ = self.stream.read()
        return set(placements.volumes) if placements is not None else None


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    teller, clock, known = Teller(), ManualClock(), []  # type: ignore[abstract]
    log = make_logger("test", level="ERROR", json=True, stream=io.StringIO())

    def register(server: Any) -> None:
        migrator_pb2_grpc.add_MigratorServiceServicer_to_server(teller, server)

    server = GrpcServer(
        "127.0.0.1:0", register, (), log=log, registry=new_registry(), insecure_bind=False, drain_seconds=0.0
    )
    async with (
        server,
        open_channel(f"127.0.0.1:{server.port}", service=migrator_client.SERVICE, idempotent=()) as channel,
    ):
        stream = PlacementStream(channel, clock=clock, rng=random.Random(1), log=log, patience_seconds=PATIENCE)
        stream.subscribe(lambda: known.append(clock.monotonic()))
        following = asyncio.create_task(stream.run())
        try:
            yield Listening(teller, stream, clock, known)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def told(*volumes: str, **fields: Any) -> Message:
    return Message(volumes=[migrator_pb2.VolumePlacement(volume=name) for name in volumes], **fields)


async def test_a_snapshot_counts_only_when_it_is_whole() -> None:
    async with listening() as heard:
        assert heard.stream.read() == (None, "the migrator has not yet told where volumes are")
        await heard.hear(told("pvc-a"))
        assert heard.volumes is None
        await heard.hear(told("pvc-b"), told(synced=True))
        await heard.until(lambda: heard.volumes == {"pvc-a", "pvc-b"})
        assert heard.known == [0.0]


async def test_changes_are_followed() -> None:
    async with listening() as heard:
        pool = migrator_pb2.Pool(name="pool-1", online=True)
        await heard.hear(told("pvc-a", "pvc-b", pools=[pool], synced=True))
        await heard.until(lambda: heard.volumes == {"pvc-a", "pvc-b"})
        await heard.hear(told("pvc-c", removed_volumes=["pvc-a", "pvc-never"], removed_pools=["pool-1"], synced=True))
        await heard.until(lambda: heard.volumes == {"pvc-b", "pvc-c"})
        placements, _ = heard.stream.read()
        assert placements is not None
        assert placements.pools == {}


async def test_a_migrator_that_told_nothing_of_its_backend_can_do_nothing() -> None:
    async with listening() as heard:
        await heard.hear(told("pvc-a", synced=True))
        await heard.until(lambda: heard.volumes)
        placements, _ = heard.stream.read()
        assert placements is not None
        assert not placements.backend.can_migrate


async def test_a_broken_stream_leaves_its_placements_for_as_long_as_patience_lasts() -> None:
    async with listening() as heard:
        await heard.hear(told("pvc-a", synced=True))
        await heard.until(lambda: heard.volumes)
        await heard.hear(None)
        await heard.clock.wait_for_sleepers()
        heard.clock.set_wall(heard.clock.now() + HOUR)  # the wall clock has no say in it
        await heard.clock.advance(PATIENCE - 1)
        assert heard.volumes == {"pvc-a"}
        assert heard.stream.broken_seconds >= PATIENCE - 1
        await heard.clock.advance(2)
        placements, why = heard.stream.read()
        assert placements is None
        assert "the migrator ended the stream of placements" in why


async def test_a_new_stream_takes_the_place_of_the_old_copy_only_when_it_is_whole() -> None:
    async with listening() as heard:
        await heard.hear(told("pvc-a", "pvc-gone", synced=True))
        await heard.until(lambda: heard.volumes)
        await heard.hear(None)
        await heard.clock.wait_for_sleepers()
        await heard.clock.advance(1)
        await heard.hear(told("pvc-b"))
        assert heard.volumes == {"pvc-a", "pvc-gone"}
        await heard.hear(told(synced=True))
        await heard.until(lambda: heard.volumes == {"pvc-b"})
        assert heard.stream.broken_seconds == 0
        assert len(heard.known) == 1  # they had never ceased to be known


async def test_placements_that_are_known_again_are_news() -> None:
    async with listening() as heard:
        await heard.hear(told("pvc-a", synced=True))
        await heard.until(lambda: heard.volumes)
        await heard.hear(None)
        await heard.clock.wait_for_sleepers()
        await heard.clock.advance(PATIENCE + 1)
        assert heard.volumes is None
        await heard.hear(told("pvc-a", synced=True))
        await heard.until(lambda: heard.volumes)
        assert len(heard.known) == 2


def test_a_placement_is_read_with_all_that_is_not_known_left_unknown() -> None:
    refusals = [
        migrator_pb2.Refusal(reason="SameNode", detail="taken", target_pool="pool-2"),
        migrator_pb2.Refusal(reason="OfALaterVersion", detail="who knows"),
    ]
    message = migrator_pb2.VolumePlacement(
        volume="pvc-a",
        volume_handle="a",
        replica_count=2,
        replicas=[
            migrator_pb2.Replica(pool="pool-1", uuid="r", node="n", health=migrator_pb2.REPLICA_HEALTH_SYNCED),
            migrator_pb2.Replica(pool="pool-2"),
        ],
        refusals=refusals,
    )
    assert placement_from(message) == VolumePlacement(
        "pvc-a",
        "a",
        2,
        (Replica("pool-1", ReplicaHealth.SYNCED, "r", "n"), Replica("pool-2", ReplicaHealth.UNKNOWN)),
        refusals=(
            Refusal(Reason.SAME_NODE, "taken", "pool-2"),
            Refusal(Reason.MIGRATOR_REFUSES, "OfALaterVersion: who knows"),
        ),
    )


def test_an_empty_topology_is_not_taken_for_none() -> None:
    message = migrator_pb2.VolumePlacement(volume="pvc-a", pool_inclusion=migrator_pb2.LabelMap())
    assert placement_from(message).pool_inclusion == {}
    assert placement_from(migrator_pb2.VolumePlacement(volume="pvc-a")).pool_inclusion is None


def test_a_pool_is_read_as_it_is_told() -> None:
    message = migrator_pb2.Pool(name="p", labels={"tier": "hot"}, online=True, capacity_bytes=10, used_bytes=4)
    assert pool_from(message) == Pool("p", None, {"tier": "hot"}, online=True, capacity_bytes=10, used_bytes=4)


def test_a_backend_is_read_as_it_is_told() -> None:
    told_of = backend_from(
        migrator_pb2.BackendCapabilities(backend="crd", can_migrate=True, dry_run=True, max_per_pool=3)
    )
    assert (told_of.name, told_of.can_migrate, told_of.dry_run, told_of.max_per_pool) == ("crd", True, True, 3)


@pytest.fixture
async def reading() -> AsyncIterator[tuple[Stage, HeatReader]]:
    stage = a_stage()
    log = make_logger("test", level="ERROR", json=True, stream=io.StringIO())
    async with (
        fake_services(stage) as (port, _),
        open_channel(f"127.0.0.1:{port}", service=scorer_client.SERVICE, idempotent=()) as channel,
    ):
        reader = HeatReader(channel, timeout_seconds=10.0, log=log)
        yield stage, reader
        await reader.close()


async def test_all_chunks_of_heat_are_read(reading: tuple[Stage, HeatReader]) -> None:
    stage, reader = reading
    stage.scorer.scores = {f"pvc-{n}": float(n) for n in range(5)}
    snapshot = await reader.read(HOUR)
    assert {name: heat.score for name, heat in snapshot.scores.items()} == stage.scorer.scores
    assert {heat.quality for heat in snapshot.scores.values()} == {HeatQuality.OK}
    assert snapshot.absent.quality is HeatQuality.NO_DATA
    assert snapshot.problem == ""


async def test_who_asks_at_the_same_time_shares_one_question(reading: tuple[Stage, HeatReader]) -> None:
    stage, reader = reading
    first, second, other = await asyncio.gather(reader.read(HOUR), reader.read(HOUR), reader.read(2 * HOUR))
    assert first is second
    assert other is not first
    assert sorted(stage.scorer.asked) == [3600.0, 7200.0]
    await reader.read(HOUR)
    assert len(stage.scorer.asked) == 3  # nothing is kept for later: the scorer has the cache


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(reading: tuple[Stage, HeatReader]) -> None:
    _, reader = reading
    patient = asyncio.create_task(reader.read(HOUR))
    hasty = asyncio.create_task(reader.read(HOUR))
    await asyncio.sleep(0)
    hasty.cancel()
    assert (await patient).problem == ""
    with pytest.raises(asyncio.CancelledError):
        await hasty


async def test_one_in_a_hurry_is_answered_in_time_and_leaves_the_question_to_the_others(
    reading: tuple[Stage, HeatReader],
) -> None:
    stage, reader = reading
    stage.scorer.held = asyncio.Event()
    patient = asyncio.create_task(reader.read(HOUR))
    hasty = await reader.read(HOUR, patience_seconds=0.1)
    assert (hasty.absent.quality, hasty.problem) == (
        HeatQuality.UNAVAILABLE,
        "the scorer has not answered within 100ms, which is what the caller allows for",
    )
    assert not patient.done()
    stage.scorer.held.set()
    assert (await patient).absent.quality is HeatQuality.NO_DATA
    assert len(stage.scorer.asked) == 1


async def test_a_snapshot_without_volumes_says_how_good_it_is(reading: tuple[Stage, HeatReader]) -> None:
    stage, reader = reading
    assert (await reader.read(HOUR)).absent.quality is HeatQuality.NO_DATA
    stage.scorer.quality = scorer_pb2.HEAT_QUALITY_UNAVAILABLE
    snapshot = await reader.read(HOUR)
    assert (snapshot.absent.quality, snapshot.problem) == (
        HeatQuality.UNAVAILABLE,
        "the scorer has no heat from Prometheus",
    )


@pytest.mark.parametrize(
    "message",
    [
        scorer_pb2.HeatScore(score=float("nan"), quality=scorer_pb2.HEAT_QUALITY_OK),
        scorer_pb2.HeatScore(score=float("inf"), quality=scorer_pb2.HEAT_QUALITY_OK),
        scorer_pb2.HeatScore(score=-1.0, quality=scorer_pb2.HEAT_QUALITY_OK),
        scorer_pb2.HeatScore(score=1.0),
        scorer_pb2.HeatScore(score=1.0, quality=99),  # type: ignore[arg-type]
    ],
)
def test_a_score_that_makes_no_sense_is_no_score(message: scorer_pb2.HeatScore) -> None:
    assert heat_from(message, HeatQuality.OK, HOUR).quality is HeatQuality.UNAVAILABLE


def test_a_score_of_another_window_is_no_answer() -> None:
    message = scorer_pb2.HeatScore(score=1.0, quality=scorer_pb2.HEAT_QUALITY_OK)
    message.window.FromTimedelta(HOUR)
    assert heat_from(message, HeatQuality.OK, HOUR).quality is HeatQuality.OK
    assert heat_from(message, HeatQuality.OK, 2 * HOUR).quality is HeatQuality.UNAVAILABLE


def test_a_good_score_in_a_snapshot_that_is_not_is_no_better_than_it() -> None:
    message = scorer_pb2.HeatScore(score=1.0, quality=scorer_pb2.HEAT_QUALITY_OK)
    assert heat_from(message, HeatQuality.STALE, HOUR).quality is HeatQuality.STALE
    assert heat_from(message, HeatQuality.UNAVAILABLE, HOUR).quality is HeatQuality.UNAVAILABLE
