"""What a control plane shows of its age, and what may be concluded from it."""

from __future__ import annotations

import pytest

from migrator.core.steering.abilities import (
    ALWAYS,
    ORDER,
    SINCE_2025_01,
    SINCE_2025_04,
    Abilities,
    Ability,
    Marks,
    abilities_of,
    removal_orders,
)

LOCALITY = (Ability.GO_NOT_LOCAL, Ability.GO_CROWDED)


@pytest.mark.parametrize(
    ("versions", "added"),
    [
        (("2.7.1",), frozenset()),
        (("2.8.0",), SINCE_2025_01),
        (("v2.9.0", "v2.9.3"), SINCE_2025_04),
        (("2.10.0",), SINCE_2025_04),
        (("2.12.1-0-g53b43d2",), SINCE_2025_04),
        (("3.0.0",), SINCE_2025_04),
        (("2.9.0", "2.8.1"), SINCE_2025_01),
        (("2.9.0", "2.7.4"), frozenset()),
        (("2.9.0", ""), frozenset()),
        (("fake-2.7.0",), frozenset()),
        (("2.9.0-rc.1",), frozenset()),
        (("develop",), frozenset()),
        (("0.0.0-main-unstable-2026-01-01",), frozenset()),
        (("12.9",), frozenset()),
        ((), frozenset()),
    ],
)
def test_the_oldest_engine_says_how_old_the_control_plane_may_be(
    versions: tuple[str, ...], added: frozenset[Ability]
) -> None:
    found = abilities_of(Marks(engine_versions=versions))
    assert found.counts == ALWAYS | added
    assert not found.pool_cordon


def test_a_control_plane_that_knows_the_pool_cordon_has_all_that_came_before_it() -> None:
    found = abilities_of(Marks(pool_cordon_call=True, engine_versions=("2.7.0", "")))
    assert found.counts == set(ORDER)
    assert found.pool_cordon


def test_where_nothing_is_shown_every_order_there_ever_was_is_possible() -> None:
    orders = removal_orders(Abilities())
    assert LOCALITY in orders
    assert (Ability.GO_POOL_MISMATCH, *LOCALITY) in orders
    assert ORDER in orders
    assert all(order[-2:] == LOCALITY for order in orders)


def test_a_control_plane_that_shows_its_age_has_one_order() -> None:
    assert removal_orders(abilities_of(Marks(engine_versions=("2.9.0",)))) == (ORDER,)


def test_a_rule_that_was_switched_off_may_count_or_not() -> None:
    off = abilities_of(Marks(engine_versions=("2.9.0",)), frozenset({Ability.GO_NODE_CORDON}))
    assert set(removal_orders(off)) == {ORDER, tuple(rule for rule in ORDER if rule is not Ability.GO_NODE_CORDON)}


def test_what_was_switched_off_is_not_relied_upon_nor_a_call_that_is_not_known() -> None:
    newest = abilities_of(Marks(pool_cordon_call=True), frozenset({Ability.ADD_NODE_CORDON}))
    assert not newest.may_rely_on(Ability.ADD_NODE_CORDON)
    assert newest.may_rely_on(Ability.ADD_POOL_CORDON)
    assert newest.may_rely_on(Ability.GO_NODE_CORDON)
    assert not Abilities().may_rely_on(Ability.ADD_POOL_CORDON)
    assert not Abilities().may_rely_on(Ability.GO_NODE_CORDON)
    assert Abilities().may_rely_on(Ability.ADD_NODE_CORDON)
