"""
The copy of one kind of object: complete at first, current afterwards, and right again after everything that can happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kube.api import (
    LEASES,
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    EventType,
    ExpiredError,
    KubeApi,
    KubeError,
    Page,
    Resource,
    ServerError,
    TooManyRequestsError,
    UnreachableError,
    WatchEvent,
)
from common.kube.reflector import Reflector
from common.logs import make_logger
from common.resources.meta import ObjectReference
from common.resources.policy import StoragePolicy
from common.resources.volume import PersistentVolume
from sandbox.world.direct import DirectKubeApi
from sandbox.world.store import Store
from tests.clock import ManualClock

Change = tuple[str, str | None, str | None]


@dataclass
class Script:
    """A KubeApi that answers lists and watches with what was put into it, and waits where there is nothing more."""

    pages: list[Page | KubeError] = field(default_factory=list)
    streams: list[list[WatchEvent | KubeError | str]] = field(default_factory=list)
    lists: list[dict[str, Any]] = field(default_factory=list)
    watches: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0

    async def list_page(self, resource: Resource, namespace: str | None = None, **asked: Any) -> Page:
        self.lists.append({"namespace": namespace, **asked})
        if not self.pages:
            await asyncio.Event().wait()
        answer = self.pages.pop(0)
        if isinstance(answer, KubeError):
            raise answer
        return answer

    async def watch(self, resource: Resource, namespace: str | None = None, **asked: Any) -> AsyncIterator[WatchEvent]:
        self.watches.append({"namespace": namespace, **asked})
        try:
            for item in self.streams.pop(0) if self.streams else ["hang"]:
                if isinstance(item, KubeError):
                    raise item
                if isinstance(item, str):
                    await asyncio.Event().wait()
                else:
                    yield item
        finally:
            self.closed += 1


def body(name: str, version: int, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **({"spec": spec} if spec else {})}


def raw(content: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(content))


def page(version: int, *items: Any, token: str = "") -> Page:
    return Page(tuple(raw(item) for item in items), str(version), token)


def event(type_: EventType, content: Any) -> WatchEvent:
    return WatchEvent(type_, raw(content))


def bookmark(version: int) -> WatchEvent:
    return event(EventType.BOOKMARK, {"metadata": {"resourceVersion": str(version)}})


class Running:
    """A reflector, what it told, and what it logged."""

    def __init__(self, api: Any, *, resource: Resource = PERSISTENT_VOLUMES, type_: Any = ObjectReference, **rest: Any):
        self.clock = ManualClock()
        self.changes: list[Change] = []
        self.stream = io.StringIO()
        kube: KubeApi = api
        self.reflector: Reflector[Any] = Reflector(
            kube,
            resource,
            type_,
            clock=self.clock,
            rng=random.Random(7),
            log=make_logger("test", level="INFO", json=True, stream=self.stream, clock=self.clock),
            on_change=self._changed,
            **rest,
        )

    def _changed(self, key: str, old: Any, new: Any) -> None:
        def version(item: Any) -> str | None:
            return None if item is None else item.metadata.resource_version

        self.changes.append((key, version(old), version(new)))

    @property
    def versions(self) -> dict[str, str]:
        return {key: item.metadata.resource_version for key, item in self.reflector.items.items()}

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@contextlib.asynccontextmanager
async def running(api: Any, **rest: Any) -> AsyncIterator[Running]:
    made = Running(api, **rest)
    task = asyncio.ensure_future(made.reflector.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is told by no event
            await asyncio.sleep(0)


async def test_the_copy_is_complete_when_it_says_so_and_not_before() -> None:
    api = Script(pages=[page(10, body("a", 1), body("b", 2), token="t"), page(10, body("c", 3))])
    made = Running(api, page_size=2)
    assert (made.reflector.synced, made.reflector.age_seconds) == (False, float("inf"))
    assert dict(made.reflector.items) == {}
    task = asyncio.ensure_future(made.reflector.run())
    await asyncio.wait_for(made.reflector.wait_synced(), 10)
    assert made.reflector.synced
    assert made.versions == {"a": "1", "b": "2", "c": "3"}
    assert made.changes == [("a", None, "1"), ("b", None, "2"), ("c", None, "3")]
    assert [asked["continue_token"] for asked in api.lists] == ["", "t"]
    assert {asked["limit"] for asked in api.lists} == {2}
    await until(lambda: len(api.watches) == 1)
    assert api.watches[0]["resource_version"] == "10"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert api.closed == 1, "the connection of a watch is not left open"


async def test_selectors_and_namespace_go_into_every_question() -> None:
    api = Script(pages=[page(1)])
    asked = {"namespace": "mayastor", "label_selector": "a=b", "field_selector": "c=d"}
    async with running(api, watch_seconds=60, **asked):
        await until(lambda: len(api.watches) == 1)
    for question in (api.lists[0], api.watches[0]):
        assert {key: question[key] for key in asked} == asked
    assert api.watches[0]["timeout_seconds"] == 60


async def test_changes_arrive_with_what_was_and_what_is() -> None:
    api = Script(
        pages=[page(10, body("a", 1))],
        streams=[
            [
                event(EventType.ADDED, body("b", 11)),
                event(EventType.MODIFIED, body("a", 12)),
                event(EventType.DELETED, body("b", 13)),
                event(EventType.DELETED, body("never-seen", 14)),
                "hang",
            ]
        ],
    )
    async with running(api) as made:
        await until(lambda: len(made.changes) == 4)
        assert made.changes == [("a", None, "1"), ("b", None, "11"), ("a", "1", "12"), ("b", "11", None)]
        assert made.versions == {"a": "12"}


async def test_objects_of_several_namespaces_are_kept_apart() -> None:
    def lease(namespace: str, version: int) -> dict[str, Any]:
        return {"metadata": {"name": "x", "namespace": namespace, "resourceVersion": str(version)}}

    api = Script(
        pages=[page(1, lease("a", 1), lease("b", 2))], streams=[[event(EventType.DELETED, lease("a", 3)), "hang"]]
    )
    async with running(api, resource=LEASES) as made:
        await until(lambda: len(made.changes) == 3)
        assert made.versions == {"b/x": "2"}


async def test_a_dropped_watch_goes_on_from_the_last_thing_seen_without_a_new_list() -> None:
    api = Script(
        pages=[page(10, body("a", 1))],
        streams=[
            [event(EventType.MODIFIED, body("a", 12)), bookmark(40), UnreachableError("gone")],
            [event(EventType.MODIFIED, body("a", 41)), "hang"],
        ],
    )
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        await made.clock.advance(1)
        await until(lambda: made.versions == {"a": "41"})
        assert [asked["resource_version"] for asked in api.watches] == ["10", "40"]
        assert len(api.lists) == 1
        (line,) = made.logged
        assert (line["event"], line["level"], line["error"]) == ("watch interrupted", "warning", "gone")


async def test_a_forgotten_version_is_listed_again_and_only_differences_are_told() -> None:
    api = Script(
        pages=[
            page(10, body("same", 1), body("changed", 2), body("gone", 3)),
            page(90, body("same", 1), body("changed", 80), body("new", 81)),
        ],
        streams=[[ExpiredError("410")], ["hang"]],
    )
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        same = made.reflector.items["same"]
        made.changes.clear()
        await made.clock.advance(1)
        await until(lambda: len(api.watches) == 2)
        assert sorted(made.changes) == [("changed", "2", "80"), ("gone", "3", None), ("new", None, "81")]
        assert made.versions == {"same": "1", "changed": "80", "new": "81"}
        assert made.reflector.items["same"] is same, "an unchanged object is not kept twice"
        assert api.watches[1]["resource_version"] == "90"


async def test_until_a_new_list_is_complete_the_old_copy_stays() -> None:
    api = Script(
        pages=[page(10, body("a", 1)), page(90, body("b", 80), token="t")],
        streams=[[ExpiredError("410")]],
    )
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        await made.clock.advance(1)
        await until(lambda: len(api.lists) == 3)
        assert made.versions == {"a": "1"}
        assert made.reflector.synced


async def test_a_list_that_expires_half_way_begins_again() -> None:
    api = Script(
        pages=[page(10, body("a", 1), token="t"), ExpiredError("410"), page(20, body("a", 1), body("b", 15))],
    )
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        assert not made.reflector.synced
        await made.clock.advance(1)
        await asyncio.wait_for(made.reflector.wait_synced(), 10)
        assert made.versions == {"a": "1", "b": "15"}
        assert [asked["continue_token"] for asked in api.lists] == ["", "t", ""]


async def test_waits_double_are_spread_have_a_cap_and_start_anew_after_a_success() -> None:
    api = Script(pages=[*[ServerError("500")] * 9, page(10)], streams=[[bookmark(11), UnreachableError("gone")]])
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        await made.clock.advance(300)
        waits = [line["wait_seconds"] for line in made.logged]
    assert len(waits) == 10
    wholes = [min(30.0, 0.5 * 2**number) for number in range(9)]
    assert all(whole / 2 <= wait <= whole for wait, whole in zip(waits, wholes, strict=False)), waits
    assert len({wait / whole for wait, whole in zip(waits, wholes, strict=False)}) == 9, "they are spread"
    assert waits[9] <= 0.5


async def test_a_server_that_asks_for_patience_gets_it() -> None:
    api = Script(pages=[TooManyRequestsError("slow down", retry_after_seconds=20), page(10)])
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        await made.clock.advance(19.5)
        assert len(api.lists) == 1
        await made.clock.advance(1)
        assert made.reflector.synced


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_loop() -> None:
    api = Script(pages=[page(10)], streams=[[] for _ in range(1000)])
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        await made.clock.advance(60)
        assert 3 <= len(api.watches) <= 12


async def test_a_watch_that_ends_in_its_time_is_opened_again_at_once() -> None:
    class Timely(Script):
        async def watch(
            self, resource: Resource, namespace: str | None = None, **asked: Any
        ) -> AsyncIterator[WatchEvent]:
            self.watches.append(asked)
            await made.clock.sleep(300)
            for nothing in list[WatchEvent]():
                yield nothing

    api = Timely(pages=[page(10)])
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        await made.clock.advance(900.5)
        assert len(api.watches) == 4
        assert made.reflector.age_seconds == pytest.approx(0.5), "an orderly end is a word too"
        assert made.logged == []


async def test_age_is_counted_from_the_servers_last_word() -> None:
    api = Script(pages=[page(10)], streams=[[bookmark(11), UnreachableError("x")]])
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        assert made.reflector.age_seconds == 0
        api.pages.append(ServerError("500"))
        await made.clock.advance(100)
        assert made.reflector.age_seconds == pytest.approx(100)


async def test_one_object_that_cannot_be_read_spoils_nothing_else_and_is_told_of() -> None:
    bad = body("bad", 2, highWatermarkIOPS="much")
    api = Script(
        pages=[page(10, body("good", 1), bad, ["no object at all"])],
        streams=[
            [
                event(EventType.MODIFIED, body("good", 11, highWatermarkIOPS=[])),
                event(EventType.MODIFIED, body("bad", 12, highWatermarkIOPS=6000)),
                "hang",
            ]
        ],
    )
    async with running(api, resource=STORAGE_POLICIES, type_=StoragePolicy) as made:
        await until(lambda: "bad" in made.reflector.items)
        assert made.changes == [("good", None, "1"), ("good", "1", None), ("bad", None, "12")]
        assert "highWatermarkIOPS" in made.reflector.undecodable["good"]
        assert set(made.reflector.undecodable) == {"good", "(an object without a name)"}
        told = [line["object"] for line in made.logged if line["event"] == "object cannot be read and is left out"]
        assert told == ["bad", "(an object without a name)", "good"]


async def test_an_unreadable_object_that_is_deleted_is_forgotten() -> None:
    api = Script(
        pages=[page(10, body("bad", 2, highWatermarkIOPS="much"))],
        streams=[[event(EventType.DELETED, body("bad", 3, highWatermarkIOPS="much")), "hang"]],
    )
    async with running(api, resource=STORAGE_POLICIES, type_=StoragePolicy) as made:
        await until(lambda: not made.reflector.undecodable)
        assert made.changes == []


async def test_an_event_that_says_no_version_leads_to_a_new_list() -> None:
    api = Script(
        pages=[page(10, body("a", 1)), page(20, body("a", 15))],
        streams=[[event(EventType.MODIFIED, {"metadata": {"name": "a"}})], ["hang"]],
    )
    async with running(api) as made:
        await made.clock.wait_for_sleepers()
        await made.clock.advance(1)
        await until(lambda: made.versions == {"a": "15"})


async def test_a_listener_that_breaks_ends_it_instead_of_being_passed_over() -> None:
    def broken(_key: str, _old: Any, _new: Any) -> None:
        raise RuntimeError("a bug")

    made = Running(Script(pages=[page(10, body("a", 1))]))
    made.reflector._on_change = broken
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(made.reflector.run(), 10)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["create", "create", "patch", "delete", "fall behind", "lose", "wait"]),
        st.sampled_from("ab"),
        st.integers(min_value=0, max_value=40),  # turns of the event loop until the next
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_whatever_happens_the_copy_ends_up_as_the_cluster_is(operations: list[tuple[str, str, int]]) -> None:
    asyncio.run(_follow(operations))


async def _follow(operations: list[tuple[str, str, int]]) -> None:
    clock = ManualClock()
    store = Store(now=clock.now, rng=random.Random(1))
    api = DirectKubeApi(store)
    losing: list[asyncio.Event] = []

    class Losing(DirectKubeApi):
        """Whose watches break on demand."""

        async def watch(self, *args: Any, **asked: Any) -> AsyncIterator[WatchEvent]:
            lost = asyncio.Event()
            losing.append(lost)
            stream: Any = super().watch(*args, **asked)
            waiting = asyncio.ensure_future(lost.wait())
            try:
                while True:
                    coming = asyncio.ensure_future(anext(stream))
                    await asyncio.wait((coming, waiting), return_when=asyncio.FIRST_COMPLETED)
                    if waiting.done():
                        raise UnreachableError("lost")
                    yield coming.result()
            finally:
                waiting.cancel()
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
                await stream.aclose()

    async with running(Losing(store), type_=PersistentVolume, page_size=2) as made:
        made.clock = clock
        made.reflector._clock = clock
        told: dict[str, str] = {}
        for what, name, turns in operations:
            await _do(what, name, api, store, losing)
            if what == "wait":
                await clock.advance(1)
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(5):  # relists and waits, each with its turns of the loop
            await clock.advance(60)
        expected = {
            item["metadata"]["name"]: item["metadata"]["resourceVersion"]
            for item in map(msgspec.json.decode, (await api.list_page(PERSISTENT_VOLUMES)).items)
        }
        assert made.versions == expected
        for key, old, new in made.changes:
            assert told.get(key) == old, "what was, is what was told before"
            told.pop(key, None)
            if new is not None:
                told[key] = new
        assert told == expected


async def _do(what: str, name: str, api: DirectKubeApi, store: Store, losing: list[asyncio.Event]) -> None:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
    with contextlib.suppress(KubeError):
        match what:
            case "create":
                await api.create(PERSISTENT_VOLUMES, {"metadata": {"name": name}, "spec": spec})
            case "patch":
                label = str(store.resource_version)
                await api.patch(PERSISTENT_VOLUMES, name, {"metadata": {"labels": {"x": label}}})
            case "delete":
                await api.delete(PERSISTENT_VOLUMES, name)
            case "lose" | "fall behind":
                for lost in losing:
                    lost.set()
                for _ in range(40):
                    await asyncio.sleep(0)
                if what == "fall behind":
                    await api.delete(PERSISTENT_VOLUMES, name)
                    store.forget(PERSISTENT_VOLUMES)
