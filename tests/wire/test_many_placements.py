"""However many volumes and pools there are, each is told of once, in messages of a bearable size, and others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from couchestor.migrator.v1 import migrator_pb2 as pb

from common.placement import Pool, Refusal, Replica, ReplicaHealth
from common.reasons import Reason
from common.resources.migration import BackendKind
from migrator import messages
from migrator.backends.base import Capabilities
from migrator.core.model import VolumeSeen, VolumeSpec
from migrator.fanout import MigrationFeed
from migrator.placements import Placements
from migrator.service import CHUNK, MAX_REFUSALS, SLICE, MigratorService
from migrator.starting import Limits
from tests.clock import ManualClock
from tests.moves.cluster import QUIET


class ABackend:
    """All there is, unchanging; every volume is refused by as many pools."""

    synced = True
    age_seconds = 0.0
    capabilities = Capabilities(BackendKind.REST, can_migrate=True)

    def __init__(self, volumes: int, refused: int) -> None:
        replica = Replica("pool", ReplicaHealth.SYNCED)
        names = (f"pvc-{number:05d}" for number in range(volumes))
        self.volumes: Mapping[str, VolumeSeen] = {
            name: VolumeSeen(name, name, "", VolumeSpec(1), (replica,)) for name in names
        }
        self.pools: Mapping[str, Pool] = {"pool": Pool("pool", "node")}
        self._refusals = tuple(
            Refusal(Reason.SAME_NODE, f"node-{n:03d} holds a replica", f"pool-{n:03d}") for n in range(refused)
        )

    def listen(self, _listener: object) -> None:
        """Nothing changes."""

    def refusals(self, _subject: object) -> tuple[Refusal, ...]:
        return self._refusals


def a_service(volumes: int, refused: int) -> MigratorService:
    api: Any = None
    backend: Any = ABackend(volumes, refused)
    clock = ManualClock()
    placements = Placements(backend, volumes=dict, synced=lambda: True, clock=clock)
    limits = Limits(dry_run=False, preservation=False, max_concurrent=1, max_per_pool=1, max_per_node=1)
    return MigratorService(api, placements, MigrationFeed(), limits, clock=clock, log=QUIET)


async def until_synced(running: MigratorService) -> list[pb.WatchPlacementsResponse]:
    parts: list[pb.WatchPlacementsResponse] = []
    stream = running.watch_placements(pb.WatchPlacementsRequest())
    async for part in stream:
        parts.append(part)
        if part.synced:
            break
    return parts


@pytest.mark.parametrize(
    ("volumes", "refused"),
    [(0, 0), (1, 3), (CHUNK, 0), (CHUNK + 1, 1), (3 * CHUNK, 0), (90, 700), (3, 2 * MAX_REFUSALS)],
)
async def test_all_are_told_of_once_and_no_message_is_too_large(volumes: int, refused: int) -> None:
    parts = await until_synced(a_service(volumes, refused))
    told = [volume.volume for part in parts for volume in part.volumes]
    assert told == [f"pvc-{number:05d}" for number in range(volumes)]
    assert [part.synced for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [pool.name for part in parts for pool in part.pools] == ["pool"]
    assert sum(part.HasField("capabilities") for part in parts) == 1
    for part in parts:
        assert len(part.volumes) <= CHUNK
        assert sum(len(volume.refusals) for volume in part.volumes) < MAX_REFUSALS + max(refused, 1)
        assert part.HasField("observed_at")


async def test_others_have_their_turn_while_many_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    running, turns, between = a_service(CHUNK, 5), 0, []
    make = messages.volume

    def counted(item: Any) -> pb.VolumePlacement:
        between.append(turns)
        return make(item)

    monkeypatch.setattr(messages, "volume", counted)

    async def somebody() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(somebody())
    await until_synced(running)
    other.cancel()
    assert len(between) == CHUNK
    longest = max(between.count(turn) for turn in set(between))
    assert longest <= SLICE
