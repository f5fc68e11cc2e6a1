"""
Mayastor in a demo, behind either of the interfaces that the migrator speaks: MayastorVolume resources, or the control
plane's REST API. The model of what it does with replicas is one and the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Protocol

from common.clock import Clock
from common.kube.api import KubeApi
from common.resources.migration import BackendKind
from sandbox.demo import eyes
from sandbox.demo.eyes import Look
from sandbox.demo.scenario import GIB, Scenario, sim_volume
from sandbox.fronts.mayastor_rest.app import FrontSettings, MayastorRestFront
from sandbox.world.control.plane import ControlSettings, VolumeEntry
from sandbox.world.driver import Driver, DriverSettings
from sandbox.world.mayastor import Faults, Settings
from sandbox.world.pool_operator import PoolOperator
from sandbox.world.storage import State
from sandbox.world.versions import MayastorVersion

CACHE_SECONDS: Final = 0.4
"""How old the REST API's answers are here: 30 s, shrunk."""
OPERATION_SECONDS: Final = 2.0
"""After so long no call of the REST API takes effect any more: here each does at once."""
LEVER_SECONDS: Final = 10.0
TWO_READS_SECONDS: Final = 1.0
"""Between two reads of a MayastorVolume before a removal."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What any storage of a demo stands on."""

    api: KubeApi
    scenario: Scenario
    clock: Clock
    rng: Random
    tick_seconds: float
    say: Callable[[str], None]


class Storage(Protocol):
    """The storage, once it is installed. `run` is what it does as time passes."""

    @property
    def state(self) -> State:
        """The truth of this moment, with each volume under the name of its PersistentVolume."""
        ...

    @property
    def look(self) -> Look:
        """How the observer sees it."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What the migrator has to be told of it."""
        ...

    @property
    def two_reads_seconds(self) -> float:
        """How far apart two reads of it are at least that show anything new."""
        ...

    @property
    def url(self) -> str:
        """Where it is asked; empty if that is the Kubernetes API."""
        ...

    async def run(self) -> None: ...


class ResourceStorage:
    """Mayastor as the specification has it: its operators act on MayastorVolumes and DiskPools."""

    url: str = ""
    two_reads_seconds: float = TWO_READS_SECONDS

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.driver = Driver(
            ground.api,
            clock=ground.clock,
            rng=ground.rng,
            settings=storage_settings(ground.scenario, {v.name: v.name for v in ground.scenario.volumes}),
            driver_settings=DriverSettings(tick_seconds=ground.tick_seconds),
            warn=ground.say,
        )
        self.look = eyes.of_resources(ground.api, lambda: self.driver.state)

    @property
    def state(self) -> State:
        return self.driver.state

    @property
    def environment(self) -> Mapping[str, str]:
        return {"BACKEND": BackendKind.CRD.value}

    async def install(self) -> None:
        scenario = self._ground.scenario
        await self.driver.install(scenario.pools, map(sim_volume, scenario.volumes))

    async def run(self) -> None:
        await self.driver.run()


class RestStorage:
    """Mayastor as it is today: volumes behind the REST API, and DiskPools as resources beside it."""

    two_reads_seconds: float = CACHE_SECONDS

    def __init__(self, ground: Ground, version: MayastorVersion = MayastorVersion.OPENEBS_4_4) -> None:
        scenario = ground.scenario
        self._names = {volume.handle: volume.name for volume in scenario.volumes}
        storage = storage_settings(scenario, {volume.name: volume.handle for volume in scenario.volumes})
        control = ControlSettings(version=version, storage=replace(storage, rebuild_unpublished=False))
        self.front = MayastorRestFront(
            clock=ground.clock,
            rng=ground.rng,
            settings=FrontSettings(control=control, cache_seconds=CACHE_SECONDS),
            pools=scenario.pools,
            volumes=(replace(sim_volume(volume), name=volume.handle) for volume in scenario.volumes),
        )
        for volume in scenario.volumes:
            self.front.describe_volume(volume.handle, _with_snapshots(volume.snapshots))
        self.operator = PoolOperator(ground.api, lambda: self.front.state, clock=ground.clock, warn=ground.say)
        self.look = eyes.of_plane(lambda: self.front.plane, self._names)

    @property
    def url(self) -> str:
        return self.front.url

    @property
    def state(self) -> State:
        state = self.front.state
        named = {uuid: self._names.get(uuid, uuid) for uuid in state.volumes}
        volumes = {named[uuid]: replace(volume, name=named[uuid]) for uuid, volume in state.volumes.items()}
        return replace(state, volumes=volumes)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "BACKEND": BackendKind.REST.value,
            "MAYASTOR_REST_URL": self.url,
            "MAYASTOR_CACHE_SECONDS": f"{CACHE_SECONDS:g}",
            "MAYASTOR_OPERATION_SECONDS": f"{OPERATION_SECONDS:g}",
            "LEVER_SECONDS": f"{LEVER_SECONDS:g}",
        }

    async def install(self) -> None:
        # Their labels are the control plane's alone, as where pools were labelled after they had been made.
        await self.operator.install({})

    async def run(self) -> None:
        await self.operator.run()


def storage_settings(scenario: Scenario, names: Mapping[str, str]) -> Settings:
    """How fast it is and what goes wrong; `names` are what it calls the scenario's volumes."""
    faults = Faults(
        failing_rebuilds=frozenset(names[volume.name] for volume in scenario.volumes if volume.failing),
        stalled_rebuilds=frozenset(names[volume.name] for volume in scenario.volumes if volume.stalled),
    )
    return Settings(rebuild_bytes_per_second=scenario.rebuild_gib_per_second * GIB, faults=faults)


def _with_snapshots(count: int) -> Callable[[VolumeEntry], VolumeEntry]:
    return lambda entry: replace(entry, snapshots=count)


@contextlib.asynccontextmanager
async def open_storage(kind: BackendKind, ground: Ground) -> AsyncIterator[Storage]:
    """Install a scenario's storage, ready to be asked, but for its `run`. Raises KubeError."""
    if kind is BackendKind.CRD:
        resources = ResourceStorage(ground)
        await resources.install()
        yield resources
        return
    rest = RestStorage(ground)
    async with rest.front:
        await rest.install()
        yield rest
