"""
Seeded bugs: what the simulation must find out, each within a bounded number of schedules.

A mutant counts as caught only by a promise that was broken in the world: not by an exception, and not by anything that
the product itself says.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final

from tests.simulation.bugs import MUTANTS
from tests.simulation.campaign import HASH_SEED
from tests.simulation.schedule import hush, simulate

SCHEDULES: Final = 200


@dataclass(frozen=True, slots=True)
class Caught:
    """How a mutant was found out; `violation` is empty if it was not."""

    name: str
    schedules: int
    seed: int
    violation: str


def hunt(name: str, seed: int, schedules: int) -> Caught:
    """Let a mutant loose in this process, and run schedules until a promise is broken."""
    mutant = next(each for each in MUTANTS if each.name == name)
    mutant.apply()
    hush()
    for count in range(schedules):
        report = simulate(seed + count, mutant.backend)
        broken = [line for line in report.tally.violations if not line.startswith("invariant 0 ")]
        if broken:
            return Caught(name, count + 1, seed + count, broken[0])
    return Caught(name, schedules, seed, "")


def main(argv: Sequence[str] | None = None) -> int:
    """Hunt them all; exit 1 if any stays hidden."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description="Hunt seeded bugs.")
    parser.add_argument("--seed", type=int, default=0, help="the first schedule's seed (0)")
    parser.add_argument("--schedules", type=int, default=SCHEDULES, help="schedules for each at the most (200)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="processes (one a core)")
    parser.add_argument("--only", help="the one with this name")
    options = parser.parse_args(argv)
    os.environ["PYTHONHASHSEED"] = HASH_SEED
    names = [mutant.name for mutant in MUTANTS if options.only in (None, mutant.name)]
    caught = 0
    # One process for each: what a mutant replaces must not outlive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context, max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(hunt, name, options.seed, options.schedules) for name in names]):
            found = done.result()
            caught += bool(found.violation)
            how = f"{found.violation[:200]}" if found.violation else "not found out"
            sys.stdout.write(f"{found.name}: {found.schedules} schedules, seed {found.seed}: {how}\n")
            sys.stdout.flush()
    sys.stdout.write(f"mutants: seeded={len(names)} caught={caught}\n")
    return 0 if caught == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
