"""
Whatever befalls a migration, and whenever: it ends, for the reason that says so, and what it leaves is what is meant.

One row, one course: what happens when, the end, and how the world is then. The cluster's clock goes on only while
somebody waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import FENCE, LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.resources.migration import MigrationState
from migrator.core import steps
from migrator.core.model import END_STATES
from sandbox.world.mayastor import Settings
from sandbox.world.storage import Copy
from tests.moves.cluster import FAST, GIB, START, VOLUME, Cluster, a_pool, a_volume
from tests.moves.happenings import (
    FAIL,
    NO_PROGRESS,
    STALL,
    Course,
    Happening,
    Moment,
    analyzing,
    asked,
    cancel,
    copying_to,
    delete_record,
    delete_volume,
    edit,
    exchange,
    expire,
    going_back,
    gone,
    inclusion,
    later,
    lose,
    policy,
    pool_goes,
    pool_returns,
    scaling_down,
    the_volume,
)

R, S = Reason, MigrationState
POOLS = (
    a_pool("sata-1", "node-1", "cold"),
    a_pool("sata-2", "node-2", "cold"),
    a_pool("sata-5", "node-5", "cold"),
    a_pool("nvme-3", "node-3", "hot"),
    a_pool("nvme-4", "node-4", "hot"),
)
SLOW = replace(FAST, rebuild_bytes_per_second=0.5 * GIB)
SITE = inclusion({"site": "a"})
TIER = inclusion({"tier": "warm"})
ONE, TWO = ("sata-1",), ("sata-1", "sata-2")
WAYS = {ONE: (("sata-1", "nvme-3"),), TWO: (("sata-1", "nvme-3"), ("sata-2", "nvme-4"))}
MOVED = {ONE: ("nvme-3",), TWO: ("nvme-3", "nvme-4")}
COPYING, SECOND = copying_to("nvme-3"), copying_to("nvme-4")
WHATEVER = ("?",)
"""Where the replicas are then is Mayastor's affair."""


@dataclass(frozen=True, slots=True)
class Row:
    """What happens, and how it ends."""

    what: str
    reason: Reason
    volume: tuple[str, ...]
    pools: tuple[str, ...]
    """Where the replicas are in the end."""
    happens: tuple[Happening, ...] = ()
    count: int | None = None
    """The replica count in the end; None: as many as there are pools."""
    topology: Mapping[str, Any] | None = field(default_factory=lambda: SITE)
    says: str = ""
    """What the message must tell."""
    writes: bool = True
    """Whether anything was written to the volume."""
    policy: bool = False
    preservation: bool = False
    max_steps: int = 200
    timeout: float = 60.0
    settings: Settings = SLOW

    def __str__(self) -> str:
        return f"{self.what} ({len(self.volume)})"


def row(what: str, reason: Reason, volume: tuple[str, ...], when: Moment, deed: Any, **more: Any) -> Row:
    """A row of one happening; a rolled back volume is where it was, a moved one where it was to go."""
    state, happens = END_STATES[reason], (Happening(when, deed), *more.pop("then", ()))
    usual = volume if state is S.ABORTED else MOVED[volume] if reason is R.MOVED else WHATEVER
    return Row(what, reason, volume, more.pop("pools", usual), happens, **more)


def _withdrawn() -> list[Row]:
    """A person's wish counts until the first source is about to go."""
    rows = []
    for what, deed, reason in (("cancel", cancel, R.CANCELLED), ("delete the record", delete_record, R.RECORD_DELETED)):
        for volume in (ONE, TWO):
            rows += [
                row(f"{what} while analyzing", reason, volume, analyzing, deed, writes=False),
                row(f"{what} before the copy is there", reason, volume, asked, deed),
                row(f"{what} while copying", reason, volume, COPYING, deed),
                row(f"{what} in ScalingDown", R.MOVED, volume, scaling_down, deed),
                row(f"{what} after the removal", R.MOVED, volume, gone(1), deed),
            ]
        rows.append(row(f"{what} while making the second copy", reason, TWO, SECOND, deed))
    rows += [
        row("cancel, and an original stays away", R.REPLICA_LEFT, ONE, COPYING, cancel, count=2,
            then=(Happening(COPYING, pool_goes("sata-1")),), pools=("sata-1", "nvme-3"), says="sata-1"),
        row("cancel, and an original comes back", R.CANCELLED, ONE, COPYING, cancel,
            then=(Happening(COPYING, pool_goes("sata-1")), Happening(later(30, COPYING), pool_returns("sata-1")))),
        row("cancel, and an original stays away", R.REPLICA_LEFT, TWO, SECOND, cancel, count=4,
            then=(Happening(SECOND, pool_goes("sata-1")),), pools=(*TWO, *MOVED[TWO]), says="those too many"),
    ]  # fmt: skip
    return rows


def _copies() -> list[Row]:
    """A copy that fails, stalls or loses its pool is taken back, and those made before it."""
    rows = []
    for volume, when in ((ONE, COPYING), (TWO, COPYING), (TWO, SECOND)):
        which = "" if when is COPYING else " the second time"
        rows += [
            row(f"a rebuild without progress{which}", R.TIMED_OUT, volume, when, NO_PROGRESS),
            row(f"a rebuild that stalls{which}", R.TIMED_OUT, volume, when, STALL, timeout=15.0),
            row(f"a rebuild that fails{which}", R.REBUILD_FAILED, volume, when, FAIL),
        ]
    for volume, pool in ((ONE, "nvme-3"), (TWO, "nvme-3"), (TWO, "nvme-4")):
        rows += [
            row(f"{pool} goes while copying", R.TARGET_POOL_OFFLINE, volume, COPYING, pool_goes(pool), says=pool),
            row(f"{pool} goes before the copy is there", R.TARGET_POOL_OFFLINE, volume, asked, pool_goes(pool)),
            row(f"{pool} goes in ScalingDown", R.TARGET_POOL_OFFLINE, volume, scaling_down, pool_goes(pool)),
            row(f"{pool} is away for a moment", R.MOVED, volume, COPYING, pool_goes(pool),
                then=(Happening(later(3, COPYING), pool_returns(pool)),)),
        ]  # fmt: skip
    rows += [
        row("the target goes after the removal", R.MOVED, ONE, gone(1), pool_goes("nvme-3")),
        row("a target goes after the first removal", R.REPLICA_LEFT, TWO, gone(1), pool_goes("nvme-4"), count=3,
            says="1 of 2 replicas moved"),
        row("a target is away after the first removal", R.MOVED, TWO, gone(1), pool_goes("nvme-4"),
            then=(Happening(later(20, gone(1)), pool_returns("nvme-4")),)),
    ]  # fmt: skip
    return rows


def _replicas() -> list[Row]:
    """What Mayastor or somebody else does with the replicas meanwhile."""
    rows = []
    for volume in (ONE, TWO):
        n = len(volume)
        rows += [
            row("an original is lost while copying", R.ORIGINAL_LOST, volume, COPYING, lose("sata-1"), count=n + 1,
                pools=WHATEVER, says="sata-1"),
            row("the copy is another's", R.UNKNOWN_REPLICA, volume, COPYING, exchange("nvme-3")),
            row("the copy is elsewhere", R.UNKNOWN_REPLICA, volume, COPYING, exchange("nvme-3", "warm-6"),
                says="warm-6"),
        ]  # fmt: skip
    rows += [
        row("an original is lost with the second copy", R.ORIGINAL_LOST, TWO, SECOND, lose("sata-2"), count=4),
        row("a source is lost in ScalingDown", R.ORIGINAL_LOST, TWO, scaling_down, lose("sata-2"), count=4),
        row("the first copy is another's by then", R.UNKNOWN_REPLICA, TWO, SECOND, exchange("nvme-3")),
        row("the last source goes by itself", R.MOVED, TWO, gone(1), lambda c: lose(_source(c))(c)),
        row("a new replica goes after the first removal", R.REPLICA_LEFT, TWO, gone(1), lose("nvme-4"), count=3,
            says="1 of 2 replicas moved"),
    ]  # fmt: skip
    return rows


def _source(course: Course) -> str:
    return next(iter(course.pools & set(TWO)))


def _somebody() -> list[Row]:
    """Others change or delete what the migration is about."""
    rows = []
    for volume in (ONE, TWO):
        first = len(volume) + 1
        rows += [
            row("the count is changed while copying", R.REPLICA_COUNT_CHANGED, volume, COPYING, edit(numReplicas=6),
                count=6, says="numReplicas to 6"),
            row("the count is changed in ScalingDown", R.REPLICA_COUNT_CHANGED, volume, scaling_down,
                edit(numReplicas=6), count=6),
            row("the count is changed on the way back", R.REPLICA_COUNT_CHANGED, volume, COPYING, cancel, count=6,
                then=(Happening(going_back, edit(numReplicas=6)),)),
            row("the topology is changed while copying", R.TOPOLOGY_CHANGED, volume, COPYING, _retopology, count=first,
                topology=TIER, says="spec.topology"),
            row("the topology is changed in ScalingDown", R.TOPOLOGY_CHANGED, volume, scaling_down, _retopology,
                topology=TIER, count=2 * len(volume)),
            row("the topology is changed after the removal", R.TOPOLOGY_CHANGED, volume, gone(len(volume)),
                _retopology, topology=TIER, pools=MOVED[volume]),
        ]  # fmt: skip
        for name, when in {
            "while analyzing": analyzing,
            "while copying": COPYING,
            "in ScalingDown": scaling_down,
            "after the removal": gone(1),
        }.items():
            rows.append(row(f"the volume is deleted {name}", R.VOLUME_GONE, volume, when, delete_volume, pools=()))
    rows += [
        row("the count is changed after the first removal", R.REPLICA_COUNT_CHANGED, TWO, gone(1), edit(numReplicas=6),
            count=6),
        row("the topology is changed after the first removal", R.TOPOLOGY_CHANGED, TWO, gone(1), _retopology, count=3,
            topology=TIER),
    ]  # fmt: skip
    return rows


def _retopology(course: Course) -> None:
    edit(topology=None)(course)
    edit(topology=TIER)(course)


def _plans() -> list[Row]:
    """Plans and policies hold until something was written."""
    rows = []
    for change in ("deleted", "disabled"):
        rows += [
            row(f"the policy is {change} before", R.POLICY_CHANGED, ONE, analyzing, policy(change), policy=True,
                writes=False),
            row(f"the policy is {change} later", R.MOVED, ONE, asked, policy(change), policy=True),
        ]  # fmt: skip
    return [
        *rows,
        row("the plan is too old", R.PLAN_EXPIRED, ONE, analyzing, expire, writes=False),
        row("the plan gets too old", R.MOVED, ONE, asked, expire),
        Row("sources are preserved", R.SOURCE_PRESERVED, ONE, ("sata-1", "nvme-3"), preservation=True),
        Row("sources are preserved", R.SOURCE_PRESERVED, TWO, (*TWO, *MOVED[TWO]), preservation=True),
        row("cancel where sources are preserved", R.CANCELLED, TWO, SECOND, cancel, preservation=True),
        Row("the journal is full while copying", R.JOURNAL_FULL, ONE, WHATEVER, count=2, max_steps=28, says="is full"),
        Row("the journal is full with the second copy", R.JOURNAL_FULL, TWO, WHATEVER, count=4, max_steps=35),
        Row("the journal is full after the first removal", R.JOURNAL_FULL, TWO, WHATEVER, count=3, max_steps=40),
    ]


ROWS = (*_withdrawn(), *_copies(), *_replicas(), *_somebody(), *_plans())


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_it_ends_as_it_should(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_STEPS", row.max_steps)
    cluster = Cluster(settings=row.settings)
    pools = (*POOLS, replace(a_pool("warm-6", "node-6", "warm"), labels={"tier": "warm", "site": "b"}))
    await cluster.install(a_volume(pools=row.volume, inclusion={"site": "a"}), pools=pools)
    name = await cluster.admit(
        moves=WAYS[row.volume],
        timeout=row.timeout,
        preservation=row.preservation,
        not_after=START + timedelta(minutes=30),
        policy=await cluster.policy() if row.policy else None,
    )
    course = Course(cluster, name)
    before = {replica.uuid for replica in cluster.driver.state.volumes[VOLUME].replicas}
    cluster.on_tick.append(lambda: never_below(cluster, len(row.volume)))
    course.meet(*row.happens)
    await cluster.migrate(name)
    assert len(course.done) == len(row.happens), "it did happen"
    status = course.record.status
    assert (status.reason, status.state) == (row.reason, END_STATES[row.reason]), status.message
    assert row.says in status.message
    await check_annotations(cluster, row)
    await cluster.clock.sleep(3.0)
    check_volume(course, row, before)


async def never_below(cluster: Cluster, count: int) -> None:
    """The count is never below the original."""
    volume = the_volume(Course(cluster, ""))
    assert volume is None or volume["spec"]["numReplicas"] >= count


def check_volume(course: Course, row: Row, before: set[str]) -> None:
    """Hold the volume against what the row says."""
    if not row.writes:
        assert course.cluster.patches() == []
    volume = the_volume(course)
    if row.reason is R.VOLUME_GONE:
        assert volume is None
        return
    assert volume is not None
    replicas = course.cluster.driver.state.volumes[VOLUME].replicas
    if row.pools is not WHATEVER:
        assert sorted(replica.pool for replica in replicas) == sorted(row.pools)
    assert volume["spec"]["numReplicas"] == (len(row.pools) if row.count is None else row.count)
    assert volume["spec"].get("topology") == row.topology
    assert FENCE not in volume["metadata"].get("annotations", {})
    if END_STATES[row.reason] is S.ABORTED:
        assert {replica.uuid for replica in replicas} == before
        assert all(replica.copy is Copy.COMPLETE for replica in replicas)


async def check_annotations(cluster: Cluster, row: Row) -> None:
    """The end is remembered once; a person must look where something is left."""
    annotations = (await cluster.pv())["metadata"].get("annotations", {})
    state = END_STATES[row.reason]
    assert [end.result for end in read_memory(annotations.get(MOVE_MEMORY))] == [f"{state}({row.reason})"]
    assert (PARKED in annotations) == (state is S.FAILED or row.reason is R.SOURCE_PRESERVED)
    assert (LAST_MIGRATION in annotations) == (state is S.COMPLETED)
