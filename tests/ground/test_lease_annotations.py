"""
What stands on a lease besides who holds it: everybody who looks at the lease sees it, and no renewal loses it.
"""

from __future__ import annotations

import msgspec
import pytest

from common.kube.api import LEASES, ConflictError, NotFoundError
from sandbox.world.calls import Call
from sandbox.world.direct import DirectKubeApi
from tests.ground.test_lease import NAMESPACE, RETRY, Cluster, Holder, running

KEY = "example.com/off"


async def annotated(cluster: Cluster) -> dict[str, str]:
    lease = msgspec.json.decode(await cluster.api.get(LEASES, "migrator", NAMESPACE))
    found: dict[str, str] = lease["metadata"].get("annotations", {})
    return found


def by_hand(cluster: Cluster, value: str | None) -> None:
    cluster.store.patch(LEASES, "migrator", {"metadata": {"annotations": {KEY: value}}}, NAMESPACE)


async def test_what_a_person_writes_is_seen_by_the_holder_and_by_who_waits_and_survives_renewals() -> None:
    cluster = Cluster()
    first, second = cluster.holder("first"), cluster.holder("second")
    async with running(first, second):
        await cluster.clock.advance(1)
        assert first.lease.annotations == second.lease.annotations == {}
        for value in ("a", "a,b", None):
            by_hand(cluster, value)
            await cluster.clock.advance(1.5 * RETRY)
            wanted = {KEY: value} if value is not None else {}
            assert (first.lease.annotations, second.lease.annotations) == (wanted, wanted)
            assert (first.held() or second.held(), first.held() and second.held()) == (True, False)
        assert "lease lost" not in first.logged + second.logged


async def test_what_the_holder_adds_is_there_at_once_and_stays_through_a_change_of_holders() -> None:
    cluster = Cluster()
    first, second = cluster.holder("first"), cluster.holder("second")
    async with running(first):
        await cluster.clock.advance(1)
        by_hand(cluster, "a")
        assert await first.lease.annotate(KEY, lambda text: f"{text},b") == "a,b", "it starts from what is there"
        assert first.lease.annotations == {KEY: "a,b"}
        async with running(second):
            await cluster.clock.advance(10 * RETRY)
            assert first.held()
            assert await annotated(cluster) == {KEY: "a,b"}
            await first.stop()
            await cluster.clock.advance(2 * RETRY)
            assert second.held()
            assert second.lease.annotations == await annotated(cluster) == {KEY: "a,b"}


async def test_a_write_that_meets_another_one_is_refused_and_changes_nothing() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(1)

        async def before(call: Call) -> None:
            if call.verb.writes:
                by_hand(cluster, "theirs")

        first.lease._api = DirectKubeApi(cluster.store, before=before)
        with pytest.raises(ConflictError):
            await first.lease.annotate(KEY, lambda _: "ours")
        assert await annotated(cluster) == {KEY: "theirs"}


async def test_whoever_has_lost_it_writes_nothing_and_takes_it_from_nobody_by_that() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(1)
        await cluster.api.patch(LEASES, "migrator", {"spec": {"holderIdentity": "second"}}, NAMESPACE)
        with pytest.raises(ConflictError, match="second's, not ours"):
            await first.lease.annotate(KEY, lambda _: "ours")
        await cluster.clock.advance(RETRY)
        assert not first.held()
        assert (await cluster.record())["holderIdentity"] == "second"


async def test_a_renewal_after_an_annotation_goes_on_as_before() -> None:
    cluster = Cluster()
    first = cluster.holder("first")
    async with running(first):
        await cluster.clock.advance(1)
        term = first.lease.term
        for number in range(5):
            await first.lease.annotate(KEY, lambda _, number=number: str(number))  # type: ignore[misc]
            await cluster.clock.advance(RETRY + 0.1)
            assert first.held()
        assert term.held
        assert first.logged == ["lease acquired"]


async def test_there_is_nothing_to_write_on_before_there_is_a_lease() -> None:
    holder: Holder = Cluster().holder("first")
    assert holder.lease.annotations == {}
    with pytest.raises(NotFoundError):
        await holder.lease.annotate(KEY, lambda text: text)
