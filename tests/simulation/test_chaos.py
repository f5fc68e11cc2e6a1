"""
A campaign of simulated schedules, and that a seed tells the same story twice.

The seeds are fixed, so that what is shown here is shown again; `make chaos` draws others.
"""

from __future__ import annotations

import pytest

from tests.simulation.campaign import Sum, reports
from tests.simulation.plan import BackendName, backend_of

RUNS = 100
SEED = 1
WORKERS = 2


@pytest.mark.timeout(1_200)
def test_whatever_happens_to_a_cluster_no_promise_is_broken() -> None:
    total = Sum(SEED)
    for report in reports(SEED, RUNS, WORKERS):
        total.add(report)
    told = [f"seed {report.seed}: {line}" for report in total.failed for line in report.tally.violations]
    assert told == []
    assert total.uneventful == []
    assert (total.schedules[BackendName.CRD], total.schedules[BackendName.REST]) == (50, 50)
    counts = total.counts
    assert counts["crashes"] >= RUNS
    assert counts["faults"] >= 2 * RUNS
    assert counts["completed"] >= 100
    assert counts["rolled_back"] >= 10
    assert len(total.transitions) >= 100
    assert total.line().endswith(f"violations=0 leaked=0 stuck=0 seed={SEED}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [20, 21])
def test_a_seed_is_replayed_exactly(seed: int) -> None:
    """In two processes, since nothing of a process may count: not the addresses of its objects, not what ran before."""
    (alone,) = reports(seed, 1, 1)
    in_company = next(report for report in reports(seed - 1, 2, 1) if report.seed == seed)
    assert alone.trace == in_company.trace
    assert alone.tally == in_company.tally
    assert alone.backend == backend_of(seed)


def test_each_backend_has_half_of_the_seeds() -> None:
    assert [backend_of(seed) for seed in range(4)] == [BackendName.CRD, BackendName.REST] * 2
