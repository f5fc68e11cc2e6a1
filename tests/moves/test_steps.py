"""The core, asked one question at a time: what to do next, given this journal and this world?"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from common.placement import Pool, Replica, ReplicaHealth
from common.reasons import Reason
from common.resources.memory import MoveEnd, read_memory, remembering, write_memory
from common.resources.meta import MOVE_MEMORY
from common.resources.migration import Course, Heading, MigrationState, ReplicaRecord, Step
from migrator.core.model import (
    ABSENT,
    AnnotatePv,
    Conclude,
    Decision,
    Do,
    End,
    FenceVolume,
    Outcome,
    PatchVolume,
    ProbeVolume,
    Purpose,
    PvSeen,
    VolumeSeen,
    VolumeSpec,
    Wait,
)
from migrator.core.steering.labels import with_inclusion
from tests.moves.stories import (
    AWAY_FROM_TARGET,
    DOWN,
    GROWING,
    NAME,
    NEW,
    NOW,
    OLD,
    ORIGINAL,
    POOLS,
    PROBED,
    RAISED,
    REMOVE_NEW,
    RESTORE,
    SCALED_DOWN,
    SCALED_UP,
    SCALING_DOWN,
    SETTINGS,
    SOURCE,
    STEERED,
    SYNCING,
    TARGET,
    TURN_BACK,
    UP,
    Story,
    a_volume,
    intent,
    outcome,
    state,
    taken_up,
)

S = MigrationState
BOTH = a_volume(OLD, NEW, spec=RAISED)
READY = Story(steps=SCALING_DOWN, phase=S.SCALING_DOWN, volume=BOTH)


def written(decision: Decision) -> object:
    assert isinstance(decision, Do), decision
    return decision.write


def awaited(decision: Decision) -> Reason:
    assert isinstance(decision, Wait), decision
    return decision.reason


# --- the way there ---------------------------------------------------------------------------------------------------


def test_first_the_patch_is_tried_without_effect_and_the_original_is_remembered() -> None:
    decision = Story().asked
    assert written(decision) == ProbeVolume(2, STEERED)
    assert isinstance(decision, Do)
    assert decision.noted.original is not None
    assert decision.noted.original.spec == ORIGINAL
    assert [replica.uuid for replica in decision.noted.original.replicas] == ["old"]


def test_then_one_replica_more_is_steered_to_the_target() -> None:
    decision = Story(steps=PROBED).asked
    assert written(decision) == UP
    assert isinstance(decision, Do)
    assert decision.state is S.SCALING_UP


@pytest.mark.parametrize("health", [ReplicaHealth.UNKNOWN, ReplicaHealth.SYNCING])
def test_a_replica_that_is_not_known_to_be_synced_is_waited_for(health: ReplicaHealth) -> None:
    growing = replace(GROWING, health=health)
    story = Story(steps=SCALED_UP, phase=S.SCALING_UP, volume=a_volume(OLD, growing, spec=RAISED))
    assert awaited(story.asked) is Reason.WAITING_FOR_REBUILD
    assert isinstance(story.asked, Wait)
    assert story.asked.state is S.WAITING_SYNC
    assert story.asked.seconds == SETTINGS.poll_seconds


def test_once_it_is_synced_the_scale_down_is_intended_and_not_yet_made() -> None:
    decision = Story(steps=SYNCING, phase=S.WAITING_SYNC, volume=BOTH).asked
    assert written(decision) == DOWN
    assert isinstance(decision, Do)
    assert decision.state is S.SCALING_DOWN


# --- two reads -------------------------------------------------------------------------------------------------------


def test_one_read_after_the_intent_is_not_enough() -> None:
    decision = READY.asked
    assert awaited(decision) is Reason.WAITING_FOR_SECOND_READ
    assert isinstance(decision, Wait)
    assert not decision.wakeable
    assert decision.seconds >= 1.0


def test_two_reads_a_second_apart_are() -> None:
    assert written(READY.seen_before(1.5).asked) == DOWN


def test_two_reads_too_close_together_are_one() -> None:
    assert awaited(READY.seen_before(0.9).asked) is Reason.WAITING_FOR_SECOND_READ


def test_a_read_before_the_intent_does_not_count() -> None:
    assert awaited(READY.seen_before(11.0).asked) is Reason.WAITING_FOR_SECOND_READ


@pytest.mark.parametrize(
    "spoilt",
    [
        {"volume": a_volume(OLD, GROWING, spec=RAISED)},
        {"volume": a_volume(OLD, replace(NEW, health=ReplicaHealth.UNKNOWN), spec=RAISED)},
        {"volume": a_volume(OLD, spec=RAISED)},
        {"volume": None},
        {"pools": {**POOLS, TARGET: replace(POOLS[TARGET], online=False)}},
        {"pools": {SOURCE: POOLS[SOURCE]}},
    ],
    ids=["syncing", "unknown", "not there", "no volume", "pool offline", "pool unknown"],
)
@pytest.mark.parametrize("which", ["first", "second"])
def test_both_reads_must_show_the_new_replica_synced_and_its_pool_online(spoilt: dict[str, Any], which: str) -> None:
    if which == "first":
        decision = READY.seen_before(1.5, **spoilt).asked
    else:
        decision = READY.but(**spoilt).seen_before(1.5, volume=BOTH, pools=POOLS).asked
    assert not isinstance(decision, Do) or decision.write != DOWN


def test_a_read_that_showed_another_topology_proves_nothing() -> None:
    for other in (ABSENT, AWAY_FROM_TARGET, with_inclusion(ABSENT, {"tier": "hot", "site": "b"})):
        then = a_volume(OLD, NEW, spec=VolumeSpec(2, other))
        assert awaited(READY.seen_before(1.5, volume=then).asked) is Reason.WAITING_FOR_SECOND_READ


def test_an_end_is_remembered_once_and_only_the_last_eight() -> None:
    ends = [MoveEnd(NOW + timedelta(minutes=n), (SOURCE,), (TARGET,), "Aborted(TimedOut)") for n in range(10)]
    text = None
    for end in ends:
        text = remembering(remembering(text, end), end)
    assert read_memory(text) == tuple(ends[-8:])
    assert read_memory("written by hand") == ()
    assert read_memory(remembering("written by hand", ends[0])) == (ends[0],)


def test_a_source_that_is_faulted_goes_all_the_same() -> None:
    ill = replace(OLD, health=ReplicaHealth.FAULTED)
    assert written(READY.but(volume=a_volume(ill, NEW, spec=RAISED)).seen_before(1.5).asked) == DOWN


def test_without_the_steering_nothing_goes() -> None:
    steps = (*SYNCING[:-1], state(S.WAITING_SYNC))
    elsewhere = VolumeSpec(2, with_inclusion(ABSENT, {"tier": "hot"}))
    decision = Story(steps=steps, phase=S.WAITING_SYNC, volume=a_volume(OLD, NEW, spec=elsewhere)).asked
    assert not isinstance(decision, Do) or decision.write != DOWN


# --- and its end -----------------------------------------------------------------------------------------------------


def test_the_source_gone_the_topology_comes_back() -> None:
    story = Story(steps=SCALED_DOWN, phase=S.SCALING_DOWN, volume=a_volume(NEW, spec=VolumeSpec(1, STEERED)))
    decision = story.asked
    assert written(decision) == RESTORE
    assert isinstance(decision, Do)
    assert decision.noted.course is not None
    assert decision.noted.course.reason == Reason.MOVED


RESTORED = (
    *SCALED_DOWN,
    intent(4, RESTORE, VolumeSpec(1, STEERED), 104),
    outcome(4, Outcome.DONE, ORIGINAL, 104),
)
LEAVING = {"course": Course(heading=Heading.LEAVE, reason=Reason.MOVED, message="there")}


def test_then_the_persistent_volume_is_told_once() -> None:
    story = Story(steps=RESTORED, phase=S.SCALING_DOWN, volume=a_volume(NEW), status=LEAVING)
    told = written(story.asked)
    assert isinstance(told, AnnotatePv)
    assert told.last_migration
    assert not told.parked
    pending = story.but(steps=(*RESTORED, intent(5, told, ORIGINAL, 105)), began=120.0)
    assert written(pending.asked) == told, "the same time again, not a second entry"
    done = pending.but(steps=(*pending.steps, outcome(5, Outcome.DONE, None, 106)))
    assert isinstance(done.asked, End)
    assert (done.asked.state, done.asked.reason) == (S.COMPLETED, Reason.MOVED)


def test_an_annotation_that_was_not_answered_is_found_or_written_again_as_it_was() -> None:
    told = AnnotatePv(
        time=NOW, from_pools=(SOURCE,), to_pools=(TARGET,), result=Reason.MOVED, last_migration=True, parked=""
    )
    steps = (*RESTORED, intent(5, told, ORIGINAL, 105), taken_up(109))
    story = Story(steps=steps, phase=S.SCALING_DOWN, volume=a_volume(NEW), status=LEAVING)
    assert written(story.asked) == told
    entry = MoveEnd(NOW, (SOURCE,), (TARGET,), "Completed(Moved)")
    there = story.but(pv=PvSeen("pv-uid", "9", {MOVE_MEMORY: write_memory((entry,))}))
    assert there.asked == Conclude(5, Outcome.DONE, None, S.SCALING_DOWN, "the annotations are there")


def test_a_persistent_volume_that_is_gone_is_not_waited_for() -> None:
    story = Story(steps=RESTORED, phase=S.SCALING_DOWN, volume=a_volume(NEW), status=LEAVING, pv=None)
    assert isinstance(story.asked, End)


# --- a time-out is not a no ------------------------------------------------------------------------------------------

UNANSWERED = (*PROBED, state(S.SCALING_UP), intent(2, UP), outcome(2, Outcome.UNKNOWN, None, 50))
TAKEN_OVER = (*PROBED, state(S.SCALING_UP), intent(2, UP), taken_up(50))


@pytest.mark.parametrize("steps", [UNANSWERED, TAKEN_OVER], ids=["unanswered", "taken over"])
@pytest.mark.parametrize("volume", [a_volume(), a_volume(OLD, GROWING, spec=RAISED)], ids=["not seen", "seen"])
def test_before_anything_is_concluded_there_is_a_fence(steps: tuple[Step, ...], volume: Any) -> None:
    assert written(Story(steps=steps, phase=S.SCALING_UP, volume=volume).asked) == FenceVolume(f"{NAME}/1")


FENCE = FenceVolume(f"{NAME}/1")


def test_behind_the_fence_it_is_known_that_it_happened_or_did_not() -> None:
    for spec, expected in ((ORIGINAL, Outcome.CONFLICT), (RAISED, Outcome.DONE)):
        steps = (*UNANSWERED, intent(3, FENCE, spec, 51), outcome(3, Outcome.DONE, spec, 52))
        decision = Story(steps=steps, phase=S.SCALING_UP, volume=a_volume(spec=spec, fence=FENCE.value)).asked
        assert isinstance(decision, Conclude)
        assert (decision.number, decision.outcome, decision.spec) == (2, expected, spec)


def test_a_fence_that_was_not_answered_either_is_seen_standing_or_put_up_higher() -> None:
    steps = (*UNANSWERED, intent(3, FENCE, ORIGINAL, 51), taken_up(52))
    standing = Story(steps=steps, phase=S.SCALING_UP, volume=a_volume(fence=FENCE.value)).asked
    assert isinstance(standing, Conclude)
    assert (standing.number, standing.outcome) == (3, Outcome.DONE)
    fallen = Story(steps=steps, phase=S.SCALING_UP, volume=a_volume(fence="vmig-other/6")).asked
    assert written(fallen) == FenceVolume(f"{NAME}/7")


def test_an_intent_that_was_never_acted_upon_needs_no_fence() -> None:
    assert written(Story(steps=(*PROBED, state(S.SCALING_UP), intent(2, UP)), phase=S.SCALING_UP).asked) == UP


# --- changing its mind -----------------------------------------------------------------------------------------------


def test_a_cancel_while_waiting_turns_the_steering_round_first() -> None:
    story = Story(steps=SYNCING, phase=S.WAITING_SYNC, volume=a_volume(OLD, GROWING, spec=RAISED))
    decision = story.but(spec={"cancel_requested": True}).asked
    assert written(decision) == TURN_BACK
    assert isinstance(decision, Do)
    assert decision.noted.course is not None
    assert (decision.noted.course.heading, decision.noted.course.reason) == (Heading.BACK, Reason.CANCELLED)
    assert written(story.but(deleted=True).asked) == TURN_BACK


def test_a_cancel_while_scaling_down_comes_too_late() -> None:
    assert written(READY.but(spec={"cancel_requested": True}).seen_before(1.5).asked) == DOWN


TURNED = (
    *SYNCING,
    intent(3, TURN_BACK, RAISED, 60),
    outcome(3, Outcome.DONE, VolumeSpec(2, AWAY_FROM_TARGET), 60),
    intent(4, REMOVE_NEW, VolumeSpec(2, AWAY_FROM_TARGET), 61),
)
BACK = {"course": Course(heading=Heading.BACK, reason=Reason.CANCELLED, message="cancelled", since_seconds=60)}
GOING_BACK = Story(
    steps=TURNED,
    phase=S.WAITING_SYNC,
    volume=a_volume(OLD, GROWING, spec=VolumeSpec(2, AWAY_FROM_TARGET)),
    status=BACK,
)


def test_the_new_replica_goes_only_after_two_reads_that_show_the_originals_synced() -> None:
    assert awaited(GOING_BACK.asked) is Reason.WAITING_FOR_SECOND_READ
    assert written(GOING_BACK.seen_before(1.5).asked) == REMOVE_NEW


def test_while_an_original_is_not_synced_nothing_goes_and_in_the_end_it_is_left() -> None:
    ill = a_volume(replace(OLD, health=ReplicaHealth.FAULTED), NEW, spec=VolumeSpec(2, AWAY_FROM_TARGET))
    story = GOING_BACK.but(volume=ill)
    assert awaited(story.seen_before(1.5).asked) is Reason.WAITING_FOR_ORIGINALS
    decision = story.but(began=700.0).asked
    assert written(decision) == RESTORE, "our steering comes off, the count stays"
    assert isinstance(decision, Do)
    assert decision.noted.course is not None
    assert decision.noted.course.reason == Reason.REPLICA_LEFT


def test_back_where_it_was_it_is_proven_and_the_topology_put_back() -> None:
    removed = (*TURNED, outcome(4, Outcome.DONE, VolumeSpec(1, AWAY_FROM_TARGET), 63))
    story = GOING_BACK.but(steps=removed, volume=a_volume(OLD, spec=VolumeSpec(1, AWAY_FROM_TARGET)))
    assert written(story.asked) == RESTORE
    still = story.but(volume=a_volume(OLD, GROWING, spec=VolumeSpec(1, AWAY_FROM_TARGET)))
    assert awaited(still.asked) is Reason.WAITING_FOR_REMOVAL


def test_an_unpublished_volume_loses_nothing() -> None:
    lying = replace(GOING_BACK.volume, published=False)  # type: ignore[type-var]
    assert awaited(GOING_BACK.but(volume=lying).seen_before(1.5).asked) is Reason.WAITING_FOR_ORIGINALS
    assert awaited(READY.but(volume=replace(BOTH, published=False)).seen_before(1.5).asked) is (
        Reason.WAITING_FOR_REBUILD
    )


def test_a_full_journal_ends_it_while_there_is_room_for_an_end() -> None:
    many = tuple(taken_up(float(n)) for n in range(190))
    story = Story(steps=(*SYNCING, *many), phase=S.WAITING_SYNC, volume=a_volume(OLD, GROWING, spec=RAISED))
    decision = story.asked
    assert written(decision) == RESTORE
    assert isinstance(decision, Do)
    assert decision.noted.course is not None
    assert decision.noted.course.reason == Reason.JOURNAL_FULL


# --- whatever is asked -----------------------------------------------------------------------------------------------

BACK_SPEC = VolumeSpec(2, AWAY_FROM_TARGET)
ABOUT_TO_REMOVE = [
    (SCALING_DOWN, S.SCALING_DOWN, {}, RAISED),
    (TURNED, S.WAITING_SYNC, BACK, BACK_SPEC),
]
JOURNALS = st.sampled_from(
    [
        *ABOUT_TO_REMOVE,
        (PROBED, S.ANALYZING, {}, ORIGINAL),
        (SCALED_UP, S.SCALING_UP, {}, RAISED),
        (SYNCING, S.WAITING_SYNC, {}, RAISED),
        (SCALED_DOWN, S.SCALING_DOWN, {}, VolumeSpec(1, STEERED)),
        (RESTORED, S.SCALING_DOWN, LEAVING, ORIGINAL),
        (UNANSWERED, S.SCALING_UP, {}, RAISED),
        (TAKEN_OVER, S.SCALING_UP, {}, ORIGINAL),
        ((*SCALING_DOWN, taken_up(105)), S.SCALING_DOWN, {}, RAISED),
        ((*TURNED, outcome(4, Outcome.REFUSED, None, 62, "no")), S.WAITING_SYNC, BACK, BACK_SPEC),
    ]
)
TOPOLOGIES = st.sampled_from([ABSENT, STEERED, AWAY_FROM_TARGET, with_inclusion(ABSENT, {"tier": "hot"})])
STRANGER = replace(OLD, pool="pool-sata-2", uuid="stranger", node="node-3")
MOSTLY = st.sampled_from([True] * 11 + [False])


@st.composite
def replicas_of(draw: st.DrawFn) -> tuple[Replica, ...]:
    """Draw replicas that are mostly as they should be."""
    here = [replica for replica in (OLD, NEW) if draw(MOSTLY)]
    if not draw(MOSTLY):
        here.append(STRANGER)
    return tuple(
        replace(
            replica,
            health=ReplicaHealth.SYNCED if draw(MOSTLY) else draw(st.sampled_from(list(ReplicaHealth))),
            uuid=replica.uuid if draw(MOSTLY) else "another",
        )
        for replica in here
    )


@st.composite
def stories(draw: st.DrawFn, journals: Any = JOURNALS) -> Story:
    steps, phase, status, held = draw(journals)
    foreign = VolumeSpec(draw(st.integers(0, 4)), draw(TOPOLOGIES))

    def a_look() -> tuple[VolumeSeen | None, dict[str, Pool]]:
        volume = replace(
            a_volume(spec=held if draw(MOSTLY) else foreign),
            replicas=draw(replicas_of()),
            fence=draw(st.sampled_from(["", f"{NAME}/1", "x"])),
        )
        pools = {name: replace(pool, online=draw(MOSTLY)) for name, pool in POOLS.items() if draw(MOSTLY)}
        return volume if draw(MOSTLY) else None, pools

    volume, pools = a_look()
    story = Story(
        steps=steps,
        phase=phase,
        status={**status, "new_replicas": (ReplicaRecord(TARGET, "new"),) if draw(st.booleans()) else ()},
        volume=volume,
        pools=pools,
        pv=draw(st.sampled_from([PvSeen("pv-uid", "9"), None])),
        began=draw(st.one_of(st.floats(105, 650), st.floats(105, 5000))),
        deleted=not draw(MOSTLY),
        spec={"cancel_requested": not draw(MOSTLY)},
        settings=replace_settings(preservation=not draw(MOSTLY), dry_run=not draw(MOSTLY)),
    )
    if not draw(MOSTLY):
        return story
    before, pools_before = a_look()
    return story.seen_before(draw(st.floats(0.2, 3)), volume=before, pools=pools_before)


def replace_settings(**changed: Any) -> Any:
    return structs.replace(SETTINGS, **changed)


@settings(max_examples=1500, deadline=None)
@given(stories())
def test_it_always_has_an_answer_and_the_same_to_the_same_question(story: Story) -> None:
    assert story.asked == story.asked


def test_no_answer_ever_goes_below_the_original_count_or_removes_what_is_needed() -> None:
    acted: set[Purpose] = set()

    @settings(max_examples=2500, deadline=None)
    @given(stories(st.sampled_from(ABOUT_TO_REMOVE)))
    def whatever_the_story(story: Story) -> None:
        check_removal(story, acted)

    whatever_the_story()
    assert {Purpose.SCALE_DOWN, Purpose.REMOVE_NEW} <= acted, "the stories came to both removals"


def check_removal(story: Story, acted: set[Purpose]) -> None:
    decision = story.asked
    if not isinstance(decision, Do) or not isinstance(decision.write, PatchVolume):
        return
    write, last = decision.write, story.steps[-1].write
    assert story.volume is not None, "nothing is written to a volume that is not there"
    if write.replica_count is None or write.purpose is Purpose.SCALE_UP:
        return
    assert write.replica_count == 1
    assert not story.settings.preservation or write.purpose is Purpose.REMOVE_NEW
    if last is None or last.get("purpose") != write.purpose:
        return  # only intended: it will be asked once more
    acted.add(write.purpose)
    stay = {TARGET} if write.purpose is Purpose.SCALE_DOWN else {SOURCE}
    for look in (story.seen, story.earlier):
        assert look is not None
        assert look.volume is not None
        synced = {replica.pool for replica in look.volume.replicas if replica.synced}
        assert stay <= synced
        assert all(look.pools[name].online for name in stay)
    assert story.earlier is not None
    assert story.seen.began - story.earlier.ended >= 1.0


@settings(max_examples=1000, deadline=None)
@given(stories())
def test_a_topology_that_is_somebody_elses_is_never_overwritten(story: Story) -> None:
    decision, volume = story.asked, story.volume
    if not isinstance(decision, Do) or not isinstance(decision.write, PatchVolume) or volume is None:
        return
    if decision.write.topology is None or story.phase is S.ANALYZING:
        return
    ours = {ABSENT, STEERED, AWAY_FROM_TARGET}
    assert volume.spec.topology in ours
