"""
Whatever happens, in whatever order: the promises are kept, and it comes to an end.

Each example is a small cluster, one migration, and a handful of misfortunes drawn at random: writes that are lost
before or after they took effect, deaths, cancels, pools that go and return, somebody's edits. What is checked is the
world itself, at every tick of time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.kube.api import (
    VOLUME_MIGRATIONS,
    KubeError,
    ServerError,
    TooManyRequestsError,
    UnreachableError,
)
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import FENCE, LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.resources.migration import MigrationState
from migrator.core.model import end_state
from sandbox.world.mayastor import Faults
from sandbox.world.storage import Copy
from tests.moves.cluster import FAST, GIB, SOURCE, TARGET, VOLUME, Cluster, Crash, Sent, a_volume

SLOW = replace(FAST, rebuild_bytes_per_second=GIB)
LONGEST = 3_000.0
"""Seconds of the cluster's time in which every migration must have ended."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What goes wrong."""

    writes: dict[int, str]
    """By the number of the write: lost, taken, busy, error, crash, crash-after."""
    cancel_at: float | None
    delete_at: float | None
    pool_away: tuple[str, float, float] | None
    """Which, from when, until when."""
    edit_at: tuple[float, str] | None
    faults: Faults
    downtime: float


MISHAPS = st.sampled_from(["lost", "taken", "busy", "error", "crash", "crash-after"])
TIMES = st.floats(0, 40)


@st.composite
def fates(draw: st.DrawFn) -> Fate:
    rarely = st.sampled_from([True, False, False])
    away = draw(TIMES)
    faults = draw(st.sampled_from(["none", "none", "stall", "fail"]))
    return Fate(
        writes=draw(st.dictionaries(st.integers(0, 40), MISHAPS, max_size=5)),
        cancel_at=draw(TIMES) if draw(rarely) else None,
        delete_at=draw(TIMES) if draw(rarely) else None,
        pool_away=(draw(st.sampled_from([SOURCE, TARGET])), away, away + draw(st.floats(1, 200)))
        if draw(rarely)
        else None,
        edit_at=(draw(TIMES), draw(st.sampled_from(["count", "topology", "label"]))) if draw(rarely) else None,
        faults=Faults(
            stalled_rebuilds=frozenset({VOLUME} if faults == "stall" else ()),
            failing_rebuilds=frozenset({VOLUME} if faults == "fail" else ()),
        ),
        downtime=draw(st.floats(0, 30)),
    )


def disturbances(fate: Fate) -> dict[str, Callable[[int, Sent], None]]:
    def before(index: int, _sent: Sent) -> None:
        match fate.writes.get(index):
            case "lost":
                raise UnreachableError("time-out")
            case "busy":
                raise TooManyRequestsError("429")
            case "error":
                raise ServerError("500")
            case "crash":
                raise Crash
            case _:
                pass

    def after(index: int, _sent: Sent) -> None:
        match fate.writes.get(index):
            case "taken":
                raise UnreachableError("time-out")
            case "crash-after":
                raise Crash
            case _:
                pass

    return {"before": before, "after": after}


@dataclass
class Witness:
    """Looks at the world at every tick, and remembers what somebody else did to it."""

    cluster: Cluster
    name: str
    fate: Fate
    edited: set[str] = field(default_factory=set)
    lowered: int = 0

    async def happen(self) -> None:
        """Let happen what is fated."""
        now, fate, cluster = self.cluster.clock.elapsed, self.fate, self.cluster
        if fate.cancel_at is not None and now >= fate.cancel_at:
            await self.change(VOLUME_MIGRATIONS, {"spec": {"cancelRequested": True}})
        if fate.delete_at is not None and now >= fate.delete_at and "deleted" not in self.edited:
            self.edited.add("deleted")
            await cluster.world.delete(VOLUME_MIGRATIONS, self.name)
        if fate.pool_away is not None:
            pool, since, until = fate.pool_away
            cluster.driver.set_pool_online(pool, online=not since <= now < until)
        if fate.edit_at is not None and now >= fate.edit_at[0] and not self.edited & {"count", "topology", "label"}:
            await self.edit(fate.edit_at[1])

    async def change(self, resource: Any, body: dict[str, Any]) -> None:
        record = await self.cluster.record(self.name)
        if not record.status.state.terminal and not record.spec.cancel_requested:
            await self.cluster.world.patch(resource, self.name, body)

    async def edit(self, what: str) -> None:
        status = (await self.cluster.record(self.name)).status
        if status.state.terminal or status.original_topology is None:
            return  # what is there before it is analyzed is simply how the volume is
        self.edited.add(what)
        if what == "count":
            await self.cluster.edit(numReplicas=3)
        elif what == "topology":
            await self.cluster.edit(topology={"pool": {"labelled": {"inclusion": {"site": "a", "pool": None}}}})

    async def look(self) -> None:
        """Check what must hold at every moment."""
        volume = self.cluster.driver.state.volumes[VOLUME]
        assert any(replica.copy is Copy.COMPLETE for replica in volume.replicas), "the last complete copy is gone"
        spec = (await self.cluster.volume())["spec"]
        assert spec["numReplicas"] >= 1
        if "count" in self.edited:
            assert spec["numReplicas"] == 3, "somebody's count was overwritten"
        if "topology" in self.edited:
            inclusion = spec["topology"]["pool"]["labelled"]["inclusion"]
            assert inclusion == {"site": "a"}, "somebody's topology was overwritten"

    async def check_end(self) -> None:
        record = await self.cluster.record(self.name)
        status, volume = record.status, await self.cluster.volume()
        reason, spec = Reason(status.reason), volume["spec"]
        assert status.state is end_state(reason)
        assert FENCE not in volume["metadata"].get("annotations", {})
        assert len(status.steps) <= 200
        annotations = (await self.cluster.pv())["metadata"].get("annotations", {})
        assert [e.result for e in read_memory(annotations[MOVE_MEMORY])] == [f"{status.state}({reason})"]
        assert (LAST_MIGRATION in annotations) == (status.state is MigrationState.COMPLETED)
        assert (PARKED in annotations) == (status.state is MigrationState.FAILED)
        if "topology" not in self.edited:
            assert "topology" not in spec, f"{reason}: the steering is still there"
        if status.state is MigrationState.FAILED or self.edited & {"count", "topology"}:
            return
        assert spec["numReplicas"] == 1
        assert await self.cluster.pools_of() == [TARGET if status.state is MigrationState.COMPLETED else SOURCE]


async def play(fate: Fate) -> None:
    cluster = Cluster(settings=replace(SLOW, faults=fate.faults))
    await cluster.install(a_volume())
    name = await cluster.admit(timeout=60)
    witness = Witness(cluster, name, fate)
    cluster.on_tick += [witness.happen, witness.look]
    while True:
        assert cluster.clock.elapsed < LONGEST, "it does not come to an end"
        try:
            await cluster.migrate(name, cluster.api(**disturbances(fate)))
            break
        except (Crash, KubeError):
            await cluster.clock.sleep(fate.downtime)
    await cluster.clock.sleep(5.0)
    await witness.check_end()


EDITED_BEHIND_A_FENCE = Fate(
    writes={4: "taken"},
    cancel_at=None,
    delete_at=0.0,
    pool_away=None,
    edit_at=(0.0, "topology"),
    faults=Faults(),
    downtime=0.0,
)
"""The fence is written, and taken away, while somebody's topology is there: that does not make it ours."""


@example(EDITED_BEHIND_A_FENCE)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fates())
def test_whatever_goes_wrong_the_promises_are_kept_and_it_ends(fate: Fate) -> None:
    asyncio.run(play(fate))
