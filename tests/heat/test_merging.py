"""How samples become one score a volume: series, sources, spellings, and samples that mean nothing."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.core.heat import Heat
from scorer.core.merge import Heats, Sample, Source, UnnamedSamplesError, merge
from scorer.core.promql import Counter

UUID = "0d0f5f4e-8a3b-4c2d-9e1f-000000000001"
GAUGE = "openebs_volume_iops"
COUNTERS = "volume_num_read_ops+volume_num_write_ops"
USELESS = [math.nan, math.inf, -math.inf, -1.0, -1e-9]


def gauge(volume: str, value: float) -> Sample:
    return Sample(value=value, volume_id=volume)


def counted(
    volume: str, reads: float | None, writes: float | None, read_us: float | None = None, write_us: float | None = None
) -> list[Sample]:
    values = {
        Counter.READS: reads,
        Counter.WRITES: writes,
        Counter.READ_LATENCY: read_us,
        Counter.WRITE_LATENCY: write_us,
    }
    return [Sample(value=value, pv_name=volume, op=op) for op, value in values.items() if value is not None]


def of_gauge(*samples: Sample) -> Heats:
    return merge([(Source.GAUGE, samples)])


def of_counters(samples: list[Sample]) -> Heats:
    return merge([(Source.COUNTERS, samples)])


def test_with_the_gauge_alone_reads_and_writes_are_half_each_and_latency_is_unknown() -> None:
    assert of_gauge(gauge("pvc-abc123", 5234.56)).get("pvc-abc123") == Heat(5234.56, 2617.28, 2617.28, None, 1, GAUGE)


def test_of_several_series_of_the_gauge_the_highest_counts() -> None:
    heats = of_gauge(gauge("v", 10.0), gauge("v", 700.0), gauge("v", 3.0))
    assert heats.get("v") == Heat(700.0, 350.0, 350.0, None, 3, GAUGE)


@pytest.mark.parametrize("useless", USELESS)
def test_a_sample_that_means_nothing_is_no_data(useless: float) -> None:
    assert of_gauge(gauge("v", useless)).get("v") is None
    assert of_counters(counted("v", useless, 5.0)).get("v") is None


@pytest.mark.parametrize("useless", USELESS)
def test_beside_a_sample_that_means_something_one_that_does_not_is_as_if_absent(useless: float) -> None:
    assert of_gauge(gauge("v", useless), gauge("v", 8.0), gauge("v", useless)).get("v") == Heat(
        8.0, 4.0, 4.0, None, 1, GAUGE
    )


def test_an_idle_volume_has_heat_zero_which_is_not_no_data() -> None:
    assert of_gauge(gauge("v", 0.0)).get("v") == Heat(0.0, 0.0, 0.0, None, 1, GAUGE)


def test_counters_give_reads_writes_and_latency_as_measured() -> None:
    heats = of_counters(counted("v", 300.0, 100.0, 60_000.0, 20_000.0))
    assert heats.get("v") == Heat(400.0, 300.0, 100.0, 200.0, 2, COUNTERS)


def test_the_latency_of_no_operations_is_unknown() -> None:
    assert of_counters(counted("v", 0.0, 0.0, 0.0, 0.0)).get("v") == Heat(0.0, 0.0, 0.0, None, 2, COUNTERS)


def test_latency_is_unknown_where_half_of_it_is_not_measured() -> None:
    assert of_counters(counted("v", 10.0, 10.0, 500.0)).get("v") == Heat(20.0, 10.0, 10.0, None, 2, COUNTERS)


@pytest.mark.parametrize("samples", [counted("v", 10.0, None), counted("v", None, 10.0), counted("v", None, None, 1.0)])
def test_half_of_the_counters_is_no_score_since_it_would_look_colder_than_it_is(samples: list[Sample]) -> None:
    assert of_counters(samples).get("v") is None


def test_rates_too_large_to_add_up_are_no_data() -> None:
    assert of_counters(counted("v", 1.7e308, 1.7e308)).get("v") is None


def test_two_spellings_of_a_volume_are_one_volume() -> None:
    samples = counted(UUID, 1.0, 2.0) + counted(f"pvc-{UUID}", 10.0, 20.0)
    heats = of_counters(samples)
    assert len(heats) == 1
    assert heats.get(UUID) == heats.get(f"pvc-{UUID}") == Heat(33.0, 11.0, 22.0, None, 4, COUNTERS)


def test_the_first_source_with_samples_of_the_volume_gives_its_score() -> None:
    samples = {
        Source.GAUGE: [gauge("both", 100.0), gauge("gauge only", 7.0)],
        Source.COUNTERS: [*counted("both", 30.0, 10.0, 4_000.0, 4_000.0), *counted("counters only", 1.0, 2.0)],
    }
    first_gauge = merge([(source, samples[source]) for source in (Source.GAUGE, Source.COUNTERS)])
    first_counters = merge([(source, samples[source]) for source in (Source.COUNTERS, Source.GAUGE)])
    for heats in (first_gauge, first_counters):
        assert heats.get("gauge only") == Heat(7.0, 3.5, 3.5, None, 1, GAUGE)
        assert heats.get("counters only") == Heat(3.0, 1.0, 2.0, None, 2, COUNTERS)
    assert first_counters.get("both") == Heat(40.0, 30.0, 10.0, 200.0, 2, COUNTERS)
    # The gauge's score with what the counters measured: source_metric names both, so nobody takes the rates for halves.
    assert first_gauge.get("both") == Heat(100.0, 30.0, 10.0, 200.0, 1, f"{GAUGE}+{COUNTERS}")


def test_a_volume_whose_gauge_means_nothing_is_scored_by_its_counters() -> None:
    heats = merge([(Source.GAUGE, [gauge("v", math.nan)]), (Source.COUNTERS, counted("v", 1.0, 1.0))])
    assert heats.get("v") == Heat(2.0, 1.0, 1.0, None, 2, COUNTERS)


def test_a_volume_is_found_by_its_pv_name_its_uuid_and_its_volume_id() -> None:
    heats = of_gauge(Sample(value=9.0, volume_id="nexus-7", pv_name=f"pvc-{UUID}"))
    assert heats.get(f"pvc-{UUID}") == heats.get(UUID) == heats.get("nexus-7") == Heat(9.0, 4.5, 4.5, None, 1, GAUGE)
    assert [name for name, _ in heats] == [f"pvc-{UUID}"]
    assert heats.get("nexus-8") is None


def test_a_volume_id_that_stands_beside_two_pv_names_means_the_hotter() -> None:
    samples = [Sample(value=value, volume_id="shared", pv_name=f"pvc-{value:g}") for value in (1.0, 5.0, 3.0)]
    heats = of_gauge(*samples)
    assert heats.get("shared") == heats.get("pvc-5")


def test_a_sample_that_names_no_volume_is_left_out_beside_others_that_do() -> None:
    assert len(of_gauge(Sample(value=1.0), gauge("v", 1.0))) == 1


@pytest.mark.parametrize("source", list(Source))
def test_an_answer_in_which_no_sample_names_a_volume_is_an_error_not_no_data(source: Source) -> None:
    with pytest.raises(UnnamedSamplesError, match="label"):
        merge([(source, [Sample(value=1.0), Sample(value=2.0)])])


def test_an_empty_answer_is_no_error() -> None:
    assert len(merge([(Source.GAUGE, []), (Source.COUNTERS, [])])) == 0


def test_the_hottest_come_first_and_equal_ones_by_name() -> None:
    heats = of_gauge(gauge("c", 5.0), gauge("a", 5.0), gauge("b", 9.0), gauge("d", 1.0))
    assert [name for name, _ in heats.hottest(3)] == ["b", "a", "c"]
    assert [name for name, _ in heats.hottest(10)] == ["b", "a", "c", "d"]


values = st.floats(allow_nan=True, allow_infinity=True)
names = st.sampled_from(["a", "b", UUID, f"pvc-{UUID}", ""])
samples = st.lists(
    st.builds(Sample, value=values, volume_id=names, pv_name=names, op=st.sampled_from(["", "surprise", *Counter])),
    max_size=30,
)


@given(gauge=samples, counters=samples, gauge_first=st.booleans())
def test_whatever_prometheus_says_every_score_is_finite_and_not_negative(
    gauge: list[Sample], counters: list[Sample], gauge_first: bool
) -> None:
    answers = [(Source.GAUGE, gauge), (Source.COUNTERS, counters)]
    heats = _merged(lambda: merge(answers if gauge_first else answers[::-1]))
    for name, heat in heats or ():
        assert name
        assert all(math.isfinite(rate) and rate >= 0 for rate in (heat.score, heat.read_iops, heat.write_iops))
        assert heat.latency_us is None or (math.isfinite(heat.latency_us) and heat.latency_us >= 0)
        assert heat.sample_count >= 1
        assert heat.source_metric


@given(gauge=samples, data=st.data())
def test_the_order_of_the_series_in_an_answer_does_not_matter(gauge: list[Sample], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(gauge))
    one = _merged(lambda: of_gauge(*gauge))
    other = _merged(lambda: of_gauge(*shuffled))
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert dict(one) == dict(other)
        for name in ("a", "b", UUID):
            assert one.get(name) == other.get(name)


def _merged(merging: Callable[[], Heats]) -> Heats | None:
    try:
        return merging()
    except UnnamedSamplesError:
        return None
