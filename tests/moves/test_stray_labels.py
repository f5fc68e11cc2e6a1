"""A label of ours that no journal knows cannot be put back: it stays as it is, and a person is told."""

from __future__ import annotations

import io

import msgspec
from prometheus_client import CollectorRegistry

from common.logs import make_logger
from migrator.core.steering.levers import LabelPool
from migrator.metrics import MigratorMetrics
from tests.contract.rest_cluster import RestCluster
from tests.moves.rest_acting import Desk, leading

LEFT = "couchestor-vmig-1"
KNOWN = LabelPool(pool="p1", key="tier", value=LEFT, previous="hot")


class Told:
    """A leader, and what it logs of labels."""

    def __init__(self, desk: Desk, log: io.StringIO) -> None:
        self.desk = desk
        self._log = log

    @property
    def warned(self) -> list[tuple[str, str, str]]:
        lines = [msgspec.json.decode(line) for line in self._log.getvalue().splitlines()]
        return [(line["pool"], line["key"], line["value"]) for line in lines if line["level"] == "warning"]

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            await self.desk.cluster.wait(1.0)
            await self.desk.backend._copy.refresh()
            self.desk.backend._after_round()

    async def label(self, value: str, pool: str = "p1") -> None:
        await self.desk.cluster.expect(200, "PUT", f"/pools/{pool}/label/tier={value}?overwrite=true")


async def a_leader() -> Told:
    cluster, log = RestCluster(), io.StringIO()
    logger = make_logger("test", level="INFO", json=True, stream=log, clock=cluster.clock)
    return Told(await leading(cluster, log=logger), log)


async def test_a_label_of_ours_that_nobody_knows_is_left_and_told_of_once() -> None:
    told = await a_leader()
    await told.label(LEFT)
    await told.rounds(5)
    assert told.warned == [("p1", "tier", LEFT)]
    assert told.desk.backend.stray_labels == 1
    await told.desk.take_over()
    assert told.desk.labels("p1")["tier"] == LEFT, "what it was before nobody can say"
    await told.label("hot")
    await told.rounds(1)
    assert told.desk.backend.stray_labels == 0
    await told.label(LEFT)
    await told.rounds(3)
    assert told.warned == [("p1", "tier", LEFT)] * 2, "it came again"


async def test_one_that_a_journal_knows_is_none() -> None:
    told = await a_leader()
    told.desk.held.append(KNOWN)
    await told.label(LEFT)
    await told.rounds(3)
    told.desk.held.clear()
    told.desk.left.append(KNOWN)
    await told.rounds(3)
    assert told.warned == []
    told.desk.left.clear()
    await told.rounds(3)
    assert told.warned == [("p1", "tier", LEFT)], "its record was taken away"


async def test_what_one_round_shows_and_the_next_does_not_is_not_believed() -> None:
    told = await a_leader()
    await told.label(LEFT)
    await told.rounds(1)
    told.desk.backend._after_round()
    assert (told.warned, told.desk.backend.stray_labels) == ([], 0), "the same round again is no second one"
    await told.label("hot")
    await told.rounds(2)
    assert told.warned == []


async def test_a_value_of_somebody_elses_is_none() -> None:
    told = await a_leader()
    await told.label("couchestors", "p1")
    await told.label("warm", "p2")
    await told.rounds(3)
    assert told.warned == []


async def test_who_does_not_lead_tells_nothing() -> None:
    told = await a_leader()
    await told.label(LEFT)
    told.desk.lease.held = False
    await told.rounds(3)
    assert (told.warned, told.desk.backend.stray_labels) == ([], 0)
    told.desk.lease.held = True
    await told.rounds(2)
    assert (told.warned, told.desk.backend.stray_labels) == ([("p1", "tier", LEFT)], 1)


def test_they_are_a_number_among_the_metrics() -> None:
    registry = CollectorRegistry()
    found = [2]
    nothing = {name: lambda: 0 for name in ("active", "levers", "left_behind")}
    MigratorMetrics(registry).watch(age_seconds=lambda: 0.0, can=lambda: True, stray_labels=lambda: found[0], **nothing)
    assert registry.get_sample_value("couchestor_migrator_stray_labels") == 2
    found[0] = 0
    assert registry.get_sample_value("couchestor_migrator_stray_labels") == 0
