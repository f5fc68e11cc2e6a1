"""
`python -m tests.simulation`: a campaign of simulated schedules. Exits 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence

from tests.simulation.campaign import run_campaign
from tests.simulation.plan import BackendName

MAX_SEED = 10**9


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign and tell what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Run simulated schedules.")
    parser.add_argument("--runs", type=int, default=2_000, help="schedules (2000)")
    parser.add_argument("--seed", type=int, help="the first one's seed; the next ones follow (drawn)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="processes (one a core)")
    parser.add_argument("--backend", type=BackendName, choices=list(BackendName), help="only this one (both)")
    parser.add_argument("--reasons", action="store_true", help="also tell how migrations ended")
    options = parser.parse_args(argv)
    if options.runs < 1 or options.workers < 1:
        parser.error("--runs and --workers must be 1 at least")
    seed = secrets.randbelow(MAX_SEED) if options.seed is None else options.seed
    total = run_campaign(seed, options.runs, min(options.workers, options.runs), backend=options.backend)
    if options.reasons:
        for reason, count in total.reasons.most_common():
            _say(f"{count:6} {reason}")
        _say(f"schedules: {dict(total.schedules)}")
    if total.uneventful:
        _say(f"in {len(total.uneventful)} schedules too little happened, among them of seeds {total.uneventful[:10]}")
    _say(total.line())
    return 0 if total.clean else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
