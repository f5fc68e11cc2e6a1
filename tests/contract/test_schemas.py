"""What a schema keeps, fills in and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from common.kube.api import InvalidError
from tests.contract.clusters import WIDGETS, Cluster, decoded

DEFAULTED = {"word": "abc", "count": 3, "flag": True, "nested": {"deep": "here"}}


async def accepted(cluster: Cluster, spec: dict[str, Any]) -> Any:
    """Return the spec as the server would keep it."""
    body = {"metadata": {"name": "w"}, "spec": {"word": "abc", **spec}}
    return decoded(await cluster.api.create(WIDGETS, body, cluster.namespace, dry_run=True))["spec"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {}),
        ({"unknown": 1, "nested": {"unknown": 1}}, {}),
        ({"count": None, "flag": None, "nested": None}, {}),
        ({"choice": None, "list": None, "map": {"a": None}}, {"map": {}}),
        ({"nullable": None}, {"nullable": None}),
        ({"count": 5.0}, {"count": 5}),
        ({"ratio": 0.5}, {"ratio": 0.5}),
        ({"flag": False}, {"flag": False}),
        ({"list": [{"a": "x", "unknown": 1}]}, {"list": [{"a": "x", "b": 7}]}),
        ({"map": {"any key": 1}}, {"map": {"any key": 1}}),
        ({"either": 5}, {"either": 5}),
        ({"either": "5%"}, {"either": "5%"}),
        ({"anything": {"a": [1, None, {"b": None}]}}, {"anything": {"a": [1, None, {"b": None}]}}),
        ({"anything": {"huge": 2**80}}, {"anything": {"huge": float(2**80)}}),
        ({"when": "2026-02-02T10:30:00Z"}, {"when": "2026-02-02T10:30:00Z"}),
        ({"when": "2026-02-02T10:30:00.123456+01:00"}, {"when": "2026-02-02T10:30:00.123456+01:00"}),
        ({"nested": {}}, {}),
        ({"nested": {"deep": "down"}}, {"nested": {"deep": "down"}}),
        ({"unique": ["a", "b"]}, {"unique": ["a", "b"]}),
        ({"keyed": [{"type": "a", "value": "x"}]}, {"keyed": [{"type": "a", "value": "x"}]}),
    ],
    ids=str,
)
async def test_a_good_spec_is_pruned_and_defaulted(
    cluster: Cluster, given: dict[str, Any], kept: dict[str, Any]
) -> None:
    assert await accepted(cluster, given) == {**DEFAULTED, **kept}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"word": None}, "spec.word: Required value"),
        ({"word": "a"}, 'spec.word: Invalid value: "a": spec.word in body should be at least 2 chars long'),
        ({"word": "abcdef"}, "spec.word: Too long: may not be more than 5 bytes"),
        ({"word": "ABC"}, "spec.word: Invalid value: \"ABC\": spec.word in body should match '^[a-z]+$'"),
        ({"word": "abc\n"}, "spec.word in body should match"),
        ({"word": 5}, 'spec.word: Invalid value: "integer": spec.word in body must be of type string: "integer"'),
        ({"count": 0}, "spec.count: Invalid value: 0: spec.count in body should be greater than or equal to 1"),
        ({"count": 11}, "spec.count: Invalid value: 11: spec.count in body should be less than or equal to 10"),
        ({"count": 5.5}, 'spec.count: Invalid value: "number": spec.count in body must be of type integer: "number"'),
        ({"count": "5"}, 'spec.count: Invalid value: "string": spec.count in body must be of type integer: "string"'),
        ({"count": True}, 'spec.count in body must be of type integer: "boolean"'),
        ({"ratio": 0}, "spec.ratio in body should be greater than 0"),
        ({"ratio": 1}, "spec.ratio in body should be less than 1"),
        ({"even": 3}, "spec.even: Invalid value: 3: spec.even in body should be a multiple of 2"),
        ({"flag": "yes"}, 'spec.flag in body must be of type boolean: "string"'),
        ({"choice": "C"}, 'spec.choice: Unsupported value: "C": supported values: "A", "B"'),
        ({"list": []}, "spec.list: Invalid value: 0: spec.list in body should have at least 1 items"),
        ({"list": [{"a": "1"}, {"a": "2"}, {"a": "3"}]}, "spec.list: Too many: 3: must have at most 2 items"),
        ({"list": [{"b": 1}]}, "spec.list[0].a: Required value"),
        ({"list": [{"a": "1"}, {"a": 2}]}, "spec.list[1].a in body must be of type string"),
        ({"list": [None]}, 'spec.list[0] in body must be of type object: "null"'),
        ({"list": {}}, 'spec.list in body must be of type array: "object"'),
        ({"map": []}, 'spec.map in body must be of type object: "array"'),
        ({"map": {"a": 1, "b": 2, "c": 3}}, "spec.map: Too many: 3: must have at most 2 items"),
        ({"map": {"a": "x"}}, "spec.map.a in body must be of type integer"),
        ({"either": 1.5}, 'spec.either in body must be of type integer,string: "number"'),
        ({"either": True}, 'spec.either in body must be of type integer,string: "boolean"'),
        ({"when": "yesterday"}, 'spec.when in body must be of type date-time: "yesterday"'),
        ({"when": "2026-02-02T10:30:00"}, "spec.when in body must be of type date-time"),
        ({"when": "2026-02-30T10:30:00Z"}, "spec.when in body must be of type date-time"),
        ({"unique": ["a", "a"]}, 'spec.unique[1]: Duplicate value: "a"'),
        ({"keyed": [{"type": "a"}, {"type": "a"}]}, 'spec.keyed[1]: Duplicate value: {"type":"a"}'),
        ({"keyed": [{"value": "a"}]}, "spec.keyed[0].type: Required value"),
    ],
    ids=str,
)
async def test_a_bad_spec_is_refused_by_naming_the_field(cluster: Cluster, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidError) as refusal:
        await accepted(cluster, spec)
    assert message in str(refusal.value)
    assert 'Widget.contract.couchestor.test "w" is invalid' in str(refusal.value)


async def test_every_fault_is_named(cluster: Cluster) -> None:
    with pytest.raises(InvalidError) as refusal:
        await accepted(cluster, {"count": 0, "choice": "C"})
    assert "spec.count: Invalid value: 0" in str(refusal.value)
    assert "spec.choice: Unsupported value" in str(refusal.value)


@pytest.mark.parametrize("spec", [None, "text", 5, []], ids=str)
async def test_a_spec_must_be_an_object(cluster: Cluster, spec: Any) -> None:
    with pytest.raises(InvalidError, match=r"spec: (Required|Invalid) value"):
        await cluster.api.create(WIDGETS, {"metadata": {"name": "w"}, "spec": spec}, cluster.namespace)
    with pytest.raises(InvalidError, match="spec: Required value"):
        await cluster.api.create(WIDGETS, {"metadata": {"name": "w"}}, cluster.namespace)


async def test_a_patch_is_judged_as_a_whole(cluster: Cluster) -> None:
    before = await cluster.widget("w")
    with pytest.raises(InvalidError, match=r"spec\.count"):
        await cluster.patch("w", {"spec": {"count": 99, "choice": "A"}})
    with pytest.raises(InvalidError, match=r"spec\.word: Required value"):
        await cluster.patch("w", {"spec": {"word": None}})
    assert await cluster.read("w") == before
