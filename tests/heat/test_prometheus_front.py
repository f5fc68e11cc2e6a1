"""The stand-in for Prometheus evaluates what the scorer asks, refuses the rest in Prometheus's words, and can fail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sandbox.fronts.prometheus import Fault, PrometheusFront
from sandbox.fronts.promql import QueryError, Series, evaluate
from scorer.core.heat import Heat
from scorer.core.merge import Source, merge
from scorer.core.promql import counters_query, gauge_query
from scorer.prometheus import Failure, HttpPrometheus, PrometheusError
from tests.clock import START, ManualClock

HOUR = timedelta(hours=1)
MEASURED = {
    "openebs_volume_iops": [
        Series({"volume_id": "pvc-abc123", "pool": "pool-sata-1"}, 5234.56),
        Series({"volume_id": "pvc-idle", "pool": "pool-sata-1"}, 0.0),
    ],
    "volume_num_read_ops": [
        Series({"pv_name": "pvc-1", "node": "a"}, 300.0),
        Series({"pv_name": "pvc-1", "node": "b"}, 60.0),
    ],
    "volume_num_write_ops": [Series({"pv_name": "pvc-1", "node": "a"}, 40.0)],
    "volume_read_latency_us": [Series({"pv_name": "pvc-1", "node": "a"}, 60_000.0)],
    "volume_write_latency_us": [Series({"pv_name": "pvc-1", "node": "a"}, 20_000.0)],
}


def measured(metric: str, window: timedelta, now: datetime) -> Sequence[Series]:
    return MEASURED.get(metric, ())


@pytest_asyncio.fixture
async def front() -> AsyncIterator[PrometheusFront]:
    async with PrometheusFront(measured, clock=ManualClock()) as running:
        yield running


async def get(front: PrometheusFront, path: str = "/api/v1/query", **parameters: str) -> tuple[int, str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(front.url + path, params=parameters, timeout=aiohttp.ClientTimeout(total=5)) as answer,
    ):
        kind = answer.headers["Content-Type"]
        return answer.status, kind, await (answer.json() if kind == "application/json" else answer.text())


async def test_the_scorer_reads_its_gauge_and_its_counters(front: PrometheusFront) -> None:
    async with HttpPrometheus(front.url, timeout_seconds=5.0) as prometheus:
        gauge = await prometheus.query(gauge_query(HOUR))
        counters = await prometheus.query(counters_query(HOUR))
        single = await prometheus.query(gauge_query(HOUR, "pvc-idle"))
    heats = merge([(Source.GAUGE, gauge), (Source.COUNTERS, counters)])
    assert dict(heats) == {
        "pvc-abc123": Heat(5234.56, 2617.28, 2617.28, None, 1, "openebs_volume_iops"),
        "pvc-idle": Heat(0.0, 0.0, 0.0, None, 1, "openebs_volume_iops"),
        "pvc-1": Heat(400.0, 360.0, 40.0, 200.0, 2, "volume_num_read_ops+volume_num_write_ops"),
    }
    assert [sample.volume_id for sample in single] == ["pvc-idle"]


async def test_its_answer_has_the_shape_of_prometheus(front: PrometheusFront) -> None:
    status, kind, body = await get(front, query=gauge_query(HOUR, "pvc-abc123"))
    assert (status, kind) == (200, "application/json")
    assert body == {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [
                {
                    "metric": {"pool": "pool-sata-1", "volume_id": "pvc-abc123"},
                    "value": [int(START.timestamp()), "5234.56"],
                }
            ],
        },
    }


async def test_it_evaluates_at_the_time_it_is_asked_for() -> None:
    asked: list[datetime] = []

    def note(metric: str, window: timedelta, now: datetime) -> Sequence[Series]:
        asked.append(now)
        return ()

    async with PrometheusFront(note, clock=ManualClock()) as front:
        await get(front, query=gauge_query(HOUR))
        await get(front, query=gauge_query(HOUR), time=str(START.timestamp() - 60))
        await get(front, query=gauge_query(HOUR), time="2026-02-02T10:28:00Z")
    assert asked == [START, START - timedelta(minutes=1), START - timedelta(minutes=2)]


@pytest.mark.parametrize(
    ("text", "window"),
    [("3600s", HOUR), ("1h", HOUR), ("1500ms", timedelta(seconds=1.5)), ("1h30m", timedelta(minutes=90))],
)
def test_windows_are_read_as_prometheus_writes_them(text: str, window: timedelta) -> None:
    asked: list[timedelta] = []

    def note(metric: str, window: timedelta, now: datetime) -> Sequence[Series]:
        asked.append(window)
        return ()

    evaluate(f"rate(x[{text}])", note, START)
    assert asked == [window]


@pytest.mark.parametrize(
    ("matcher", "volumes"),
    [
        ('{volume_id="pvc-idle"}', ["pvc-idle"]),
        ('{volume_id!="pvc-idle"}', ["pvc-abc123"]),
        ('{volume_id=~"pvc-(idle|other)"}', ["pvc-idle"]),
        ('{volume_id!~"pvc-.*"}', []),
        ('{volume_id=~"idle"}', []),  # a regex is anchored at both ends
        ('{pool="pool-sata-1", volume_id="pvc-idle",}', ["pvc-idle"]),
        ('{absent=""}', ["pvc-abc123", "pvc-idle"]),
    ],
)
def test_matchers_select_as_in_prometheus(matcher: str, volumes: list[str]) -> None:
    found = evaluate(f"avg_over_time(openebs_volume_iops{matcher}[1h])", measured, START)
    assert [series.labels["volume_id"] for series in found] == volumes


REFUSED = {
    "": "no expression found in input",
    "nope(": "unclosed left parenthesis",
    "foo(bar[5m])": 'unknown function with name "foo"',
    "rate(volume_num_read_ops)": 'expected type range vector in call to function "rate", got instant vector',
    "sum(": "unclosed left parenthesis",
    "rate(x[0s])": "duration must be greater than 0",
    "rate(x[5q])": "bad duration syntax",
    'rate(x{a=~"("}[1m])': "error parsing regexp",
    "rate(x[1m]) or": "unexpected end of input",
    "rate(x[1m]) rate(x[1m])": "unexpected identifier",
    "rate(x{a=b}[1m])": 'unexpected identifier "b" in label matching, expected string',
    "rate(x[1m]) § 2": "unexpected character",
    "openebs_volume_iops": "no instant vectors",
}


@pytest.mark.parametrize("query", REFUSED)
async def test_what_it_cannot_read_it_refuses_as_prometheus_does(front: PrometheusFront, query: str) -> None:
    status, kind, body = await get(front, query=query)
    assert (status, kind, body["status"], body["errorType"]) == (400, "application/json", "error", "bad_data")
    assert body["error"].startswith('invalid parameter "query": ')
    assert REFUSED[query] in body["error"]


async def test_what_it_cannot_evaluate_is_an_execution_error(front: PrometheusFront) -> None:
    status, _, body = await get(front, query='label_replace(rate(volume_num_read_ops[1m]), "node", "x", "", "")')
    assert (status, body["errorType"]) == (422, "execution")
    assert body["error"] == "vector cannot contain metrics with the same labelset"


async def test_a_time_it_cannot_read_is_refused(front: PrometheusFront) -> None:
    status, _, body = await get(front, query="rate(x[1m])", time="soon")
    assert (status, body["errorType"]) == (400, "bad_data")
    assert 'cannot parse "soon" to a valid timestamp' in body["error"]


async def test_other_paths_are_as_in_prometheus(front: PrometheusFront) -> None:
    assert (await get(front, "/-/ready"))[2] == "Prometheus Server is Ready.\n"
    assert (await get(front, "/nope"))[::2] == (404, "404 page not found\n")


@pytest.mark.parametrize(
    ("fault", "failure"),
    [(Fault.ERROR, Failure.REFUSED), (Fault.HTML, Failure.REFUSED), (Fault.HANG, Failure.TIMEOUT)],
)
async def test_it_fails_as_told_and_recovers(front: PrometheusFront, fault: Fault, failure: Failure) -> None:
    async with HttpPrometheus(front.url, timeout_seconds=0.3) as prometheus:
        front.fault = fault
        with pytest.raises(PrometheusError) as caught:
            await prometheus.query(gauge_query(HOUR))
        assert caught.value.failure is failure
        front.fault = None
        assert len(await prometheus.query(gauge_query(HOUR))) == 2


async def test_a_query_that_hangs_is_answered_once_the_fault_is_over(front: PrometheusFront) -> None:
    front.fault = Fault.HANG
    async with HttpPrometheus(front.url, timeout_seconds=30.0) as prometheus:
        query = asyncio.create_task(prometheus.query(gauge_query(HOUR)))
        _, pending = await asyncio.wait({query}, timeout=0.05)
        assert pending == {query}
        front.fault = None
        assert len(await query) == 2


async def test_it_comes_back_where_it_was(front: PrometheusFront) -> None:
    url = front.url
    async with HttpPrometheus(url, timeout_seconds=5.0) as prometheus:
        await front.stop()
        with pytest.raises(PrometheusError) as caught:
            await prometheus.query(gauge_query(HOUR))
        assert caught.value.failure is Failure.UNREACHABLE
        await front.start()
        assert front.url == url
        assert len(await prometheus.query(gauge_query(HOUR))) == 2


def test_an_error_of_the_query_is_no_answer() -> None:
    with pytest.raises(QueryError):
        evaluate("", measured, START)
