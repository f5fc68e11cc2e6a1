"""
One at a time: who holds the lease, who thinks so, and what each does when the other, the clock or the server fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kube.api import LEASES
from common.kube.lease import LeaseHolder
from common.logs import make_logger
from sandbox.world.calls import Call, ConnectionLostError, Verb
from sandbox.world.direct import DirectKubeApi
from sandbox.world.status import StatusError
from sandbox.world.store import Store
from tests.clock import ManualClock

NAMESPACE = "default"
DURATION, RENEW, RETRY = 15.0, 10.0, 2.0
FOREVER = "forever"


class Cluster:
    """A store, and how it treats each identity: well, with errors, with silence."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Store(now=self.clock.now, rng=random.Random(1))
        self.api = DirectKubeApi(self.store)
        self.before: dict[str, Exception | str] = {}
        self.after: dict[str, Exception | float] = {}
        """An answer that is lost, or the seconds that it takes."""
        self.calls: list[tuple[str, Verb]] = []

    def api_of(self, identity: str) -> DirectKubeApi:
        async def before(call: Call) -> None:
            self.calls.append((identity, call.verb))
            trouble = self.before.get(identity)
            if isinstance(trouble, Exception):
                raise trouble
            if trouble is not None:
                await asyncio.Event().wait()

        async def after(call: Call) -> None:
            trouble = self.after.get(identity) if call.verb.writes else None
            if isinstance(trouble, Exception):
                raise trouble
            if trouble is not None:
                await self.clock.sleep(trouble)

        return DirectKubeApi(self.store, before=before, after=after)

    def holder(self, identity: str, clock: ManualClock | None = None) -> Holder:
        return Holder(self, identity, clock or self.clock)

    async def record(self) -> dict[str, Any]:
        lease = msgspec.json.decode(await self.api.get(LEASES, "migrator", NAMESPACE))
        spec: dict[str, Any] = lease["spec"]
        return spec

    async def write(self, **spec: Any) -> None:
        body = {"metadata": {"name": "migrator", "namespace": NAMESPACE}, "spec": spec}
        await self.api.create(LEASES, body, NAMESPACE)


class Holder:
    """A LeaseHolder that runs."""

    def __init__(self, cluster: Cluster, identity: str, clock: ManualClock) -> None:
        self.stream = io.StringIO()
        self.lease = LeaseHolder(
            cluster.api_of(identity),
            name="migrator",
            namespace=NAMESPACE,
            identity=identity,
            clock=clock,
            rng=random.Random(identity),
            log=make_logger("test", level="INFO", json=True, stream=self.stream, clock=clock),
            duration_seconds=DURATION,
            renew_seconds=RENEW,
            retry_seconds=RETRY,
        )
        self.task: asyncio.Task[None] | None = None

    def held(self) -> bool:
        return self.lease.held

    def start(self) -> None:
        self.task = asyncio.ensure_future(self.lease.run())

    async def stop(self) -> None:
        """End it in good order: it gives the lease back."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def logged(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.stream.getvalue().splitlines()]


@contextlib.asynccontextmanager
async def running(*holders: Holder) -> AsyncIterator[None]:
    for holder in holders:
        holder.start()
    try:
        yield
    finally:
        for holder in holders:
            await holder.stop()


async def test_the_first_to_come_gets_it_and_keeps_it_by_renewing() -> None:
    cluster = Cluster()
    first, second = cluster.holder("first"), cluster.holder("second")
    async with running(first):
        await cluster.clock.advance(0.1)
        assert first.held()
        async with running(second):
            for _ in range(120):
                await cluster.clock.advance(1)
                assert (first.held(), second.held()) == (True, False)
            assert second.lease.holder == "first"
        record = await cluster.record()
        assert record["holderIdentity"] == "first"
        assert record["leaseTransitions"] == 0
        assert record["leaseDurationSeconds"] == 15
        assert record["acquireTime"] == "2026-02-02T10:30:00.000000Z"
        assert record["renewTime"] == "2026-02-02T10:32:00.000000Z"
        assert first.logged == ["lease acquired"]
        assert second.logged == []


async def test_whoever_waits_for_it_goes_on_when_it_is_theirs() -> None:
    cluster = Cluster()
    first, second = cluster.holder("first"), cluster.holder("second")
    async with running(first, second):
        await asyncio.wait_for(first.lease.wait_held(), 10)
        waiting = asyncio.ensure_future(second.lease.wait_held())
        await cluster.clock.advance(60)
        assert not waiting.done()
        await first.stop()
        await cluster.clock.advance(2 * RETRY)
        await asyncio.wait_for(waiting, 10)
        assert second.held()


async def test_given_back_it_is_free_at_once_and_no_longer_ours_before_that() -> None:
    cluster = Cluster()
    first, second = cluster.holder("first"), cluster.holder("second")
    async with running(second, first):
        await cluster.clock.advance(1)
        holding, waiting = (first, second) if first.held() else (second, first)
        await holding.stop()
        assert not holding.held()
        assert (await cluster.record())["holderIdentity"] == ""
        assert holding.logged == ["lease acquired", "lease given back"]
        await cluster.clock.advance(1.5 * RETRY)
        assert waiting.held()
        assert (await cluster.record())["leaseTransitions"] == 1


async def test_a_holder_that_dies_is_followed_after_a_whole_duration_of_silence_and_not_before() -> None:
    cluster = Cluster()
    await cluster.write(holderIdentity="dead", leaseDurationSeconds=15, renewTime="2020-01-01T00:00:00.000000Z")
    second = cluster.holder("second")
    async with running(second):
        await cluster.clock.advance(DURATION - 0.1)
        assert not second.held(), "its renewTime is years old, but by whose clock?"
        await cluster.clock.advance(1.5 * RETRY + 0.1)
        assert second.held()
        assert (await cluster.record())["holderIdentity"] == "second"


async def test_a_lease_that_was_given_back_is_taken_without_waiting() -> None:
    cluster = Cluster()
    await cluster.write(holderIdentity="", leaseDurationSeconds=1, leaseTransitions=4)
    second = cluster.holder("second")
    async with running(second):
        await cluster.clock.advance(0.1)
        assert second.held()
        assert (await cluster.record())["leaseTransitions"] == 5


async def test_another_who_asks_for_a_longer_duration_gets_it() -> None:
    cluster = Cluster()
    await cluster.write(holderIdentity="dead", leaseDurationSeconds=60)
    second = cluster.holder("second")
    async with running(second):
        await cluster.clock.advance(59)
        assert not second.held()
        await cluster.clock.advance(1.5 * RETRY + 1)
        assert second.held()


@pytest.mark.parametrize("trouble", [ConnectionLostError(), StatusError(500, "InternalError", "no"), FOREVER])
async def test_a_holder_that_cannot_renew_lets_go_before_another_may_take_it(trouble: Exception | str) -> None:
    cluster = Cluster()
    first, second = cluster.holder("first"), cluster.holder("second")
    async with running(first, second):
        await cluster.clock.advance(5)
        holding, waiting = (first, second) if first.held() else (second, first)
        cluster.before[holding.lease.identity] = trouble
        let_go = taken = None
        for tenth in range(300):
            await cluster.clock.advance(0.1)
            assert not (first.held() and second.held())
            if let_go is None and not holding.held():
                let_go = tenth / 10
            if taken is None and waiting.held():
                taken = tenth / 10
        assert let_go is not None
        assert taken is not None
        assert RENEW - RETRY <= let_go <= RENEW
        assert taken - let_go >= DURATION - RENEW - RETRY
        del cluster.before[holding.lease.identity]


async def test_time_is_counted_from_the_request_and_not_from_its_late_answer() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    cluster.after["first"] = RENEW - 1
    async with running(first):
        await cluster.clock.advance(RENEW - 0.5)
        assert first.held()
        cluster.before["first"] = FOREVER
        await cluster.clock.advance(1)
        assert not first.held(), "others have counted since the request took effect"
        del cluster.before["first"]


async def test_one_failed_renewal_is_no_loss() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        cluster.before["first"] = ConnectionLostError()
        await cluster.clock.advance(RENEW / 2)
        assert first.held()
        del cluster.before["first"]
        for _ in range(30):
            await cluster.clock.advance(1)
            assert first.held()


async def test_a_renewal_whose_answer_was_lost_is_found_out_and_goes_on() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        cluster.after["first"] = ConnectionLostError()
        await cluster.clock.advance(RETRY)
        del cluster.after["first"]
        for _ in range(30):
            await cluster.clock.advance(1)
            assert first.held()
        assert "lease lost" not in first.logged


async def test_a_creation_whose_answer_was_lost_is_found_out_and_goes_on() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    cluster.after["first"] = ConnectionLostError()
    async with running(first):
        await cluster.clock.advance(0.1)
        assert not first.held()
        del cluster.after["first"]
        await cluster.clock.advance(2 * RETRY)
        assert first.held()


async def test_somebody_who_labels_the_lease_does_not_disturb_its_holder() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        for number in range(10):
            body = {"metadata": {"labels": {"seen": str(number)}}}
            await cluster.api.patch(LEASES, "migrator", body, NAMESPACE)
            await cluster.clock.advance(RETRY)
            assert first.held()
        assert first.logged == ["lease acquired"]


async def test_somebody_who_labels_a_dead_holders_lease_does_not_keep_it_alive() -> None:
    cluster = Cluster()
    await cluster.write(holderIdentity="dead", leaseDurationSeconds=15)
    second = cluster.holder("second")
    async with running(second):
        for number in range(20):
            await cluster.clock.advance(1)
            body = {"metadata": {"labels": {"seen": str(number)}}}
            await cluster.api.patch(LEASES, "migrator", body, NAMESPACE)
        assert second.held()


async def test_a_lease_taken_away_by_force_is_lost_at_the_next_renewal() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        lost = asyncio.ensure_future(first.lease.wait_lost())
        await cluster.api.patch(LEASES, "migrator", {"spec": {"holderIdentity": "intruder"}}, NAMESPACE)
        await cluster.clock.advance(RETRY)
        assert not first.held()
        await asyncio.wait_for(lost, 10)
        assert "lease lost" in first.logged
        assert (await cluster.record())["holderIdentity"] == "intruder"


async def test_a_deleted_lease_is_made_again() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        await cluster.api.delete(LEASES, "migrator", NAMESPACE)
        await cluster.clock.advance(2 * RETRY)
        assert first.held()
        assert (await cluster.record())["holderIdentity"] == "first"


async def test_the_wall_clock_may_jump_as_it_likes() -> None:
    cluster = Cluster()
    first, second = cluster.holder("first"), cluster.holder("second")
    async with running(first):
        await cluster.clock.advance(1)
        async with running(second):
            for days in (400, -800, 0):
                cluster.clock.set_wall(cluster.clock.now() + timedelta(days=days))
                for _ in range(20):
                    await cluster.clock.advance(1)
                    assert (first.held(), second.held()) == (True, False)


async def test_losing_it_by_time_alone_wakes_who_waits_for_that() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        cluster.before["first"] = FOREVER
        lost = asyncio.ensure_future(first.lease.wait_lost())
        await cluster.clock.advance(RENEW - RETRY - 0.1)
        assert not lost.done()
        await cluster.clock.advance(RETRY + 0.2)
        assert lost.done()
        assert not first.held()
        del cluster.before["first"]
    await asyncio.wait_for(first.lease.wait_lost(), 10)


async def test_a_lost_lease_is_not_given_back_since_it_may_be_anothers() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        cluster.before["first"] = ConnectionLostError()
        await cluster.clock.advance(RENEW)
        del cluster.before["first"]
        cluster.calls.clear()
        await first.stop()
        assert cluster.calls == []


async def test_a_server_that_does_not_answer_does_not_hold_up_the_end_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.kube.lease.RELEASE_SECONDS", 0.05)
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        cluster.before["first"] = FOREVER
        async with asyncio.timeout(5):
            await first.stop()
        assert not first.held()
        assert "lease not given back; it expires by itself" in first.logged


async def test_a_lease_that_may_not_be_written_is_told_of_and_tried_again() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    cluster.before["first"] = StatusError(403, "Forbidden", "no")
    async with running(first):
        await cluster.clock.advance(60)
        assert not first.held()
        assert 3 <= len(cluster.calls) <= 15
        del cluster.before["first"]
        await cluster.clock.advance(DURATION)
        assert first.held()
    assert first.logged[0] == "lease not renewed"


@pytest.mark.parametrize(("duration", "renew", "retry"), [(10, 10, 2), (15, 2, 2), (15, 10, 0), (5, 10, 2)])
def test_times_that_make_no_sense_are_refused(duration: float, renew: float, retry: float) -> None:
    cluster = Cluster()
    with pytest.raises(ValueError, match=r"lease migrator: duration .* must each be longer than the next"):
        LeaseHolder(
            cluster.api,
            name="migrator",
            namespace=NAMESPACE,
            identity="x",
            clock=cluster.clock,
            rng=random.Random(1),
            log=make_logger("test", level="INFO", json=True, stream=io.StringIO()),
            duration_seconds=duration,
            renew_seconds=renew,
            retry_seconds=retry,
        )


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["lose requests", "lose answers", "hang", "recover", "restart"]),
        st.floats(min_value=0.1, max_value=20),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_whatever_fails_two_never_hold_it_at_once_and_in_the_end_one_does(events: list[tuple[str, str, float]]) -> None:
    asyncio.run(_contend(events))


async def _contend(events: list[tuple[str, str, float]]) -> None:
    cluster = Cluster()
    holders = {identity: cluster.holder(identity) for identity in "abc"}
    for holder in holders.values():
        holder.start()

    async def pass_time(seconds: float) -> None:
        end = cluster.clock.monotonic() + seconds
        while cluster.clock.monotonic() < end:
            await cluster.clock.advance(0.5)
            assert sum(holder.held() for holder in holders.values()) <= 1

    try:
        for identity, what, seconds in events:
            await _befall(cluster, holders, identity, what)
            await pass_time(seconds)
        for identity in holders:
            await _befall(cluster, holders, identity, "restart")
        await pass_time(2 * DURATION)
        assert sum(holder.held() for holder in holders.values()) == 1
    finally:
        for holder in holders.values():
            await holder.stop()


async def _befall(cluster: Cluster, holders: dict[str, Holder], identity: str, what: str) -> None:
    cluster.before.pop(identity, None)
    cluster.after.pop(identity, None)
    match what:
        case "lose requests":
            cluster.before[identity] = ConnectionLostError()
        case "lose answers":
            cluster.after[identity] = ConnectionLostError()
        case "hang":
            cluster.before[identity] = FOREVER
        case "restart":
            await holders[identity].stop()
            holders[identity] = cluster.holder(identity)
            holders[identity].start()


async def test_a_term_that_was_slept_through_is_over_though_the_lease_is_ours_again() -> None:
    """Another held it, and gave it back, while we did not look: what was begun before must not go on."""
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        term, lost = first.lease.term, asyncio.ensure_future(first.lease.wait_lost())
        assert term.held
        for holder in ("second", ""):
            await cluster.api.patch(LEASES, "migrator", {"spec": {"holderIdentity": holder}}, NAMESPACE)
        await cluster.clock.advance(RETRY + 0.1)
        assert first.held()
        assert (term.held, first.lease.term.held) == (False, True)
        assert lost.done()


async def test_an_acquisition_that_was_not_answered_begins_a_term_too() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        term = first.lease.term
        await cluster.api.patch(LEASES, "migrator", {"spec": {"holderIdentity": "second"}}, NAMESPACE)
        await cluster.clock.advance(RETRY + 0.1)
        assert not first.held()
        await cluster.api.patch(LEASES, "migrator", {"spec": {"holderIdentity": ""}}, NAMESPACE)
        cluster.after["first"] = ConnectionLostError()
        await cluster.clock.advance(RETRY * 1.5)
        assert (await cluster.record())["holderIdentity"] == "first"
        assert not first.held()
        del cluster.after["first"]
        await cluster.clock.advance(3 * RETRY)
        assert first.held()
        assert not term.held
        assert first.lease.term.held


async def test_renewals_go_on_with_one_term_however_late_they_are() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(5)
        term = first.lease.term
        cluster.before["first"] = ConnectionLostError()
        await cluster.clock.advance(RENEW + 1)
        assert not term.held
        del cluster.before["first"]
        await cluster.clock.advance(DURATION)
        assert term.held, "nobody else held it meanwhile"
