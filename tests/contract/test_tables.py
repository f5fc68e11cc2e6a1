"""Tables, as kubectl asks for them: the emulator and kube-apiserver show the same columns and the same cells."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from common.kube.api import STORAGE_POLICIES, VOLUME_MIGRATIONS
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.proxy import Upstream
from sandbox.real.control_plane import ControlPlane
from sandbox.world.tables import roughly, value_at
from tests.contract.clusters import Cluster, new_store

ACCEPT: Final = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
POLICY: Final = {"spec": {"highWatermarkIOPS": 7000.5, "samplingWindow": "3s"}}
MIGRATION: Final = {
    "spec": {
        "requestId": "r",
        "pvName": "pvc-a",
        "volumeHandle": "a",
        "moves": [{"source": {"pool": "sata-1"}, "targetPool": "nvme-2"}],
    }
}
STATUS: Final = {"phase": "Active", "watchedVolumes": 3, "hotVolumes": 1, "coldVolumes": 0}


@asynccontextmanager
async def asking(cluster: Cluster, kubeconfig: Path | None) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of an implementation that has HTTP."""
    upstream = Upstream.of(kubeconfig) if kubeconfig is not None else Upstream(cluster.url)
    headers = {"Accept": ACCEPT} | ({"Authorization": f"Bearer {upstream.token}"} if upstream.token else {})
    connector = aiohttp.TCPConnector(ssl=upstream.trust or True)
    async with aiohttp.ClientSession(cluster.url, headers=headers, connector=connector) as session:
        yield session


@pytest.fixture(params=["emulator", "kube-apiserver"])
def implementation(request: pytest.FixtureRequest) -> tuple[str, ControlPlane | None]:
    """Those that answer over HTTP: called in process, nobody asks for tables."""
    real = request.param == "kube-apiserver"
    return request.param, request.getfixturevalue("control_plane") if real else None


@pytest.fixture
def kubeconfig(implementation: tuple[str, ControlPlane | None]) -> Path | None:
    _, running = implementation
    return running.kubeconfig if running is not None else None


async def rows(session: aiohttp.ClientSession, path: str) -> tuple[list[tuple[str, str, int]], list[list[Any]]]:
    """The columns and the cells, without each object's age."""
    async with session.get(path) as answer:
        body = await answer.json()
    assert (body["kind"], body["apiVersion"]) == ("Table", "meta.k8s.io/v1"), body
    columns = [(column["name"], column["type"], column["priority"]) for column in body["columnDefinitions"]]
    age = next(index for index, (name, _, _) in enumerate(columns) if name == "Age")
    assert all(row["cells"][age].endswith("s") for row in body["rows"])
    assert all(row["object"]["metadata"]["name"] == row["cells"][0] for row in body["rows"])
    return columns, [[*row["cells"][:age], *row["cells"][age + 1 :]] for row in body["rows"]]


async def test_policies_and_migrations_are_shown_in_their_columns(cluster: Cluster, kubeconfig: Path | None) -> None:
    policy, migration = cluster.name("policy"), cluster.name("vmig")
    await cluster.api.create(STORAGE_POLICIES, {"metadata": {"name": policy}, **POLICY})
    await cluster.api.create(VOLUME_MIGRATIONS, {"metadata": {"name": migration}, **MIGRATION})
    await cluster.api.patch(STORAGE_POLICIES, policy, {"status": STATUS}, subresource="status")
    api = "/apis/storage.billyronks.io/v1"
    async with asking(cluster, kubeconfig) as session:
        columns, cells = await rows(session, f"{api}/storagepolicies/{policy}")
        assert [name for name, _, priority in columns if priority == 0] == [
            "Name", "Phase", "High", "Low", "Window", "Watched", "Hot", "Cold", "Active", "Reconciled", "Age",
        ]  # fmt: skip
        assert cells == [[policy, "Active", 7000.5, 500, "3s", 3, 1, 0, None, None, "mayastor", "24h", False]]
        columns, cells = await rows(session, f"{api}/volumemigrations?fieldSelector=metadata.name={migration}")
        assert [name for name, _, _ in columns][:4] == ["Name", "Volume", "From", "To"]
        assert cells == [[migration, "pvc-a", "sata-1", "nvme-2", None, None, None, None, None]]


async def test_a_list_that_is_asked_for_as_a_table_has_pages(cluster: Cluster, kubeconfig: Path | None) -> None:
    for number in range(3):
        await cluster.widget(f"w{number}")
    path = f"/apis/contract.couchestor.test/v1/namespaces/{cluster.namespace}/widgets"
    async with asking(cluster, kubeconfig) as session:
        async with session.get(path, params={"limit": "2"}) as answer:
            first = await answer.json()
        async with session.get(path, params={"limit": "2", "continue": first["metadata"]["continue"]}) as answer:
            last = await answer.json()
    assert first["metadata"]["remainingItemCount"] == 1
    assert [[row["cells"][0] for row in page["rows"]] for page in (first, last)] == [["w0", "w1"], ["w2"]]


async def test_a_watch_that_is_asked_for_as_a_table_has_a_row_an_event(
    cluster: Cluster, kubeconfig: Path | None
) -> None:
    since = await cluster.now()
    await cluster.widget("w")
    path = f"/apis/contract.couchestor.test/v1/namespaces/{cluster.namespace}/widgets"
    watch = {"watch": "true", "resourceVersion": since, "timeoutSeconds": "1"}
    async with asking(cluster, kubeconfig) as session, session.get(path, params=watch) as answer:
        event = json.loads(await answer.content.readline())
    assert (event["type"], event["object"]["kind"]) == ("ADDED", "Table")
    assert [row["cells"][0] for row in event["object"]["rows"]] == ["w"]


async def test_whoever_does_not_ask_for_a_table_gets_none() -> None:
    async with KubeFront(new_store()) as front, aiohttp.ClientSession() as session:
        for accept in ("application/json", "*/*", "application/json,application/json;as=Table;v=v1;g=meta.k8s.io"):
            async with session.get(f"{front.url}/api/v1/namespaces", headers={"Accept": accept}) as answer:
                assert (await answer.json())["kind"] == "NamespaceList"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-3, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (599, "9m59s"), (600, "10m"),
        (10_799, "179m"), (10_800, "3h"), (12_000, "3h20m"), (28_800, "8h"),
        (172_799, "47h"), (172_800, "2d"), (900_000, "10d"),
    ],
)  # fmt: skip
def test_an_age_is_the_rougher_the_longer_it_is(seconds: float, told: str) -> None:
    assert roughly(seconds) == told


@pytest.mark.parametrize(
    ("path", "value"),
    [(".a.b", 1), (".a", {"b": 1}), (".list[1].c", 3), (".list[*].c", 2), (".list[7].c", None), (".a.x.y", None),
     (".a[0]", None), (".text.b", None)],
)  # fmt: skip
def test_a_path_leads_to_the_first_value_or_to_none(path: str, value: object) -> None:
    assert value_at({"a": {"b": 1}, "list": [{"c": 2}, {"c": 3}], "text": "t"}, path) == value
