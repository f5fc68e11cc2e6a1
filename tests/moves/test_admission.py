"""Who may begin: caps, queue, reservations, one migration a volume. Slots follow from the records and cannot leak."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from common.placement import Pool
from common.reasons import Reason
from common.resources.meta import ObjectMeta
from common.resources.migration import (
    MigrationSpec,
    MigrationState,
    MigrationStatus,
    MoveSource,
    MoveSpec,
    PolicyRef,
    VolumeMigration,
)
from migrator.core.admission import Admit, Caps, Queue, Reject, Surroundings, decide
from migrator.core.retention import collectable

NOW = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
GIB = 2**30
CAPS = Caps(total=4, per_pool=10, per_node=10)
S = MigrationState


def a_record(
    name: str,
    volume: str | None = None,
    *,
    state: MigrationState = S.PENDING,
    source: str = "a",
    target: str = "b",
    age: float = 0.0,
    policy: str | None = None,
    **spec: Any,
) -> VolumeMigration:
    return VolumeMigration(
        metadata=ObjectMeta(name=name, creation_timestamp=NOW - timedelta(seconds=age)),
        spec=MigrationSpec(
            request_id=name,
            pv_name=volume or f"pvc-{name}",
            volume_handle=volume or f"pvc-{name}",
            moves=(MoveSpec(MoveSource(source), target),),
            policy_ref=PolicyRef(policy, "uid") if policy else None,
            **spec,
        ),
        status=MigrationStatus(state=state),
    )


def admitted(*records: VolumeMigration, caps: Caps = CAPS, world: Surroundings | None = None) -> list[str]:
    verdicts = decide(records, caps, world or Surroundings(), NOW)
    return [verdict.name for verdict in verdicts if isinstance(verdict, Admit)]


def why(name: str, *records: VolumeMigration, caps: Caps = CAPS, world: Surroundings | None = None) -> Reason | None:
    verdicts = decide(records, caps, world or Surroundings(), NOW)
    return next((v.reason for v in verdicts if v.name == name and not isinstance(v, Admit)), None)


def test_those_that_wait_go_by_priority_then_by_age() -> None:
    records = (a_record("young", age=1), a_record("old", age=9), a_record("urgent", age=0, priority=5))
    assert admitted(*records, caps=replace(CAPS, total=2)) == ["urgent", "old"]
    verdicts = decide(records, replace(CAPS, total=0), Surroundings(), NOW)
    assert [(v.name, v.position) for v in verdicts if isinstance(v, Queue)] == [("urgent", 1), ("old", 2), ("young", 3)]


def test_zero_pauses_and_says_so() -> None:
    assert why("one", a_record("one"), caps=replace(CAPS, total=0)) is Reason.MIGRATIONS_PAUSED


def test_an_admitted_one_that_has_not_ended_holds_its_slot_and_no_other_does() -> None:
    running = [a_record(f"r{n}", state=state) for n, state in enumerate((S.ANALYZING, S.WAITING_SYNC))]
    over = [a_record(f"o{n}", state=state) for n, state in enumerate((S.COMPLETED, S.ABORTED, S.FAILED))]
    assert admitted(*running, *over, a_record("next"), caps=replace(CAPS, total=3)) == ["next"]
    assert why("next", *running, *over, a_record("next"), caps=replace(CAPS, total=2)) is Reason.GLOBAL_CAP


def test_an_admitted_migration_beats_any_that_waits_for_the_same_volume() -> None:
    running = a_record("young", "pvc-1", state=S.SCALING_UP, age=1)
    assert why("old", running, a_record("old", "pvc-1", age=9)) is Reason.ALREADY_MIGRATING


def test_among_those_that_wait_for_one_volume_the_older_wins_whatever_the_priority() -> None:
    old, young = a_record("old", "pvc-1", age=9), a_record("young", "pvc-1", age=1, priority=100)
    assert admitted(old, young) == ["old"]
    assert why("young", old, young) is Reason.ALREADY_MIGRATING
    withdrawn = structs.replace(old, spec=structs.replace(old.spec, cancel_requested=True))
    assert admitted(withdrawn, young) == ["young"]


def test_those_nobody_wants_any_more_end_without_a_slot() -> None:
    paused = replace(CAPS, total=0)
    assert why("one", a_record("one", not_after=NOW - timedelta(seconds=1)), caps=paused) is Reason.PLAN_EXPIRED
    assert why("one", a_record("one", cancel_requested=True), caps=paused) is Reason.CANCELLED
    gone = a_record("one")
    gone = structs.replace(gone, metadata=structs.replace(gone.metadata, deletion_timestamp=NOW))
    assert why("one", gone, caps=paused) is Reason.RECORD_DELETED


def test_a_policy_has_a_cap_of_its_own_and_a_persons_request_has_none() -> None:
    world = Surroundings(policy_caps={"p": 1})
    running = a_record("r", policy="p", state=S.ANALYZING)
    assert why("next", running, a_record("next", policy="p"), world=world) is Reason.POLICY_CAP
    assert admitted(running, a_record("next"), world=world) == ["next"]


def test_a_pool_is_capped_coming_and_going() -> None:
    caps = replace(CAPS, per_pool=1)
    running = a_record("r", source="a", target="b", state=S.WAITING_SYNC)
    assert why("in", running, a_record("in", source="c", target="a"), caps=caps) is Reason.POOL_CAP
    assert why("out", running, a_record("out", source="b", target="c"), caps=caps) is Reason.POOL_CAP
    assert admitted(running, a_record("far", source="c", target="d"), caps=caps) == ["far"]


def test_a_node_is_capped_over_all_its_pools() -> None:
    pools = {name: Pool(name, node, online=True) for name, node in (("a", "n1"), ("b", "n2"), ("c", "n1"), ("d", "n3"))}
    caps, world = replace(CAPS, per_node=1), Surroundings(pools=pools)
    running = a_record("r", source="a", target="b", state=S.WAITING_SYNC)
    assert why("next", running, a_record("next", source="c", target="d"), caps=caps, world=world) is Reason.NODE_CAP


def test_space_is_promised_once() -> None:
    pools = {"b": Pool("b", "n", online=True, capacity_bytes=10 * GIB)}
    world = Surroundings(pools=pools, size_bytes={"pvc-1": 6 * GIB, "pvc-2": 6 * GIB})
    first, second = a_record("one", "pvc-1", age=2), a_record("two", "pvc-2", age=1)
    assert admitted(first, second, world=world) == ["one"]
    assert why("two", first, second, world=world) is Reason.NO_POOL_WITH_SPACE
    running = structs.replace(first, status=MigrationStatus(state=S.WAITING_SYNC))
    assert why("two", running, second, world=world) is Reason.NO_POOL_WITH_SPACE
    taken = replace(world, holds={"pvc-1": frozenset({"b"})})
    assert admitted(running, second, world=taken) == ["two"], "what is taken already is not promised as well"


def test_what_does_not_fit_at_all_is_let_in_to_be_told_so() -> None:
    pools = {"b": Pool("b", "n", online=True, capacity_bytes=GIB)}
    world = Surroundings(pools=pools, size_bytes={"pvc-one": 6 * GIB})
    assert admitted(a_record("one"), world=world) == ["one"]


POOL_NAMES = st.sampled_from("abcdef")


@st.composite
def crowds(draw: st.DrawFn) -> tuple[VolumeMigration, ...]:
    """Draw records as they come to be: never two admitted ones of one volume."""
    records, busy = [], set()
    for n in range(draw(st.integers(0, 12))):
        volume = f"pvc-{draw(st.integers(0, 5))}"
        state = draw(st.sampled_from(list(S)))
        if state not in {S.PENDING} and not state.terminal:
            if volume in busy:
                continue
            busy.add(volume)
        record = a_record(
            f"m{n}",
            volume,
            state=state,
            source=draw(POOL_NAMES),
            target=draw(POOL_NAMES),
            age=draw(st.integers(0, 5)),
            policy=draw(st.sampled_from([None, "p", "q"])),
            priority=draw(st.integers(-2, 2)),
            cancel_requested=draw(st.booleans()),
        )
        records.append(record)
    return tuple(records)


@settings(max_examples=400, deadline=None)
@given(crowds(), st.integers(0, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_whatever_waits_no_cap_is_ever_passed(
    records: tuple[VolumeMigration, ...], total: int, per_pool: int, per_node: int, per_policy: int
) -> None:
    pools = {name: Pool(name, f"n{index % 3}", online=True) for index, name in enumerate("abcdef")}
    world = Surroundings(pools=pools, policy_caps={"p": per_policy})
    caps = Caps(total, per_pool, per_node)
    verdicts = decide(records, caps, world, NOW)
    assert {v.name for v in verdicts} == {r.metadata.name for r in records if r.status.state is S.PENDING}
    begun = {v.name for v in verdicts if isinstance(v, Admit)}
    before = [r for r in records if r.active]
    after = [r for r in records if r.active or r.metadata.name in begun]
    volumes = [r.spec.pv_name for r in after]
    assert len(volumes) == len(set(volumes)), "one migration a volume"
    assert not begun or len(after) <= total

    def load(of: list[VolumeMigration], key: str) -> int:
        return sum(key in touched(record, pools) for record in of)

    for key, cap in [(name, per_pool) for name in pools] + [(f"n{n}", per_node) for n in range(3)]:
        assert load(after, key) <= max(cap, load(before, key))
    of_p = [r for r in after if r.spec.policy_ref is not None and r.spec.policy_ref.name == "p"]
    assert len(of_p) <= max(per_policy, sum(r in before for r in of_p))
    positions = [v.position for v in verdicts if isinstance(v, Queue)]
    assert positions == list(range(1, len(positions) + 1))
    assert all(v.reason in ENDS for v in verdicts if isinstance(v, Reject))


ENDS = {Reason.CANCELLED, Reason.ALREADY_MIGRATING, Reason.PLAN_EXPIRED, Reason.RECORD_DELETED}


def touched(record: VolumeMigration, pools: dict[str, Pool]) -> set[str]:
    names = {record.spec.moves[0].source.pool, record.spec.moves[0].target_pool}
    return names | {str(pools[name].node) for name in names}


def test_the_newest_end_of_each_volume_is_never_collected() -> None:
    def an_end(name: str, volume: str, hours: float) -> VolumeMigration:
        record = a_record(name, volume, state=S.COMPLETED)
        ended = NOW - timedelta(hours=hours)
        return structs.replace(record, status=MigrationStatus(state=S.COMPLETED, ended_at=ended))

    records = (
        an_end("old-1", "pvc-1", 900),
        an_end("new-1", "pvc-1", 800),
        an_end("only-2", "pvc-2", 9_000),
        an_end("fresh-3", "pvc-3", 1),
        an_end("older-3", "pvc-3", 2),
        a_record("running", "pvc-3", state=S.WAITING_SYNC),
    )
    going = collectable(records, NOW, keep=100, keep_for=timedelta(hours=720))
    assert [record.metadata.name for record in going] == ["old-1"]
    going = collectable(records, NOW, keep=0, keep_for=timedelta(hours=720))
    assert {record.metadata.name for record in going} == {"old-1", "older-3"}
