"""
Who goes first when slots and space are few.

The hottest promotions gain most. Demotions follow, the coldest first, except that a promotion which finds its tier
full calls forward the coldest volumes that leave it: room has to be made before it can be used. Equal scores go by
name, so that the same world always gives the same plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from msgspec import structs

from common.placement import Move, Tier
from common.reasons import Reason
from planner.core.case import Case, Held
from planner.core.checks import TURN_REFUSALS, first_refusal
from planner.core.ledger import Ledger
from planner.core.room import could_hold, slot


@dataclass(frozen=True, slots=True)
class Turn:
    """What a volume's turn came to: its moves, or why it has none."""

    case: Case
    held: Held | None
    moves: tuple[Move, ...] = ()


def by_heat(candidates: Iterable[Case]) -> tuple[list[Case], list[Case]]:
    """Sort candidates into promotions, hottest first, and demotions, coldest first."""
    promotions: list[Case] = []
    demotions: list[Case] = []
    for case in candidates:
        (promotions if case.wants is Tier.HOT else demotions).append(case)
    promotions.sort(key=lambda case: (-case.heat.score, case.volume.name))
    demotions.sort(key=lambda case: (case.heat.score, case.volume.name))
    return promotions, demotions


class Turns:
    """The turns of one plan, in order; the ledger as a watched volume met it is kept for its explanation."""

    def __init__(self, candidates: Iterable[Case], watch: str = "") -> None:
        promotions, demotions = by_heat(candidates)
        self._demotions = deque(demotions)
        self._watch = watch
        self.met: Ledger | None = None
        self.taken: list[Turn] = []
        for case in promotions:
            self._promote(case)
        while self._demotions:
            self._finish(self._demotions.popleft())

    def _promote(self, case: Case) -> None:
        """Give a promotion its turn; if only space is missing, after those that make room for it."""
        while self._demotions and self._wants_room(case):
            self._finish(self._demotions.popleft())
        self._finish(case)

    def _wants_room(self, case: Case) -> bool:
        held = first_refusal(case, TURN_REFUSALS)
        return (
            held is not None
            and held.reason is Reason.NO_POOL_WITH_SPACE
            and could_hold(case)
            and self._slots_left(case)
        )

    def _slots_left(self, case: Case) -> bool:
        ledger, view = case.view.ledger, case.view
        return ledger.of_policy < view.policy.max_concurrent and ledger.total < view.backend.max_concurrent

    def _finish(self, case: Case) -> None:
        ledger = case.view.ledger
        if case.volume.name == self._watch:
            self.met = ledger.copy()
        held = first_refusal(case, TURN_REFUSALS)
        moves = () if held is not None else slot(case).moves
        if moves:
            ledger.take(moves, case.size_bytes or 0, of_policy=True)
        self.taken.append(Turn(case, held, moves))


def as_met(case: Case, ledger: Ledger) -> Case:
    """Return the case as it stood before another ledger."""
    return structs.replace(case, view=replace(case.view, ledger=ledger))
