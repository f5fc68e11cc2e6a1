"""Two who both believe to lead, and one who has stopped believing it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from common.kube.api import VOLUME_MIGRATIONS, ConflictError
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import MOVE_MEMORY
from common.resources.migration import MigrationState, StepKind
from migrator.executor import NotLeaderError
from migrator.journal import Journal, JournalLostError
from sandbox.world.driver import MAYASTOR_VOLUMES
from tests.moves.cluster import TARGET, Cluster, Held, Sent, WatchedApi, a_volume


async def a_cluster() -> tuple[Cluster, str]:
    cluster = Cluster()
    await cluster.install(a_volume())
    return cluster, await cluster.admit()


async def writes_of_a_whole_move() -> int:
    cluster, name = await a_cluster()
    await cluster.migrate(name)
    return len(cluster.sent)


async def test_a_leader_whose_lease_is_gone_writes_nothing_more() -> None:
    for at in range(await writes_of_a_whole_move() - 1):
        cluster, name = await a_cluster()
        lease = Held()
        cluster.lease = lease

        def lose(index: int, _sent: Sent, at: int = at, lease: Held = lease) -> None:
            if index == at:
                lease.held = False

        with pytest.raises(NotLeaderError):
            await cluster.migrate(name, cluster.api(after=lose))
        later = cluster.sent[at + 1 :]
        # What became of the write in flight may still be journaled: the journal has its own precondition.
        assert all(sent.resource == VOLUME_MIGRATIONS for sent in later)
        assert len(later) <= 1
        lease.held = True
        await cluster.migrate(name)
        assert (await cluster.record(name)).status.reason == Reason.MOVED


class Sleepy(WatchedApi):
    """The API of a process that falls asleep in the middle of a write."""

    def falls_asleep(self, at: int) -> asyncio.Event:
        self.asleep, self.wake, self.at, self.count = asyncio.Event(), asyncio.Event(), at, 0
        return self.asleep

    async def _write(self, sent: Sent, act: Callable[[], Awaitable[Any]]) -> Any:
        self.count += 1
        if self.count == self.at:
            self.asleep.set()
            await self.wake.wait()
        return await super()._write(sent, act)


@pytest.mark.parametrize("overlap", [1, 4, 8, 100], ids=["at once", "early", "late", "when all is over"])
async def test_an_old_leader_that_wakes_in_the_middle_of_the_new_ones_work_harms_nothing(overlap: int) -> None:
    for at in range(1, await writes_of_a_whole_move() + 1):
        cluster, name = await a_cluster()
        old = Sleepy(cluster.store, [])
        asleep = old.falls_asleep(at)
        sleeping = asyncio.create_task(cluster.execute(name, old))
        await asleep.wait()
        new = cluster.api()

        def wake(_index: int, _sent: Sent, old: Sleepy = old, new: WatchedApi = new) -> None:
            if len(new.sent) >= overlap:
                old.wake.set()

        new.after = wake
        await cluster.migrate(name, new)
        old.wake.set()
        with contextlib.suppress(JournalLostError):
            await sleeping
        status = (await cluster.record(name)).status
        assert (status.state, status.reason) == (MigrationState.COMPLETED, Reason.MOVED), status.message
        assert await cluster.pools_of() == [TARGET]
        spec = (await cluster.volume())["spec"]
        assert (spec["numReplicas"], spec.get("topology")) == (1, None)
        ends = read_memory((await cluster.pv())["metadata"]["annotations"][MOVE_MEMORY])
        assert [end.result for end in ends] == ["Completed(Moved)"]


async def test_a_journal_that_somebody_else_wrote_is_lost() -> None:
    cluster, name = await a_cluster()
    mine, others = (
        Journal(cluster.world, await cluster.record(name)),
        Journal(cluster.world, await cluster.record(name)),
    )
    await others.take_up("other", cluster.clock.now())
    with pytest.raises(JournalLostError):
        await mine.take_up("me", cluster.clock.now())
    with pytest.raises(JournalLostError):
        await mine.refresh()


async def test_a_request_that_was_changed_is_no_loss() -> None:
    cluster, name = await a_cluster()
    journal = Journal(cluster.world, await cluster.record(name))
    await cluster.world.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}})
    await journal.take_up("me", cluster.clock.now())
    assert journal.record.spec.cancel_requested
    assert journal.status.steps[-1].kind is StepKind.TAKEN_UP


async def test_a_cancel_that_comes_between_decision_and_intent_is_heard() -> None:
    """The intent to scale down meets a conflict, since the cancel was first: so it is rolled back, as was answered."""
    cluster, name = await a_cluster()
    cancelled: list[int] = []

    async def cancel() -> None:
        await cluster.world.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}})

    api = cluster.api()
    real = api.patch

    async def patch(resource, name_, body, namespace=None, **more):  # type: ignore[no-untyped-def]
        entering = body.get("status", {}).get("state") == MigrationState.SCALING_DOWN
        if resource == VOLUME_MIGRATIONS and entering and not cancelled:
            cancelled.append(1)
            await cancel()
        return await real(resource, name_, body, namespace, **more)

    api.patch = patch  # type: ignore[method-assign, assignment]
    await cluster.migrate(name, api)
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (MigrationState.ABORTED, Reason.CANCELLED)
    downs = [b for b in cluster.patches() if b.get("spec", {}).get("numReplicas") == 1]
    assert len(downs) == 1


async def test_a_conflict_on_the_volume_is_decided_anew_and_never_sent_again_as_it_was() -> None:
    cluster, name = await a_cluster()
    versions: list[str] = []

    def conflict(_index: int, sent: Sent) -> None:
        if sent.resource == MAYASTOR_VOLUMES and sent.body.get("spec", {}).get("numReplicas") == 1:
            versions.append(sent.body["metadata"]["resourceVersion"])
            if len(versions) < 3:
                raise ConflictError("409")

    async def stir() -> None:
        """Somebody labels the volume all the time."""
        labels = {"touched": f"at-{cluster.clock.elapsed:.1f}"}
        namespace = "mayastor"
        await cluster.world.patch(MAYASTOR_VOLUMES, "pvc-abc123", {"metadata": {"labels": labels}}, namespace)

    cluster.on_tick.append(stir)
    await cluster.migrate(name, cluster.api(before=conflict))
    assert (await cluster.record(name)).status.reason == Reason.MOVED
    assert len(set(versions)) == len(versions)
