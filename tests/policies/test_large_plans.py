"""
Plans of a hundred thousand volumes over real gRPC, whose messages hold no more than 16 MiB.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio
import pytest
from couchestor.planner.v1 import planner_pb2 as pb
from couchestor.planner.v1 import planner_pb2_grpc

from common.logs import make_logger
from common.metrics import new_registry
from common.rpc.channel import MAX_MESSAGE_BYTES, open_channel
from common.rpc.server import GrpcServer
from planner import previews
from planner.core.world import World
from planner.servicer import SERVICE, PlannerServicer
from tests.clock import ManualClock
from tests.policies.builders import ABLE, GIB, POLICY, a_policy, a_pool, a_world, placed
from tests.policies.still import Recording, still_planner

MANY = 100_000
MOVING = 40


def a_large_world(volumes: int = MANY) -> World:
    """So many volumes on slow pools; every tenth is hot, and the fast pools have room for some."""
    pools = [a_pool("nvme-1", "hot", "node-1", free=MOVING * 10 * GIB), a_pool("sata-1", "cold", "node-2")]
    where = placed("sata-1")
    return a_world(
        {f"pvc-{n:06}": (where, 9000.0 - n / 1000 if n % 10 == 0 else 3.0) for n in range(volumes)},
        policies=[a_policy(max_concurrent_migrations=1000)],
        pools=pools,
        backend=replace(ABLE, max_concurrent=1000, max_per_pool=1000, max_per_node=1000),
    )


@dataclass(frozen=True)
class Asked:
    """A planner over a world that stands still."""

    stub: Any
    clock: ManualClock

    async def pages(self, size: int = 0, **fields: Any) -> list[pb.PreviewPlanResponse]:
        """All pages of a preview."""
        found: list[pb.PreviewPlanResponse] = []
        token = ""
        while not found or token:
            request = pb.PreviewPlanRequest(page_size=size, page_token=token, **fields)
            found.append(await self.stub.PreviewPlan(request, timeout=60))
            token = found[-1].next_page_token
        return found


@asynccontextmanager
async def asked(world: World) -> AsyncIterator[Asked]:
    log = make_logger("test", level="ERROR", json=True, stream=io.StringIO())
    clock = ManualClock()
    service, _ = still_planner(world, Recording(), clock)

    def register(server: grpc.aio.Server) -> None:
        planner_pb2_grpc.add_PlannerServiceServicer_to_server(PlannerServicer(service), server)

    server = GrpcServer(
        "127.0.0.1:0", register, (), log=log, registry=new_registry(), insecure_bind=False, drain_seconds=0.0
    )
    async with server, open_channel(f"127.0.0.1:{server.port}", service=SERVICE, idempotent=()) as channel:
        yield Asked(planner_pb2_grpc.PlannerServiceStub(channel), clock)


@pytest.fixture(scope="module")
def large() -> World:
    return a_large_world()


async def test_a_preview_of_a_hundred_thousand_volumes_comes_in_pages_of_one_moment(large: World) -> None:
    async with asked(large) as planner:
        pages = await planner.pages(policy_name=POLICY)
    assert all(page.ByteSize() < MAX_MESSAGE_BYTES for page in pages)
    assert len(pages) == MANY // previews.MAX_PAGE
    decisions = [decision for page in pages for decision in page.plan.decisions]
    assert sorted(decision.volume for decision in decisions) == sorted(large.volumes)
    assert {(page.plan.watched_volumes, page.plan.moving_volumes) for page in pages} == {(MANY, MOVING)}
    assert len({page.plan.decided_at.ToNanoseconds() for page in pages}) == 1
    moving, staying = decisions[:MOVING], decisions[MOVING:]
    assert {decision.outcome for decision in moving} == {pb.OUTCOME_MOVE}
    assert {decision.outcome for decision in staying} == {pb.OUTCOME_STAY}
    assert [decision.volume for decision in moving] == [f"pvc-{n * 10:06}" for n in range(MOVING)]  # the hottest first
    assert [decision.volume for decision in staying] == sorted(decision.volume for decision in staying)


async def test_a_reconcile_of_it_answers_with_the_moves_and_its_decisions_are_listed_in_pages(large: World) -> None:
    async with asked(large) as planner:
        answer = await planner.stub.ReconcileNow(pb.ReconcileNowRequest(policy_name=POLICY), timeout=60)
        assert answer.ByteSize() < MAX_MESSAGE_BYTES // 100
        assert (answer.plan.watched_volumes, answer.plan.moving_volumes) == (MANY, MOVING)
        assert len(answer.plan.decisions) == MOVING
        seen, token = 0, ""
        while True:
            request = pb.ListDecisionsRequest(policy_name=POLICY, page_size=1000, page_token=token)
            page = await planner.stub.ListDecisions(request, timeout=60)
            seen, token = seen + len(page.decisions), page.next_page_token
            if not token:
                break
        assert seen == MANY


async def test_a_plan_that_fits_is_one_page() -> None:
    async with asked(a_large_world(50)) as planner:
        (page,) = await planner.pages(policy_name=POLICY)
        assert len(page.plan.decisions) == 50
        several = await planner.pages(7, policy_name=POLICY)
        assert [len(page.plan.decisions) for page in several] == [7] * 7 + [1]
        spec = pb.StoragePolicySpec(high_watermark_iops=1e6)
        (moving,) = await planner.pages(policy_name=POLICY, moves_only=True)
        assert len(moving.plan.decisions) == moving.plan.moving_volumes == 5
        assert moving.plan.watched_volumes == 50
        inline = await planner.pages(25, spec=spec)
        assert [len(page.plan.decisions) for page in inline] == [25, 25]


async def test_long_decisions_make_shorter_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "PAGE_BYTES", 1000)
    async with asked(a_large_world(50)) as planner:
        pages = await planner.pages(policy_name=POLICY)
        assert all(sum(item.ByteSize() for item in page.plan.decisions) <= 1000 for page in pages)
        assert sum(len(page.plan.decisions) for page in pages) == 50
        monkeypatch.setattr(previews, "PAGE_BYTES", 1)  # less than one decision: it comes alone
        assert len(await planner.pages(policy_name=POLICY)) == 50


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"page_size": -1}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"page_size": 5001}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"page_token": "?"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"page_token": "YTotMQ=="}, grpc.StatusCode.INVALID_ARGUMENT),  # a:-1
        ({"page_token": "YTox"}, grpc.StatusCode.FAILED_PRECONDITION),  # a:1, which no answer gave here
        ({"policy_name": "another"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"moves_only": True}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_page_that_cannot_be_is_refused(fields: dict[str, Any], code: grpc.StatusCode) -> None:
    async with asked(a_large_world(50)) as planner:
        first = await planner.stub.PreviewPlan(pb.PreviewPlanRequest(policy_name=POLICY, page_size=20), timeout=20)
        request = pb.PreviewPlanRequest(policy_name=POLICY, page_size=20, page_token=first.next_page_token)
        request.MergeFrom(pb.PreviewPlanRequest(**fields))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await planner.stub.PreviewPlan(request, timeout=20)
        assert refused.value.code() is code


async def test_a_plan_is_kept_for_minutes_after_its_last_page_and_no_longer() -> None:
    async with asked(a_large_world(50)) as planner:
        request = pb.PreviewPlanRequest(policy_name=POLICY, page_size=20)
        request.page_token = (await planner.stub.PreviewPlan(request, timeout=20)).next_page_token
        for _ in range(3):
            await planner.clock.advance(previews.KEPT_SECONDS - 1)
            await planner.stub.PreviewPlan(request, timeout=20)
        await planner.clock.advance(previews.KEPT_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError, match="is not kept any more; ask anew without page_token"):
            await planner.stub.PreviewPlan(request, timeout=20)


async def test_only_the_last_few_plans_are_kept() -> None:
    async with asked(a_large_world(50)) as planner:
        tokens = []
        for _ in range(previews.KEPT + 1):
            request = pb.PreviewPlanRequest(policy_name=POLICY, page_size=20)
            tokens.append((await planner.stub.PreviewPlan(request, timeout=20)).next_page_token)
        assert len(set(tokens)) == len(tokens)
        for token in tokens[1:]:
            await planner.stub.PreviewPlan(
                pb.PreviewPlanRequest(policy_name=POLICY, page_size=20, page_token=token), timeout=20
            )
        with pytest.raises(grpc.aio.AioRpcError, match="is not kept any more"):
            await planner.stub.PreviewPlan(
                pb.PreviewPlanRequest(policy_name=POLICY, page_size=20, page_token=tokens[0]), timeout=20
            )
