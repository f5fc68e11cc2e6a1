"""
A campaign: many schedules, their seeds one after the other, on as many processes as there are to be.

Each schedule has a seed of its own and is nobody else's business, so a failure is replayed by its seed alone. What
sets of strings are ordered by is fixed for the workers: it must not differ from run to run.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Final, TextIO

from tests.simulation.plan import BackendName
from tests.simulation.schedule import Report, clear_away, hush, simulate

BATCH: Final = 4
"""Schedules that a worker is given at once."""
HASH_SEED: Final = "0"


@dataclass(slots=True)
class Sum:
    """What came of all schedules."""

    seed: int
    schedules: Counter[str] = field(default_factory=Counter)
    """By backend."""
    counts: Counter[str] = field(default_factory=Counter)
    transitions: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    uneventful: list[int] = field(default_factory=list)
    """Seeds of schedules in which less happened than a schedule is meant to have."""
    failed: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Take in what came of one."""
        tally = report.tally
        self.schedules[report.backend] += 1
        for name in ("crashes", "faults", "writes", "completed", "rolled_back", "leaked", "stuck"):
            self.counts[name] += getattr(tally, name)
        self.counts["violations"] += len(tally.violations)
        self.transitions |= tally.transitions
        self.reasons.update(tally.reasons)
        if not report.eventful:
            self.uneventful.append(report.seed)
        if tally.violations:
            self.failed.append(report)

    @property
    def clean(self) -> bool:
        return not self.failed

    def line(self) -> str:
        """Tell it in one line."""
        counts = self.counts
        return (
            f"chaos: schedules={self.schedules.total()} crashes={counts['crashes']} faults={counts['faults']} "
            f"writes={counts['writes']} transitions={len(self.transitions)} completed={counts['completed']} "
            f"rolled_back={counts['rolled_back']} violations={counts['violations']} leaked={counts['leaked']} "
            f"stuck={counts['stuck']} seed={self.seed}"
        )


def _batch(seeds: list[int], backend: BackendName | None) -> list[Report]:
    """Run some schedules, in a worker."""
    hush()
    found = [simulate(seed, backend, tidy=False) for seed in seeds]
    clear_away()
    return found


def reports(seed: int, runs: int, workers: int, backend: BackendName | None = None) -> Iterator[Report]:
    """Run the schedules of the seeds from this one on, and tell of each as it is done."""
    os.environ["PYTHONHASHSEED"] = HASH_SEED
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        seeds = list(range(seed, seed + runs))
        batches = [seeds[at : at + BATCH] for at in range(0, runs, BATCH)]
        for done in as_completed([pool.submit(_batch, batch, backend) for batch in batches]):
            yield from done.result()


def run_campaign(
    seed: int, runs: int, workers: int, *, out: TextIO = sys.stdout, backend: BackendName | None = None
) -> Sum:
    """Run it, show how it is getting on where somebody looks, and tell of failures at once."""
    total = Sum(seed)
    for report in reports(seed, runs, workers, backend):
        total.add(report)
        if report.tally.violations:
            _tell(report, out)
        if out.isatty():
            done = total.schedules.total()
            out.write(f"\r{done}/{runs} schedules, {len(total.failed)} failed, {len(total.transitions)} transitions ")
            out.flush()
    if out.isatty():
        out.write("\r\x1b[K")
    return total


def _tell(report: Report, out: TextIO) -> None:
    start = "\r\x1b[K" if out.isatty() else ""
    out.write(f"{start}seed {report.seed} ({report.backend}): the end of what happened\n")
    for line in report.tail:
        out.write(f"  {line[:400]}\n")
    for violation in report.tally.violations:
        out.write(f"seed {report.seed}: {violation}\n")
    out.write(f"seed {report.seed}: replay it with `make chaos RUNS=1 SEED={report.seed}`\n")
    out.flush()
