"""One question for all who ask: freshness, single flight, staleness, back-off, and bounds."""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from common.logs import make_logger
from common.metrics import new_registry
from scorer.availability import Availability
from scorer.core.heat import HeatScore, Quality
from scorer.core.merge import Sample, Source
from scorer.metrics import ScorerMetrics
from scorer.prometheus import Failure, PrometheusError
from scorer.snapshots import IDLE_SECONDS, Question, Reading, Snapshots, TooManyQuestionsError
from tests.clock import START, ManualClock

HOUR = timedelta(hours=1)
ALL = Question(HOUR)
TTL, GRACE = 30.0, 300.0
DOWN = PrometheusError(Failure.UNREACHABLE, "http://prometheus: connection refused")


class ScriptedPrometheus:
    """Answers each query at once with `samples`, or fails with `error`; with `hold`, only when released."""

    def __init__(self) -> None:
        self.measure: Callable[[], Sequence[Sample]] = lambda: self.samples
        """What an answer holds, at the moment it is given."""
        self.samples: Sequence[Sample] = [Sample(value=100.0, volume_id="v")]
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.hold = False
        self.released = asyncio.Event()
        self.cancelled = 0

    async def query(self, promql: str) -> Sequence[Sample]:
        self.asked.append(promql)
        if self.hold:
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        return self.measure()


class Bench:
    """A cache with everything around it."""

    def __init__(self) -> None:
        self.prometheus = ScriptedPrometheus()
        self.clock = ManualClock()
        self.stream = io.StringIO()
        self.log = make_logger("scorer", level="INFO", json=True, stream=self.stream, clock=self.clock)
        self.ups: list[bool] = []
        self.availability = Availability(self.log, self.ups.append)
        self.registry: CollectorRegistry = new_registry()
        self.metrics = ScorerMetrics(self.registry, [Source.GAUGE], self.clock)
        self.stack = AsyncExitStack()
        self.snapshots = self.make()

    def make(self, sources: Sequence[Source] = (Source.GAUGE,), **options: Any) -> Snapshots:
        return Snapshots(
            self.prometheus,
            sources,
            clock=self.clock,
            rng=random.Random(7),
            log=self.log,
            availability=self.availability,
            metrics=self.metrics,
            **{"ttl_seconds": TTL, "grace_seconds": GRACE, **options},
        )

    async def score(self, volume: str = "v", question: Question = ALL) -> HeatScore:
        return (await self.snapshots.read(question)).score(volume)

    async def quality(self, question: Question = ALL) -> Quality:
        return (await self.snapshots.read(question)).quality

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.stream.getvalue().splitlines()]

    def events(self, level: str) -> list[str]:
        return [line["event"] for line in self.logged if line["level"] == level]


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.snapshots:
        yield made


async def test_an_answer_is_used_for_half_a_minute_and_then_asked_for_anew(bench: Bench) -> None:
    first = await bench.score()
    await bench.clock.advance(TTL - 0.001)
    assert await bench.score() == first
    assert len(bench.prometheus.asked) == 1
    bench.prometheus.samples = [Sample(value=7.0, volume_id="v")]
    await bench.clock.advance(0.001)
    second = await bench.score()
    assert len(bench.prometheus.asked) == 2
    assert (first.heat.score, first.calculated_at) == (100.0, START)
    assert (second.heat.score, second.calculated_at) == (7.0, START + timedelta(seconds=TTL))


async def test_any_number_of_callers_at_once_ask_once(bench: Bench) -> None:
    bench.prometheus.hold = True
    callers = [asyncio.create_task(bench.score(volume)) for volume in ("v", "w", "v")]
    await bench.clock.advance(0)
    bench.prometheus.released.set()
    scores = await asyncio.gather(*callers)
    assert [score.quality for score in scores] == [Quality.OK, Quality.NO_DATA, Quality.OK]
    assert len(bench.prometheus.asked) == 1


async def test_a_caller_who_gives_up_takes_nothing_from_the_others(bench: Bench) -> None:
    bench.prometheus.hold = True
    first, second = asyncio.create_task(bench.score()), asyncio.create_task(bench.score())
    await bench.clock.advance(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    bench.prometheus.released.set()
    assert (await second).quality is Quality.OK
    assert (len(bench.prometheus.asked), bench.prometheus.cancelled) == (1, 0)


async def test_an_answer_that_all_callers_gave_up_on_serves_the_next(bench: Bench) -> None:
    bench.prometheus.hold = True
    caller = asyncio.create_task(bench.score())
    await bench.clock.advance(0)
    caller.cancel()
    bench.prometheus.released.set()
    await bench.clock.advance(0)
    assert (await bench.score()).quality is Quality.OK
    assert len(bench.prometheus.asked) == 1


async def test_different_windows_are_different_questions(bench: Bench) -> None:
    await bench.score(question=Question(HOUR))
    await bench.score(question=Question(timedelta(minutes=1)))
    assert bench.prometheus.asked == [
        "avg_over_time(openebs_volume_iops[3600s])",
        "avg_over_time(openebs_volume_iops[60s])",
    ]


async def test_without_any_answer_heat_is_unavailable_and_zero(bench: Bench) -> None:
    bench.prometheus.error = DOWN
    score = await bench.score()
    assert (score.quality, score.heat.score, score.heat.source_metric) == (Quality.UNAVAILABLE, 0.0, "")
    assert score.calculated_at is None


async def test_after_an_answer_failures_mean_stale_for_the_grace_period_and_then_unavailable(bench: Bench) -> None:
    await bench.score()
    bench.prometheus.error = DOWN
    await bench.clock.advance(TTL)
    stale = await bench.score()
    assert (stale.quality, stale.heat.score, stale.calculated_at) == (Quality.STALE, 100.0, START)
    await bench.clock.advance(GRACE - 0.001)
    assert await bench.score() == stale
    await bench.clock.advance(0.001)
    gone = await bench.score()
    assert (gone.quality, gone.heat.score, gone.calculated_at) == (Quality.UNAVAILABLE, 0.0, START)


async def test_a_volume_that_a_stale_answer_does_not_know_is_stale_not_without_data(bench: Bench) -> None:
    assert (await bench.score("unknown")).quality is Quality.NO_DATA
    bench.prometheus.error = DOWN
    await bench.clock.advance(TTL)
    unknown = await bench.score("unknown")
    assert (unknown.quality, unknown.heat.score) == (Quality.STALE, 0.0)


async def test_an_answer_older_than_its_window_and_the_grace_period_is_not_repeated(bench: Bench) -> None:
    minute = Question(timedelta(minutes=1))
    await bench.score(question=minute)
    await bench.clock.advance(60 + TTL + GRACE)
    bench.prometheus.error = DOWN
    assert await bench.quality(minute) is Quality.UNAVAILABLE


async def test_an_hour_of_nobody_asking_does_not_make_an_answer_stale(bench: Bench) -> None:
    await bench.score()
    await bench.clock.advance(3_600)
    assert await bench.quality() is Quality.OK


async def test_a_dead_prometheus_is_not_asked_at_every_call(bench: Bench) -> None:
    bench.prometheus.error = DOWN
    for _ in range(1_000):
        await bench.score()
    assert len(bench.prometheus.asked) == 1


async def test_a_dead_prometheus_is_asked_in_the_background_ever_more_slowly(bench: Bench) -> None:
    bench.prometheus.error = DOWN
    await bench.score()
    times = []
    for _ in range(600):
        before = len(bench.prometheus.asked)
        await bench.clock.advance(0.5)
        if len(bench.prometheus.asked) > before:
            times.append(bench.clock.monotonic())
    waits = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert waits[0] <= 1.0
    assert max(waits) <= TTL + 0.5
    assert 10 <= len(times) <= 30
    assert sum(waits[:3]) < 10 < waits[-1]


async def test_once_prometheus_is_back_heat_is_fresh_without_anyone_having_waited(bench: Bench) -> None:
    await bench.score()
    bench.prometheus.error = DOWN
    await bench.clock.advance(TTL)
    assert await bench.quality() is Quality.STALE
    bench.prometheus.error = None
    await bench.clock.advance(TTL)
    bench.prometheus.hold = True  # a question asked now would wait for ever
    assert await bench.quality() is Quality.OK


async def test_while_prometheus_hangs_only_the_first_caller_waits(bench: Bench) -> None:
    await bench.score()
    await bench.clock.advance(TTL)
    bench.prometheus.error = DOWN
    await bench.score()
    bench.prometheus.hold = True
    await bench.clock.advance(TTL)  # the next question hangs in the background
    assert len(bench.prometheus.asked) == 3
    assert await bench.quality() is Quality.STALE


async def test_a_caller_in_a_hurry_gets_what_there_is(bench: Bench) -> None:
    bench.prometheus.hold = True
    assert (await bench.snapshots.read(ALL, patience_seconds=0.01)).quality is Quality.UNAVAILABLE
    bench.prometheus.released.set()
    assert await bench.quality() is Quality.OK
    bench.prometheus.released.clear()
    await bench.clock.advance(TTL + 1)
    hurried = await bench.snapshots.read(ALL, patience_seconds=0.01)
    assert (hurried.quality, hurried.score("v").heat.score) == (Quality.STALE, 100.0)
    assert len(bench.prometheus.asked) == 2


async def test_a_question_nobody_repeats_is_asked_no_more(bench: Bench) -> None:
    bench.prometheus.error = DOWN
    await bench.score()
    await bench.clock.advance(IDLE_SECONDS + TTL)
    asked = len(bench.prometheus.asked)
    await bench.clock.advance(10 * IDLE_SECONDS)
    assert len(bench.prometheus.asked) == asked
    assert bench.clock.sleepers == 0
    bench.prometheus.error = None
    assert await bench.quality() is Quality.OK


async def test_one_failing_source_fails_the_whole_lest_its_volumes_look_unused(bench: Bench) -> None:
    class GaugeOnly(ScriptedPrometheus):
        async def query(self, promql: str) -> Sequence[Sample]:
            if "volume_num_read_ops" in promql:
                raise DOWN
            return await super().query(promql)

    bench.prometheus = GaugeOnly()
    async with bench.make([Source.GAUGE, Source.COUNTERS]) as both:
        assert (await both.read(ALL)).quality is Quality.UNAVAILABLE


async def test_an_answer_in_which_nothing_names_a_volume_is_a_failure(bench: Bench) -> None:
    bench.prometheus.samples = [Sample(value=1.0)]
    assert await bench.quality() is Quality.UNAVAILABLE
    (warning,) = [line for line in bench.logged if line["level"] == "warning"]
    assert "not one sample has a label volume_id or pv_name" in warning["error"]


async def test_sixteen_windows_are_kept_and_the_least_recently_used_goes(bench: Bench) -> None:
    windows = [Question(timedelta(minutes=minutes)) for minutes in range(1, 17)]
    for window in windows:
        await bench.score(question=window)
    await bench.score(question=windows[0])  # used again: the second is now the oldest
    await bench.score(question=Question(HOUR))
    kept = {question for question, _, _ in bench.snapshots.ages()}
    assert kept == {*windows, Question(HOUR)} - {windows[1]}


async def test_windows_that_fail_are_bounded_too_and_forgotten_ones_asked_no_more(bench: Bench) -> None:
    bench.prometheus.error = DOWN
    for minutes in range(1, 101):
        await bench.score(question=Question(timedelta(minutes=minutes)))
    await bench.clock.advance(0)
    assert bench.clock.sleepers == 16
    bench.prometheus.error = None
    await bench.clock.advance(2 * TTL)
    assert bench.availability.up is True


async def test_more_questions_at_once_than_are_kept_are_refused(bench: Bench) -> None:
    bench.prometheus.hold = True
    callers = [asyncio.create_task(bench.quality(Question(timedelta(minutes=minutes)))) for minutes in range(1, 17)]
    await bench.clock.advance(0)
    with pytest.raises(TooManyQuestionsError, match="16 other questions"):
        await bench.score(question=Question(HOUR))
    bench.prometheus.released.set()
    assert set(await asyncio.gather(*callers)) == {Quality.OK}
    assert await bench.quality(Question(HOUR)) is Quality.OK


async def test_a_change_is_told_once(bench: Bench) -> None:
    assert bench.availability.up is None
    await bench.score()
    for error in (DOWN, None, DOWN):
        bench.prometheus.error = error
        for _ in range(5):
            await bench.clock.advance(TTL)
            await bench.score()
    assert bench.ups == [True, False, True, False]
    assert bench.events("warning") == ["prometheus does not answer"] * 2
    assert bench.events("info") == ["prometheus answers", "prometheus answers again"]


async def test_a_new_kind_of_failure_is_worth_a_new_line(bench: Bench) -> None:
    bench.prometheus.error = DOWN
    await bench.score()
    bench.prometheus.error = PrometheusError(Failure.REFUSED, "http://prometheus: answered 401: an empty body")
    await bench.clock.advance(10 * TTL)
    assert [line["failure"] for line in bench.logged if line["level"] == "warning"] == ["unreachable", "refused"]
    assert bench.ups == [False]


async def test_prometheus_is_down_while_any_window_fails(bench: Bench) -> None:
    month = Question(timedelta(days=30))
    bench.prometheus.error = PrometheusError(Failure.TIMEOUT, "http://prometheus: no complete answer within 30 s")
    await bench.score(question=month)
    bench.prometheus.error = None
    await bench.score(question=Question(HOUR))
    assert bench.ups == [False]
    await bench.clock.advance(TTL)
    assert bench.ups == [False, True]


async def test_a_window_that_failed_and_that_nobody_asks_for_any_more_says_nothing_of_prometheus(bench: Bench) -> None:
    bench.prometheus.error = DOWN
    await bench.score(question=Question(timedelta(days=30)))
    await bench.clock.advance(IDLE_SECONDS + TTL)
    assert bench.clock.sleepers == 0
    bench.prometheus.error = None
    await bench.score()
    assert bench.ups == [False, True]


async def test_an_error_nobody_foresaw_reaches_the_caller_and_the_log_and_the_next_call_asks_again(
    bench: Bench,
) -> None:
    bench.prometheus.error = KeyError("surprise")
    with pytest.raises(KeyError):
        await bench.score()
    await bench.clock.advance(0)
    assert bench.events("error") == ["a question to prometheus crashed"]
    bench.prometheus.error = None
    assert await bench.quality() is Quality.OK


async def test_the_end_of_the_cache_is_the_end_of_its_questions(bench: Bench) -> None:
    bench.prometheus.hold = True
    snapshots = bench.make()
    async with snapshots:
        caller = asyncio.create_task(snapshots.read(ALL))
        await bench.clock.advance(0)
    assert bench.prometheus.cancelled == 1
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_without_a_cache_time_every_call_asks_and_its_answer_is_good(bench: Bench) -> None:
    async with bench.make(ttl_seconds=0.0) as uncached:
        for _ in range(3):
            assert (await uncached.read(ALL)).quality is Quality.OK
    assert len(bench.prometheus.asked) == 3


async def test_a_question_about_one_volume_carries_the_matcher(bench: Bench) -> None:
    assert await bench.quality(Question(HOUR, "pvc-abc123")) is Quality.OK
    assert bench.prometheus.asked == ['avg_over_time(openebs_volume_iops{volume_id="pvc-abc123"}[3600s])']


def test_an_unavailable_reading_has_no_scores() -> None:
    from scorer.core.merge import Heats

    reading = Reading(ALL, Quality.UNAVAILABLE, Heats({}, {}), None)
    assert (list(reading), reading.hottest(5)) == ([], [])


async def test_queries_are_counted_by_outcome_and_snapshots_shown_by_window(bench: Bench) -> None:
    value: Callable[..., float | None] = bench.registry.get_sample_value
    bench.metrics.watch(lambda: ((question.window, age, count) for question, age, count in bench.snapshots.ages()))
    await bench.score()
    await bench.clock.advance(TTL)
    bench.prometheus.error = DOWN
    await bench.score()
    total = "couchestor_scorer_queries_total"
    assert value(total, {"source": "gauge", "outcome": "ok"}) == 1
    assert value(total, {"source": "gauge", "outcome": "unreachable"}) == 1
    assert value(total, {"source": "gauge", "outcome": "timeout"}) == 0
    assert value("couchestor_scorer_query_seconds_count", {"source": "gauge"}) == 2
    assert value("couchestor_scorer_snapshot_age_seconds", {"window": "1h"}) == TTL
    assert value("couchestor_scorer_snapshot_volumes", {"window": "1h"}) == 1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(min_value=0.0, max_value=200.0)),
        st.tuples(st.just("prometheus"), st.sampled_from(["answers", "fails"])),
        st.tuples(st.just("ask"), st.sampled_from([60, 3_600])),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_in_whatever_order_a_score_never_claims_more_than_is_known(
    story: list[tuple[str, Any]],
) -> None:
    async def tell() -> None:
        bench = Bench()
        bench.prometheus.measure = lambda: [Sample(value=bench.clock.monotonic(), volume_id="v")]  # tells when it was
        async with bench.snapshots:
            for what, how in story:
                if what == "pass":
                    await bench.clock.advance(how)
                elif what == "prometheus":
                    bench.prometheus.error = None if how == "answers" else DOWN
                else:
                    await look(bench, Question(timedelta(seconds=how)))
            assert len(bench.prometheus.asked) <= 2 * (bench.clock.monotonic() / (TTL / 2) + 8 + len(story))

    async def look(bench: Bench, question: Question) -> None:
        known, unknown = await bench.score("v", question), await bench.score("w", question)
        age = bench.clock.monotonic() - known.heat.score
        match known.quality:
            case Quality.OK:
                assert age < TTL
                assert unknown.quality is Quality.NO_DATA
            case Quality.STALE:
                assert bench.prometheus.error is DOWN or age >= TTL
                assert age < question.window.total_seconds() + TTL + GRACE
                assert unknown.quality is Quality.STALE
            case Quality.UNAVAILABLE:
                assert known.heat.score == 0.0
                assert unknown.quality is Quality.UNAVAILABLE
            case Quality.NO_DATA:
                raise AssertionError("the volume has a sample in every answer")

    asyncio.run(tell())
