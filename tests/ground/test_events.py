"""
Events: seen with the object they are about, counted when they repeat, and no burden to whoever emits them.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from common.kube import events
from common.kube.api import EVENTS
from common.kube.events import EventRecorder, Regarding
from common.logs import make_logger
from sandbox.world.calls import Call, ConnectionLostError
from sandbox.world.direct import DirectKubeApi
from sandbox.world.status import StatusError
from sandbox.world.store import Store
from tests.clock import ManualClock

VOLUME = Regarding("PersistentVolume", "v1", "pvc-abc123", "u-1")
LEASE = Regarding("Lease", "coordination.k8s.io/v1", "migrator", "u-2", namespace="kube-system")


class Running:
    """A recorder over a store, and how the store treats its calls."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Store(now=self.clock.now, rng=random.Random(1))
        self.trouble: list[Exception] = []
        """What the next calls get instead of an answer."""
        self.calls: list[Call] = []
        self.stream = io.StringIO()
        self.recorder = EventRecorder(
            DirectKubeApi(self.store, before=self._before),
            component="couchestor-migrator",
            instance="couchestor-migrator-0",
            clock=self.clock,
            rng=random.Random(3),
            log=make_logger("test", level="INFO", json=True, stream=self.stream, clock=self.clock),
        )

    async def _before(self, call: Call) -> None:
        self.calls.append(call)
        if self.trouble:
            raise self.trouble.pop(0)

    def emit(self, note: str = "moved to pool-nvme-1", regarding: Regarding = VOLUME, reason: str = "Moved") -> None:
        self.recorder.emit(regarding, type="Normal", reason=reason, action="Migrate", note=note)

    async def written(self, namespace: str | None = None) -> list[dict[str, Any]]:
        page = await DirectKubeApi(self.store).list_page(EVENTS, namespace)
        return [msgspec.json.decode(item) for item in page.items]

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Running]:
    made = Running()
    task = asyncio.ensure_future(made.recorder.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_event_has_all_that_a_person_and_the_api_server_want() -> None:
    async with running() as made:
        made.emit()
        await made.clock.advance(0)
        (event,) = await made.written()
        assert event["metadata"]["namespace"] == "default", "the object has no namespace"
        assert event["metadata"]["name"].startswith("pvc-abc123.")
        del event["metadata"]
        assert event == {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "eventTime": "2026-02-02T10:30:00.000000Z",
            "reportingController": "couchestor-migrator",
            "reportingInstance": "couchestor-migrator-0",
            "action": "Migrate",
            "reason": "Moved",
            "regarding": {"apiVersion": "v1", "kind": "PersistentVolume", "name": "pvc-abc123", "uid": "u-1"},
            "note": "moved to pool-nvme-1",
            "type": "Normal",
        }


async def test_an_event_lives_where_its_object_lives() -> None:
    async with running() as made:
        made.emit(regarding=LEASE)
        await made.clock.advance(0)
        assert len(await made.written("kube-system")) == 1


async def test_what_repeats_is_counted_in_one_event() -> None:
    async with running() as made:
        for _ in range(3):
            made.emit()
            await made.clock.advance(60)
        (event,) = await made.written()
        assert event["eventTime"] == "2026-02-02T10:30:00.000000Z"
        assert event["series"] == {"count": 3, "lastObservedTime": "2026-02-02T10:32:00.000000Z"}


async def test_what_repeats_before_it_is_written_is_written_once_with_its_count() -> None:
    made = Running()
    for _ in range(500):
        made.emit()
        await made.clock.advance(0.01)
    task = asyncio.ensure_future(made.recorder.run())
    await made.clock.advance(0)
    (event,) = await made.written()
    assert event["series"] == {"count": 500, "lastObservedTime": "2026-02-02T10:30:04.990000Z"}
    assert len(made.calls) == 1
    task.cancel()


async def test_the_same_after_a_long_time_is_a_new_event() -> None:
    async with running() as made:
        made.emit()
        await made.clock.advance(events.SERIES_SECONDS + 1)
        made.emit()
        await made.clock.advance(0)
        assert len(await made.written()) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"note": "moved to pool-nvme-2"},
        {"reason": "Cancelled"},
        {"regarding": Regarding("PersistentVolume", "v1", "pvc-abc123", "u-other")},
    ],
)
async def test_what_differs_in_anything_is_another_event(other: dict[str, Any]) -> None:
    async with running() as made:
        made.emit()
        made.emit(**other)
        await made.clock.advance(0)
        assert len(await made.written()) == 2


async def test_a_series_whose_event_has_expired_in_the_cluster_begins_anew() -> None:
    async with running() as made:
        made.emit()
        await made.clock.advance(1)
        (event,) = await made.written()
        await DirectKubeApi(made.store).delete(EVENTS, event["metadata"]["name"], "default")
        made.emit()
        await made.clock.advance(1)
        (again,) = await made.written()
        assert again["metadata"]["name"] != event["metadata"]["name"]
        assert "series" not in again


async def test_an_outage_of_moments_loses_nothing() -> None:
    async with running() as made:
        made.trouble = [ConnectionLostError(), StatusError(503, "ServiceUnavailable", "no")]
        made.emit()
        await made.clock.advance(10)
        assert len(await made.written()) == 1
        assert (made.recorder.dropped, made.logged) == (0, [])


@pytest.mark.parametrize(
    ("trouble", "calls"),
    [([ConnectionLostError()] * 3, 3), ([StatusError(403, "Forbidden", "not allowed")], 1)],
)
async def test_what_cannot_be_written_is_dropped_logged_and_holds_up_nothing(
    trouble: list[Exception], calls: int
) -> None:
    async with running() as made:
        made.trouble = trouble
        made.emit("lost")
        made.emit("written")
        await made.clock.advance(30)
        assert [event["note"] for event in await made.written()] == ["written"]
        assert made.recorder.dropped == 1
        assert len(made.calls) == calls + 1
        (line,) = made.logged
        assert (line["event"], line["note"], line["object"]) == ("event dropped", "lost", "pvc-abc123")


async def test_a_full_queue_drops_and_counts_and_never_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE", 3)
    made = Running()
    for number in range(5):
        made.emit(f"note {number}")
    made.emit("note 0")
    assert made.recorder.dropped == 2
    task = asyncio.ensure_future(made.recorder.run())
    await made.clock.advance(0)
    written = {event["note"]: event.get("series", {}).get("count", 1) for event in await made.written()}
    assert written == {"note 0": 2, "note 1": 1, "note 2": 1}
    task.cancel()


async def test_what_is_remembered_of_the_past_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "REMEMBERED", 2)
    async with running() as made:
        for note in ("a", "b", "c", "a"):
            made.emit(note)
            await made.clock.advance(0)
        assert len(await made.written()) == 4
        assert len(made.recorder._written) == 2


async def test_a_note_is_cut_where_the_api_server_would_refuse_it() -> None:
    async with running() as made:
        made.emit("é" * 2000)
        await made.clock.advance(0)
        (event,) = await made.written()
        assert len(event["note"].encode()) <= events.MAX_NOTE
        assert event["note"].endswith("é…")


async def test_a_name_that_is_taken_is_replaced_by_another() -> None:
    first, second = Running(), Running()
    second.recorder._api = DirectKubeApi(first.store)
    for made in (first, second):
        task = asyncio.ensure_future(made.recorder.run())
        made.emit()
        await made.clock.advance(0)
        task.cancel()
    assert len(await first.written()) == 2
