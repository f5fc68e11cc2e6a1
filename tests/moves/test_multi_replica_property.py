"""
Volumes of several replicas, asked anything: at every moment of real courses, with whatever the world may be instead.

Courses are played on the small cluster once, and every question that the core was asked is kept. Then replicas, pools,
topologies and counts are changed at random, in the look and in the one before, and the core is asked again.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from common.placement import ReplicaHealth
from common.resources.migration import AdmittedSettings, VolumeMigration
from migrator import executor
from migrator.core.history import read_history
from migrator.core.model import Decision, Do, Now, PatchVolume, Purpose, Seen, VolumeSpec
from migrator.core.steering import labels
from migrator.core.steps import next_step
from tests.moves.cluster import Cluster, a_volume
from tests.moves.happenings import Course, Happening, cancel, copying_to, pool_goes
from tests.moves.test_multi_replica_crd import POOLS, SLOW, SOURCES, WHOLE

TARGETS = tuple(target for _, target in WHOLE)
SECOND = copying_to("nvme-4")
COURSES = (
    (),
    (Happening(SECOND, cancel),),
    (Happening(SECOND, pool_goes("nvme-4")),),
)
MOSTLY = st.sampled_from([True] * 14 + [False])


@dataclass(frozen=True, slots=True)
class Question:
    """What the core was asked."""

    admitted: AdmittedSettings
    record: VolumeMigration
    seen: Seen
    now: Now

    @property
    def answer(self) -> Decision:
        return next_step(self.admitted, self.record, self.seen, self.now)


@functools.cache
def questions() -> tuple[Question, ...]:
    """Play the courses; return all that was asked once something had been added."""
    asked: list[Question] = []

    def noted(admitted: AdmittedSettings, record: VolumeMigration, seen: Seen, now: Now) -> Decision:
        asked.append(Question(admitted, record, seen, now))
        return next_step(admitted, record, seen, now)

    async def play(happenings: tuple[Happening, ...]) -> None:
        cluster = Cluster(settings=SLOW)
        await cluster.install(a_volume(pools=SOURCES), pools=POOLS)
        name = await cluster.admit(moves=WHOLE)
        Course(cluster, name).meet(*happenings)
        await cluster.migrate(name)

    with mock.patch.object(executor, "next_step", noted):
        for happenings in COURSES:
            asyncio.run(play(happenings))
    return tuple(each for each in asked if read_history(each.record.status).done(Purpose.SCALE_UP) is not None)


@functools.cache
def chosen(which: Callable[[Question], bool]) -> tuple[Question, ...]:
    """Return some of the questions."""
    return tuple(each for each in questions() if which(each))


def anything(_question: Question) -> bool:
    return True


@st.composite
def looks(draw: st.DrawFn, seen: Seen, *, elsewhere: bool) -> Seen:
    """A look like that one, with a thing or two that are otherwise."""
    if seen.volume is None:
        return seen
    replicas = tuple(
        replace(
            each,
            health=each.health if draw(MOSTLY) else draw(st.sampled_from(list(ReplicaHealth))),
            uuid=each.uuid if draw(MOSTLY) else "another",
        )
        for each in seen.volume.replicas
        if draw(MOSTLY)
    )
    spec = seen.volume.spec
    if elsewhere and not draw(MOSTLY):
        inclusion = draw(st.sampled_from([{"tier": "hot"}, {"tier": "cold"}, {"pool": "nvme-3"}, {"site": "a"}]))
        spec = VolumeSpec(draw(st.integers(1, 5)), labels.with_inclusion(spec.topology, inclusion))
    pools = {name: replace(pool, online=pool.online and draw(MOSTLY)) for name, pool in seen.pools.items()}
    if not draw(MOSTLY):
        lost = draw(st.sampled_from(sorted(pools)))
        pools[lost] = replace(pools[lost], labels={"site": "a"})
    return replace(seen, volume=replace(seen.volume, replicas=replicas, spec=spec), pools=pools)


@st.composite
def stories(draw: st.DrawFn, which: Callable[[Question], bool]) -> Question:
    question = draw(st.sampled_from(chosen(which)))
    seen = draw(looks(question.seen, elsewhere=True))
    if question.seen.earlier is not None:
        seen = replace(seen, earlier=draw(looks(question.seen.earlier, elsewhere=True)))
    return replace(question, seen=seen)


def lowers(decision: Decision, seen: Seen) -> PatchVolume | None:
    """Return the patch by which a decision lowers the count, if it does."""
    if not isinstance(decision, Do) or not isinstance(decision.write, PatchVolume) or seen.volume is None:
        return None
    count = decision.write.replica_count
    return decision.write if count is not None and count < seen.volume.spec.replica_count else None


def is_lowering(question: Question) -> bool:
    return lowers(question.answer, question.seen) is not None


def test_no_answer_takes_a_replica_that_is_needed() -> None:
    acted: set[Purpose] = set()

    @settings(max_examples=800, deadline=None)
    @given(stories(is_lowering))
    def whatever_the_story(story: Question) -> None:
        decision = story.answer
        patch = lowers(decision, story.seen)
        if patch is None or story.seen.volume is None:
            return
        assert patch.replica_count == story.seen.volume.spec.replica_count - 1
        assert patch.replica_count >= len(SOURCES)
        pending = read_history(story.record.status).pending
        if pending is None or pending.write != patch:
            return  # only intended: it will be asked once more
        acted.add(patch.purpose)
        check_act(story, patch)

    whatever_the_story()
    assert {Purpose.SCALE_DOWN, Purpose.REMOVE_NEW} <= acted, "the stories came to both removals"


def check_act(story: Question, patch: PatchVolume) -> None:
    """Two looks a second apart showed that what stays is whole, and what goes is told from it."""
    stay, go = (TARGETS, SOURCES) if patch.purpose is Purpose.SCALE_DOWN else (SOURCES, TARGETS)
    earlier = story.seen.earlier
    assert earlier is not None
    assert story.seen.began - earlier.ended >= 1.0
    for look in (story.seen, earlier):
        assert look.volume is not None
        by_pool = {replica.pool: replica for replica in look.volume.replicas}
        assert all(by_pool[pool].synced for pool in stay)
        assert all(look.pools[pool].online for pool in stay)
        here = [look.pools[pool] for pool in go if pool in by_pool]
        topology = look.volume.spec.topology if patch.topology is None else patch.topology
        assert labels.separates(topology, [look.pools[pool] for pool in stay], here)


@settings(max_examples=400, deadline=None)
@given(stories(anything))
def test_it_always_has_an_answer_and_the_same_to_the_same_question(story: Question) -> None:
    assert story.answer == story.answer


@settings(max_examples=400, deadline=None)
@given(stories(anything))
def test_no_further_replica_is_asked_for_before_those_asked_for_are_whole(story: Question) -> None:
    decision, history = story.answer, read_history(story.record.status)
    if not isinstance(decision, Do) or not isinstance(decision.write, PatchVolume) or story.seen.volume is None:
        return
    if decision.write.purpose is not Purpose.SCALE_UP:
        return
    asked = TARGETS[: len(history.all_done(Purpose.SCALE_UP))]
    there = {replica.pool for replica in story.seen.volume.replicas if replica.synced}
    assert set(asked) <= there
    assert set(SOURCES) <= {replica.pool for replica in story.seen.volume.replicas}
    assert labels.inclusion_of(str(decision.write.topology)) == {"pool": TARGETS[len(asked)]}
