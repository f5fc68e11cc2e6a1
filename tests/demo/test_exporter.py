"""The exporter, and the samples reckoned in its place: they must agree, since the same scenario runs on either."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.clock import SystemClock
from sandbox.fronts.exporter import CONTENT_TYPE, Exporter, exposition
from sandbox.fronts.samples import SimulatedSamples
from sandbox.real.prometheus import Prometheus, ScrapeTarget
from sandbox.world.applications import GAUGE, READ_LATENCY, READS, WRITES, Applications, Whereabouts
from sandbox.world.workloads import Measured, Workload, changing, steady
from tests.real import require_real

WORKLOADS = (
    steady("exact", 500),
    Workload("counted", ((0.0, 2000),), Measured.COUNTERS, read_share=0.75, read_latency_us=100),
    changing("dying", 8000, 10, at=3.0),
    steady("silent", 77, Measured.NOTHING),
)


class Hands:
    """A clock that somebody moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def applications(clock: Hands | SystemClock) -> Applications:
    return Applications(WORKLOADS, clock, lambda name: Whereabouts(pool=f"pool-of-{name}", node="n1"))


def parsed(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("volume_id") or sample.labels["pv_name"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_gauges_and_counters_are_told_and_a_volume_without_metrics_is_not() -> None:
    text = exposition(applications(Hands()).series(), 0.0)
    found = parsed(text)
    assert found[GAUGE, "exact"] == 500
    assert {name for _, name in found} == {"exact", "counted", "dying"}
    assert f'{GAUGE}{{volume_id="exact",pool="pool-of-exact"}} 500.0\n' in text
    assert '{pv_name="counted",node="n1"}' in text
    assert f"# TYPE {GAUGE} gauge" in text
    # Prometheus' text format leaves the suffix _total to OpenMetrics: the names are Mayastor's to the letter.
    assert f"# TYPE {READS} counter" in text


def test_the_story_begins_when_it_is_told_to() -> None:
    clock = Hands()
    apps = applications(clock)
    clock.seconds = 100.0
    assert apps.iops("dying") == 8000
    apps.begin()
    clock.seconds = 102.9
    assert apps.iops("dying") == 8000
    clock.seconds = 103.0
    assert apps.iops("dying") == 10


def test_a_change_by_hand_takes_effect_at_once() -> None:
    clock = Hands()
    apps = applications(clock)
    clock.seconds = 50.0
    apps.change("silent", 9000, Measured.GAUGE)
    assert parsed(exposition(apps.series(), apps.now))[GAUGE, "silent"] == 9000


def test_reckoned_samples_are_averages_and_rates_over_the_window() -> None:
    clock = Hands()
    apps = applications(clock)
    clock.seconds = 60.0
    apps.begin()
    clock.seconds = 65.0
    samples = SimulatedSamples(apps)
    window = timedelta(seconds=4)
    gauges = {item.labels["volume_id"]: item.value for item in samples(GAUGE, window, clock.now())}
    assert gauges["exact"] == 500
    # Two of the last four seconds at 8,000, two at 10.
    assert gauges["dying"] == pytest.approx(4005, rel=0.2)
    (reads,) = samples(READS, window, clock.now())
    (writes,) = samples(WRITES, window, clock.now())
    (latency,) = samples(READ_LATENCY, window, clock.now())
    assert reads.value == pytest.approx(1500)
    assert writes.value == pytest.approx(500)
    assert latency.value / reads.value == pytest.approx(100)
    assert samples("up", window, clock.now()) == []


@pytest.fixture
async def exporter() -> AsyncIterator[Exporter]:
    async with Exporter(applications(SystemClock())) as running:
        yield running


async def test_it_answers_in_prometheus_text_format(exporter: Exporter) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://{exporter.address}/metrics") as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        assert (GAUGE, "exact") in parsed(await answer.text())


async def test_a_real_prometheus_measures_what_the_samples_were_reckoned_to_be(exporter: Exporter) -> None:
    require_real("prometheus")
    async with contextlib.AsyncExitStack() as stack:
        target = ScrapeTarget("mayastor", exporter.address)
        server = await stack.enter_async_context(Prometheus([target], scrape_interval=timedelta(milliseconds=100)))
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def value(query: str) -> float | None:
            async with session.get(f"{server.url}/api/v1/query", params={"query": query}) as answer:
                found = (await answer.json())["data"]["result"]
                return float(found[0]["value"][1]) if found else None

        clock = SystemClock()
        deadline = clock.monotonic() + 20
        # A window that is not full yet shows less than there is.
        while (rate := await value(f'rate({READS}{{pv_name="counted"}}[2s])')) is None or rate < 1400:
            assert clock.monotonic() < deadline, f"the rate is {rate} after 20 s of scraping"
            await clock.sleep(0.1)
        assert rate == pytest.approx(1500, rel=0.1)
        assert await value(f'avg_over_time({GAUGE}{{volume_id="exact"}}[2s])') == 500.0
