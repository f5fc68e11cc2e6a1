"""What is promised of levers, snapshot by snapshot: what is accused, what is not, and how often."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from common.resources.migration import MigrationState as S
from sandbox.demo.invariants import Limits, Promise, Violation
from sandbox.demo.levers import LeverMemory, check_levers, mark_of, still_pulled
from sandbox.demo.snapshot import SeenMigration, SeenSetting, Snapshot

CORDON = SeenSetting("node n1", "cordon couchestor-m")
USUAL = frozenset({SeenSetting("pool p", "label tier=cold"), SeenSetting("node n2", "cordon maintenance")})
CLOSED = SeenSetting("pool p", "closed for replicas")
RUNNING = SeenMigration("m", "v", S.SCALING_UP)
ENDED = replace(RUNNING, state=S.COMPLETED)
LIMITS = Limits(lever_seconds=10.0)


def a_look(at: float, *settings: SeenSetting, migrations: Iterable[SeenMigration] = (RUNNING,)) -> Snapshot:
    """One that took a tenth of a second, with the usual settings and these, and without those among them that are."""
    return Snapshot(
        begun=at, ended=at + 0.1, migrations={m.name: m for m in migrations}, settings=USUAL ^ frozenset(settings)
    )


def seen(*looks: Snapshot, limits: Limits = LIMITS) -> tuple[LeverMemory, list[Violation]]:
    memory = LeverMemory()
    found: list[Violation] = []
    for look in looks:
        memory, violations = check_levers(memory, look, limits)
        found += violations
    return memory, found


def promises(*looks: Snapshot, limits: Limits = LIMITS) -> list[Promise]:
    return [violation.promise for violation in seen(*looks, limits=limits)[1]]


def test_a_lever_may_stand_as_long_as_is_allowed_and_not_longer() -> None:
    begin, first = a_look(0), a_look(1, CORDON)
    assert promises(begin, first, a_look(11.1, CORDON)) == []
    assert promises(begin, first, a_look(11.2, CORDON)) == [Promise.LEVERS_LET_GO]


def test_what_was_let_go_and_pulled_again_begins_anew() -> None:
    assert promises(a_look(0), a_look(1, CORDON), a_look(8), a_look(9, CORDON), a_look(15, CORDON)) == []


def test_a_violation_that_lasts_is_named_once() -> None:
    looks = [a_look(0), *(a_look(1.0 + i, CORDON) for i in range(20))]
    assert promises(*looks) == [Promise.LEVERS_LET_GO]


def test_what_bears_no_mark_is_ours_if_a_migration_was_under_way_when_it_came() -> None:
    assert promises(a_look(0), a_look(1, CLOSED), a_look(12, CLOSED, migrations=[])) == [Promise.LEVERS_LET_GO]
    idle = [a_look(at, CLOSED, migrations=[]) for at in (1, 12)]
    assert promises(a_look(0, migrations=[]), *idle) == []


def test_what_a_person_changed_is_the_usual_from_then_on() -> None:
    removed = SeenSetting("node n2", "cordon maintenance")
    memory, found = seen(
        a_look(0, migrations=[]), a_look(1, removed, migrations=[]), a_look(2, removed), a_look(20, removed)
    )
    assert (found, memory.pulled, still_pulled(memory)) == ([], {}, ())


def test_a_marked_lever_is_ours_whenever_it_comes() -> None:
    assert Promise.LEVERS_LET_GO in promises(a_look(0, CORDON, migrations=[]), a_look(11, CORDON, migrations=[]))


@pytest.mark.parametrize("lever", [CORDON, CLOSED, SeenSetting("pool p", "label tier=cold")])
def test_what_a_migration_leaves_behind_is_named_when_it_ends(lever: SeenSetting) -> None:
    looks = a_look(0), a_look(1, lever), a_look(2, lever, migrations=[ENDED])
    assert promises(*looks) == [Promise.NOTHING_LEAKED]
    memory, _ = seen(*looks)
    assert [violation.promise for violation in still_pulled(memory)] == [Promise.NOTHING_LEAKED]


def test_what_may_be_another_ones_is_not_blamed_on_the_one_that_ends() -> None:
    other = SeenMigration("other", "w", S.WAITING_SYNC)
    assert promises(a_look(0), a_look(1, CLOSED), a_look(2, CLOSED, migrations=[ENDED, other])) == []
    its_own = SeenSetting("node n1", "cordon couchestor-other")
    migrations = [RUNNING, other]
    looks = a_look(0, migrations=migrations), a_look(1, its_own, migrations=[ENDED, other])
    assert promises(*looks) == []


def test_two_migrations_that_steer_at_once_are_seen() -> None:
    other = SeenSetting("node n2", "cordon couchestor-other")
    both = [RUNNING, SeenMigration("other", "w", S.SCALING_UP)]
    assert promises(a_look(0), a_look(1, CORDON, other, migrations=both)) == [Promise.ONE_STEERS]


def test_a_migration_may_be_made_while_a_look_is_being_taken_but_not_after_its_levers() -> None:
    early = a_look(1, CORDON, migrations=[])
    assert promises(a_look(0, migrations=[]), early, a_look(2)) == []
    assert promises(a_look(0, migrations=[]), early, a_look(2, migrations=[])) == [Promise.WRITES_ARE_JOURNALED]


def test_a_dry_run_pulls_no_lever() -> None:
    dry = [replace(RUNNING, dry_run=True)]
    looks = a_look(0, migrations=dry), a_look(1, CORDON, migrations=dry), a_look(2, migrations=dry)
    assert promises(*looks) == [Promise.DRY_RUN_WRITES_NOTHING]
    always_dry = a_look(0), a_look(1, CORDON), a_look(2)
    assert promises(*always_dry, limits=replace(LIMITS, dry_run=True)) == [Promise.DRY_RUN_WRITES_NOTHING]


@pytest.mark.parametrize(
    ("what", "mark"),
    [
        ("cordon couchestor", ""),
        ("cordon couchestor-m", "m"),
        ("label tier=couchestor-vmig-1", "vmig-1"),
        ("label couchestor=yes", None),
        ("cordon couchestors", None),
        ("label tier=hot", None),
        ("label couchestor.io/x=y", None),
    ],
)
def test_a_mark_is_the_whole_of_a_cordons_label_or_of_a_labels_value(what: str, mark: str | None) -> None:
    assert mark_of(SeenSetting("pool p", what)) == mark
