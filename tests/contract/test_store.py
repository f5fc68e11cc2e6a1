"""What the emulator adds to being an API server: it is reproducible, it can forget, be slow, fail, and end cleanly."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from common.kube.api import (
    EventType,
    ExpiredError,
    KubeApi,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
    UnreachableError,
)
from common.kube.http import HttpKubeApi
from sandbox.fronts.kube import KubeFront
from sandbox.world.calls import Call, ConnectionLostError, Interference, Verb, undisturbed
from sandbox.world.direct import DirectKubeApi
from sandbox.world.kinds import CRDS as DEFINITIONS
from sandbox.world.status import StatusError
from sandbox.world.store import Store
from tests.contract.clusters import CRDS, WIDGETS, decoded, names, new_store, watched

START = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
NAMESPACE = "default"


def a_widget(name: str = "w", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"word": "abc", **spec}}


async def a_life(store: Store) -> list[bytes]:
    """Do a bit of everything, and return every answer."""
    api = DirectKubeApi(store)
    answers = [bytes(await api.create(WIDGETS, a_widget(name), NAMESPACE)) for name in ("a", "b", "c")]
    answers.append(bytes(await api.patch(WIDGETS, "a", {"spec": {"count": 9}}, NAMESPACE)))
    await api.delete(WIDGETS, "b", NAMESPACE)
    page = await api.list_page(WIDGETS, NAMESPACE, limit=1)
    answers += (bytes(item) for item in page.items)
    answers.append(f"{page.resource_version} {page.continue_token}".encode())
    return answers


async def test_the_same_seed_and_clock_give_the_same_cluster_byte_for_byte() -> None:
    def store(seed: int) -> Store:
        return Store(now=lambda: START, rng=random.Random(seed), crds=CRDS)

    assert await a_life(store(1)) == await a_life(store(1))
    assert await a_life(store(1)) != await a_life(store(2))


async def test_times_are_those_of_the_clock_handed_in() -> None:
    now = START
    store = Store(now=lambda: now, rng=random.Random(1), crds=CRDS)
    api = DirectKubeApi(store)
    body = a_widget()
    body["metadata"]["finalizers"] = ["test/x"]
    created = decoded(await api.create(WIDGETS, body, NAMESPACE))
    assert created["metadata"]["creationTimestamp"] == "2026-02-02T10:30:00Z"
    now += timedelta(minutes=5)
    await api.delete(WIDGETS, "w", NAMESPACE)
    assert decoded(await api.get(WIDGETS, "w", NAMESPACE))["metadata"]["deletionTimestamp"] == "2026-02-02T10:35:00Z"


async def test_what_a_caller_does_with_its_body_afterwards_changes_nothing() -> None:
    api = DirectKubeApi(new_store())
    body = a_widget(anything={"list": [1]})
    await api.create(WIDGETS, body, NAMESPACE)
    body["spec"]["anything"]["list"].append(2)
    patch = {"spec": {"anything": {"map": {"a": 1}}}}
    await api.patch(WIDGETS, "w", patch, NAMESPACE)
    patch["spec"]["anything"]["map"]["a"] = 2
    kept = decoded(await api.get(WIDGETS, "w", NAMESPACE))["spec"]["anything"]
    assert kept == {"list": [1], "map": {"a": 1}}


async def test_a_watch_further_behind_than_the_window_is_expired() -> None:
    api = DirectKubeApi(new_store(window=5))
    await api.create(WIDGETS, a_widget(), NAMESPACE)
    old = (await api.list_page(WIDGETS)).resource_version
    for count in (4, 5, 6, 7, 8):
        await api.patch(WIDGETS, "w", {"spec": {"count": count}}, NAMESPACE)
    reached = await watched(api.watch(WIDGETS, resource_version=old), 5)
    assert [body["spec"]["count"] for _, body in reached] == [4, 5, 6, 7, 8]
    await api.patch(WIDGETS, "w", {"spec": {"count": 9}}, NAMESPACE)
    with pytest.raises(ExpiredError, match="too old resource version"):
        await watched(api.watch(WIDGETS, resource_version=old), 1)


async def test_a_list_further_behind_than_the_window_is_expired() -> None:
    api = DirectKubeApi(new_store(window=2))
    for name in ("a", "b"):
        await api.create(WIDGETS, a_widget(name), NAMESPACE)
    token = (await api.list_page(WIDGETS, limit=1)).continue_token
    for count in (4, 5):
        await api.patch(WIDGETS, "a", {"spec": {"count": count}}, NAMESPACE)
    assert len((await api.list_page(WIDGETS, limit=1, continue_token=token)).items) == 1
    await api.patch(WIDGETS, "a", {"spec": {"count": 6}}, NAMESPACE)
    with pytest.raises(ExpiredError, match="The provided continue parameter is too old"):
        await api.list_page(WIDGETS, limit=1, continue_token=token)


async def test_a_watch_that_reads_too_slowly_is_expired() -> None:
    store = new_store(window=3)
    watch = store.watch(WIDGETS, resource_version=str(store.resource_version))
    assert watch.take() == []
    api = DirectKubeApi(store)
    for name in ("a", "b", "c"):
        await api.create(WIDGETS, a_widget(name), NAMESPACE)
    assert len(watch.take()) == 3
    for name in ("d", "e", "f", "g"):
        await api.create(WIDGETS, a_widget(name), NAMESPACE)
    with pytest.raises(StatusError) as expiry:
        watch.take()
    assert (expiry.value.code, expiry.value.reason) == (410, "Expired")


async def test_forgetting_the_past_spares_a_watch_that_is_up_to_date() -> None:
    store = new_store()
    api = DirectKubeApi(store)
    await api.create(WIDGETS, a_widget("a"), NAMESPACE)
    since = str(store.resource_version)
    await api.patch(WIDGETS, "a", {"spec": {"count": 4}}, NAMESPACE)
    watch = store.watch(WIDGETS, resource_version=since)
    assert len(watch.take()) == 1
    store.forget(WIDGETS)
    await api.create(WIDGETS, a_widget("b"), NAMESPACE)
    assert [line.type for line in watch.take()] == [EventType.ADDED]
    with pytest.raises(ExpiredError):
        await watched(api.watch(WIDGETS, resource_version=since), 1)


async def test_a_definition_that_goes_takes_its_kind_with_it(tmp_path: Path) -> None:
    store = Store(now=lambda: START, rng=random.Random(1), crds=CRDS)
    api = DirectKubeApi(store)
    definition = tmp_path / "widgets.yaml"
    definition.write_text((CRDS[2] / "widgets.yaml").read_text().replace("maxLength: 5", "maxLength: 50"))
    await api.create(WIDGETS, a_widget(), NAMESPACE)
    store.install_crds([definition])
    longer = decoded(await api.patch(WIDGETS, "w", {"spec": {"word": "longerthanfive"}}, NAMESPACE))
    assert longer["spec"]["word"] == "longerthanfive"
    store.delete(DEFINITIONS, "widgets.contract.couchestor.test")
    with pytest.raises(NotFoundError):
        await api.get(WIDGETS, "w", NAMESPACE)


class Trouble:
    """An interference that does what a test says, once, to the calls that it is about."""

    def __init__(self, verb: Verb, error: Exception) -> None:
        self.verb = verb
        self.error: Exception | None = error
        self.seen: list[Call] = []

    async def __call__(self, call: Call) -> None:
        self.seen.append(call)
        if call.verb is self.verb and self.error is not None:
            error, self.error = self.error, None
            raise error


Opened = Callable[[Interference, Interference], Any]


@pytest.fixture(params=["direct", "emulator"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Either way into a store, with interference."""

    class Both:
        def __init__(self, before: Interference, after: Interference) -> None:
            self.before, self.after = before, after
            self.front: KubeFront | None = None
            self.connection: Any = None

        async def __aenter__(self) -> KubeApi:
            store = new_store()
            if request.param == "direct":
                return DirectKubeApi(store, before=self.before, after=self.after)
            self.front = KubeFront(store, before=self.before, after=self.after)
            await self.front.start()
            self.connection = HttpKubeApi.connect(str(self.front.write_kubeconfig(tmp_path / "kubeconfig")))
            api: KubeApi = await self.connection.__aenter__()
            return api

        async def __aexit__(self, *error: object) -> None:
            if self.front is not None:
                await self.connection.__aexit__(*error)
                await self.front.stop()

    return Both


async def test_a_failure_before_leaves_nothing_done(opened: Opened) -> None:
    trouble = Trouble(Verb.CREATE, StatusError(500, "InternalError", "etcd is away"))
    async with opened(trouble, undisturbed) as api:
        with pytest.raises(ServerError, match="etcd is away") as failure:
            await api.create(WIDGETS, a_widget(), NAMESPACE)
        assert failure.value.outcome_unknown
        with pytest.raises(NotFoundError):
            await api.get(WIDGETS, "w", NAMESPACE)
    assert trouble.seen[0] == Call(Verb.CREATE, WIDGETS, "w", NAMESPACE)


async def test_a_failure_after_leaves_it_done_and_unanswered(opened: Opened) -> None:
    async with opened(undisturbed, Trouble(Verb.PATCH, ConnectionLostError())) as api:
        await api.create(WIDGETS, a_widget(), NAMESPACE)
        with pytest.raises(UnreachableError) as failure:
            await api.patch(WIDGETS, "w", {"spec": {"count": 9}}, NAMESPACE)
        assert failure.value.outcome_unknown
        assert decoded(await api.get(WIDGETS, "w", NAMESPACE))["spec"]["count"] == 9


async def test_a_server_can_ask_to_slow_down(opened: Opened) -> None:
    busy = StatusError(429, "TooManyRequests", "too many requests, please try again later", retry_after_seconds=3)
    async with opened(Trouble(Verb.LIST, busy), undisturbed) as api:
        with pytest.raises(TooManyRequestsError) as refusal:
            await api.list_page(WIDGETS)
        assert refusal.value.retry_after_seconds == 3
        assert (await api.list_page(WIDGETS)).items == ()


async def test_a_call_can_be_made_to_wait(opened: Opened) -> None:
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def slow(call: Call) -> None:
        if call.verb.writes:
            arrived.set()
            await gate.wait()

    async with opened(slow, undisturbed) as api, asyncio.timeout(20):
        writing = asyncio.create_task(api.create(WIDGETS, a_widget(), NAMESPACE))
        await arrived.wait()
        assert (await api.list_page(WIDGETS)).items == ()  # reads go on meanwhile
        gate.set()
        await writing
        assert len((await api.list_page(WIDGETS)).items) == 1


async def test_a_front_that_stops_ends_its_watches_at_once(tmp_path: Path) -> None:
    store = new_store()
    front = KubeFront(store)
    await front.start()
    async with HttpKubeApi.connect(str(front.write_kubeconfig(tmp_path / "kubeconfig"))) as api, asyncio.timeout(20):
        seen: list[EventType] = []
        begun = asyncio.Event()

        async def watch() -> None:
            async for event in api.watch(WIDGETS, resource_version="0", timeout_seconds=300):
                seen.append(event.type)
                begun.set()

        await api.create(WIDGETS, a_widget(), NAMESPACE)
        watching = asyncio.create_task(watch())
        await begun.wait()
        await front.stop()
        await watching  # ends, and does not fail
    assert seen == [EventType.ADDED, EventType.BOOKMARK]
    assert store.kinds


async def test_a_front_survives_clients_that_hang_up(tmp_path: Path) -> None:
    store = new_store()
    async with KubeFront(store, bookmark_seconds=0.01) as front:
        path = "/apis/contract.couchestor.test/v1/widgets?watch=true&resourceVersion=0&allowWatchBookmarks=true"
        for _ in range(5):
            async with aiohttp.ClientSession(front.url) as session, session.get(path) as answer:
                assert answer.status == 200
        api = DirectKubeApi(store)
        await api.create(WIDGETS, a_widget(), NAMESPACE)
        async with HttpKubeApi.connect(str(front.write_kubeconfig(tmp_path / "kubeconfig"))) as over_http:
            assert names(await watched(over_http.watch(WIDGETS, resource_version="0"), 1)) == [("ADDED", "w")]


async def test_a_front_can_come_back_on_its_port_with_the_same_objects() -> None:
    store = new_store()
    async with KubeFront(store) as front:
        port = front.port
        await DirectKubeApi(store).create(WIDGETS, a_widget(), NAMESPACE)
    path = "/apis/contract.couchestor.test/v1/namespaces/default/widgets/w"
    async with (
        KubeFront(store, port=port) as front,
        aiohttp.ClientSession(front.url) as session,
        session.get(path) as answer,
    ):
        assert msgspec.json.decode(await answer.read())["metadata"]["name"] == "w"


def test_a_store_holds_ten_thousand_objects_and_reads_them_in_pages() -> None:
    store = new_store()
    body = {"apiVersion": WIDGETS.api_version, "kind": WIDGETS.kind, **a_widget()}
    for number in range(10_000):
        store.create(WIDGETS, {**body, "metadata": {"name": f"w{number:05}"}}, NAMESPACE)
    count, token = 0, ""
    while True:
        page = store.list_page(WIDGETS, limit=500, continue_token=token)
        count += len(page.items)
        token = page.continue_token
        if not token:
            break
    assert count == 10_000
