"""
Whatever befalls a migration over the REST API, and whenever: one end, its reason, and what it leaves.

One row, one course, as with MayastorVolume resources; several replicas move one after another here, so that what fails
after the first has moved leaves that one where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from common.kube.api import PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_MIGRATIONS
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.resources.migration import Heading, MigrationState, VolumeMigration
from migrator.core import steps
from migrator.core.history import read_history
from migrator.core.model import END_STATES, Purpose
from sandbox.world.control.plane import ControlSettings
from sandbox.world.mayastor import Faults
from tests.moves.rest_moves import UUID, Scene, a_volume, told
from tests.simulation.loop import VirtualLoop

R, S = Reason, MigrationState
ONE, TWO = ("sata-1",), ("sata-1", "sata-2")
VOLUMES = {
    ONE: a_volume(gib=20),
    TWO: a_volume(TWO, gib=20, inclusion={"site": "a"}),
}
WAYS = {ONE: (("sata-1", "nvme-3"),), TWO: (("sata-2", "nvme-3"), ("sata-1", "nvme-2"))}
MOVED = {ONE: ("nvme-3",), TWO: ("nvme-2", "nvme-3")}
HALF = ("nvme-3", "sata-1")
"""Where the replicas of two are when the first has moved."""
WHATEVER = ("?",)

When = Callable[[Scene, VolumeMigration], bool]
Deed = Callable[[Scene, str], Any]


@dataclass(frozen=True, slots=True)
class Row:
    """What happens, and how it ends."""

    what: str
    reason: Reason
    volume: tuple[str, ...]
    pools: tuple[str, ...]
    when: When
    deed: Deed
    then: tuple[tuple[When, Deed], ...] = ()
    count: int | None = None
    """The replica count in the end; None: as many as there are pools."""
    within: float = 600.0
    """Seconds that it may have taken, at the most."""
    says: str = ""
    writes: bool = True
    preservation: bool = False
    heals: bool = True
    """Whether Mayastor replaces a replica that failed."""
    max_steps: int = 200
    timeout: float = 60.0

    def __str__(self) -> str:
        return f"{self.what} ({len(self.volume)})"


# --- when ------------------------------------------------------------------------------------------------------------


def in_state(state: MigrationState, leg: int = 1) -> When:
    """In a state, of the first or of the second move."""

    def look(_scene: Scene, record: VolumeMigration) -> bool:
        ups = len(read_history(record.status).all_done(Purpose.SCALE_UP))
        return record.status.state is state and (ups == leg or state is S.ANALYZING or state is S.SCALING_UP)

    return look


def gone(count: int) -> When:
    """So many sources are gone."""
    return lambda _scene, record: len(read_history(record.status).all_done(Purpose.SCALE_DOWN)) == count


def going_back(_scene: Scene, record: VolumeMigration) -> bool:
    course = record.status.course
    return course is not None and course.heading is Heading.BACK


def later(seconds: float, when: When) -> When:
    since: list[float] = []

    def look(scene: Scene, record: VolumeMigration) -> bool:
        if not since and when(scene, record):
            since.append(scene.loop.time())
        return bool(since) and scene.loop.time() - since[0] >= seconds

    return look


ANALYZING, ASKING, DOWN = in_state(S.ANALYZING), in_state(S.SCALING_UP), in_state(S.SCALING_DOWN)
COPYING, SECOND = in_state(S.WAITING_SYNC), in_state(S.WAITING_SYNC, leg=2)


# --- what ------------------------------------------------------------------------------------------------------------


def cancel(scene: Scene, name: str) -> None:
    scene.store.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}})


def delete_record(scene: Scene, name: str) -> None:
    scene.store.delete(VOLUME_MIGRATIONS, name)


async def delete_volume(scene: Scene, _name: str) -> None:
    scene.front.set_target(UUID, None)
    await scene.front.ask("DELETE", f"/v0/volumes/{UUID}")


async def set_count(scene: Scene, _name: str) -> None:
    volume = scene.front.volumes[UUID]
    count = volume.replica_count
    status, _ = await scene.front.ask("PUT", f"/v0/volumes/{UUID}/replica_count/{count + 1}")
    assert status == 200, "somebody raised the count"


def faults(**which: Any) -> Deed:
    def change(control: ControlSettings) -> ControlSettings:
        return replace(control, storage=replace(control.storage, faults=Faults(**which)))

    return lambda scene, _name: scene.front.set_control(change)


FAIL = faults(failing_rebuilds=frozenset({UUID}))
STALL = faults(stalled_rebuilds=frozenset({UUID}))
NO_PROGRESS = faults(stalled_rebuilds=frozenset({UUID}), at_progress=0.0)


def pool(name: str, *, online: bool) -> Deed:
    return lambda scene, _name: scene.front.set_pool_online(name, online=online)


def unpublish(scene: Scene, _name: str) -> None:
    scene.front.set_target(UUID, None)


def publish(scene: Scene, _name: str) -> None:
    scene.front.set_target(UUID, "node-4")


def expire(scene: Scene, name: str) -> None:
    past = (scene.clock.now() - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    scene.store.patch(VOLUME_MIGRATIONS, name, {"spec": {"notAfter": past}})


def lose_policy(scene: Scene, name: str) -> None:
    """It is a policy's request, and that policy is not there (any more)."""
    assert not scene.store.list_page(STORAGE_POLICIES).items
    ref = {"name": "tiering", "uid": "u-1", "generation": 1}
    scene.store.patch(VOLUME_MIGRATIONS, name, {"spec": {"policyRef": ref}})


# --- the table -------------------------------------------------------------------------------------------------------


def row(what: str, reason: Reason, volume: tuple[str, ...], when: When, deed: Deed, **more: Any) -> Row:
    """A row; a rolled back volume is where it was, a moved one where it was to go."""
    usual = volume if END_STATES[reason] is S.ABORTED else MOVED[volume] if reason is R.MOVED else WHATEVER
    return Row(what, reason, volume, more.pop("pools", usual), when, deed, **more)


def _withdrawn() -> list[Row]:
    rows = []
    for what, deed, reason in (("cancel", cancel, R.CANCELLED), ("delete the record", delete_record, R.RECORD_DELETED)):
        for volume in (ONE, TWO):
            rows += [
                row(f"{what} while analyzing", reason, volume, ANALYZING, deed, writes=False),
                row(f"{what} while copying", reason, volume, COPYING, deed),
                row(f"{what} in ScalingDown", R.MOVED, volume, DOWN, deed),
            ]
        rows += [
            row(f"{what} in ScalingUp", reason, ONE, ASKING, deed),
            row(f"{what} after the first removal", R.MOVED, TWO, gone(1), deed),
            row(f"{what} while making the second copy", R.MOVED, TWO, SECOND, deed),
        ]
    return rows


def _copies() -> list[Row]:
    rows = []
    for volume, when, end in ((ONE, COPYING, None), (TWO, COPYING, None), (TWO, SECOND, R.PARTLY_MOVED)):
        which, pools = ("", volume) if end is None else (" the second time", HALF)
        target = "nvme-2" if end is not None else "nvme-3"
        rows += [
            row(f"a rebuild without progress{which}", end or R.TIMED_OUT, volume, when, NO_PROGRESS, pools=pools),
            row(f"a rebuild that stalls{which}", end or R.TIMED_OUT, volume, when, STALL, pools=pools, timeout=25.0),
            row(f"a rebuild that fails{which}", end or R.REBUILD_FAILED, volume, when, FAIL, pools=pools,
                heals=False),
            row(f"the target goes{which}", end or R.TARGET_POOL_OFFLINE, volume, when, pool(target, online=False),
                pools=pools, says=target, heals=False),
            row(f"the target is away for a moment{which}", R.MOVED, volume, when, pool(target, online=False),
                then=((later(3, when), pool(target, online=True)),)),
        ]  # fmt: skip
    healed = row("a rebuild that fails is healed", R.UNKNOWN_REPLICA, ONE, COPYING, FAIL)
    return [*rows, healed]


def _others() -> list[Row]:
    rows = []
    for volume in (ONE, TWO):
        n = len(volume)
        rows += [
            row("it is unpublished while copying", R.REPLICA_LEFT, volume, COPYING, unpublish, count=n + 1,
                says="not published", within=80.0),
            row("it is unpublished in ScalingDown", R.REPLICA_LEFT, volume, DOWN, unpublish, count=n + 1,
                says="not published"),
            row("it is unpublished for a while", R.MOVED, volume, COPYING, unpublish,
                then=((later(40, COPYING), publish),), timeout=120.0),
            row("it is unpublished on the way back", R.REPLICA_LEFT, volume, COPYING, cancel, count=n + 1,
                then=((going_back, unpublish),), says="not published"),
            row("sources are preserved", R.SOURCE_PRESERVED, volume, COPYING, lambda *_: None, preservation=True,
                count=n + 1, pools=(*volume, "nvme-3")),
            row("cancel where sources are preserved", R.CANCELLED, volume, COPYING, cancel, preservation=True),
            row("the plan is too old", R.PLAN_EXPIRED, volume, ANALYZING, expire, writes=False),
            row("the plan gets too old", R.MOVED, volume, COPYING, expire),
            row("the policy is gone before", R.POLICY_CHANGED, volume, ANALYZING, lose_policy, writes=False),
            row("the policy goes later", R.MOVED, volume, COPYING, lose_policy),
            row("the volume is deleted while copying", R.VOLUME_GONE, volume, COPYING, delete_volume),
            row("the volume is deleted in ScalingDown", R.VOLUME_GONE, volume, DOWN, delete_volume),
            row("the journal is full", R.JOURNAL_FULL, volume, COPYING, lambda *_: None, max_steps=27, count=n + 1),
        ]  # fmt: skip
    one_more = row("the count is changed", R.REPLICA_COUNT_CHANGED, ONE, DOWN, set_count, count=3, says="to 3")
    return [*rows, one_more]


ROWS = (*_withdrawn(), *_copies(), *_others())


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_it_ends_as_it_should(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_STEPS", row.max_steps)

    async def story(loop: VirtualLoop) -> None:
        scene = Scene(loop, replace(VOLUMES[row.volume], self_heal=row.heals))
        left = [(row.when, row.deed), *row.then]

        async def happening(scene: Scene, record: VolumeMigration) -> None:
            while left and left[0][0](scene, record):
                done = left.pop(0)[1](scene, record.metadata.name)
                if done is not None and hasattr(done, "__await__"):
                    await done

        name = await scene.admit(*WAYS[row.volume], timeout=row.timeout, preservation=row.preservation)
        scene.happening = happening
        before = {replica.uuid for replica in scene.front.volumes[UUID].replicas}
        await happening(scene, await scene.record(name))
        assert await scene.live(name)
        assert not left, "it did happen"
        await check(scene, row, await scene.record(name), before)

    told(story)


async def check(scene: Scene, row: Row, record: VolumeMigration, before: set[str]) -> None:
    """Hold the world against what the row says."""
    status = record.status
    assert (status.reason, status.state) == (row.reason, END_STATES[row.reason]), status.message
    assert row.says in status.message
    assert status.elapsed_seconds < row.within
    scene.nothing_left()
    pv = msgspec.json.decode(await scene.world.get(PERSISTENT_VOLUMES, f"pvc-{UUID}"))
    annotations = pv["metadata"].get("annotations", {})
    assert [end.result for end in read_memory(annotations.get(MOVE_MEMORY))] == [f"{status.state}({row.reason})"]
    assert (PARKED in annotations) == (status.state is S.FAILED or row.reason is R.SOURCE_PRESERVED)
    assert (LAST_MIGRATION in annotations) == (status.state is S.COMPLETED)
    if not row.writes:
        assert not [sent for sent in scene.writes.sent if f"volumes/{UUID}" in sent or "nodes/node-" in sent]
    volume = scene.front.volumes.get(UUID)
    if row.reason is R.VOLUME_GONE:
        assert volume is None
        return
    assert volume is not None
    assert scene.problems == []
    if row.pools is not WHATEVER:
        assert scene.pools_of() == sorted(row.pools)
    assert volume.replica_count == (len(row.pools) if row.count is None else row.count)
    if status.state is S.ABORTED and row.reason is not R.PARTLY_MOVED:
        assert {replica.uuid for replica in volume.replicas} == before
