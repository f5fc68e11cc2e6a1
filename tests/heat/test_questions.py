"""What Prometheus is asked: the specification's queries to the letter, and names that cannot break out of them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.fronts.promql import Series, evaluate
from scorer.core.names import canonical, spellings
from scorer.core.promql import counters_query, gauge_query, quote, range_text
from tests.clock import START

HOUR = timedelta(hours=1)
UUID = "0d0f5f4e-8a3b-4c2d-9e1f-000000000001"


def test_the_gauge_of_every_volume_is_asked_for_as_specified() -> None:
    assert gauge_query(HOUR) == "avg_over_time(openebs_volume_iops[3600s])"


def test_the_gauge_of_one_volume_is_asked_for_with_the_specified_matcher() -> None:
    assert gauge_query(HOUR, "pvc-abc123") == 'avg_over_time(openebs_volume_iops{volume_id="pvc-abc123"}[3600s])'


def test_the_four_counters_come_in_one_answer_summed_by_volume() -> None:
    query = counters_query(HOUR)
    assert query.count(" or ") == 3
    for metric in ("volume_num_read_ops", "volume_num_write_ops", "volume_read_latency_us", "volume_write_latency_us"):
        assert f"sum by (pv_name) (rate({metric}[3600s]))" in query


def test_one_volume_is_matched_under_both_of_its_spellings() -> None:
    expected = f'{{volume_id=~"pvc-{UUID}|{UUID}"}}'
    assert gauge_query(HOUR, UUID) == gauge_query(HOUR, f"pvc-{UUID}")
    assert expected in gauge_query(HOUR, UUID)


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (timedelta(seconds=60), "60s"),
        (timedelta(days=30), "2592000s"),
        (timedelta(milliseconds=1500), "1500ms"),
        (timedelta(milliseconds=250), "250ms"),
    ],
)
def test_a_window_is_written_in_seconds_or_where_it_must_in_milliseconds(window: timedelta, text: str) -> None:
    assert range_text(window) == text


@given(st.text(max_size=40).filter(lambda name: "\r" not in name))
def test_no_name_breaks_out_of_its_matcher(name: str) -> None:
    """Read back by another implementation, the matcher admits exactly the volume that was asked for."""
    asked = Series({"volume_id": name}, 1.0)
    other = Series({"volume_id": f"{name}x"}, 2.0)
    found = evaluate(gauge_query(HOUR, name), lambda *_: [asked, other], START)
    assert found == [asked]


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("a\nb", r'"a\nb"'),
        ('"}[1s]) or up{a="', r'"\"}[1s]) or up{a=\""'),
    ],
)
def test_what_means_something_in_a_string_is_escaped(value: str, quoted: str) -> None:
    assert quote(value) == quoted


@pytest.mark.parametrize(
    ("name", "pv_name"),
    [
        (UUID, f"pvc-{UUID}"),
        (f"pvc-{UUID}", f"pvc-{UUID}"),
        ("pvc-abc123", "pvc-abc123"),
        ("abc123", "abc123"),
        (f"pvc-pvc-{UUID}", f"pvc-pvc-{UUID}"),
        (UUID.replace("-", "_"), UUID.replace("-", "_")),
        ("", ""),
    ],
)
def test_a_bare_uuid_means_the_volume_of_that_pv_name(name: str, pv_name: str) -> None:
    assert canonical(name) == pv_name


@given(st.one_of(st.uuids().map(str), st.uuids().map(lambda uuid: f"pvc-{uuid}"), st.text(max_size=50)))
def test_every_spelling_of_a_volume_leads_to_its_one_name(name: str) -> None:
    assert {canonical(spelling) for spelling in spellings(name)} == {canonical(name)}
