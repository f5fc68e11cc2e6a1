"""
The implementations that keep the contract, in one shape for the tests.

Objects of kube-apiserver stay there from one test to the next, so every test has a namespace and a name prefix of its
own, and looks at nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import msgspec

from common.clock import SystemClock
from common.kube.api import EventType, KubeApi, Resource, WatchEvent
from common.kube.http import HttpKubeApi
from sandbox.fronts.kube import KubeFront
from sandbox.real.control_plane import ControlPlane
from sandbox.world.direct import DirectKubeApi
from sandbox.world.kinds import NAMESPACES
from sandbox.world.store import Store

ROOT: Final = Path(__file__).resolve().parents[2]
CRDS: Final = (ROOT / "sandbox/crds", ROOT / "helm/couchestor/crds", ROOT / "tests/contract/crds")

WIDGETS: Final = Resource("contract.couchestor.test", "v1", "widgets", "Widget", namespaced=True)
GADGETS: Final = Resource("contract.couchestor.test", "v1", "gadgets", "Gadget")
MAYASTOR_VOLUMES: Final = Resource("openebs.io", "v1", "mayastorvolumes", "MayastorVolume", namespaced=True)
DISK_POOLS: Final = Resource("openebs.io", "v1", "diskpools", "DiskPool", namespaced=True)

SECONDS: Final = 20.0
"""How long a test waits for what must come."""

_numbers = itertools.count(1)


async def _nothing() -> None:
    """The emulator's past is always shorter than what a test asks of it."""


@dataclass(slots=True)
class Cluster:
    """One implementation, with a corner of it for one test."""

    api: KubeApi
    kind: str
    url: str = ""
    """Where it answers over HTTP; "" where it does not."""
    forget: Callable[[], Awaitable[None]] = _nothing
    """Makes the server forget all that is past, as it does by itself after some minutes."""
    prefix: str = field(default_factory=lambda: f"t{next(_numbers)}")
    """Of names that are no other test's."""

    @property
    def namespace(self) -> str:
        return self.prefix

    @property
    def real(self) -> bool:
        return self.kind == "kube-apiserver"

    def name(self, name: str) -> str:
        """Make a name for a kind without namespaces."""
        return f"{self.prefix}-{name}"

    async def widget(self, name: str = "w", **spec: Any) -> dict[str, Any]:
        """Create a valid Widget."""
        body = {"metadata": {"name": name}, "spec": {"word": "abc", **spec}}
        return decoded(await self.api.create(WIDGETS, body, self.namespace))

    async def patch(self, name: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Patch a Widget."""
        return decoded(await self.api.patch(WIDGETS, name, body, self.namespace, **options))

    async def read(self, name: str = "w") -> dict[str, Any]:
        """Read a Widget."""
        return decoded(await self.api.get(WIDGETS, name, self.namespace))

    async def now(self) -> str:
        """Return the resourceVersion of an (empty) list: now."""
        return (await self.api.list_page(WIDGETS, self.namespace)).resource_version


def new_store(**options: Any) -> Store:
    """Make a store that serves all that the tests use."""
    return Store(now=SystemClock().now, rng=random.Random(7), crds=CRDS, **options)


@contextlib.asynccontextmanager
async def direct_cluster() -> AsyncIterator[Cluster]:
    """The store, called in process."""
    yield await _ready(Cluster(DirectKubeApi(new_store(), bookmark_seconds=0.2), "direct"))


@contextlib.asynccontextmanager
async def emulated_cluster(directory: Path) -> AsyncIterator[Cluster]:
    """The store behind HTTP."""
    async with KubeFront(new_store(), bookmark_seconds=0.2) as front:
        kubeconfig = front.write_kubeconfig(directory / "kubeconfig")
        async with HttpKubeApi.connect(str(kubeconfig)) as api:
            yield await _ready(Cluster(api, "emulator", front.url))


@contextlib.asynccontextmanager
async def real_cluster(control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    """kube-apiserver."""

    async def compact() -> None:
        # Revisions begin at 1, and everything that is there by now is newer than 3.
        await _compact(control_plane, 3)

    async with HttpKubeApi.connect(str(control_plane.kubeconfig)) as api:
        yield await _ready(Cluster(api, "kube-apiserver", control_plane.url, compact))


async def _compact(control_plane: ControlPlane, revision: int) -> None:
    """Make etcd forget the revisions before one; once is enough, and a second time is an error that says so."""
    urls = (argument.partition("=") for argument in control_plane.etcd.program.argv)
    url = next(value for name, _, value in urls if name == "--listen-client-urls")
    async with aiohttp.ClientSession() as session:
        body = {"revision": str(revision), "physical": True}
        async with session.post(f"{url}/v3/kv/compaction", json=body) as answer:
            said = await answer.text()
            assert answer.status == 200 or "compacted" in said, said


async def _ready(cluster: Cluster) -> Cluster:
    await cluster.api.create(NAMESPACES, {"metadata": {"name": cluster.namespace}})
    return cluster


def decoded(raw: msgspec.Raw) -> dict[str, Any]:
    """Decode an object."""
    return msgspec.json.decode(raw, type=dict[str, Any])


def without_noise(body: dict[str, Any]) -> dict[str, Any]:
    """Return an object without what differs from one server, or one moment, to the next."""
    noise = {"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "managedFields", "namespace", "name"}
    metadata = {key: value for key, value in body["metadata"].items() if key not in noise}
    return {**body, "metadata": metadata}


async def watched(
    watch: AsyncIterator[WatchEvent],
    count: int,
    *,
    meanwhile: Callable[[], Awaitable[object]] | None = None,
    bookmarks: bool = False,
    until: Callable[[dict[str, Any]], bool] | None = None,
) -> list[tuple[EventType, dict[str, Any]]]:
    """Read `count` events of a watch, or up to one that is wanted; `meanwhile` runs beside it."""
    found: list[tuple[EventType, dict[str, Any]]] = []
    other = asyncio.ensure_future(meanwhile()) if meanwhile else None
    try:
        async with asyncio.timeout(SECONDS), contextlib.aclosing(cast("AsyncGenerator[WatchEvent, None]", watch)):
            async for event in watch:
                if bookmarks or event.type is not EventType.BOOKMARK:
                    found.append((event.type, decoded(event.object)))
                if len(found) == count or (until is not None and found and until(found[-1][1])):
                    break
    finally:
        if other is not None:
            await other
    return found


def names(events: list[tuple[EventType, dict[str, Any]]]) -> list[tuple[str, str]]:
    """Return what happened to whom."""
    return [(kind.value, body["metadata"]["name"]) for kind, body in events]
