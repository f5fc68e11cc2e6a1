"""A record that is torn away while its volume is on the move: who may park the volume, and which one."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from common.kube.api import (
    LEASES,
    PERSISTENT_VOLUMES,
    VOLUME_MIGRATIONS,
    ConflictError,
    ForbiddenError,
    KubeError,
    UnreachableError,
)
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import MOVE_MEMORY, PARKED
from common.resources.migration import MigrationState, Step, StepKind, VolumeMigration
from migrator.annotations import ClusterObjects
from migrator.backends.crd import CrdBackend
from migrator.executor import Execution
from migrator.orphans import lost, park, was_written_for
from tests.moves.cluster import NAMESPACE, QUIET, VOLUME, Cluster, Sent, WatchedApi, a_volume, pv_body
from tests.restarts.replicas import LEASE, SLOW, Town, a_town


async def an_orphan(cluster: Cluster) -> VolumeMigration:
    """A migration in the middle of its move, whose record is gone."""
    await cluster.install(a_volume())
    name = await cluster.admit()

    class EnoughError(Exception):
        pass

    async def stop() -> None:
        if (await cluster.record(name)).status.state is MigrationState.WAITING_SYNC:
            raise EnoughError

    cluster.on_tick.append(stop)
    with pytest.raises(EnoughError):
        await cluster.migrate(name)
    cluster.on_tick.clear()
    record = await cluster.record(name)
    await cluster.world.patch(VOLUME_MIGRATIONS, name, {"metadata": {"finalizers": None}})
    await cluster.world.delete(VOLUME_MIGRATIONS, name)
    cluster.sent.clear()
    return record


def execution(cluster: Cluster, api: WatchedApi) -> Execution:
    backend = CrdBackend(
        api,
        group="openebs.io",
        version="v1",
        namespace=NAMESPACE,
        clock=cluster.clock,
        rng=random.Random(1),
        log=QUIET,
    )
    return Execution(api, backend, ClusterObjects(api), cluster.lease, cluster.clock, QUIET)


async def told_to(cluster: Cluster) -> dict[str, str]:
    found: dict[str, str] = (await cluster.pv())["metadata"].get("annotations", {})
    return found


async def test_its_volume_is_parked_and_nothing_else_is_touched() -> None:
    cluster = Cluster()
    record = await an_orphan(cluster)
    await park(execution(cluster, cluster.api()), record, random.Random(1))
    told = await told_to(cluster)
    assert told[PARKED] == f"RecordLost: {record.metadata.name}"
    assert [end.result for end in read_memory(told[MOVE_MEMORY])] == ["Failed(RecordLost)"]
    assert [sent.resource for sent in cluster.sent] == [PERSISTENT_VOLUMES]


async def test_whoever_does_not_lead_any_more_parks_nothing() -> None:
    cluster = Cluster()
    record = await an_orphan(cluster)
    cluster.lease.held = False
    await park(execution(cluster, cluster.api()), record, random.Random(1))
    assert cluster.sent == []


async def test_the_lease_is_asked_for_right_before_the_write() -> None:
    """It is lost while the PersistentVolume is read."""
    cluster = Cluster()
    record = await an_orphan(cluster)
    shared = execution(cluster, cluster.api())
    read = shared.objects.volume

    async def slowly(name: str) -> Any:
        found = await read(name)
        cluster.lease.held = False
        return found

    shared.objects.volume = slowly  # type: ignore[method-assign]
    await park(shared, record, random.Random(1))
    assert cluster.sent == []


async def test_another_volume_of_its_name_is_not_parked_for_it() -> None:
    cluster = Cluster()
    record = await an_orphan(cluster)
    await cluster.world.delete(PERSISTENT_VOLUMES, VOLUME)
    await cluster.world.create(PERSISTENT_VOLUMES, pv_body(VOLUME, 1))
    await park(execution(cluster, cluster.api()), record, random.Random(1))
    assert cluster.sent == []
    assert PARKED not in await told_to(cluster)


async def test_a_volume_that_is_gone_is_not_waited_for() -> None:
    cluster = Cluster()
    record = await an_orphan(cluster)
    await cluster.world.delete(PERSISTENT_VOLUMES, VOLUME)
    await park(execution(cluster, cluster.api()), record, random.Random(1))
    assert cluster.sent == []


@pytest.mark.parametrize("error", [ConflictError("409"), UnreachableError("time-out")], ids=["conflict", "time-out"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_it_is_tried_until_it_is_told_and_told_once(error: KubeError, when: str) -> None:
    cluster = Cluster()
    record = await an_orphan(cluster)

    def fail(_index: int, _sent: Sent) -> None:
        if len(cluster.sent) < 3:
            raise error

    await park(execution(cluster, cluster.api(**{when: fail})), record, random.Random(1))
    told = await told_to(cluster)
    assert PARKED in told
    assert [end.result for end in read_memory(told[MOVE_MEMORY])] == ["Failed(RecordLost)"]


async def test_a_journal_that_cannot_be_read_may_have_written() -> None:
    cluster = Cluster()
    record = await an_orphan(cluster)
    assert was_written_for(record)
    unread = Step(time=cluster.clock.now(), kind=StepKind.INTENT, state=MigrationState.ANALYZING, write={"type": "New"})
    status = msgspec.structs.replace(record.status, steps=(unread,))
    assert was_written_for(msgspec.structs.replace(record, status=status))
    assert not was_written_for(msgspec.structs.replace(record, status=msgspec.structs.replace(status, steps=())))
    ended = lost(record, "gone").status
    assert (ended.state, ended.reason) == (MigrationState.FAILED, Reason.RECORD_LOST)


# --- the leader ------------------------------------------------------------------------------------------------------


async def tear(town: Town, name: str) -> None:
    """Take the record away, finalizer and all."""
    await town.api.patch(VOLUME_MIGRATIONS, name, {"metadata": {"finalizers": None}})
    await town.api.delete(VOLUME_MIGRATIONS, name)


def pv_annotations(town: Town, volume: str) -> dict[str, str]:
    meta: dict[str, Any] = msgspec.json.decode(town.store.get(PERSISTENT_VOLUMES, volume))["metadata"]
    return meta.get("annotations") or {}


async def on_the_move(town: Town) -> str:
    name = await town.ask("pvc-0", "cold-0", "hot-0")
    await town.until(lambda: town.state(name) is MigrationState.WAITING_SYNC)
    return name


async def test_it_is_told_of_once_though_the_copy_shows_it_for_long() -> None:
    async with a_town(mayastor=SLOW) as town:
        leader = await town.leader("one")
        name = await on_the_move(town)
        copy = leader.app._migrations
        copy._apply = list[Any]().append  # type: ignore[method-assign, assignment]
        await tear(town, name)
        await town.advance(60)
        assert len(leader.logged("record lost")) == 1
        assert [line["reason"] for line in leader.logged("ended")] == ["RecordLost"]
        assert pv_annotations(town, "pvc-0")[PARKED] == f"RecordLost: {name}"
        assert town.ends("pvc-0") == ["Failed(RecordLost)"]


async def test_a_record_that_came_to_its_end_is_not_lost_whatever_an_older_list_says() -> None:
    async with a_town() as town:
        leader = await town.leader("one")
        name = await town.ask("pvc-0", "cold-0", "hot-0")
        await town.until(lambda: town.state(name) is MigrationState.WAITING_SYNC)
        before = town.record(name)
        await town.until(lambda: town.ended(name) and not town.record(name).metadata.finalizers)
        await town.api.delete(VOLUME_MIGRATIONS, name)
        leader.app.leader._start_all((before,))
        await town.advance(5)
        assert not leader.logged("record lost")
        assert PARKED not in pv_annotations(town, "pvc-0")
        assert town.ends("pvc-0") == ["Completed(Moved)"]


async def test_an_old_leader_that_wakes_late_says_nothing_of_a_record_that_went() -> None:
    """It slept past the end of its lease; the record may have ended, and been collected, under another leader."""
    async with a_town(mayastor=SLOW) as town:
        leader = await town.leader("one")
        name = await on_the_move(town)
        await town.advance(1)
        town.clock._move_to(town.clock.monotonic() + 100)  # nobody is woken by that: the process was suspended
        town.store.patch(LEASES, LEASE, {"spec": {"holderIdentity": "two"}}, "default")
        await tear(town, name)
        leader.app.leader.wake_migration(name)
        await town.advance(0.1)
        assert not leader.logged("record lost")
        assert PARKED not in pv_annotations(town, "pvc-0")


async def test_its_slot_is_free_even_while_it_cannot_be_told() -> None:
    async with a_town(mayastor=SLOW, max_concurrent_migrations=1) as town:
        leader = await town.leader("one")
        name = await on_the_move(town)
        second = await town.ask("pvc-1", "cold-1", "hot-1")

        def refuse(_index: int, sent: Sent) -> None:
            if sent.resource == PERSISTENT_VOLUMES:
                raise ForbiddenError("403")

        leader.line.before = refuse
        await tear(town, name)
        await town.until(lambda: town.record(second).active, what="the next one is admitted")
        assert leader.logged("not parked yet")
        leader.line.before = lambda _index, _sent: None
        await town.until(lambda: PARKED in pv_annotations(town, "pvc-0"), what="it is parked in the end")


async def test_a_record_of_the_same_name_is_another_ones() -> None:
    """Torn away, and asked for again with the same request: the volume is parked, and the request heard."""
    async with a_town(mayastor=SLOW) as town:
        leader = await town.leader("one")
        name = await on_the_move(town)
        await tear(town, name)
        again = await town.ask("pvc-0", "cold-0", "hot-0")
        assert again == name
        await town.until(lambda: PARKED in pv_annotations(town, "pvc-0"), what="it is parked")
        await town.until(lambda: town.ended(again), what="the second has its end")
        assert len(leader.logged("record lost")) == 1
        status = town.record(again).status
        assert (status.state, status.reason) == (MigrationState.ABORTED, Reason.PARKED)
