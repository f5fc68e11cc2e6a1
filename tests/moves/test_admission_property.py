"""
Admission, whatever comes in whatever order: requests, ends, cancels, expiry, and leaders that die in the middle of a
pass.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs

from common.placement import Pool
from common.reasons import Reason
from common.resources.meta import ObjectMeta
from common.resources.migration import MigrationState as S
from common.resources.migration import MigrationStatus, VolumeMigration
from migrator.core.admission import Admit, Caps, Queue, Reject, Surroundings, decide
from tests.moves.test_admission import GIB, NOW, a_record

POOLS = {name: Pool(name, f"n{index % 4}", online=True, capacity_bytes=10 * GIB) for index, name in enumerate("abcdef")}
VOLUMES = tuple(f"pvc-{n}" for n in range(7))
WORLD = Surroundings(pools=POOLS, size_bytes={volume: (n % 4 + 4) * GIB for n, volume in enumerate(VOLUMES)})
UNDER_WAY = (S.ANALYZING, S.SCALING_UP, S.WAITING_SYNC, S.SCALING_DOWN)
CAPS = st.builds(Caps, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
WAYS = st.lists(st.sampled_from(sorted(POOLS)), min_size=2, max_size=2, unique=True)
POLICIES = st.sampled_from([None, "p", "q"])


def in_state(record: VolumeMigration, state: S) -> VolumeMigration:
    return structs.replace(record, status=MigrationStatus(state=state))


def at(record: VolumeMigration, moment: datetime) -> VolumeMigration:
    return structs.replace(
        record, metadata=ObjectMeta(name=record.metadata.name, creation_timestamp=moment, uid=record.metadata.name)
    )


def taken(records: list[VolumeMigration]) -> Counter[str]:
    """Count what they take of everything that has a cap, and of space."""
    slots: Counter[str] = Counter()
    for record in records:
        (move,) = record.spec.moves
        pools = {move.source.pool, move.target_pool}
        slots.update(["all", f"volume {record.spec.pv_name}", *(f"pool {pool}" for pool in pools)])
        slots.update({f"node {POOLS[pool].node}" for pool in pools})
        slots.update([f"policy {record.spec.policy_ref.name}"] if record.spec.policy_ref is not None else [])
        slots[f"space {move.target_pool}"] += WORLD.size_bytes[record.spec.pv_name]
    return slots


def turn(record: VolumeMigration) -> tuple[int, datetime, str]:
    """Who comes first."""
    return -record.spec.priority, record.metadata.creation_timestamp or NOW, record.metadata.name


class Queueing(RuleBasedStateMachine):
    """The records of a cluster, and what comes upon them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, VolumeMigration] = {}
        self.now = NOW
        self.ends: dict[str, Reason] = {}

    @initialize(caps=CAPS, per_policy=st.integers(0, 2))
    def begin(self, caps: Caps, per_policy: int) -> None:
        self.caps = caps
        self.world = replace(WORLD, policy_caps={"p": per_policy})

    @rule(
        volume=st.sampled_from(VOLUMES),
        way=WAYS,
        policy=POLICIES,
        priority=st.integers(-1, 1),
        lasts=st.sampled_from([None, 3, 30]),
    )
    def request(self, volume: str, way: list[str], policy: str | None, priority: int, lasts: int | None) -> None:
        name = f"m{len(self.records)}"
        not_after = self.now + timedelta(seconds=lasts) if lasts is not None else None
        record = a_record(
            name, volume, source=way[0], target=way[1], policy=policy, priority=priority, not_after=not_after
        )
        self.records[name] = at(record, self.now)

    @rule(seconds=st.integers(0, 5))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.of(S.PENDING))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.of(S.PENDING)))
        spec = structs.replace(record.spec, cancel_requested=True)
        self.records[record.metadata.name] = structs.replace(record, spec=spec)

    @precondition(lambda self: self.of(*UNDER_WAY))
    @rule(data=st.data(), state=st.sampled_from([*UNDER_WAY, S.COMPLETED, S.ABORTED, S.FAILED]))
    def go_on(self, data: st.DataObject, state: S) -> None:
        record = data.draw(st.sampled_from(self.of(*UNDER_WAY)))
        self.records[record.metadata.name] = in_state(record, state)

    @rule(share=st.sampled_from([0.3, 1.0, 1.0]))
    def look(self, share: float) -> None:
        """A pass, carried out to its end, or in part, by a leader who died in it."""
        before = list(self.records.values())
        verdicts = decide(before, self.caps, self.world, self.now)
        assert {v.name for v in verdicts} == {r.metadata.name for r in self.of(S.PENDING)}
        for verdict in verdicts[: round(len(verdicts) * share)]:
            record = self.records[verdict.name]
            match verdict:
                case Admit():
                    self.records[verdict.name] = in_state(record, S.ANALYZING)
                case Reject():
                    self._check_reject(verdict, record)
                    self.records[verdict.name] = in_state(record, S.ABORTED)
                case Queue():
                    status = MigrationStatus(reason=verdict.reason, queue_position=verdict.position)
                    self.records[verdict.name] = structs.replace(record, status=status)
        if share == 1.0:
            self._check_whole(before)

    def _check_reject(self, verdict: Reject, record: VolumeMigration) -> None:
        if verdict.reason is Reason.ALREADY_MIGRATING:
            others = [r for r in self.records.values() if r.spec.pv_name == record.spec.pv_name and r is not record]
            gives_way = [r for r in others if r.active or (r.status.state is S.PENDING and _age(r) < _age(record))]
            assert any(self._wanted(r) or r.active for r in gives_way), "it gave way to nobody"
        else:
            assert not self._wanted(record)

    def _check_whole(self, before: list[VolumeMigration]) -> None:
        """After a whole pass nothing is left that could begin, and of each volume one request."""
        waiting = self.of(S.PENDING)
        assert all(self._wanted(record) for record in waiting)
        volumes = Counter(record.spec.pv_name for record in (*waiting, *self.of(*UNDER_WAY)))
        assert all(count == 1 for count in volumes.values())
        for record in before:
            if record.status.state is S.PENDING and self._wanted(record):
                assert volumes[record.spec.pv_name] == 1, "a volume that somebody wants moved is not forgotten"
        again = decide(list(self.records.values()), self.caps, self.world, self.now)
        assert all(isinstance(verdict, Queue) for verdict in again), "a second look finds nothing more to do"
        assert [v.position for v in again if isinstance(v, Queue)] == list(range(1, len(again) + 1))
        assert [v.name for v in again] == [record.metadata.name for record in sorted(waiting, key=turn)]

    def _wanted(self, record: VolumeMigration) -> bool:
        late = record.spec.not_after is not None and self.now > record.spec.not_after
        return not record.spec.cancel_requested and not late

    def of(self, *states: S) -> list[VolumeMigration]:
        return [record for record in self.records.values() if record.status.state in states]

    @invariant()
    def no_cap_is_passed(self) -> None:
        if not self.records:
            return
        slots = taken(self.of(*UNDER_WAY))
        limits = {"all": self.caps.total, "volume": 1, "pool": self.caps.per_pool, "node": self.caps.per_node}
        for what, count in slots.items():
            kind, _, name = what.partition(" ")
            if kind == "space":
                assert count <= 10 * GIB
            elif kind == "policy":
                assert count <= self.world.policy_caps.get(name, count)
            else:
                assert count <= limits[kind], f"{what}: {count}"


def _age(record: VolumeMigration) -> tuple[datetime, str]:
    return record.metadata.creation_timestamp or NOW, record.metadata.name


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


@settings(max_examples=300, deadline=None)
@given(caps=CAPS, ways=st.lists(WAYS, min_size=2, max_size=6), data=st.data())
def test_the_first_begins_when_those_have_ended_who_were_before_it(
    caps: Caps, ways: list[list[str]], data: st.DataObject
) -> None:
    """However many come after it, and though none of these ever ends."""
    crowd = [at(a_record(f"r{n}", f"pvc-{n}", source=a, target=b), NOW) for n, (a, b) in enumerate(ways)]
    *before, first = crowd
    admitted = {v.name for v in decide(before, caps, WORLD, NOW) if isinstance(v, Admit)}
    under_way = [in_state(record, S.WAITING_SYNC) for record in before if record.metadata.name in admitted]
    first, later = at(first, NOW + timedelta(seconds=1)), list[VolumeMigration]()
    for moment in range(2, 40):
        now = NOW + timedelta(seconds=moment)
        (a, b), volume = data.draw(WAYS), f"pvc-new-{moment}"
        priority = data.draw(st.integers(-1, 0))
        later.append(at(a_record(f"s{moment}", volume, source=a, target=b, priority=priority), now))
        verdicts = {v.name: v for v in decide([*under_way, first, *later], caps, WORLD, now)}
        if isinstance(verdicts[first.metadata.name], Admit):
            return
        assert under_way, f"nobody is before it any more: {verdicts[first.metadata.name]}"
        later = [
            in_state(record, S.WAITING_SYNC) if isinstance(verdicts.get(record.metadata.name), Admit) else record
            for record in later
        ]
        under_way.remove(data.draw(st.sampled_from(under_way)))
    raise AssertionError("it never began")
