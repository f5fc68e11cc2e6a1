"""Which levers may be pulled, as the journals tell; and what is switched off, as the Lease tells."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from common.kube.api import ConflictError, ForbiddenError, UnreachableError
from common.resources.meta import LEVERS_OFF
from common.resources.migration import BackendKind, MigrationState, Step, StepKind, VolumeMigration
from migrator.core.model import Outcome, Purpose, ReleaseLevers, SetReplicaCount, SwitchOff
from migrator.core.retention import collectable
from migrator.core.steering.abilities import Ability
from migrator.core.steering.levers import LabelPool, Lever
from migrator.held_levers import HeldLevers, levers_of
from migrator.levers_off import LeversOff
from sandbox.world.merge import without_nulls
from tests.moves.cluster import QUIET
from tests.moves.journals import CORDON, LABEL, NOW, POOL, TAKEN_UP, intent, outcome, record

ALL: tuple[Lever, ...] = (CORDON, LABEL, POOL)


@pytest.mark.parametrize(
    ("steps", "held"),
    [
        ((), ()),
        ((intent(1),), ALL),
        ((intent(1), intent(2, ReleaseLevers(ALL))), ()),
        ((intent(1), TAKEN_UP), ALL),
        ((intent(1), TAKEN_UP, outcome(1, Outcome.REFUSED)), ALL),
        ((intent(1), outcome(1, Outcome.DONE)), ()),
        ((intent(1), outcome(1, Outcome.REFUSED)), ()),
        ((intent(1), outcome(1, Outcome.UNKNOWN)), ()),
        ((intent(1), outcome(1, Outcome.DONE, left=True)), ALL),
        ((intent(1), outcome(1, Outcome.UNKNOWN, left=True)), ALL),
        ((intent(1), outcome(1, Outcome.DONE, left=True), intent(2, ReleaseLevers(ALL))), ALL),
        ((intent(1), outcome(1, Outcome.DONE, left=True), intent(2, ReleaseLevers(ALL)), TAKEN_UP), ALL),
        (
            (
                intent(1),
                outcome(1, Outcome.DONE, left=True),
                intent(2, ReleaseLevers(ALL)),
                outcome(2, Outcome.UNKNOWN),
            ),
            ALL,
        ),
        (
            (intent(1), outcome(1, Outcome.DONE, left=True), intent(2, ReleaseLevers(ALL)), outcome(2, Outcome.DONE)),
            (),
        ),
        (
            (
                intent(1),
                outcome(1, Outcome.DONE, left=True),
                intent(2, ReleaseLevers((LABEL,))),
                outcome(2, Outcome.DONE),
            ),
            (CORDON, POOL),
        ),
        (
            (
                intent(1),
                outcome(1, Outcome.DONE, left=True),
                intent(2, ReleaseLevers(ALL)),
                outcome(2, Outcome.DONE),
                intent(3),
            ),
            ALL,
        ),
        (
            (
                intent(1),
                outcome(1, Outcome.UNKNOWN, left=True),
                intent(2, ReleaseLevers(ALL), at=14.0),
                outcome(2, Outcome.DONE),
            ),
            ALL,
        ),
        (
            (
                intent(1),
                TAKEN_UP,
                intent(2, ReleaseLevers(ALL), at=29.0),
                outcome(2, Outcome.DONE),
            ),
            ALL,
        ),
    ],
)
def test_a_lever_is_held_from_its_intent_until_it_is_known_to_have_been_let_go(
    steps: tuple[Step, ...], held: tuple[Lever, ...]
) -> None:
    assert levers_of(record(*steps)) == held


def test_a_lever_that_comes_back_from_the_cluster_is_the_same() -> None:
    """kube-apiserver takes nulls out of what is patched, in arrays as well."""
    off = LabelPool(pool="p4", key="tier", previous="hot")
    held = (*ALL, off)
    sent = intent(1, SetReplicaCount(purpose=Purpose.SCALE_UP, replica_count=2, levers=held))
    stored = without_nulls(msgspec.json.decode(msgspec.json.encode(record(sent))))
    assert levers_of(msgspec.convert(stored, type=VolumeMigration)) == held


def test_journals_of_the_other_backend_and_of_later_versions_hold_none() -> None:
    assert levers_of(record(intent(1), backend=BackendKind.CRD)) == ()
    later = Step(NOW, StepKind.INTENT, MigrationState.SCALING_UP, number=1, write={"type": "Teleport"})
    assert levers_of(record(later)) == ()


def test_what_was_only_intended_when_it_ended_is_not_left_behind() -> None:
    assert levers_of(record(intent(1), state=MigrationState.ABORTED)) == ()
    assert levers_of(record(intent(1), TAKEN_UP, state=MigrationState.FAILED)) == ALL


def test_those_of_ended_migrations_are_left_behind_and_none_is_told_twice() -> None:
    held = HeldLevers()
    assert not held.on_migration("m", record())
    assert held.on_migration("m", record(intent(1)))
    assert (held.active, held.left_behind) == (ALL, ())
    assert not held.on_migration("m", record(intent(1), TAKEN_UP)), "nothing is held that was not before"
    other = intent(1, SetReplicaCount(purpose=Purpose.SCALE_DOWN, replica_count=1, levers=(LABEL,)))
    assert held.on_migration("n", record(other, name="n"))
    assert held.active == (*ALL, LABEL)
    assert held.on_migration("m", record(intent(1), TAKEN_UP, state=MigrationState.FAILED))
    assert (held.active, held.left_behind) == ((LABEL,), ALL)
    assert held.on_migration("n", record(other, outcome(1, Outcome.DONE), name="n"))
    assert held.on_migration("m", None), "its record was collected: nobody knows of them any more"
    assert (held.active, held.left_behind) == ((), ())
    assert not held.on_migration("m", None)


UNREADABLE = Step(NOW, StepKind.INTENT, MigrationState.SCALING_UP, number=1, write={"type": "Teleport"})


@pytest.mark.parametrize(
    ("steps", "backend", "goes"),
    [
        ((), BackendKind.REST, True),
        ((intent(1),), BackendKind.REST, True),
        ((intent(1), outcome(1, Outcome.DONE)), BackendKind.REST, True),
        ((intent(1), outcome(1, Outcome.DONE, left=True)), BackendKind.REST, False),
        ((intent(1), TAKEN_UP), BackendKind.REST, False),
        (
            (intent(1), outcome(1, Outcome.DONE, left=True), intent(2, ReleaseLevers(ALL)), outcome(2, Outcome.DONE)),
            BackendKind.REST,
            True,
        ),
        ((UNREADABLE,), BackendKind.REST, False),
        ((UNREADABLE,), BackendKind.CRD, True),
    ],
)
def test_a_record_whose_levers_may_still_be_pulled_is_never_collected(
    steps: tuple[Step, ...], backend: BackendKind, goes: bool
) -> None:
    ended = record(*steps, state=MigrationState.FAILED, backend=backend)
    old = msgspec.structs.replace(ended, status=msgspec.structs.replace(ended.status, ended_at=NOW))
    newer = record(name="newer", state=MigrationState.COMPLETED)
    newest = msgspec.structs.replace(
        newer, status=msgspec.structs.replace(newer.status, ended_at=NOW + timedelta(hours=1))
    )
    for keep, keep_for in ((0, timedelta(days=9_999)), (100, timedelta(0))):
        going = collectable((old, newest), NOW + timedelta(days=30), keep=keep, keep_for=keep_for)
        assert [each.metadata.name for each in going] == (["m"] if goes else [])


# --- what is switched off --------------------------------------------------------------------------------------------


class ALease:
    """A Lease with an annotation, and what becomes of writes to it."""

    def __init__(self, text: str = "", fails: Exception | None = None, keeps: str | None = None) -> None:
        self.annotations = {LEVERS_OFF: text} if text else {}
        self.fails, self.keeps = fails, keeps

    async def annotate(self, key: str, change: Any) -> str:
        if self.fails is not None:
            raise self.fails
        self.annotations[key] = change(self.annotations.get(key, "")) if self.keeps is None else self.keeps
        return self.annotations[key]


def test_a_persons_words_are_read_with_blanks_and_unknown_ones_passed_over() -> None:
    lease = ALease(f" {Ability.GO_NODE_CORDON} , , Unheard,{Ability.ADD_POOL_LABEL}")
    off = LeversOff(lease, QUIET)
    assert off() == {Ability.GO_NODE_CORDON, Ability.ADD_POOL_LABEL}
    lease.annotations = {}
    assert off() == frozenset()


async def test_what_is_switched_off_is_added_to_what_is_there() -> None:
    lease = ALease(f"Unheard,{Ability.GO_NODE_CORDON}")
    off = LeversOff(lease, QUIET)
    done = await off.switch_off(SwitchOff((Ability.GO_NODE_CORDON, Ability.GO_POOL_MISMATCH)))
    assert done.outcome is Outcome.DONE
    assert lease.annotations[LEVERS_OFF] == f"Unheard,{Ability.GO_NODE_CORDON},{Ability.GO_POOL_MISMATCH}"
    assert off() == {Ability.GO_NODE_CORDON, Ability.GO_POOL_MISMATCH}


@pytest.mark.parametrize(
    ("lease", "outcome"),
    [
        (ALease(fails=ConflictError("changed")), Outcome.CONFLICT),
        (ALease(fails=ForbiddenError("no")), Outcome.REFUSED),
        (ALease(fails=UnreachableError("gone")), Outcome.UNKNOWN),
        (ALease(keeps=""), Outcome.REFUSED),
    ],
)
async def test_a_write_that_did_not_come_through_says_so(lease: ALease, outcome: Outcome) -> None:
    off = LeversOff(lease, QUIET)
    result = await off.switch_off(SwitchOff((Ability.GO_NODE_CORDON,)))
    assert result.outcome is outcome
    assert LEVERS_OFF in result.detail
    assert off() == frozenset()
