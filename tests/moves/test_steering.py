"""Steering by labels: the inclusion that those who stay match and nobody who goes; and patches that say so exactly."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from common.placement import Pool, ReplicaHealth
from migrator.backends.mayastor_volume import health, lacking_field, merge_difference
from migrator.core.model import ABSENT, canonical
from migrator.core.steering.labels import admits, inclusion_of, separates, separating, with_inclusion
from sandbox.world.merge import merge
from tests.moves.cluster import definitions

LABELS = st.dictionaries(st.sampled_from(["tier", "site", "pool"]), st.sampled_from(["a", "b"]), max_size=3)


def pools_called(prefix: str) -> st.SearchStrategy[list[Pool]]:
    labels = st.lists(LABELS, min_size=1, max_size=4)
    return labels.map(lambda found: [Pool(f"{prefix}-{n}", None, each) for n, each in enumerate(found)])


STAY, GO = pools_called("stay"), pools_called("go")


def test_one_pool_is_named_by_itself() -> None:
    assert separating([Pool("x", None, {"tier": "hot"})], [Pool("y", None)]) == {"pool": "x"}


def test_several_are_told_by_what_only_they_share() -> None:
    stay = [Pool("h1", None, {"tier": "hot", "site": "a"}), Pool("h2", None, {"tier": "hot", "site": "a"})]
    go = [Pool("c1", None, {"tier": "cold", "site": "a"})]
    assert separating(stay, go) == {"tier": "hot"}


def test_where_labels_do_not_tell_there_is_no_answer() -> None:
    assert separating([Pool("x", None), Pool("y", None)], [Pool("z", None)]) is None
    assert separating([Pool("x", None)], [Pool("x", None)]) is None
    assert separating([], [Pool("x", None)]) is None


@given(STAY, GO)
def test_an_answer_always_separates_and_is_always_the_same(stay: list[Pool], go: list[Pool]) -> None:
    inclusion = separating(stay, go)
    assert inclusion == separating(stay, go)
    if inclusion is not None:
        assert all(admits(inclusion, pool) for pool in stay)
        assert not any(admits(inclusion, pool) for pool in go)
        assert separates(with_inclusion(ABSENT, inclusion), stay, go)


@given(STAY, GO)
def test_where_any_labels_would_do_there_is_an_answer(stay: list[Pool], go: list[Pool]) -> None:
    shared = set.intersection(*(set({**pool.labels, "pool": pool.name}.items()) for pool in stay))
    possible = bool(shared) and not any(admits(dict(shared), pool) for pool in go)
    assert (separating(stay, go) is not None) == possible


JSON = st.recursive(
    st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "b", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["a", "b", "pool", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "pool", "x"]), JSON, max_size=3)


@given(OBJECTS, OBJECTS)
def test_a_difference_merged_gives_exactly_what_is_meant(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert canonical(merge(before, merge_difference(before, after))) == canonical(after)


@given(OBJECTS)
def test_a_topology_survives_our_steering_and_its_end_byte_for_byte(original: dict[str, Any]) -> None:
    text = canonical(original)
    steered = with_inclusion(text, {"pool": "pool-nvme-1"})
    assert inclusion_of(steered) == {"pool": "pool-nvme-1"}
    back = merge(json.loads(steered), merge_difference(json.loads(steered), original))
    assert canonical(back) == text


def test_steering_changes_nothing_but_the_inclusion() -> None:
    topology = canonical(
        {"node": {"labelled": {"inclusion": {"zone": "1"}}}, "pool": {"labelled": {"exclusion": {"x": ""}}}}
    )
    steered = json.loads(with_inclusion(topology, {"pool": "p"}))
    assert steered["node"] == {"labelled": {"inclusion": {"zone": "1"}}}
    assert steered["pool"]["labelled"] == {"exclusion": {"x": ""}, "inclusion": {"pool": "p"}}


def test_only_words_that_are_known_mean_health() -> None:
    assert health("Online", "Synced") is ReplicaHealth.SYNCED
    assert health("Online", "Syncing") is ReplicaHealth.SYNCING
    assert health("Faulted", "Synced") is ReplicaHealth.FAULTED
    assert health("Online", "Faulted") is ReplicaHealth.FAULTED


@given(st.text(), st.text())
def test_a_word_that_is_not_known_is_never_healthy(state: str, sync_state: str) -> None:
    healthy = (state, sync_state) == ("Online", "Synced")
    assert (health(state, sync_state) is ReplicaHealth.SYNCED) == healthy


def test_a_schema_without_a_field_of_the_specification_is_found_out() -> None:
    (definition,) = [d for d in definitions() if d["metadata"]["name"] == "mayastorvolumes.openebs.io"]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert lacking_field(schema) is None
    moac = {
        "properties": {
            "spec": {"properties": {"replicaCount": {"type": "integer"}}},
            "status": {"properties": {"replicas": {"type": "array", "items": {"properties": {"uri": {}}}}}},
        }
    }
    assert lacking_field(moac) == "spec.numReplicas"
    assert lacking_field({}) == "spec.numReplicas"
