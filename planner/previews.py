"""
Previews in pages: a plan is made once, and what does not fit into one answer is kept for the next.

Each page planned anew would be of another moment: between two of them a reconcile may start what the first one showed.
So a plan is kept from page to page, for minutes and only a few at a time; a page of one that is gone is refused, and
whoever asks begins anew. Nothing rests on it, and another replica, or this one after a restart, refuses likewise.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from couchestor.planner.v1 import planner_pb2 as pb

from common.clock import Clock
from common.reasons import Reason
from common.rpc.errors import FailedPrecondition, InvalidArgument
from planner.core.plan import Decision, Outcome, Plan
from planner.messages import decision_to, summary_to

MAX_PAGE: Final = 5_000
PAGE_BYTES: Final = 8 * 2**20
"""Half of what one message may have; a decision is some 300 bytes, and its sentence may be a thousand."""
KEPT: Final = 2
"""Plans at a time; one of 100,000 volumes is some 100 MB."""
KEPT_SECONDS: Final = 300.0
_KEY_BITS: Final = 64


@dataclass(slots=True)
class _Kept:
    """One plan, and what was asked to get it."""

    question: bytes
    plan: Plan
    decisions: list[Decision]
    until: float
    """By the monotonic clock."""


class Previews:
    """The plans that are being paged through."""

    def __init__(self, *, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def first(self, request: pb.PreviewPlanRequest, plan: Plan) -> pb.PreviewPlanResponse:
        """Answer with the first page of a plan just made, and keep the rest. Raises InvalidArgument."""
        question, decisions = _question(request), listed(plan, moves_only=request.moves_only)
        kept = _Kept(question, plan, decisions, until=self._clock.monotonic() + KEPT_SECONDS)
        return self._page(f"{self._rng.getrandbits(_KEY_BITS):016x}", kept, 0, page_size(request))

    def next(self, request: pb.PreviewPlanRequest) -> pb.PreviewPlanResponse:
        """Answer with the page that a token asks for. Raises InvalidArgument and FailedPrecondition."""
        size, (key, begin) = page_size(request), _read_token(request.page_token)
        self._forget_old()
        kept = self._kept.get(key)
        if kept is None:
            raise FailedPrecondition(
                Reason.PLAN_EXPIRED, "the plan that this page is of is not kept any more; ask anew without page_token"
            )
        if kept.question != _question(request):
            raise InvalidArgument("page_token", "it is of another request: all but the page must be asked as before")
        kept.until = self._clock.monotonic() + KEPT_SECONDS
        return self._page(key, kept, begin, size)

    def _page(self, key: str, kept: _Kept, begin: int, size: int) -> pb.PreviewPlanResponse:
        answer = pb.PreviewPlanResponse(plan=summary_to(kept.plan))
        room, end = PAGE_BYTES, begin
        for decision in kept.decisions[begin : begin + size]:
            message = decision_to(decision)
            room -= message.ByteSize()
            if room < 0 and end > begin:
                break
            answer.plan.decisions.append(message)
            end += 1
        if end < len(kept.decisions):
            answer.next_page_token = _write_token(key, end)
            self._keep(key, kept)
        return answer

    def _keep(self, key: str, kept: _Kept) -> None:
        self._forget_old()
        self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        for key in [key for key, kept in self._kept.items() if kept.until <= now]:
            del self._kept[key]


def listed(plan: Plan, *, moves_only: bool) -> list[Decision]:
    """List decisions as a preview has them: first what moves or would, in its order, then what stays, by name."""
    moving = {decision.volume: decision for decision in plan.decisions if decision.outcome is not Outcome.STAY}
    ordered = [moving[name] for name in plan.order if name in moving]
    if moves_only:
        return ordered
    return ordered + [decision for decision in plan.decisions if decision.outcome is Outcome.STAY]


def page_size(request: pb.PreviewPlanRequest) -> int:
    """Read the size of a page. Raises InvalidArgument."""
    if not 0 <= request.page_size <= MAX_PAGE:
        raise InvalidArgument("page_size", f"{request.page_size} is not between 0 and {MAX_PAGE}")
    return request.page_size or MAX_PAGE


def _question(request: pb.PreviewPlanRequest) -> bytes:
    """What is asked, whatever the page."""
    asked = pb.PreviewPlanRequest()
    asked.CopyFrom(request)
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    return asked.SerializeToString(deterministic=True)


def _write_token(key: str, begin: int) -> str:
    return base64.urlsafe_b64encode(f"{key}:{begin}".encode()).decode()


def _read_token(token: str) -> tuple[str, int]:
    try:
        text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    key, _, begin = text.partition(":")
    if not begin.isdigit():
        raise InvalidArgument("page_token", "it is not one that an answer gave")
    return key, int(begin)
