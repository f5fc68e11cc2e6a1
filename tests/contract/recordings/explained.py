"""
The differences between the recordings and the simulator that stay, each with its reason.

A reason excuses one kind of difference in the exchanges that it names, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why answers differ."""

    exchanges: re.Pattern[str]
    """The names of the exchanges, in full."""
    differences: re.Pattern[str]
    """The differences that are meant."""
    reason: str


EXPLAINED: Final = (
    Explanation(
        re.compile(r"which:thin,.*|thin:.*"),
        re.compile(r"\.state\.(usage|replica_topology\.[^.]*\.usage)\.\w+: \d+ instead of \d+"),
        "what a thin volume has written is not modelled: a thin replica takes one cluster for good",
    ),
    Explanation(
        re.compile(r"ag:down-to-2"),
        re.compile(r"\.state\.replica_topology: without [0-9a-f-]* with [0-9a-f-]*"),
        "of two replicas that no rule tells apart the one goes that was made first, and which was is not recorded",
    ),
    Explanation(
        re.compile(r"child3:replicas"),
        re.compile(r"\.: (with|without) [0-9a-f-]*"),
        "replicas of volumes deleted before are deleted in a later round, and the rounds have no common beat",
    ),
)


def explanation(exchange: str, differences: Sequence[str]) -> str | None:
    """Why an exchange differs as it does; None if that is not explained."""
    for each in EXPLAINED:
        if each.exchanges.fullmatch(exchange) and all(each.differences.fullmatch(line) for line in differences):
            return each.reason
    return None
