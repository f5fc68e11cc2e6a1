"""Safety measures taken out of the code one at a time; the simulation finds out. `make mutants` tries them all."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.bugs import MUTANTS
from tests.simulation.campaign import HASH_SEED
from tests.simulation.mutants import SCHEDULES, hunt

TRIED = (
    "takes the copy for complete",
    "writes without precondition",
    "forgets the journal",
    "leaves the cordon",
)


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own() -> None:
    assert len(MUTANTS) >= 15
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.timeout(600)
def test_what_a_seeded_bug_does_to_the_world_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", HASH_SEED)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        found = [each.result() for each in [pool.submit(hunt, name, 0, SCHEDULES) for name in TRIED]]
    assert [each.name for each in found if not each.violation] == []
