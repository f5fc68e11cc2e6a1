"""The observer's verdicts: each kind of violation is driven into the world and seen; honest moves are not accused."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.reasons import Reason
from common.resources.migration import MigrationState as S
from sandbox.demo.invariants import Limits, Memory, Promise, Violation, check
from sandbox.demo.snapshot import SeenMigration, SeenPool, SeenPv, SeenReplica, SeenVolume, Snapshot

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POOLS = {
    "sata-1": SeenPool("n1", cold=True),
    "sata-2": SeenPool("n2", cold=True),
    "nvme-2": SeenPool("n2"),
    "nvme-3": SeenPool("n3"),
}
OLD, NEW = SeenReplica("old", "sata-1", synced=True), SeenReplica("new", "nvme-2", synced=True)
COPYING = replace(NEW, synced=False)
TOPOLOGY = '{"pool":{"labelled":{"inclusion":{"tier":"x"}}}}'
STEERED = '{"pool":{"labelled":{"inclusion":{"pool":"nvme-2"}}}}'
BEFORE = SeenVolume(1, TOPOLOGY, "", (OLD,))
MOVED = SeenVolume(1, TOPOLOGY, "", (NEW,))
MIGRATION = SeenMigration(
    "m", "v", S.ANALYZING, policy="p", sources=frozenset({"sata-1"}), targets=frozenset({"nvme-2"}), created=NOW
)
RECORDED = SeenPv(last_migration=NOW + timedelta(seconds=3))


def at(state: S, reason: str = "", **changes: object) -> SeenMigration:
    return replace(MIGRATION, state=state, reason=reason, **changes)  # type: ignore[arg-type]


def a_look(
    volume: SeenVolume, *migrations: SeenMigration, pv: SeenPv | None = None, dark: float = 0.0, **more: SeenVolume
) -> Snapshot:
    return Snapshot(
        begun=0,
        ended=0,
        volumes={"v": volume, **more},
        migrations={m.name: m for m in migrations},
        pvs={"v": pv or SeenPv()},
        pools=POOLS,
        heat_dark_seconds=dark,
    )


def watch(looks: Iterable[Snapshot], limits: Limits | None = None, *, every: float = 0.6) -> list[Violation]:
    memory, found = Memory(), list[Violation]()
    for number, look in enumerate(looks):
        timed = replace(look, begun=number * every, ended=number * every + 0.01)
        memory, violations = check(memory, timed, limits or Limits())
        found += violations
    return found


def promises(looks: Iterable[Snapshot], limits: Limits | None = None, *, every: float = 0.6) -> list[Promise]:
    return [violation.promise for violation in watch(looks, limits, every=every)]


ROOMY = Limits(max_active=9, max_per_pool=9, max_per_node=9)
UP = SeenVolume(2, STEERED, "m/1", (OLD, COPYING))
BOTH = SeenVolume(2, STEERED, "m/1", (OLD, NEW))
DOWN = SeenVolume(1, STEERED, "m/1", (NEW,))
HONEST = (
    a_look(BEFORE),
    a_look(BEFORE, at(S.ANALYZING)),
    a_look(UP, at(S.SCALING_UP)),
    a_look(UP, at(S.WAITING_SYNC)),
    a_look(BOTH, at(S.WAITING_SYNC)),
    a_look(BOTH, at(S.SCALING_DOWN)),
    a_look(BOTH, at(S.SCALING_DOWN)),
    a_look(DOWN, at(S.SCALING_DOWN)),
    a_look(MOVED, at(S.SCALING_DOWN), pv=RECORDED),
    a_look(MOVED, at(S.COMPLETED, Reason.MOVED), pv=RECORDED),
    a_look(MOVED, at(S.COMPLETED, Reason.MOVED), pv=RECORDED),
)


def test_an_honest_move_is_not_accused() -> None:
    assert watch(HONEST) == []


def test_an_honest_move_that_is_seen_only_at_its_end_is_not_accused() -> None:
    assert watch((HONEST[0], *HONEST[-2:])) == []


def test_an_honest_rollback_is_not_accused() -> None:
    looks = (*HONEST[:4], a_look(BEFORE, at(S.WAITING_SYNC)), a_look(BEFORE, at(S.ABORTED, Reason.TIMED_OUT)))
    assert watch(looks) == []


def test_a_write_seen_before_its_migration_is_explained_by_the_next_look() -> None:
    assert watch((HONEST[0], a_look(UP), *HONEST[3:])) == []


def test_a_pool_that_goes_away_by_itself_is_nobodys_fault() -> None:
    away = replace(BEFORE, replicas=(replace(OLD, synced=False),))
    assert watch((a_look(BEFORE), a_look(away), a_look(BEFORE))) == []


def test_removing_the_only_synced_replica_is_seen() -> None:
    lost = replace(DOWN, replicas=(COPYING,))
    assert Promise.SYNCED_REPLICAS_KEPT in promises((*HONEST[:4], a_look(lost, at(S.SCALING_DOWN))))


def test_one_of_two_synced_replicas_removed_while_the_new_one_copies_is_seen() -> None:
    two = SeenVolume(2, "", "", (OLD, SeenReplica("other", "sata-2", synced=True)))
    up = replace(two, replica_count=3, replicas=(*two.replicas, replace(NEW, pool="nvme-3", synced=False)))
    down = replace(two, replicas=up.replicas[1:])
    looks = (a_look(two), a_look(up, at(S.WAITING_SYNC)), a_look(down, at(S.SCALING_DOWN)))
    assert promises(looks)[:2] == [Promise.SYNCED_REPLICAS_KEPT, Promise.REMOVAL_PROVEN]


def test_a_count_below_the_original_is_seen() -> None:
    two = SeenVolume(2, "", "", (OLD, NEW))
    looks = (a_look(two), a_look(two, at(S.SCALING_DOWN)), a_look(replace(two, replica_count=1), at(S.SCALING_DOWN)))
    assert promises(looks) == [Promise.COUNT_NOT_BELOW_ORIGINAL]


def test_a_removal_right_after_the_sync_is_seen_since_nobody_can_have_looked_twice() -> None:
    hasty = (*HONEST[:5], a_look(DOWN, at(S.SCALING_DOWN)))
    assert promises(hasty, every=0.2) == [Promise.REMOVAL_PROVEN]
    assert promises(hasty, every=0.6) == []


def test_a_removal_that_takes_effect_later_is_judged_by_when_it_was_written() -> None:
    asked = replace(BOTH, replica_count=1)
    looks = (*HONEST[:5], *[a_look(asked, at(S.SCALING_DOWN))] * 9, a_look(DOWN, at(S.SCALING_DOWN)))
    assert promises(looks, every=0.2) == [Promise.REMOVAL_PROVEN]


def test_two_active_migrations_of_a_volume_are_seen() -> None:
    twin = at(S.SCALING_UP, name="twin")
    assert Promise.ONE_MIGRATION_A_VOLUME in promises((a_look(BEFORE, MIGRATION, twin),), Limits(max_active=9))


def test_a_second_one_that_only_waits_is_fine() -> None:
    assert watch((a_look(BEFORE, MIGRATION, at(S.PENDING, name="twin")),)) == []


@pytest.mark.parametrize(
    ("limits", "subject"),
    [
        (replace(ROOMY, max_active=1), "all"),
        (replace(ROOMY, max_of_policy={"p": 1}), "p"),
        (replace(ROOMY, max_per_pool=1), "nvme-2"),
        (replace(ROOMY, max_per_node=1), "n2"),
    ],
)
def test_each_cap_that_is_exceeded_is_seen(limits: Limits, subject: str) -> None:
    other = at(S.SCALING_UP, name="other", volume="w", sources=frozenset({"sata-2"}))
    found = watch((a_look(BEFORE, MIGRATION, other, w=BEFORE),), limits)
    assert [(v.promise, v.subject) for v in found] == [(Promise.CAPS_HELD, subject)]


def test_a_demotion_while_the_metrics_are_lost_is_seen() -> None:
    demotion = replace(MIGRATION, sources=frozenset({"nvme-2"}), targets=frozenset({"sata-1"}))
    looks = (a_look(MOVED), a_look(MOVED, dark=4.0), a_look(MOVED, demotion, dark=4.6))
    assert promises(looks, Limits(heat_memory_seconds=3.0)) == [Promise.UNKNOWN_IS_NOT_COLD]
    assert promises(looks, Limits(heat_memory_seconds=5.0)) == []
    asked_for = (*looks[:2], a_look(MOVED, replace(demotion, policy=""), dark=4.6))
    assert promises(asked_for, Limits(heat_memory_seconds=3.0)) == []


def test_a_demotion_of_a_volume_in_use_without_metrics_is_seen() -> None:
    demotion = replace(MIGRATION, sources=frozenset({"nvme-2"}), targets=frozenset({"sata-1"}))
    looks = (a_look(MOVED), a_look(MOVED, demotion))
    assert promises(looks, Limits(never_demoted=frozenset({"v"}))) == [Promise.UNKNOWN_IS_NOT_COLD]


@pytest.mark.parametrize(
    ("left", "word"),
    [
        (replace(MOVED, replica_count=2), "count"),
        (replace(MOVED, topology=STEERED), "topology"),
        (replace(MOVED, topology=""), "topology"),
        (replace(MOVED, fence="m/1"), "fence"),
    ],
)
def test_what_a_migration_leaves_behind_is_seen(left: SeenVolume, word: str) -> None:
    found = watch((*HONEST[:-2], a_look(left, at(S.COMPLETED, Reason.MOVED), pv=RECORDED)))
    assert [v.promise for v in found] == [Promise.NOTHING_LEAKED]
    assert found[0].detail.startswith(word)


def test_a_failed_migration_may_leave_something_but_parks_the_volume() -> None:
    failed = at(S.FAILED, Reason.REPLICA_LEFT)
    assert promises((*HONEST[:5], a_look(BOTH, failed))) == [Promise.FAILURE_PARKS]
    assert promises((*HONEST[:5], a_look(BOTH, failed, pv=SeenPv(parked=True)))) == []


def test_an_abort_that_leaves_another_replica_is_seen() -> None:
    looks = (*HONEST[:7], a_look(DOWN, at(S.SCALING_DOWN)), a_look(MOVED, at(S.ABORTED, Reason.CANCELLED)))
    assert promises(looks) == [Promise.ABORT_RESTORES]


def test_a_completion_off_the_target_is_seen() -> None:
    looks = (*HONEST[:7], a_look(BEFORE, at(S.COMPLETED, Reason.MOVED), pv=RECORDED))
    assert promises(looks) == [Promise.COMPLETED_IS_MOVED]


@pytest.mark.parametrize("pv", [SeenPv(), SeenPv(last_migration=NOW - timedelta(hours=1))])
def test_a_completion_without_a_record_of_its_own_on_the_pv_is_seen(pv: SeenPv) -> None:
    looks = (*HONEST[:-2], a_look(MOVED, at(S.COMPLETED, Reason.MOVED), pv=pv))
    assert promises(looks) == [Promise.COOLDOWN_RECORDED]


def test_a_completion_whose_pv_is_gone_has_nothing_to_record() -> None:
    gone = replace(a_look(MOVED, at(S.COMPLETED, Reason.MOVED)), pvs={})
    assert watch((*HONEST[:-2], gone)) == []


def test_a_write_by_a_dry_run_is_seen() -> None:
    dry = at(S.SCALING_UP, dry_run=True)
    assert promises((a_look(BEFORE), a_look(UP, dry), a_look(UP, dry))) == [Promise.DRY_RUN_WRITES_NOTHING]


def test_any_write_is_seen_while_the_whole_migrator_runs_dry() -> None:
    limits = Limits(dry_run=True)
    assert promises((a_look(BEFORE), a_look(UP, MIGRATION), a_look(UP, MIGRATION)), limits) == [
        Promise.DRY_RUN_WRITES_NOTHING
    ]


def test_a_write_without_a_migration_is_seen() -> None:
    ended = at(S.ABORTED, Reason.CANCELLED)
    looks = (a_look(BEFORE, ended), a_look(UP, ended), a_look(UP, ended))
    assert promises(looks) == [Promise.WRITES_ARE_JOURNALED]


def test_a_source_removed_in_preservation_mode_is_seen() -> None:
    limits = Limits(preservation=True)
    assert Promise.PRESERVATION_KEEPS_SOURCE in promises(HONEST, limits)
    kept = replace(BOTH, topology=TOPOLOGY, fence="")
    honest = (*HONEST[:7], a_look(kept, at(S.COMPLETED, Reason.SOURCE_PRESERVED)))
    assert watch(honest, limits) == []


def test_a_violation_that_lasts_is_counted_once() -> None:
    leak = a_look(replace(MOVED, fence="m/1"), at(S.COMPLETED, Reason.MOVED), pv=RECORDED)
    assert promises((*HONEST[:-2], leak, leak, leak)) == [Promise.NOTHING_LEAKED]


def test_every_promise_has_a_test_here_or_among_those_of_levers_that_breaks_it() -> None:
    here = Path(__file__)
    text = here.read_text() + here.with_name("test_lever_promises.py").read_text()
    assert [promise.name for promise in Promise if f"Promise.{promise.name}" not in text] == []
