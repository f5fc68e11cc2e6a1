"""`python -m tests.contract.recordings [PATH]`: validate the recorded exchanges, and play them again."""

from __future__ import annotations

import sys
from pathlib import Path

from sandbox.fronts.mayastor_rest.contract import ContractError, validate_exchange
from tests.contract.recordings.reference import (
    BESIDE_THE_CHECKOUT,
    VARIABLE,
    Exchange,
    read_recordings,
    recordings_file,
)
from tests.contract.recordings.replay import Verdict, replay


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 if all are valid and none is different."""
    path = Path(arguments[0]) if arguments else recordings_file()
    if path is None:
        sys.stderr.write(
            f"recordings: not at hand; give a path, or set {VARIABLE}, or put them at {BESIDE_THE_CHECKOUT}\n"
        )
        return 2
    exchanges = read_recordings(path)
    valid = sum(is_valid(exchange) for exchange in exchanges)
    tally = replay(exchanges)
    for played in tally.played:
        if played.verdict is not Verdict.SAME:
            sys.stdout.write(f"{played.index} {played.exchange.name}: {played.verdict}: {played.detail}\n")
    sys.stdout.write(tally.line(valid) + "\n")
    return 0 if valid == len(exchanges) and tally.count(Verdict.DIFFERENT) == 0 else 1


def is_valid(exchange: Exchange) -> bool:
    request, response = exchange.request, exchange.response
    try:
        validate_exchange(request.method, request.path, request.body, response.status, response.body)
    except ContractError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
