"""
Label selectors: all parts must hold, an empty one admits everything, and a wrong one says what is wrong.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.selectors import LabelSelector, Operator, Requirement, is_label_key, is_label_value

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
VALUES = st.lists(st.sampled_from("xyz"), min_size=1, max_size=3).map(tuple)


def requirement(operator: Operator, *values: str) -> Requirement:
    return Requirement("tier", operator, values)


@pytest.mark.parametrize(
    ("part", "hot", "cold", "unlabelled"),
    [
        (requirement(Operator.IN, "hot", "warm"), True, False, False),
        (requirement(Operator.NOT_IN, "hot"), False, True, True),
        (requirement(Operator.EXISTS), True, True, False),
        (requirement(Operator.DOES_NOT_EXIST), False, False, True),
    ],
)
def test_each_operator_means_what_it_means_in_kubernetes(
    part: Requirement, hot: bool, cold: bool, unlabelled: bool
) -> None:
    admitted = [part.admits(labels) for labels in ({"tier": "hot"}, {"tier": "cold"}, {})]
    assert admitted == [hot, cold, unlabelled]


@given(LABELS)
def test_an_empty_selector_admits_everything(labels: dict[str, str]) -> None:
    assert LabelSelector().admits(labels)


@given(LABELS, LABELS, VALUES)
def test_a_selector_admits_only_what_every_part_admits(
    wanted: dict[str, str], labels: dict[str, str], values: tuple[str, ...]
) -> None:
    part = Requirement("a", Operator.IN, values)
    both = LabelSelector(match_labels=wanted, match_expressions=(part,))
    assert both.admits(labels) == (LabelSelector(match_labels=wanted).admits(labels) and part.admits(labels))


@given(LABELS, VALUES)
def test_not_in_is_the_opposite_of_in(labels: dict[str, str], values: tuple[str, ...]) -> None:
    admits = Requirement("a", Operator.IN, values).admits(labels)
    assert Requirement("a", Operator.NOT_IN, values).admits(labels) is not admits


def test_what_is_wrong_with_requirements_is_said_a_line_each() -> None:
    selector = LabelSelector(
        match_expressions=(
            requirement(Operator.IN),
            requirement(Operator.EXISTS, "hot"),
            Requirement("", Operator.EXISTS),
            requirement(Operator.NOT_IN, "hot"),
        )
    )
    assert selector.problems() == (
        "tier: In needs at least one value",
        "tier: Exists takes no values",
        "a requirement without a key",
    )


@pytest.mark.parametrize(
    "key",
    ["tier", "a", "A.b_c-9", "a" * 63, "example.com/tier", "topology.kubernetes.io/zone", f"{'a' * 63}.{'b' * 189}/x"],
)
def test_what_may_be_the_key_of_a_label(key: str) -> None:
    assert is_label_key(key)
    assert LabelSelector({key: "hot"}, (Requirement(key, Operator.EXISTS),)).problems() == ()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a b",
        "-a",
        "a-",
        "a" * 64,
        "/a",
        "a/",
        "A.com/a",
        "a..b/c",
        "-a.b/c",
        "a/b/c",
        "tiér",
        "a\n",
        "b" * 254 + "/x",
    ],
)
def test_what_may_not(key: str) -> None:
    assert not is_label_key(key)
    (said,) = LabelSelector({key: "hot"}).problems()
    assert said == f"{key[:80]!r} is not the key of a label: write it like tier or example.com/tier"
    assert LabelSelector(match_expressions=(Requirement(key, Operator.EXISTS),)).problems()


@pytest.mark.parametrize("value", ["", "hot", "9", "A_b.c-d", "a" * 63])
def test_what_may_be_the_value_of_a_label(value: str) -> None:
    assert is_label_value(value)
    assert LabelSelector({"tier": value}, (Requirement("tier", Operator.IN, (value,)),)).problems() == ()


@pytest.mark.parametrize("value", [" ", "hot ", "-hot", "hot-", "a/b", "a" * 64, "yes!", "hot\n"])
def test_what_may_not_be_the_value(value: str) -> None:
    assert not is_label_value(value)
    for selector in (
        LabelSelector({"tier": value}),
        LabelSelector(match_expressions=(Requirement("tier", Operator.NOT_IN, ("hot", value)),)),
    ):
        (said,) = selector.problems()
        assert said.startswith(f"tier: {value!r} is not the value of a label: ")


def test_a_selector_is_read_as_kubernetes_writes_it() -> None:
    written = b'{"matchLabels":{"tier":"hot"},"matchExpressions":[{"key":"zone","operator":"NotIn","values":["a"]}]}'
    selector = msgspec.json.decode(written, type=LabelSelector)
    assert selector == LabelSelector({"tier": "hot"}, (Requirement("zone", Operator.NOT_IN, ("a",)),))
    assert str(selector) == "tier=hot, zone NotIn ['a']"
    assert str(LabelSelector()) == "everything"


def test_an_operator_that_there_is_not_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Like"):
        msgspec.json.decode(b'{"matchExpressions":[{"key":"a","operator":"Like"}]}', type=LabelSelector)
