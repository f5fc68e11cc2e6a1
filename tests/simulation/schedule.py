"""
One schedule: everything that a seed stands for, from the first moment until all has come to rest.

Processes run, users ask for moves, things go wrong for a while; then nothing goes wrong any more, and within a bounded
time every migration must have ended and everything must be as it was, or be told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final

from common.kube.api import LEASES, PERSISTENT_VOLUMES, STORAGE_POLICIES
from common.resources.migration import MigrationState
from tests.moves.cluster import pv_body
from tests.simulation.facts import Tally
from tests.simulation.fleet import BY_HAND, POLICY, Fleet, Pod
from tests.simulation.loop import run
from tests.simulation.people import People
from tests.simulation.plan import BackendName, Plan, draw
from tests.simulation.rest_world import RestWorld
from tests.simulation.world import handle_of

LONGEST_FAULTS: Final = 1_500.0
"""Seconds after which nobody asks for moves any more, whatever was reached."""
EASED: Final = 1.3
"""So many times the horizon, and nothing goes wrong any more even where not enough has happened."""
QUIET_SECONDS: Final = 20.0
"""For so long, at least, everything is watched after that."""
LONGEST_REST: Final = 4_000.0
"""Seconds within which everything must have come to rest after that."""


class Simulation(Fleet):
    """One schedule, running."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.people = People(self, Random(f"people {plan.seed}"))

    # --- the course of things ------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Play it to its end."""
        self._install()
        await self._rage()
        self.people.rest()
        self._calm()
        await self._rest()
        self.witness.check_quiet(self._disturbed)
        if isinstance(self.world, RestWorld):
            self.witness.check_things(self.world.things)
        self._finish()

    def _install(self) -> None:
        plan, store = self.plan, self.world.store
        self.world.install(plan.pools, plan.volumes)
        store.create(
            STORAGE_POLICIES,
            {
                "apiVersion": STORAGE_POLICIES.api_version,
                "kind": STORAGE_POLICIES.kind,
                "metadata": {"name": POLICY},
                "spec": {
                    "maxConcurrentMigrations": plan.policy_cap,
                    "samplingWindow": "5m",
                    "cooldownPeriod": f"{plan.timing.cooldown:g}s",
                    "migrationTimeout": f"{plan.timing.timeout:g}s",
                },
            },
        )
        store.create(
            STORAGE_POLICIES,
            {
                "apiVersion": STORAGE_POLICIES.api_version,
                "kind": STORAGE_POLICIES.kind,
                "metadata": {"name": BY_HAND},
                "spec": {"maxConcurrentMigrations": plan.policy_cap, "enabled": True, "storageClassName": "other"},
            },
        )
        for volume in plan.volumes:
            body = pv_body(volume.name, volume.size_bytes)
            csi = {**body["spec"]["csi"], "volumeHandle": handle_of(volume.name)}
            spec = {**body["spec"], "csi": csi}
            store.create(PERSISTENT_VOLUMES, {"apiVersion": "v1", "kind": "PersistentVolume", **body, "spec": spec})
            store.patch(PERSISTENT_VOLUMES, volume.name, {"status": {"phase": "Bound"}}, subresource="status")
            self.world.attach(volume.name, volume.target_node)
        self.world.attend(self.witness)
        self.world.listen(LEASES, self._lease_changed)
        for name in plan.pods:
            pod = self.pods[name] = Pod(name, plans=name.startswith("planner"), same_name=self.rng.random() < 0.5)
            if self.rng.random() < 0.3:
                pod.skew = timedelta(seconds=self.rng.uniform(-120, 120))
                self.skewed = True
            self.start(pod)

    async def _rage(self) -> None:
        self.people.begin()
        horizon = self.plan.timing.horizon
        await asyncio.sleep(horizon)
        self.faults.ease()
        while not self.eventful and self.loop.time() < LONGEST_FAULTS:
            if self.loop.time() >= EASED * horizon:
                self._calm()
            self.people.hurry()
            await asyncio.sleep(5.0)

    @property
    def eventful(self) -> bool:
        """Whether enough happened for the schedule to count."""
        return self.tally.scaled_up >= 3 and self.faults.count >= 2 and self.tally.crashes >= 1

    def _calm(self) -> None:
        if not self.faults.raging:
            return
        self.trace.note("world", "from now on nothing goes wrong any more")
        self.people.soothe()
        self.faults.calm()
        self.world.all_well()
        for pod in self.pods.values():
            pod.skew = timedelta(0)
            if pod.process is not None:
                pod.process.clock.skew = timedelta(0)
                self.loop.resume(pod.process)

    async def _rest(self) -> None:
        """Wait until all migrations have ended, and for what may still arrive late."""
        began = self.loop.time()
        while self.loop.time() - began < LONGEST_REST:
            await asyncio.sleep(5.0)
            quiet = all(MigrationState(course.state).terminal for course in self.witness.courses.values())
            if quiet and not self.faults.on_their_way and self.loop.time() - began >= QUIET_SECONDS:
                return

    def _disturbed(self, at: float) -> bool:
        return any(at - 60.0 <= moment <= at + 90.0 for moment in self.disturbances)

    def _finish(self) -> None:
        self.tally.faults = self.faults.count
        for failure in (*self.loop.failures, *self.trace.broken[:3]):
            self.witness.violated(0, failure)
        for pod in self.pods.values():
            for process in pod.kept:
                process.kill()


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a schedule."""

    seed: int
    backend: str
    tally: Tally
    trace: str
    tail: tuple[str, ...]
    virtual_seconds: float
    eventful: bool


def simulate(seed: int, backend: BackendName | None = None, *, tail: int = 150, tidy: bool = True) -> Report:
    """Run the schedule of a seed. Without `tidy`, what is left of it is left to the caller's `clear_away`."""
    gc.disable()
    try:
        simulation = Simulation(draw(seed, backend))
        with contextlib.suppress(asyncio.CancelledError):
            run(simulation.loop, simulation.play())
        return Report(
            seed=seed,
            backend=simulation.plan.backend,
            tally=simulation.tally,
            trace=simulation.trace.number,
            tail=tuple(simulation.trace.tail(tail)) if simulation.tally.violations else (),
            virtual_seconds=simulation.loop.time(),
            eventful=simulation.eventful,
        )
    finally:
        simulation = None  # type: ignore[assignment]
        if tidy:
            clear_away()
            gc.enable()


def clear_away() -> None:
    """Clear away what dead processes left; that it cannot run to its end is as it should be."""
    told, sys.unraisablehook = sys.unraisablehook, lambda _told: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()
    finally:
        sys.unraisablehook = told


def hush() -> None:
    """Make this process one that does nothing but run schedules, and says nothing of what they leave."""
    sys.unraisablehook = lambda _told: None
    warnings.simplefilter("ignore", RuntimeWarning)
    if gc.get_freeze_count() == 0:  # once: what schedules have left since would never be cleared away
        gc.freeze()
