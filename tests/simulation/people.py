"""
Users and misfortunes: who does what when.

Some things come at any time; most come when a migration has just entered a state, since it is there that they could
hurt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from sandbox.world.storage import SimVolume
from tests.simulation.courses import Course
from tests.simulation.heat import COLD, HOT, WARM, Weather
from tests.simulation.misfortunes import POLICIES, Misfortunes

MISPLACED: Final = 0.05
"""Share of new replicas that Mayastor puts elsewhere."""
QUEUED: Final = 4
"""So many moves are wanted at once where not enough has happened yet."""
DROPPED: Final = 0.8
"""Share of schedules at whose end the policies are disabled, and the moves that wait are cancelled."""
ENDED: Final = frozenset({"Completed", "Aborted", "Failed", "Gone"})
TARGETED: Final = {"ScalingUp": 0.15, "WaitingSync": 0.35, "ScalingDown": 0.2}
"""Share of a migration's changes of state upon which something befalls it."""


class People(Misfortunes):
    """Draws who does what when."""

    def begin(self) -> None:
        """Draw what happens by itself."""
        self._busy = True
        rng, horizon = self._rng, self._sim.plan.timing.horizon
        for volume in self._sim.plan.volumes:
            if rng.random() < 0.6:
                self._at(rng.uniform(0.05, 0.4) * horizon, partial(self.ask, volume))
            if rng.random() < 0.15:
                self._at(rng.uniform(0.4, 1.0) * horizon, partial(self.ask, volume))
            self._at(0.0, partial(self._warm, volume))
            for _ in range(rng.randrange(3)):
                self._at(rng.uniform(0, horizon), partial(self._warm, volume))
        for _ in range(rng.randrange(2, 9)):
            self._at(rng.uniform(5, horizon), self.befall)
        if rng.random() < 0.5:
            self._at(rng.uniform(0.1, 0.7) * horizon, self._cloud)
        self._sim.witness.on_state = self._on_state

    def _warm(self, volume: SimVolume) -> None:
        """Let a volume be as hot as it may be."""
        fact = self._sim.world.volume(volume.name)
        on_hot = fact is not None and any(self._sim.plan.tiers[replica.pool] == "hot" for replica in fact.replicas)
        elsewhere: tuple[float | None, ...] = (COLD, COLD, 0.0, None, None) if on_hot else (HOT,)
        score = self._rng.choice((*elsewhere, HOT, WARM, COLD, None))
        if score is None:
            self._sim.heat.scores.pop(volume.name, None)
        else:
            self._sim.heat.scores[volume.name] = score

    def hurry(self) -> None:
        """Not enough happened yet: ask for more, and see to it that somebody dies."""
        sim, rng = self._sim, self._rng
        busy = {course.volume for course in sim.witness.courses.values() if course.state not in ENDED}
        idle = [volume for volume in sim.plan.volumes if volume.name not in busy and self._whole(volume.name)]
        for volume in rng.sample(idle, min(max(0, QUEUED - len(busy)), len(idle))):
            self.ask(volume)
        if sim.tally.crashes == 0:
            self._kill_leader()
        if self._calm:
            # A volume that lost a copy and that nobody uses does not heal, and nothing near it is moved until it has.
            for volume in sim.plan.volumes:
                if volume.name not in sim.world.attached and sim.world.volume(volume.name) is not None:
                    self._told("publish", volume.name, partial(self._publish, volume.name))

    def _whole(self, volume: str) -> bool:
        fact = self._sim.world.volume(volume)
        return fact is not None and len(fact.usable) == fact.count

    def soothe(self) -> None:
        """Nothing befalls anybody any more; moves are still asked for."""
        self._calm = True
        self._failing = self._stalled = frozenset()
        self._sim.heat.weather = Weather.FRESH

    def rest(self) -> None:
        """Nobody asks for anything any more; most often what was not yet begun is not wanted either."""
        self.soothe()
        self._busy = False
        if self._rng.random() < DROPPED:
            for name in POLICIES:
                self._told("stop", name, partial(self._set_policy, name, {"enabled": False}))
            for course in list(self._sim.witness.courses.values()):
                if course.state == "Pending":
                    self._told("drop", course.volume, partial(self._cancel, course))

    def _on_state(self, course: Course) -> None:
        if self._busy and not self._calm and course.state == "ScalingUp" and self._rng.random() < MISPLACED:
            self._told("misplace", course.volume, lambda: self._sim.world.misplace(course.volume))
        if self._busy and not self._calm and self._rng.random() < TARGETED.get(course.state, 0.05):
            act = self._rng.choice(
                (
                    self._cancel,
                    self._cancel,
                    self._delete_record,
                    self._edit_count,
                    self._edit_topology,
                    self._label,
                    self._lose_pools,
                    self._fault_rebuild,
                    self._stall_rebuild,
                    self._move_target,
                    self._unpublish,
                    self._delete_volume,
                    self._strip_annotations,
                    self._touch_pv,
                )
            )
            delay = self._rng.choice((0.0, self._rng.uniform(0, 1), self._rng.uniform(0, 15)))
            self._at(delay, partial(self._upon, act, course))

    def _upon(self, act: Callable[[Course], None], course: Course) -> None:
        if not self._calm:
            self._told(act.__name__, course.volume, partial(act, course))

    def befall(self) -> None:
        """Let something happen to the cluster."""
        if self._calm:
            return
        act = self._rng.choice(
            (
                self._lose_pool,
                self._lose_pool,
                self._lose_node,
                self._jump,
                self._jump,
                self._forget,
                self._lag,
                self._cut_off,
                self._outage,
                self._kill_leader,
                self._pause_leader,
                self._pause_leader,
                self._stop_leader,
                self._change_policy,
                self._delete_policy,
                self._cloud,
                self._cloud,
                self._cloud,
                self._cloud,
                self._go_dark,
                self._pause_planner,
                self._kill_planner,
                self._fill_pool,
            )
        )
        self._told(act.__name__, "", act)

    def _told(self, name: str, what: str, act: Callable[[], object]) -> None:
        self._sim.trace.note("people", f"{name.strip('_')} {what}")
        act()
