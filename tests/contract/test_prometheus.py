"""
What the scorer asks means the same to the real Prometheus and to its stand-in, and the scorer reads both alike.

One exporter is scraped by a real Prometheus; the stand-in gets, as its samples, what that Prometheus says of each
metric. Whatever is then asked must be answered alike, word for word where it is refused.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from sandbox.fronts.prometheus import PrometheusFront
from sandbox.fronts.promql import Series
from sandbox.real.prometheus import Prometheus, ScrapeTarget
from scorer.core.merge import Source, merge
from scorer.core.promql import COUNTERS, counters_query, gauge_query
from scorer.prometheus import HttpPrometheus
from tests.clock import ManualClock
from tests.real import require_real

pytestmark = pytest.mark.asyncio(loop_scope="module")

UUID = "0d0f5f4e-8a3b-4c2d-9e1f-000000000001"
MINUTE = timedelta(minutes=1)
EXPOSED = f"""\
# TYPE openebs_volume_iops gauge
openebs_volume_iops{{volume_id="pvc-abc123",pool="pool-sata-1"}} 5234.56
openebs_volume_iops{{volume_id="pvc-moved",pool="pool-sata-1"}} 40
openebs_volume_iops{{volume_id="pvc-moved",pool="pool-nvme-1"}} 7000
openebs_volume_iops{{volume_id="{UUID}",pool="pool-sata-1"}} 12
openebs_volume_iops{{volume_id="pvc-nan",pool="pool-sata-1"}} NaN
openebs_volume_iops{{volume_id="pvc-inf",pool="pool-sata-1"}} +Inf
openebs_volume_iops{{volume_id="pvc-huge",pool="pool-sata-1"}} 1e300
openebs_volume_iops{{volume_id="pvc-tiny",pool="pool-sata-1"}} 1e-7
openebs_volume_iops{{volume_id="a \\"quoted\\" one",pool="pool-sata-1"}} 3
"""


class Exporter:
    """Exposes constants, and counters that rise by fixed steps at every scrape."""

    def __init__(self) -> None:
        self.scrapes = 0

    async def metrics(self, _request: web.Request) -> web.Response:
        self.scrapes += 1
        steps = {"volume_num_read_ops": 30, "volume_num_write_ops": 10}
        steps |= {"volume_read_latency_us": 6_000, "volume_write_latency_us": 2_000}
        counters = "".join(
            f"# TYPE {metric} counter\n"
            f'{metric}{{pv_name="pvc-two",node="a"}} {step * self.scrapes}\n'
            f'{metric}{{pv_name="pvc-two",node="b"}} {2 * step * self.scrapes}\n'
            for metric, step in steps.items()
        )
        text = f"{EXPOSED}{counters}"
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real() -> AsyncIterator[Prometheus]:
    """A Prometheus that has scraped the exporter often enough for rates, and scrapes it no more."""
    require_real("prometheus")
    app = web.Application()
    app.router.add_get("/metrics", Exporter().metrics)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    target = ScrapeTarget("mayastor", f"{host}:{port}")
    async with Prometheus([target], scrape_interval=timedelta(milliseconds=200)) as prometheus:
        async with asyncio.timeout(30):
            enough = "count_over_time(volume_num_read_ops[1m]) > 5"
            while not await vector(prometheus.url, enough):  # noqa: ASYNC110 - another process fills it
                await asyncio.sleep(0.05)
        yield prometheus
    await runner.cleanup()


async def ask(url: str, query: str, **parameters: str) -> tuple[int, str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/api/v1/query", params={"query": query, **parameters}) as answer,
    ):
        return answer.status, answer.headers["Content-Type"], await answer.json()


async def vector(url: str, query: str, **parameters: str) -> list[Any]:
    status, _, body = await ask(url, query, **parameters)
    assert status == 200, body
    result: list[Any] = body["data"]["result"]
    return result


async def stand_in(real: Prometheus, at: str) -> PrometheusFront:
    """A stand-in that knows of each metric what the real one says of it, at one moment."""
    known: dict[str, list[Series]] = {}
    for metric in ("openebs_volume_iops", *COUNTERS.values()):
        function = "avg_over_time" if metric == "openebs_volume_iops" else "rate"
        known[metric] = [
            Series(found["metric"], float(found["value"][1]))
            for found in await vector(real.url, f"{function}({metric}[60s])", time=at)
        ]

    def samples(metric: str, window: timedelta, now: datetime) -> Sequence[Series]:
        return known.get(metric, ())

    return PrometheusFront(samples, clock=ManualClock())


async def moment(real: Prometheus) -> str:
    """A moment at which the real one has samples; fixed, so that both answer for the same."""
    (now,) = await vector(real.url, "vector(1)")
    return str(now["value"][0])


def comparable(result: list[Any]) -> list[Any]:
    """Without the order of the series, which neither promises, and with sums to the precision of a sum's order."""
    rows = [(sorted(found["metric"].items()), found["value"][0], f"{float(found['value'][1]):.9g}") for found in result]
    return sorted(rows)


QUERIES = [
    gauge_query(MINUTE),
    gauge_query(MINUTE, "pvc-abc123"),
    gauge_query(MINUTE, UUID),
    gauge_query(MINUTE, 'a "quoted" one'),
    gauge_query(MINUTE, "nobody"),
    counters_query(MINUTE),
    counters_query(MINUTE, "pvc-two"),
    counters_query(MINUTE, UUID),
    "vector(1)",
]


@pytest.mark.parametrize("query", QUERIES)
async def test_the_stand_in_answers_the_scorers_queries_as_prometheus_does(real: Prometheus, query: str) -> None:
    at = await moment(real)
    expected = await ask(real.url, query, time=at)
    async with await stand_in(real, at) as front:
        found = await ask(front.url, query, time=at)
    assert found[:2] == expected[:2] == (200, "application/json")
    assert comparable(found[2]["data"]["result"]) == comparable(expected[2]["data"]["result"])
    for body in (found[2], expected[2]):
        body["data"]["result"] = []
    assert found[2] == expected[2]


async def test_single_values_are_written_alike(real: Prometheus) -> None:
    """Averages of constants, so that nothing rounds: NaN, infinite, huge, tiny, whole and broken numbers."""
    at = await moment(real)
    expected = await vector(real.url, gauge_query(MINUTE), time=at)
    async with await stand_in(real, at) as front:
        found = await vector(front.url, gauge_query(MINUTE), time=at)

    def written(result: list[Any]) -> set[tuple[str, str, str]]:
        return {(row["metric"]["volume_id"], row["metric"]["pool"], row["value"][1]) for row in result}

    assert written(found) == written(expected)
    assert {"NaN", "+Inf", "1e+300", "1e-07", "7000", "5234.56"} <= {value for _, _, value in written(found)}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "nope(",
        "foo(bar[5m])",
        "rate(volume_num_read_ops)",
        "sum(",
        "rate(x[0s])",
        "rate(x[1m]) or",
        "rate(x{a=b}[1m])",
        'label_replace(rate(volume_num_read_ops[1m]), "", "x", "", "")',
        'label_replace(rate(volume_num_read_ops[1m]), "node", "x", "", "")',
    ],
)
async def test_the_stand_in_refuses_in_the_same_words(real: Prometheus, query: str) -> None:
    at = await moment(real)
    expected = await ask(real.url, query, time=at)
    async with await stand_in(real, at) as front:
        assert await ask(front.url, query, time=at) == expected
    assert expected[0] in {400, 422}


async def test_the_scorer_reads_the_real_one(real: Prometheus) -> None:
    async with HttpPrometheus(real.url, timeout_seconds=10.0) as prometheus:
        gauge = await prometheus.query(gauge_query(MINUTE))
        counters = await prometheus.query(counters_query(MINUTE))
        one = await prometheus.query(gauge_query(MINUTE, f"pvc-{UUID}"))
    heats = merge([(Source.GAUGE, gauge), (Source.COUNTERS, counters)])
    scores = {name: heat.score for name, heat in heats}
    moved, two = heats.get("pvc-moved"), heats.get("pvc-two")
    assert moved is not None
    assert two is not None
    assert (moved.score, moved.sample_count) == (7000.0, 2)
    assert scores["pvc-abc123"] == pytest.approx(5234.56)
    assert scores[f"pvc-{UUID}"] == 12.0
    assert "pvc-nan" not in scores
    assert "pvc-inf" not in scores
    assert two.read_iops == pytest.approx(3 * two.write_iops)
    assert two.score == two.read_iops + two.write_iops > 0
    assert two.latency_us == pytest.approx(200.0)
    assert math.isclose(one[0].value, 12.0)
