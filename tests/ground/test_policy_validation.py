"""
A StoragePolicy, from what is written to what is followed, or to a sentence that says why not.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.placement import Tier
from common.resources.policy import InvalidPolicyError, NoData, Policy, StoragePolicy, policy_from
from common.selectors import LabelSelector, Operator, Requirement

SPECIFIED = {
    "highWatermarkIOPS": 5000,
    "lowWatermarkIOPS": 500,
    "storageClassName": "mayastor",
    "samplingWindow": "1h",
}


def written(spec: dict[str, Any]) -> StoragePolicy:
    body = {"metadata": {"name": "database-tiering", "uid": "u-1", "generation": 3}, "spec": spec}
    return msgspec.json.decode(msgspec.json.encode(body), type=StoragePolicy)


def understood(**spec: Any) -> Policy:
    return policy_from(written({**SPECIFIED, **spec}))


def refused(**spec: Any) -> InvalidPolicyError:
    with pytest.raises(InvalidPolicyError) as refusal:
        understood(**spec)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("StoragePolicy database-tiering: ")
    return refusal.value


def test_the_specifications_four_fields_are_a_whole_policy() -> None:
    policy = understood()
    assert (policy.name, policy.uid, policy.generation) == ("database-tiering", "u-1", 3)
    assert (policy.high_watermark, policy.low_watermark) == (5000, 500)
    assert (policy.window, policy.cooldown) == (timedelta(hours=1), timedelta(hours=24))
    assert policy.storage_class == "mayastor"
    assert policy.pools(Tier.HOT) == LabelSelector({"tier": "hot"})
    assert policy.pools(Tier.COLD) == LabelSelector({"tier": "cold"})
    assert (policy.max_concurrent, policy.migration_timeout) == (2, timedelta(minutes=30))
    assert policy.no_data is NoData.COLD_IF_DETACHED
    assert policy.enabled
    assert not policy.dry_run


def test_a_policy_without_a_spec_has_the_defaults() -> None:
    assert policy_from(msgspec.json.decode(b'{"metadata":{"name":"p"}}', type=StoragePolicy)).high_watermark == 5000


def test_equal_watermarks_are_refused_and_the_message_has_both_numbers() -> None:
    refusal = refused(lowWatermarkIOPS=6000)
    assert refusal.field == "lowWatermarkIOPS"
    assert str(refusal) == ("StoragePolicy database-tiering: lowWatermarkIOPS 6000 is not below highWatermarkIOPS 5000")
    assert refused(lowWatermarkIOPS=5000).field == "lowWatermarkIOPS"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"lowWatermarkIOPS": -1}, "lowWatermarkIOPS"),
        ({"highWatermarkIOPS": -5, "lowWatermarkIOPS": -6}, "highWatermarkIOPS"),
        ({"warmWatermarkIOPS": 1000}, "warmWatermarkIOPS"),
        ({"warmPoolSelector": {}}, "warmPoolSelector"),
        ({"samplingWindow": "0"}, "samplingWindow"),
        ({"samplingWindow": "10s"}, "samplingWindow"),
        ({"samplingWindow": "3650d"}, "samplingWindow"),
        ({"samplingWindow": "soon"}, "samplingWindow"),
        ({"cooldownPeriod": "-1h"}, "cooldownPeriod"),
        ({"cooldownPeriod": "1000d"}, "cooldownPeriod"),
        ({"migrationTimeout": "0s"}, "migrationTimeout"),
        ({"migrationTimeout": "8d"}, "migrationTimeout"),
        ({"maxConcurrentMigrations": 0}, "maxConcurrentMigrations"),
        ({"maxConcurrentMigrations": 1001}, "maxConcurrentMigrations"),
        ({"storageClassName": ""}, "storageClassName"),
        ({"volumeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "volumeSelector"),
        ({"hotPoolSelector": {"matchExpressions": [{"key": "", "operator": "Exists"}]}}, "hotPoolSelector"),
        ({"volumeSelector": {"matchLabels": {"a b": "c"}}}, "volumeSelector"),
        ({"coldPoolSelector": {"matchLabels": {"tier": "cold!"}}}, "coldPoolSelector"),
        ({"sataPoolSelector": {"matchLabels": {"tier": "cold!"}}}, "sataPoolSelector"),
        (
            {"hotPoolSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b c"]}]}},
            "hotPoolSelector",
        ),
        ({"hotPoolSelector": {"matchLabels": {"tier": "cold"}}}, "coldPoolSelector"),
        (
            {
                "hotPoolSelector": {"matchLabels": {"disk": "nvme"}},
                "nvmePoolSelector": {"matchLabels": {"disk": "fast"}},
            },
            "nvmePoolSelector",
        ),
    ],
)
def test_what_a_schema_may_let_through_is_refused_by_its_field(spec: dict[str, Any], field: str) -> None:
    assert refused(**spec).field == field


def test_everything_that_is_wrong_is_told_at_once() -> None:
    refusal = refused(samplingWindow="soon", cooldownPeriod="never", maxConcurrentMigrations=0, storageClassName="")
    assert [field for field, _ in refusal.problems] == [
        "samplingWindow",
        "cooldownPeriod",
        "maxConcurrentMigrations",
        "storageClassName",
    ]


def test_the_older_names_of_the_pool_selectors_are_understood() -> None:
    policy = understood(
        nvmePoolSelector={"matchLabels": {"disk": "nvme"}},
        sataPoolSelector={"matchExpressions": [{"key": "disk", "operator": "In", "values": ["sata", "hdd"]}]},
    )
    assert policy.pools(Tier.HOT) == LabelSelector({"disk": "nvme"})
    assert policy.pools(Tier.COLD) == LabelSelector(
        match_expressions=(Requirement("disk", Operator.IN, ("sata", "hdd")),)
    )


def test_both_names_of_a_selector_may_say_the_same() -> None:
    same = {"matchLabels": {"disk": "nvme"}}
    assert understood(hotPoolSelector=same, nvmePoolSelector=same).pools(Tier.HOT) == LabelSelector({"disk": "nvme"})


def test_a_demo_may_lower_the_shortest_window() -> None:
    assert policy_from(written({**SPECIFIED, "samplingWindow": "5s"}), min_window=timedelta(seconds=1)).window == (
        timedelta(seconds=5)
    )


@given(
    high=st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e9),
    low=st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e9),
)
def test_watermarks_are_followed_exactly_when_low_is_below_high(high: float, low: float) -> None:
    resource = written({**SPECIFIED, "highWatermarkIOPS": high, "lowWatermarkIOPS": low})
    if low < high:
        policy = policy_from(resource)
        assert (policy.low_watermark, policy.high_watermark) == (low, high)
    else:
        with pytest.raises(InvalidPolicyError, match="is not below"):
            policy_from(resource)


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"5000"', "true", "[]"])
def test_a_watermark_that_is_no_number_does_not_even_decode(value: str) -> None:
    text = '{"metadata":{"name":"p"},"spec":{"highWatermarkIOPS":' + value + "}}"
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(text.encode(), type=StoragePolicy)
