"""
Courses of moves over Mayastor's REST API, to be told again and again with a crash in another place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from common.kube.api import VOLUME_MIGRATIONS
from common.reasons import Reason
from common.resources.migration import MigrationState, VolumeMigration
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.control.plane import ControlSettings
from sandbox.world.mayastor import Faults
from sandbox.world.storage import SimVolume
from tests.moves.rest_moves import UUID, Happening, Scene, a_volume
from tests.simulation.loop import VirtualLoop

BOTH = ("sata-2", "nvme-3"), ("sata-1", "nvme-2")


def cancel_in(state: MigrationState) -> Happening:
    """Somebody cancels as soon as it is seen in a state."""

    async def happening(scene: Scene, record: VolumeMigration) -> None:
        if record.status.state is state and not record.spec.cancel_requested:
            await scene.world.patch(VOLUME_MIGRATIONS, record.metadata.name, {"spec": {"cancelRequested": True}})

    return happening


def with_faults(faults: Faults) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        def change(control: ControlSettings) -> ControlSettings:
            return replace(control, storage=replace(control.storage, faults=faults))

        scene.front.set_control(change)

    return prepare


def with_late_counts(scene: Scene) -> None:
    """Each change of the count takes effect seven seconds after it was asked for, two after it was given up."""
    scene.front.inject(Fault(effect=Effect.SLOW, method="PUT", path=f"{UUID}/replica_count", seconds=7.0, times=2))


def nothing(_scene: Scene) -> None:
    """All goes well."""


@dataclass(frozen=True, slots=True)
class RestScenario:
    """One story and how it ends."""

    title: str
    reason: Reason
    pools: tuple[str, ...]
    volume: SimVolume
    moves: tuple[tuple[str, str], ...] = (("sata-1", "nvme-3"),)
    happening: Happening | None = None
    prepare: Callable[[Scene], None] = nothing
    timeout: float = 300.0
    preservation: bool = False
    otherwise: tuple[tuple[Reason, tuple[str, ...]], ...] = ()
    """Ends that come of it as well where a crash let time pass."""

    async def begin(self, loop: VirtualLoop) -> tuple[Scene, str]:
        """Set the stage; return it and the name of the migration."""
        scene = Scene(loop, self.volume)
        self.prepare(scene)
        scene.happening = self.happening
        name = await scene.admit(*self.moves, timeout=self.timeout, preservation=self.preservation)
        return scene, name

    async def check(self, scene: Scene, name: str) -> None:
        """Check that the end is terminal, clean and told."""
        reason = Reason((await scene.record(name)).status.reason)
        ends = {self.reason: self.pools, **dict(self.otherwise)}
        assert reason in ends, f"{reason}: {(await scene.record(name)).status.message}"
        await scene.ended(name, reason, pools=ends[reason])


HEALS_NOT = replace(a_volume(), self_heal=False)
MOVED = (Reason.MOVED, ("nvme-3",))

REST_SCENARIOS = (
    RestScenario("success", Reason.MOVED, ("nvme-3",), a_volume(gib=4)),
    RestScenario("success by labels", Reason.MOVED, ("nvme-2",), a_volume(gib=4, inclusion={"site": "a"}), BOTH[1:]),
    RestScenario(
        "two replicas",
        Reason.MOVED,
        ("nvme-2", "nvme-3"),
        a_volume(("sata-1", "sata-2"), inclusion={"site": "a"}),
        BOTH,
    ),
    RestScenario(
        "cancel",
        Reason.CANCELLED,
        ("sata-1",),
        a_volume(),
        happening=cancel_in(MigrationState.WAITING_SYNC),
        otherwise=(MOVED,),
    ),
    RestScenario(
        "cancel in ScalingUp",
        Reason.CANCELLED,
        ("sata-1",),
        a_volume(),
        happening=cancel_in(MigrationState.SCALING_UP),
        otherwise=(MOVED,),
    ),
    RestScenario(
        "cancel in ScalingDown",
        Reason.MOVED,
        ("nvme-3",),
        a_volume(gib=4),
        happening=cancel_in(MigrationState.SCALING_DOWN),
    ),
    RestScenario(
        "failed rebuild",
        Reason.REBUILD_FAILED,
        ("sata-1",),
        HEALS_NOT,
        prepare=with_faults(Faults(failing_rebuilds=frozenset({UUID}))),
    ),
    RestScenario(
        "stalled rebuild",
        Reason.TIMED_OUT,
        ("sata-1",),
        a_volume(),
        prepare=with_faults(Faults(stalled_rebuilds=frozenset({UUID}))),
        timeout=60.0,
    ),
    RestScenario("late effects", Reason.MOVED, ("nvme-3",), a_volume(gib=4), prepare=with_late_counts),
)
