"""
What may befall a migration in its course, on the small cluster in memory: when, and what.

A moment is looked for after every write and at every tick of time, so that one that lasts no time at all is met too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import msgspec

from common.kube.api import STORAGE_POLICIES, VOLUME_MIGRATIONS
from common.resources.migration import Heading, MigrationState, VolumeMigration
from migrator.core.history import History, read_history
from migrator.core.model import Purpose
from migrator.journal import decode_migration
from sandbox.world.driver import MAYASTOR_VOLUMES
from sandbox.world.mayastor import Faults
from sandbox.world.storage import Copy, SimReplica
from tests.moves.cluster import NAMESPACE, VOLUME, Cluster


@dataclass
class Course:
    """A migration under way, and what it meets."""

    cluster: Cluster
    name: str
    done: set[int] = field(default_factory=set)

    @property
    def record(self) -> VolumeMigration:
        return decode_migration(self.cluster.store.get(VOLUME_MIGRATIONS, self.name))

    @property
    def state(self) -> MigrationState:
        return self.record.status.state

    @property
    def history(self) -> History:
        return read_history(self.record.status)

    @property
    def pools(self) -> set[str]:
        volume = self.cluster.driver.state.volumes.get(VOLUME)
        return {replica.pool for replica in volume.replicas} if volume is not None else set()

    def meet(self, *happenings: Happening) -> None:
        """Let these happen, each once."""

        def look() -> None:
            for number, happening in enumerate(happenings):
                if number not in self.done and happening.when(self):
                    self.done.add(number)
                    happening.what(self)

        async def tick() -> None:
            look()

        self.cluster.on_tick.append(tick)
        self.cluster.on_write.append(look)


Moment = Callable[[Course], bool]
Deed = Callable[[Course], None]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happens once, as soon as it is time."""

    when: Moment
    what: Deed


# --- when --------------------------------------------------------------------------------------------------------


def analyzing(course: Course) -> bool:
    return course.state is MigrationState.ANALYZING


def asked(course: Course) -> bool:
    """The first replica was asked for and is not there yet."""
    return course.history.done(Purpose.SCALE_UP) is not None


def copying_to(pool: str) -> Moment:
    """A copy is being made there, and known of."""
    return lambda course: (
        course.state is MigrationState.WAITING_SYNC
        and pool in {record.pool for record in course.record.status.new_replicas}
    )


def scaling_down(course: Course) -> bool:
    """The first scale-down is intended, and nothing is gone."""
    return course.state is MigrationState.SCALING_DOWN


def gone(count: int) -> Moment:
    """So many sources are gone, and it is not over."""
    return lambda course: (
        len(course.history.all_done(Purpose.SCALE_DOWN)) == count
        and len(course.pools) == len(course.record.status.original_replicas) + len(course.record.spec.moves) - count
    )


def going_back(course: Course) -> bool:
    status = course.record.status
    return status.course is not None and status.course.heading is Heading.BACK and not status.state.terminal


def later(seconds: float, when: Moment) -> Moment:
    """So long after a moment that comes."""
    since: list[float] = []

    def look(course: Course) -> bool:
        if not since and when(course):
            since.append(course.cluster.clock.elapsed)
        return bool(since) and course.cluster.clock.elapsed - since[0] >= seconds

    return look


# --- what --------------------------------------------------------------------------------------------------------


def cancel(course: Course) -> None:
    course.cluster.store.patch(VOLUME_MIGRATIONS, course.name, {"spec": {"cancelRequested": True}})


def delete_record(course: Course) -> None:
    course.cluster.store.delete(VOLUME_MIGRATIONS, course.name)


def delete_volume(course: Course) -> None:
    course.cluster.store.delete(MAYASTOR_VOLUMES, VOLUME, NAMESPACE)


def edit(**spec: Any) -> Deed:
    """Somebody changes the volume's spec."""

    def deed(course: Course) -> None:
        course.cluster.store.patch(MAYASTOR_VOLUMES, VOLUME, {"spec": spec}, NAMESPACE)

    return deed


def inclusion(labels: Mapping[str, str | None]) -> dict[str, Any]:
    return {"pool": {"labelled": {"inclusion": dict(labels)}}}


def faults(**which: Any) -> Deed:
    """Rebuilds fail or stall from now on."""
    return lambda course: course.cluster.driver.set_faults(Faults(**which))


FAIL = faults(failing_rebuilds=frozenset({VOLUME}))
STALL = faults(stalled_rebuilds=frozenset({VOLUME}))
NO_PROGRESS = faults(stalled_rebuilds=frozenset({VOLUME}), at_progress=0.0)
MEND = faults()


def pool_goes(pool: str) -> Deed:
    return lambda course: course.cluster.driver.set_pool_online(pool, online=False)


def pool_returns(pool: str) -> Deed:
    return lambda course: course.cluster.driver.set_pool_online(pool, online=True)


def expire(course: Course) -> None:
    """Time passes all at once, for whoever asks what time it is."""
    course.cluster.clock.skew = timedelta(hours=1)


def policy(change: str) -> Deed:
    """The policy is deleted or disabled."""

    def act(course: Course) -> None:
        name = course.record.spec.policy_ref
        if name is None:
            raise ValueError("the migration is no policy's")
        if change == "deleted":
            course.cluster.store.delete(STORAGE_POLICIES, name.name)
        else:
            course.cluster.store.patch(STORAGE_POLICIES, name.name, {"spec": {"enabled": False}})

    return act


def _put(course: Course, change: Callable[[tuple[SimReplica, ...]], tuple[SimReplica, ...]]) -> None:
    state = course.cluster.driver.state
    volume = state.volumes[VOLUME]
    volume = replace(volume, replicas=change(volume.replicas))
    course.cluster.driver.state = replace(state, volumes={**state.volumes, VOLUME: volume})


def lose(pool: str) -> Deed:
    """A replica is gone, not by us; the model would make another where it may."""
    return lambda course: _put(course, lambda replicas: tuple(r for r in replicas if r.pool != pool))


def exchange(pool: str, to: str = "") -> Deed:
    """Another replica takes the place of one, there or elsewhere."""

    def act(course: Course) -> None:
        other = SimReplica("somebody-else", to or pool, Copy.COMPLETE, course.cluster.clock.elapsed)
        _put(course, lambda replicas: (*(r for r in replicas if r.pool != pool), other))

    return act


def unpublish(course: Course) -> None:
    """No node has it in use any more, and this Mayastor copies nothing meanwhile."""
    driver = course.cluster.driver
    driver.settings = replace(driver.settings, rebuild_unpublished=False)
    driver.set_target(VOLUME, None)


def publish(course: Course) -> None:
    course.cluster.driver.set_target(VOLUME, "node-1")


def the_volume(course: Course) -> dict[str, Any] | None:
    """The MayastorVolume as it is; None if it is gone."""
    names = [msgspec.json.decode(raw) for raw in course.cluster.store.list_page(MAYASTOR_VOLUMES, NAMESPACE).items]
    return next((each for each in names if each["metadata"]["name"] == VOLUME), None)
