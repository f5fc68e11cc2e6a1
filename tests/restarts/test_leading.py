"""Leading, and ceasing to: given back in good order, over in time when it cannot be renewed, and no slot left taken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from couchestor.migrator.v1 import migrator_pb2 as pb

from common.kube.api import (
    EVENTS,
    LEASES,
    PERSISTENT_VOLUMES,
    VOLUME_MIGRATIONS,
    ConflictError,
    InvalidError,
    Resource,
    UnreachableError,
)
from common.reasons import Reason
from common.resources.meta import FENCE
from common.resources.migration import FINALIZER, MigrationState
from common.rpc.errors import ResourceExhausted
from migrator.__main__ import Settings, limits_of
from migrator.service import MigratorService
from sandbox.world.driver import MAYASTOR_VOLUMES
from sandbox.world.mayastor import Faults
from tests.moves.cluster import GIB, NAMESPACE, Sent, a_volume
from tests.restarts.replicas import DURATION, FAST, RENEW, RETRY, SLOW, Line, Town, a_town

PV = "pvc-0"
QUICK: dict[str, Any] = {"lease_duration_seconds": 3.0, "lease_renew_seconds": 2.0, "lease_retry_seconds": 0.5}
LONG = replace(FAST, rebuild_bytes_per_second=0.2 * GIB)
LONGER = replace(FAST, rebuild_bytes_per_second=0.05 * GIB)


# --- the lease -------------------------------------------------------------------------------------------------------


async def test_whoever_stops_in_good_order_gives_the_lease_back_and_the_other_goes_on_at_once() -> None:
    async with a_town(mayastor=LONG) as town:
        leader = await town.leader("one")
        other = await town.replica("two")
        name = await town.ask(PV, "cold-0", "hot-0")
        await town.until(lambda: town.state(name) is MigrationState.WAITING_SYNC)
        await leader.stop()
        assert town.holder() == ""
        assert leader.logged("lease given back")
        left = town.clock.monotonic()
        await town.until(lambda: other.leads)
        assert town.clock.monotonic() - left <= 1.5 * RETRY + 0.5
        await town.until(lambda: town.ended(name))
        assert town.ends(PV) == ["Completed(Moved)"]
        assert not leader.logged("ended")
        assert len(other.logged("ended")) == 1


async def test_a_leader_that_cannot_renew_writes_nothing_more_before_another_can_lead() -> None:
    async with a_town(mayastor=LONGER) as town:
        leader = await town.leader("one")
        other = await town.replica("two")
        renewed, writes = [0.0], list[tuple[float, str]]()

        def renews(_index: int, sent: Sent) -> None:
            if sent.resource == LEASES:
                renewed.append(town.clock.monotonic())

        def writing(who: str) -> Callable[[int, Sent], None]:
            def note(_index: int, sent: Sent) -> None:
                if sent.resource not in {LEASES, EVENTS}:
                    writes.append((town.clock.monotonic(), who))

            return note

        leader.line.after = renews
        leader.line.before, other.line.before = writing("one"), writing("two")
        names = [await town.ask(f"pvc-{n}", f"cold-{n}", f"hot-{n}") for n in range(4)]
        await town.until(lambda: town.state(names[0]) is MigrationState.WAITING_SYNC)
        leader.line.cut_for = frozenset({LEASES})
        await town.until(lambda: other.leads)
        await town.until(lambda: town.ended(*names))
        mine = [moment for moment, who in writes if who == "one"]
        theirs = [moment for moment, who in writes if who == "two"]
        assert max(mine) < renewed[-1] + RENEW
        assert min(theirs) >= renewed[-1] + DURATION
        assert [town.ends(f"pvc-{n}") for n in range(4)] == [["Completed(Moved)"]] * 4


@pytest.mark.parametrize("late", [False, True], ids=["as the other begins", "when all is over"])
async def test_any_request_of_the_old_leader_may_arrive_late(late: bool) -> None:
    """It was sent in time, and came through when the other led: a move, its record and its PersistentVolume alike."""
    for at, resource in enumerate(await writes_of_a_move()):
        if late and resource == VOLUME_MIGRATIONS:
            continue  # that a journal that was gone on with takes no older entry is told by the other half
        async with a_town(a_volume(PV, ("cold-0",), size=GIB), **QUICK) as town:
            old = await town.leader("old")
            old.line.holds = numbered(at)
            name = await town.ask(PV, "cold-0", "hot-0")
            await town.until(old.line.held.is_set, what=f"write {at}")
            old.line.cut = True
            new = await town.replica("new")
            await town.until(lambda new=new: new.leads)  # type: ignore[misc]
            if not late:
                await old.line.release()
            await town.until(lambda town=town, name=name: town.ended(name), what=f"the end, write {at} being late")  # type: ignore[misc]
            await town.advance(5)
            if late:
                assert isinstance(await old.line.release(), ConflictError), f"write {at}"
            check_moved(town, name)


def numbered(at: int) -> Callable[[Sent], bool]:
    """Recognise a write by its number, what has nothing to do with moves not counted."""
    count = 0

    def is_it(sent: Sent) -> bool:
        nonlocal count
        count += sent.resource not in {LEASES, EVENTS}
        return count == at + 1

    return is_it


async def writes_of_a_move() -> list[Resource]:
    async with a_town(a_volume(PV, ("cold-0",), size=GIB)) as town:
        leader = await town.leader("one")
        name = await town.ask(PV, "cold-0", "hot-0")
        await town.until(lambda: town.ended(name))
        await town.advance(1)
        writes = [sent.resource for sent in leader.line.sent if sent.resource not in {LEASES, EVENTS}]
        assert len(writes) > 12
        return writes


def check_moved(town: Town, name: str) -> None:
    record = town.record(name)
    assert (record.status.state, record.status.reason) == (MigrationState.COMPLETED, Reason.MOVED)
    assert not record.metadata.finalizers
    volume = msgspec.json.decode(town.store.get(MAYASTOR_VOLUMES, PV, NAMESPACE))
    assert volume["spec"]["numReplicas"] == 1
    assert "topology" not in volume["spec"]
    assert FENCE not in volume["metadata"].get("annotations", {})
    assert [replica["pool"] for replica in volume["status"]["replicas"]] == ["hot-0"]
    assert town.ends(PV) == ["Completed(Moved)"]


# --- slots -----------------------------------------------------------------------------------------------------------


async def nothing(_town: Town, _name: str) -> None:
    """Let it go its way."""


async def cancel(_town: Town, _name: str) -> None:
    """See cancel_in."""


async def delete(town: Town, name: str) -> None:
    await town.api.delete(VOLUME_MIGRATIONS, name)


async def tear(town: Town, name: str) -> None:
    await town.api.patch(VOLUME_MIGRATIONS, name, {"metadata": {"finalizers": None}})
    await town.api.delete(VOLUME_MIGRATIONS, name)


async def delete_volume(town: Town, _name: str) -> None:
    await town.api.delete(MAYASTOR_VOLUMES, PV, NAMESPACE)


async def delete_pv(town: Town, _name: str) -> None:
    await town.api.delete(PERSISTENT_VOLUMES, PV)


async def pool_away(town: Town, _name: str) -> None:
    town.driver.set_pool_online("hot-0", online=False)


async def kill(town: Town, _name: str) -> None:
    await town.replica("two")
    await town.replicas[0].die()


def cancel_in(line: Line, state: MigrationState, town: Town, name: str) -> None:
    """Cancel as soon as the journal says that a state was entered: some do not last."""

    def look(_index: int, sent: Sent) -> None:
        if sent.resource == VOLUME_MIGRATIONS and sent.body.get("status", {}).get("state") == state:
            line.after = lambda _index, _sent: None
            town.store.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}})

    line.after = look


@dataclass(frozen=True, slots=True)
class Way:
    """A way for a migration to end."""

    title: str
    reason: str
    happens: Callable[[Town, str], Awaitable[None]] = nothing
    state: MigrationState = MigrationState.WAITING_SYNC
    """When it happens."""
    faults: Faults = Faults()  # noqa: RUF009 - it is frozen
    target: str = "hot-0"
    spec: tuple[tuple[str, Any], ...] = ()


S = MigrationState
WAYS = (
    Way("completed", "Moved"),
    Way("cancelled in Analyzing", "Cancelled", cancel, S.ANALYZING),
    Way("cancelled in ScalingUp", "Cancelled", cancel, S.SCALING_UP),
    Way("cancelled in WaitingSync", "Cancelled", cancel),
    Way("cancelled in ScalingDown", "Moved", cancel, S.SCALING_DOWN),
    Way("record deleted", "RecordDeleted", delete),
    Way("record torn away", "", tear),
    Way("volume deleted", "VolumeGone", delete_volume),
    Way("PersistentVolume deleted", "Moved", delete_pv),
    Way("target offline", "TargetPoolOffline", pool_away),
    Way("rebuild failed", "RebuildFailed", faults=Faults(failing_rebuilds=frozenset({PV}))),
    Way("rebuild stalled", "TimedOut", faults=Faults(stalled_rebuilds=frozenset({PV})), spec=(("timeout", "20s"),)),
    Way("refused", "PoolNotFound", target="nowhere"),
    Way("dry run", "DryRun", spec=(("dry_run", True),)),
    Way("its leader killed", "Moved", kill),
)


@pytest.mark.parametrize("way", WAYS, ids=[way.title for way in WAYS])
async def test_whatever_way_a_migration_ends_its_slots_are_free(way: Way) -> None:
    caps = {"max_concurrent_migrations": 1, "max_per_pool": 1, "max_per_node": 1}
    volumes = [a_volume(f"pvc-{n}", ("cold-0",), size=GIB) for n in range(2)]
    async with a_town(*volumes, mayastor=replace(LONG, faults=way.faults), **caps) as town:
        leader = await town.leader("one")
        first = await town.ask(PV, "cold-0", way.target, **dict(way.spec))
        if way.happens is not nothing:
            if way.happens is cancel:
                cancel_in(leader.line, way.state, town, first)
            else:
                await town.until(lambda: town.state(first) is way.state, what=f"{way.state}")
                await way.happens(town, first)
        second = await town.ask("pvc-1", "cold-0", "hot-0")
        await town.until(lambda: town.record(second).status.admitted_at is not None, what="the next one begins")
        assert town.most["all"] == 1
        there = [record for record in town.records() if record.metadata.name == first]
        assert [record.status.reason for record in there] in ([way.reason], [])
        assert bool(there) == (way.happens not in {delete, tear})


# --- ends ------------------------------------------------------------------------------------------------------------


def is_end(sent: Sent) -> bool:
    return sent.resource == VOLUME_MIGRATIONS and sent.body.get("status", {}).get("state") == "Completed"


def frees(sent: Sent) -> bool:
    return sent.resource == VOLUME_MIGRATIONS and "finalizers" in sent.body.get("metadata", {})


async def test_an_end_that_was_not_answered_is_told_once() -> None:
    async with a_town() as town:
        leader = await town.leader("one")

        def lose(_index: int, sent: Sent) -> None:
            if is_end(sent):
                leader.line.after = lambda _index, _sent: None
                raise UnreachableError("time-out")

        leader.line.after = lose
        name = await town.ask(PV, "cold-0", "hot-0")
        await town.until(lambda: town.ended(name))
        await town.until(lambda: not town.record(name).metadata.finalizers, what="the finalizer is off")
        await town.advance(20)
        assert len(leader.logged("ended")) == 1


async def test_an_end_whose_leader_died_before_telling_is_told_by_the_next_who_frees_the_record() -> None:
    async with a_town() as town:
        leader = await town.leader("one")

        def lose(_index: int, sent: Sent) -> None:
            if is_end(sent):
                leader.line.cut = True

        leader.line.after = lose
        name = await town.ask(PV, "cold-0", "hot-0")
        await town.until(lambda: town.ended(name))
        await leader.die()
        assert town.record(name).metadata.finalizers == (FINALIZER,)
        other = await town.leader("two")
        await town.until(lambda: not town.record(name).metadata.finalizers, what="the finalizer is off")
        await town.advance(20)
        assert len(other.logged("ended")) == 1
        assert town.ends(PV) == ["Completed(Moved)"]


async def test_a_record_that_cannot_be_freed_stops_nobody_else() -> None:
    async with a_town(max_concurrent_migrations=1) as town:
        leader = await town.leader("one")

        def refuse(_index: int, sent: Sent) -> None:
            if frees(sent) and sent.name == first:
                raise InvalidError("422")

        leader.line.before = refuse
        first = await town.ask(PV, "cold-0", "hot-0")
        await town.until(lambda: town.ended(first))
        second = await town.ask("pvc-1", "cold-1", "hot-1")
        await town.until(lambda: town.ended(second))
        assert town.record(first).metadata.finalizers
        leader.line.before = lambda _index, _sent: None
        await town.until(lambda: not town.record(first).metadata.finalizers, what="the finalizer is off")
        assert len(leader.logged("ended")) == 2


async def test_a_policy_that_cannot_be_read_holds_up_its_own_alone() -> None:
    async with a_town(mayastor=SLOW) as town:
        leader = await town.leader("one")
        objects = leader.app.leader._shared.objects
        read = objects.policy_cap

        async def unreadable(name: str) -> int | None:
            if name == "broken":
                leader.line.cut = True
            try:
                return await read(name)
            finally:
                leader.line.cut = False

        objects.policy_cap = unreadable  # type: ignore[method-assign]
        held = await town.ask(PV, "cold-0", "hot-0", policy="broken", priority=10)
        free = await town.ask("pvc-1", "cold-1", "hot-1")
        await town.until(lambda: town.record(free).active)
        await town.until(lambda: town.record(held).status.reason != "")
        assert town.record(held).status.reason == Reason.POLICY_CAP
        assert "broken" in town.record(held).status.message


async def test_until_pools_are_known_nothing_begins() -> None:
    """Their nodes could not be counted; a take-over must not be the moment in which a cap is passed."""
    async with a_town(mayastor=SLOW, max_per_node=1) as town:
        leader = await town.leader("one")
        backend: Any = leader.app.backend
        real = type(backend).synced
        leader.line.cut = True
        type(backend).synced = property(lambda _self: False)
        try:
            leader.line.cut = False
            name = await town.ask(PV, "cold-0", "hot-0")
            await town.advance(10)
            assert town.record(name).status.reason == Reason.PLACEMENT_UNKNOWN
        finally:
            type(backend).synced = real
        await town.until(lambda: town.record(name).active)


async def test_callers_are_sent_away_when_too_many_wait() -> None:
    async with a_town(max_concurrent_migrations=1, mayastor=SLOW) as town:
        leader = await town.leader("one")
        limits = replace(limits_of(Settings()), max_queued=2)
        app = leader.app
        feed = app._feed
        service = MigratorService(town.api, app.placements, feed, limits, clock=town.clock, log=app._log)

        async def start(n: int) -> pb.Migration:
            request = pb.StartMigrationRequest(request_id=f"r-{n}", volume=f"pvc-{n}", pool=f"hot-{n}")
            return (await service.start_migration(request)).migration

        await town.until(lambda: app.placements.synced)
        for n in range(3):
            await start(n)
            await town.advance(1)
        with pytest.raises(ResourceExhausted, match="2 migrations wait already"):
            await start(3)
        assert (await start(2)).queue_position == 2, "one that is known is not sent away"
