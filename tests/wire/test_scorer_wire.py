"""The scorer over real gRPC, before a Prometheus that answers what each test wants; the specification's examples."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
import grpc.aio
import msgspec
import pytest
from couchestor.scorer.v1 import scorer_pb2 as pb
from couchestor.scorer.v1 import scorer_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from common.clock import Clock, SystemClock
from common.logs import make_logger
from common.metrics import new_registry
from common.rpc.channel import open_channel
from common.rpc.errors import describe
from scorer.__main__ import Ports, Settings, scorer
from scorer.servicer import SERVICE
from tests.clock import START, ManualClock
from tests.heat.fake_prometheus import FakePrometheus, counters_only, element, gauge_only, json, raw, vector

GAUGE_QUERY = "avg_over_time(openebs_volume_iops[3600s])"
GOLDEN = (
    b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"volume_id":"pvc-abc123"},'
    b'"value":[1706867400.123,"5234.56"]}]}}'
)
GOLDEN_WITH_LABELS = (
    b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"openebs_volume_iops",'
    b'"volume_id":"pvc-abc123","pool":"pool-sata-1"},"value":[1706867400.123,"5234.567"]}]}}'
)
EMPTY = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
UUID = "0d0f5f4e-8a3b-4c2d-9e1f-000000000001"
HOUR = Duration(seconds=3600)
WINDOW = Duration(seconds=90)  # one that the scorer does not ask for by itself when it starts
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Running:
    """A scorer, what it asks, and what one asks it with."""

    prometheus: FakePrometheus
    ports: Ports
    channel: grpc.aio.Channel
    stub: scorer_pb2_grpc.ScorerServiceAsyncStub
    log: io.StringIO = field(default_factory=io.StringIO)

    async def heat(self, volume: str, window: Duration | None = WINDOW) -> pb.HeatScore:
        response = await self.stub.GetHeatScore(pb.GetHeatScoreRequest(volume_id=volume, window=window), timeout=30)
        return response.heat_score

    async def health(self, name: str) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        status: int = answer.status
        return status

    async def until_health(self, name: str, status: int) -> None:
        async with asyncio.timeout(10):
            while await self.health(name) != status:  # noqa: ASYNC110 - another server's answer is waited for
                await asyncio.sleep(0.01)

    async def metrics(self) -> str:
        url = f"http://127.0.0.1:{self.ports.metrics}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    def logged(self, level: str) -> list[dict[str, Any]]:
        lines = [msgspec.json.decode(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["level"] == level]


@asynccontextmanager
async def running(prometheus: FakePrometheus, *, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Running]:
    """Run a scorer as its program does, on ports of its own."""
    log = io.StringIO()
    clock = clock or SystemClock()
    chosen = Settings(
        **{
            "grpc_addr": "127.0.0.1:0",
            "metrics_addr": "127.0.0.1:0",
            "health_addr": "127.0.0.1:0",
            "prometheus_url": prometheus.url,
            "drain_seconds": 1.0,
            **settings,
        }
    )
    logger = make_logger("scorer", level="INFO", json=True, stream=log, clock=clock)
    async with (
        scorer(chosen, log=logger, clock=clock, rng=random.Random(7), registry=new_registry()) as ports,
        open_channel(f"127.0.0.1:{ports.grpc}", service=SERVICE, idempotent=()) as channel,
    ):
        stub: Any = scorer_pb2_grpc.ScorerServiceStub(channel)
        yield Running(prometheus, ports, channel, stub, log)


@pytest.fixture
async def prometheus() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus() as fake:
        yield fake


@pytest.fixture
async def service(prometheus: FakePrometheus) -> AsyncIterator[Running]:
    async with running(prometheus) as started:
        yield started


# The specification's examples.


@pytest.mark.parametrize(
    ("answer", "score", "half"), [(GOLDEN, 5234.56, 2617.28), (GOLDEN_WITH_LABELS, 5234.567, 2617.2835)]
)
async def test_the_specifications_answer_becomes_the_specifications_heat_score(
    prometheus: FakePrometheus, answer: bytes, score: float, half: float
) -> None:
    prometheus.answer = raw(answer)
    async with running(prometheus, clock=ManualClock(), heat_sources="gauge") as service:
        heat = await service.heat("pvc-abc123", HOUR)
    assert heat.volume_id == "pvc-abc123"
    assert heat.score == pytest.approx(score)
    assert heat.read_iops == pytest.approx(half)
    assert heat.write_iops == pytest.approx(half)
    assert not heat.HasField("latency_us")
    assert heat.sample_count == 1
    assert heat.calculated_at.ToJsonString() == "2026-02-02T10:30:00Z"
    assert heat.window.ToTimedelta() == timedelta(seconds=3600)
    assert heat.source_metric == "openebs_volume_iops"
    assert heat.quality == pb.HEAT_QUALITY_OK


async def test_the_specifications_request_is_sent_once_for_all_volumes(prometheus: FakePrometheus) -> None:
    prometheus.answer = raw(GOLDEN)
    async with running(prometheus, heat_sources="gauge") as service:
        await asyncio.gather(*(service.heat(volume, HOUR) for volume in ("pvc-abc123", "pvc-other", "pvc-abc123")))
    (request,) = prometheus.requests
    assert (request.method, request.path, dict(request.query)) == ("GET", "/api/v1/query", {"query": GAUGE_QUERY})
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Accept"] == "application/json"


async def test_a_query_for_one_volume_carries_the_specifications_matcher(prometheus: FakePrometheus) -> None:
    prometheus.answer = raw(GOLDEN)
    minute = Duration(seconds=60)
    async with running(prometheus, heat_sources="gauge", single_volume_queries=True) as service:
        heat = await service.heat("pvc-abc123", minute)
    assert heat.score == 5234.56
    assert 'avg_over_time(openebs_volume_iops{volume_id="pvc-abc123"}[60s])' in prometheus.queries
    assert "avg_over_time(openebs_volume_iops[60s])" not in prometheus.queries


async def test_asked_one_by_one_a_fresh_answer_for_all_is_used_where_there_is_one(prometheus: FakePrometheus) -> None:
    prometheus.answer = gauge_only(element("1", volume_id="a"), element("2", volume_id="b"))
    async with running(prometheus, single_volume_queries=True) as service:
        await service.stub.ListHottestVolumes(pb.ListHottestVolumesRequest(limit=1, window=WINDOW))
        assert [(await service.heat(name)).score for name in ("a", "b")] == [1.0, 2.0]
        request = pb.BatchGetHeatScoresRequest(volume_ids=["a", "b"], window=window(91))
        await service.stub.BatchGetHeatScores(request)
    assert not [query for query in prometheus.queries if 'volume_id="' in query]


async def test_an_empty_vector_is_a_score_of_zero_without_data(service: Running) -> None:
    service.prometheus.answer = raw(EMPTY)
    heat = await service.heat("pvc-abc123", HOUR)
    assert (heat.score, heat.read_iops, heat.write_iops, heat.sample_count) == (0.0, 0.0, 0.0, 0)
    assert (heat.quality, heat.source_metric) == (pb.HEAT_QUALITY_NO_DATA, "")
    assert heat.HasField("calculated_at")


async def test_a_time_out_without_an_earlier_answer_is_unavailable_unhealthy_and_a_warning() -> None:
    async def hang(_request: Any) -> Any:
        await asyncio.sleep(60)

    async with (
        FakePrometheus(hang) as prometheus,
        running(prometheus, prometheus_timeout_seconds=0.1) as service,
    ):
        heat = await service.heat("pvc-abc123", HOUR)
        assert (heat.score, heat.quality) == (0.0, pb.HEAT_QUALITY_UNAVAILABLE)
        assert not heat.HasField("calculated_at")
        await service.until_health("prometheus", NOT_SERVING)
        assert await service.health(SERVICE) == SERVING
        assert "couchestor_prometheus_up 0.0" in await service.metrics()
        (warning,) = service.logged("warning")
        assert "no complete answer within 100ms" in warning["error"]


# An outage, from end to end.


async def test_an_outage_means_stale_then_unavailable_and_heals_by_itself(prometheus: FakePrometheus) -> None:
    prometheus.answer = raw(GOLDEN)
    clock = ManualClock()
    async with running(prometheus, clock=clock) as service:
        fresh = await service.heat("pvc-abc123")
        await service.until_health("prometheus", SERVING)
        await prometheus.stop()
        await clock.advance(31)
        stale = await service.heat("pvc-abc123")
        assert (stale.quality, stale.score) == (pb.HEAT_QUALITY_STALE, 5234.56)
        assert stale.calculated_at == fresh.calculated_at
        await service.until_health("prometheus", NOT_SERVING)
        assert await service.health(SERVICE) == await service.health("") == SERVING
        await clock.advance(300)
        gone = await service.heat("pvc-abc123")
        assert (gone.quality, gone.score) == (pb.HEAT_QUALITY_UNAVAILABLE, 0.0)
        assert len(service.logged("warning")) == 1
        await prometheus.start()
        async with asyncio.timeout(10):
            while await service.health("prometheus") != SERVING:
                await clock.advance(1)
        assert (await service.heat("pvc-abc123")).quality == pb.HEAT_QUALITY_OK
        assert "couchestor_prometheus_up 1.0" in await service.metrics()


async def test_a_caller_gets_its_answer_before_its_own_deadline_though_prometheus_hangs() -> None:
    async def hang(_request: Any) -> Any:
        await asyncio.sleep(60)

    async with FakePrometheus(hang) as prometheus, running(prometheus) as service:
        request = pb.GetHeatScoreRequest(volume_id="pvc-abc123", window=HOUR)
        response = await service.stub.GetHeatScore(request, timeout=2)
    assert response.heat_score.quality == pb.HEAT_QUALITY_UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"<html>gateway</html>", status=502, content_type="text/html"),
        raw(b"<html>log in</html>", content_type="text/html"),
        raw(GOLDEN[:60]),
        json(vector({"metric": {"volume_id": "v"}, "value": [1, "much"]})),
        json({"status": "error", "errorType": "execution", "error": "too many samples"}, 422),
    ],
    ids=["502", "html", "cut off", "not a number", "an error"],
)
async def test_whatever_prometheus_answers_the_call_is_answered(service: Running, answer: Any) -> None:
    service.prometheus.answer = answer
    assert (await service.heat("pvc-abc123")).quality == pb.HEAT_QUALITY_UNAVAILABLE


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-5"])
async def test_a_sample_that_means_nothing_is_no_data(service: Running, value: str) -> None:
    service.prometheus.answer = gauge_only(element(value, volume_id="v"), element("1", volume_id="w"))
    assert (await service.heat("v")).quality == pb.HEAT_QUALITY_NO_DATA
    assert (await service.heat("w")).quality == pb.HEAT_QUALITY_OK


# What is asked of a running service.


async def test_a_volume_is_answered_under_the_name_it_was_asked_by(service: Running) -> None:
    service.prometheus.answer = gauge_only(element("9", volume_id=UUID))
    for name in (UUID, f"pvc-{UUID}"):
        heat = await service.heat(name)
        assert (heat.volume_id, heat.score) == (name, 9.0)


async def test_counters_give_reads_writes_and_latency(service: Running) -> None:
    sums = {"read": "300", "write": "100", "read_us": "60000", "write_us": "20000"}
    service.prometheus.answer = counters_only(*(element(value, pv_name="v", op=op) for op, value in sums.items()))
    heat = await service.heat("v")
    assert (heat.score, heat.read_iops, heat.write_iops, heat.latency_us) == (400.0, 300.0, 100.0, 200.0)
    assert heat.source_metric == "volume_num_read_ops+volume_num_write_ops"


async def test_without_a_window_it_is_an_hour(service: Running) -> None:
    heat = await service.heat("v", None)
    assert heat.window.ToTimedelta() == timedelta(hours=1)
    assert GAUGE_QUERY in service.prometheus.queries


async def test_a_batch_is_answered_in_the_order_asked_with_repetitions(service: Running) -> None:
    service.prometheus.answer = gauge_only(element("1", volume_id="a"), element("2", volume_id="b"))
    names = ["b", "nobody", "a", "b"]
    response = await service.stub.BatchGetHeatScores(pb.BatchGetHeatScoresRequest(volume_ids=names, window=WINDOW))
    assert [(heat.volume_id, heat.score) for heat in response.heat_scores] == [
        ("b", 2.0),
        ("nobody", 0.0),
        ("a", 1.0),
        ("b", 2.0),
    ]


async def test_the_stream_has_every_volume_once_in_chunks(service: Running) -> None:
    service.prometheus.answer = gauge_only(*(element(str(n), volume_id=f"v{n}") for n in range(2_345)))
    request = pb.StreamHeatScoresRequest(window=WINDOW)
    chunks = [chunk async for chunk in service.stub.StreamHeatScores(request)]
    assert [len(chunk.heat_scores) for chunk in chunks] == [1_000, 1_000, 345]
    assert {heat.volume_id for chunk in chunks for heat in chunk.heat_scores} == {f"v{n}" for n in range(2_345)}
    for chunk in chunks:
        assert chunk.snapshot_quality == pb.HEAT_QUALITY_OK
        assert chunk.HasField("calculated_at")


async def test_the_stream_leaves_out_what_is_colder_than_asked_for(service: Running) -> None:
    service.prometheus.answer = gauge_only(*(element(str(n), volume_id=f"v{n}") for n in range(10)))
    request = pb.StreamHeatScoresRequest(window=WINDOW, min_score=7.0)
    chunks = [chunk async for chunk in service.stub.StreamHeatScores(request)]
    assert sorted(heat.volume_id for chunk in chunks for heat in chunk.heat_scores) == ["v7", "v8", "v9"]


@pytest.mark.parametrize(
    ("answer", "quality"), [(raw(EMPTY), pb.HEAT_QUALITY_OK), (raw(b"no"), pb.HEAT_QUALITY_UNAVAILABLE)]
)
async def test_a_stream_of_nothing_still_says_why(service: Running, answer: Any, quality: int) -> None:
    service.prometheus.answer = answer
    request = pb.StreamHeatScoresRequest(window=WINDOW)
    (chunk,) = [chunk async for chunk in service.stub.StreamHeatScores(request)]
    assert (list(chunk.heat_scores), chunk.snapshot_quality) == ([], quality)
    assert chunk.HasField("calculated_at") == (quality == pb.HEAT_QUALITY_OK)


async def test_the_hottest_come_first(service: Running) -> None:
    service.prometheus.answer = gauge_only(*(element(str(n % 7), volume_id=f"v{n}") for n in range(20)))
    response = await service.stub.ListHottestVolumes(pb.ListHottestVolumesRequest(limit=3, window=WINDOW))
    assert [heat.volume_id for heat in response.heat_scores] == ["v13", "v6", "v12"]
    assert response.snapshot_quality == pb.HEAT_QUALITY_OK


get, batch, stream, top = "GetHeatScore", "BatchGetHeatScores", "StreamHeatScores", "ListHottestVolumes"


def window(seconds: int, nanos: int = 0) -> Duration:
    return Duration(seconds=seconds, nanos=nanos)


@pytest.mark.parametrize(
    ("method", "request_", "field_", "says"),
    [
        (get, pb.GetHeatScoreRequest(), "volume_id", "missing"),
        (get, pb.GetHeatScoreRequest(volume_id="v" * 254), "volume_id", "254 characters"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(0)), "window", "between 1m and 30d"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(59, 999_000_000)), "window", "59.999s is not"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(-3600)), "window", "-1h"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(315_360_000)), "window", "30d"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(2_592_000, 1_000_000)), "window", "30d"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(2**63 - 1)), "window", "30d"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(-(2**63), -999)), "window", "30d"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(3600, -1)), "window", "no duration"),
        (get, pb.GetHeatScoreRequest(volume_id="v", window=window(3600, 2_000_000_000)), "window", "no duration"),
        (batch, pb.BatchGetHeatScoresRequest(), "volume_ids", "0 ids"),
        (batch, pb.BatchGetHeatScoresRequest(volume_ids=["v"] * 1_001), "volume_ids", "1001 ids"),
        (batch, pb.BatchGetHeatScoresRequest(volume_ids=["v", ""]), "volume_ids[1]", "missing"),
        (batch, pb.BatchGetHeatScoresRequest(volume_ids=["v"], window=window(1)), "window", "1s"),
        (stream, pb.StreamHeatScoresRequest(window=window(0)), "window", "0s"),
        (stream, pb.StreamHeatScoresRequest(min_score=float("nan")), "min_score", "nan"),
        (stream, pb.StreamHeatScoresRequest(min_score=float("inf")), "min_score", "inf"),
        (stream, pb.StreamHeatScoresRequest(min_score=-1.0), "min_score", "-1"),
        (top, pb.ListHottestVolumesRequest(), "limit", "0 is not between 1 and 1000"),
        (top, pb.ListHottestVolumesRequest(limit=1_001), "limit", "1001"),
        (top, pb.ListHottestVolumesRequest(limit=-1), "limit", "-1"),
        (top, pb.ListHottestVolumesRequest(limit=1, window=window(0)), "window", "0s"),
    ],
)
async def test_a_bad_request_is_refused_by_the_name_of_its_field(
    service: Running, method: str, request_: Any, field_: str, says: str
) -> None:
    call: Any = getattr(service.stub, method)(request_, timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if method == stream else call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in (caught.value.details() or "")
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == [field_]
    assert field_ in describe(caught.value)


@pytest.mark.parametrize("seconds", [60, 2_592_000])
async def test_the_shortest_and_the_longest_window_are_allowed(service: Running, seconds: int) -> None:
    service.prometheus.answer = raw(GOLDEN)
    heat = await service.heat("pvc-abc123", window(seconds))
    assert heat.window == window(seconds)


async def test_a_demo_may_ask_for_windows_of_fractions_of_a_second(prometheus: FakePrometheus) -> None:
    async with running(prometheus, min_window_seconds=0.5) as service:
        heat = await service.heat("v", window(0, 500_000_000))
        assert heat.window == window(0, 500_000_000)
        assert "avg_over_time(openebs_volume_iops[500ms])" in prometheus.queries
        with pytest.raises(grpc.aio.AioRpcError, match="500ms"):
            await service.heat("v", window(0, 499_000_000))


async def test_a_window_is_taken_to_the_millisecond(service: Running) -> None:
    heat = await service.heat("v", window(90, 123_456_789))
    assert heat.window == window(90, 123_000_000)
    assert "avg_over_time(openebs_volume_iops[90123ms])" in service.prometheus.queries


async def test_it_is_ready_though_prometheus_is_not_there(prometheus: FakePrometheus) -> None:
    await prometheus.stop()
    async with running(prometheus) as service, aiohttp.ClientSession() as session:
        for path in ("healthz", "livez", "readyz"):
            async with session.get(f"http://127.0.0.1:{service.ports.health}/{path}") as answer:
                assert answer.status == 200


async def test_it_finds_out_about_prometheus_before_anyone_asks(prometheus: FakePrometheus) -> None:
    prometheus.answer = raw(GOLDEN)
    async with running(prometheus) as service:
        await service.until_health("prometheus", SERVING)
        assert [line["event"] for line in service.logged("info")].count("prometheus answers") == 1


async def test_it_describes_itself_by_reflection(service: Running) -> None:
    channel: Any = service.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([request]), timeout=10):
        assert SERVICE in {found.name for found in answer.list_services_response.service}


async def test_the_score_is_calculated_when_the_answer_was_decoded_not_when_it_was_given(
    prometheus: FakePrometheus,
) -> None:
    prometheus.answer = raw(GOLDEN)
    clock = ManualClock()
    async with running(prometheus, clock=clock) as service:
        await service.heat("pvc-abc123")
        await clock.advance(20)
        heat = await service.heat("pvc-abc123")
    assert heat.calculated_at.ToJsonString() == START.isoformat().replace("+00:00", "Z")


async def test_a_hundred_thousand_volumes_are_one_query_and_are_streamed_without_holding_others_up(
    prometheus: FakePrometheus,
) -> None:
    prometheus.answer = gauge_only(*(element(str(n), volume_id=f"pvc-{n}", pool="pool-1") for n in range(100_000)))
    async with running(prometheus) as service:
        request = pb.StreamHeatScoresRequest(window=WINDOW)
        streaming = service.stub.StreamHeatScores(request, timeout=60)
        names: set[str] = set()
        async for chunk in streaming:
            names.update(heat.volume_id for heat in chunk.heat_scores)
            assert await service.health(SERVICE) == SERVING  # answered in between
        assert len(names) == 100_000
        assert (await service.heat("pvc-99999")).score == 99_999.0
    assert sum("openebs_volume_iops[90s]" in query for query in prometheus.queries) == 1
