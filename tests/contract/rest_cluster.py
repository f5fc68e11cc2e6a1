"""A small cluster behind the simulated REST API, on a clock moved by hand; every exchange is held to the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any, Final

from sandbox.fronts.mayastor_rest.app import FrontSettings, MayastorRestFront, front_settings
from sandbox.fronts.mayastor_rest.contract import validate_exchange
from sandbox.world.choosing import Ties
from sandbox.world.control.plane import ControlSettings
from sandbox.world.storage import SimPool, SimVolume
from sandbox.world.versions import MayastorVersion
from tests.clock import ManualClock

GIB: Final = 2**30
VOLUME: Final = "11111111-2222-4333-8444-555555555555"
OTHER: Final = "66666666-7777-4888-8999-aaaaaaaaaaaa"
HOT: Final = {"pool_topology": {"labelled": {"inclusion": {"tier": "hot"}, "exclusion": {}}}}


def a_pool(name: str, node: str, tier: str = "hot", *, gib: int = 100) -> SimPool:
    return SimPool(name, node, gib * GIB, {"tier": tier})


POOLS: Final = (a_pool("p1", "n1"), a_pool("p2", "n2"), a_pool("p3", "n3", "cold"))


class RestCluster:
    """The front, its clock, and short words for what is asked. A GiB is rebuilt in a second."""

    def __init__(
        self,
        version: MayastorVersion = MayastorVersion.LATE_2024,
        *,
        pools: Iterable[SimPool] = POOLS,
        volumes: Iterable[SimVolume] = (),
        cache_seconds: float = 0.0,
        seed: int = 1,
        **changes: Any,
    ) -> None:
        self.clock = ManualClock()
        base = front_settings(version)
        control = quick(base.control)
        known = {name: changes.pop(name) for name in ("token_required", "pool_cordon_counts") if name in changes}
        settings: FrontSettings = replace(
            base, control=replace(control, **changes), cache_seconds=cache_seconds, **known
        )
        self.front = MayastorRestFront(
            clock=self.clock, rng=Random(seed), settings=settings, pools=pools, volumes=volumes
        )

    async def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Ask, letting time pass for an answer that takes some; `path` without /v0."""
        asked = asyncio.ensure_future(self.front.ask(method, f"/v0{path}", body, headers))
        for _ in range(10):
            await asyncio.sleep(0)
        while not asked.done():
            await self.clock.advance(0.5)
        status, answer = await asked
        validate_exchange(method, f"/v0{path}", body, status, answer)
        return status, answer

    async def create(
        self, name: str = VOLUME, *, replicas: int = 1, gib: int = 10, on: str | None = None, **more: Any
    ) -> Any:
        """Make a volume, `on` a pool if that is given."""
        shut = [pool for pool in self.front.state.pools if on not in (None, pool)]
        for pool in shut:
            self.front.set_pool_online(pool, online=False)
        body = {"policy": {"self_heal": True}, "replicas": replicas, "size": gib * GIB, "thin": False, **more}
        answer = await self.expect(200, "PUT", f"/volumes/{name}", body)
        for pool in shut:
            self.front.set_pool_online(pool, online=True)
        return answer

    async def publish(self, node: str, name: str = VOLUME, **more: object) -> Any:
        body = {"publish_context": {}, "protocol": "nvmf", "node": node, **more}
        return await self.expect(200, "PUT", f"/volumes/{name}/target", body)

    async def count(self, count: int, name: str = VOLUME) -> tuple[int, Any]:
        return await self.ask("PUT", f"/volumes/{name}/replica_count/{count}")

    async def read(self, name: str = VOLUME) -> Any:
        return await self.expect(200, "GET", f"/volumes/{name}")

    async def expect(self, status: int, method: str, path: str, body: object = None) -> Any:
        found, answer = await self.ask(method, path, body)
        assert found == status, answer
        return answer

    async def wait(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def synced(self, name: str = VOLUME) -> None:
        """Wait until a published volume shows whole."""
        for _ in range(200):
            if (await self.read(name))["state"]["status"] == "Online":
                return
            await self.wait(1.0)
        raise AssertionError(f"{name} did not become whole: {await self.read(name)}")

    async def two_replicas(self, source: str, target_node: str, *, also: str, **more: Any) -> None:
        """A volume with a synced replica on `source` and one on the pool `also`, published on `target_node`."""
        await self.create(on=source, **more)
        await self.publish(target_node)
        shut = [pool for pool in self.front.state.pools if pool not in (source, also)]
        for pool in shut:
            self.front.set_pool_online(pool, online=False)
        status, answer = await self.count(2)
        assert status == 200, answer
        for pool in shut:
            self.front.set_pool_online(pool, online=True)
        await self.synced()


def quick(control: ControlSettings) -> ControlSettings:
    """With a fast rebuild, chance where no rule decides, and an absent replica replaced after three seconds."""
    storage = replace(control.storage, rebuild_bytes_per_second=float(GIB), ties=Ties.CHANCE)
    return replace(control, storage=storage, away_seconds=3.0)


def pools_of(volume: Any) -> dict[str, str | None]:
    """The pools on which a volume is shown to have replicas, and what their target says of them."""
    return {place["pool"]: place.get("child-status") for place in volume["state"]["replica_topology"].values()}


def progress_of(volume: Any, pool: str) -> int | None:
    places = volume["state"]["replica_topology"].values()
    return next((place.get("rebuild-progress") for place in places if place["pool"] == pool), None)


def kind_of(answer: Any) -> str:
    """The kind of an error and its name."""
    return f"{answer['kind']} {answer['message'].removeprefix('SvcError :: ').partition(':')[0]}"
