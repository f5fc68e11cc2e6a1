"""Workloads: one function of time, and a counter that is its integral."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.world.workloads import COUNTING_SINCE, Noise, Workload, changing, steady


def test_a_steady_volume_without_noise_is_exactly_what_it_is_told_to_be() -> None:
    assert {steady("v", 500).iops(t) for t in (-1e4, -1.0, 0.0, 0.7, 1e6)} == {500.0}


def test_a_dying_volume_dies_at_its_time_and_a_waking_one_wakes() -> None:
    dying, waking = changing("v", 9000, 20, at=5.0), changing("v", 20, 9000, at=5.0)
    assert [dying.iops(t) for t in (-60.0, 4.99, 5.0, 99.0)] == [9000, 9000, 20, 20]
    assert [waking.iops(t) for t in (-60.0, 4.99, 5.0, 99.0)] == [20, 20, 9000, 9000]


def test_the_same_seed_gives_the_same_noise_and_another_volume_another() -> None:
    assert Noise.seeded(7, "a") == Noise.seeded(7, "a")
    assert Noise.seeded(7, "a") != Noise.seeded(7, "b")
    assert Noise.seeded(7, "a") != Noise.seeded(8, "a")


levels = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e6)), min_size=1, max_size=4).map(
    lambda found: tuple(sorted(found))
)


@given(levels=levels, seed=st.integers(0, 9), start=st.floats(COUNTING_SINCE, 200), length=st.floats(0, 100))
def test_a_counter_never_falls_and_rises_by_what_the_rate_was(
    levels: tuple[tuple[float, float], ...], seed: int, start: float, length: float
) -> None:
    workload = Workload("v", levels, noise=Noise.seeded(seed, "v", amplitude=0.05))
    rise = workload.operations(start + length) - workload.operations(start)
    steps = 2000
    middle = [workload.iops(start + length * (i + 0.5) / steps) for i in range(steps)]
    summed = sum(middle) * length / steps
    tolerance = 1e-6 * workload.operations(start + length) + length / steps * max(middle) * len(levels) + 1e-6
    assert rise >= -1e-6 * abs(workload.operations(start))
    assert rise == pytest.approx(summed, abs=tolerance)


def test_counting_began_at_zero() -> None:
    assert changing("v", 100, 5, at=3.0).operations(COUNTING_SINCE) == 0
